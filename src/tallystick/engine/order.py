"""A payment order: its states, and the record that a decision reads and returns.

Times are integer microseconds since the Unix epoch, UTC; a name says so by its `_us` or `_at` ending.
"""

from enum import StrEnum
from hashlib import sha256
from zlib import crc32

import msgspec

from tallystick.engine.money import Money

# Orders are spread over this many partitions by checkout; an engine owns whole partitions (docs/ARCHITECTURE.md).
# Sixteen lets sixteen engines share a cluster and costs one engine next to nothing. Never changed after creation.
PARTITIONS = 16

# Keys of later attempts are derived; ids under this prefix are refused at the door so that none can collide.
DERIVED_KEY_PREFIX = "tsk_"


class State(StrEnum):
    """Where a payment order stands. The transition table says what leads from one to the next."""

    NOT_STARTED = "NOT_STARTED"
    IN_REVIEW = "IN_REVIEW"
    EXECUTING = "EXECUTING"
    AWAITING_BUYER = "AWAITING_BUYER"
    PENDING = "PENDING"
    UNKNOWN = "UNKNOWN"
    RETRY_WAIT = "RETRY_WAIT"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class PublicStatus(StrEnum):
    """The four statuses of the public vocabulary (`payment_order_status`)."""

    NOT_STARTED = "NOT_STARTED"
    EXECUTING = "EXECUTING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


PUBLIC_STATUS: dict[State, PublicStatus] = {
    State.NOT_STARTED: PublicStatus.NOT_STARTED,
    State.IN_REVIEW: PublicStatus.NOT_STARTED,
    State.EXECUTING: PublicStatus.EXECUTING,
    State.AWAITING_BUYER: PublicStatus.EXECUTING,
    State.PENDING: PublicStatus.EXECUTING,
    State.UNKNOWN: PublicStatus.EXECUTING,
    State.RETRY_WAIT: PublicStatus.EXECUTING,
    State.SUCCESS: PublicStatus.SUCCESS,
    State.FAILED: PublicStatus.FAILED,
    State.CANCELLED: PublicStatus.FAILED,
}

# Nothing that the outside does leaves these; a person may reopen FAILED (see the table).
TERMINAL = frozenset({State.SUCCESS, State.FAILED, State.CANCELLED})


class Method(StrEnum):
    """How the buyer pays."""

    CARD_TOKEN = "card_token"  # noqa: S105  (the name of a method, not a secret)
    HOSTED_PAGE = "hosted_page"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One payment order as the store holds it. Only `transitions.step` makes a changed copy.

    What never changes comes first; then the state and its version, which counts committed decisions;
    then the current attempt; then what is known about the end.
    """

    payment_order_id: str
    checkout_id: str
    seller_account: str
    buyer_account: str
    amount: Money
    method: Method
    psp_token: str | None
    created_at: int

    state: State = State.NOT_STARTED
    version: int = 0
    state_since: int
    """When the present state was entered; self-moves do not touch it."""
    wake_at: int | None = None
    """When the scheduler shall wake this order; None for never (evidence only)."""

    psp: str | None = None
    attempt: int = 0
    """Number of the current attempt, from 1; 0 before the first."""
    sends: int = 0
    """How often the current attempt was sent, under one and the same idempotency key."""
    refusals: int = 0
    """Sends of the current attempt that certainly had no effect, while none before them was in doubt."""
    attempt_begun_at: int | None = None
    last_sent_at: int | None = None
    declines: int = 0
    """Attempts that were declined; bounded apart from those that never reached the issuer."""
    inquiries: int = 0
    """Inquiries since the present state was entered; drives the inquiry schedule."""
    escalated: bool = False
    """A person has been called because the outcome stayed unknown past its bound."""

    next_action_url: str | None = None
    next_action_expires_at: int | None = None

    psp_reference: str | None = None
    """The PSP's id of the charge that made this order a SUCCESS."""
    charged_attempt: int | None = None
    stray_psp: str | None = None
    stray_attempt: int | None = None
    """An earlier attempt that turned out charged although it was believed certain that it was not."""
    stray_reference: str | None = None
    failure_code: str | None = None
    ledger_updated: bool = False
    wallet_updated: bool = False

    @property
    def public_status(self) -> PublicStatus:
        """Return the status in the public vocabulary."""
        return PUBLIC_STATUS[self.state]

    @property
    def is_done(self) -> bool:
        """Say whether nothing is left to do: failed or cancelled, or charged with both books written."""
        if self.state is State.SUCCESS:
            return self.ledger_updated and self.wallet_updated
        return self.state in TERMINAL

    @property
    def is_refused(self) -> bool:
        """Say whether every send of the current attempt had no effect, so that its key is as good as new.

        A copy of such a send, doubled by the wire, may still come to the PSP, and be charged under that key.
        """
        return self.sends == self.refusals > 0

    @property
    def idempotency_key(self) -> str:
        """Return the key under which the current attempt is known at the PSP."""
        return idempotency_key(self.payment_order_id, self.attempt)


def idempotency_key(payment_order_id: str, attempt: int) -> str:
    """Return the PSP key of an attempt: the order's own id first, then one derived from id and number.

    A resend uses the same key. A new attempt needs a new one because PSPs replay a saved decline (rule 2).
    The digest keeps keys under every PSP's length limit and apart from every admissible order id.
    """
    if attempt <= 1:
        return payment_order_id
    digest = sha256(f"{attempt}:{payment_order_id}".encode()).hexdigest()
    return f"{DERIVED_KEY_PREFIX}{digest}"


def partition_of(checkout_id: str) -> int:
    """Return the partition that owns a checkout and all its orders; the same on every machine, for ever."""
    return crc32(checkout_id.encode()) % PARTITIONS
