"""A real PostgreSQL for tests: one embedded server per run, one fresh database per test.

Under pytest-xdist all workers share the server: a lock on a file decides who starts it, and whoever leaves last
stops it; a next run stops what a killed one left. A database is a copy of a migrated template.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
import trio

from tallystick.storage import binaries as programs
from tallystick.storage import embedded, migrating, postgres_process
from tallystick.storage.bridge import open_bridge
from tallystick.storage.postgres import PostgresStore, open_store_at

TEMPLATE = "template_tallystick"
PREFIX = "tallystick-tests-"
_numbers = count(1)


class PostgresForTests:
    """A running server, shared by all tests."""

    def __init__(self, socket_folder: str) -> None:
        self.socket_folder = socket_folder

    def url(self, database: str) -> str:
        """Return the address of a database on the server."""
        return f"postgresql://{postgres_process.DATABASE_USER}@/{database}?host={self.socket_folder}&port=5432"

    async def run(self, statement: str, *, database: str = "postgres") -> None:
        """Run one statement outside any transaction."""
        async with open_bridge(self.url(database), connections_max=1) as bridge:
            await bridge.read(lambda connection: connection.execute(statement))

    @asynccontextmanager
    async def fresh_database(self, template: str = TEMPLATE) -> AsyncIterator[str]:
        """Make a database for the body, a copy of `template`; yield its address."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        await self.run(f"create database {name} template {template}")
        try:
            yield self.url(name)
        finally:
            with trio.CancelScope(shield=True):
                await self.run(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[PostgresForTests]:
    """Return the server of this test run."""
    own = tmp_path_factory.getbasetemp()
    run = own if worker_id == "master" else own.parent
    root = _fast_folder()
    _clear_dead_runs(root)
    folder = root / f"{PREFIX}{os.geteuid()}-{sha256(os.fsencode(run)).hexdigest()[:12]}"
    with _joined(folder):
        known = folder / "server.json"
        with _locked(folder / "starting", fcntl.LOCK_EX):
            if not known.exists():
                known.write_text(json.dumps(trio.run(_start, folder)))
        yield PostgresForTests(json.loads(known.read_text())["socket_folder"])
    _clear_dead_runs(root)


@contextmanager
def _joined(folder: Path) -> Iterator[None]:
    """Be one of the run's processes, as the system tells by a lock that ends with us."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context((folder / "alive").open("a"))
                fcntl.flock(file, fcntl.LOCK_SH)
                same = os.fstat(file.fileno()).st_ino == (folder / "alive").stat().st_ino
            except FileNotFoundError:
                same = False
            if same:
                yield
                return
        # Who left last removed the folder while we came in: make it again.


def _fast_folder() -> Path:
    """Return a folder in memory where there is room: making and dropping a database touches 300 files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    return memory if roomy else Path(tempfile.gettempdir())


def _clear_dead_runs(root: Path) -> None:
    """End the servers of runs of which nobody is left: this one, when we are the last, and killed ones."""
    for folder in root.glob(f"{PREFIX}{os.geteuid()}-*"):
        dead = _locked(folder / "alive", fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(BlockingIOError, FileNotFoundError), dead:
            trio.run(_stop, folder)
            shutil.rmtree(folder)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield


# The server that this process started, if it did. Who leaves last stops it, which may be another process.
_started: list[embedded.EmbeddedServer] = []


async def _start(folder: Path) -> dict[str, str]:
    """Start a server that outlives this call, with a migrated template database on it."""
    account = embedded.account_for(folder / "postgres")
    found = programs.find(account)
    await embedded.make_cluster(found, account, folder)
    with embedded.opened(folder / "postgres", account) as opened:
        server = await embedded.start_or_adopt(found, account, opened)
    _started.append(server)
    postgres = PostgresForTests(server.socket_folder)
    await postgres.run("alter role current_user set synchronous_commit = off")  # nobody will miss these databases
    await postgres.run(f"create database {TEMPLATE}")
    async with open_bridge(postgres.url(TEMPLATE), connections_max=1) as bridge:
        await migrating.migrate(bridge, postgres.url(TEMPLATE))
    return {"socket_folder": server.socket_folder}


async def _stop(folder: Path) -> None:
    """End the server on a folder at once: what it holds is thrown away."""
    left = postgres_process.read_pid_file(folder / "postgres")
    if left is None or not postgres_process.works_in(left.pid, folder / "postgres"):
        return
    os.kill(left.pid, signal.SIGQUIT)
    ours = [server for server in _started if server.pid == left.pid]
    await (ours[0] if ours else postgres_process.Server(left.pid, left.socket_folder, None)).stop()
    postgres_process.remove_socket_folder(left.socket_folder)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Return an empty folder for a server of one's own, where making one is fast."""
    folder = Path(tempfile.mkdtemp(prefix="tallystick-data-", dir=_fast_folder()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def database_url(postgres: PostgresForTests) -> AsyncIterator[str]:
    """Return the address of a fresh, migrated database."""
    async with postgres.fresh_database() as url:
        yield url


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    """Return a store on a fresh database."""
    async with open_store_at(database_url) as opened:
        yield opened
