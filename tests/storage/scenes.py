"""Small payments for the store's tests: what an engine would write, built by hand and by the transition table."""

from collections.abc import Sequence
from hashlib import sha256

from msgspec.structs import replace

from tallystick.engine.intents import AcceptPayment, CreditWallet, IdempotencyClaim, PostTransfer, Transition
from tallystick.engine.ledger import capture, wallet_credit
from tallystick.engine.money import Money
from tallystick.engine.order import Method, Order, State
from tallystick.engine.ports import Store
from tallystick.engine.records import (
    AnyRecord,
    AttemptBegun,
    AttemptResolved,
    DeadLetterClosed,
    DeadLettered,
    Published,
)

T0 = 1_700_000_000_000_000
PSP = "psp-a"
SELLER = "DE89370400440532013000"


def new_order(
    order_id: str, *, checkout: str = "", minor: int = 1000, currency: str = "EUR", seller: str = SELLER
) -> Order:
    """Return a recorded order."""
    return Order(
        payment_order_id=order_id,
        checkout_id=checkout or f"co-{order_id}",
        seller_account=seller,
        buyer_account="buyer-1",
        amount=Money(minor, currency),
        method=Method.CARD_TOKEN,
        psp_token="tok_ok",
        created_at=T0,
        state_since=T0,
    )


def accepting(
    *orders: Order, claim: IdempotencyClaim | None = None, content: str = "", at: int = T0
) -> AcceptPayment:
    """Return the intent that records one checkout with these orders."""
    checkout_id = orders[0].checkout_id
    text = content or f"{checkout_id} {[order.payment_order_id for order in orders]}"
    return AcceptPayment(
        checkout_id=checkout_id,
        buyer_info=b'{"name":"Ada"}',
        content_hash=sha256(text.encode()).digest(),
        orders=orders,
        claim=claim,
        at=at,
    )


def moving(
    order: Order, to: State, event: str, *records: AnyRecord, at: int = T0 + 1, **changes: object
) -> Transition:
    """Return the intent that moves an order, with a transition_id of its own."""
    changed = {"state": to, "version": order.version + 1, "state_since": at, "wake_at": None} | changes
    moved = replace(order, **changed)
    return Transition(
        transition_id=f"{order.payment_order_id}/{event}/{moved.version}",
        from_state=order.state,
        from_version=order.version,
        order=moved,
        event=event,
        detail=b'{"event":"%s"}' % event.encode(),
        records=records,
        at=at,
    )


def beginning(order: Order, *records: AnyRecord, at: int = T0 + 1) -> Transition:
    """Return the intent that begins the next attempt."""
    attempt = order.attempt + 1
    key = order.payment_order_id if attempt == 1 else f"tsk_{order.payment_order_id}_{attempt}"
    row = AttemptBegun(attempt=attempt, psp=PSP, idempotency_key=key, begun_at=at)
    begun = {
        "psp": PSP,
        "attempt": attempt,
        "sends": 1,
        "attempt_begun_at": at,
        "last_sent_at": at,
        "wake_at": None,
    }
    event = "RetryRequested" if order.state is State.FAILED else "RiskAccepted"
    return moving(order, State.EXECUTING, event, *records, row, at=at, **begun)


def succeeding(order: Order, *, at: int = T0 + 2) -> Transition:
    """Return the intent that makes an executing order a SUCCESS."""
    reference = f"ch_{order.payment_order_id}"
    row = AttemptResolved(
        attempt=order.attempt, result="Charged", code=None, psp_reference=reference, resolved_at=at
    )
    published = Published(kind="payment_order.succeeded")
    charged = {"charged_attempt": order.attempt, "psp_reference": reference}
    return moving(order, State.SUCCESS, "Charged", row, published, at=at, **charged)


def failing(order: Order, *, at: int = T0 + 2) -> Transition:
    """Return the intent that makes an executing order FAILED, with its dead letter."""
    row = AttemptResolved(
        attempt=order.attempt, result="Declined", code="stolen", psp_reference=None, resolved_at=at
    )
    records = (row, DeadLettered(reason="stolen"), Published(kind="payment_order.failed"))
    return moving(order, State.FAILED, "Declined", *records, at=at, failure_code="stolen")


def reopening(order: Order, *, at: int = T0 + 3) -> Transition:
    """Return the intent that begins one more attempt of a failed order."""
    return beginning(
        order, DeadLetterClosed(resolution="retried"), Published(kind="payment_order.reopened"), at=at
    )


def posting(order: Order, *, at: int = T0 + 4) -> PostTransfer:
    """Return the intent that posts a captured order."""
    return PostTransfer(transfer=capture(order, at=at))


def crediting(order: Order, *, at: int = T0 + 5) -> CreditWallet:
    """Return the intent that credits a captured order's seller."""
    return CreditWallet(entry=wallet_credit(order, at=at))


async def charge(store: Store, orders: Sequence[Order]) -> list[Order]:
    """Record and charge orders, each its own checkout; return them as SUCCESS, with no book written."""
    by_checkout: dict[str, list[Order]] = {}
    for order in orders:
        by_checkout.setdefault(order.checkout_id, []).append(order)
    await store.accept([accepting(*group) for group in by_checkout.values()])
    begun = [beginning(order) for order in orders]
    await store.apply(begun)
    ended = [succeeding(item.order) for item in begun]
    await store.apply(ended)
    return [item.order for item in ended]


async def pay(store: Store, orders: Sequence[Order]) -> None:
    """Record, charge, post and credit orders."""
    charged = await charge(store, orders)
    await store.post([posting(order) for order in charged])
    await store.credit([crediting(order) for order in charged])
