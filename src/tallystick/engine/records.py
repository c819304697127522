"""What a decision consists of: what is written with a move, and what is asked of the outside after its commit."""

from enum import StrEnum

import msgspec

from tallystick.engine.order import Order
from tallystick.engine.retry import PspPolicy


class Effect(StrEnum):
    """What a decision asks the outside to do, after its commit."""

    CHECK_RISK = "check_risk"
    SEND_TO_PSP = "send_to_psp"
    INQUIRE_AT_PSP = "inquire_at_psp"
    VOID_AT_PSP = "void_at_psp"
    POST_TO_LEDGER = "post_to_ledger"
    CREDIT_WALLET = "credit_wallet"


# --- records: what is written in the same commit as the move ---------------------------------------------------


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="record"):
    """Something that is written together with the move."""


class AttemptBegun(Record, frozen=True, kw_only=True, tag="AttemptBegun"):
    """A new attempt is about to be sent: its row, before the call (rule 1)."""

    attempt: int
    psp: str
    idempotency_key: str
    begun_at: int


class AttemptResent(Record, frozen=True, kw_only=True, tag="AttemptResent"):
    """The current attempt is about to be sent once more under its key."""

    attempt: int
    sends: int
    sent_at: int


class AttemptResolved(Record, frozen=True, kw_only=True, tag="AttemptResolved"):
    """What came of an attempt; `result` is the tag of the evidence."""

    attempt: int
    result: str
    code: str | None
    psp_reference: str | None
    resolved_at: int


class MismatchOpened(Record, frozen=True, kw_only=True, tag="MismatchOpened"):
    """Evidence contradicts what we believe; a person or a policy must end it. Opened once per `mismatch_id`."""

    mismatch_id: str
    kind: str
    attempt: int
    psp: str
    psp_reference: str | None
    amount_minor: int
    currency: str
    remedy: str


class DeadLettered(Record, frozen=True, kw_only=True, tag="DeadLettered"):
    """The order needs a person: it failed for good, or its outcome stayed unknown past the bound."""

    reason: str


class DeadLetterClosed(Record, frozen=True, kw_only=True, tag="DeadLetterClosed"):
    """The order's dead letter is ended."""

    resolution: str


class Published(Record, frozen=True, kw_only=True, tag="Published"):
    """A business event for the outbox."""

    kind: str


AnyRecord = (
    AttemptBegun | AttemptResent | AttemptResolved | MismatchOpened | DeadLettered | DeadLetterClosed | Published
)


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision may know beside the order and the event."""

    now: int
    jitter: int
    """A random number in [0, 1000), drawn by the caller."""
    policy: PspPolicy
    """Of the order's PSP, or of the one in `route` before there is one."""
    route: str
    """The PSP at which a new attempt would be made."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The order as it shall be, what to write with it, and what to do once that is committed."""

    order: Order
    effects: tuple[Effect, ...] = ()
    records: tuple[AnyRecord, ...] = ()


class Ignored(msgspec.Struct, frozen=True):
    """Nothing changes, and why."""

    why: str


Outcome = Decision | Ignored
