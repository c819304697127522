"""Stepping: a recorded run is the run itself, and goes back as it went forward; questions get true answers."""

import io
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgspec
import pytest
from rich.console import Console

from tallystick.cli.sim_step import RunChoice, run_step
from tallystick.engine.errors import CallerError
from tallystick.engine.order import Order
from tallystick.sim import scenario as stories
from tallystick.sim.clock import SECOND_US
from tallystick.sim.narrate import narrate
from tallystick.sim.options import RunOptions
from tallystick.sim.snapshots import Key, Row, View, natural, record
from tallystick.sim.step_inject import NothingToStrike, inject, without_strike
from tallystick.sim.step_source import Source, from_file, from_scenario, from_seed, run
from tallystick.sim.stepper import BadCommand, Stepper, _time, split_commands
from tallystick.sim.trace import Payload, Trace
from tallystick.sim.world import World

MUTANT = "no_key"
"""Every request gets a key of its own: what is doubled on the wire is charged twice."""


@pytest.fixture(scope="module")
def charged_twice() -> Source:
    """Return a run in which somebody is charged twice; which seed that is changes with the world."""
    for seed in range(100):
        options = RunOptions(seed=seed, mutant=MUTANT)
        if any(one.invariant == "no_double_charge" for one in World(options).run().verdicts):
            return from_seed(options)
    pytest.fail(f"no seed below 100 breaks no_double_charge without {MUTANT}")


def calm(seed: int = 5, orders: int = 3) -> Source:
    """Return a run in which nothing goes wrong."""
    return from_seed(RunOptions(seed=seed, orders=orders, faults=("none",)))


class Session:
    """A stepper with its output at hand."""

    def __init__(self, source: Source) -> None:
        self.out = io.StringIO()
        self.stepper = Stepper(source, Console(file=self.out, width=200))

    def do(self, *commands: str) -> str:
        """Carry out commands, and return what they printed."""
        self.out.seek(0)
        self.out.truncate()
        for command in commands:
            self.stepper.execute(command)
        return self.out.getvalue()

    @property
    def at(self) -> int:
        """The number of the present step."""
        return self.stepper.view.step


# --- the recording -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_recorded_run_is_the_same_as_an_unrecorded_one(seed: int) -> None:
    options = RunOptions(seed=seed)
    assert record(World(options)).result == World(options).run()


