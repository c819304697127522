"""Goal: what is left of a failure is small, still breaks the same invariant, and is told in words."""

from itertools import count
from pathlib import Path
from statistics import median

import pytest

from tallystick.cli.sim_file import run_replay, run_shrink
from tallystick.sim import tally_file, tape
from tallystick.sim.campaign import as_tally_file
from tallystick.sim.options import RunOptions
from tallystick.sim.shrinker import NotReproduced, Shrinker
from tallystick.sim.tally_file import TallyFile
from tallystick.sim.tape import Tape
from tallystick.sim.world import World

# Safeguards whose loss shows within a few seeds, and shows in different ways.
_MUTANTS = (
    "no_key",
    "timeout_taken_as_decline",
    "failover_on_unknown",
    "unknown_given_up",
    "checkout_recorded_twice",
)


def failing(mutant: str) -> TallyFile:
    for seed in range(40):
        world = World(RunOptions(seed=seed, mutant=mutant))
        result = world.run()
        if not result.passed:
            return as_tally_file(world, result, store="memory")
    raise AssertionError(f"no seed fails with {mutant}")


def shrink(file: TallyFile, *, runs_max: int = 1_000) -> TallyFile:
    """Shrink by the number of runs and not by real time, so that a slow machine says the same."""
    shrinker: list[Shrinker] = []
    shrinker.append(
        Shrinker(file, elapsed_s=lambda: float(shrinker[0].runs if shrinker else 0), budget_s=float(runs_max))
    )
    return shrinker[0].shrink()


def test_the_smallest_case_breaks_the_same_invariant_when_it_is_replayed() -> None:
    small = shrink(failing("no_key"))
    assert small.shrunk is not None
    assert (small.shrunk.payments, small.shrunk.faults) <= (1, 1)
    result = World(small.options, Tape.replay(small.record)).run()
    assert "no_double_charge" in {verdict.invariant for verdict in result.verdicts}
    assert result.trace_digest == small.trace_digest


def test_shrinking_twice_gives_the_same_case() -> None:
    file = failing("unknown_given_up")
    assert shrink(file) == shrink(file)


def test_the_median_case_has_few_payments_and_few_faults() -> None:
    sizes = [shrunk for mutant in _MUTANTS if (shrunk := shrink(failing(mutant)).shrunk) is not None]
    assert median(size.payments for size in sizes) <= 2
    assert median(size.faults for size in sizes) <= 3


def test_time_that_is_over_gives_the_smallest_case_so_far() -> None:
    file = failing("no_key")
    seconds = count(0, 20)
    small = Shrinker(file, elapsed_s=lambda: float(next(seconds)), budget_s=100.0).shrink()
    assert small.shrunk is not None
    assert small.shrunk.runs < 10
    assert not World(small.options, Tape.replay(small.record)).run().passed


def test_a_run_that_does_not_fail_is_not_shrunk() -> None:
    world = World(RunOptions(seed=0, orders=2))
    world.run()
    clean = TallyFile(
        invariant="no_double_charge",
        money={},
        options=world.options,
        tape=tape.encode(world.record()),
        verdicts=(),
        trace_digest="",
    )
    with pytest.raises(NotReproduced, match="does not break no_double_charge"):
        Shrinker(clean, elapsed_s=lambda: 0.0)


def test_the_commands_tell_who_paid_what_struck_and_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, small = tmp_path / "case.tally", tmp_path / "small.tally"
    failing("no_key").write(path)
    run_shrink(path, out=small, budget_s=30.0)
    said = capsys.readouterr().out
    for words in ("1 payment,", "no_double_charge", "safeguard no_key", "payments", "faults", "what happens"):
        assert words in said
    assert tally_file.read(small).shrunk is not None
    assert run_replay(small) == 1
    assert "as it was recorded" in capsys.readouterr().out


def test_a_replay_that_passes_exits_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = failing("no_key")
    path = tmp_path / "fixed.tally"
    options = RunOptions(seed=file.options.seed)  # with the safeguard on again
    TallyFile(
        invariant=file.invariant,
        money=file.money,
        options=options,
        tape=file.tape,
        verdicts=file.verdicts,
        trace_digest=file.trace_digest,
    ).write(path)
    assert run_replay(path) == 0
    assert "every invariant held" in capsys.readouterr().out
