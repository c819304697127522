"""Goal: a campaign says the same however many processes run it, and nothing that went wrong is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.worlds import drifting

from tallystick.actors import order_actor
from tallystick.cli.sim_run import RunArguments, run_run
from tallystick.cli.sim_stores import worlds_on
from tallystick.engine.errors import SetupError
from tallystick.engine.events import EVENTS
from tallystick.engine.order import State
from tallystick.engine.transitions import TABLE, Contradict, Move, step
from tallystick.sim import faults, goals
from tallystick.sim.campaign import Campaign, Plan, run_campaign
from tallystick.sim.coverage import NO_FAULT, Coverage
from tallystick.sim.goals import GOALS, NEVER_MADE
from tallystick.sim.options import RunOptions
from tallystick.sim.world import World


def small(*, seeds: int, rerun: float = 0.0, mutant: str | None = None, first_seed: int = 0) -> Plan:
    return Plan(
        first_seed=first_seed, seeds=seeds, rerun=rerun, options=RunOptions(seed=0, orders=4, mutant=mutant)
    )


def summed_up(campaign: Campaign) -> tuple[object, ...]:
    return (
        campaign.trace_hash,
        campaign.seeds,
        campaign.orders,
        campaign.steps,
        campaign.virtual_us,
        campaign.coverage.triples,
        campaign.struck,
        campaign.failures,
    )


def test_the_result_does_not_depend_on_the_number_of_processes() -> None:
    plan = small(seeds=18, mutant="no_key")
    alone, together = run_campaign(plan), run_campaign(plan, jobs=2)
    assert alone.failures
    assert summed_up(alone) == summed_up(together)


def test_reruns_in_another_process_agree() -> None:
    campaign = run_campaign(small(seeds=6, rerun=1.0))
    assert campaign.reruns == 6
    assert campaign.diverged is None


def test_the_first_divergence_stops_the_campaign_and_shows_both_sides() -> None:
    campaign = run_campaign(small(seeds=400, rerun=1.0), make=drifting)
    assert campaign.seeds < 400
    diverged = campaign.diverged
    assert diverged is not None
    assert diverged.seed == 3
    assert diverged.first.trace_digest != diverged.second.trace_digest
    assert diverged.at is not None
    assert diverged.at.left is not None
    assert diverged.at.right is not None
    assert b"drift" in diverged.at.left
    assert diverged.at.left != diverged.at.right


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.05, 50), (0.5, 500), (1.0, 1000)])
def test_the_share_of_reruns_is_exact_and_spread(share: float, expected: int) -> None:
    plan = small(seeds=1000, rerun=share)
    chosen = [seed for seed in range(1000) if plan.is_rerun(seed)]
    assert len(chosen) == expected
    assert all(any(start <= seed < start + 100 for seed in chosen) for start in range(0, 1000, 100)) or not share


# --- coverage and goals ----------------------------------------------------------------------------------------


def test_coverage_names_the_fault_that_had_touched_the_order() -> None:
    coverage = Coverage()
    world = World(RunOptions(seed=1, faults=("psp_429",), swarm=False))
    with coverage.watching(world.trace):
        world.run()
    assert ("EXECUTING", "NotExecuted", "psp_429") in coverage.triples
    assert ("NOT_STARTED", "RiskAccepted", NO_FAULT) in coverage.triples
    assert {fault for _, _, fault in coverage.triples} == {"psp_429", NO_FAULT}
    assert order_actor.step is step  # type: ignore[attr-defined]  # as before, and as nobody else should import it


def test_goals_name_what_exists() -> None:
    events = {event.__name__ for event in EVENTS}
    for goal in GOALS:
        assert goal.state is None or goal.state in State.__members__, goal
        assert goal.event is None or goal.event in events, goal
        assert goal.fault is None or goal.fault in faults.BY_NAME, goal
    assert len({goal.name for goal in GOALS}) == len(GOALS)


def test_only_deciding_cells_are_excused_and_each_with_a_reason() -> None:
    deciding = {
        (state.value, event.__name__)
        for state, row in TABLE.items()
        for event, cell in row.items()
        if isinstance(cell, Move | Contradict)
    }
    assert NEVER_MADE.keys() <= deciding
    assert all(NEVER_MADE.values())


def test_a_goal_is_missed_only_by_a_campaign_that_is_large_and_free_enough() -> None:
    everything = frozenset(faults.BY_NAME)
    enough = max(goal.seeds_min for goal in GOALS)
    assert goals.missed([], {}, seeds=enough, allowed=everything) == list(GOALS)
    assert goals.missed([], {}, seeds=1, allowed=everything) == []
    assert goals.missed([], {}, seeds=enough, allowed=everything - {"psp_429"}) == []


# --- the command -----------------------------------------------------------------------------------------------


def arguments(folder: Path, **changes: Any) -> RunArguments:
    defaults: dict[str, Any] = {
        "seeds": 3,
        "first_seed": 0,
        "jobs": 1,
        "orders": 4,
        "faults": "all",
        "store": "memory",
        "mutant": None,
        "rerun": 0.0,
        "json": folder / "report.json",
        "out": folder / "tally",
        "require_goals": False,
    }
    return RunArguments(**(defaults | changes))


def test_a_clean_campaign_exits_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_run(arguments(tmp_path)) == 0
    assert "every invariant held" in capsys.readouterr().out
    assert not (tmp_path / "tally").exists()


def test_a_failing_campaign_writes_a_file_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_run(arguments(tmp_path, mutant="no_key", seeds=4)) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() >= {
        *("version", "seeds", "orders", "failures", "seeds_per_s", "orders_per_s", "virtual_s", "wall_s"),
        *("trace_hash", "coverage", "goals_missed"),
    }
    failure = report["failures"][0]
    assert failure.keys() >= {"seed", "invariant", "money", "file"}
    assert Path(failure["file"]).is_file()
    assert failure["file"] in capsys.readouterr().out.replace("\n", "")


def test_a_goal_that_was_missed_fails_where_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = goals.Goal(name="a pig that flies", state="FLYING", seeds_min=1)
    monkeypatch.setattr(goals, "GOALS", (unreachable,))
    assert run_run(arguments(tmp_path)) == 0
    assert run_run(arguments(tmp_path, require_goals=True)) == 1
    assert json.loads((tmp_path / "report.json").read_text())["goals_missed"] == ["a pig that flies"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 0}, "--seeds and --orders must be at least 1"),
        ({"orders": 0}, "--seeds and --orders must be at least 1"),
        ({"first_seed": -1}, "--from at least 0"),
        ({"jobs": -1}, "--jobs"),
        ({"rerun": 2.0}, "--rerun is a share"),
        ({"store": "sqlite"}, "--store must be memory or postgres, not 'sqlite'"),
        ({"faults": "rain"}, "--faults: no fault class 'rain'"),
        ({"mutant": "zombie"}, "--mutant: no mutant 'zombie'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError, match=words) as raised:
        run_run(arguments(tmp_path, **changes))
    assert "\n" not in str(raised.value)


def test_ctrl_c_leaves_as_what_it_is() -> None:
    """Within a run it comes wrapped in the groups of nurseries; the command line ends with 130 only for itself."""
    with pytest.raises(KeyboardInterrupt), worlds_on("memory"):
        raise BaseExceptionGroup("nursery", [BaseExceptionGroup("nursery", [KeyboardInterrupt()])])
    with pytest.raises(BaseExceptionGroup), worlds_on("memory"):
        raise BaseExceptionGroup("nursery", [ValueError()])
