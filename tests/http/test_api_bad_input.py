"""Goal: each bad input gets a 4xx problem that names the field, stores nothing, and leaves no trace of a card."""

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.http.conftest import FakeDoor

JSON = {"Content-Type": "application/json"}
ORDER = "payment_orders[0]"
MISSING = object()

BAD_VALUES: list[tuple[int, str, str, Any]] = [
    # (status, field, path of what is changed, the bad value)
    *[(400, "checkout_id", "checkout_id", bad) for bad in (MISSING, None, 5, 1.5, [], {}, True)],
    *[(422, "checkout_id", "checkout_id", bad) for bad in ("", "x" * 256, "a\x00b", "a\tb", " a", "a\u2028b")],
    *[(400, "buyer_info", "buyer_info", bad) for bad in (MISSING, None, "x", 5, [])],
    (422, "buyer_info.country", "buyer_info.country", "Atlantis"),
    (422, "buyer_info.email", "buyer_info.email", 5),
    (422, "buyer_info.note", "buyer_info.note", "a\x00b"),
    (422, "buyer_info", "buyer_info.note", "x" * 9_000),
    (422, "buyer_info", "buyer_info.deep", {"a": {"b": {"c": {"d": {}}}}}),
    *[(400, "credit_card_info", "credit_card_info", bad) for bad in (MISSING, None, 5, [])],
    *[(422, "credit_card_info", "credit_card_info", bad) for bad in ("", "a b", {}, {"token": None})],
    (422, "credit_card_info", "credit_card_info", {"token": "t", "method": "hosted_page"}),
    (422, "credit_card_info.token", "credit_card_info", {"token": ""}),
    (422, "credit_card_info.method", "credit_card_info", {"method": "cash"}),
    (400, "credit_card_info.number", "credit_card_info", {"number": "4"}),
    *[(400, "payment_orders", "payment_orders", bad) for bad in (MISSING, None, {}, "x")],
    (422, "payment_orders", "payment_orders", []),
    (400, ORDER, "payment_orders", [5]),
    (400, "payment_orders[0].payment_order_id", "payment_orders", [{}]),
    *[(400, f"{ORDER}.amount", "payment_orders.amount", bad) for bad in (MISSING, None, 3, 3.15, True)],
    *[
        (422, f"{ORDER}.amount", "payment_orders.amount", bad)
        for bad in ("", "0", "0.00", "-3.15", "3.155", "3,15")
    ],
    *[
        (422, f"{ORDER}.amount", "payment_orders.amount", bad)
        for bad in ("1e3", "NaN", "Infinity", "0x10", "9" * 40)
    ],
    *[(422, f"{ORDER}.currency", "payment_orders.currency", bad) for bad in ("", "eur", "XXX", "ZZZ", "EURO")],
    *[(400, f"{ORDER}.currency", "payment_orders.currency", bad) for bad in (MISSING, 978, None)],
    *[(422, f"{ORDER}.seller_account", "payment_orders.seller_account", bad) for bad in ("", "DE00", "x" * 300)],
    (422, f"{ORDER}.seller_account", "payment_orders.seller_account", "DE89370400440532013001"),
    *[(400, f"{ORDER}.seller_account", "payment_orders.seller_account", bad) for bad in (MISSING, 5)],
    *[
        (422, f"{ORDER}.payment_order_id", "payment_orders.payment_order_id", bad)
        for bad in ("", "x" * 256, "tsk_1")
    ],
    (422, f"{ORDER}.payment_order_id", "payment_orders.payment_order_id", "a\x1fb"),
    *[(400, f"{ORDER}.payment_order_id", "payment_orders.payment_order_id", bad) for bad in (MISSING, 5)],
    (400, "surprise", "surprise", 1),
    (400, f"{ORDER}.cvv", "payment_orders.cvv", "123"),
    (422, "buyer_info.cvv", "buyer_info.cvv", "123"),
    (400, "body", "not a plain näme", 1),
]


