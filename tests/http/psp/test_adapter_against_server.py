"""Adapter and simulated PSP over a real socket: every magic token gives the right evidence and the right truth."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from tallystick.engine.errors import SetupError
from tallystick.engine.events import (
    Accepted,
    BuyerActionRequired,
    Charged,
    DeclineClass,
    Declined,
    NotExecuted,
    NotFound,
    OutcomeLost,
    Source,
    Voided,
)
from tallystick.engine.money import Money
from tallystick.engine.ports import Psp
from tallystick.http.psp.simulated import psp_key
from tallystick.sim.psp.serve import serve_psp

Connect = Callable[..., AbstractAsyncContextManager[Psp]]
# Long enough for the PSP to have charged, and shorter than any silence of its own.
IMPATIENT = {"read_timeout_s": "1"}
SECRET = {"Authorization": "Bearer sk_test_simulated"}


async def ledger(url: str) -> list[dict[str, Any]]:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{url}/v1/ledger", headers=SECRET)
    captures: list[dict[str, Any]] = answer.raise_for_status().json()["captures"]
    return captures


@pytest.mark.parametrize(
    "case",
    [
        ("tok_visa", Charged, 1),
        ("tok_mastercard", Charged, 1),
        ("tok_declined", (Declined, "card_declined", DeclineClass.HARD), 0),
        ("tok_expired", (Declined, "expired_card", DeclineClass.HARD), 0),
        ("tok_stolen", (Declined, "stolen_card", DeclineClass.HARD), 0),
        ("tok_made_up", (Declined, "invalid_token", DeclineClass.HARD), 0),
        ("tok_insufficient_funds", (Declined, "insufficient_funds", DeclineClass.SOFT), 0),
        ("tok_insufficient_funds_once", (Declined, "insufficient_funds", DeclineClass.SOFT), 0),
        ("tok_pending_5s", Accepted, 0),
        ("tok_pending_then_declined", Accepted, 0),
        ("tok_3ds", BuyerActionRequired, 0),
        ("tok_timeout", (OutcomeLost, "ReadTimeout"), 1),
        ("tok_timeout_lost", (OutcomeLost, "ReadTimeout"), 0),
        ("tok_slow_2s", (OutcomeLost, "ReadTimeout"), 1),
        ("tok_error_500_before", (OutcomeLost, "http_500"), 0),
        ("tok_error_500_after", (OutcomeLost, "http_500"), 1),
        ("tok_429_once", (NotExecuted, "throttled", 1_000_000), 0),
        ("tok_not_executed", (NotExecuted, "throttled", None), 0),
    ],
    ids=lambda case: case[0],
)
async def test_each_token(case: tuple[str, Any, int], psp_url: str, connect: Connect, ask: Any) -> None:
    token, expected, captured = case
    patience = IMPATIENT if "ReadTimeout" in str(expected) else {}
    async with connect(psp_url, **patience) as psp:
        answer = await psp.charge(ask.charge(token))
    assert (answer.source, answer.psp, answer.attempt) == (Source.RESPONSE, "simulated", 1)
    kind, *facts = expected if isinstance(expected, tuple) else (expected,)
    assert isinstance(answer, kind)
    match answer:
        case Declined(code=code, decline_class=decline_class):
            assert [code, decline_class] == facts
        case OutcomeLost(reason=reason):
            assert [reason] == facts
        case NotExecuted(reason=reason, retry_after_us=wait_us):
            assert [reason, wait_us] == facts
        case _:
            pass
    assert len(await ledger(psp_url)) == captured


async def test_slow_is_not_lost_for_the_patient(psp_url: str, connect: Connect, ask: Any) -> None:
    async with connect(psp_url) as psp:
        assert isinstance(await psp.charge(ask.charge("tok_slow_2s")), Charged)


@pytest.mark.parametrize("token", ["tok_timeout", "tok_error_500_after"])
async def test_a_lost_charge_is_found_by_inquiry(token: str, psp_url: str, connect: Connect, ask: Any) -> None:
    async with connect(psp_url, **IMPATIENT) as psp:
        await psp.charge(ask.charge(token))
        found = await psp.inquire(ask.about())
        void = await psp.void(ask.about())
    assert isinstance(found, Charged)
    assert isinstance(void, Charged)
    assert (found.source, found.amount, void.source) == (Source.INQUIRY, Money(315, "EUR"), Source.VOID)
    assert found.psp_reference == (await ledger(psp_url))[0]["psp_reference"]


@pytest.mark.parametrize("token", ["tok_timeout_lost", "tok_error_500_before"])
async def test_a_lost_request_is_fenced_and_tried_anew(
    token: str, psp_url: str, connect: Connect, ask: Any
) -> None:
    async with connect(psp_url, **IMPATIENT) as psp:
        await psp.charge(ask.charge(token))
        found = await psp.inquire(ask.about())
        assert isinstance(found, NotFound)
        assert found.asked_at == 42
        assert isinstance(await psp.void(ask.about()), Voided)
        assert isinstance(await psp.inquire(ask.about()), Voided)
        assert isinstance(await psp.charge(ask.charge(token)), Voided)
        assert isinstance(await psp.charge(ask.charge(token, key="second", attempt=2)), Charged)
    assert [capture["idempotency_key"] for capture in await ledger(psp_url)] == ["second"]


async def test_a_resend_is_one_charge_and_another_body_is_no_evidence(
    psp_url: str, connect: Connect, ask: Any
) -> None:
    async with connect(psp_url) as psp:
        first = await psp.charge(ask.charge())
        assert await psp.charge(ask.charge()) == first
        other = await psp.charge(ask.charge(amount=Money(316, "EUR")))
    assert isinstance(other, OutcomeLost)
    assert other.reason == "http_422"
    assert [capture["amount"] for capture in await ledger(psp_url)] == ["3.15"]


async def test_a_hundred_sends_at_once_are_one_charge(psp_url: str, connect: Connect, ask: Any) -> None:
    answers: list[object] = []

    async with connect(psp_url) as psp, trio.open_nursery() as nursery:

        async def send() -> None:
            answers.append(await psp.charge(ask.charge()))

        for _ in range(100):
            nursery.start_soon(send)
    assert len(answers) == 100
    assert all(isinstance(answer, Charged) and answer == answers[0] for answer in answers)
    assert len(await ledger(psp_url)) == 1


@pytest.mark.parametrize(
    ("amount", "says"), [(Money.parse("500", "ISK"), "500"), (Money.parse("1.230", "KWD"), "1.230")]
)
async def test_odd_currencies_arrive_as_meant(
    amount: Money, says: str, psp_url: str, connect: Connect, ask: Any
) -> None:
    async with connect(psp_url) as psp:
        answer = await psp.charge(ask.charge(amount=amount))
    assert isinstance(answer, Charged)
    assert answer.amount == amount
    assert [capture["amount"] for capture in await ledger(psp_url)] == [says]


@pytest.mark.parametrize(
    ("amount", "code"),
    [(Money(1234, "KWD"), "amount_not_supported"), (Money(10**15, "EUR"), "amount_out_of_range")],
)
async def test_what_the_psp_will_never_take_is_declined_for_good(
    amount: Money, code: str, psp_url: str, connect: Connect, ask: Any
) -> None:
    async with connect(psp_url) as psp:
        for send in (psp.charge(ask.charge(amount=amount)), psp.register(ask.charge(None, amount=amount))):
            answer = await send
            assert isinstance(answer, Declined)
            assert (answer.code, answer.decline_class) == (code, DeclineClass.HARD)


async def test_a_wrong_secret_is_certainly_no_charge(psp_url: str, connect: Connect, ask: Any) -> None:
    async with connect(psp_url, secret="wrong") as psp:
        answer = await psp.charge(ask.charge())
        assert isinstance(answer, NotExecuted)
        assert answer.reason == "unauthorized"
        assert isinstance(await psp.inquire(ask.about()), OutcomeLost)
        assert isinstance(await psp.void(ask.about()), OutcomeLost)


@pytest.mark.parametrize("order", ["a b", 'quo"te\\d', "bücher-€", "x" * 255, "é" * 255, "?&=#%/+"])
async def test_any_order_id_travels(order: str, psp_url: str, connect: Connect, ask: Any) -> None:
    """Whatever may be an order id finds its way as key and merchant reference, and back by inquiry."""
    async with connect(psp_url) as psp:
        assert isinstance(await psp.charge(ask.charge(order=order)), Charged)
        assert isinstance(await psp.inquire(ask.about(order)), Charged)
        assert isinstance(await psp.void(ask.about(order)), Charged)
    capture = (await ledger(psp_url))[0]
    assert (capture["merchant_reference"], capture["idempotency_key"]) == (order, psp_key(order))


async def test_the_hosted_page(psp_url: str, connect: Connect, ask: Any) -> None:
    back = "https://shop.example/done?cart=7"
    async with connect(psp_url, return_url=back) as psp, httpx2.AsyncClient() as browser:
        opened = await psp.register(ask.charge(None))
        assert isinstance(opened, BuyerActionRequired)
        shown = await browser.get(opened.url)
        assert shown.status_code == 200
        assert "3.15 EUR" in shown.text
        policy = shown.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "form-action 'self' https://shop.example;" in policy
        assert isinstance(await psp.inquire(ask.about()), BuyerActionRequired)
        gone = await browser.post(f"{opened.url}/pay")
        token = opened.url.rpartition("/")[2]
        assert gone.status_code == 303
        assert gone.headers["location"] == f"{back}&tokenID={token}&payResult=success"
        again = await browser.post(f"{opened.url}/decline")
        assert again.headers["location"].endswith("payResult=success")
        assert isinstance(await psp.inquire(ask.about()), Charged)
        assert "Paid" in (await browser.get(opened.url)).text
    assert len(await ledger(psp_url)) == 1


async def test_a_page_that_is_voided_cannot_be_paid(psp_url: str, connect: Connect, ask: Any) -> None:
    async with connect(psp_url) as psp, httpx2.AsyncClient() as browser:
        opened = await psp.register(ask.charge(None))
        assert isinstance(opened, BuyerActionRequired)
        assert isinstance(await psp.void(ask.about()), Voided)
        after = await browser.post(f"{opened.url}/pay", follow_redirects=True)
        assert str(after.url) == opened.url
        assert "closed" in after.text
        assert isinstance(await psp.inquire(ask.about()), Voided)
    assert await ledger(psp_url) == []


async def test_3ds_declined_by_the_buyer(psp_url: str, connect: Connect, ask: Any) -> None:
    async with connect(psp_url) as psp, httpx2.AsyncClient() as browser:
        opened = await psp.charge(ask.charge("tok_3ds"))
        assert isinstance(opened, BuyerActionRequired)
        await browser.post(f"{opened.url}/decline")
        told = await psp.inquire(ask.about())
    assert isinstance(told, Declined)
    assert told.code == "authentication_failed"


async def test_the_ledger_is_paged(psp_url: str, connect: Connect, ask: Any) -> None:
    async with connect(psp_url) as psp, httpx2.AsyncClient(headers=SECRET) as judge:
        for number in range(5):
            await psp.charge(ask.charge(order=f"o{number}"))
        seen: list[tuple[int, str]] = []
        ends: list[int | None] = []
        for after in (0, 2, 4):
            page = (await judge.get(f"{psp_url}/v1/ledger", params={"after": after, "limit": 2})).json()
            seen += [(line["seq"], line["merchant_reference"]) for line in page["captures"]]
            ends.append(page["next_after"])
            assert page["total"] == 5
        assert ends == [2, 4, None]
        assert (await judge.get(f"{psp_url}/v1/ledger", params={"limit": 0})).status_code == 400
    assert seen == [(number + 1, f"o{number}") for number in range(5)]


@pytest.mark.parametrize(
    "case",
    [
        ("POST", "/v1/charges", b"{", SECRET | {"Idempotency-Key": "k"}, 400),
        ("POST", "/v1/charges", b"\xff", SECRET | {"Idempotency-Key": "k"}, 400),
        ("POST", "/v1/charges", b'{"amount": 1.5}', SECRET | {"Idempotency-Key": "k"}, 400),
        ("POST", "/v1/charges", b"{}", SECRET, 400),
        ("POST", "/v1/charges", b"{}", SECRET | {"Idempotency-Key": '"open'}, 400),
        ("POST", "/v1/charges", b"{}", {"Idempotency-Key": "k"}, 401),
        ("POST", "/v1/charges", b"x" * 20_000, SECRET | {"Idempotency-Key": "k"}, 413),
        ("POST", "/v1/voids", b"{}", SECRET | {"Content-Type": "text/plain"}, 415),
        ("GET", "/v1/charges", b"", SECRET, 400),
        ("GET", "/v1/ledger", b"", {}, 401),
        ("GET", "/v1/nothing", b"", SECRET, 404),
        ("DELETE", "/v1/charges", b"", SECRET, 405),
        ("GET", "/pages/never", b"", {}, 404),
        ("POST", "/pages/never/pay", b"", {}, 404),
        ("GET", "/healthz", b"", {}, 200),
        ("GET", "/", b"", {}, 200),
    ],
)
async def test_bad_requests_get_their_status(
    case: tuple[str, str, bytes, dict[str, str], int], psp_url: str
) -> None:
    method, path, content, headers, status = case
    async with httpx2.AsyncClient() as client:
        headers = {"Content-Type": "application/json", **headers}
        answer = await client.request(method, psp_url + path, content=content, headers=headers)
    assert answer.status_code == status
    assert await ledger(psp_url) == []


async def test_a_taken_port_is_one_clear_line(psp_url: str, tmp_path: Path) -> None:
    port = int(psp_url.rpartition(":")[2])
    with pytest.raises(SetupError, match=f"{port}: the port is taken"):
        await serve_psp(
            port=port,
            journal_path=tmp_path / "other.jsonl",
            clock=None,  # type: ignore[arg-type]  # it never gets that far
            entropy=None,  # type: ignore[arg-type]
        )
