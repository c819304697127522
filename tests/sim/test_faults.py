"""The table of faults: every class strikes where it says, is bounded by what is allowed, and swarms by seed."""

import re
from pathlib import Path

import pytest

import tallystick.sim.faults
from tallystick.sim.faults import BY_NAME, TABLE, Faults, UnknownFault, named
from tallystick.sim.tape import Tape


def test_every_class_is_used_somewhere() -> None:
    # Goal: a row without a place where it strikes is a promise that nobody keeps.
    folder = Path(tallystick.sim.faults.__file__).parent
    source = "\n".join(path.read_text() for path in folder.glob("*.py") if path.name != "faults.py")
    used = set(re.findall(r'"([a-z0-9_]+)"', source))
    assert {fault.name for fault in TABLE} - used == set()


def test_names_are_unique_and_chances_are_chances() -> None:
    assert len(BY_NAME) == len(TABLE)
    assert all(0 < fault.ppm <= 1_000_000 for fault in TABLE)


def test_names_choose_and_unknown_ones_are_refused() -> None:
    assert named(["all"]) == BY_NAME.keys()
    assert named(["none"]) == frozenset()
    assert named(["psp_down", "response_lost"]) == {"psp_down", "response_lost"}
    with pytest.raises(UnknownFault, match="no fault class 'psp_dwon'"):
        named(["psp_dwon"])


def test_each_seed_has_its_own_half_of_the_classes() -> None:
    swarms = [Faults(Tape.generate(seed), allowed=named(["all"])).on for seed in range(60)]
    assert len(set(swarms)) == 60
    for name in BY_NAME:
        assert 10 < sum(name in swarm for swarm in swarms) < 50


def test_allowing_fewer_classes_does_not_move_the_others() -> None:
    everything = Faults(Tape.generate(4), allowed=named(["all"])).on
    fewer = Faults(Tape.generate(4), allowed=named(["all"]) - {"psp_down"}).on
    assert fewer == everything - {"psp_down"}


def test_strikes_are_counted_until_all_is_healed() -> None:
    faults = Faults(Tape.generate(1), allowed=named(["crash_any_time"]), swarm=False)
    strikes = [faults.strikes("crash_any_time", str(number)) for number in range(100)]
    assert 20 < sum(strikes) < 80
    assert faults.struck == {"crash_any_time": sum(strikes)}
    assert not faults.strikes("psp_down")
    faults.heal()
    assert not any(faults.strikes("crash_any_time", str(number)) for number in range(100))


def test_one_place_does_not_move_another() -> None:
    alone, beside = (Faults(Tape.generate(6), allowed=named(["all"]), swarm=False) for _ in range(2))
    for _ in range(10):
        beside.strikes("response_lost", "order-2")
    quiet = [alone.strikes("response_lost", "order-1") for _ in range(50)]
    assert quiet == [beside.strikes("response_lost", "order-1") for _ in range(50)]
