"""The outbox relay: every receiver gets every business event, at least once, in order per payment order.

One actor and one cursor per receiver, so that a slow or broken one delays only itself. The cursor moves after
the delivery; a crash in between repeats a page, and receivers dedupe by `event_id`.
"""

import structlog
import trio

from tallystick.actors.metrics import Metrics
from tallystick.actors.settings import EngineSettings
from tallystick.engine.ports import DeliveryFailed, Receiver, Store

log = structlog.get_logger("tallystick.outbox")

_BACKOFF_FIRST_S = 0.5


class Relay:
    """Brings the outbox to one receiver."""

    def __init__(self, store: Store, receiver: Receiver, *, settings: EngineSettings, metrics: Metrics) -> None:
        self.name = f"relay:{receiver.name}"
        self._store = store
        self._receiver = receiver
        self._settings = settings
        self._position = metrics.outbox_lag.labels(receiver.name)
        self._failures = metrics.delivery_failures.labels(receiver.name)
        self._news = trio.Event()

    def nudge(self) -> None:
        """Something was published."""
        self._news.set()

    async def run(self) -> None:
        """Deliver for ever."""
        position = await self._store.add_receiver(self._receiver.name)
        backoff_s = _BACKOFF_FIRST_S
        while True:
            self._news = trio.Event()
            events = await self._store.outbox_after(position=position, limit=self._settings.outbox_page)
            if not events:
                with trio.move_on_after(self._settings.outbox_poll_s):
                    await self._news.wait()
                continue
            try:
                await self._receiver.deliver(events)
            except DeliveryFailed as error:
                self._failures.inc()
                log.warning(
                    "delivery_failed", receiver=self._receiver.name, error=str(error), again_in_s=backoff_s
                )
                await trio.sleep(backoff_s)
                backoff_s = min(self._settings.delivery_backoff_max_s, backoff_s * 2)
                continue
            backoff_s = _BACKOFF_FIRST_S
            position = events[-1].position
            await self._store.advance_receiver(receiver=self._receiver.name, position=position)
            self._position.set(position)
