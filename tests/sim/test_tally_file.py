"""Goal: a failing run survives as one small file, and a file that is none of ours is refused in one clear line."""

from pathlib import Path

import msgspec
import pytest

from tallystick.sim import tally_file, tape
from tallystick.sim.options import RunOptions
from tallystick.sim.tally_file import TallyFile, TallyFileUnreadable, in_words, money_of
from tallystick.sim.verdict import Verdict


def a_file() -> TallyFile:
    return TallyFile(
        invariant="no_double_charge",
        money={"EUR": "12.30"},
        options=RunOptions(seed=7, skip=(1, 2), mutant="no_key"),
        tape=tape.encode({"schedule": [0, 3, 0], "network/order-1-1": [5]}),
        verdicts=(accused("order-1-1", 1230, "EUR"),),
        trace_digest="abc",
    )


def accused(subject: str, amount_minor: int, currency: str) -> Verdict:
    return Verdict(
        invariant="no_double_charge",
        subject=subject,
        detail="charged 2 times",
        amount_minor=amount_minor,
        currency=currency,
        step=3,
        at_us=5,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "case.tally"
    a_file().write(path)
    assert tally_file.read(path) == a_file()
    assert tally_file.read(path).record == {"schedule": [0, 3], "network/order-1-1": [5]}


def test_the_name_says_seed_mutant_and_invariant() -> None:
    assert a_file().name == "seed-7-no_key-no_double_charge.tally"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TallyFileUnreadable, match=r"gone\.tally cannot be read: No such file"):
        tally_file.read(tmp_path / "gone.tally")


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"{}", b"[1]", b'{"tally": 1, "version": "1"}'])
def test_anything_else_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.tally"
    path.write_bytes(text)
    with pytest.raises(TallyFileUnreadable, match=r"is no \.tally file"):
        tally_file.read(path)


def test_a_damaged_tape_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.tally"
    msgspec.structs.replace(a_file(), tape=a_file().tape[:-3]).write(path)
    with pytest.raises(TallyFileUnreadable, match="the tape cannot be read"):
        tally_file.read(path)


def test_another_format_says_which_and_whose(tmp_path: Path) -> None:
    path = tmp_path / "x.tally"
    path.write_bytes(b'{"tally": 99, "version": "7.1", "surprise": true}')
    with pytest.raises(TallyFileUnreadable, match=r"format 99 \(Tallystick 7\.1\)"):
        tally_file.read(path)


def test_money_of_one_subject_counts_once_and_currencies_stay_apart() -> None:
    verdicts = [
        accused("order-1-1", 1230, "EUR"),
        accused("order-1-1", 1230, "EUR"),
        accused("order-2-1", 70, "EUR"),
        accused("order-3-1", 500, "JPY"),
        accused("checkout-9", 0, ""),
    ]
    assert money_of(verdicts) == {"EUR": "13.00", "JPY": "500"}
    assert in_words(money_of(verdicts)) == "13.00 EUR, 500 JPY"
    assert in_words({}) == "no money"
