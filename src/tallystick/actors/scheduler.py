"""The scheduler wakes what is due: retries, inquiries, expiries.

Due times live in the store, so memory follows what is active, not what waits. The scheduler looks when the
earliest known time comes: known from the store at its last look, or from an order that was put to sleep since.
"""

from collections.abc import Awaitable, Callable

import trio

from tallystick.actors.settings import EngineSettings
from tallystick.engine.events import AnyEvent, WakeTimeReached
from tallystick.engine.ports import Clock, Store
from tallystick.engine.retry import SECOND_US


class Scheduler:
    """Looks for due orders and wakes them."""

    def __init__(
        self,
        store: Store,
        *,
        settings: EngineSettings,
        clock: Clock,
        is_live: Callable[[str], bool],
        wake: Callable[[str, AnyEvent], Awaitable[None]],
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._is_live = is_live
        self._wake = wake
        self._next_at: int | None = None
        self._sooner = trio.Event()

    def hint(self, wake_at: int | None) -> None:
        """Note that an order went to sleep until `wake_at`."""
        if wake_at is not None and (self._next_at is None or wake_at < self._next_at):
            self._next_at = wake_at
            self._sooner.set()

    async def run(self) -> None:
        """Wake what is due, for ever."""
        while True:
            self._next_at = None
            due = await self._store.due(now=self._clock.now(), limit=self._settings.scheduler_page)
            asleep = [order_id for order_id in due if not self._is_live(order_id)]
            if due and not asleep and len(due) == self._settings.scheduler_page:
                # Live ones fill the page (calls that hang, say); behind them others may be due.
                page = self._settings.scheduler_page + self._settings.live_orders_max
                due = await self._store.due(now=self._clock.now(), limit=page)
                asleep = [order_id for order_id in due if not self._is_live(order_id)]
            for order_id in asleep:
                await self._wake(order_id, WakeTimeReached())
            # Due orders that are live move their own time on shortly; a full page means that more are due.
            if not due:
                self._note(await self._store.next_wake_at())
            await trio.sleep(self._settings.scheduler_gap_s)
            if not due:
                await self._sleep()

    def _note(self, wake_at: int | None) -> None:
        if wake_at is not None and (self._next_at is None or wake_at < self._next_at):
            self._next_at = wake_at

    async def _sleep(self) -> None:
        """Sleep until the earliest known time, a sooner hint, or the idle limit."""
        idle_until = trio.current_time() + self._settings.scheduler_idle_s
        while True:
            self._sooner = trio.Event()
            deadline = idle_until
            if self._next_at is not None:
                wait_s = (self._next_at - self._clock.now()) / SECOND_US
                deadline = min(idle_until, trio.current_time() + max(0.0, wait_s))
            with trio.move_on_at(deadline):
                await self._sooner.wait()
                continue
            return
