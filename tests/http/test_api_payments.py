"""Goal: `POST /v1/payments` answers as the mission says: durable, repeatable, and with the promised headers."""

from typing import TYPE_CHECKING, Any

import pytest

from tallystick.engine.errors import CommitUnknown, Fenced, Overloaded, PartitionsTaken, StoreUnavailable
from tallystick.engine.order import State

if TYPE_CHECKING:
    from tests.http.conftest import FakeDoor

JSON = {"Content-Type": "application/json"}


async def test_a_checkout_is_accepted_with_a_receipt(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    response = await client.post("/v1/payments", json=checkout)
    assert response.status_code == 202
    assert response.headers["Location"] == "/v1/checkouts/checkout-1"
    assert "Idempotent-Replayed" not in response.headers
    assert await response.get_json() == {
        "checkout_id": "checkout-1",
        "is_payment_done": False,
        "created_at": "2026-02-02T02:40:00.000000Z",
        "payment_orders": [
            {
                "payment_order_id": "order-1",
                "payment_order_status": "NOT_STARTED",
                "seller_account": "DE89370400440532013000",
                "amount": "3.15",
                "currency": "EUR",
                "links": {"self": "/v1/payments/order-1"},
            }
        ],
        "links": {"self": "/v1/checkouts/checkout-1"},
    }
    assert len(door.submitted) == 1


async def test_the_same_content_gets_the_same_bytes_whatever_has_happened_since(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    second = dict(checkout["payment_orders"][0], payment_order_id="order-0", amount="7.00")
    checkout["payment_orders"].append(second)
    first = await (await client.post("/v1/payments", json=checkout)).get_data()
    door.clock.at += 5_000_000
    door.finish("checkout-1")
    checkout["payment_orders"].reverse()
    checkout["payment_orders"][1]["seller_account"] = "de89 3704 0044 0532 0130 00"
    again = await client.post("/v1/payments", json=checkout)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert await again.get_data() == first


async def test_other_content_under_a_known_id_is_a_conflict(client: Any, checkout: dict[str, Any]) -> None:
    await client.post("/v1/payments", json=checkout)
    checkout["payment_orders"][0]["amount"] = "3.16"
    response = await client.post("/v1/payments", json=checkout)
    problem = await response.get_json()
    assert response.status_code == 422
    assert problem["type"] == "urn:tallystick:problem:content-conflict"
    assert problem["errors"][0]["field"] == "checkout_id"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ('"key-1"', "key-1"),
        ("key-1", "key-1"),
        ('"a \\"b\\" c"', 'a "b" c'),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
    ],
)
async def test_an_idempotency_key_is_taken_quoted_or_bare(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", *, key: str, meant: str
) -> None:
    response = await client.post("/v1/payments", json=checkout, headers={"Idempotency-Key": key})
    assert response.status_code == 202
    ((_, stored),) = door.rows.claims
    assert stored == meant


