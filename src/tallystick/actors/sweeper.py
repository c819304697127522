"""The sweeper finds what is in flight too long, says so, and repairs what it can.

It measures ages, alerts on orders that should have moved on, resumes open orders that have no actor although no
timer or evidence will wake them (their actor was parked, or another engine recorded them and ended), and lets
old idempotency claims go. At start it resumes everything that a former engine left unfinished.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from tallystick.actors.metrics import Metrics
from tallystick.actors.settings import EngineSettings
from tallystick.engine.errors import StoreUnavailable
from tallystick.engine.events import AnyEvent, EngineRestarted
from tallystick.engine.order import State
from tallystick.engine.ports import Clock, Store
from tallystick.engine.retry import SECOND_US

log = structlog.get_logger("tallystick.sweeper")

# These move on by themselves within seconds; the other open states wait for a person, the outside or a timer.
_SELF_MOVING = (State.NOT_STARTED, State.EXECUTING, State.SUCCESS)
# A sweep resumes at most this many orders; the next sweep takes the next ones.
_RESUME_PAGE = 500
_PURGE_PAGE = 5_000
_STORE_RETRY_S = 0.5
# An order younger than this is on its way from the acceptance to its actor.
_GRACE_US = 5 * SECOND_US


class Sweeper:
    """Looks over all open orders now and then."""

    def __init__(
        self,
        store: Store,
        *,
        settings: EngineSettings,
        clock: Clock,
        metrics: Metrics,
        is_live: Callable[[str], bool],
        wake: Callable[[str, AnyEvent], Awaitable[None]],
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._is_live = is_live
        self._wake = wake
        self._alerted: set[str] = set()

    async def recover(self) -> None:
        """Resume every order that was left between two steps, by a former engine or by crashed order actors."""
        after, resumed = "", 0
        while True:
            try:
                page = await self._store.unfinished(after=after, limit=_RESUME_PAGE)
            except StoreUnavailable:
                await trio.sleep(_STORE_RETRY_S)
                continue
            if not page:
                break
            after = page[-1]
            for order_id in page:
                if not self._is_live(order_id):  # accepted since we started
                    await self._wake(order_id, EngineRestarted())
                    resumed += 1
        if resumed:
            log.info("recovered", orders=resumed)

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await self.sweep()
            await trio.sleep(self._settings.sweep_interval_s)

    async def sweep(self) -> None:
        """Look over everything once."""
        now = self._clock.now()
        await self._measure(now)
        await self._alert(now)
        # Live ones come first when they hang, so the page has room for all of them.
        page = _RESUME_PAGE + self._settings.live_orders_max
        stuck = await self._store.stuck(states=_SELF_MOVING, since_before=now - _GRACE_US, limit=page)
        for order in stuck:
            if not self._is_live(order.payment_order_id):
                await self._wake(order.payment_order_id, EngineRestarted())
        await self._store.purge_claims(before=now - self._settings.claim_lifetime_us, limit=_PURGE_PAGE)

    async def _measure(self, now: int) -> None:
        seen = {entry.state: entry for entry in await self._store.in_flight()}
        for state in State:
            entry = seen.get(state)
            self._metrics.in_flight.labels(state.value).set(entry.count if entry else 0)
            age_us = now - entry.oldest_since if entry else 0
            self._metrics.oldest_seconds.labels(state.value).set(max(0, age_us) / SECOND_US)

    async def _alert(self, now: int) -> None:
        """Alert once per order that has not moved on. UNKNOWN calls its person by the transition table."""
        overdue = await self._store.stuck(
            states=(*_SELF_MOVING, State.UNKNOWN), since_before=now - self._settings.overdue_us, limit=_RESUME_PAGE
        )
        for order in overdue:
            if order.payment_order_id not in self._alerted:
                self._metrics.overdue.labels(order.state.value).inc()
                log.warning(
                    "payment_in_flight_too_long",
                    payment_order_id=order.payment_order_id,
                    state=order.state.value,
                    for_s=(now - order.state_since) // SECOND_US,
                )
        self._alerted = {order.payment_order_id for order in overdue}
