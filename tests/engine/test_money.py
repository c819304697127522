"""Goal: an amount is exact from the caller's string to the last minor unit, in every currency."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.engine.errors import InvalidMoney
from tallystick.engine.money import AMOUNT_MINOR_MAX, Money, exponent_of

CURRENCIES = ("JPY", "EUR", "KWD", "CLF")


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("3.15", "EUR", 315),
        ("3.1", "EUR", 310),
        ("3", "EUR", 300),
        ("0.01", "EUR", 1),
        ("0", "EUR", 0),
        ("500", "JPY", 500),
        ("0.250", "KWD", 250),
        ("0.0001", "CLF", 1),
        ("10000000000.00", "EUR", AMOUNT_MINOR_MAX),
    ],
)
def test_reading_a_decimal_string(text: str, currency: str, minor: int) -> None:
    """Minor units follow ISO 4217: none for the yen, three for the dinar, four for the unidad de fomento."""
    assert Money.parse(text, currency) == Money(minor, currency)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        "-1",
        "1.",
        ".5",
        "01",
        "1e3",
        "1,5",
        "1_000",
        "٣",
        "NaN",
        "0x10",
        "1.999",
        "1\n",
        "1.0.0",
    ],
)
def test_anything_but_a_plain_decimal_is_refused(text: str) -> None:
    """No signs, exponents, separators, other digits, spaces, or more decimals than the currency has."""
    with pytest.raises(InvalidMoney) as caught:
        Money.parse(text, "EUR")
    assert caught.value.field == "amount"


@pytest.mark.parametrize("currency", ["", "eur", "Eur", "EURO", "XXX", "XAU", "XTS", "ZZZ", "978", "€"])
def test_what_is_no_currency_is_refused(currency: str) -> None:
    """Unknown codes, lower case, gold and test codes are nothing in which one can pay."""
    with pytest.raises(InvalidMoney) as caught:
        Money.parse("1", currency)
    assert caught.value.field == "currency"


def test_too_much_is_refused() -> None:
    """The bound is in minor units, so that sums of many stay within 64 bits."""
    with pytest.raises(InvalidMoney):
        Money.parse("10000000000.01", "EUR")
    assert AMOUNT_MINOR_MAX * 9_000_000 < 2**63


@given(st.integers(0, AMOUNT_MINOR_MAX), st.sampled_from(CURRENCIES))
def test_writing_and_reading_is_the_identity(minor: int, currency: str) -> None:
    """Round trip, with exactly the currency's decimals."""
    text = Money(minor, currency).decimal()
    assert Money.parse(text, currency) == Money(minor, currency)
    assert len(text.partition(".")[2]) == exponent_of(currency)


def test_writing_negative_amounts() -> None:
    """Corrections are negative; their text has the sign in front."""
    assert Money(-250, "KWD").decimal() == "-0.250"
    assert str(-Money(500, "JPY")) == "-500 JPY"


def test_currencies_do_not_mix() -> None:
    """Adding or comparing euros and yen is an error, not a number."""
    euro, yen = Money(1, "EUR"), Money(1, "JPY")
    for mix in (lambda: euro + yen, lambda: euro - yen, lambda: euro < yen, lambda: euro <= yen):
        with pytest.raises(InvalidMoney):
            mix()
    assert euro != yen
    assert euro + euro - euro == euro


@given(st.integers(-(10**9), AMOUNT_MINOR_MAX), st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_splitting_loses_nothing(minor: int, weights: list[int]) -> None:
    """The parts add up to the whole, and each is within one minor unit of its exact share."""
    total = sum(weights)
    if not total:
        return
    parts = Money(minor, "EUR").split(weights)
    assert sum(part.minor for part in parts) == minor
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part.minor * total - minor * weight) < total
        assert weight or not part.minor


def test_splitting_favours_the_largest_remainder_then_the_earlier() -> None:
    """A rule that a person can redo on paper."""
    assert [part.minor for part in Money(100, "EUR").split([1, 1, 1])] == [34, 33, 33]
    assert [part.minor for part in Money(100, "EUR").split([1, 2])] == [33, 67]
    assert [part.minor for part in Money(5, "JPY").split([0, 3, 1])] == [0, 4, 1]


@pytest.mark.parametrize("weights", [[], [0, 0], [2, -1]])
def test_weights_that_divide_nothing_are_refused(weights: list[int]) -> None:
    """Nobody gets a share of nothing."""
    with pytest.raises(InvalidMoney):
        Money(100, "EUR").split(weights)
