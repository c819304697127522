"""The order actor: one per live order. It decides by the table, commits, and only then acts.

    event ── step() ──► decision ── commit ──► effects ──► the next event

Calls to a PSP run beside the actor, so that a webhook that overtakes the response is heard at once. When nothing
is under way and nothing has been heard, the actor ends; the store remembers, and evidence or the scheduler wakes
the order again. Nothing here is trusted across a crash: an actor that starts reads its order from the store.
"""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from tallystick.actors.books import Books
from tallystick.actors.gateway import Gateway
from tallystick.actors.mailbox import Delivery, Mailbox, Reply
from tallystick.actors.metrics import Metrics
from tallystick.actors.writer import BatchWriter
from tallystick.engine.errors import IllegalState, MoveRefused, TallystickError
from tallystick.engine.events import AnyEvent, LedgerPosted, WalletCredited
from tallystick.engine.intents import Superseded, Transition, TransitionOutcome
from tallystick.engine.order import Order
from tallystick.engine.ports import Clock, Entropy, RiskCheck
from tallystick.engine.records import Context, Decision, Effect, Ignored, MismatchOpened
from tallystick.engine.transitions import step

_PSP_EFFECTS = frozenset({Effect.SEND_TO_PSP, Effect.INQUIRE_AT_PSP, Effect.VOID_AT_PSP})

# A move loses its race only against another move of the same order; this many in a row is a bug.
_SUPERSEDED_MAX = 20

_encode = msgspec.json.Encoder().encode


class AdapterFailed(TallystickError):
    """A PSP adapter raised: a bug of the adapter. What came of the call is found out by asking."""


class RiskCheckFailed(TallystickError):
    """The risk check, which is somebody else's, gave no verdict. The order waits, unsent, and is checked again."""


class Asked(msgspec.Struct, frozen=True):
    """An event with somebody waiting to hear what came of it: the order afterwards, or MoveRefused."""

    event: AnyEvent
    reply: Reply[Order]


class CallCrashed(msgspec.Struct, frozen=True):
    """A PSP adapter raised: a bug of the adapter, not an answer."""

    error: Exception


OrderMessage = AnyEvent | Asked | CallCrashed


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What every order actor of an engine shares."""

    clock: Clock
    entropy: Entropy
    metrics: Metrics
    delivery: Delivery | None
    transitions: BatchWriter[Transition, TransitionOutcome]
    books: Books
    gateways: dict[str, Gateway]
    route: Callable[[Order], str]
    risk: RiskCheck
    spawn: Callable[[Callable[[], Awaitable[None]], str], None]
    """Start a task beside the actors; it must not raise."""
    transition_id: Callable[[], str]
    on_move: Callable[[Order], None]
    """Called after each committed change, without waiting."""
    mailbox_max: int


class OrderActor:
    """Carries one order from where it stands until it rests."""

    def __init__(self, order: Order, around: Surroundings) -> None:
        self.order = order
        self._around = around
        self._calls = 0
        self.mailbox: Mailbox[OrderMessage] = Mailbox(
            "order", capacity=around.mailbox_max, delivery=around.delivery
        )

    async def run(self, first: OrderMessage) -> None:
        """Handle `first`, then what it leads to, until the order rests: no call under way, no message waiting."""
        message: OrderMessage | None = first
        while message is not None:
            await self._handle(message)
            message = await self.mailbox.get() if self._calls or len(self.mailbox) else None

    async def _handle(self, message: OrderMessage) -> None:
        if isinstance(message, CallCrashed):
            raise AdapterFailed(repr(message.error)) from message.error
        if isinstance(message, Asked):
            try:
                await self._drive(message.event)
            except MoveRefused as refused:
                message.reply.fail(refused)
            except BaseException:
                message.reply.fail(IllegalState("the order's actor crashed; read the order and ask again"))
                raise
            else:
                message.reply.set(self.order)
            return
        await self._drive(message)

    async def _drive(self, event: AnyEvent) -> None:
        """Follow an event through its effects, as far as they need nobody from outside."""
        following: AnyEvent | None = event
        while following is not None:
            effects = await self._decide(following)
            following = None
            for effect in effects:
                if effect in _PSP_EFFECTS:
                    self._call_psp(effect)
                else:
                    following = await self._act(effect)

    async def _decide(self, event: AnyEvent) -> tuple[Effect, ...]:
        """Decide and commit; return what is to be done. A lost race is decided again on the newer order."""
        around = self._around
        for _ in range(_SUPERSEDED_MAX):
            before, now = self.order, around.clock.now()
            route = around.route(before)
            outcome = step(
                before,
                event,
                Context(
                    now=now,
                    jitter=around.entropy.below(1000),
                    policy=around.gateways[before.psp or route].psp.policy,
                    route=route,
                ),
            )
            if isinstance(outcome, Ignored):
                return ()
            if outcome.order.version == before.version:
                self._changed(outcome.order)
                return outcome.effects
            answer = await around.transitions.ask(self._intent(before, event, outcome, now))
            if not isinstance(answer, Superseded):
                for record in outcome.records:
                    if isinstance(record, MismatchOpened):
                        around.metrics.mismatches.labels(record.kind).inc()
                self._changed(outcome.order)
                return outcome.effects
            self.order = answer.current
        raise IllegalState(f"{self.order.payment_order_id} moved {_SUPERSEDED_MAX} times under our hands")

    def _intent(self, before: Order, event: AnyEvent, decision: Decision, now: int) -> Transition:
        return Transition(
            transition_id=self._around.transition_id(),
            from_state=before.state,
            from_version=before.version,
            order=decision.order,
            event=type(event).__name__,
            detail=_encode(event),
            records=decision.records,
            at=now,
        )

    def _changed(self, order: Order) -> None:
        before, self.order = self.order, order
        if order.state is not before.state:
            self._around.metrics.payments[order.state].inc()
        self._around.on_move(order)

    async def _act(self, effect: Effect) -> AnyEvent:
        around = self._around
        match effect:
            case Effect.CHECK_RISK:
                return await self._assess()
            case Effect.POST_TO_LEDGER:
                await around.books.post_capture(self.order, at=around.clock.now())
                return LedgerPosted()
            case Effect.CREDIT_WALLET:
                await around.books.credit_capture(self.order, at=around.clock.now())
                return WalletCredited()
            case _:
                raise IllegalState(f"nobody carries out {effect}")

    async def _assess(self) -> AnyEvent:
        try:
            return await self._around.risk.assess(self.order)
        except Exception as error:
            raise RiskCheckFailed(repr(error)) from error

    def _call_psp(self, effect: Effect) -> None:
        order = self.order
        if order.psp is None:
            raise IllegalState(f"{order.payment_order_id} has no PSP to {effect}")
        gateway = self._around.gateways[order.psp]
        self._calls += 1

        async def call() -> None:
            message: OrderMessage
            try:
                message = await gateway.call(effect, order)
            except Exception as error:  # noqa: BLE001  (raised again in the actor, which its supervisor restarts)
                message = CallCrashed(error)
            # First count down, then leave the message: an actor that handled it with the count still up would
            # wait for a call that has ended. Nothing runs between the two.
            self._calls -= 1
            try:
                await self.mailbox.put(message)
            except trio.BrokenResourceError:
                # The actor crashed meanwhile. The answer is not lost: the restarted actor asks the PSP again.
                return

        self._around.spawn(call, f"{gateway.name}:{effect}")