async def test_a_key_means_the_same_quoted_and_bare_and_refuses_other_content(
    client: Any, checkout: dict[str, Any]
) -> None:
    await client.post("/v1/payments", json=checkout, headers={"Idempotency-Key": "k"})
    again = await client.post("/v1/payments", json=checkout, headers={"Idempotency-Key": '"k"'})
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    checkout["checkout_id"] = "checkout-2"
    other = await client.post("/v1/payments", json=checkout, headers={"Idempotency-Key": "k"})
    assert other.status_code == 422
    assert (await other.get_json())["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    "key",
    ["", '""', "x" * 256, '"' + "x" * 256 + '"', 'a"b', "a b", '"a', "a,b", "k\u00e9y", "4111-1111-1111-1111"],
)
async def test_a_malformed_key_is_refused(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", key: str
) -> None:
    response = await client.post("/v1/payments", json=checkout, headers={"Idempotency-Key": key})
    problem = await response.get_json()
    assert (response.status_code, problem["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert door.submitted == []
    assert "4111" not in str(problem)


async def test_a_wait_that_ends_with_all_done_is_200(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    door.done_after_wait = True
    response = await client.post("/v1/payments", json=checkout, headers={"Prefer": "wait=5"})
    body = await response.get_json()
    assert (response.status_code, response.headers["Preference-Applied"]) == (200, "wait=5")
    assert body["is_payment_done"] is True
    assert body["payment_orders"][0]["payment_order_status"] == "SUCCESS"
    assert response.headers["Location"] == "/v1/checkouts/checkout-1"


async def test_a_wait_that_ends_too_early_is_202_with_the_present_state(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    response = await client.post("/v1/payments", json=checkout, headers={"Prefer": "wait=1"})
    body = await response.get_json()
    assert (response.status_code, body["is_payment_done"], door.waited_s) == (202, False, [1])
    assert body["payment_orders"][0]["state"] == "NOT_STARTED"


@pytest.mark.parametrize(
    ("preference", "waited"),
    [
        ("wait=100000", 30),
        ('wait="7"', 7),
        ("respond-async, Wait = 3; x=y", 3),
        ("wait=4, wait=9", 4),
        ("wait=0", 0),
    ],
)
async def test_a_wait_is_read_as_rfc_7240_says_and_capped(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", preference: str, waited: int
) -> None:
    response = await client.post("/v1/payments", json=checkout, headers={"Prefer": preference})
    assert door.waited_s == [waited]
    assert response.headers["Preference-Applied"] == f"wait={waited}"


@pytest.mark.parametrize(
    "preference", ["wait", "wait=", "wait=-1", "wait=x", "wait=1.5", 'a="x, wait=3"', "", ";;,,="]
)
async def test_a_malformed_preference_is_ignored(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", preference: str
) -> None:
    response = await client.post("/v1/payments", json=checkout, headers={"Prefer": preference})
    assert (response.status_code, door.waited_s) == (202, [])
    assert "Preference-Applied" not in response.headers


async def test_a_wait_that_cannot_read_still_acknowledges(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    door.rows.fail_with = StoreUnavailable("down")
    response = await client.post("/v1/payments", json=checkout, headers={"Prefer": "wait=1"})
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize(
    ("error", "slug", "retry_after"),
    [
        (Overloaded(retry_after_s=7), "overloaded", "7"),
        (StoreUnavailable("down"), "store-unavailable", "2"),
        (CommitUnknown("lost"), "outcome-unknown", "2"),
        (PartitionsTaken("other", 5), "store-unavailable", "2"),
        (Fenced("other"), "store-unavailable", "2"),
    ],
)
async def test_what_may_work_later_is_503_with_retry_after(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", *, error: Exception, slug: str, retry_after: str
) -> None:
    door.fail_with = error
    response = await client.post("/v1/payments", json=checkout)
    problem = await response.get_json()
    assert (response.status_code, response.headers["Retry-After"]) == (503, retry_after)
    assert problem["type"] == f"urn:tallystick:problem:{slug}"
    assert response.content_type == "application/problem+json"


async def test_an_unknown_commit_says_that_repeating_is_safe(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    door.fail_with = CommitUnknown("lost")
    problem = await (await client.post("/v1/payments", json=checkout)).get_json()
    assert "same request again is safe" in problem["detail"]


@pytest.mark.parametrize(
    "bug", [ValueError("card 4111 1111 1111 1111"), ExceptionGroup("several", [KeyError("4111111111111111")])]
)
async def test_a_bug_of_ours_is_a_500_that_tells_nothing(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", log_lines: list[Any], bug: Exception
) -> None:
    door.fail_with = bug
    response = await client.post("/v1/payments", json=checkout)
    problem = await response.get_json()
    assert response.status_code == 500
    assert problem["detail"] == "it has been logged; sending the same request again is safe"
    (line,) = [line for line in log_lines if line["event"] == "http_unhandled"]
    assert line["instance"] == problem["instance"]
    assert "Error" in line["traceback"]
    assert "1111" not in str(log_lines) + str(problem)


# --- reading back ----------------------------------------------------------------------------------------------


async def test_a_payment_order_reads_back_in_full(client: Any, checkout: dict[str, Any]) -> None:
    await client.post("/v1/payments", json=checkout)
    body = await (await client.get("/v1/payments/order-1")).get_json()
    assert body == {
        "payment_order_id": "order-1",
        "checkout_id": "checkout-1",
        "payment_order_status": "NOT_STARTED",
        "state": "NOT_STARTED",
        "seller_account": "DE89370400440532013000",
        "buyer_account": "buyer-1",
        "amount": "3.15",
        "currency": "EUR",
        "method": "card_token",
        "ledger_updated": False,
        "wallet_updated": False,
        "failure_code": None,
        "next_action": None,
        "next_attempt_at": None,
        "psp": None,
        "psp_reference": None,
        "created_at": "2026-02-02T02:40:00.000000Z",
        "state_since": "2026-02-02T02:40:00.000000Z",
        "links": {"self": "/v1/payments/order-1"},
        "updated_at": "2026-02-02T02:40:00.000001Z",
        "attempts": [
            {
                "attempt": 1,
                "psp": "fake",
                "idempotency_key": "order-1",
                "sends": 1,
                "begun_at": "2026-02-02T02:40:00.000000Z",
                "last_sent_at": "2026-02-02T02:40:00.000000Z",
                "result": None,
                "code": None,
                "psp_reference": None,
                "resolved_at": None,
            }
        ],
    }


async def test_the_buyers_next_action_and_the_next_attempt_are_shown(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    await client.post("/v1/payments", json=checkout)
    door.change(
        "order-1",
        state=State.AWAITING_BUYER,
        next_action_url="https://psp.example/page",
        next_action_expires_at=door.clock.at + 60_000_000,
        wake_at=door.clock.at,
    )
    body = await (await client.get("/v1/payments/order-1")).get_json()
    assert body["next_action"] == {
        "type": "redirect",
        "url": "https://psp.example/page",
        "expires_at": "2026-02-02T02:41:00.000000Z",
    }
    assert (body["payment_order_status"], body["next_attempt_at"]) == ("EXECUTING", None)
    door.change("order-1", state=State.RETRY_WAIT, failure_code="insufficient_funds")
    body = await (await client.get("/v1/payments/order-1")).get_json()
    assert (body["next_action"], body["next_attempt_at"]) == (None, "2026-02-02T02:40:00.000000Z")


async def test_a_checkout_reads_back_with_its_orders(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    await client.post("/v1/payments", json=checkout)
    door.finish("checkout-1")
    body = await (await client.get("/v1/checkouts/checkout-1")).get_json()
    assert (body["is_payment_done"], body["buyer_info"]) == (True, checkout["buyer_info"])
    assert [order["state"] for order in body["payment_orders"]] == ["SUCCESS"]


@pytest.mark.parametrize("id_", ["a/b", "/a", "a//b", "a/", "50%", "a?b#c", "ü ☃", "a/retry", "%2F", "..", "a\\b"])
async def test_any_id_can_be_asked_for_at_its_own_link(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", id_: str
) -> None:
    checkout["checkout_id"] = checkout["payment_orders"][0]["payment_order_id"] = id_
    accepted = await client.post("/v1/payments", json=checkout)
    body = await accepted.get_json()
    payment = await client.get(body["payment_orders"][0]["links"]["self"])
    assert (await payment.get_json())["payment_order_id"] == id_
    assert (await (await client.get(accepted.headers["Location"])).get_json())["checkout_id"] == id_
    door.change(id_, state=State.FAILED)
    retried = await client.post(
        body["payment_orders"][0]["links"]["self"].replace("/v1/payments", "/v1/dead-letters") + "/retry",
        json={"by": "ann", "why": "asked"},
    )
    assert (retried.status_code, door.retried[0][0]) == (202, id_)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/payments/nothing",
        "/v1/checkouts/nothing",
        "/v1/wallets/DE89370400440532013000",
        "/v1/wallets/nothing",
        "/v1/ledger/accounts/nothing",
        "/v1/nothing",
        "/v1/payments/",
        "/v1/payments/a%00b",
        "/v1/payments/" + "x" * 256,
        "/v1/payments/%ff",
        "/v1/payments/4111111111111111",
    ],
)
async def test_what_is_not_there_is_404(client: Any, path: str) -> None:
    response = await client.get(path)
    problem = await response.get_json()
    assert (response.status_code, problem["type"]) == (404, "urn:tallystick:problem:not-found")
    assert problem["instance"].startswith("urn:tallystick:occurrence:")


async def test_an_id_that_cannot_exist_is_not_looked_up(client: Any, door: "FakeDoor") -> None:
    for path in ("/v1/payments/a%00b", "/v1/checkouts/4111111111111111", "/v1/ledger/accounts/%0a"):
        assert (await client.get(path)).status_code == 404
    assert door.rows.asked == []


async def test_a_wallet_is_found_by_any_notation_of_the_iban(
    client: Any, checkout: dict[str, Any], door: "FakeDoor"
) -> None:
    await client.post("/v1/payments", json=checkout)
    door.finish("checkout-1")
    body = await (await client.get("/v1/wallets/de89%203704%200044%200532%200130%2000")).get_json()
    assert body["seller_account"] == "DE89370400440532013000"
    assert [(one["currency"], one["available"], one["held"]) for one in body["wallets"]] == [
        ("EUR", "3.15", "0.00")
    ]


async def test_an_account_is_paged_by_cursor_to_its_end(client: Any, door: "FakeDoor") -> None:
    for seq in range(1, 8):
        door.entry(seq)
    seen, url, pages = [], "/v1/ledger/accounts/bank::EUR?limit=3", 0
    body: dict[str, Any] = {}
    cursor: str | None = ""
    while cursor is not None:
        body = await (await client.get(url + (f"&cursor={cursor}" if cursor else ""))).get_json()
        seen += [entry["seq"] for entry in body["entries"]]
        cursor, pages = body["next_cursor"], pages + 1
    assert (seen, pages) == ([7, 6, 5, 4, 3, 2, 1], 3)
    assert (body["debits"], body["credits"], body["balance"]) == ("5.00", "7.00", "-2.00")
    assert body["entries"][0]["amount"] == "-0.01"


async def test_dead_letters_are_paged_though_several_have_the_same_time(client: Any, door: "FakeDoor") -> None:
    for number in range(5):
        door.letter(number)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        body = await (
            await client.get("/v1/dead-letters?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        ).get_json()
        seen += [one["payment_order_id"] for one in body["dead_letters"]]
        cursor = body["next_cursor"]
    assert seen == [f"order-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("query", "field"),
    [(f"limit={bad}", "limit") for bad in ("0", "201", "-1", "x", "", "1.0", "%D9%A3", "007", "9" * 99)]
    + [(f"cursor={bad}", "cursor") for bad in ("", "x", "!", "bnVsbA", "W10", "e30", "A" * 9_999, "%00")]
    + [("limit=1&limit=2", "limit"), ("cursor=MQ&cursor=MQ", "cursor"), ("cursor=IjEi", "cursor")],
)
async def test_a_malformed_page_is_refused(client: Any, query: str, field: str) -> None:
    response = await client.get(f"/v1/ledger/accounts/bank::EUR?{query}")
    assert (response.status_code, (await response.get_json())["errors"][0]["field"]) == (400, field)


async def test_a_retry_names_who_and_why(client: Any, checkout: dict[str, Any], door: "FakeDoor") -> None:
    await client.post("/v1/payments", json=checkout)
    door.change("order-1", state=State.FAILED)
    response = await client.post("/v1/dead-letters/order-1/retry", json={"by": "ann", "why": "asked by phone"})
    assert (response.status_code, response.headers["Location"]) == (202, "/v1/payments/order-1")
    assert door.retried == [("order-1", "ann", "asked by phone")]
    again = await client.post("/v1/dead-letters/order-1/retry", json={"by": "ann", "why": "again"})
    assert (again.status_code, (await again.get_json())["detail"]) == (409, "the order has not failed")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"by": "", "why": "x"}, 422, "by"),
        ({"by": "ann", "why": "4111 1111 1111 1111"}, 422, "why"),
        ({"by": "ann", "why": "x" * 1001}, 422, "why"),
        ({"by": "ann"}, 400, "why"),
        ({"by": "ann", "why": 5}, 400, "why"),
    ],
)
async def test_a_retry_without_a_proper_reason_is_refused(
    client: Any, door: "FakeDoor", body: dict[str, Any], status: int, field: str
) -> None:
    response = await client.post("/v1/dead-letters/order-1/retry", json=body)
    assert (response.status_code, (await response.get_json())["errors"][0]["field"]) == (status, field)
    assert door.retried == []


async def test_a_retry_of_nothing_is_404_and_repeats_nothing(client: Any) -> None:
    response = await client.post("/v1/dead-letters/hunter2/retry", json={"by": "ann", "why": "x"})
    assert response.status_code == 404
    assert "hunter2" not in await response.get_data(as_text=True)


async def test_reads_of_a_store_that_is_down_are_503(client: Any, door: "FakeDoor") -> None:
    door.rows.fail_with = StoreUnavailable("down")
    response = await client.get("/v1/payments/order-1")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
