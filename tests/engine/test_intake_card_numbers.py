"""Goal: a card number is found wherever and however it is written, and what only looks like one is let through."""

import contextlib
import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tallystick.engine.card_numbers import holds_card_number, mask_card_numbers
from tallystick.engine.doors import CardInfo, PaymentEvent, PaymentOrderRequest
from tallystick.engine.errors import InvalidMoney, InvalidRequest
from tallystick.engine.intake import admit

# Published test numbers of the schemes.
CARDS = [
    "4111111111111111",
    "4242424242424242",
    "4222222222222",  # Visa of 13 digits
    "4000000000000000006",  # Visa of 19 digits
    "5555555555554444",
    "5105105105105100",
    "2223003122003222",
    "378282246310005",
    "371449635398431",
    "30569309025904",
    "38520000023237",
    "36227206271667",
    "6011111111111117",
    "6011000990139424",
    "3530111333300000",
    "3566002020360505",
    "6200000000000005",
    "6759649826438453",
    "6304000000000000",
    "2200000000000004",
]
VISA = CARDS[0]
GROUPS = [VISA[i : i + 4] for i in range(0, 16, 4)]


@pytest.mark.parametrize("card", CARDS)
def test_every_scheme_is_known(card: str) -> None:
    assert holds_card_number(card)


@pytest.mark.parametrize(
    "gap",
    [
        *(
            " ",
            "-",
            ".",
            "/",
            "_",
            ",",
            ":",
            "*",
            "\t",
            "\n",
            "\r\n",
            " - ",
            "\u00a0",
            "\u2007",
            "\u200b",
            "\u2013",
        ),
        *(" " * 9, "." * 500, " \n" * 100),
        *("\u2212", "\u00b7", "\u3000", "\u0301", "\ufeff", "\U0001f4b3", " / "),
    ],
)
def test_any_separator_is_seen_through(gap: str) -> None:
    assert holds_card_number(gap.join(GROUPS))
    assert holds_card_number(gap.join(VISA))


@pytest.mark.parametrize("zero", ["\uff10", "\u0660", "\u06f0", "\u0966", "\U0001d7ce", "\U0001d7f6", "\u0e50"])
def test_digits_of_any_script_are_digits(zero: str) -> None:
    assert holds_card_number("".join([chr(ord(zero) + int(digit)) for digit in VISA]))


def test_circled_and_raised_digits_are_digits() -> None:
    assert holds_card_number("④" + "①" * 15)
    assert holds_card_number("⁴" + "¹" * 15)


@pytest.mark.parametrize(
    "text",
    [
        f"card {VISA}!",
        f"x{VISA}y",
        f"12 {VISA} 03/27 123",
        f"%B{VISA}^LEE/ANN^2703101",
        f"{VISA}=2703101",
        "my number is 4111 1111 1111 1111, thanks",
        "4111111111111111".rjust(40, "z"),
        f"+{VISA}",
        f"tok_{VISA}",
        f"{VISA}abcdabcd",  # of the length of an object id
        f"abcd{VISA}abcd",
        f"abcdef0123abcdef{VISA}",  # of a digest's
        f"{VISA}{'a' * 24}",
        f"{VISA}{'a' * 48}",
    ],
)
def test_a_number_within_other_text_is_found(text: str) -> None:
    assert holds_card_number(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4111111111111112",  # fails Luhn
        "1770000000000000",  # a time in microseconds
        "1234567890123452",  # passes Luhn, begins like no card
        "0000000000000000",
        "41111111111",
        "4111111111111111" * 3,  # one group, longer than any card
        "2026-03-01T12:34:56.789012Z",
        "550e8400-e29b-41d4-a716-446655440000",
        "550e8400-e29b-41d4-a716-446655440000 and 9b2d6c1e-4111-1111-8111-111111110000",
        "0123456789abcdef4111111111111112",  # an MD5-like digest
        "d41d8cd98f00b204e9800998ecf8427e",
        "507f1f77bcf86cd799439011",
        "abcdef500000000611abcdef",  # twelve digits that pass
        "4111a1111b1111c1111",
        "order 4111, street 1111, flat 1, floor 1",
    ],
)
def test_what_is_no_card_number_is_let_through(text: str) -> None:
    assert not holds_card_number(text)


@given(st.uuids())
def test_no_uuid_with_a_letter_is_taken_for_a_card(value: uuid.UUID) -> None:
    if any(char.isalpha() for char in str(value)):
        assert not holds_card_number(str(value))


@given(st.text(), st.sampled_from(CARDS), st.text())
def test_masking_leaves_no_card_number(before: str, card: str, after: str) -> None:
    masked = mask_card_numbers(f"{before} :: {card} :: {after}")
    assert card not in masked
    assert not holds_card_number(masked)


EVENT = PaymentEvent(
    checkout_id="checkout-1",
    buyer_info={},
    credit_card_info=CardInfo(token="tok_visa"),
    payment_orders=[
        PaymentOrderRequest(
            payment_order_id="order-1", seller_account="DE89370400440532013000", amount="3.15", currency="EUR"
        )
    ],
)


