"""Goal: the server over a real socket: up, one clear line when it cannot be, bounded, and gone in bounded time."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import trio

from tallystick.engine.errors import SetupError
from tallystick.http import server

if TYPE_CHECKING:
    from tests.http.conftest import FakeDoor


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Serve on a free port; yield the URL and what stops it."""
    stop = trio.Event()
    urls_in, urls_out = trio.open_memory_channel[str](1)

    async def run() -> None:
        await server.serve(app, port=0, on_ready=urls_in.send_nowait, shutdown_trigger=stop.wait)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield await urls_out.receive(), stop.set
            stop.set()


async def _talk(url: str, sent: bytes) -> bytes:
    """Send bytes on a connection of its own and return all that comes back until it is closed."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rsplit(":", 1)[1]))
    async with stream:
        received = b""
        try:
            await stream.send_all(sent)
            while piece := await stream.receive_some(65_536):
                received += piece
        except trio.BrokenResourceError:
            pass
        return received


async def test_a_payment_over_a_real_connection(app: Any, checkout: dict[str, Any], door: "FakeDoor") -> None:
    async with serving(app) as (url, _), httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        first = await client.post("/v1/payments", json=checkout)
        again = await client.post("/v1/payments", json=checkout)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.content == again.content
        assert "server" not in first.headers
        assert (await client.get(first.headers["location"])).json()["checkout_id"] == "checkout-1"


async def test_an_encoded_slash_is_part_of_an_id(app: Any, checkout: dict[str, Any]) -> None:
    checkout["payment_orders"][0]["payment_order_id"] = "a/b%2Fc"
    async with serving(app) as (url, _), httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        await client.post("/v1/payments", json=checkout)
        assert (await client.get("/v1/payments/a%2Fb%252Fc")).json()["payment_order_id"] == "a/b%2Fc"


async def test_a_connection_is_closed_when_the_client_asks_for_it(app: Any) -> None:
    async with serving(app) as (url, _):
        answer = await _talk(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        old = await _talk(url, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answer.endswith(b'{"status":"alive"}')
    assert old.endswith(b'{"status":"alive"}')


async def test_a_taken_port_is_one_clear_line(app: Any) -> None:
    async with serving(app) as (url, _):
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(SetupError, match=f"127.0.0.1:{port}: the port is taken"):
            await server.serve(app, port=port)


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [
        ("no-such-host.invalid", 0, "the host is not known"),
        ("192.0.2.1", 0, "no such address"),
        ("127.0.0.1", 99_999, "ports go from 0"),
    ],
)
def test_where_one_cannot_listen_is_one_clear_line(host: str, port: int, why: str) -> None:
    with pytest.raises(SetupError, match=why) as caught:
        server.bind(host, port)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="needs IPv6")  # noqa: PTH110
def test_an_ipv6_address_can_be_listened_on() -> None:
    try:
        bound = server.bind("::1", 0)
    except SetupError:
        pytest.skip("the loopback has no IPv6 here")
    with bound:
        assert bound.family is socket.AF_INET6


async def test_a_body_too_large_is_answered_though_it_is_still_being_sent(app: Any, door: "FakeDoor") -> None:
    head = b"POST /v1/payments HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    async with serving(app) as (url, _):
        announced = await _talk(url, head + b"Content-Length: 3000000\r\n\r\n" + b" " * 3_000_000)
        piece = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
        chunked = await _talk(url, head + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 30 + b"0\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413 ")
    assert chunked.startswith(b"HTTP/1.1 413 ")
    assert door.submitted == []


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /?%zz=%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/payments/%00%ff%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /v1/payments HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/payments HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        (
            b"POST /v1/payments HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIdempotency-Key: \xff\xfe\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        ),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
    ],
)
async def test_malformed_http_is_never_a_server_error(app: Any, log_lines: list[Any], request_: bytes) -> None:
    async with serving(app) as (url, stop):
        answer = await _talk(url, request_)
        assert 200 <= int(answer.split(b" ")[1]) < 500
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
        stop()
    assert not [line for line in log_lines if line["log_level"] in {"error", "critical"}]


async def test_shutdown_waits_for_what_is_under_way(
    app: Any, checkout: dict[str, Any], door: "FakeDoor", monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = trio.Event(), trio.Event()
    submit = door.submit

    async def slow_submit(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        await leave.wait()
        return await submit(*args, **kwargs)

    monkeypatch.setattr(door, "submit", slow_submit)
    statuses = []
    async with serving(app) as (url, stop), trio.open_nursery() as nursery:

        async def pay() -> None:
            async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
                statuses.append((await client.post("/v1/payments", json=checkout)).status_code)

        nursery.start_soon(pay)
        await entered.wait()
        stop()
        await trio.testing.wait_all_tasks_blocked()
        leave.set()
    assert statuses == [202]


async def test_shutdown_does_not_wait_for_ever(
    app: Any, checkout: dict[str, Any], door: "FakeDoor", monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = trio.Event()

    async def endless_submit(*_: Any, **__: Any) -> Any:
        entered.set()
        await trio.sleep_forever()

    monkeypatch.setattr(door, "submit", endless_submit)
    monkeypatch.setattr(server, "GRACEFUL_S", 0.2)
    async with serving(app) as (url, stop), trio.open_nursery() as nursery:

        async def pay() -> None:
            async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
                with pytest.raises(httpx2.HTTPError):
                    await client.post("/v1/payments", json=checkout)

        nursery.start_soon(pay)
        await entered.wait()
        stop()
