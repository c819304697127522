"""Mutants of actors: acknowledgements, writers, mailboxes, timers, the outbox."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import trio
from msgspec.structs import replace

from tallystick.actors.engine import Engine
from tallystick.actors.mailbox import Mailbox
from tallystick.actors.order_actor import OrderActor
from tallystick.actors.orders import Orders
from tallystick.actors.outbox import Relay
from tallystick.actors.scheduler import Scheduler
from tallystick.actors.sweeper import Sweeper
from tallystick.actors.writer import BatchWriter
from tallystick.engine.doors import PaymentEvent, Receipt
from tallystick.engine.errors import CommitUnknown, Overloaded
from tallystick.engine.events import AnyEvent, EngineRestarted
from tallystick.engine.intake import admit
from tallystick.engine.intents import (
    AcceptPayment,
    Applied,
    IdempotencyClaim,
    PaymentAccepted,
    Superseded,
    Transition,
)
from tallystick.engine.order import Order
from tallystick.engine.ports import DeliveryFailed, Receiver, Store
from tallystick.engine.records import Decision
from tallystick.engine.views import OutboxEvent
from tallystick.sim.mutants.frame import Mutant, mutant, replaced

# --- acknowledging ---------------------------------------------------------------------------------------------


def _receipt(intent: AcceptPayment, *, new: bool) -> Receipt:
    return Receipt(
        checkout_id=intent.checkout_id,
        payment_order_ids=tuple([order.payment_order_id for order in intent.orders]),
        accepted_at=intent.at,
        new=new,
    )


@mutant(
    rule="rule 8",
    caught_by="acknowledged_is_durable",
)
def acknowledged_before_commit() -> Iterator[None]:
    """A client is answered when its checkout is queued, not when it is recorded."""

    async def submit(self: Engine, event: PaymentEvent, *, claim: IdempotencyClaim | None = None) -> Receipt:
        intent = admit(event, now=self.clock.now(), claim=claim)
        try:
            self._acceptance.ask_nowait(intent)
        except trio.WouldBlock:
            raise Overloaded(retry_after_s=1) from None
        await trio.lowlevel.checkpoint()
        return _receipt(intent, new=True)

    with replaced(Engine, "submit", submit):
        yield


@mutant(
    rule="rule 8",
    caught_by="acknowledged_is_durable",
)
def dedupe_before_commit() -> Iterator[None]:
    """A repeated checkout is recognised by memory, before the first one is recorded."""
    original = Engine.submit
    seen: dict[tuple[str, bytes], Receipt] = {}

    async def submit(self: Engine, event: PaymentEvent, *, claim: IdempotencyClaim | None = None) -> Receipt:
        intent = admit(event, now=self.clock.now(), claim=claim)
        key = self.id, intent.content_hash
        if key in seen:
            await trio.lowlevel.checkpoint()
            return replace(seen[key], new=False)
        seen[key] = _receipt(intent, new=True)
        return await original(self, event, claim=claim)

    with replaced(Engine, "submit", submit):
        yield


# --- commits whose answer was lost -----------------------------------------------------------------------------


def _supposed(item: Any) -> Any:  # noqa: ANN401  (an intent, and its outcome)
    return PaymentAccepted(new=True, at=item.at) if isinstance(item, AcceptPayment) else Applied()


def _unknown_taken_as(writer: str, suppose: Callable[[Any], Any]) -> Iterator[None]:
    """Have a writer suppose an outcome where the commit got no answer."""
    original = BatchWriter._write_until_known

    async def write_until_known(self: BatchWriter[Any, Any], items: list[Any]) -> list[Any]:
        if self.name != writer:
            return await original(self, items)
        write = self._write

        async def hasty(batch: Sequence[Any]) -> list[Any]:
            try:
                return await write(batch)
            except CommitUnknown:
                return [suppose(item) for item in batch]

        self._write = hasty
        try:
            return await original(self, items)
        finally:
            self._write = write

    with replaced(BatchWriter, "_write_until_known", write_until_known):
        yield


@mutant(
    rule="rule 10",
    caught_by="recorded_before_sent",
)
def lost_move_taken_as_done() -> Iterator[None]:
    """A move whose commit got no answer is taken as committed."""
    yield from _unknown_taken_as("transitions", _supposed)


@mutant(
    rule="rule 10",
    caught_by="acknowledged_is_durable",
)
def lost_acceptance_taken_as_done() -> Iterator[None]:
    """A checkout whose commit got no answer is acknowledged."""
    yield from _unknown_taken_as("acceptance", _supposed)


@mutant(
    rule="rule 10",
    caught_by="legal_moves_only",
    survives_because="the version check refuses the second decision, and the order is read again",
)
def lost_move_taken_as_undone() -> Iterator[None]:
    """A move whose commit got no answer is taken as rolled back, and decided again."""
    original, as_it_was = OrderActor._intent, {}

    def intent(self: OrderActor, before: Order, event: AnyEvent, decision: Decision, now: int) -> Transition:
        made = original(self, before, event, decision, now)
        as_it_was[made.transition_id] = before
        return made

    def undone(item: Transition) -> Superseded:
        return Superseded(current=as_it_was[item.transition_id])

    with replaced(OrderActor, "_intent", intent):
        yield from _unknown_taken_as("transitions", undone)


# --- mailboxes, lives ------------------------------------------------------------------------------------------


@mutant(
    rule="DESIGN 7: nothing is dropped",
    caught_by="nothing_stuck",
)
def mailbox_drops_when_full() -> Iterator[None]:
    """A message that finds its mailbox full is dropped."""

    async def put(self: Mailbox[Any], message: Any) -> None:  # noqa: ANN401
        await trio.lowlevel.checkpoint()
        try:
            self.put_nowait(message)
        except trio.WouldBlock:
            return

    with replaced(Mailbox, "put", put):
        yield


@mutant(
    rule="rule 9",
    caught_by="nothing_stuck",
    survives_because="the sweeper resumes an order that no actor works on, and the version check refuses old news",
)
def actor_trusts_its_memory() -> Iterator[None]:
    """An order's actor that crashed goes on with the order as it remembers it, and asks nobody."""
    original = Orders._one_life
    remembered: dict[tuple[int, str], Order] = {}

    async def one_life(self: Orders, payment_order_id: str, order: Order | None) -> Order | None:
        key = id(self), payment_order_id
        try:
            return await original(self, payment_order_id, order or remembered.pop(key, None))
        except Exception:
            actor = self._live[payment_order_id]
            if actor is not None:
                remembered[key] = actor.order
            raise

    with replaced(Orders, "_one_life", one_life):
        yield


