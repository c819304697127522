"""Everybody who is neither the engine nor a PSP nor the store: clients, buyers, reviewers, webhooks, receivers.

None of them knows which engine is up; each calls whatever door is open now, loses the connection when that engine
dies, and tries again, as their kind does.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import trio

from tallystick.actors.engine import Engine
from tallystick.engine.doors import PaymentEvent, Receipt
from tallystick.engine.errors import (
    CallerError,
    ContentConflict,
    MoveRefused,
    Overloaded,
    StoreError,
    TallystickError,
)
from tallystick.engine.events import (
    AnyEvent,
    CancelRequested,
    Charged,
    DeclineClass,
    Declined,
    RetryRequested,
    ReviewApproved,
    ReviewRejected,
    RiskAccepted,
    RiskFlagged,
    RiskRefused,
    Source,
    Voided,
)
from tallystick.engine.order import Order, State
from tallystick.engine.ports import DeliveryFailed
from tallystick.engine.views import OutboxEvent
from tallystick.sim.auditor import Auditor
from tallystick.sim.clock import SECOND_US, VirtualClock
from tallystick.sim.faults import Faults
from tallystick.sim.memory_tables import Tables
from tallystick.sim.network import PspSite
from tallystick.sim.psp.model import PageAction, Payment, Status
from tallystick.sim.psp.units import to_iso
from tallystick.sim.session import ConnectionLost, Session
from tallystick.sim.tape import Tape
from tallystick.sim.workload import Checkout

T = TypeVar("T")

_CLIENT_PATIENCE_S = 20.0
_TRIES_MAX = 200
"""How often an outsider repeats what it wants; with its pauses this outlasts every outage of a run."""
_TELL_PATIENCE_S = 15.0


class Surroundings(Protocol):
    """What outsiders see of the world."""

    clock: VirtualClock
    tape: Tape
    faults: Faults
    tables: Tables
    auditor: Auditor
    doors: list[tuple[Session, Engine]]

    def note(self, actor: str, kind: str, payload: object = None) -> None:
        """Add a step to the trace."""
        ...

    def spawn(self, run: Callable[..., object], *args: object) -> None:
        """Start a task that belongs to the world."""
        ...


class Outsiders:
    """Clients, buyers, reviewers, and the PSPs' webhooks."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self.busy = 0
        """How many of them still want something."""
        self._reviewed: set[str] = set()

    async def _through(self, call: Callable[[Engine], Awaitable[T]], *, patience_s: float) -> T:
        """Call the newest engine that is up. Raises ConnectionLost, and what the call raises."""
        doors = self._world.doors
        if not doors:
            raise ConnectionLost("nobody listens")
        session, engine = doors[-1]
        return await session.call(lambda: call(engine), patience_s=patience_s)

    def _start(self, run: Callable[..., Awaitable[None]], *args: object) -> None:
        self.busy += 1
        self._world.spawn(self._counted, run, *args)

    async def _counted(self, run: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await run(*args)
        finally:
            self.busy -= 1

    # --- clients -----------------------------------------------------------------------------------------------

    def start_client(self, checkout: Checkout) -> None:
        """Let a client pay."""
        self._start(self._pay, checkout)

    async def _pay(self, checkout: Checkout) -> None:
        world, who = self._world, f"client-{checkout.number}"
        faults = world.faults
        await world.clock.sleep(checkout.at_us)
        if faults.strikes("client_leaves", who):
            # The buyer closes the browser; what became of the request, only the shop may learn, later.
            patience_us = faults.how("client_leaves", who).between(0, 5_000)
            world.note(who, "client_leaves")
            with trio.move_on_after(patience_us / SECOND_US):
                await self._submit_until_answered(who, checkout)
        if faults.strikes("client_double_click", who):
            async with trio.open_nursery() as clicks:
                clicks.start_soon(self._submit_until_answered, who, checkout)
                clicks.start_soon(self._submit_until_answered, who, checkout)
        else:
            await self._submit_until_answered(who, checkout)
        if faults.strikes("client_repeats", who):
            await world.clock.sleep(faults.how("client_repeats", who).between(1, 40) * SECOND_US)
            await self._submit_until_answered(who, checkout)
        if faults.strikes("client_reuses_id", who):
            await self._reuse_id(who, checkout)

        if faults.strikes("client_cancels", who):
            how = faults.how("client_cancels", who)
            line = how.pick(checkout.event.payment_orders)
            await world.clock.sleep(how.below(40) * SECOND_US // 4)
            world.note(who, "cancel", line.payment_order_id)
            await self._tell(line.payment_order_id, CancelRequested(by="shop", why="the buyer has thought again"))

    async def _submit_until_answered(self, who: str, checkout: Checkout) -> None:
        world = self._world
        for _ in range(_TRIES_MAX):
            world.note(who, "submit", checkout.event.checkout_id)
            try:
                receipt = await self._through(
                    lambda engine: engine.submit(checkout.event), patience_s=_CLIENT_PATIENCE_S
                )
            except (ConnectionLost, Overloaded, StoreError) as error:
                world.note(who, "refused", type(error).__name__)
                await world.clock.sleep(SECOND_US)
            except CallerError as error:
                world.auditor.accuse("same_key_same_answer", checkout.event.checkout_id, f"refused: {error}")
                return
            else:
                self._got(who, checkout, receipt)
                return

    def _got(self, who: str, checkout: Checkout, receipt: Receipt) -> None:
        self._world.note(who, "receipt", receipt)
        self._world.auditor.saw_receipt(
            receipt.checkout_id,
            order_ids=receipt.payment_order_ids,
            at=receipt.accepted_at,
            new=receipt.new,
            amounts=checkout.amounts,
        )

    async def _reuse_id(self, who: str, checkout: Checkout) -> None:
        """Send other content under the same id: it must be refused, and change nothing."""
        world = self._world
        first = checkout.event.payment_orders[0]
        other = msgspec.structs.replace(first, amount="777777" if first.amount != "777777" else "777778")
        lines = [other, *checkout.event.payment_orders[1:]]
        event: PaymentEvent = msgspec.structs.replace(checkout.event, payment_orders=lines)
        for _ in range(_TRIES_MAX):
            try:
                await self._through(lambda engine: engine.submit(event), patience_s=_CLIENT_PATIENCE_S)
            except ContentConflict:
                world.note(who, "conflict")
                return
            except (ConnectionLost, Overloaded, StoreError):
                await world.clock.sleep(SECOND_US)
            else:
                detail = f"other content under {event.checkout_id} was accepted"
                world.auditor.accuse("same_key_same_answer", event.checkout_id, detail)
                return

    # --- what a payment at a PSP sets off ----------------------------------------------------------------------

    def payment_changed(self, site: PspSite, payment: Payment) -> None:
        """A payment at a PSP is new or has changed: its buyer may have to act, and a webhook goes out."""
        faults, order_id = self._world.faults, payment.merchant_reference
        if payment.status is not Status.CHARGED and faults.strikes("webhook_forged", order_id):
            self._forge_webhook(site, payment)
        if payment.status is Status.ACTION_REQUIRED:
            self._start(self._act_as_buyer, site, payment)
            return
        self._send_webhook(site, payment)
        if payment.status is Status.DECLINED and faults.strikes("decline_taken_back", order_id):
            after_us = faults.how("decline_taken_back", order_id).between(1, 30) * SECOND_US
            self._world.clock.call_after(after_us, lambda: self._take_back(site, payment.psp_reference))

    def _take_back(self, site: PspSite, reference: str) -> None:
        payment = site.model.state.payments[reference]
        if payment.status is Status.DECLINED and not self._world.faults.healed:
            site.take_back(payment)

    async def _act_as_buyer(self, site: PspSite, payment: Payment) -> None:
        world, order_id = self._world, payment.merchant_reference
        choices = world.tape.stream(f"workload/buyer/{order_id}")
        if world.faults.strikes("buyer_abandons", order_id):
            world.note(f"buyer of {order_id}", "buyer_abandons")
            return
        wait_us = choices.between(1, 30) * SECOND_US
        if world.faults.strikes("buyer_late", order_id) and payment.due_at is not None:
            to_expiry_us = payment.due_at - site.now()
            wait_us = to_expiry_us + world.faults.how("buyer_late", order_id).between(-2, 2) * SECOND_US
        action = (PageAction.PAY, PageAction.DECLINE)[choices.weighted((4, 1))]
        await world.clock.sleep(max(0, wait_us))
        world.note(f"buyer of {order_id}", action.value)
        site.model.act(payment.page or "", action, now=site.now())

    # --- webhooks ----------------------------------------------------------------------------------------------

    def _send_webhook(self, site: PspSite, payment: Payment) -> None:
        faults, where = self._world.faults, payment.merchant_reference
        event = _as_evidence(site, payment)
        # A PSP that contradicts a decline tells of it at least. One that never does is found by its settlement
        # file alone, which is reconciliation's business and not the pay-in's.
        contradicts = payment.status is Status.CHARGED and payment.code is not None
        if event is None or (faults.strikes("webhook_lost", where) and not contradicts):
            return
        delay_us = self._world.tape.stream(f"network/webhook/{where}").between(300_000, 2_000_000)
        if faults.strikes("webhook_early", where):
            delay_us = 0
        elif faults.strikes("webhook_late", where):
            delay_us = faults.how("webhook_late", where).between(2, 90) * SECOND_US
        self._post_webhook(site, where, event, delay_us)
        if faults.strikes("webhook_twice", where):
            again_us = faults.how("webhook_twice", where).between(0, 60) * SECOND_US
            self._post_webhook(site, where, event, delay_us + again_us)

    def _post_webhook(self, site: PspSite, order_id: str, event: AnyEvent, delay_us: int) -> None:
        self._world.note(site.name, "webhook", (order_id, type(event).__name__, delay_us))
        self._start(self._deliver_webhook, order_id, event, delay_us)

    def _forge_webhook(self, site: PspSite, payment: Payment) -> None:
        """Have a thief say that an order is charged which is not."""
        charged = msgspec.structs.replace(payment, status=Status.CHARGED, psp_reference=f"forged_{payment.key}")
        event = _as_evidence(site, charged)
        if event is not None:
            # trio starts tasks with positions: signed=False.
            self._start(self._deliver_webhook, payment.merchant_reference, event, SECOND_US, False)  # noqa: FBT003

    async def _deliver_webhook(
        self,
        order_id: str,
        event: AnyEvent,
        delay_us: int,
        signed: bool = True,  # noqa: FBT001, FBT002  (trio starts tasks with positions)
    ) -> None:
        await self._world.clock.sleep(delay_us)
        self._world.note("webhook", type(event).__name__, (order_id, event))
        if self.admits(signed=signed):
            await self._tell(order_id, event)
        else:
            self._world.note("webhook", "refused", order_id)

    def admits(self, *, signed: bool) -> bool:
        """Say whether the webhook door lets a message pass: as in production, only with the PSP's signature."""
        return signed

    async def _tell(self, order_id: str, event: AnyEvent) -> None:
        """Bring an event to an order, repeating it until an engine has taken it."""
        for _ in range(_TRIES_MAX):
            try:
                await self._through(lambda engine: engine.tell(order_id, event), patience_s=_TELL_PATIENCE_S)
            except MoveRefused:
                return
            except (ConnectionLost, TallystickError):
                await self._world.clock.sleep(2 * SECOND_US)
            else:
                return

    # --- people ------------------------------------------------------------------------------------------------

    def order_failed(self, order_id: str) -> None:
        """An order stands in the dead-letter queue: perhaps a person has it tried again."""
        if self._world.faults.strikes("person_retries", order_id):
            self._start(self._retry, order_id)

    async def _retry(self, order_id: str) -> None:
        world = self._world
        await world.clock.sleep(world.faults.how("person_retries", order_id).between(1, 60) * SECOND_US)
        world.note("support", "retry", order_id)
        await self._tell(order_id, RetryRequested(by="support", why="the buyer asked"))

    # --- risk --------------------------------------------------------------------------------------------------

    def review(self, order_id: str) -> None:
        """Have a person look at an order that the risk check flagged; one person an order."""
        if order_id not in self._reviewed:
            self._reviewed.add(order_id)
            self._start(self._review, order_id)

    async def _review(self, order_id: str) -> None:
        world = self._world
        choice = world.tape.stream(f"workload/review/{order_id}")
        wait_s, verdict = choice.between(1, 60), choice.weighted((6, 3, 1))
        await world.clock.sleep(wait_s * SECOND_US)
        for _ in range(_TRIES_MAX):
            state = world.tables.orders[order_id].state
            if state is State.IN_REVIEW:
                break
            if state is not State.NOT_STARTED:
                return
            await world.clock.sleep(5 * SECOND_US)
        by, why = "reviewer", "as drawn"
        verdicts: tuple[AnyEvent, ...] = (ReviewApproved(by=by, why=why), ReviewRejected(by=by, why=why))
        if verdict < len(verdicts):
            world.note("reviewer", type(verdicts[verdict]).__name__, order_id)
            if verdict == 0:
                world.auditor.saw_clearance(order_id)
            await self._tell(order_id, verdicts[verdict])


class SimRisk:
    """The third party that checks risk: it answers the same for the same order, when it answers."""

    def __init__(self, world: Any, session: Session) -> None:  # noqa: ANN401  (a world or a part of one)
        self._world = world
        self._session = session

    async def assess(self, order: Order) -> RiskAccepted | RiskFlagged | RiskRefused:
        """Return a verdict, or fail."""
        await self._session.gate()
        world, order_id = self._world, order.payment_order_id
        if world.faults.strikes("risk_check_fails", order_id):
            raise RuntimeError("the risk check is not available")
        choices = world.tape.stream(f"workload/risk/{order_id}").choices
        verdict = choices[0] if choices else world.tape.stream(f"workload/risk/{order_id}").weighted((90, 7, 3))
        if verdict == 0:
            world.auditor.saw_clearance(order_id)
            return RiskAccepted()
        if verdict == 1:
            world.outsiders.review(order_id)
            return RiskFlagged(reasons=("drawn",))
        return RiskRefused(reasons=("drawn",))


class SimReceiver:
    """Somebody who gets every business event."""

    def __init__(self, world: Surroundings, session: Session, name: str) -> None:
        self.name = name
        self._world = world
        self._session = session

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        """Take events; or refuse them, or take them and claim otherwise. Raises DeliveryFailed."""
        await self._session.gate()
        faults, clock = self._world.faults, self._world.clock
        await clock.sleep(20 * SECOND_US if faults.strikes("receiver_slow", self.name) else 5_000)
        fails = faults.strikes("receiver_fails", self.name)
        if not fails or faults.how("receiver_fails", self.name).below(2) == 1:
            self._world.auditor.saw_delivery(self.name, events)
            self._world.note(self.name, "took", tuple([event.event_id for event in events]))
        await self._session.gate()
        if fails:
            raise DeliveryFailed(f"{self.name} answered 500")


def _as_evidence(site: PspSite, payment: Payment) -> AnyEvent | None:
    """Return what a PSP's webhook says of a payment; None where it sends none."""
    attempt = site.attempts_by_key.get(payment.key)
    if attempt is None or not payment.currency:
        return None
    common: dict[str, Any] = {
        "source": Source.WEBHOOK,
        "psp": site.name,
        "attempt": attempt,
        "psp_reference": payment.psp_reference,
    }
    if payment.status is Status.CHARGED:
        return Charged(**common, amount=to_iso(payment.amount, payment.currency))
    if payment.status is Status.DECLINED:
        decline_class = DeclineClass.SOFT if payment.soft else DeclineClass.HARD
        return Declined(**common, code=payment.code or "declined", decline_class=decline_class)
    if payment.status is Status.VOIDED:
        return Voided(**common)
    return None
