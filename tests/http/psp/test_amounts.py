"""Every oddity of the PSP's units: what is sent means exactly what is meant, or it is not sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.engine.errors import InvalidMoney
from tallystick.engine.money import Money
from tallystick.http.psp.amounts import AmountNotSupported, from_psp, to_psp
from tallystick.sim.psp.units import from_iso, refusal


@pytest.mark.parametrize(
    ("decimal", "currency", "units"),
    [
        ("3.15", "EUR", 315),
        ("0.01", "USD", 1),
        ("500", "JPY", 500),  # Not 50,000: no decimals in ISO, none here.
        ("500", "KRW", 500),
        ("500", "ISK", 50_000),  # No decimals in ISO, two here.
        ("500", "UGX", 50_000),
        ("1.230", "KWD", 1230),  # Three decimals, of which the last is 0; not 123.
        ("1.230", "BHD", 1230),
        ("1.230", "TND", 1230),
        ("1.2345", "CLF", 12345),
    ],
)
def test_units(decimal: str, currency: str, units: int) -> None:
    money = Money.parse(decimal, currency)
    assert to_psp(money) == units
    assert from_psp(units, currency) == money


@pytest.mark.parametrize("currency", ["KWD", "BHD", "TND", "JOD", "OMR"])
def test_a_third_decimal_is_refused_not_rounded(currency: str) -> None:
    with pytest.raises(AmountNotSupported):
        to_psp(Money.parse("1.234", currency))


def test_a_fraction_of_a_currency_without_decimals_is_no_money() -> None:
    with pytest.raises(InvalidMoney):
        from_psp(50_050, "ISK")


@given(st.integers(1, 10**12), st.sampled_from(["EUR", "JPY", "ISK", "UGX", "KWD", "CLF", "CLP", "IDR", "CVE"]))
def test_both_sides_mean_the_same(minor: int, currency: str) -> None:
    """The adapter's table and the PSP's own agree on every amount that the adapter sends."""
    money = Money(minor, currency)
    try:
        units = to_psp(money)
    except AmountNotSupported:
        assert refusal(from_iso(money), currency) == "amount_not_supported"
        return
    assert units == from_iso(money)
    assert refusal(units, currency) is None
    assert from_psp(units, currency) == money
