"""The orders supervisor: dynamic children, one for one, one per live order.

It starts an actor for a new order, hands messages to a live one, and wakes a sleeping one by reading it from the
store. A crashed order is read again and resumed after a back-off; past its limit it is parked, which means left
to the sweeper, while every other order goes on. Crashes of many orders at once are no longer about one order:
they escalate.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from tallystick.actors.mailbox import Reply
from tallystick.actors.metrics import Metrics
from tallystick.actors.order_actor import (
    AdapterFailed,
    Asked,
    OrderActor,
    OrderMessage,
    RiskCheckFailed,
    Surroundings,
)
from tallystick.actors.supervisor import NOT_SURVIVABLE, CrashCount, RestartLimit, RestartsExhausted
from tallystick.actors.writer import BatchWriter
from tallystick.engine.errors import NotFoundError, Overloaded, StoreError, traceback_of
from tallystick.engine.events import AnyEvent, EngineRestarted
from tallystick.engine.order import Order
from tallystick.engine.ports import Clock

log = structlog.get_logger("tallystick.orders")

# One order: three quick tries, then the sweeper's slow ones. All orders together: a hundred crashes within ten
# seconds is a broken engine or a broken database, not a broken order.
ONE_ORDER = RestartLimit(restarts_max=3, backoff_first_s=0.1)
ALL_ORDERS = RestartLimit(restarts_max=100, window_us=10_000_000)


class Orders:
    """All live order actors of an engine."""

    def __init__(
        self,
        *,
        live_max: int,
        clock: Clock,
        metrics: Metrics,
        reader: BatchWriter[str, Order | None],
        on_rest: Callable[[Order], None],
    ) -> None:
        """`on_rest` is told every order whose actor ends, as it stands then."""
        self.live_max = live_max
        self._clock = clock
        self._metrics = metrics
        self._reader = reader
        self._on_rest = on_rest
        self._around: Surroundings | None = None
        self._nursery: trio.Nursery | None = None
        self.started = trio.Event()
        self._live: dict[str, OrderActor | None] = {}
        """By order; None while the order is being read from the store."""
        self._early: dict[str, deque[OrderMessage]] = {}
        """Messages for orders that are being read."""
        self._reserved = 0
        self._room = trio.Event()
        self._crashes = CrashCount(ALL_ORDERS)

    def __len__(self) -> int:
        return len(self._live)

    def is_live(self, payment_order_id: str) -> bool:
        """Say whether an order has an actor now."""
        return payment_order_id in self._live

    @property
    def waiting(self) -> int:
        """How many messages wait for order actors now."""
        early = sum([len(messages) for messages in self._early.values()])
        return early + sum([len(actor.mailbox) for actor in self._live.values() if actor is not None])

    async def run(self, around: Surroundings, *, recover: Callable[[], Awaitable[None]] | None = None) -> None:
        """Be the parent of all order actors until cancelled; `recover` resumes what the last parent left.

        Raises what escalates.
        """
        async with trio.open_nursery() as nursery:
            self._around, self._nursery = around, nursery
            self.started.set()
            try:
                if recover is not None:
                    await recover()
                await trio.sleep_forever()
            finally:
                # Inside the nursery: once its last child has ended it takes no new one, and says so by raising.
                self._nursery = None

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        """Start a task that lives as long as the order actors do."""
        if self._nursery is not None:
            self._nursery.start_soon(run, name=name)

    # --- admission -------------------------------------------------------------------------------------------

    def reserve(self, count: int) -> bool:
        """Hold room for new orders; False when there is none. Every True is followed by `release(count)`."""
        if len(self._live) + self._reserved + count > self.live_max:
            return False
        self._reserved += count
        return True

    def release(self, count: int) -> None:
        """Give up what `reserve` held; the orders themselves count once started."""
        self._reserved -= count
        self._announce_room()

    def _announce_room(self) -> None:
        self._room.set()

    async def _wait_for_room(self) -> None:
        while len(self._live) + self._reserved >= self.live_max:
            await self._next_change()

    async def wait_until_idle(self) -> None:
        """Return once no order is live and none is on its way in."""
        while self._live or self._reserved:
            await self._next_change()

    async def _next_change(self) -> None:
        """Wait until an order's actor ends or a reservation is given up. All waiters share one event."""
        if self._room.is_set():
            self._room = trio.Event()
        await self._room.wait()

    # --- starting and waking ---------------------------------------------------------------------------------

    def start(self, orders: Sequence[Order]) -> None:
        """Give new orders, just committed, their actors."""
        for order in orders:
            if order.payment_order_id not in self._live:
                self._begin(order.payment_order_id, order, EngineRestarted())

    async def wake(self, payment_order_id: str, event: AnyEvent) -> None:
        """Wake an order with an event; waits for room. Does nothing for an order that is awake."""
        if payment_order_id in self._live:
            return
        await self._wait_for_room()
        if payment_order_id not in self._live:
            self._begin(payment_order_id, None, event)

    async def tell(self, payment_order_id: str, message: OrderMessage) -> None:
        """Hand a message to an order, live or asleep; waits while its mailbox is full."""
        while True:
            if payment_order_id in self._live:
                actor = self._live[payment_order_id]
                if actor is None:
                    self._early[payment_order_id].append(message)
                    return
                try:
                    await actor.mailbox.put(message)
                except trio.BrokenResourceError:
                    await trio.lowlevel.checkpoint()
                    continue  # it ended while we waited
                return
            await self._wait_for_room()
            if payment_order_id not in self._live:
                self._begin(payment_order_id, None, message)
                return

    async def ask(self, payment_order_id: str, event: AnyEvent) -> Order:
        """Hand an event to an order and return the order as it is afterwards.

        Raises NotFoundError, and MoveRefused where the order's state does not allow the event.
        """
        reply: Reply[Order] = Reply()
        await self.tell(payment_order_id, Asked(event, reply))
        return await reply.wait()

    def _begin(self, payment_order_id: str, order: Order | None, message: OrderMessage) -> None:
        if self._nursery is None or self._around is None:
            # Shutting down: the store remembers what happened; who waits for an answer is told to try again.
            _turn_away(message, payment_order_id, parked=True)
            return
        self._live[payment_order_id] = None
        self._early[payment_order_id] = deque((message,))
        self._metrics.live_orders.set(len(self._live))
        self._nursery.start_soon(self._live_through, payment_order_id, order, name="order")

    async def _live_through(self, payment_order_id: str, order: Order | None) -> None:
        """Run one order's actor, restarting it from the store when it crashes."""
        crashes = CrashCount(ONE_ORDER)
        try:
            while True:
                try:
                    order = await self._one_life(payment_order_id, order)
                    break
                except NOT_SURVIVABLE:
                    raise
                except Exception as error:  # noqa: BLE001  (a supervisor: reported and counted in _crashed)
                    wait_s = self._crashed(payment_order_id, crashes, error)
                if wait_s is None:
                    break
                await trio.sleep(wait_s)
                order = None
        finally:
            for message in self._early.pop(payment_order_id):
                _turn_away(message, payment_order_id, parked=crashes.count > 0)
            del self._live[payment_order_id]
            self._metrics.live_orders.set(len(self._live))
            self._announce_room()
        if order is not None:
            self._on_rest(order)

    async def _one_life(self, payment_order_id: str, order: Order | None) -> Order | None:
        if order is None:
            order = await self._reader.ask(payment_order_id)
            if order is None:
                return None
            # What was under way when the last actor ended comes first; then what we were woken for.
            self._early[payment_order_id].appendleft(EngineRestarted())
        if self._around is None:
            return None
        actor = OrderActor(order, self._around)
        early = self._early[payment_order_id]
        self._live[payment_order_id] = actor
        try:
            while early:
                await actor.run(early.popleft())
        finally:
            # No await between the actor's last look into its mailbox and this: nothing can slip in between.
            # After a crash, what the actor had not looked at yet waits for its successor.
            self._live[payment_order_id] = None
            early.extend(actor.mailbox.drain())
        return actor.order

    def _crashed(self, payment_order_id: str, crashes: CrashCount, error: Exception) -> float | None:
        now = self._clock.now()
        self._metrics.restarts.labels("order").inc()
        from_outside = isinstance(error, StoreError | RiskCheckFailed | AdapterFailed)
        wait_s = crashes.wait_s(now)
        log.error(
            "order_actor_crashed",
            payment_order_id=payment_order_id,
            restart_in_s=wait_s,
            error=repr(error),
            traceback=None if isinstance(error, StoreError) else traceback_of(error),
        )
        # What others break, for however many orders at once, is no sign that this engine is broken.
        if not from_outside and self._crashes.wait_s(now) is None:
            raise RestartsExhausted("order actors crash too often") from error
        return wait_s


def _turn_away(message: OrderMessage, payment_order_id: str, *, parked: bool) -> None:
    """Answer who waits on an order that does not exist, or whose actor crashed too often."""
    if not isinstance(message, Asked):
        return
    if parked:
        message.reply.fail(Overloaded(retry_after_s=10))
    else:
        message.reply.fail(NotFoundError("payment_order_id", f"no payment order {payment_order_id!r}"))
