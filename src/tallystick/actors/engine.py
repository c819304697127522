"""The running engine: its actors wired under one supervisor, and the door for whoever embeds or serves it.

root
├─ acceptance, transitions     batching writers
├─ ledger, wallet              the two books
├─ reader, viewer              read sleeping orders, and checkouts that are waited for, in batches
├─ orders                      one actor per live order (gateways call PSPs on their behalf)
├─ scheduler, sweeper
├─ relay:<receiver>            one per receiver of the outbox
└─ lease                       keeps our partitions ours
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import structlog
import trio

from tallystick.actors.books import Books
from tallystick.actors.gateway import Gateway
from tallystick.actors.mailbox import Delivery
from tallystick.actors.metrics import Metrics
from tallystick.actors.order_actor import Surroundings
from tallystick.actors.orders import Orders
from tallystick.actors.outbox import Relay
from tallystick.actors.scheduler import Scheduler
from tallystick.actors.settings import EngineSettings
from tallystick.actors.supervisor import Child, supervise
from tallystick.actors.sweeper import Sweeper
from tallystick.actors.writer import BatchWriter
from tallystick.engine.doors import PaymentEvent, Receipt
from tallystick.engine.errors import (
    CommitUnknown,
    ContentConflict,
    NotFoundError,
    Overloaded,
    PartitionsTaken,
    SetupError,
    StoreError,
    StoreUnavailable,
)
from tallystick.engine.events import AnyEvent, RetryRequested
from tallystick.engine.intake import admit
from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    IdempotencyClaim,
    PaymentAccepted,
    PaymentRefused,
    Transition,
    TransitionOutcome,
)
from tallystick.engine.order import Order
from tallystick.engine.ports import Clock, Entropy, Psp, Receiver, RiskCheck, Store
from tallystick.engine.records import Published
from tallystick.engine.retry import SECOND_US
from tallystick.engine.views import CheckoutView

log = structlog.get_logger("tallystick.engine")

I = TypeVar("I")  # noqa: E741  (items, as in writer.py)
O = TypeVar("O")  # noqa: E741  (outcomes, as in writer.py)

# A watcher of a checkout re-reads it this often even when nothing was announced: another engine may have moved it.
_WATCH_POLL_S = 2.0
# A database that takes longer than this for a row by its key is taken for one that does not answer.
_PATIENCE_S = 2.0


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of the outside that an engine is given."""

    store: Store
    psps: Sequence[Psp]
    risk: RiskCheck
    clock: Clock
    entropy: Entropy
    receivers: Sequence[Receiver] = ()
    delivery: Delivery | None = None