def _changed(checkout: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *outer, last = path.split(".")
    target: Any = checkout
    for name in outer:
        target = target[name][0] if isinstance(target[name], list) else target[name]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return checkout


@pytest.mark.parametrize(("status", "field", "path", "value"), BAD_VALUES)
async def test_a_bad_value_is_refused_by_name(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", *, status: int, field: str, path: str, value: Any
) -> None:
    body = json.dumps(_changed(checkout, path, value))
    response = await client.post("/v1/payments", data=body, headers=JSON)
    problem = await response.get_json()
    assert (response.status_code, problem["errors"][0]["field"]) == (status, field)
    assert response.content_type == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "instance", "errors"}
    assert problem["status"] == status
    assert door.submitted == []


async def test_a_thousand_orders_are_too_many(client: Any, checkout: dict[str, Any], door: "FakeDoor") -> None:
    one = checkout["payment_orders"][0]
    checkout["payment_orders"] = [dict(one, payment_order_id=f"o{number}") for number in range(1_000)]
    response = await client.post("/v1/payments", json=checkout)
    assert (response.status_code, (await response.get_json())["errors"][0]["field"]) == (422, "payment_orders")
    checkout["payment_orders"].pop()
    assert (await client.post("/v1/payments", json=checkout)).status_code == 202
    assert len(door.submitted) == 1


async def test_two_orders_with_one_id_are_refused(client: Any, checkout: dict[str, Any]) -> None:
    checkout["payment_orders"] *= 2
    response = await client.post("/v1/payments", json=checkout)
    problem = await response.get_json()
    assert (response.status_code, problem["errors"][0]["field"]) == (422, "payment_orders[1].payment_order_id")


def _good() -> str:
    return (
        '{"checkout_id":"c","buyer_info":{},"credit_card_info":"tok","payment_orders":[{"payment_order_id":"o",'
        '"seller_account":"DE89370400440532013000","amount":"3.15","currency":"EUR"}]}'
    )


MALFORMED: list[bytes] = [
    b"",
    b" ",
    b"nothing",
    b"null",
    b"5",
    b"[]",
    b'"text"',
    _good()[:-1].encode(),
    _good().encode() + b"x",
    _good().encode() * 2,
    b"\xef\xbb\xbf" + _good().encode(),
    _good().encode("utf-16"),
    _good().replace('"c"', '"\xff"').encode("latin-1"),
    _good().replace('"c"', r'"\ud800"').encode(),
    _good().replace('"c"', '"a\nb"').encode(),
    _good().replace('"3.15"', "3.15").encode(),
    _good().replace('"3.15"', "NaN").encode(),
    _good().replace("{}", '{"a":NaN}').encode(),
    _good().replace("{}", '{"a":Infinity}').encode(),
    _good().replace("{}", '{"a":1e999}').encode(),
    _good().replace("{}", '{"a":' + "9" * 30 + "}").encode(),
    _good().replace("{}", '{"a":' + "9" * 5_000 + "}").encode(),
    _good().replace("{}", '{"a":-9223372036854775809}').encode(),
    _good().replace("{}", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}").encode(),
    _good().replace("{}", '{"a":' * 100_000 + "1" + "}" * 100_000).encode(),
    _good().replace("{}", '{"a":1,"a":2}').encode(),
    _good().replace("{}", '{"n":{"a":1,"\\u0061":2}}').encode(),
    _good().replace('"checkout_id":"c"', '"checkout_id":"c","checkout_id":"d"').encode(),
    _good().replace("'", '"').replace('"', "'").encode(),
    _good().replace("]}", ",]}").encode(),
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
async def test_what_is_not_strict_json_of_our_shape_is_400(client: Any, door: "FakeDoor", body: bytes) -> None:
    response = await client.post("/v1/payments", data=body, headers=JSON)
    assert (response.status_code, response.content_type) == (400, "application/problem+json")
    assert door.submitted == []


async def test_the_malformed_ones_are_changes_of_a_good_one(client: Any) -> None:
    assert (await client.post("/v1/payments", data=_good().encode(), headers=JSON)).status_code == 202


async def test_a_member_that_comes_twice_is_named(client: Any) -> None:
    body = _good().replace('"amount":"3.15"', '"amount":"3.15","amount":"9.00"').encode()
    problem = await (await client.post("/v1/payments", data=body, headers=JSON)).get_json()
    assert problem["errors"] == [{"field": "amount", "detail": "appears more than once in an object"}]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json; charset=latin-1"},
        JSON | {"Content-Encoding": "gzip"},
    ],
)
async def test_another_content_type_is_415(client: Any, door: "FakeDoor", headers: dict[str, str]) -> None:
    response = await client.post("/v1/payments", data=_good().encode(), headers=headers)
    assert response.status_code == 415
    assert door.submitted == []


