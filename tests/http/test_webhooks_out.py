"""Signed webhooks to a merchant: Standard Webhooks on a real socket, at least once, in order per checkout."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio
from standardwebhooks import Webhook

from tallystick.engine.errors import SetupError
from tallystick.engine.ports import DeliveryFailed
from tallystick.engine.views import OutboxEvent
from tallystick.http.server import serve
from tallystick.http.webhooks.outgoing import MerchantWebhook, check_secret, check_url

# The vector that the specification publishes.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW_S = 1_800_000_000


class StoppedClock:
    def now(self) -> int:
        return NOW_S * 1_000_000 + 250_000


class Merchant:
    """A receiver that answers what it is told to, and keeps what it got."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int]] = {}
        self.got: list[tuple[dict[str, str], bytes]] = []

    def app(self) -> QuartTrio:
        app = QuartTrio("merchant")

        @app.post("/hook")
        async def hook() -> Response:
            body = bytes(await request.body)
            order = json.loads(body)["data"]["order"]
            self.got.append((dict(request.headers), body))
            statuses = self.answers.get(order, [])
            return Response("", status=statuses.pop(0) if statuses else 204)

        return app

    @property
    def orders(self) -> list[str]:
        return [json.loads(body)["data"]["order"] for _, body in self.got]


def event(position: int, order: str, checkout: str = "co-1") -> OutboxEvent:
    return OutboxEvent(
        position=position,
        event_id=f"order:{order}:3",
        kind="payment_order.succeeded",
        checkout_id=checkout,
        payment_order_id=order,
        at=NOW_S * 1_000_000,
        payload=json.dumps({"order": order}).encode(),
    )


@asynccontextmanager
async def delivering_to(merchant: Merchant) -> AsyncIterator[MerchantWebhook]:
    ready: list[str] = []
    up = trio.Event()

    def on_ready(url: str) -> None:
        ready.append(url)
        up.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, merchant.app(), port=0, on_ready=on_ready))
        await up.wait()
        async with MerchantWebhook.open(url=f"{ready[0]}/hook", secret=SECRET, clock=StoppedClock()) as hook:
            yield hook
        nursery.cancel_scope.cancel()


def test_the_published_vector() -> None:
    """The library that signs for us gives the signature that the specification publishes."""
    signature = Webhook(SECRET).sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), '{"test": 2432232314}'
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_what_arrives_is_signed_and_can_be_verified() -> None:
    """A merchant with the secret can verify a delivery; type, time and data are what happened."""
    merchant = Merchant()
    async with delivering_to(merchant) as hook:
        await hook.deliver([event(1, "po-1")])
    headers, body = merchant.got[0]
    signed = {name.lower(): value for name, value in headers.items()}
    assert signed["webhook-timestamp"] == str(NOW_S)
    again = Webhook(SECRET).sign(signed["webhook-id"], datetime.fromtimestamp(NOW_S, UTC), body.decode())
    assert signed["webhook-signature"] == again
    assert json.loads(body) == {
        "type": "payment_order.succeeded",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "data": {"order": "po-1"},
    }


async def test_ids_that_no_header_can_carry_arrive_all_the_same() -> None:
    """Callers' ids may hold any character; the webhook's id stays printable, and the same on every try."""
    merchant = Merchant()
    merchant.answers["zahlung-ü-✓"] = [500]
    async with delivering_to(merchant) as hook:
        page = [event(1, "zahlung-ü-✓")]
        with pytest.raises(DeliveryFailed):
            await hook.deliver(page)
        await hook.deliver(page)
    ids = {headers["Webhook-Id"] for headers, _ in merchant.got}
    assert len(merchant.got) == 2
    assert len(ids) == 1
    assert ids.pop().isascii()


async def test_only_what_failed_is_sent_again() -> None:
    """A page with one failure is repeated for that event alone, and for what follows it in its checkout."""
    merchant = Merchant()
    merchant.answers["po-2"] = [503]
    page = [event(1, "po-1", "a"), event(2, "po-2", "b"), event(3, "po-3", "b"), event(4, "po-4", "c")]
    async with delivering_to(merchant) as hook:
        with pytest.raises(DeliveryFailed):
            await hook.deliver(page)
        assert sorted(merchant.orders) == ["po-1", "po-2", "po-4"], "po-3 waits for po-2"
        merchant.got.clear()
        await hook.deliver(page)
    assert merchant.orders == ["po-2", "po-3"]


async def test_a_refused_connection_is_a_failure_to_repeat() -> None:
    """A merchant that is down gets its events later."""
    async with MerchantWebhook.open(url="http://127.0.0.1:9/hook", secret=SECRET, clock=StoppedClock()) as hook:
        with pytest.raises(DeliveryFailed):
            await hook.deliver([event(1, "po-1")])


async def test_after_410_nothing_is_sent_and_nothing_is_lost() -> None:
    """A receiver that is gone is not asked again; its cursor stands still, so its events wait for it."""
    merchant = Merchant()
    merchant.answers["po-1"] = [410]
    async with delivering_to(merchant) as hook:
        for page in ([event(1, "po-1")], [event(1, "po-1"), event(2, "po-2", "b")]):
            with pytest.raises(DeliveryFailed):
                await hook.deliver(page)
    assert merchant.orders == ["po-1"]


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ="]
)
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    """A weak or mistyped secret is found at start, not by the first merchant who verifies."""
    with pytest.raises(SetupError):
        check_secret(secret)


@pytest.mark.parametrize(
    "url",
    [
        "not-a-url",
        "",
        "shop.example/hook",
        "ftp://shop.example",
        "https:///hook",
        "http://x:abc",
        "http://x:99999",
    ],
)
async def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Found at start, in one line, and not by a log that fills with failures."""
    with pytest.raises(SetupError, match="webhook URL") as caught:
        async with MerchantWebhook.open(url=url, secret=SECRET, clock=StoppedClock()):
            pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/hook", "https://shop.example", "http://[::1]:80/"])
def test_a_url_is_let_through(url: str) -> None:
    """Any host and port will do."""
    check_url(url)