class Engine:
    """A running engine. Implements `engine.doors.Door`; made by `run_engine`."""

    def __init__(self, ports: Ports, settings: EngineSettings) -> None:
        self.store = ports.store
        self.clock = ports.clock
        self.metrics = Metrics()
        self.id = ports.entropy.token()[:12]
        self._ports = ports
        self._settings = settings
        self._draining = False
        self._lease_asked_at: float | None = None
        """Since when a renewal of the lease waits for its answer; seconds of trio's clock."""
        self._moves = 0
        self._watchers: dict[str, set[trio.Event]] = {}
        self._gateways = {
            psp.name: Gateway(psp, settings=settings.gateway, clock=ports.clock, metrics=self.metrics)
            for psp in ports.psps
        }
        self._default_psp = ports.psps[0].name
        self._relays = [
            Relay(ports.store, receiver, settings=settings, metrics=self.metrics) for receiver in ports.receivers
        ]
        self._acceptance = self._writer(
            "acceptance",
            ports.store.accept,
            capacity=settings.accept_queue_max,
            rows=lambda intent: len(intent.orders),
            on_written=self._start_accepted,
            on_settled=self._give_room_back,
            give_up_after_s=settings.accept_give_up_s,
        )
        self._transitions = self._writer(
            "transitions",
            ports.store.apply,
            key=lambda move: move.order.payment_order_id,
            on_written=self._moves_written,
        )
        self._books = Books(
            ports.store,
            settings=settings,
            metrics=self.metrics,
            delivery=ports.delivery,
            on_credited=self._nudge_relays,
        )
        self._viewer = self._writer(
            "viewer", ports.store.checkout_views, give_up_after_s=settings.accept_give_up_s
        )
        self._reader = self._writer("reader", ports.store.orders)
        self._writers: tuple[BatchWriter[Any, Any], ...] = (
            *(self._acceptance, self._transitions, self._reader, self._viewer),
            *(self._books.ledger, self._books.wallet),
        )
        self._orders = Orders(
            live_max=settings.live_orders_max,
            clock=ports.clock,
            metrics=self.metrics,
            reader=self._reader,
            on_rest=self._rested,
        )
        self._scheduler = Scheduler(
            ports.store, settings=settings, clock=ports.clock, is_live=self._orders.is_live, wake=self._orders.wake
        )
        self._sweeper = Sweeper(
            ports.store,
            settings=settings,
            clock=ports.clock,
            metrics=self.metrics,
            is_live=self._orders.is_live,
            wake=self._orders.wake,
        )

    def _writer(
        self,
        name: str,
        write: Callable[[Sequence[I]], Awaitable[list[O]]],
        *,
        capacity: int | None = None,
        key: Callable[[I], Hashable] | None = None,
        rows: Callable[[I], int] | None = None,
        on_written: Callable[[Sequence[I], Sequence[O]], None] | None = None,
        on_settled: Callable[[Sequence[I]], None] | None = None,
        give_up_after_s: float | None = None,
    ) -> BatchWriter[I, O]:
        return BatchWriter(
            name,
            write,
            metrics=self.metrics,
            capacity=capacity or self._settings.writer_queue_max,
            batch_max=self._settings.batch_rows_max,
            delivery=self._ports.delivery,
            key=key,
            rows=rows,
            on_written=on_written,
            on_settled=on_settled,
            give_up_after_s=give_up_after_s,
        )

    # --- the door --------------------------------------------------------------------------------------------

    async def submit(self, event: PaymentEvent, *, claim: IdempotencyClaim | None = None) -> Receipt:
        """Record a checkout durably and start carrying it out; see `Door.submit` for the errors."""
        intent = admit(event, now=self.clock.now(), claim=claim)
        count = len(intent.orders)
        if self._draining or not self._orders.reserve(count):
            self.metrics.accepted.labels("overloaded").inc()
            raise Overloaded(retry_after_s=1)
        try:
            reply = self._acceptance.ask_nowait(intent)
        except trio.WouldBlock:
            self._orders.release(count)
            self.metrics.accepted.labels("overloaded").inc()
            raise Overloaded(retry_after_s=1) from None
        # The room is given back when the batch is settled, even if the caller has left by then.
        outcome = await reply.wait()
        if isinstance(outcome, PaymentRefused):
            self.metrics.accepted.labels("conflict").inc()
            raise ContentConflict(outcome.field, outcome.detail)
        self.metrics.accepted.labels("new" if outcome.new else "repeated").inc()
        return Receipt(
            checkout_id=intent.checkout_id,
            payment_order_ids=tuple(sorted([order.payment_order_id for order in intent.orders])),
            accepted_at=outcome.at,
            new=outcome.new,
        )

    async def wait(self, checkout_id: str, *, timeout_s: float) -> CheckoutView:
        """Return the checkout once it is done, or as it is after `timeout_s` seconds. Raises NotFoundError."""
        deadline = trio.current_time() + timeout_s
        while True:
            news = trio.Event()
            self._watchers.setdefault(checkout_id, set()).add(news)
            try:
                view = await self._viewer.ask(checkout_id)
                if view is None:
                    raise NotFoundError("checkout_id", f"no checkout {checkout_id!r}")
                left_s = deadline - trio.current_time()
                if view.is_payment_done or left_s <= 0:
                    return view
                with trio.move_on_after(min(left_s, _WATCH_POLL_S)):
                    await news.wait()
            finally:
                watchers = self._watchers[checkout_id]
                watchers.discard(news)
                if not watchers:
                    del self._watchers[checkout_id]

    async def retry(self, payment_order_id: str, *, by: str, why: str) -> Order:
        """Begin one more attempt of a failed order. Raises NotFoundError, MoveRefused, Overloaded."""
        return await self.tell(payment_order_id, RetryRequested(by=by, why=why))

    async def tell(self, payment_order_id: str, event: AnyEvent) -> Order:
        """Bring an event to an order, and return the order as it is then. Raises NotFoundError, MoveRefused."""
        if self._draining:
            raise Overloaded(retry_after_s=1)
        return await self._orders.ask(payment_order_id, event)

    def not_ready_because(self) -> str | None:
        """Return why payments cannot be taken now, or None."""
        if self._draining:
            return "shutting down"
        for writer in self._writers:
            if writer.unavailable_since is not None:
                return "the database does not answer"
        if self._lease_asked_at is not None and trio.current_time() - self._lease_asked_at > _PATIENCE_S:
            return "the database does not answer"
        if len(self._orders) >= self._settings.live_orders_max:
            return "at capacity"
        return None

    def metrics_text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        for writer in self._writers:
            self.metrics.queue_depth.labels(writer.name).set(len(writer))
        return self.metrics.text()

    @property
    def live_orders(self) -> int:
        """How many orders have an actor now."""
        return len(self._orders)

    def queues(self) -> dict[str, int]:
        """Return how many messages wait now, by mailbox; those of all order actors are added up."""
        return {**{writer.name: len(writer) for writer in self._writers}, "orders": self._orders.waiting}

    # --- inside ----------------------------------------------------------------------------------------------

    def _start_accepted(self, intents: Sequence[AcceptPayment], outcomes: Sequence[AcceptOutcome]) -> None:
        """Right after the commit, and before anybody is answered: the caller may be gone by then."""
        for intent, outcome in zip(intents, outcomes, strict=True):
            # Recorded now; or, by its time, by a commit of ours whose answer was lost. Starting twice is harmless.
            if isinstance(outcome, PaymentAccepted) and (outcome.new or outcome.at == intent.at):
                self._orders.start(intent.orders)

    def _give_room_back(self, intents: Sequence[AcceptPayment]) -> None:
        self._orders.release(sum(len(intent.orders) for intent in intents))

    def _moves_written(self, moves: Sequence[Transition], _: Sequence[TransitionOutcome]) -> None:
        """Relays look only when something was published: most moves publish nothing, and a look is a query."""
        if any(isinstance(record, Published) for move in moves for record in move.records):
            self._nudge_relays()

    def _nudge_relays(self) -> None:
        for relay in self._relays:
            relay.nudge()

    def _moved(self, order: Order) -> None:
        if order.is_done:
            if order.wallet_updated:
                self.metrics.order_seconds.observe((self.clock.now() - order.created_at) / SECOND_US)
            for watcher in self._watchers.get(order.checkout_id, ()):
                watcher.set()

    def _rested(self, order: Order) -> None:
        self._scheduler.hint(order.wake_at)

    def _transition_id(self) -> str:
        self._moves += 1
        return f"{self.id}:{self._moves}"

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            clock=self.clock,
            entropy=self._ports.entropy,
            metrics=self.metrics,
            delivery=self._ports.delivery,
            transitions=self._transitions,
            books=self._books,
            gateways=self._gateways,
            route=lambda order: order.psp or self._default_psp,
            risk=self._ports.risk,
            spawn=self._orders.spawn,
            transition_id=self._transition_id,
            on_move=self._moved,
            mailbox_max=self._settings.order_mailbox_max,
        )

    def _children(self) -> list[Child]:
        around = self._surroundings()
        return [
            Child(name="acceptance", run=self._acceptance.run),
            Child(name="transitions", run=self._transitions.run),
            *(Child(name=name, run=run) for name, run in self._books.runs.items()),
            Child(name="reader", run=self._reader.run),
            Child(name="viewer", run=self._viewer.run),
            Child(name="orders", run=lambda: self._orders.run(around, recover=self._sweeper.recover)),
            Child(name="scheduler", run=self._scheduler.run),
            Child(name="sweeper", run=self._sweeper.run),
            *(Child(name=relay.name, run=relay.run) for relay in self._relays),
            Child(name="lease", run=self._keep_lease),
        ]

    async def _keep_lease(self) -> None:
        while True:
            await trio.sleep(self._settings.lease_ttl_us / SECOND_US / 3)
            # It is also how an idle engine notices that its database is away: `not_ready_because` looks here.
            self._lease_asked_at = self._lease_asked_at or trio.current_time()
            try:
                await self.store.renew_lease(now=self.clock.now(), ttl_us=self._settings.lease_ttl_us)
                self._lease_asked_at = None
            except (StoreUnavailable, CommitUnknown) as error:
                # A lease that ends while the database is away costs nothing: every write is fenced on its own.
                log.warning("lease_not_renewed", error=str(error))

    async def run(self) -> None:
        """Run all actors until cancelled. Raises what escalates."""
        await supervise(self._children(), clock=self.clock, metrics=self.metrics)

    async def started(self) -> None:
        """Return once order actors can be started."""
        await self._orders.started.wait()

    async def drain(self) -> None:
        """Stop taking, and wait within the bound until nothing is under way. Waiting orders stay in the store."""
        self._draining = True
        with trio.move_on_after(self._settings.drain_s):
            await self._orders.wait_until_idle()
            return
        log.warning("drain_bound_reached", live_orders=len(self._orders))


