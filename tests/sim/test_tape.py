"""The tape makes every choice of a run: it must be repeatable for ever, independent by stream, and editable."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.sim.tape import Tape, TapeDamaged, canonical, decode, encode, families, without


def draws(tape: Tape) -> list[int]:
    stream = tape.stream("network/order-1")
    return [
        *(stream.below(1000) for _ in range(10)),
        *(int(stream.chance(300_000)) for _ in range(10)),
        *(stream.weighted((5, 3, 2)) for _ in range(5)),
        stream.between(7, 9),
        stream.pick((4, 5, 6)),
    ]


def test_a_seed_gives_these_choices_for_ever() -> None:
    # Goal: old `.tally` files that hold only a seed stay reproducible. If this fails, a release changed the world.
    stream = Tape.generate(42).stream("network/order-1")
    assert [stream.below(1000) for _ in range(12)] == EXPECTED


EXPECTED = [821, 799, 804, 761, 876, 16, 2, 391, 362, 563, 786, 689]


def test_another_process_with_another_hash_seed_chooses_the_same() -> None:
    program = (
        "from tallystick.sim.tape import Tape\n"
        "tape = Tape.generate(7)\n"
        "[tape.stream(name).below(99) for name in ('a', 'b', 'schedule') for _ in range(20)]\n"
        "print(tape.digest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1


def test_streams_do_not_move_each_other() -> None:
    quiet, busy = Tape.generate(3), Tape.generate(3)
    for _ in range(50):
        busy.stream("network/order-2").below(10)
    assert draws(quiet) == draws(busy)


def test_a_record_replays_what_was_generated() -> None:
    generated = Tape.generate(11)
    first = draws(generated)
    replayed = Tape.replay(decode(encode(generated.record())))
    assert draws(replayed) == first
    assert replayed.record() == generated.record()
    assert replayed.digest() == generated.digest()


def test_past_the_end_and_out_of_bounds_are_benign() -> None:
    stream = Tape.replay({"network": [999, -1, 5]}).stream("network")
    assert [stream.below(10) for _ in range(5)] == [0, 0, 5, 0, 0]
    assert not Tape.replay({}).stream("faults").chance(999_999)
    assert Tape.replay({}).stream("faults").weighted((1, 1)) == 0
    assert Tape.replay({"faults": [1]}).stream("faults").chance(1)


def test_an_impossible_fault_draws_nothing() -> None:
    stream = Tape.generate(1).stream("faults")
    assert not stream.chance(0)
    assert stream.choices == []


def test_an_edit_overrules_one_choice_and_leaves_its_neighbours() -> None:
    plain, edited = Tape.generate(5), Tape.generate(5, edits={"faults": {2: 1}})
    before = [plain.stream("faults").chance(0) or plain.stream("faults").below(50) for _ in range(6)]
    after = [edited.stream("faults").below(50) for _ in range(6)]
    assert after[2] == 1
    assert after[:2] + after[3:] == before[:2] + before[3:]


@given(
    st.dictionaries(st.text(alphabet="abc/1", max_size=5), st.lists(st.integers(0, 2**40), max_size=8), max_size=6)
)
def test_the_text_of_a_tape_reads_back(record: dict[str, list[int]]) -> None:
    assert decode(encode(record)) == canonical(record)


def test_a_damaged_tape_is_named_as_such() -> None:
    text = encode({"faults": [1, 2, 3]})
    for damaged in (text[:-4], "~~~", "", text.replace(text[5], "€")):
        with pytest.raises(TapeDamaged):
            decode(damaged)


def test_sizes_and_cuts_for_the_shrinker() -> None:
    record = {"faults/order-1": [0, 1, 1], "faults/order-2": [1], "schedule": [0, 0, 3]}
    assert families(record) == {"faults": 3, "schedule": 1}
    assert without(record, ["faults/order-1"]) == {"faults/order-2": [1], "schedule": [0, 0, 3]}


@given(st.integers(0, 2**64), st.integers(1, 2**63))
def test_choices_are_within_bounds(seed: int, bound: int) -> None:
    stream = Tape.generate(seed).stream("x")
    assert all(0 <= stream.below(bound) < bound for _ in range(9))


def test_chances_come_out_about_right() -> None:
    stream = Tape.generate(9).stream("x")
    assert 2_300 < sum(stream.chance(250_000) for _ in range(10_000)) < 2_700
    assert 1_700 < sum(stream.weighted((8, 2)) for _ in range(10_000)) < 2_300
