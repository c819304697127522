"""A real PostgreSQL for tests: one embedded server per run, one fresh database per test.

Under pytest-xdist all workers share the server: a lock on a file in the run's temporary folder decides who
starts it, and whoever leaves last stops it. A database is a copy of a migrated template, which takes some 30 ms.
"""

import fcntl
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import pytest
import trio

from tallystick.storage import binaries as programs
from tallystick.storage import embedded, migrating, postgres_process
from tallystick.storage.bridge import open_bridge
from tallystick.storage.postgres import PostgresStore, open_store_at

TEMPLATE = "template_tallystick"
_numbers = count(1)


class PostgresForTests:
    """A running server, shared by all tests."""

    def __init__(self, socket_folder: str) -> None:
        self._socket_folder = socket_folder

    def url(self, database: str) -> str:
        """Return the address of a database on the server."""
        return f"postgresql://{postgres_process.DATABASE_USER}@/{database}?host={self._socket_folder}&port=5432"

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
    shared = own if worker_id == "master" else own.parent
    folder = shared / "shared-postgres"
    folder.mkdir(exist_ok=True)
    users = folder / f"user-{os.getpid()}"
    with _locked(folder):
        users.touch()
        known = folder / "server.json"
        if not known.exists():
            known.write_text(json.dumps(trio.run(_start, folder)))
        server = json.loads(known.read_text())
    yield PostgresForTests(server["socket_folder"])
    with _locked(folder):
        users.unlink()
        if not list(folder.glob("user-*")):
            known.unlink()
            trio.run(_stop, server)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The server that this process started, if it did: the one who leaves last stops it, which may be another process.
_started: list[embedded.EmbeddedServer] = []


async def _start(folder: Path) -> dict[str, object]:
    """Start a server that outlives this call, with a migrated template database on it."""
    account = embedded.account_for(folder / "postgres")
    found = programs.find(account)
    await embedded.make_cluster(found, account, folder)
    with embedded.opened(folder / "postgres", account) as opened:
        server = await embedded.start_or_adopt(found, account, opened)
    _started.append(server)
    postgres = PostgresForTests(server.socket_folder)
    await postgres.run(f"create database {TEMPLATE}")
    async with open_bridge(postgres.url(TEMPLATE), connections_max=1) as bridge:
        await migrating.migrate(bridge, postgres.url(TEMPLATE))
    return {"pid": server.pid, "socket_folder": server.socket_folder}


async def _stop(server: dict[str, object]) -> None:
    if _started:
        await _started.pop().stop()
        return
    await postgres_process.Server(int(str(server["pid"])), str(server["socket_folder"]), None).stop()
    postgres_process.remove_socket_folder(str(server["socket_folder"]))


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
