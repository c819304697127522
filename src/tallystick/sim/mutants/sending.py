"""Mutants of sending: keys, and what is committed before it is sent."""

from collections.abc import Iterator
from hashlib import sha256

from msgspec.structs import replace

from tallystick.actors.gateway import Breaker
from tallystick.actors.order_actor import OrderActor
from tallystick.engine.events import AnyEvent
from tallystick.engine.intents import Transition
from tallystick.engine.order import DERIVED_KEY_PREFIX, Order
from tallystick.engine.records import AttemptBegun, AttemptResent, AttemptResolved, Decision, Effect
from tallystick.sim import memory_writes
from tallystick.sim.memory_tables import Tables
from tallystick.sim.mutants.frame import Mutant, mutant, replaced
from tallystick.sim.outsiders import Outsiders
from tallystick.sim.psp.model import SimulatedPsp
from tallystick.sim.psp.records import Payment, Status


@mutant(
    rule="rule 2",
    caught_by="no_double_charge",
)
def no_key() -> Iterator[None]:
    """Requests carry no idempotency key, so the PSP cannot tell a repetition."""
    original = SimulatedPsp._saved

    def saved(self: SimulatedPsp, key: str, now: int) -> Payment | None:
        payment = original(self, key, now)
        return payment if payment is not None and payment.status is Status.VOIDED else None

    with replaced(SimulatedPsp, "_saved", saved):
        yield


@mutant(
    rule="rule 2",
    caught_by="one_open_attempt",
)
def new_key_on_resend() -> Iterator[None]:
    """A resend of the same attempt takes a key of its own."""
    original = memory_writes._write_attempt

    def key(order: Order) -> str:
        if order.attempt <= 1 and order.sends <= 1:
            return order.payment_order_id
        text = f"{order.attempt}:{order.sends}:{order.payment_order_id}"
        return f"{DERIVED_KEY_PREFIX}{sha256(text.encode()).hexdigest()}"

    def write(tables: Tables, order_id: str, record: AttemptBegun | AttemptResent | AttemptResolved) -> None:
        original(tables, order_id, record)
        if isinstance(record, AttemptResent):
            rows = tables.attempts[order_id]
            rows[record.attempt] = replace(rows[record.attempt], idempotency_key=key(tables.orders[order_id]))

    with (
        replaced(Order, "idempotency_key", property(key)),
        replaced(memory_writes, "_write_attempt", write),
    ):
        yield


@mutant(
    rule="rule 2",
    caught_by="one_key_one_attempt",
)
def same_key_on_next_attempt() -> Iterator[None]:
    """A new attempt takes the key of the first one, under which the PSP repeats its old answer."""
    with replaced(Order, "idempotency_key", property(lambda order: order.payment_order_id)):
        yield


@mutant(
    rule="rule 1",
    caught_by="recorded_before_sent",
)
def sent_before_commit() -> Iterator[None]:
    """A request leaves before the attempt is committed."""
    original_intent, original_call = OrderActor._intent, OrderActor._call_psp
    sent: set[tuple[str, int, int]] = set()

    def mark(order: Order) -> tuple[str, int, int]:
        return order.payment_order_id, order.attempt, order.sends

    def intent(self: OrderActor, before: Order, event: AnyEvent, decision: Decision, now: int) -> Transition:
        if Effect.SEND_TO_PSP in decision.effects:
            self.order = decision.order
            original_call(self, Effect.SEND_TO_PSP)
            self.order = before
            sent.add(mark(decision.order))
        return original_intent(self, before, event, decision, now)

    def call(self: OrderActor, effect: Effect) -> None:
        if effect is Effect.SEND_TO_PSP and mark(self.order) in sent:
            return
        original_call(self, effect)

    with replaced(OrderActor, "_intent", intent), replaced(OrderActor, "_call_psp", call):
        yield


@mutant(
    rule="standards: webhooks are signed",
    caught_by="belief_equals_truth",
)
def forged_webhook_believed() -> Iterator[None]:
    """A webhook's signature is not checked."""
    with replaced(Outsiders, "admits", lambda *_, **__: True):
        yield


@mutant(
    rule="DESIGN 7: PSP gateways",
    caught_by="nothing_stuck",
    faults=("psp_down", "tight_mailboxes"),
)
def breaker_trial_never_ends() -> Iterator[None]:
    """After a trial call that failed, an open circuit lets no other one through."""
    original = Breaker.note

    def note(self: Breaker, *, good: bool, now: float) -> None:
        original(self, good=good, now=now)
        self._trial = self.is_open and not good

    with replaced(Breaker, "note", note):
        yield


MUTANTS: tuple[Mutant, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Mutant))
