"""The embedded PostgreSQL: a server of our own on a folder of our own, supervised by us.

One process owns the folder (a lock on a file beside it proves it). If an owner was killed, its server still
runs: the next owner adopts it. If the server dies while we run, it is started again. Nobody but the system user
that runs us can connect: the socket lies in a private folder, and the server asks the kernel who we are.
"""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
import trio

from tallystick.engine.errors import SetupError
from tallystick.storage import binaries as programs
from tallystick.storage import postgres_process as process
from tallystick.storage.binaries import Account, Binaries
from tallystick.storage.bridge import open_bridge
from tallystick.storage.postgres_process import Folder, Server

DATABASE = "tallystick"
FREE_BYTES_MIN = 100_000_000
"""A fresh database takes 40 MB, its first write-ahead log 32 MB."""
RESTARTS_MAX = 5
"""Restarts of a server that keeps dying before we give up; forgotten once it has run for STEADY_S."""
STEADY_S = 10.0
RESTART_BASE_S = 0.1

log = structlog.get_logger(__name__)


class EmbeddedServer:
    """The server that runs on our folder now; its address changes when it is started again."""

    def __init__(self, binaries: Binaries, account: Account, folder: Folder, server: Server) -> None:
        self._binaries = binaries
        self._account = account
        self._folder = folder
        self._server = server

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._server.pid

    @property
    def socket_folder(self) -> str:
        """The folder with the server's socket."""
        return self._server.socket_folder

    def url(self, database: str = DATABASE) -> str:
        """Return the address of a database on this server."""
        return url_of(self._server.socket_folder, database)

    async def keep_running(self) -> None:
        """Start the server again when it dies. Raises SetupError when it keeps dying."""
        restarts = 0
        while True:
            began = trio.current_time()
            await self._server.wait()
            if trio.current_time() - began > STEADY_S:
                restarts = 0
            restarts += 1
            if restarts > RESTARTS_MAX:
                raise SetupError(f"PostgreSQL died {restarts} times in a row; see {self._folder.log}")
            log.warning("postgres_died", pid=self._server.pid, restart=restarts)
            await trio.sleep(RESTART_BASE_S * 2 ** (restarts - 1))
            await self._start_again()

    async def _start_again(self) -> None:
        """Start on the same socket, so that the address stays."""
        try:
            self._server = await process.start(
                self._binaries, self._account, self._folder, self._server.socket_folder
            )
        except SetupError as error:
            # Its children may hold on to shared memory for a moment; the next round tries again.
            log.warning("postgres_does_not_start", reason=str(error))
        else:
            log.info("postgres_restarted", pid=self._server.pid)

    async def stop(self) -> None:
        """Shut the server down, and remove its socket folder."""
        await self._server.stop()
        process.remove_socket_folder(self._server.socket_folder)


def url_of(socket_folder: str, database: str = DATABASE) -> str:
    """Return the address of a database on the server that listens in a socket folder."""
    return f"postgresql://{process.DATABASE_USER}@/{database}?host={socket_folder}&port=5432"


def check_is_ours(data_dir: Path) -> None:
    """Raise SetupError when the folder belongs to another user, who alone gets at its database. Root may try."""
    if os.geteuid() == 0:
        return
    try:
        for path in (data_dir / "owner.lock", data_dir / "postgres"):
            if path.exists() and path.stat().st_uid != os.geteuid():
                raise _anothers(data_dir, path.stat().st_uid)
    except PermissionError as error:
        try:
            owner = data_dir.stat().st_uid
        except OSError:
            raise SetupError(f"cannot look into {data_dir}: {error.strerror}") from error
        raise _anothers(data_dir, owner) from error


def _anothers(data_dir: Path, uid: int) -> SetupError:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return SetupError(f"{data_dir} belongs to another user; run this as {name}")


def is_owned(data_dir: Path) -> bool:
    """Say whether a process is running a server on this folder now."""
    try:
        with _owned(data_dir):
            return False
    except SetupError:
        return True


@asynccontextmanager
async def open_embedded(data_dir: Path) -> AsyncIterator[EmbeddedServer]:
    """Run a PostgreSQL server on `data_dir`/postgres, made when there is none, while the context is open.

    Raises SetupError, one line that says what is wrong and what to do: another process owns the folder, the
    folder cannot be written or holds something else, the disk is full, no program fits.
    """
    data_dir = _made(data_dir)
    with _owned(data_dir):
        account = account_for(data_dir / "postgres")
        binaries = await trio.to_thread.run_sync(programs.find, account)
        await make_cluster(binaries, account, data_dir)
        with opened(data_dir / "postgres", account) as folder:
            embedded = await start_or_adopt(binaries, account, folder)
            try:
                await _make_database(embedded)
                async with _watched(embedded):
                    yield embedded
            finally:
                with trio.CancelScope(shield=True):
                    await embedded.stop()


@asynccontextmanager
async def _watched(embedded: EmbeddedServer) -> AsyncIterator[None]:
    """Keep the server running beside the body; either's error comes out as it is, not in a group of one."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(embedded.keep_running)
            yield
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


def _made(data_dir: Path) -> Path:
    try:
        if not data_dir.exists():
            data_dir.mkdir(parents=True)
            # As root, another user runs the server and must get through; nobody else needs to look in.
            data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
        free = shutil.disk_usage(data_dir).free
    except OSError as error:
        raise SetupError(f"cannot use {data_dir} as data folder: {error.strerror}") from error
    if free < FREE_BYTES_MIN:
        raise SetupError(f"the disk of {data_dir} is full: {free // 10**6} MB are free, 100 MB are needed")
    return data_dir.resolve()


@contextmanager
def _owned(data_dir: Path) -> Iterator[None]:
    """Hold the lock that proves that we alone run a server here; the system releases it when we die."""
    path = data_dir / "owner.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SetupError(f"cannot write in {data_dir}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise SetupError(
                f"process {owner} is using {data_dir}; stop it, or choose another data folder"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def account_for(folder: Path) -> Account:
    """Return who runs the server: ourselves; for root the folder's owner, or nobody for a new folder."""
    uid, gid = os.geteuid(), os.getegid()
    if folder.exists():
        owner = folder.stat()
        if uid not in (0, owner.st_uid):
            raise SetupError(f"{folder} belongs to user {owner.st_uid}; run as that user, or remove the folder")
        if uid == 0 and owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid, switch=True)
    if uid != 0:
        return Account(uid, gid, switch=False)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise SetupError("PostgreSQL does not run as root, and there is no user named nobody") from None
    return Account(nobody.pw_uid, nobody.pw_gid, switch=True)