@asynccontextmanager
async def run_engine(
    ports: Ports, settings: EngineSettings | None = None, *, force_claim: bool = False
) -> AsyncIterator[Engine]:
    """Claim the partitions, run an engine for the body, drain at its end, and give the partitions back.

    An error that escalates cancels the body and leaves as an exception group. When the body fails, nothing is
    drained: the store remembers, as it would after a kill.
    Raises SetupError when another live engine holds the partitions, unless `force_claim` fences it off.
    """
    settings = settings or EngineSettings()
    engine = Engine(ports, settings)
    await _claim(engine, settings, force=force_claim)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, name="root")
        await engine.started()
        log.info("engine_up", engine=engine.id)
        yield engine
        await engine.drain()
        nursery.cancel_scope.cancel()
    with trio.move_on_after(2, shield=True):
        try:
            await ports.store.release_lease()
        except StoreError as error:
            log.warning("lease_not_released", error=str(error))


async def _claim(engine: Engine, settings: EngineSettings, *, force: bool) -> None:
    """Take the partitions; wait once for the lease of an engine that may have died."""
    for last in (False, True):
        now = engine.clock.now()
        try:
            await engine.store.claim_partitions(
                owner=engine.id, now=now, ttl_us=settings.lease_ttl_us, force=force
            )
        except PartitionsTaken as taken:
            if last:
                raise SetupError(f"{taken}; stop it first, or give this one a database of its own") from taken
            log.warning("waiting_for_partitions", owner=taken.owner)
            # A little past its end: a live owner renews at a third of the lease and will be seen to be alive.
            await trio.sleep(max(0, taken.retry_at_us - now) / SECOND_US + 0.1)
        else:
            return
