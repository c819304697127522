"""Make trio deterministic for the length of one run: the same choices give the same order of tasks.

trio has no public switch for it (trio issues 32 and 2675), so two private names are set and put back. A canary
test fails loudly when a new trio moves them. With the switch on, trio sorts its ready tasks by age and has `_r`
shuffle them; here the shuffling is a choice of the tape, so that a replay needs no `random.Random`.

Ties between deadlines and the sets of tasks inside trio decide only in which order tasks become ready within one
pass; the sort makes that order irrelevant. The garbage collector is off during a run, since a finaliser that runs
at an allocation count of its own choosing would be a second, hidden schedule.
"""

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from tallystick.engine.errors import SetupError
from tallystick.sim.tape import Stream

TRIO_RUN = "trio._core._run"
SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"
SHUFFLER = "_r"


class TapeShuffler:
    """Stands in for trio's random generator: it shuffles by the tape, and zero leaves the order as it is."""

    __slots__ = ("_schedule",)

    def __init__(self, schedule: Stream) -> None:
        self._schedule = schedule

    def shuffle(self, batch: list[object]) -> None:
        """Shuffle in place (Fisher-Yates). The oldest task runs first when every choice is zero."""
        # trio takes tasks from the end of the batch.
        if len(batch) > 1:
            batch.reverse()
            below = self._schedule.below
            for place in range(len(batch) - 1, 0, -1):
                other = place - below(place + 1)
                batch[place], batch[other] = batch[other], batch[place]


@contextmanager
def deterministic_trio(schedule: Stream) -> Iterator[None]:
    """Let the tape order trio's tasks until the block ends. Wrap `trio.run` in it; it must not be nested.

    Raises SetupError when this trio has no such names.
    """
    trio_run = importlib.import_module(TRIO_RUN)
    missing = [name for name in (SWITCH, SHUFFLER) if not hasattr(trio_run, name)]
    if missing:
        raise SetupError(
            f"this trio has no {', '.join(missing)} in {TRIO_RUN}: the simulator needs trio 0.32 to 0.35"
        )
    before = getattr(trio_run, SWITCH), getattr(trio_run, SHUFFLER)
    collecting = gc.isenabled()
    gc.disable()
    setattr(trio_run, SWITCH, True)
    setattr(trio_run, SHUFFLER, TapeShuffler(schedule))
    try:
        yield
    finally:
        setattr(trio_run, SWITCH, before[0])
        setattr(trio_run, SHUFFLER, before[1])
        if collecting:
            gc.enable()
