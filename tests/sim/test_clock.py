"""Virtual time: exact, shared by trio and the engine, never waiting in real time, and deadlocks seen at once."""

from functools import partial
from math import inf
from time import perf_counter

import pytest
import trio

from tallystick.sim.clock import EPOCH_US, SECOND_US, DeadlockDetected, Promise, VirtualClock, with_deadlocks_told


def test_a_month_passes_in_no_time_and_to_the_microsecond() -> None:
    clock = VirtualClock()

    async def main() -> None:
        for _ in range(365):
            await trio.sleep(8_640.1)

    began = perf_counter()
    trio.run(main, clock=clock)
    assert perf_counter() - began < 5
    assert clock.elapsed_us == 365 * 8_640_100_000
    assert clock.now() == EPOCH_US + clock.elapsed_us


def test_errands_and_deadlines_come_in_order_of_time() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, int]] = []

    def note(name: str) -> None:
        seen.append((name, clock.elapsed_us))

    async def sleeper(name: str, seconds: float) -> None:
        await trio.sleep(seconds)
        note(name)

    async def main() -> None:
        clock.call_after(2 * SECOND_US, partial(note, "errand 2"))
        clock.call_after(2 * SECOND_US, partial(note, "errand 2, asked later"))
        clock.call_after(3 * SECOND_US, partial(note, "never")).cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, "task 1", 1)
            nursery.start_soon(sleeper, "task 4", 4)
            await clock.sleep(3_000_001)
            note("exact")

    trio.run(main, clock=clock)
    assert seen == [
        ("task 1", SECOND_US),
        ("errand 2", 2 * SECOND_US),
        ("errand 2, asked later", 2 * SECOND_US),
        ("exact", 3_000_001),
        ("task 4", 4 * SECOND_US),
    ]


@pytest.mark.parametrize("start_s", [0.1, 1e-7, 3.3333333, 1e6 + 0.1])
def test_a_deadline_that_no_microsecond_hits_still_comes(start_s: float) -> None:
    # Goal: rounding must not leave trio a hair before its deadline, asking for ever.
    async def main() -> None:
        await trio.sleep(start_s)
        for _ in range(200):
            await trio.sleep(1 / 3)

    trio.run(main, clock=VirtualClock())


def test_a_deadlock_is_seen_at_once_and_unwinds_in_good_order() -> None:
    clock = VirtualClock()
    unwound: list[str] = []

    async def stuck(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            unwound.append(name)

    async def main() -> None:
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck, "one")
            nursery.start_soon(stuck, "two")

    began = perf_counter()
    with pytest.raises(DeadlockDetected, match="5000000 µs"):
        trio.run(with_deadlocks_told, clock, main, clock=clock)
    assert perf_counter() - began < 0.5
    assert clock.deadlocked
    assert sorted(unwound) == ["one", "two"]


def test_no_deadlock_no_word() -> None:
    async def main() -> str:
        await trio.sleep(5)
        return "fine"

    clock = VirtualClock()
    assert trio.run(with_deadlocks_told, clock, main, clock=clock) == "fine"


def test_time_stands_still_while_real_io_is_under_way() -> None:
    clock = VirtualClock()

    async def main() -> tuple[int, int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1000)
            with clock.held():
                await trio.to_thread.run_sync(partial(trio.from_thread.run_sync, int))
            before = clock.elapsed_us
            await trio.lowlevel.checkpoint()
        return before, clock.elapsed_us

    assert trio.run(main, clock=clock) == (0, 1000 * SECOND_US)


def test_idle_lets_everybody_else_go_first_and_no_time_pass() -> None:
    clock = VirtualClock()
    seen: list[str] = []

    async def busy() -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        seen.append("busy")

    async def patient(name: str) -> None:
        await clock.idle()
        seen.append(name)
        await trio.lowlevel.checkpoint()
        seen.append(name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
            nursery.start_soon(patient, "one")
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            nursery.start_soon(patient, "two")
            nursery.start_soon(busy)
            await trio.sleep(0.5)
            assert seen == ["busy", "one", "one", "two", "two"]

    trio.run(main, clock=clock)


def test_the_wall_may_jump_while_time_goes_on() -> None:
    clock = VirtualClock()
    clock.set_wall_offset(-3 * SECOND_US)
    assert clock.now() == EPOCH_US - 3 * SECOND_US
    assert clock.current_time() == 0
    assert clock.elapsed_us == 0


def test_promises_settle_once_fail_and_can_be_left() -> None:
    clock = VirtualClock()
    seen: list[str] = []

    async def main() -> None:
        early: Promise[int] = Promise()
        early.settle(1)
        early.settle(2)
        assert await early.wait() == 1

        late: Promise[int] = Promise()
        clock.call_after(5, lambda: late.settle(3))
        assert await late.wait() == 3

        broken: Promise[int] = Promise()
        clock.call_after(5, lambda: broken.fail(KeyError("x")))
        try:
            await broken.wait()
        except KeyError as error:
            seen.append(str(error))

        left: Promise[int] = Promise()
        clock.call_after(2 * SECOND_US, lambda: left.settle(4))
        with trio.move_on_after(1) as scope:
            await left.wait()
        seen.append(str(scope.cancelled_caught))
        await trio.sleep(2)

    trio.run(main, clock=clock)
    assert seen == ["'x'", "True"]


def test_the_end_of_time_is_not_a_time() -> None:
    clock = VirtualClock()
    clock.on_deadlock = lambda: None
    assert clock.deadline_to_sleep_time(inf) == 0
    assert clock.elapsed_us == 0