class _Copies(Trace):
    """Copies all orders whenever a step is noted: dear, and independent of the recorder."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.copies: list[dict[str, Order]] = []
        self._world = world
        for step in world.trace.steps:
            self.append(*step)
        world.trace = self

    def append(self, at_us: int, actor: str, kind: str, payload: Payload = None) -> int:
        self.copies.append(dict(self._world.tables.orders))
        return super().append(at_us, actor, kind, payload)


def test_a_view_shows_what_was_stored_at_each_step_in_either_direction() -> None:
    options = RunOptions(seed=4)
    world = World(options)
    copies = _Copies(world)
    world.run()
    recording = record(World(options))
    view = View(recording)
    there_and_back = [*range(len(recording)), *range(len(recording) - 1, -1, -1)]
    for number in there_and_back:
        view.seek(number)
        assert view.orders() == copies.copies[number], f"step {number}"


def test_wherever_one_comes_from_a_step_looks_the_same() -> None:
    recording = record(World(RunOptions(seed=2)))
    view, draw = View(recording), Random(7)
    seen: dict[int, dict[Key, Row]] = {}
    for _ in range(300):
        view.seek(draw.randrange(-1, len(recording)))
        rows = {
            Key(section, name): row
            for section in ("order", "payment", "queue", "account")
            for name, row in view.section(section).items()
        }
        assert seen.setdefault(view.step, rows) == rows


def test_at_the_end_a_view_shows_the_tables() -> None:
    recording = record(World(RunOptions(seed=1)))
    view = View(recording)
    view.seek(len(recording))
    tables = recording.tables
    assert view.orders() == tables.orders
    assert {name: view.get("account", name) for name in tables.accounts} == {
        name: (row.debits_minor, row.credits_minor) for name, row in tables.accounts.items()
    }
    payments = {one.psp_reference for site in recording.world.sites for one in site.model.state.payments.values()}
    assert {name.partition(" ")[2] for name in view.payments()} == payments


def test_back_takes_less_than_a_second_on_5000_steps() -> None:
    session = Session(from_seed(RunOptions(seed=3, orders=260)))
    assert len(session.stepper.recording) >= 5_000
    session.do("goto end")
    began = time.perf_counter()
    session.do("back", "back 3000")
    assert time.perf_counter() - began < 1.0
    assert session.at == len(session.stepper.recording) - 1 - 3_001


def test_names_sort_by_their_numbers() -> None:
    assert sorted(["order-10-1", "order-2-1", "order-2", "a"], key=natural) == [
        "a",
        "order-2",
        "order-2-1",
        "order-10-1",
    ]


# --- moving and looking ------------------------------------------------------------------------------------------


def test_next_back_goto_and_until_move_the_view() -> None:
    session = Session(calm())
    session.do("next", "next 3")
    assert session.at == 3
    session.do("back 2")
    assert session.at == 1
    session.do("back 5")
    assert session.at == -1
    session.do("goto 7", "until 15s")
    steps = session.stepper.recording.steps
    assert steps[session.at].at_us >= 15 * SECOND_US > steps[session.at - 1].at_us
    session.do("")  # repeats `until`: there is nothing before 15 s to go to any more
    assert session.at > 7


def test_run_stops_where_an_order_enters_a_state_and_run_back_finds_it_again() -> None:
    session = Session(calm())
    order_id = next(iter(session.stepper.recording.tables.orders))
    session.do(f"break state=EXECUTING,order={order_id}", "run")
    stop = session.at
    order = session.stepper.view.orders()[order_id]
    assert order.state.value == "EXECUTING"
    session.do("next 4", "run back")
    assert session.at == stop
    assert "1: state=EXECUTING" in session.do("breaks")
    session.do("delete 1", "run")
    assert session.at == len(session.stepper.recording) - 1


@pytest.mark.parametrize(
    "condition", ["event=Charged", "actor=ledger", "order=FIRST", "event=RiskAccepted actor=store"]
)
def test_each_kind_of_breakpoint_stops_somewhere(condition: str) -> None:
    session = Session(calm(seed=2, orders=8))
    first = next(iter(session.stepper.recording.tables.orders))
    session.do(f"break {condition.replace('FIRST', first)}", "run")
    assert -1 < session.at < len(session.stepper.recording) - 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("break state=GONE", "no state 'GONE'"),
        ("break colour=red", "no condition"),
        ("break", "say on what"),
        ("frobnicate", "no command 'frobnicate'"),
        ("next many", "no number of steps"),
        ("until teatime", "no time"),
        ("why order-77-1", "no order 'order-77-1'"),
        ("history order-1-1 shoe_size", "no field 'shoe_size'"),
        ("inject nonsense", "no fault class 'nonsense'"),
        ("inject tight_mailboxes", "holds for a whole run"),
        ("goto wrong", "nothing is wrong"),
        ("nearest", "this run passes"),
        ("delete 9", "no breakpoint 9"),
        ("save", "say to which file"),
    ],
)
def test_what_cannot_be_done_is_said(command: str, says: str) -> None:
    session = Session(calm())
    assert says in session.do(command)
    assert session.stepper.failed


def test_state_shows_belief_beside_truth_and_marks_what_changed() -> None:
    session = Session(calm(seed=2, orders=8))
    session.do("break event=Charged,actor=store", "run")
    shown = session.do("state")
    for title in ("what we believe", "what the PSPs know", "ledger", "wallets", "waiting for a person"):
        assert title in shown
    assert "charged" in shown
    assert "SUCCESS" in shown
    assert " *" in shown
    assert "state" in session.do("diff")


def test_history_lists_every_value_of_a_field() -> None:
    session = Session(calm())
    order_id = next(iter(session.stepper.recording.tables.orders))
    lines = session.do(f"history {order_id} state")
    entered = [
        entry.to_state.value
        for entry in session.stepper.recording.tables.log[order_id]
        if entry.to_state != entry.from_state
    ]
    for state in ("NOT_STARTED", *entered):
        assert state in lines


# --- why ---------------------------------------------------------------------------------------------------------


def test_why_tells_a_double_charge_from_the_click_to_the_second_charge(charged_twice: Source) -> None:
    session = Session(charged_twice)
    verdict = next(one for one in session.stepper.recording.result.verdicts if one.invariant == "no_double_charge")
    session.do(f"break invariant=no_double_charge,order={verdict.subject}", "run")
    told = session.do(f"why {verdict.subject}")
    led = [line for line in told.splitlines() if line.startswith("▸")]
    assert any("sends checkout" in line for line in led)
    assert any("takes" in line and verdict.subject in line for line in led)
    assert "charged TWICE" in told
    assert "no_double_charge" in told


def test_every_step_is_told_and_every_cause_comes_before(charged_twice: Source) -> None:
    stepper = Session(charged_twice).stepper
    assert all(one.text.strip() and one.lane for one in stepper.told)
    for number, causes in enumerate(stepper.causes.of):
        assert all(cause < number for cause in causes)
    lanes = {one.lane for one in stepper.told} | {"store", "alpha", "beta"}
    lanes |= {f"order:{order_id}" for order_id in stepper.recording.tables.orders}
    for arrow in stepper.causes.arrows:
        assert arrow.sender_lane in lanes
        assert arrow.to is None or arrow.to >= arrow.sender


def test_what_is_lost_on_the_wire_is_a_stub() -> None:
    session = Session(calm(seed=2, orders=8))
    session.do("inject request_lost")
    lost = [one for one in session.stepper.causes.arrows if one.lost and one.kind == "request"]
    assert len(lost) == 1
    steps = session.stepper.recording.steps
    assert any(step.kind == "request_lost" for step in steps)


# --- a fault by hand, and the nearest run that passes ----------------------------------------------------------


def test_an_injected_fault_changes_nothing_before_it_and_strikes_after_it() -> None:
    source = calm(seed=2, orders=8)
    before = run(source)
    at = next(number for number, step in enumerate(before.steps) if step.kind == "send")
    found = inject(source, before, at, "response_lost")
    after = run(found.source)
    assert after.steps[: at + 1] == before.steps[: at + 1]
    strikes = [number for number, step in enumerate(after.steps) if step.actor == "faults"]
    assert len(strikes) == 1
    assert strikes[0] > at
    assert after.steps[strikes[0]].kind == "response_lost"
    assert after.result.passed


def test_a_fault_is_injected_into_a_run_that_has_faults_already(charged_twice: Source) -> None:
    before = run(charged_twice)
    at = next(number for number, step in enumerate(before.steps) if step.kind == "send")
    found = inject(charged_twice, before, at, "commit_unknown_done", "apply")
    after = run(found.source)
    assert after.steps[: at + 1] == before.steps[: at + 1]
    new = after.steps[at + 1 :]
    assert any(step.kind == "commit_unknown_done" and step.payload == "apply" for step in new)


def test_a_crash_comes_at_the_moment_where_it_was_asked_for() -> None:
    session = Session(calm(seed=5, orders=4))
    session.do("break event=RiskAccepted", "run")
    at_us = session.stepper.recording.steps[session.at].at_us
    assert "up to here it is the same" in session.do("inject crash_any_time")
    crash = next(step for step in session.stepper.recording.steps if step.kind == "crash")
    assert crash.at_us == at_us + 1


def test_a_fault_without_an_occasion_is_refused() -> None:
    source = calm()
    recording = run(source)
    with pytest.raises(NothingToStrike, match="no occasion"):
        inject(source, recording, len(recording) - 1, "request_lost")


def test_without_its_fault_a_run_is_the_calm_one_again() -> None:
    source = calm(seed=2, orders=8)
    calm_run = run(source)
    injected = inject(source, calm_run, 0, "response_lost")
    recording = run(injected.source)
    strike = next(number for number, step in enumerate(recording.steps) if step.actor == "faults")
    less = without_strike(injected.source, recording, strike)
    assert less is not None
    assert run(less).steps == calm_run.steps
    assert without_strike(injected.source, recording, strike - 1) is None


def test_nearest_shows_where_the_failing_run_parts_from_the_passing_one(charged_twice: Source) -> None:
    session = Session(charged_twice)
    shown = session.do("diff pass")
    assert f"with the safeguard on that {MUTANT} switches off" in shown
    assert "this run" in shown
    assert 0 <= session.at < len(session.stepper.recording)


# --- files, scenarios, the command line --------------------------------------------------------------------------


def test_a_saved_run_is_replayed_with_what_was_injected(tmp_path: Path) -> None:
    session = Session(calm(seed=2, orders=8))
    session.do("goto 10", "inject response_lost", f"save {tmp_path}/case")
    again = run(from_file(tmp_path / "case.tally"))
    assert again.result.trace_digest == session.stepper.recording.result.trace_digest
    assert again.result.struck == {"response_lost": 1}


def test_a_scenario_is_stepped_through_and_can_be_made_worse() -> None:
    session = Session(from_scenario("response_lost"))
    session.stepper.greet()
    assert "every invariant held" in session.out.getvalue()
    told = session.do("why")
    assert "response_lost" in told
    (order_id,) = session.stepper.recording.tables.orders
    session.do("goto 5", f"inject request_lost {order_id}")
    assert any(step.kind == "request_lost" for step in session.stepper.recording.steps)


@pytest.mark.parametrize("name", stories.names())
def test_every_scenario_is_told_in_sentences(name: str) -> None:
    recording = run(from_scenario(name))
    for step, told in zip(recording.steps, narrate(recording), strict=True):
        assert told.text.endswith((".", "!")), (step, told)


def test_commands_are_split_by_lines_and_semicolons() -> None:
    assert list(split_commands("next; back 2\n\n state ;")) == ["next", "back 2", "state"]


@pytest.mark.parametrize(("text", "us"), [("12.5s", 12_500_000), ("3", 3_000_000), ("800ms", 800_000), ("7us", 7)])
def test_times_are_read_with_their_units(text: str, us: int) -> None:
    assert _time(text) == us


@pytest.mark.parametrize("text", ["", "soon", "infs", "1e400s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadCommand, match="no time"):
        _time(text)


def _choice(**named: object) -> RunChoice:
    given: dict[str, object] = {
        "file": None,
        "seed": None,
        "scenario": None,
        "mutant": None,
        "orders": 3,
        "faults": "all",
    }
    return msgspec.convert(given | named, RunChoice)


def test_commands_are_read_from_a_text_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_step(_choice(seed=5), commands="next 4; state; quit; nonsense") == 0
    assert "what the PSPs know" in capsys.readouterr().out
    script = tmp_path / "commands"
    script.write_text("next\n# a remark\nback\nwhy order-9-9\n", encoding="utf-8")
    assert run_step(_choice(seed=5), commands=str(script)) == 2
    assert "no order 'order-9-9'" in capsys.readouterr().out


@pytest.mark.parametrize("named", [{}, {"seed": 1, "scenario": "response_lost"}])
def test_exactly_one_run_is_named(named: dict[str, object]) -> None:
    with pytest.raises(CallerError, match="one of them"):
        run_step(_choice(**named), commands="next")


def test_the_command_works_without_a_terminal() -> None:
    command = [sys.executable, "-m", "tallystick", "sim", "step", "--scenario", "response_lost", "--commands", "-"]
    done = subprocess.run(
        command, input="goto end\nwhy\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "In truth" in done.stdout
    assert "\x1b[" not in done.stdout
