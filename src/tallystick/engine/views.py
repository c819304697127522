"""What can be read back: rows as the doors and the command line show them. Money in minor units, times in µs."""

import msgspec

from tallystick.engine.money import Money
from tallystick.engine.order import Order, State


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Something read from the store."""


class AttemptView(View, frozen=True, kw_only=True):
    """One attempt: one idempotency key at one PSP."""

    attempt: int
    psp: str
    idempotency_key: str
    sends: int
    begun_at: int
    last_sent_at: int
    result: str | None
    code: str | None
    psp_reference: str | None
    resolved_at: int | None


class OrderView(View, frozen=True, kw_only=True):
    """A payment order with its attempts, oldest first."""

    order: Order
    updated_at: int
    attempts: tuple[AttemptView, ...]


class CheckoutView(View, frozen=True, kw_only=True):
    """A payment event with all its orders, by payment_order_id."""

    checkout_id: str
    buyer_info: bytes
    created_at: int
    is_payment_done: bool
    orders: tuple[Order, ...]


class WalletView(View, frozen=True, kw_only=True):
    """A seller's balances in one currency."""

    seller_account: str
    currency: str
    available_minor: int
    pending_minor: int
    held_minor: int
    updated_at: int


class EntryView(View, frozen=True, kw_only=True):
    """One transfer as one of its two accounts sees it: `amount` positive for a debit, negative for a credit."""

    seq: int
    cause: str
    kind: str
    other_account_id: str
    amount: Money
    payment_order_id: str | None
    at: int


class AccountView(View, frozen=True, kw_only=True):
    """A ledger account with a page of its entries, newest first; `next_before_seq` continues, None at the end."""

    account_id: str
    currency: str
    debits_minor: int
    credits_minor: int
    entries: tuple[EntryView, ...]
    next_before_seq: int | None


class StoredTransfer(View, frozen=True, kw_only=True):
    """A ledger row as it stands, with its hash, for replay."""

    seq: int
    cause: str
    kind: str
    debit_id: str
    credit_id: str
    amount_minor: int
    currency: str
    payment_order_id: str | None
    at: int
    hash: bytes


class LogEntry(View, frozen=True, kw_only=True):
    """One committed decision about an order."""

    version: int
    at: int
    from_state: State
    to_state: State
    event: str
    detail: bytes


class WalletEntryView(View, frozen=True, kw_only=True):
    """One wallet entry as stored."""

    cause: str
    kind: str
    seller_account: str
    currency: str
    available_minor: int
    pending_minor: int
    held_minor: int
    at: int


class MismatchView(View, frozen=True, kw_only=True):
    """Evidence that contradicts belief, and what shall be done about it."""

    mismatch_id: str
    payment_order_id: str | None
    kind: str
    attempt: int
    psp: str
    psp_reference: str | None
    amount_minor: int
    currency: str
    remedy: str
    opened_at: int


class DeadLetterView(View, frozen=True, kw_only=True):
    """A payment order that needs a person."""

    payment_order_id: str
    checkout_id: str
    reason: str
    state: State
    amount: Money
    opened_at: int
    closed_at: int | None
    resolution: str | None


class Story(View, frozen=True, kw_only=True):
    """Everything that is known about one order, for `why`."""

    view: OrderView
    log: tuple[LogEntry, ...]
    transfers: tuple[StoredTransfer, ...]
    wallet_entries: tuple[WalletEntryView, ...]
    mismatches: tuple[MismatchView, ...]
    dead_letter: DeadLetterView | None


class OutboxEvent(View, frozen=True, kw_only=True):
    """A business event. `position` grows in commit order; `event_id` is stable, so that a receiver can dedupe."""

    position: int
    event_id: str
    kind: str
    checkout_id: str
    payment_order_id: str | None
    at: int
    payload: bytes


class InFlight(View, frozen=True, kw_only=True):
    """How many open orders are in a state, and since when the oldest."""

    state: State
    count: int
    oldest_since: int


class Finding(View, frozen=True, kw_only=True):
    """Something that `verify` found wrong: which check, about what, and a sentence with both sides."""

    check: str
    subject: str
    detail: str


class Lease(View, frozen=True, kw_only=True):
    """Partitions that an engine owns, each with the epoch that every write is checked against."""

    owner: str
    epochs: dict[int, int]
    expires_at: int
