"""What the simulated PSP remembers and answers: plain frozen values, and the state that holds them."""

from enum import StrEnum

import msgspec


class Status(StrEnum):
    """Where a payment stands at the PSP."""

    CHARGED = "charged"
    DECLINED = "declined"
    VOIDED = "voided"
    PENDING = "pending"
    ACTION_REQUIRED = "action_required"


class Payment(msgspec.Struct, frozen=True, kw_only=True, tag="payment", omit_defaults=True):
    """What the PSP knows under one key. Amounts are in the PSP's own units (see units.py)."""

    psp_reference: str
    key: str
    merchant_reference: str
    created_at: int
    status: Status
    amount: int = 0
    """0, with no currency, in the tombstone of a key that was voided unseen."""
    currency: str = ""
    token: str | None = None
    """None for a hosted page."""
    code: str | None = None
    """Why it was, or will be, declined."""
    soft: bool = False
    due_at: int | None = None
    """When a pending payment becomes `then`, or a page expires."""
    then: Status | None = None
    page: str | None = None
    """The unguessable token of the page on which the buyer acts."""
    return_url: str | None = None
    charged_at: int | None = None


class ThrottledOnce(msgspec.Struct, frozen=True, kw_only=True, tag="throttled"):
    """A merchant reference has had its one 429 (`tok_429_once`)."""

    merchant_reference: str


class Throttled(msgspec.Struct, frozen=True, kw_only=True):
    """Refused before processing; nothing was saved."""

    retry_after_us: int | None = None


class KeyReused(msgspec.Struct, frozen=True, kw_only=True):
    """The key came before with another body; this body was not executed."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The request makes no sense to the PSP; nothing was saved."""

    code: str


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the hidden ledger: money that was really taken, in the PSP's own units."""

    psp_reference: str
    key: str
    merchant_reference: str
    amount: int
    currency: str
    at: int


class PageAction(StrEnum):
    """What a buyer does on a page."""

    PAY = "pay"
    DECLINE = "decline"
    ABANDON = "abandon"
    """Goes away; the page stays open until it expires."""


Change = Payment | ThrottledOnce
Reply = Payment | Throttled | KeyReused | Refused


class PspState(msgspec.Struct, kw_only=True):
    """Everything the PSP remembers."""

    payments: dict[str, Payment] = msgspec.field(default_factory=dict)
    """By PSP reference."""
    keys: dict[str, str] = msgspec.field(default_factory=dict)
    """The PSP reference that a key stands for now (an expired key may come to stand for another)."""
    attempts: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """The PSP references of a merchant reference, oldest first."""
    pages: dict[str, str] = msgspec.field(default_factory=dict)
    throttled: dict[str, None] = msgspec.field(default_factory=dict)
    captures: list[Capture] = msgspec.field(default_factory=list)
    due: list[tuple[int, str]] = msgspec.field(default_factory=list)
    """A heap of (due_at, PSP reference)."""
