"""Virtual time: one clock for trio and for the engine, in integer microseconds, that jumps when nobody can run.

trio asks its clock how long to sleep exactly when no task is runnable. That question is where time moves here:
to the next thing that is due, be it a deadline of trio or an errand of the simulator (`call_at`). An errand is a
plain function that runs between two passes of trio's loop: a packet that arrives, a commit that lands. Errands
belong to the outside world and survive a crash of the engine, as packets do.

When nothing is due and nothing can run, no event can ever come: a deadlock, known at once.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

import outcome
import trio

from tallystick.engine.errors import OurError

SECOND_US = 1_000_000

# 2026-01-01T00:00:00Z: a fixed start, so that a seed gives the same timestamps for ever.
EPOCH_US = 1_767_225_600 * SECOND_US

T = TypeVar("T")


class DeadlockDetected(OurError):
    """No task can run, nothing is due, and no real I/O is under way."""


class Errand:
    """A call that is due at some virtual time. `cancel` makes it a no-op."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the errand, if it has not run yet."""
        self.call = None


class VirtualClock(trio.abc.Clock):
    """Simulated time, for `trio.run(clock=...)` and as the engine's Clock port."""

    def __init__(self, *, epoch_us: int = EPOCH_US) -> None:
        self.elapsed_us = 0
        """Virtual time since the start of the run; never goes back."""
        self._elapsed_s = 0.0
        self._epoch_us = epoch_us
        self._offset_us = 0
        self._errands: list[tuple[int, int, Errand]] = []
        self._errand_count = 0
        self._idlers: deque[trio.lowlevel.Task] = deque()
        self._held = 0
        self._passes_without_end = 0
        self.on_deadlock: Callable[[], None] | None = None
        """Called at a deadlock instead of tearing trio down; it should cancel what waits."""
        self.deadlocked = False

    # --- the engine's Clock port -------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the wall clock: microseconds since the Unix epoch, as it was set."""
        return self._epoch_us + self.elapsed_us + self._offset_us

    def set_wall_offset(self, offset_us: int) -> None:
        """Set the wall clock this far off, as an operator or NTP does. Virtual time itself is not touched."""
        self._offset_us = offset_us

    # --- the simulator's side ----------------------------------------------------------------------------------

    def call_at(self, at_us: int, call: Callable[[], None]) -> Errand:
        """Have `call` run when virtual time reaches `at_us`; among equal times, in the order of asking.

        `call` must not raise and must not wait; it may settle promises and spawn tasks.
        """
        errand = Errand(call)
        self._errand_count += 1
        heappush(self._errands, (max(at_us, self.elapsed_us), self._errand_count, errand))
        return errand

    def call_after(self, delay_us: int, call: Callable[[], None]) -> Errand:
        """Have `call` run `delay_us` from now."""
        return self.call_at(self.elapsed_us + delay_us, call)

    async def sleep(self, delay_us: int) -> None:
        """Wait for a stretch of virtual time; exact to the microsecond, unlike sums of float seconds."""
        promise: Promise[None] = Promise()
        errand = self.call_after(delay_us, lambda: promise.settle(None))
        try:
            await promise.wait()
        finally:
            errand.cancel()

    async def idle(self) -> None:
        """Wait until no task can run, without letting time pass. Waiters are let go one by one, in order.

        With real I/O (`--store postgres`) this is what makes a run repeatable: whoever begins a real call does it
        when nobody else can move, and nobody can until it has returned.
        """
        task = trio.lowlevel.current_task()
        self._idlers.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idlers.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold virtual time while real I/O is under way: its answer comes in no virtual time at all."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    # --- trio's side -------------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Nothing to start: time moves when trio asks."""

    def current_time(self) -> float:
        """Return virtual seconds since the start of the run."""
        return self._elapsed_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Move time to what is due next. Called when no task can run; returns seconds to wait for real I/O."""
        if self._held:
            return inf
        if self._idlers:
            trio.lowlevel.reschedule(self._idlers.popleft())
            return 0.0
        errands = self._errands
        while errands and errands[0][2].call is None:
            heappop(errands)
        if errands and errands[0][0] <= deadline * SECOND_US:
            due_us, _, errand = heappop(errands)
            self._advance(due_us, due_us / SECOND_US)
            self._passes_without_end = 0
            if errand.call is not None:
                errand.call()
            return 0.0
        if deadline == inf:
            self._find_deadlock()
            return 0.0
        self._passes_without_end = 0
        # Rounded to the microsecond; kept at the deadline itself where rounding would fall short of it, or trio
        # would find that it has not come yet, and ask for ever.
        due_us = round(deadline * SECOND_US)
        self._advance(due_us, max(deadline, due_us / SECOND_US))
        return 0.0

    def _advance(self, to_us: int, to_s: float) -> None:
        self.elapsed_us = max(self.elapsed_us, to_us)
        self._elapsed_s = max(self._elapsed_s, to_s)

    def _find_deadlock(self) -> None:
        # One more pass, for what may have come in through trio's wake-up socket; then nothing can come any more.
        self._passes_without_end += 1
        if self._passes_without_end == 1:
            return
        self.deadlocked = True
        self._passes_without_end = 0
        if self.on_deadlock is None:
            raise DeadlockDetected(f"nothing can happen any more after {self.elapsed_us} µs of virtual time")
        on_deadlock, self.on_deadlock = self.on_deadlock, None
        on_deadlock()


class Promise(Generic[T]):
    """A value that comes later, for one task that waits for it. Lighter than an Event and a variable."""

    __slots__ = ("_outcome", "_task")

    def __init__(self) -> None:
        self._outcome: outcome.Outcome[T] | None = None
        self._task: trio.lowlevel.Task | None = None

    def settle(self, value: T) -> None:
        """Give the value. What comes second is dropped, as a duplicate answer is."""
        self._finish(outcome.Value(value))

    def fail(self, error: BaseException) -> None:
        """Raise in the one who waits, unless a value came first."""
        self._finish(outcome.Error(error))

    def _finish(self, result: "outcome.Outcome[T]") -> None:
        if self._outcome is not None:
            return
        self._outcome = result
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, result)
            self._task = None

    async def wait(self) -> T:
        """Return the value once it is there, or raise the error."""
        if self._outcome is not None:
            await trio.lowlevel.checkpoint()
            return self._outcome.unwrap()
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        value: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return value


async def with_deadlocks_told(clock: VirtualClock, main: Callable[[], Awaitable[T]]) -> T:
    """Run `main`; at a deadlock, cancel it and raise DeadlockDetected, so that everything unwinds in good order.

    What is shielded from cancellation and waits for ever brings trio itself down, with DeadlockDetected as cause.
    """
    with trio.CancelScope() as scope:
        clock.on_deadlock = scope.cancel
        return await main()
    raise DeadlockDetected(f"nothing can happen any more after {clock.elapsed_us} µs of virtual time")