@mutant(
    rule="DESIGN 7: one actor per live order",
    caught_by="one_open_attempt",
    survives_because="the version check lets only one of the two commit, and only what is committed is sent",
)
def two_actors_for_one_order() -> Iterator[None]:
    """Every new order gets two actors."""
    original = Orders.start

    def start(self: Orders, orders: Sequence[Order]) -> None:
        original(self, orders)
        for order in orders:
            self.spawn(lambda order=order: second_life(self, order), "order")  # type: ignore[misc]

    async def second_life(self: Orders, order: Order) -> None:
        if self._around is None:
            return
        actor = OrderActor(order, self._around)
        try:
            await actor.run(EngineRestarted())
        except Exception:  # noqa: BLE001  (its crash is no concern of the orders' supervisor)
            actor.mailbox.drain()

    with replaced(Orders, "start", start):
        yield


@mutant(
    rule="DESIGN 7: the sweeper repairs",
    caught_by="nothing_stuck",
    survives_because=(
        "it is the net behind recovery and behind the acceptance, which start what a lost commit left; the world"
        " has not made a case in 250 seeds in which both miss an order"
    ),
)
def sweeper_resumes_nothing() -> Iterator[None]:
    """Nobody looks for orders that have no actor although nothing will wake them."""

    async def sweep(_: Sweeper) -> None:
        await trio.lowlevel.checkpoint()

    with replaced(Sweeper, "sweep", sweep):
        yield


