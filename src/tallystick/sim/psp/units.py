"""The simulated PSP's own idea of amounts, which differs from ISO 4217 in the ways that Stripe's API does.

ISK and UGX, which have no decimals, are two-decimal here and must be multiples of 100; amounts of three-decimal
currencies must end in 0. Source: Stripe's documentation, "Supported currencies, special cases".
Kept apart from the table of the HTTP adapter on purpose: each side must get it right on its own.
"""

from functools import lru_cache

from iso4217 import Currency

from tallystick.engine.money import Money

# Charged as if they had two decimals, although they have none.
_PADDED = frozenset({"ISK", "UGX"})
_PADDING = 100
AMOUNT_MAX = 10**14


@lru_cache(maxsize=512)
def exponent_of(currency: str) -> int | None:
    """Return the decimals that an amount has in this PSP's API; None for a currency that it does not take."""
    if currency in _PADDED:
        return 2
    try:
        exponent = Currency(currency).exponent
    except ValueError:
        return None
    return None if exponent is None or not currency.isupper() else int(exponent)


def refusal(amount: int, currency: str) -> str | None:
    """Return the code with which the PSP refuses an amount in its own units, or None when it takes it."""
    exponent = exponent_of(currency)
    if exponent is None:
        return "currency_not_supported"
    if not 0 < amount <= AMOUNT_MAX:
        return "amount_out_of_range"
    three_decimals = 3
    if (exponent == three_decimals and amount % 10) or (currency in _PADDED and amount % _PADDING):
        return "amount_not_supported"
    return None


def from_iso(amount: Money) -> int:
    """Return an amount in the PSP's units."""
    return amount.minor * _PADDING if amount.currency in _PADDED else amount.minor


def to_iso(amount: int, currency: str) -> Money:
    """Return an amount in the PSP's units as money."""
    return Money(amount // _PADDING if currency in _PADDED else amount, currency)


def decimal(amount: int, currency: str) -> str:
    """Write an amount in the PSP's units as a decimal string with the currency's own number of decimals."""
    return to_iso(amount, currency).decimal()
