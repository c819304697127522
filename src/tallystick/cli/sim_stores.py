"""What a simulated run keeps its rows in: memory, or a fresh database on a PostgreSQL that we start for it."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from structlog.testing import capture_logs

from tallystick.engine.errors import SetupError
from tallystick.sim.campaign import MakeWorld
from tallystick.sim.options import RunOptions
from tallystick.sim.real_store import RealWorld
from tallystick.sim.tape import Tape
from tallystick.sim.world import World
from tallystick.storage import binaries, embedded, migrating
from tallystick.storage.bridge import open_bridge
from tallystick.storage.embedded import EmbeddedServer, url_of
from tallystick.storage.postgres import PostgresStore
from tallystick.storage.postgres_process import DATABASE_USER

STORES = ("memory", "postgres")

_TEMPLATE = "template_tallystick"
_numbers = count(1)


@contextmanager
def worlds_on(store: str) -> Iterator[MakeWorld]:
    """Return what makes the world of a run; PostgreSQL's server lives as long as the block.

    Raises SetupError for a store that does not exist.
    """
    if store not in STORES:
        raise SetupError(f"--store must be {' or '.join(STORES)}, not {store!r}")
    if store == "memory":
        with _interruptible():
            yield World
        return
    with _interruptible(), TemporaryDirectory(prefix="tallystick-sim-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, another user runs the server, and must get through
        account = embedded.account_for(folder / "postgres")
        found = binaries.find(account)
        trio.run(embedded.make_cluster, found, account, folder)
        with embedded.opened(folder / "postgres", account) as opened:
            server = trio.run(embedded.start_or_adopt, found, account, opened)
            try:
                with capture_logs():  # that migrations have run is no news to whoever runs a campaign
                    trio.run(_prepare, server)
                yield PostgresWorlds(server.socket_folder)
            finally:
                trio.run(server.stop)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C out as what it is: within a run it comes wrapped in the groups of trio's nurseries."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise KeyboardInterrupt from group


async def _prepare(server: EmbeddedServer) -> None:
    """Make the template that every run's database is a copy of."""
    async with open_bridge(server.url("postgres"), connections_max=1) as bridge:
        await bridge.read(lambda connection: connection.execute(f"create database {_TEMPLATE}"))
        # Nothing here outlives the campaign, so no commit need wait for the disk.
        await bridge.read(
            lambda connection: connection.execute(f"alter role {DATABASE_USER} set synchronous_commit = off")
        )
    async with open_bridge(server.url(_TEMPLATE), connections_max=1) as bridge:
        await migrating.migrate(bridge, server.url(_TEMPLATE))


class PostgresWorlds:
    """Makes worlds over databases on one server; other processes may do so, too."""

    def __init__(self, socket_folder: str) -> None:
        self._socket_folder = socket_folder

    def __call__(self, options: RunOptions, tape: Tape | None) -> World:
        """Return the world of a run."""
        return RealWorld(options, tape, database=_FreshDatabase(self._socket_folder))


class _FreshDatabase:
    """A copy of the template, dropped afterwards."""

    def __init__(self, socket_folder: str) -> None:
        self._socket_folder = socket_folder

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Callable[[], PostgresStore]]:
        """Open it; see `sim.real_store.Database`."""
        name = f"run_{os.getpid()}_{next(_numbers)}"
        await self._run(f"create database {name} template {_TEMPLATE}")
        try:
            async with open_bridge(url_of(self._socket_folder, name)) as bridge:
                yield lambda: PostgresStore(bridge)
        finally:
            with trio.CancelScope(shield=True):
                await self._run(f"drop database {name} with (force)")

    async def _run(self, statement: str) -> None:
        async with open_bridge(url_of(self._socket_folder, "postgres"), connections_max=1) as bridge:
            await bridge.read(lambda connection: connection.execute(statement))
