"""One PostgreSQL server process on a data folder: make the folder, start, wait, stop, find one left behind."""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from pathlib import Path

import msgspec
import trio

from tallystick.engine.errors import SetupError
from tallystick.storage.binaries import Account, Binaries, clean_environment

START_TIMEOUT_S = 120.0
"""Recovery after a crash replays at most max_wal_size; on a slow disk that takes a while."""
STOP_TIMEOUT_S = 30.0
POLL_S = 0.01
ADOPTED_POLL_S = 0.1
SOCKET_PATH_BYTES_MAX = 107
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PREFIX = "tallystick-"
DATABASE_USER = "tallystick"
LOG_BYTES_MAX = 10_000_000

# Durable first: what is acknowledged is on the disk. Then room for bursts: fewer, longer checkpoints.
_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "max_connections": "50",
    "client_connection_check_interval": "1s",  # a session whose client was killed gives up its locks
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "jit": "off",
    "autovacuum_naptime": "15s",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_statement": "none",
    "log_min_error_statement": "panic",  # statements carry payments; they have no place in a log
    "cluster_name": "tallystick",
}


class Folder(msgspec.Struct, frozen=True):
    """A data folder, as we name it and as the server does (`given`), and what it logs to."""

    path: Path
    given: str
    log: Path
    descriptor: int | None
    """Open on `path` and passed on, when the server's user cannot reach the folder by its path."""


class Running(msgspec.Struct, frozen=True):
    """What postmaster.pid says."""

    pid: int
    socket_folder: str
    ready: bool


class Server:
    """A running server: our child, or one that a killed owner left behind and we adopted."""

    def __init__(self, pid: int, socket_folder: str, process: trio.Process | None) -> None:
        self.pid = pid
        self.socket_folder = socket_folder
        self._process = process

    async def wait(self) -> None:
        """Return when the server has ended."""
        if self._process is not None:
            await self._process.wait()
            return
        while is_alive(self.pid):  # noqa: ASYNC110  (nothing tells of the end of a process that is not our child)
            await trio.sleep(ADOPTED_POLL_S)

    async def stop(self) -> None:
        """Have the server end its sessions and write a checkpoint; after a while end it hard: recovery follows."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            with trio.move_on_after(STOP_TIMEOUT_S):
                await self.wait()
                return


def is_alive(pid: int) -> bool:
    """Say whether a process exists and has not ended (a zombie has)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):  # no pidfd here
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    try:
        return not select.select([descriptor], [], [], 0)[0]
    finally:
        os.close(descriptor)


def read_pid_file(folder: Path) -> Running | None:
    """Return what postmaster.pid says, or None when there is none or it is being written."""
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        return Running(pid=int(lines[0]), socket_folder=lines[4], ready=lines[7].strip() == "ready")
    except (OSError, ValueError, IndexError):
        return None


def works_in(pid: int, folder: Path) -> bool:
    """Say whether the process is a server on this folder: a server's working directory is its data folder."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return not Path("/proc/self").exists() and is_alive(pid)


async def make_folder(binaries: Binaries, account: Account, folder: Folder) -> None:
    """Run initdb in an empty folder. Raises SetupError."""
    command = [
        binaries.program("initdb"),
        "--pgdata",
        folder.given,
        "--username",
        DATABASE_USER,
        "--encoding=UTF8",
        "--locale=C",  # ids are compared byte by byte
        "--data-checksums",
        "--auth=reject",  # pg_hba.conf is written at each start
    ]
    done = await trio.run_process(
        command,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        cwd="/",
        env=clean_environment(),
        pass_fds=_descriptors(folder),
        **account.process_options(),
    )
    if done.returncode:
        raise SetupError(
            f"cannot make a database in {folder.path}: {_reason(done.stdout.decode(errors='replace'))}"
        )


def make_socket_folder(account: Account) -> str:
    """Make a new private folder with a short path; a socket's path has at most 107 bytes."""
    # A private folder is made in whichever is there.
    for parent in ("/tmp", tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", "")):  # noqa: S108
        if not Path(parent).is_dir() or len(os.fsencode(parent)) > SOCKET_PATH_BYTES_MAX - 40:
            continue
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir=parent)
            if account.switch:
                os.chown(folder, account.uid, account.gid)
            return folder
    raise SetupError("no folder with a short path can be written for the database's socket; /tmp would do")


def remove_socket_folder(folder: str) -> None:
    """Remove a socket folder of ours, with what a killed server left in it."""
    path = Path(folder)
    if not path.name.startswith(SOCKET_PREFIX):
        return
    with contextlib.suppress(OSError):
        for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
            (path / name).unlink(missing_ok=True)
        path.rmdir()


async def start(binaries: Binaries, account: Account, folder: Folder, socket_folder: str) -> Server:
    """Start a server and return when it takes connections. Raises SetupError with its last words."""
    settings = _SETTINGS | {"unix_socket_directories": socket_folder, "shared_buffers": _shared_buffers()}
    command = [binaries.program("postgres"), "-D", folder.given]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(log).st_size > LOG_BYTES_MAX:
            os.truncate(log, 0)
        said_before = os.fstat(log).st_size
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=clean_environment(),
            start_new_session=True,  # Ctrl-C at our terminal must not stop it before us
            pass_fds=_descriptors(folder),
            **account.process_options(),
        )
    finally:
        os.close(log)
    server = Server(process.pid, socket_folder, process)
    try:
        with trio.move_on_after(START_TIMEOUT_S):
            while process.poll() is None:
                if _is_ready(folder.path, process.pid):
                    return server
                await trio.sleep(POLL_S)
    except BaseException:
        with trio.CancelScope(shield=True):
            await server.stop()
        raise
    late = process.poll() is None
    with trio.CancelScope(shield=True):
        await server.stop()
    why = f"not ready after {START_TIMEOUT_S:.0f} s" if late else last_words(folder, said_before)
    raise SetupError(f"PostgreSQL does not start in {folder.path}: {why}")


def _is_ready(folder: Path, pid: int) -> bool:
    running = read_pid_file(folder)
    return running is not None and running.pid == pid and running.ready


def _descriptors(folder: Folder) -> tuple[int, ...]:
    return () if folder.descriptor is None else (folder.descriptor,)


def _shared_buffers() -> str:
    """Return an eighth of the memory, at most 256 MB: the rest is the page cache's."""
    try:
        memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (ValueError, OSError):
        memory_mb = 1024
    return f"{max(32, min(256, memory_mb // 8))}MB"


def last_words(folder: Folder, since: int) -> str:
    """Return the line of the log after byte `since` that says best why the server ended."""
    with contextlib.suppress(OSError), folder.log.open("rb") as log:
        log.seek(since)
        return _reason(log.read(100_000).decode(errors="replace"))
    return f"see {folder.log}"


def _reason(text: str) -> str:
    """Return the one line of a program's output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return "the disk is full; free some space"
    for mark in ("PANIC:", "FATAL:", "error:", "ERROR:"):
        for line in lines:
            if mark in line:
                return line[line.index(mark) + len(mark) :].strip()
    return lines[-1] if lines else "it said nothing"