def _with_order(**changes: Any) -> PaymentEvent:
    return replace(EVENT, payment_orders=[replace(EVENT.payment_orders[0], **changes)])


def _places(card: Any) -> list[tuple[str, PaymentEvent]]:
    buyers: list[tuple[str, Any]] = [
        ("buyer_info.note", {"note": card}),
        ("buyer_info.name", {"name": card}),
        ("buyer_info.email", {"email": f"{card}@example.com"}),
        ("buyer_info.phone", {"phone": card}),
        ("buyer_info.address.line1", {"address": {"line1": card}}),
        ("buyer_info.a[1].b", {"a": [0, {"b": card}]}),
        ("buyer_info", {card: 1}),
        ("buyer_info.a", {"a": {card: 1}}),
        ("buyer_info.*", {"näme": card}),
        ("buyer_info.country", {"country": card}),
        ("buyer_info.ip", {"ip": card}),
        ("buyer_info.buyer_account", {"buyer_account": card}),
    ]
    return [
        ("checkout_id", replace(EVENT, checkout_id=card)),
        ("credit_card_info", replace(EVENT, credit_card_info=card)),
        ("credit_card_info.token", replace(EVENT, credit_card_info=CardInfo(token=card))),
        ("credit_card_info.method", replace(EVENT, credit_card_info=CardInfo(method=card))),
        ("payment_orders[0].payment_order_id", _with_order(payment_order_id=card)),
        ("payment_orders[0].seller_account", _with_order(seller_account=card)),
        ("payment_orders[0].amount", _with_order(amount=card)),
        ("payment_orders[0].currency", _with_order(currency=card)),
        *[(field, replace(EVENT, buyer_info=info)) for field, info in buyers],
    ]


@pytest.mark.parametrize("place", range(len(_places(""))))
@pytest.mark.parametrize("notation", [VISA, "4111-1111-1111-1111", "378282246310005"])
def test_a_card_number_in_any_field_is_refused_and_not_repeated(notation: str, place: int) -> None:
    field, event = _places(notation)[place]
    with pytest.raises((InvalidRequest, InvalidMoney)) as caught:
        admit(event, now=0)
    assert caught.value.field == field
    assert "1111" not in str(caught.value)
    assert "3782" not in str(caught.value)


@pytest.mark.parametrize("value", [int(VISA), -int(VISA), float(VISA), GROUPS, [int(group) for group in GROUPS]])
def test_a_card_number_as_a_number_or_in_pieces_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"buyer_info\.n"):
        admit(replace(EVENT, buyer_info={"n": value}), now=0)


@pytest.mark.parametrize(
    "info",
    [
        {"phone": "+62 812 3456 780"},
        {"phone": "+628123456798"},
        {"ip": "6406:1234:5678:9012:3456:7890:1234:5678"},
        {"ip": "192.168.100.200"},
        {"ip": "fe80::1%eth0"},
    ],
)
def test_phone_numbers_and_addresses_have_a_form_of_their_own(info: dict[str, Any]) -> None:
    assert admit(replace(EVENT, buyer_info=info), now=0).orders


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ip", "4111:1111:1111:1111::"),
        ("ip", "::4111:1111:1111:1111"),
        ("ip", "2001:db8::4111:1111:1111:1111"),
        ("ip", "2001:db8:a:b:4111:1111:1111:1111"),
        ("ip", f"fe80::1%{VISA}"),
        ("phone", "+4222222222222"),
        ("phone", "+4 222 222-222-222"),
    ],
)
def test_a_card_number_in_the_form_of_an_address_or_a_phone_number_is_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"buyer_info\.{field}"):
        admit(replace(EVENT, buyer_info={field: value}), now=0)


def test_an_iban_whose_digits_pass_for_a_card_is_an_iban() -> None:
    from schwifty import IBAN

    for account in range(10_000):
        iban = str(IBAN.generate("AT", bank_code="19043", account_code=str(account)))
        if holds_card_number(iban):
            break
    else:
        pytest.fail("no such IBAN among ten thousand")
    assert admit(_with_order(seller_account=iban), now=0).orders[0].seller_account == iban


@pytest.mark.parametrize(
    "piece",
    [
        *("4 ", "4-", "1-", "44 ", "4        ", "4" * 30 + " ", "a1-", "4f-", "\u0664 "),
        *("4" + " " * 600, "4" + " " * 6_900, "-" * 7_000, "4 " * 11 + " " * 600 + "x", f"{VISA[:15]}1a"),
    ],
)
def test_no_text_is_slow_to_search(piece: str) -> None:
    notes = [piece * (7_000 // len(piece)), piece * 100_000]
    began = time.process_time()
    for note in notes:
        with contextlib.suppress(InvalidRequest):
            admit(replace(EVENT, buyer_info={"note": note}), now=0)
        with contextlib.suppress(InvalidRequest):
            admit(replace(EVENT, buyer_info={"notes": [note[:1_000]] * 900}), now=0)
    # About 0.2 s for these four requests at worst; without bounds it was seconds to hours.
    assert time.process_time() - began < 1.0