# --- timers ----------------------------------------------------------------------------------------------------


@mutant(
    rule="DESIGN 7: the scheduler wakes what is due",
    caught_by="nothing_stuck",
)
def timer_fires_once() -> Iterator[None]:
    """The scheduler loses every timer of an order but the first."""
    original = Scheduler.__init__

    def init(self: Scheduler, store: Store, **others: Any) -> None:  # noqa: ANN401
        woken: set[str] = set()
        wake = others["wake"]

        async def once(payment_order_id: str, event: AnyEvent) -> None:
            if payment_order_id not in woken:
                woken.add(payment_order_id)
                await wake(payment_order_id, event)

        original(self, store, **{**others, "wake": once})

    with replaced(Scheduler, "__init__", init):
        yield


@mutant(
    rule="rule 9",
    caught_by="nothing_stuck",
)
def timers_in_memory() -> Iterator[None]:
    """Only timers that this process has set are kept; a restart loses the others."""
    original_init, original_rested = Engine.__init__, Engine._rested
    known: dict[str, set[str]] = {}

    def init(self: Engine, *args: Any) -> None:  # noqa: ANN401
        original_init(self, *args)
        mine = known.setdefault(self.id, set())
        wake = self._scheduler._wake

        async def known_ones(payment_order_id: str, event: AnyEvent) -> None:
            if payment_order_id in mine:
                await wake(payment_order_id, event)

        self._scheduler._wake = known_ones

    def rested(self: Engine, order: Order) -> None:
        known[self.id].add(order.payment_order_id)
        original_rested(self, order)

    with replaced(Engine, "__init__", init), replaced(Engine, "_rested", rested):
        yield


# --- the outbox ------------------------------------------------------------------------------------------------


class _Receiver:
    """A receiver as a careless relay treats it."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.name = receiver.name

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        await self._receiver.deliver(events)


class _Unheard(_Receiver):
    """Its refusals are not heard."""

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        try:
            await self._receiver.deliver(events)
        except DeliveryFailed:
            return


class _Unordered(_Receiver):
    """It gets a page from its end."""

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        await self._receiver.deliver(events[::-1])


class _Early(_Receiver):
    """Its cursor is moved before the delivery."""

    def __init__(self, receiver: Receiver, store: Store) -> None:
        super().__init__(receiver)
        self._store = store

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        await self._store.advance_receiver(receiver=self.name, position=events[-1].position)
        await self._receiver.deliver(events)


def _with_receiver(careless: Any) -> Iterator[None]:  # noqa: ANN401  (makes a receiver of a receiver and a store)
    original = Relay.__init__

    def init(self: Relay, store: Store, receiver: Receiver, **others: Any) -> None:  # noqa: ANN401
        original(self, store, careless(receiver, store), **others)

    with replaced(Relay, "__init__", init):
        yield


@mutant(
    rule="DESIGN 7: every receiver gets every event",
    caught_by="every_event_delivered",
)
def cursor_moves_early() -> Iterator[None]:
    """A receiver's cursor is moved before the delivery."""
    yield from _with_receiver(_Early)


@mutant(
    rule="DESIGN 7: every receiver gets every event",
    caught_by="every_event_delivered",
)
def delivery_failure_ignored() -> Iterator[None]:
    """A receiver that refuses its events is taken to have got them."""
    yield from _with_receiver(lambda receiver, _: _Unheard(receiver))


@mutant(
    rule="DESIGN 7: in order per order",
    caught_by="every_event_delivered",
)
def events_out_of_order() -> Iterator[None]:
    """A page of events is delivered from its end."""
    yield from _with_receiver(lambda receiver, _: _Unordered(receiver))


MUTANTS: tuple[Mutant, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Mutant))
