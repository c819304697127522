"""What the engine offers to its doors (HTTP, command line, an embedding program), as a Protocol.

`actors.engine.Engine` implements it. The types of a checkout as callers state it are here, too.
"""

from typing import Any, Protocol

import msgspec

from tallystick.engine.intents import IdempotencyClaim
from tallystick.engine.order import Order
from tallystick.engine.ports import Clock, Store
from tallystick.engine.views import CheckoutView


class CardInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the buyer pays: a token of the PSP, or the PSP's hosted page. Never card data."""

    token: str | None = None
    method: str | None = None


class PaymentOrderRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One seller's part of a checkout, as the caller states it."""

    payment_order_id: str
    seller_account: str
    amount: str
    currency: str


class PaymentEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkout, as the caller states it. `intake.admit` checks it and makes it an intent."""

    checkout_id: str
    buyer_info: dict[str, Any]
    credit_card_info: str | CardInfo
    payment_orders: list[PaymentOrderRequest]


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The event is durable, and will be carried out exactly once."""

    checkout_id: str
    payment_order_ids: tuple[str, ...]
    accepted_at: int
    new: bool
    """False when the same content had been accepted before; nothing was done again."""


class Door(Protocol):
    """A running engine, as seen from outside."""

    @property
    def store(self) -> Store:
        """For reads."""
        ...

    @property
    def clock(self) -> Clock:
        """The engine's clock."""
        ...

    async def submit(self, event: PaymentEvent, *, claim: IdempotencyClaim | None = None) -> Receipt:
        """Record a checkout durably and start carrying it out. Returns after the commit.

        Raises InvalidRequest or InvalidMoney (names the field, nothing stored), ContentConflict (same id, other
        content), Overloaded (nothing stored, try later), StoreUnavailable or CommitUnknown (send it again: the
        checkout_id makes that safe).
        """
        ...

    async def wait(self, checkout_id: str, *, timeout_s: float) -> CheckoutView:
        """Return the checkout once it is done, or as it is after `timeout_s`. Raises NotFoundError."""
        ...

    async def retry(self, payment_order_id: str, *, by: str, why: str) -> Order:
        """Begin one more attempt of a failed order. Raises NotFoundError, MoveRefused, Overloaded."""
        ...

    def not_ready_because(self) -> str | None:
        """Return why the engine cannot take payments now, or None when it can."""
        ...

    def metrics_text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        ...
