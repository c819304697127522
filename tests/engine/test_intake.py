"""Goal: what the engine lets in is exactly what its rules say, for every caller, and errors name the field."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tallystick.engine.doors import CardInfo, PaymentEvent, PaymentOrderRequest
from tallystick.engine.errors import CallerError, InvalidMoney, InvalidRequest
from tallystick.engine.intake import admit, normal_iban
from tallystick.engine.intents import IdempotencyClaim
from tallystick.engine.money import Money
from tallystick.engine.order import Method, State

IBAN = "DE89370400440532013000"
OTHER_IBAN = "GB82WEST12345698765432"
NOW = 1_770_000_000_000_000


def order(**changes: Any) -> PaymentOrderRequest:
    base = PaymentOrderRequest(payment_order_id="order-1", seller_account=IBAN, amount="3.15", currency="EUR")
    return replace(base, **changes)


def event(**changes: Any) -> PaymentEvent:
    base = PaymentEvent(
        checkout_id="checkout-1",
        buyer_info={"buyer_account": "buyer-1", "email": "ann@example.com"},
        credit_card_info=CardInfo(token="tok_visa"),
        payment_orders=[order()],
    )
    return replace(base, **changes)


def refusal(bad: PaymentEvent) -> CallerError:
    with pytest.raises((InvalidRequest, InvalidMoney)) as caught:
        admit(bad, now=NOW)
    return caught.value


def test_admitted_content_becomes_orders_that_have_not_started() -> None:
    accepted = admit(event(payment_orders=[order(payment_order_id="b"), order(payment_order_id="a")]), now=NOW)
    # As listed: a store's refusal names a line by its place, and the caller knows only its own list.
    assert [one.payment_order_id for one in accepted.orders] == ["b", "a"]
    first = accepted.orders[0]
    assert (first.state, first.created_at, first.state_since) == (State.NOT_STARTED, NOW, NOW)
    assert (first.amount, first.method, first.psp_token) == (Money(315, "EUR"), Method.CARD_TOKEN, "tok_visa")
    assert (first.buyer_account, first.seller_account) == ("buyer-1", IBAN)
    assert (accepted.checkout_id, accepted.at, accepted.claim) == ("checkout-1", NOW, None)


@pytest.mark.parametrize("info", ["tok_visa", CardInfo(token="tok_visa")])
def test_a_token_may_come_bare_or_in_an_object_and_is_the_same_content(info: Any) -> None:
    assert admit(event(credit_card_info=info), now=NOW) == admit(event(), now=NOW)


def test_a_hosted_page_has_no_token() -> None:
    one = admit(event(credit_card_info=CardInfo(method="hosted_page")), now=NOW).orders[0]
    assert (one.method, one.psp_token) == (Method.HOSTED_PAGE, None)


@pytest.mark.parametrize(
    ("buyer_info", "account"),
    [
        ({"buyer_account": "b", "email": "a@b.example"}, "b"),
        ({"buyer_account": None, "email": "a@b.example"}, "a@b.example"),
        ({"name": "Ann"}, ""),
        ({}, ""),
    ],
)
def test_the_buyers_account_falls_back_to_the_address(buyer_info: dict[str, Any], account: str) -> None:
    assert admit(event(buyer_info=buyer_info), now=NOW).orders[0].buyer_account == account


@pytest.mark.parametrize(
    "same",
    [
        event(buyer_info={"email": "ann@example.com", "buyer_account": "buyer-1"}),
        event(payment_orders=[order(amount="3.15", seller_account="de89 3704 0044 0532 0130 00")]),
        event(credit_card_info="tok_visa"),
    ],
)
def test_the_same_content_in_another_notation_has_the_same_hash(same: PaymentEvent) -> None:
    assert admit(same, now=NOW + 5).content_hash == admit(event(), now=NOW).content_hash


def test_the_order_of_payment_orders_is_no_content() -> None:
    pair = [order(payment_order_id="a"), order(payment_order_id="b", amount="1.00")]
    hashes = {
        admit(event(payment_orders=list(some)), now=NOW).content_hash for some in itertools.permutations(pair)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "other",
    [
        event(checkout_id="checkout-2"),
        event(buyer_info={}),
        event(credit_card_info=CardInfo(token="tok_other")),
        event(credit_card_info=CardInfo(method="hosted_page")),
        event(payment_orders=[order(payment_order_id="order-2")]),
        event(payment_orders=[order(amount="3.16")]),
        event(payment_orders=[order(currency="USD")]),
        event(payment_orders=[order(seller_account=OTHER_IBAN)]),
        event(payment_orders=[order(), order(payment_order_id="order-2")]),
    ],
)
def test_other_content_has_another_hash(other: PaymentEvent) -> None:
    assert admit(other, now=NOW).content_hash != admit(event(), now=NOW).content_hash


def test_a_claim_without_a_hash_is_given_the_contents() -> None:
    open_claim = IdempotencyClaim(scope="s", key="k", request_hash=b"")
    accepted = admit(event(), now=NOW, claim=open_claim)
    assert accepted.claim == replace(open_claim, request_hash=accepted.content_hash)
    closed_claim = IdempotencyClaim(scope="s", key="k", request_hash=b"mine")
    assert admit(event(), now=NOW, claim=closed_claim).claim == closed_claim


LONG = "x" * 256
BAD: list[tuple[str, PaymentEvent]] = [
    *[
        ("checkout_id", event(checkout_id=bad))
        for bad in ("", LONG, "a\x00b", "a\nb", "a\x85b", " a", "a\u3000", "\ud800", 7, None)
    ],
    *[
        ("payment_orders[0].payment_order_id", event(payment_orders=[order(payment_order_id=bad)]))
        for bad in ("", LONG, "a\x7fb", "tsk_abc", "a ", 7)
    ],
    *[
        ("payment_orders[0].seller_account", event(payment_orders=[order(seller_account=bad)]))
        for bad in ("", "DE88370400440532013000", "DE8937040044053201300", "XX00", "not an iban", "ẞ", 5, LONG)
    ],
    *[
        ("payment_orders[0].amount", event(payment_orders=[order(amount=bad)]))
        for bad in (
            "",
            "0",
            "0.00",
            "-1",
            "+1",
            "1e3",
            "1,00",
            "01",
            ".5",
            "5.",
            "3.155",
            " 1",
            "NaN",
            "٣",
            3.15,
            3,
        )
    ],
    ("payment_orders[0].amount", event(payment_orders=[order(amount="1.5", currency="JPY")])),
    ("payment_orders[0].amount", event(payment_orders=[order(amount="99999999999999")])),
    *[
        ("payment_orders[0].currency", event(payment_orders=[order(currency=bad)]))
        for bad in ("", "eur", "EURO", "ZZZ", "XAU", "XTS", "E\nR", 978)
    ],
    ("payment_orders", event(payment_orders=[])),
    ("payment_orders", event(payment_orders=[order(payment_order_id=f"o{n}") for n in range(1000)])),
    ("payment_orders", event(payment_orders="many")),
    ("payment_orders[0]", event(payment_orders=[{"amount": "1"}])),
    ("payment_orders[1].payment_order_id", event(payment_orders=[order(), order()])),
    ("payment_orders[1].amount", event(payment_orders=[order(), order(payment_order_id="b", amount="x")])),
    *[
        ("credit_card_info", event(credit_card_info=bad))
        for bad in ("", "two words", "tök", LONG, 5, None, CardInfo())
    ],
    ("credit_card_info", event(credit_card_info=CardInfo(token="t", method="hosted_page"))),
    ("credit_card_info.token", event(credit_card_info=CardInfo(token=""))),
    ("credit_card_info.method", event(credit_card_info=CardInfo(method="cash"))),
    ("buyer_info", event(buyer_info=[])),
    ("buyer_info", event(buyer_info={"note": "x" * 9_000})),
    ("buyer_info", event(buyer_info={"n": list(range(100, 1_200))})),
    ("buyer_info", event(buyer_info={"a": {"b": {"c": {"d": {"e": {}}}}}})),
    ("buyer_info", event(buyer_info={"a\x00": 1})),
    ("buyer_info", event(buyer_info={5: 1})),
    ("buyer_info.note", event(buyer_info={"note": "a\x00b"})),
    ("buyer_info.note", event(buyer_info={"note": "\ud800"})),
    ("buyer_info.n", event(buyer_info={"n": 2**63})),
    ("buyer_info.n", event(buyer_info={"n": float("inf")})),
    ("buyer_info.n", event(buyer_info={"n": float("nan")})),
    ("buyer_info.n", event(buyer_info={"n": b"bytes"})),
    ("buyer_info.a.b[1]", event(buyer_info={"a": {"b": [1, {1}]}})),
    ("buyer_info.email", event(buyer_info={"email": "nobody"})),
    ("buyer_info.email", event(buyer_info={"email": 5})),
    ("buyer_info.name", event(buyer_info={"name": ["Ann"]})),
    ("buyer_info.name", event(buyer_info={"name": LONG})),
    ("buyer_info.buyer_account", event(buyer_info={"buyer_account": ""})),
    ("buyer_info.phone", event(buyer_info={"phone": 5})),
    ("buyer_info.country", event(buyer_info={"country": "Germany"})),
    ("buyer_info.country", event(buyer_info={"country": "de"})),
    ("buyer_info.country", event(buyer_info={"country": {}})),
    ("buyer_info.address", event(buyer_info={"address": "Main Street"})),
    ("buyer_info.ip", event(buyer_info={"ip": "300.1.1.1"})),
    ("buyer_info.ip", event(buyer_info={"ip": 1})),
    ("buyer_info.cvv", event(buyer_info={"cvv": "123"})),
    ("buyer_info.a.Card-Number", event(buyer_info={"a": {"Card-Number": "x"}})),
]


@pytest.mark.parametrize(("field", "bad"), BAD)
def test_bad_content_is_refused_and_the_field_is_named(field: str, bad: PaymentEvent) -> None:
    assert refusal(bad).field == field


GOOD: list[PaymentEvent] = [
    event(checkout_id="x" * 255),
    event(checkout_id="Bestellung Nr. 5/ü☃"),
    event(payment_orders=[order(payment_order_id=f"o{n}") for n in range(999)]),
    event(
        payment_orders=[
            order(amount="500", currency="JPY"),
            order(payment_order_id="b", amount="0.001", currency="KWD"),
        ]
    ),
    event(
        buyer_info={"name": "Ann\nLee", "country": "DE", "address": {"line1": "x"}, "phone": "+49 (0)170 1234567"}
    ),
    event(buyer_info={"ip": "2001:db8::1", "extra": [1, 2.5, None, True, "x", {"deep": {"er": 1}}]}),
    event(buyer_info={"email": None, "country": None, "address": None, "ip": None, "name": None, "phone": None}),
]


@pytest.mark.parametrize("good", GOOD)
def test_good_content_is_admitted(good: PaymentEvent) -> None:
    assert len(admit(good, now=NOW).orders) == len(good.payment_orders)


def test_an_error_never_repeats_what_was_sent() -> None:
    secret = "hunter2"
    for bad in (
        event(checkout_id=f"{secret}\x00"),
        event(payment_orders=[order(currency=secret)]),
        event(payment_orders=[order(amount=secret)]),
        event(payment_orders=[order(seller_account=secret)]),
        event(credit_card_info=f"{secret} {secret}"),
        event(buyer_info={"email": secret}),
        event(buyer_info={"country": secret}),
        event(buyer_info={f"{secret} {secret}": "\x00"}),
    ):
        assert secret not in str(refusal(bad))


@pytest.mark.parametrize("notation", [IBAN, "de89370400440532013000", " DE89 3704 0044 0532 0130 00"])
def test_an_iban_is_normalised(notation: str) -> None:
    assert normal_iban(notation) == IBAN


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["email", "name", "country", "address", "ip", "phone", "buyer_account"]) | st.text()
ANY_EVENTS = st.builds(
    PaymentEvent,
    checkout_id=st.just("c") | ANY_JSON,
    buyer_info=st.dictionaries(NAMES, ANY_JSON, max_size=5) | ANY_JSON,
    credit_card_info=st.just("tok") | ANY_JSON | st.builds(CardInfo, token=ANY_JSON, method=ANY_JSON),
    payment_orders=st.lists(
        st.builds(
            PaymentOrderRequest,
            payment_order_id=st.just("o") | ANY_JSON,
            seller_account=st.just(IBAN) | ANY_JSON,
            amount=st.sampled_from(["1.00", "0.5", "1000000"]) | ANY_JSON,
            currency=st.sampled_from(["EUR", "JPY", "KWD"]) | ANY_JSON,
        ),
        max_size=3,
    )
    | ANY_JSON,
)


@settings(max_examples=400, deadline=None)
@given(ANY_EVENTS)
def test_anything_at_all_is_admitted_or_refused_as_the_callers_error(anything: PaymentEvent) -> None:
    try:
        accepted = admit(anything, now=NOW)
    except CallerError:
        return
    assert msgspec.json.decode(accepted.buyer_info) == anything.buyer_info
    assert all(one.amount.minor > 0 for one in accepted.orders)
