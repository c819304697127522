"""The bodies of the API's answers, and how the engine's views become them.

Money leaves as a decimal string, times as RFC 3339 in UTC with microseconds.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from tallystick.engine.doors import PaymentEvent, Receipt
from tallystick.engine.intake import normal_iban
from tallystick.engine.money import Money
from tallystick.engine.order import Method, Order, PublicStatus, State
from tallystick.engine.views import (
    AccountView,
    AttemptView,
    CheckoutView,
    DeadLetterView,
    EntryView,
    OrderView,
    WalletView,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer. All members are always present; what is unknown is null."""


class Link(Body, frozen=True, kw_only=True, rename={"self_": "self"}):
    """Where a thing is found."""

    self_: str


class ReceiptOrder(Body, frozen=True, kw_only=True):
    """One payment order, as it was accepted."""

    payment_order_id: str
    payment_order_status: PublicStatus
    seller_account: str
    amount: str
    currency: str
    links: Link


class ReceiptBody(Body, frozen=True, kw_only=True):
    """The receipt of an accepted checkout: the same content always gets the same receipt, byte for byte."""

    checkout_id: str
    is_payment_done: Literal[False]
    created_at: str
    payment_orders: tuple[ReceiptOrder, ...]
    links: Link


class NextAction(Body, frozen=True, kw_only=True):
    """What the buyer must do."""

    type: Literal["redirect"]
    url: str
    expires_at: str | None


class OrderBody(Body, frozen=True, kw_only=True):
    """One payment order, as it stands. `next_attempt_at` is set while a retry waits for its time."""

    payment_order_id: str
    checkout_id: str
    payment_order_status: PublicStatus
    state: State
    seller_account: str
    buyer_account: str
    amount: str
    currency: str
    method: Method
    ledger_updated: bool
    wallet_updated: bool
    failure_code: str | None
    next_action: NextAction | None
    next_attempt_at: str | None
    psp: str | None
    psp_reference: str | None
    created_at: str
    state_since: str
    links: Link


class AttemptBody(Body, frozen=True, kw_only=True):
    """One attempt at one PSP. `result` is null while nothing is known."""

    attempt: int
    psp: str
    idempotency_key: str
    sends: int
    begun_at: str
    last_sent_at: str
    result: str | None
    code: str | None
    psp_reference: str | None
    resolved_at: str | None


class PaymentBody(OrderBody, frozen=True, kw_only=True):
    """One payment order with its attempts, oldest first."""

    updated_at: str
    attempts: tuple[AttemptBody, ...]


class CheckoutBody(Body, frozen=True, kw_only=True):
    """A checkout with all its payment orders, by id."""

    checkout_id: str
    is_payment_done: bool
    created_at: str
    buyer_info: msgspec.Raw
    payment_orders: tuple[OrderBody, ...]
    links: Link


class WalletBody(Body, frozen=True, kw_only=True):
    """A seller's balances in one currency."""

    currency: str
    available: str
    pending: str
    held: str
    updated_at: str


class WalletsBody(Body, frozen=True, kw_only=True):
    """A seller's wallets, one per currency."""

    seller_account: str
    wallets: tuple[WalletBody, ...]


class EntryBody(Body, frozen=True, kw_only=True):
    """One ledger entry as this account sees it: `amount` is positive for a debit, negative for a credit."""

    seq: int
    kind: str
    cause: str
    other_account_id: str
    amount: str
    payment_order_id: str | None
    at: str


class AccountBody(Body, frozen=True, kw_only=True):
    """A ledger account with a page of entries, newest first. `balance` is debits less credits."""

    account_id: str
    currency: str
    debits: str
    credits: str
    balance: str
    entries: tuple[EntryBody, ...]
    next_cursor: str | None


class DeadLetterBody(Body, frozen=True, kw_only=True):
    """A payment order that needs a person, and why."""

    payment_order_id: str
    checkout_id: str
    reason: str
    state: State
    amount: str
    currency: str
    opened_at: str
    closed_at: str | None
    resolution: str | None
    links: Link


class DeadLettersBody(Body, frozen=True, kw_only=True):
    """A page of dead letters, oldest first."""

    dead_letters: tuple[DeadLetterBody, ...]
    next_cursor: str | None


# --- from the engine's types ---------------------------------------------------------------------------------


