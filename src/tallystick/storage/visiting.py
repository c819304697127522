"""Opening the store for a look, beside an engine that may be running on it, or without one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tallystick.engine.errors import SetupError
from tallystick.storage import embedded
from tallystick.storage import postgres_process as process
from tallystick.storage.bridge import open_bridge
from tallystick.storage.postgres import PostgresStore, open_store


@asynccontextmanager
async def visit_store(*, database_url: str | None, data_dir: Path) -> AsyncIterator[PostgresStore]:
    """Open the store without claiming anything.

    On an embedded database this joins the server that a running engine owns, or runs one for as long as needed.
    Nothing is made: a data folder that does not exist is an error. Raises SetupError and StoreUnavailable.
    """
    if database_url is not None:
        async with open_bridge(database_url) as bridge:
            yield PostgresStore(bridge)
        return
    embedded.check_is_ours(data_dir)
    if not (data_dir / "postgres").exists():
        raise SetupError(f"there is no database in {data_dir}; name its folder with --data-dir")
    if not embedded.is_owned(data_dir):
        async with open_store(database_url=None, data_dir=data_dir) as store:
            yield store
        return
    running = process.read_pid_file(data_dir / "postgres")
    if running is None or not running.ready:
        raise SetupError(f"the database in {data_dir} is starting or stopping; try again in a moment")
    async with open_bridge(embedded.url_of(running.socket_folder)) as bridge:
        yield PostgresStore(bridge)
