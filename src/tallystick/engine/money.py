"""Money: an integer of minor units and an ISO 4217 code, in one immutable type.

The outside carries decimal strings ("3.15"); inside there are only minor units (315). A float is never accepted.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from iso4217 import Currency

from tallystick.engine.errors import InvalidMoney

# Far above any card payment, and small enough that ten million of them still fit a 64-bit balance.
AMOUNT_MINOR_MAX = 10**12
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,15})(?:\.([0-9]{1,8}))?", re.ASCII)


@lru_cache(maxsize=512)
def exponent_of(currency: str) -> int:
    """Return how many decimals a currency has (JPY 0, EUR 2, KWD 3), by ISO 4217.

    Raises InvalidMoney for a code that is unknown, or that has no minor unit (gold, test codes).
    """
    try:
        exponent = Currency(currency).exponent
    except ValueError:
        exponent = None
    if exponent is None or not currency.isupper():
        raise InvalidMoney("currency", f"{currency!r} is not an ISO 4217 currency in which one can pay")
    return int(exponent)


class Money(msgspec.Struct, frozen=True, order=False):
    """An amount in minor units of one currency. Adding two currencies is an error."""

    minor: int
    currency: str

    @classmethod
    def parse(cls, amount: str, currency: str) -> "Money":
        """Read a decimal string such as "3.15"; refuse more decimals than the currency has.

        Raises InvalidMoney, which names the field that is wrong.
        """
        exponent = exponent_of(currency)
        match = _DECIMAL.fullmatch(amount)
        if match is None:
            raise InvalidMoney("amount", "must be a plain decimal number such as 3.15")
        whole, fraction = match[1], match[2] or ""
        if len(fraction) > exponent:
            raise InvalidMoney("amount", f"{currency} has {exponent} decimals, not {len(fraction)}")
        minor = int(whole) * 10**exponent + int(fraction.ljust(exponent, "0") or "0")
        if minor > AMOUNT_MINOR_MAX:
            raise InvalidMoney("amount", f"must be at most {cls(AMOUNT_MINOR_MAX, currency).decimal()}")
        return cls(minor, currency)

    def decimal(self) -> str:
        """Write the amount as a decimal string with all the currency's decimals ("3.10", "500", "-0.250")."""
        exponent = exponent_of(self.currency)
        sign, digits = ("-" if self.minor < 0 else ""), str(abs(self.minor)).rjust(exponent + 1, "0")
        return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}" if exponent else f"{sign}{digits}"

    def __str__(self) -> str:
        return f"{self.decimal()} {self.currency}"

    def __add__(self, other: "Money") -> "Money":
        return Money(self.minor + self._same_currency(other).minor, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.minor - self._same_currency(other).minor, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.minor, self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.minor < self._same_currency(other).minor

    def __le__(self, other: "Money") -> bool:
        return self.minor <= self._same_currency(other).minor

    def _same_currency(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise InvalidMoney("currency", f"{self.currency} and {other.currency} do not mix")
        return other

    def split(self, weights: Sequence[int]) -> list["Money"]:
        """Divide by integer weights without losing a minor unit (largest remainder; ties to the earlier share).

        Raises InvalidMoney when the weights are empty, negative, or all zero.
        """
        total = sum(weights)
        if total <= 0 or min(weights) < 0:
            raise InvalidMoney("weights", "must be non-negative and not all zero")
        shares = [self.minor * weight // total for weight in weights]
        remainders = [self.minor * weight % total for weight in weights]
        by_remainder = sorted(range(len(weights)), key=lambda index: -remainders[index])
        for index in by_remainder[: self.minor - sum(shares)]:
            shares[index] += 1
        return [Money(share, self.currency) for share in shares]