def rfc3339(at: int) -> str:
    """Write microseconds since the epoch as a time, such as 2026-03-01T12:34:56.789012Z."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _time(at: int | None) -> str | None:
    return None if at is None else rfc3339(at)


def payment_path(payment_order_id: str) -> str:
    """Return where a payment order is found; everything that is special in a URL is percent-encoded."""
    return f"/v1/payments/{quote(payment_order_id, safe='')}"


def checkout_path(checkout_id: str) -> str:
    """Return where a checkout is found."""
    return f"/v1/checkouts/{quote(checkout_id, safe='')}"


def receipt_body(event: PaymentEvent, receipt: Receipt) -> ReceiptBody:
    """Return the receipt of an admitted checkout. It depends on the content and the time of acceptance only."""
    orders = sorted(event.payment_orders, key=lambda order: order.payment_order_id)
    return ReceiptBody(
        checkout_id=receipt.checkout_id,
        is_payment_done=False,
        created_at=rfc3339(receipt.accepted_at),
        payment_orders=tuple(
            [
                ReceiptOrder(
                    payment_order_id=order.payment_order_id,
                    payment_order_status=PublicStatus.NOT_STARTED,
                    seller_account=normal_iban(order.seller_account) or order.seller_account,
                    amount=Money.parse(order.amount, order.currency).decimal(),
                    currency=order.currency,
                    links=Link(self_=payment_path(order.payment_order_id)),
                )
                for order in orders
            ]
        ),
        links=Link(self_=checkout_path(receipt.checkout_id)),
    )


def _order_members(order: Order) -> dict[str, Any]:
    waits = order.state is State.RETRY_WAIT
    return {
        "payment_order_id": order.payment_order_id,
        "checkout_id": order.checkout_id,
        "payment_order_status": order.public_status,
        "state": order.state,
        "seller_account": order.seller_account,
        "buyer_account": order.buyer_account,
        "amount": order.amount.decimal(),
        "currency": order.amount.currency,
        "method": order.method,
        "ledger_updated": order.ledger_updated,
        "wallet_updated": order.wallet_updated,
        "failure_code": order.failure_code,
        "next_action": _next_action(order),
        "next_attempt_at": _time(order.wake_at) if waits else None,
        "psp": order.psp,
        "psp_reference": order.psp_reference,
        "created_at": rfc3339(order.created_at),
        "state_since": rfc3339(order.state_since),
        "links": Link(self_=payment_path(order.payment_order_id)),
    }


def _next_action(order: Order) -> NextAction | None:
    if order.state is not State.AWAITING_BUYER or order.next_action_url is None:
        return None
    return NextAction(type="redirect", url=order.next_action_url, expires_at=_time(order.next_action_expires_at))


def order_body(order: Order) -> OrderBody:
    """Return a payment order without its attempts."""
    return OrderBody(**_order_members(order))


def payment_body(view: OrderView) -> PaymentBody:
    """Return a payment order with its attempts."""
    attempts = tuple([_attempt_body(attempt) for attempt in view.attempts])
    return PaymentBody(**_order_members(view.order), updated_at=rfc3339(view.updated_at), attempts=attempts)


def _attempt_body(attempt: AttemptView) -> AttemptBody:
    return AttemptBody(
        attempt=attempt.attempt,
        psp=attempt.psp,
        idempotency_key=attempt.idempotency_key,
        sends=attempt.sends,
        begun_at=rfc3339(attempt.begun_at),
        last_sent_at=rfc3339(attempt.last_sent_at),
        result=attempt.result,
        code=attempt.code,
        psp_reference=attempt.psp_reference,
        resolved_at=_time(attempt.resolved_at),
    )


def checkout_body(view: CheckoutView) -> CheckoutBody:
    """Return a checkout as it stands."""
    orders = sorted(view.orders, key=lambda order: order.payment_order_id)
    return CheckoutBody(
        checkout_id=view.checkout_id,
        is_payment_done=view.is_payment_done,
        created_at=rfc3339(view.created_at),
        buyer_info=msgspec.Raw(view.buyer_info),
        payment_orders=tuple([order_body(order) for order in orders]),
        links=Link(self_=checkout_path(view.checkout_id)),
    )


def wallets_body(seller_account: str, views: list[WalletView]) -> WalletsBody:
    """Return a seller's wallets, by currency."""
    wallets = [
        WalletBody(
            currency=view.currency,
            available=Money(view.available_minor, view.currency).decimal(),
            pending=Money(view.pending_minor, view.currency).decimal(),
            held=Money(view.held_minor, view.currency).decimal(),
            updated_at=rfc3339(view.updated_at),
        )
        for view in sorted(views, key=lambda view: view.currency)
    ]
    return WalletsBody(seller_account=seller_account, wallets=tuple(wallets))


def account_body(view: AccountView, *, next_cursor: str | None) -> AccountBody:
    """Return a ledger account with a page of its entries."""
    return AccountBody(
        account_id=view.account_id,
        currency=view.currency,
        debits=Money(view.debits_minor, view.currency).decimal(),
        credits=Money(view.credits_minor, view.currency).decimal(),
        balance=Money(view.debits_minor - view.credits_minor, view.currency).decimal(),
        entries=tuple([_entry_body(entry) for entry in view.entries]),
        next_cursor=next_cursor,
    )


def _entry_body(entry: EntryView) -> EntryBody:
    return EntryBody(
        seq=entry.seq,
        kind=entry.kind,
        cause=entry.cause,
        other_account_id=entry.other_account_id,
        amount=entry.amount.decimal(),
        payment_order_id=entry.payment_order_id,
        at=rfc3339(entry.at),
    )


def dead_letter_body(view: DeadLetterView) -> DeadLetterBody:
    """Return one dead letter."""
    return DeadLetterBody(
        payment_order_id=view.payment_order_id,
        checkout_id=view.checkout_id,
        reason=view.reason,
        state=view.state,
        amount=view.amount.decimal(),
        currency=view.amount.currency,
        opened_at=rfc3339(view.opened_at),
        closed_at=_time(view.closed_at),
        resolution=view.resolution,
        links=Link(self_=payment_path(view.payment_order_id)),
    )
