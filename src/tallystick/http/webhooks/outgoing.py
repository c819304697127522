"""Signed webhooks to a merchant: a receiver of the outbox that speaks Standard Webhooks.

The `webhook-id` stands for the event's id and is the same on every try; the timestamp is of the try. 2xx is
success, 410 means "send no more" (the events wait in the outbox), anything else is tried again later, in order
per checkout.
Source: the Standard Webhooks specification, https://www.standardwebhooks.com.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256

import httpx2
import msgspec
import structlog
import trio
from standardwebhooks import Webhook

from tallystick.engine.errors import SetupError
from tallystick.engine.ports import Clock, DeliveryFailed
from tallystick.engine.story import instant
from tallystick.engine.views import OutboxEvent
from tallystick.http.server import PORT_MAX

log = structlog.get_logger("tallystick.webhooks")

_GONE = 410
# Orders delivered side by side; one order's events go one after the other.
_CONCURRENCY = 8
# Standard Webhooks suggests 15 to 30 s; a receiver should answer first and work afterwards.
_TIMEOUT_S = 15.0
_SECRET_BYTES_MIN, _SECRET_BYTES_MAX = 24, 64


class MerchantWebhook:
    """Delivers business events to one URL, signed."""

    name = "merchant_webhook"

    def __init__(self, client: httpx2.AsyncClient, *, url: str, secret: str, clock: Clock) -> None:
        self._client = client
        self._url = url
        self._signer = Webhook(secret)
        self._clock = clock
        self._delivered: set[str] = set()
        """Of the page at hand, so that a retried page sends again only what failed."""
        self._gone = False

    @classmethod
    @asynccontextmanager
    async def open(cls, *, url: str, secret: str, clock: Clock) -> AsyncIterator["MerchantWebhook"]:
        """Open a receiver. Raises SetupError as `check_url` and `check_secret` do."""
        check_url(url)
        check_secret(secret)
        async with httpx2.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client:
            yield cls(client, url=url, secret=secret, clock=clock)

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        """Deliver a page. Raises DeliveryFailed when any event was not taken."""
        if self._gone:
            raise DeliveryFailed("the receiver answered 410; its events wait here until it is set up again")
        self._delivered &= {event.event_id for event in events}
        problems: list[str] = []
        slots = trio.Semaphore(_CONCURRENCY)
        async with trio.open_nursery() as nursery:
            for group in _by_order(events):
                await slots.acquire()
                nursery.start_soon(self._deliver_group, group, problems, slots)
        if problems:
            raise DeliveryFailed(f"{len(problems)} events not taken, the first: {problems[0]}")
        self._delivered.clear()

    async def _deliver_group(self, group: list[OutboxEvent], problems: list[str], slots: trio.Semaphore) -> None:
        try:
            for event in group:
                if event.event_id in self._delivered:
                    continue
                problem = await self._post(event)
                if problem is not None:
                    problems.append(f"{event.event_id}: {problem}")
                    return
                self._delivered.add(event.event_id)
        finally:
            slots.release()

    async def _post(self, event: OutboxEvent) -> str | None:
        """Send one event; return what went wrong, or None."""
        body = b'{"type":%s,"timestamp":"%s","data":%s}' % (
            msgspec.json.encode(event.kind), instant(event.at).encode(), event.payload,
        )  # fmt: skip
        seconds = self._clock.now() // 1_000_000
        webhook_id = webhook_id_of(event.event_id)
        signature = self._signer.sign(webhook_id, datetime.fromtimestamp(seconds, UTC), body.decode())
        headers = {
            "content-type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature,
        }
        try:
            response = await self._client.post(self._url, content=body, headers=headers)
        except httpx2.HTTPError as error:
            return type(error).__name__
        if response.status_code == _GONE:
            self._gone = True
            log.error("merchant_webhook_gone", url=self._url, detail="answered 410; nothing more is sent to it")
        return None if response.is_success else f"HTTP {response.status_code}"


def webhook_id_of(event_id: str) -> str:
    """Return an event's id in a form that a header can carry; callers' ids, which are part of it, may not."""
    return f"evt_{sha256(event_id.encode()).hexdigest()[:40]}"


def check_url(url: str) -> None:
    """Raise SetupError unless events can be posted to `url`. It is not repeated: it may hold a password."""
    try:
        parts = httpx2.URL(url)
        good = parts.scheme in {"http", "https"} and bool(parts.host) and (parts.port or 0) <= PORT_MAX
    except httpx2.InvalidURL:
        good = False
    if not good:
        raise SetupError("the webhook URL must be like https://shop.example/hook: http or https, and a host")


def check_secret(secret: str) -> None:
    """Raise SetupError unless `secret` is one of Standard Webhooks: `whsec_` and 24 to 64 bytes in base64."""
    try:
        size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not secret.startswith("whsec_") or not _SECRET_BYTES_MIN <= size <= _SECRET_BYTES_MAX:
        raise SetupError("the webhook secret must be whsec_ followed by 24 to 64 random bytes in base64")


def _by_order(events: Sequence[OutboxEvent]) -> Iterable[list[OutboxEvent]]:
    """Group events by checkout, in order: an order's events, then its checkout's end."""
    groups: dict[str, list[OutboxEvent]] = {}
    for event in events:
        groups.setdefault(event.checkout_id, []).append(event)
    return groups.values()
