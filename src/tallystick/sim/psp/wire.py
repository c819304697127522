"""What the simulated PSP's HTTP API takes and gives. The client has structs of its own, as with any vendor."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from tallystick.sim.psp.model import Payment, Status

_SECOND_US = 1_000_000
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')
_Id = Annotated[str, Meta(min_length=1, max_length=255)]


class ChargeIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/charges."""

    amount: int
    currency: str
    merchant_reference: _Id
    source: _Id
    """A token."""


class PageIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/pages."""

    amount: int
    currency: str
    merchant_reference: _Id
    return_url: Annotated[str, Meta(max_length=2048)] | None = None


class VoidIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/voids."""

    merchant_reference: _Id
    idempotency_key: _Id


class DeclineOut(msgspec.Struct, frozen=True, kw_only=True, rename={"advice": "class"}):
    """Why a charge was declined. `class` is hard (do not try again) or soft (may succeed later)."""

    code: str
    advice: Literal["hard", "soft"]


class ActionOut(msgspec.Struct, frozen=True, kw_only=True):
    """Where the buyer must go, until when (Unix time in seconds)."""

    url: str
    expires_at: int


class ChargeOut(msgspec.Struct, frozen=True, kw_only=True):
    """A charge. Amounts are integers in the PSP's units; times are Unix times in seconds."""

    id: str
    status: Status
    amount: int
    currency: str
    merchant_reference: str
    idempotency_key: str
    created: int
    decline: DeclineOut | None = None
    action: ActionOut | None = None


class ChargesOut(msgspec.Struct, frozen=True, kw_only=True):
    """All charges of a merchant reference, oldest first."""

    data: list[ChargeOut]


class CaptureOut(msgspec.Struct, frozen=True, kw_only=True):
    """One capture of the hidden ledger. `amount` is decimal, with the currency's ISO number of decimals."""

    seq: int
    psp_reference: str
    idempotency_key: str
    merchant_reference: str
    amount: str
    currency: str
    at: int
    """Microseconds since the Unix epoch."""


class LedgerOut(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the hidden ledger. `next_after` continues; None at the end."""

    captures: list[CaptureOut]
    total: int
    next_after: int | None


class ErrorOut(msgspec.Struct, frozen=True, kw_only=True):
    """What was wrong."""

    type: Literal["invalid_request", "authentication", "idempotency", "rate_limit", "api_error"]
    code: str
    message: str


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no charge. Nothing was executed, except perhaps for `api_error`."""

    error: ErrorOut


def charge_out(payment: Payment, public_url: str) -> ChargeOut:
    """Return a payment as the API shows it."""
    decline = action = None
    if payment.status is Status.DECLINED:
        decline = DeclineOut(code=payment.code or "declined", advice="soft" if payment.soft else "hard")
    if payment.status is Status.ACTION_REQUIRED and payment.due_at is not None:
        # Rounded up: a page is never said to be closed while it is open.
        expires_at = -(-payment.due_at // _SECOND_US)
        action = ActionOut(url=f"{public_url}/pages/{payment.page}", expires_at=expires_at)
    return ChargeOut(
        id=payment.psp_reference,
        status=payment.status,
        amount=payment.amount,
        currency=payment.currency,
        merchant_reference=payment.merchant_reference,
        idempotency_key=payment.key,
        created=payment.created_at // _SECOND_US,
        decline=decline,
        action=action,
    )


def unquoted(header: str) -> str | None:
    """Return an Idempotency-Key, sent bare or as a quoted structured-field string; None when it is neither.

    Source: RFC 8941, section 3.3.3; visible ASCII and spaces only.
    """
    key = header.strip()
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        if quoted is None:
            return None
        key = _ESCAPED.sub(r"\1", quoted[1])
    length_max = 255
    return key if 0 < len(key) <= length_max and key.isascii() and key.isprintable() else None


def is_return_url(url: str) -> bool:
    """Say whether a buyer may be sent back to this address."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(" \"'<>;,\\")
    return plain and parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
