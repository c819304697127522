"""What the engine asks of the store, and what it gets back: one outcome per item, in the order of the items.

Every intent is idempotent: asked again, it answers the same and changes nothing. One item's refusal neither
fails nor delays its neighbours in the batch.
"""

import msgspec

from tallystick.engine.ledger import Transfer, WalletEntry
from tallystick.engine.order import Order, State
from tallystick.engine.records import AnyRecord


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Something to write."""


class IdempotencyClaim(msgspec.Struct, frozen=True, kw_only=True):
    """An `Idempotency-Key` of a caller, scoped by the caller's API key, with the hash of what came under it."""

    scope: str
    key: str
    request_hash: bytes


class AcceptPayment(Intent, frozen=True, kw_only=True):
    """Record a payment event with all its orders, or nothing."""

    checkout_id: str
    buyer_info: bytes
    """The caller's JSON object, as it came; it never holds card data."""
    content_hash: bytes
    """SHA-256 over the canonical content; the same id with another hash is a conflict."""
    orders: tuple[Order, ...]
    claim: IdempotencyClaim | None
    at: int


class PaymentAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """The event is recorded. `new` is False when it was recorded before, with the same content."""

    new: bool
    at: int
    """When it was recorded, first."""


class PaymentRefused(msgspec.Struct, frozen=True, kw_only=True):
    """The same id or key came before with other content: which field, and a sentence. Nothing was written."""

    field: str
    detail: str


AcceptOutcome = PaymentAccepted | PaymentRefused


class Transition(Intent, frozen=True, kw_only=True):
    """Move one order: the order as decided, and everything that is written with it.

    Applied only while the stored order has `from_state` and `from_version`. `transition_id` is unique to this
    decision, so that a repeated intent is told apart from somebody else's move to the same version.
    """

    transition_id: str
    from_state: State
    from_version: int
    order: Order
    event: str
    detail: bytes
    """The event as JSON, for the log that `why` reads."""
    records: tuple[AnyRecord, ...]
    at: int


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The move is committed."""


class Superseded(msgspec.Struct, frozen=True, kw_only=True):
    """The stored order had moved on: this is what it is now. Nothing was written for this item."""

    current: Order


TransitionOutcome = Applied | Superseded


class PostTransfer(Intent, frozen=True, kw_only=True):
    """Post one transfer; with an order's id, set that order's `ledger_updated` in the same commit."""

    transfer: Transfer


class CreditWallet(Intent, frozen=True, kw_only=True):
    """Write one wallet entry; with an order's id, set that order's `wallet_updated` in the same commit."""

    entry: WalletEntry


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """The posting is committed. `new` is False when its cause had been posted before."""

    new: bool
