"""Supervision: which children there are, what happens when one crashes, and when that is too often.

A child's crash is caught here (`Exception`, never `Cancelled`), reported, and the child started again after a
back-off. Past its limit, or on an error that is not survivable, the error escalates: it leaves `supervise`,
and at the root ends the process with a non-zero exit. A crash never becomes a payment result.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
import trio

from tallystick.actors.metrics import Metrics
from tallystick.engine.errors import CommitUnknown, Fenced, OurError, StoreUnavailable, traceback_of
from tallystick.engine.ports import Clock
from tallystick.engine.retry import SECOND_US

log = structlog.get_logger("tallystick.supervisor")

# Another engine owns our partitions: restarting anything here would only fail again.
NOT_SURVIVABLE: tuple[type[Exception], ...] = (Fenced,)


class RestartsExhausted(OurError):
    """A child crashed more often than its limit allows."""


class RestartLimit(msgspec.Struct, frozen=True, kw_only=True):
    """At most `restarts_max` restarts within `window_us`; the wait doubles from `backoff_first_s` on."""

    restarts_max: int = 10
    window_us: int = 60 * SECOND_US
    backoff_first_s: float = 0.05
    backoff_max_s: float = 5.0


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised child: runs until cancelled; returning early counts as a crash unless it is `temporary`."""

    name: str
    run: Callable[[], Awaitable[None]]
    limit: RestartLimit = RestartLimit()
    temporary: bool = False


# A database that is away is waited for without a limit; looked for at least this often.
_PATIENCE = RestartLimit(restarts_max=10, backoff_max_s=1.0)


class CrashCount:
    """Counts crashes within a window, and says how long to wait before the next start."""

    def __init__(self, limit: RestartLimit) -> None:
        self._limit = limit
        self._times: deque[int] = deque(maxlen=limit.restarts_max + 1)
        self.count = 0

    def wait_s(self, now: int) -> float | None:
        """Note a crash. Return the wait in seconds, or None when the limit is passed."""
        limit = self._limit
        self.count += 1
        self._times.append(now)
        recent = sum(1 for time in self._times if now - time < limit.window_us)
        if recent > limit.restarts_max:
            return None
        return min(limit.backoff_max_s, limit.backoff_first_s * float(2 ** min(recent - 1, 20)))


async def supervise(children: Sequence[Child], *, clock: Clock, metrics: Metrics) -> None:
    """Run children one-for-one until cancelled. Raises what escalates."""
    async with trio.open_nursery() as nursery:
        for child in children:
            nursery.start_soon(_keep_running, child, clock, metrics, name=child.name)


async def _keep_running(child: Child, clock: Clock, metrics: Metrics) -> None:
    crashes, waits = CrashCount(child.limit), CrashCount(_PATIENCE)
    while True:
        try:
            await child.run()
            if child.temporary:
                return
            raise RestartsExhausted(f"{child.name} returned, and it should run for ever")  # noqa: TRY301  (a crash like any)
        except NOT_SURVIVABLE:
            raise
        except (StoreUnavailable, CommitUnknown) as error:
            # No crash: the database is away. However long that takes, nobody is to blame here.
            wait_s = waits.wait_s(clock.now())
            log.warning("actor_waits_for_store", actor=child.name, again_in_s=wait_s, error=str(error))
        except Exception as error:
            metrics.restarts.labels(child.name).inc()
            wait_s = crashes.wait_s(clock.now())
            log.error("actor_crashed", actor=child.name, restart_in_s=wait_s, traceback=traceback_of(error))
            if wait_s is None:
                raise RestartsExhausted(f"{child.name} crashed too often") from error
        await trio.sleep(wait_s or _PATIENCE.backoff_max_s)
