"""What the simulated PSP has answered survives a crash: the journal replays, cuts a torn end, refuses damage."""

import os
from pathlib import Path

import pytest
import trio

from tallystick.engine.errors import SetupError
from tallystick.sim.psp.journal import JournalBroken, open_journal
from tallystick.sim.psp.model import PageAction, SimulatedPsp

NOW = 1_700_000_000_000_000


def charge(psp: SimulatedPsp, number: int, token: str = "tok_visa") -> None:
    psp.charge(
        key=f"k{number}",
        merchant_reference=f"o{number}",
        amount=100 + number,
        currency="EUR",
        token=token,
        now=NOW + number,
        draw=f"page-{number}",
    )


async def fill(path: Path) -> SimulatedPsp:
    """Write a journal with every kind of change, one flush per change."""
    psp = SimulatedPsp()
    with open_journal(path, psp) as journal:
        for number, token in enumerate(
            ["tok_visa", "tok_declined", "tok_pending_5s", "tok_3ds", "tok_429_once", "tok_visa"]
        ):
            charge(psp, number, token)
            await journal.flush()
        psp.act("page-3", PageAction.PAY, now=NOW + 10)
        psp.void(key="dead", merchant_reference="o9", now=NOW + 11)
        await journal.flush()
    return psp


def reopened(path: Path) -> SimulatedPsp:
    psp = SimulatedPsp()
    with open_journal(path, psp):
        return psp


async def test_a_restart_remembers_everything(tmp_path: Path) -> None:
    psp = await fill(tmp_path / "new folder" / "psp.jsonl")
    again = reopened(tmp_path / "new folder" / "psp.jsonl")
    # What comes due by itself comes due after the restart as well.
    psp.advance(NOW + 10**12)
    again.advance(NOW + 10**12)
    assert again.fingerprint() == psp.fingerprint()
    assert len(again.truth()) == 4


async def test_cut_anywhere_it_is_a_state_that_once_was(tmp_path: Path) -> None:
    """A crash may tear the last write at any byte: whole lines count, the rest never happened."""
    whole = tmp_path / "psp.jsonl"
    await fill(whole)
    content = whole.read_bytes()
    torn = tmp_path / "torn.jsonl"
    for length in range(len(content)):
        torn.write_bytes(content[:length])
        psp = reopened(torn)
        kept = torn.read_bytes()
        assert kept.endswith(b"\n")
        if b"\n" in content[:length]:
            assert kept == content[: content.rindex(b"\n", 0, length) + 1]
        # It can go on from there.
        with open_journal(torn, psp := SimulatedPsp()) as journal:
            charge(psp, 77)
            await journal.flush()
        assert any(capture.key == "k77" for capture in reopened(torn).truth())


async def test_a_tail_of_zeros_is_torn_too(tmp_path: Path) -> None:
    """After a power failure the file's length may be there before its bytes."""
    path = tmp_path / "psp.jsonl"
    await fill(path)
    content = path.read_bytes()
    path.write_bytes(content + bytes(100) + b"\n" + bytes(7))
    assert len(reopened(path).truth()) == 3
    assert path.read_bytes() == content


async def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "psp.jsonl"
    await fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[3:]]))
    with pytest.raises(SetupError, match="damaged at line 3"):
        reopened(path)
    assert path.read_bytes().count(b"\n") == len(lines)


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "psp.jsonl"
    with open_journal(path, SimulatedPsp(name="north")):
        pass
    with pytest.raises(SetupError, match="'north'"):
        reopened(path)
    with pytest.raises(SetupError, match="cannot keep its journal"):
        open_journal(tmp_path, SimulatedPsp())


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    with (
        open_journal(tmp_path / "psp.jsonl", SimulatedPsp()),
        pytest.raises(SetupError, match="another simulated PSP"),
    ):
        open_journal(tmp_path / "psp.jsonl", SimulatedPsp())


async def test_one_sync_serves_many_and_none_returns_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group commit: fewer syncs than changes, and what was appended before a flush is on disk after it."""
    path = tmp_path / "psp.jsonl"
    psp = SimulatedPsp()
    with open_journal(path, psp) as journal:

        async def one(number: int) -> None:
            charge(psp, number)
            await journal.flush()
            assert f'"k{number}"'.encode() in path.read_bytes()

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
        assert journal.syncs < 20


async def test_a_cancelled_flush_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "psp.jsonl"
    psp = SimulatedPsp()
    with open_journal(path, psp) as journal:
        charge(psp, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.flush()
        charge(psp, 2)
        await journal.flush()
        assert b'"k1"' in path.read_bytes()


async def test_after_a_failed_sync_nothing_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed fsync says nothing about what is on disk, so every later flush fails until a restart."""
    psp = SimulatedPsp()
    path = tmp_path / "psp.jsonl"
    with open_journal(path, psp) as journal:

        def fails(descriptor: int) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr("tallystick.sim.psp.journal._sync_file", fails)
        charge(psp, 1)
        with pytest.raises(JournalBroken):
            await journal.flush()
        monkeypatch.undo()
        with pytest.raises(JournalBroken):
            await journal.flush()
        assert journal.broken