@pytest.mark.parametrize(
    "kind", ["Application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"']
)
async def test_json_may_say_that_it_is_utf_8(client: Any, kind: str) -> None:
    response = await client.post("/v1/payments", data=_good().encode(), headers={"Content-Type": kind})
    assert response.status_code == 202


CARD = "4111 1111-1111.1111"
FULL_WIDTH = "".join(chr(0xFF10 + int(digit)) for digit in "4111111111111111")


@pytest.mark.parametrize("card", [CARD, "4111111111111111", "378282246310005", FULL_WIDTH])
@pytest.mark.parametrize(
    ("status", "field", "path"),
    [
        (422, "checkout_id", "checkout_id"),
        (422, "credit_card_info", "credit_card_info"),
        (422, "buyer_info.email", "buyer_info.email"),
        (422, "buyer_info.free.text", "buyer_info.free.text"),
        (422, f"{ORDER}.payment_order_id", "payment_orders.payment_order_id"),
        (422, f"{ORDER}.amount", "payment_orders.amount"),
        (422, f"{ORDER}.currency", "payment_orders.currency"),
        (422, f"{ORDER}.seller_account", "payment_orders.seller_account"),
    ],
)
async def test_a_card_number_is_refused_and_leaves_no_trace(
    client: Any,
    checkout: dict[str, Any],
    door: "FakeDoor",
    log_lines: list[Any],
    *,
    card: str,
    status: int,
    field: str,
    path: str,
) -> None:
    checkout["buyer_info"]["free"] = {}
    response = await client.post("/v1/payments", json=_changed(checkout, path, card))
    text = await response.get_data(as_text=True)
    assert (response.status_code, json.loads(text)["errors"][0]["field"]) == (status, field)
    assert door.submitted == []
    traces = text + str(log_lines) + str(response.headers)
    assert not any(trace in traces for trace in (card, "1111", "8282", FULL_WIDTH))


@pytest.mark.parametrize("where", ["name", "inner name", "unknown name", "unknown in order", "number", "twice"])
async def test_a_card_number_as_a_name_or_number_leaves_no_trace(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", log_lines: list[Any], where: str
) -> None:
    card = "4111111111111111"
    match where:
        case "name":
            checkout["buyer_info"][card] = 1
        case "inner name":
            checkout["buyer_info"]["a"] = {card: 1}
        case "unknown name":
            checkout[card] = 1
        case "unknown in order":
            checkout["payment_orders"][0][card] = 1
        case "number":
            checkout["buyer_info"]["n"] = int(card)
    body = json.dumps(checkout)
    if where == "twice":
        body = body.replace('"buyer_info": {', f'"buyer_info": {{"{card}": 1, "{card}": 1, ')
    response = await client.post("/v1/payments", data=body, headers=JSON)
    assert response.status_code in {400, 422}
    assert door.submitted == []
    assert "1111" not in await response.get_data(as_text=True) + str(log_lines)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/payments/4111111111111111",
        "/4111111111111111",
        "/v1/payments/x?card=4111111111111111",
        "/docs?4111111111111111",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_card_number_in_a_url_or_header_leaves_no_trace(
    client: Any, log_lines: list[Any], method: str, path: str
) -> None:
    headers = {"X-Card": "4111111111111111", "User-Agent": "4111111111111111", "Prefer": "4111111111111111"}
    response = await client.open(path, method=method, headers=headers)
    assert log_lines
    assert "4111" not in await response.get_data(as_text=True) + str(log_lines) + str(response.headers)
