"""One HTTP exchange with a PSP, and what is certain about it when it fails.

The only question that matters after a failure is whether the request may have reached the PSP:

    Unsent   certainly not: no connection could be had (httpx2's ConnectError, ConnectTimeout, PoolTimeout; these
             arise before the first byte of the request, TLS handshake included)
    Lost     perhaps: whatever came after that. A connection that was reused and turned out closed belongs here,
             too: the PSP may have read the request and died.

It speaks to httpx2's transport, one layer below its client: no redirects are followed (a charge is never sent to
an address that we did not configure), no cookies kept, no proxies or credentials taken from the environment,
nothing retried, and no URL logged.
"""

from collections.abc import Mapping
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urlsplit

import httpx2
import msgspec
import trio

from tallystick.engine.errors import SetupError

# A charge is a few hundred bytes; a list of every attempt of an order some hundred kilobytes at most.
_ANSWER_BYTES_MAX = 1024 * 1024


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each step of an exchange may take, in seconds."""

    connect_s: float = 3.0
    write_s: float = 5.0
    read_s: float = 20.0
    """Between two reads. Card authorisations seldom take longer."""
    pool_s: float = 5.0
    """Waiting for a free connection."""
    total_s: float = 25.0
    """All of it together; ends an answer that trickles in for ever."""


class Answer(msgspec.Struct, frozen=True):
    """The PSP answered, in full. What it means is the adapter's business."""

    status: int
    headers: Mapping[str, str]
    """Names are case-insensitive."""
    body: bytes


class Unsent(msgspec.Struct, frozen=True):
    """The request certainly never left."""

    reason: str


class Lost(msgspec.Struct, frozen=True):
    """The request may have arrived; no answer can be believed."""

    reason: str


class Exchange:
    """Connections to one PSP."""

    def __init__(
        self, base_url: str, *, secret: str, timeouts: Timeouts, connections_max: int, idle_s: float
    ) -> None:
        """Make a pool of connections. `idle_s`: how long an idle one is kept, less than the PSP keeps it.

        Raises SetupError when the address is not one.
        """
        self._base_url = checked_base_url(base_url)
        self._secret = f"Bearer {secret}"
        self._total_s = timeouts.total_s
        self._extensions = {
            "timeout": {
                "connect": timeouts.connect_s,
                "read": timeouts.read_s,
                "write": timeouts.write_s,
                "pool": timeouts.pool_s,
            }
        }
        limits = httpx2.Limits(
            max_connections=connections_max,
            max_keepalive_connections=connections_max,
            keepalive_expiry=idle_s,
        )
        self._transport = httpx2.AsyncHTTPTransport(trust_env=False, http2=False, limits=limits, retries=0)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections; what is under way on them is lost."""
        await self._transport.__aexit__(kind, error, trace)

    async def get(self, path: str, query: Mapping[str, str]) -> Answer | Unsent | Lost:
        """Ask for something."""
        return await self._send(
            httpx2.Request(
                "GET",
                f"{self._base_url}{path}?{urlencode(query)}",
                headers={"Authorization": self._secret, "Accept": "application/json"},
                extensions=self._extensions,
            )
        )

    async def post(self, path: str, body: bytes, *, key: str | None = None) -> Answer | Unsent | Lost:
        """Have something done, under an idempotency key (a quoted string, RFC 8941) if one is given."""
        headers = {
            "Authorization": self._secret,
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        if key is not None:
            escaped = key.replace("\\", "\\\\").replace('"', '\\"')
            headers["Idempotency-Key"] = f'"{escaped}"'
        request = httpx2.Request(
            "POST", f"{self._base_url}{path}", headers=headers, content=body, extensions=self._extensions
        )
        return await self._send(request)

    async def _send(self, request: httpx2.Request) -> Answer | Unsent | Lost:
        with trio.move_on_after(self._total_s):
            try:
                response = await self._transport.handle_async_request(request)
                return await self._read(response)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
                return Unsent(_reason(error))
            except httpx2.TransportError as error:
                return Lost(_reason(error))
        return Lost("total_timeout")

    @staticmethod
    async def _read(response: httpx2.Response) -> Answer | Lost:
        """Read an answer to its end, or give it up when it is absurdly long."""
        body = bytearray()
        try:
            async with aclosing(response.aiter_raw()) as parts:
                async for part in parts:
                    body += part
                    if len(body) > _ANSWER_BYTES_MAX:
                        # Closing makes the next read fail, which ends httpx2's nested generators in order; to
                        # leave the loop here would leave the inner ones to the garbage collector.
                        await response.aclose()
        except httpx2.TransportError:
            if len(body) > _ANSWER_BYTES_MAX:
                return Lost("answer_too_long")
            raise
        finally:
            await response.aclose()
        if len(body) > _ANSWER_BYTES_MAX:
            return Lost("answer_too_long")
        return Answer(response.status_code, response.headers, bytes(body))


def checked_base_url(url: str) -> str:
    """Return a base URL without its trailing slash. Raises SetupError when it is no http(s) address."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment or parts.username:
        raise SetupError("the PSP's base_url must be an address such as https://api.psp.example")
    return url.rstrip("/")


def retry_after_us(answer: Answer, *, now: int) -> int | None:
    """Return an answer's Retry-After (seconds, or an HTTP date; RFC 9110) in microseconds, None without one.

    One that cannot be read counts as none; a date in the past as 0.
    """
    text = answer.headers.get("retry-after", "").strip()
    digits_max = 9
    if text.isascii() and text.isdigit():
        return int(text) * 1_000_000 if len(text) <= digits_max else None
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        return None  # "-0000", a zone that nobody knows; HTTP dates end in GMT.
    return max(0, int(at.timestamp()) * 1_000_000 - now)


def _reason(error: httpx2.TransportError) -> str:
    """Name a failure by its class alone: messages may quote addresses or bytes of the exchange."""
    return type(error).__name__
