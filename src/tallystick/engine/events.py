"""What can happen to a payment order: frozen, tagged, past tense.

Evidence is what a PSP (or a person, or a settlement line) told us about one attempt. The other events come from
the risk check, the clock, people, and the engine itself. `transitions.TABLE` has a cell for each of them in
every state.
"""

from enum import StrEnum

import msgspec

from tallystick.engine.money import Money


class Source(StrEnum):
    """Where a piece of evidence came from."""

    RESPONSE = "response"
    INQUIRY = "inquiry"
    VOID = "void"
    WEBHOOK = "webhook"
    SETTLEMENT = "settlement"
    PERSON = "person"


class DeclineClass(StrEnum):
    """What a decline means for a next attempt."""

    HARD = "hard"
    """Will never succeed with this token: stolen, expired, closed."""
    SOFT = "soft"
    """May succeed later: insufficient funds, issuer unavailable, try again."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something that happened, in the past tense."""


class Evidence(Event, frozen=True, kw_only=True):
    """Something the outside told us about one attempt."""

    source: Source
    psp: str
    attempt: int
    psp_reference: str | None = None


# --- evidence --------------------------------------------------------------------------------------------------


class Charged(Evidence, frozen=True, kw_only=True, tag="Charged"):
    """The PSP captured the money."""

    amount: Money


class Declined(Evidence, frozen=True, kw_only=True, tag="Declined"):
    """The PSP or the issuer refused. Certainly not charged."""

    code: str
    decline_class: DeclineClass
    retry_after_us: int | None = None


class NotExecuted(Evidence, frozen=True, kw_only=True, tag="NotExecuted"):
    """The request certainly had no effect: never connected, throttled, refused before processing."""

    reason: str
    retry_after_us: int | None = None


class Accepted(Evidence, frozen=True, kw_only=True, tag="Accepted"):
    """The PSP took the request and will tell the outcome later."""


class BuyerActionRequired(Evidence, frozen=True, kw_only=True, tag="BuyerActionRequired"):
    """The buyer must act (hosted page, 3-D Secure, voucher) at `url` before `expires_at`."""

    url: str
    expires_at: int


class OutcomeLost(Evidence, frozen=True, kw_only=True, tag="OutcomeLost"):
    """A call was made and nobody knows what came of it: time-out, broken connection, ambiguous 5xx."""

    reason: str


class NotFound(Evidence, frozen=True, kw_only=True, tag="NotFound"):
    """An inquiry found no such attempt. No evidence while the request may still arrive (rule 4)."""

    asked_at: int
    """When the inquiry was sent; what arrived at the PSP after that, it cannot have seen."""


class Voided(Evidence, frozen=True, kw_only=True, tag="Voided"):
    """The attempt's key is dead at the PSP: it has not charged and never will."""


# --- risk check --------------------------------------------------------------------------------------------------


class RiskAccepted(Event, frozen=True, kw_only=True, tag="RiskAccepted"):
    """The risk check let the order pass."""


class RiskFlagged(Event, frozen=True, kw_only=True, tag="RiskFlagged"):
    """The risk check wants a person to decide."""

    reasons: tuple[str, ...]


class RiskRefused(Event, frozen=True, kw_only=True, tag="RiskRefused"):
    """The risk check refused the order."""

    reasons: tuple[str, ...]


# --- people --------------------------------------------------------------------------------------------------


class ReviewApproved(Event, frozen=True, kw_only=True, tag="ReviewApproved"):
    """A person let an order in review pass."""

    by: str
    why: str


class ReviewRejected(Event, frozen=True, kw_only=True, tag="ReviewRejected"):
    """A person refused an order in review."""

    by: str
    why: str


class CancelRequested(Event, frozen=True, kw_only=True, tag="CancelRequested"):
    """Somebody asked to stop the order."""

    by: str
    why: str


class RetryRequested(Event, frozen=True, kw_only=True, tag="RetryRequested"):
    """A person asked for a new attempt of a failed order, from the dead-letter queue."""

    by: str
    why: str


# --- clock and engine ------------------------------------------------------------------------------------------


class WakeTimeReached(Event, frozen=True, kw_only=True, tag="WakeTimeReached"):
    """The order's `wake_at` has come."""


class EngineRestarted(Event, frozen=True, kw_only=True, tag="EngineRestarted"):
    """The order was read back from the store after its actor ended: what was under way is unknown."""


class LedgerPosted(Event, frozen=True, kw_only=True, tag="LedgerPosted"):
    """The ledger holds the order's transfers, and the flag was set in the same commit."""


class WalletCredited(Event, frozen=True, kw_only=True, tag="WalletCredited"):
    """The seller's wallet holds the order's entry, and the flag was set in the same commit."""


AnyEvidence = Charged | Declined | NotExecuted | Accepted | BuyerActionRequired | OutcomeLost | NotFound | Voided
AnyEvent = (
    AnyEvidence
    | RiskAccepted
    | RiskFlagged
    | RiskRefused
    | ReviewApproved
    | ReviewRejected
    | CancelRequested
    | RetryRequested
    | WakeTimeReached
    | EngineRestarted
    | LedgerPosted
    | WalletCredited
)
EVENTS: tuple[type[Event], ...] = AnyEvent.__args__
