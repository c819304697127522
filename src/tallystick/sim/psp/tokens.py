"""Magic tokens: what the simulated PSP does with each, like the test cards of real PSPs.

A token has an outcome (what the issuer says) and manners (what happens to the messages around it). The model
knows outcomes; the faces act out the manners, since a model has no network.
"""

from enum import StrEnum

import msgspec

SECOND_US = 1_000_000


class Outcome(StrEnum):
    """What becomes of a charge that reaches the PSP."""

    CHARGE = "charge"
    DECLINE = "decline"
    DECLINE_FIRST = "decline_first"
    """Declined on the first attempt of a merchant reference, charged on later ones."""
    PEND = "pend"
    """Accepted, charged after `delay_us`."""
    PEND_DECLINE = "pend_decline"
    """Accepted, declined after `delay_us`."""
    CHALLENGE = "challenge"
    """The buyer must act on a page (3-D Secure)."""
    THROTTLE = "throttle"
    """Refused before processing, always."""
    THROTTLE_ONCE = "throttle_once"
    """Refused before processing the first time that a merchant reference is seen, with Retry-After."""


class Manners(StrEnum):
    """What happens to the messages. The first two last until the PSP knows of any attempt of the order."""

    NORMAL = "normal"
    LOSE_REQUEST = "lose_request"
    ERROR_BEFORE = "error_before"
    """Answers 500 and has done nothing."""
    LOSE_RESPONSE = "lose_response"
    ERROR_AFTER = "error_after"
    """Answers 500 although it has charged."""
    SLOW = "slow"
    """Answers `delay_us` late."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """How the PSP treats one magic token."""

    about: str
    outcome: Outcome = Outcome.CHARGE
    manners: Manners = Manners.NORMAL
    code: str | None = None
    """The decline's code."""
    soft: bool = False
    """Whether the decline may turn into a charge later."""
    delay_us: int = 0


def _declined(code: str, about: str, *, soft: bool = False, outcome: Outcome = Outcome.DECLINE) -> Token:
    return Token(about=about, outcome=outcome, code=code, soft=soft)


TOKENS: dict[str, Token] = {
    "tok_visa": Token(about="charged"),
    "tok_mastercard": Token(about="charged"),
    "tok_declined": _declined("card_declined", "declined for good"),
    "tok_expired": _declined("expired_card", "declined for good: the card has expired"),
    "tok_stolen": _declined("stolen_card", "declined for good: reported stolen"),
    "tok_insufficient_funds": _declined("insufficient_funds", "declined for now, every time", soft=True),
    "tok_insufficient_funds_once": _declined(
        "insufficient_funds",
        "declined for now on the first attempt, charged on the next",
        soft=True,
        outcome=Outcome.DECLINE_FIRST,
    ),
    "tok_pending_5s": Token(
        about="accepted at once, charged 5 s later", outcome=Outcome.PEND, delay_us=5 * SECOND_US
    ),
    "tok_pending_then_declined": Token(
        about="accepted at once, declined for good 5 s later",
        outcome=Outcome.PEND_DECLINE,
        code="card_declined",
        delay_us=5 * SECOND_US,
    ),
    "tok_3ds": Token(about="the buyer must confirm on a page (3-D Secure)", outcome=Outcome.CHALLENGE),
    "tok_timeout": Token(about="charged, and the response never comes", manners=Manners.LOSE_RESPONSE),
    "tok_timeout_lost": Token(
        about="the request is lost and nothing comes back, until the key is voided; the next attempt is charged",
        manners=Manners.LOSE_REQUEST,
    ),
    "tok_error_500_before": Token(
        about="answers 500 without having charged, until the key is voided; the next attempt is charged",
        manners=Manners.ERROR_BEFORE,
    ),
    "tok_error_500_after": Token(about="charged, and answers 500", manners=Manners.ERROR_AFTER),
    "tok_429_once": Token(
        about="throttled the first time (429 with Retry-After: 1), then charged",
        outcome=Outcome.THROTTLE_ONCE,
        delay_us=SECOND_US,
    ),
    "tok_not_executed": Token(
        about="refused before processing, every time (429 without Retry-After)", outcome=Outcome.THROTTLE
    ),
    "tok_slow_2s": Token(about="charged, answered after 2 s", manners=Manners.SLOW, delay_us=2 * SECOND_US),
}

UNKNOWN_TOKEN = _declined("invalid_token", "declined for good: the PSP never issued this token")


def treatment(token: str) -> Token:
    """Return how the PSP treats a token; one that it does not know is declined for good."""
    return TOKENS.get(token, UNKNOWN_TOKEN)
