"""Amounts as the simulated PSP's API takes them: integers in its own units, which are not always ISO 4217's.

Each oddity has a line here and a test. What cannot be sent exactly is refused, never rounded.
"""

from tallystick.engine.errors import InvalidMoney
from tallystick.engine.money import Money, exponent_of

# How many decimals the PSP's API has, where that is not what ISO 4217 says.
# ISK and UGX lost their decimals; the API kept them, and takes whole units only (multiples of 100).
PSP_EXPONENTS = {"ISK": 2, "UGX": 2}

# Of three decimals the schemes carry two: the last digit must be 0.
_THREE_DECIMALS = 3


class AmountNotSupported(InvalidMoney):
    """This PSP cannot charge this amount, ever."""


def to_psp(amount: Money) -> int:
    """Return the integer that stands for an amount in the PSP's API. Raises AmountNotSupported."""
    exponent = exponent_of(amount.currency)
    if exponent == _THREE_DECIMALS and amount.minor % 10:
        raise AmountNotSupported("amount", f"{amount} ends in a third decimal, which this PSP does not take")
    return int(amount.minor * 10 ** _shift(amount.currency, exponent))


def from_psp(value: int, currency: str) -> Money:
    """Return what an integer in the PSP's API stands for. Raises InvalidMoney when that is no amount of money."""
    minor, rest = divmod(value, 10 ** _shift(currency, exponent_of(currency)))
    if rest:
        raise InvalidMoney("amount", f"{value} is not a whole number of {currency}")
    return Money(minor, currency)


def _shift(currency: str, exponent: int) -> int:
    return PSP_EXPONENTS.get(currency, exponent) - exponent
