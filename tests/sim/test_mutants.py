"""Goal: the auditor notices every safeguard that goes missing; mutants leave nothing behind and never ship.

`mutant_seeds.json` holds a seed per mutant that was found by `tallystick sim mutants`. When the engine has changed
since, the next seeds are tried: `python tools/mutant_table.py` writes the file and docs/mutants.md again.
"""

import ast
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import tallystick
from tallystick.cli.sim_mutants import MutantArguments, run_mutants
from tallystick.engine.errors import SetupError
from tallystick.sim.faults import named
from tallystick.sim.mutants.catalogue import MUTANTS, UnknownMutant, find, switched_off
from tallystick.sim.mutants.power import measure, options_of, seek
from tallystick.sim.options import RunOptions
from tallystick.sim.verdict import INVARIANTS
from tallystick.sim.world import World

SEEDS = msgspec.json.decode((Path(__file__).parent / "mutant_seeds.json").read_bytes(), type=dict[str, int])
SOURCE = Path(tallystick.__file__).parent
SEARCH_MAX = 60
KILLABLE = [name for name, mutant in MUTANTS.items() if mutant.survives_because is None]
TOUGH = [name for name, mutant in MUTANTS.items() if mutant.survives_because is not None]


# --- their power -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KILLABLE)
def test_a_missing_safeguard_is_noticed_by_name(name: str) -> None:
    trial = seek(name, first_seed=SEEDS[name], seeds_max=SEARCH_MAX, orders=20)
    assert trial.killing_seed is not None, f"{name}: {MUTANTS[name].caught_by} held for {SEARCH_MAX} seeds"


@pytest.mark.parametrize("name", TOUGH)
def test_what_is_said_to_survive_does(name: str) -> None:
    # If one of these is killed some day, so much the better: then its reason goes.
    assert seek(name, first_seed=0, seeds_max=3, orders=20).first_broken is None


def test_there_is_a_seed_for_each_that_can_be_killed() -> None:
    assert sorted(SEEDS) == sorted(KILLABLE)
    assert len(KILLABLE) >= 30


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_says_what_it_is(name: str) -> None:
    mutant = MUTANTS[name]
    assert mutant.about.endswith(".")
    assert mutant.rule
    assert mutant.caught_by in INVARIANTS
    assert named(mutant.faults)


# --- they stay where they are ----------------------------------------------------------------------------------


def test_nothing_is_left_behind() -> None:
    options = RunOptions(seed=5, orders=10)
    before = World(options).run()
    for name in MUTANTS:
        with switched_off(name):
            pass
    assert World(options).run() == before


def test_a_mutant_is_off_again_after_an_error() -> None:
    options = RunOptions(seed=5, orders=10)
    before = World(options).run()
    for name in MUTANTS:
        with pytest.raises(RuntimeError, match="anything"), switched_off(name):
            raise RuntimeError("anything")
    assert World(options).run() == before


def test_a_mutated_run_repeats_itself() -> None:
    for name in ("lost_move_taken_as_done", "two_actors_for_one_order", "timers_in_memory"):
        options = options_of(MUTANTS[name], seed=3)
        assert World(options).run() == World(options).run()


def _imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_production_never_imports_mutants() -> None:
    # Of the simulator the world may, which is where a run switches one off; of the command line `sim mutants`.
    allowed = {"sim/world.py", "cli/sim_mutants.py", "cli/sim_run.py"}
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE).as_posix()
        if place not in allowed and not place.startswith("sim/mutants/"):
            assert not any("sim.mutants" in name for name in _imported(file)), place


def test_a_serving_process_holds_no_mutant() -> None:
    code = (
        "import sys, tallystick, tallystick.bootstrap, tallystick.cli.serve, tallystick.http.server\n"
        "sys.exit(any(name.startswith('tallystick.sim.mutants') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- measuring -------------------------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_how_many_processes_measure() -> None:
    names = ["no_key", "timer_fires_once"]
    alone = measure(names, trials=2, seeds_max=30, orders=10)
    assert measure(names, trials=2, seeds_max=30, orders=10, jobs=2) == alone
    assert [row.mutant for row in alone] == names
    assert all(row.killed == 2 and not row.survives for row in alone)


def test_a_search_that_finds_nothing_says_so() -> None:
    [row] = measure(["lock_order_dropped"], trials=1, seeds_max=2, orders=5)
    assert (row.killed, row.median_seeds, row.worst_seeds, row.survives) == (0, None, None, True)


def test_an_unknown_mutant_is_named() -> None:
    with pytest.raises(UnknownMutant, match="no mutant 'nobody'"):
        find("nobody")
    with pytest.raises(UnknownMutant), switched_off("nobody"):
        pass


def _arguments(**changes: object) -> MutantArguments:
    usual = MutantArguments(
        names="no_key,lock_order_dropped", trials=1, seeds_max=5, orders=10, first_seed=0, jobs=1, json=None
    )
    return msgspec.structs.replace(usual, **changes)


def test_the_command_writes_a_row_per_mutant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out" / "mutants.json"
    # A survivor that is explained is no failure.
    assert run_mutants(_arguments(json=file)) == 0
    report = msgspec.json.decode(file.read_bytes())
    assert [row["mutant"] for row in report["mutants"]] == ["no_key", "lock_order_dropped"]
    assert report["survivors"] == ["lock_order_dropped"]
    assert report["mutants"][0]["median_seeds"] <= 5
    told = capsys.readouterr().out
    assert "no_double_charge" in told
    assert "survives: lock_order_dropped: the memory store has no locks" in told


def test_an_unexplained_survivor_is_a_failure() -> None:
    assert run_mutants(_arguments(names="breaker_refusal_believed", seeds_max=1)) == 1


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"jobs": -1}, {"names": "nobody"}, {"first_seed": -1}])
def test_wrong_options_are_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(SetupError):
        run_mutants(_arguments(**wrong))
