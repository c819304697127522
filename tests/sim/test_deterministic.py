"""One tape, one order of tasks: in any process, with any hash seed; and trio is left as it was found."""

import gc
import importlib
import inspect
import re
import subprocess
import sys

import pytest
import trio

from tallystick.engine.errors import SetupError
from tallystick.sim import deterministic
from tallystick.sim.clock import VirtualClock
from tallystick.sim.deterministic import SHUFFLER, SWITCH, TRIO_RUN, deterministic_trio
from tallystick.sim.tape import Tape
from tallystick.sim.trace import Trace, first_divergence


def run(tape: Tape) -> Trace:
    """Let forty tasks talk, time out together and cancel each other; return what happened in which order."""
    trace = Trace()
    clock = VirtualClock()

    async def task(number: int, send: trio.MemorySendChannel[int]) -> None:
        for turn in range(4):
            trace.append(clock.elapsed_us, f"task {number}", "turn", turn)
            await trio.sleep(1)
            await send.send(number)

    async def main() -> None:
        send, receive = trio.open_memory_channel[int](3)
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(task, number, send)
            for _ in range(140):
                trace.append(clock.elapsed_us, "main", "got", await receive.receive())
            nursery.cancel_scope.cancel()

    with deterministic_trio(tape.stream("schedule")):
        trio.run(main, clock=clock)
    return trace


def test_the_same_seed_gives_the_same_trace() -> None:
    assert len({run(Tape.generate(5)).digest() for _ in range(10)}) == 1


def test_seeds_differ_and_a_divergence_is_pointed_out() -> None:
    one, other = run(Tape.generate(5)), run(Tape.generate(6))
    divergence = first_divergence(one, other)
    assert divergence is not None
    assert divergence.left != divergence.right
    assert one.lines()[: divergence.number] == other.lines()[: divergence.number]
    assert first_divergence(one, run(Tape.generate(5))) is None


def test_a_replay_from_the_record_is_the_same_run() -> None:
    tape = Tape.generate(8)
    trace = run(tape)
    assert run(Tape.replay(tape.record())).digest() == trace.digest()


def test_an_empty_tape_runs_the_oldest_task_first() -> None:
    turns = [step.actor for step in run(Tape.replay({})).steps if step.kind == "turn"]
    assert turns[:40] == [f"task {number}" for number in range(40)]


def test_processes_and_hash_seeds_agree() -> None:
    # Goal: the strongest claim of the simulator. A set of tasks or of strings that is walked somewhere shows here.
    program = (
        "import sys; sys.path.insert(0, 'tests/sim')\n"
        "from test_deterministic import run\n"
        "from tallystick.sim.tape import Tape\n"
        "print(run(Tape.generate(5)).digest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("0", "1", "random")
    }
    assert digests == {run(Tape.generate(5)).digest()}


def test_trio_is_left_as_it_was_found() -> None:
    trio_run = importlib.import_module(TRIO_RUN)
    before = getattr(trio_run, SWITCH), getattr(trio_run, SHUFFLER), gc.isenabled()
    with deterministic_trio(Tape.generate(1).stream("schedule")):
        within = gc.isenabled()
    with pytest.raises(ZeroDivisionError), deterministic_trio(Tape.generate(1).stream("schedule")):
        1 / 0  # noqa: B018
    assert not within
    assert (getattr(trio_run, SWITCH), getattr(trio_run, SHUFFLER), gc.isenabled()) == before


def test_canary_the_private_names_of_trio_mean_what_we_think() -> None:
    """If this fails, a new trio schedules differently: read its `_run.py` before touching the simulator."""
    source = inspect.getsource(importlib.import_module(TRIO_RUN))
    assert source.count(SWITCH) == 4, (
        "defined, set by Hypothesis' plug-in (global and assignment), read in the loop"
    )
    assert "batch.sort(key=lambda t: t._counter)\n                _r.shuffle(batch)" in source
    assert set(re.findall(r"\b_r\.(\w+)", source)) == {"shuffle", "random", "uniform"}
    assert "timeout = runner.clock.deadline_to_sleep_time(deadline)" in source
    assert "task = batch.pop()" in source


def test_a_trio_without_these_names_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deterministic, "SWITCH", "_GONE")
    with pytest.raises(SetupError, match="_GONE"), deterministic_trio(Tape.generate(1).stream("schedule")):
        pass