def server_account() -> Account:
    """Return who would run the server of a new folder. Raises SetupError."""
    return account_for(Path("/nonexistent"))


async def make_cluster(binaries: Binaries, account: Account, data_dir: Path) -> None:
    """Make the server's folder unless it is there: under another name first, so that half of one never counts."""
    path, building = data_dir / "postgres", data_dir / "postgres.new"
    try:
        if path.exists() and any(path.iterdir()):
            _check_cluster(path, binaries)
            return
        if building.exists():
            await trio.to_thread.run_sync(shutil.rmtree, building)
        building.mkdir(mode=0o700)
        if account.switch:
            os.chown(building, account.uid, account.gid)
    except OSError as error:
        raise SetupError(f"cannot make {path}: {error.strerror}") from error
    with opened(building, account) as folder:
        await process.make_folder(binaries, account, folder)
    building.rename(path)


def _check_cluster(path: Path, binaries: Binaries) -> None:
    try:
        version = (path / "PG_VERSION").read_text().strip()
    except OSError:
        raise SetupError(
            f"{path} is not a PostgreSQL folder, or a damaged one; restore it or move it away"
        ) from None
    if version != str(binaries.major):
        raise SetupError(
            f"{path} was made by PostgreSQL {version}, and this is {binaries.major}; use --database-url"
        )


@contextmanager
def opened(path: Path, account: Account) -> Iterator[Folder]:
    """Name the server's folder so that its user gets there.

    A folder above that lets nobody through (a clone below /root) is not changed; the server then gets a
    descriptor of its folder from us, which needs no way to it. Linux alone can do that.
    """
    log_path = path.parent / "postgres.log"
    closed = _closed_ancestor(path, account)
    if closed is None:
        yield Folder(path=path, given=str(path), log=log_path, descriptor=None)
        return
    if not Path("/proc/self/fd").is_dir():
        raise SetupError(f"the database runs as user {account.uid}, who may not pass {closed}; use another folder")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Folder(path=path, given=f"/proc/self/fd/{descriptor}", log=log_path, descriptor=descriptor)
    finally:
        os.close(descriptor)


def _closed_ancestor(path: Path, account: Account) -> Path | None:
    """Return the folder above `path` that the account may not pass, by its mode."""
    if not account.switch:
        return None
    for parent in path.parents:
        info = parent.stat()
        bit = stat.S_IXOTH
        if info.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif info.st_gid == account.gid:
            bit = stat.S_IXGRP
        if not info.st_mode & bit:
            return parent
    return None


async def start_or_adopt(binaries: Binaries, account: Account, folder: Folder) -> EmbeddedServer:
    """Adopt the server that a killed owner left on the folder, or start one."""
    _write_access_rules(folder.path, account)
    left = process.read_pid_file(folder.path)
    if left is not None and process.works_in(left.pid, folder.path):
        server = process.Server(left.pid, left.socket_folder, None)
        if left.ready:
            os.kill(left.pid, signal.SIGHUP)  # it reads the rules anew
            log.info("postgres_adopted", pid=left.pid)
            return EmbeddedServer(binaries, account, folder, server)
        await server.stop()  # it is ending, or was starting when its owner died
    if left is not None:
        process.remove_socket_folder(left.socket_folder)
        with contextlib.suppress(FileNotFoundError):
            # Whoever has that process id now is not a server on this folder. A server that is would have been
            # found above, and the lock keeps others away.
            (folder.path / "postmaster.pid").unlink()
    socket_folder = process.make_socket_folder(account)
    try:
        server = await process.start(binaries, account, folder, socket_folder)
    except BaseException:
        process.remove_socket_folder(socket_folder)
        raise
    return EmbeddedServer(binaries, account, folder, server)


def _write_access_rules(folder: Path, account: Account) -> None:
    """Let in whom the kernel says to be us, through the socket, and nobody else."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise SetupError(f"user {os.geteuid()} has no name on this system; PostgreSQL needs one") from None
    rules = {
        "pg_hba.conf": "local all all peer map=tallystick\n",
        "pg_ident.conf": f'tallystick "{user}" {process.DATABASE_USER}\n',
    }
    for name, text in rules.items():
        try:
            # Made anew, never written through: the folder may belong to a lesser user than we are.
            (folder / name).unlink(missing_ok=True)
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  (a descriptor, not a path)
                file.write(text)
                if account.switch:
                    os.fchown(descriptor, account.uid, account.gid)
        except OSError as error:
            raise SetupError(f"cannot write {folder / name}: {error.strerror}") from error


async def _make_database(embedded: EmbeddedServer) -> None:
    """Create our database in a new cluster."""
    async with open_bridge(embedded.url("postgres"), connections_max=1) as bridge:
        query = "select 1 from pg_database where datname = $1"
        if await bridge.read(lambda connection: connection.fetchval(query, DATABASE)) is None:
            await bridge.read(lambda connection: connection.execute(f"create database {DATABASE}"))
