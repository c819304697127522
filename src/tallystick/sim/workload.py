"""What buyers want: checkouts drawn from the tape, each from a stream of its own, so that any can be left out."""

from collections.abc import Iterator

import msgspec

from tallystick.engine.doors import CardInfo, PaymentEvent, PaymentOrderRequest
from tallystick.engine.money import Money
from tallystick.sim.clock import SECOND_US
from tallystick.sim.options import RunOptions
from tallystick.sim.tape import Stream, Tape

SELLERS = ("DE89370400440532013000", "FR1420041010050500013M02606", "GB29NWBK60161331926819")

# The first of each is the benign choice. Amounts come in steps that every PSP takes: some refuse single fils.
_CURRENCIES = (("EUR", 1), ("JPY", 1), ("KWD", 10), ("USD", 1))
_TOKENS: tuple[tuple[str | None, int], ...] = (
    ("tok_visa", 40),
    ("tok_mastercard", 10),
    (None, 12),  # the hosted page
    ("tok_3ds", 8),
    ("tok_pending_5s", 8),
    ("tok_insufficient_funds_once", 8),
    ("tok_declined", 4),
    ("tok_insufficient_funds", 4),
    ("tok_pending_then_declined", 3),
    ("tok_429_once", 3),
)
_START_MAX_S = 30


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """One buyer's checkout, and when it comes."""

    number: int
    at_us: int
    event: PaymentEvent

    @property
    def amounts(self) -> dict[str, tuple[str, str]]:
        """Return what was asked for, by payment order: amount and currency."""
        return {line.payment_order_id: (line.amount, line.currency) for line in self.event.payment_orders}


def checkouts(tape: Tape, options: RunOptions) -> Iterator[Checkout]:
    """Draw checkouts until they have the number of payment orders that was asked for."""
    sizes = tape.stream("workload/sizes")
    left, number = options.orders, 0
    while left > 0:
        number += 1
        size = min(left, 1 + sizes.weighted((60, 20, 12, 8)))
        left -= size
        if number not in options.skip:
            yield _checkout(number, size, tape.stream(f"workload/checkout-{number}"))


def _checkout(number: int, size: int, stream: Stream) -> Checkout:
    token = _TOKENS[stream.weighted([weight for _, weight in _TOKENS])][0]
    at_us = stream.below(_START_MAX_S * 10) * SECOND_US // 10
    currency, step = stream.pick(_CURRENCIES)
    lines = [
        PaymentOrderRequest(
            payment_order_id=f"order-{number}-{line}",
            seller_account=stream.pick(SELLERS),
            amount=Money(stream.between(1, 9_999) * step, currency).decimal(),
            currency=currency,
        )
        for line in range(1, size + 1)
    ]
    event = PaymentEvent(
        checkout_id=f"checkout-{number}",
        buyer_info={"name": f"Buyer {number}", "email": f"buyer{number}@example.com"},
        credit_card_info=CardInfo(method="hosted_page") if token is None else CardInfo(token=token),
        payment_orders=lines,
    )
    return Checkout(number=number, at_us=at_us, event=event)
