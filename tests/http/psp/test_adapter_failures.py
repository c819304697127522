"""Every way a PSP can fail to answer: only what certainly never left is NotExecuted; all else is unknown."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from tallystick.engine.events import Charged, Declined, NotExecuted, OutcomeLost, Source
from tallystick.engine.ports import Psp

Connect = Callable[..., AbstractAsyncContextManager[Psp]]
Behaviour = Callable[[trio.SocketStream], Awaitable[None]]

CHARGE = {
    "id": "pay_1",
    "status": "charged",
    "amount": 315,
    "currency": "EUR",
    "merchant_reference": "order-1",
    "idempotency_key": "order-1",
}


class Listener:
    """A server that treats each connection as it is told, and keeps what it received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.received: list[bytes] = []
        self.connections = 0


@asynccontextmanager
async def listening(behave: Behaviour) -> AsyncIterator[Listener]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Listener(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")

    async def handle(stream: trio.SocketStream) -> None:
        server.connections += 1
        try:
            server.received.append(await read_request(stream))
            await behave(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.SocketStream) -> bytes:
    """Read one request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            return bytes(data)
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += await stream.receive_some()
    return bytes(head + b"\r\n\r\n" + body)


def says(status: int, body: object = b"", *headers: str) -> Behaviour:
    """Answer with a status and a body; JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    fixed = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}", "Connection: close"]
    lines = [*fixed, *headers, "", ""]

    async def behave(stream: trio.SocketStream) -> None:
        await stream.send_all("\r\n".join(lines).encode() + content)

    return behave


def sends(raw: bytes, *, then: str = "close") -> Behaviour:
    """Send these bytes, then close, reset, or stall."""

    async def behave(stream: trio.SocketStream) -> None:
        if raw:
            await stream.send_all(raw)
        if then == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if then == "stall":
            await trio.sleep_forever()

    return behave


async def trickles(stream: trio.SocketStream) -> None:
    """Answer a byte at a time, each within the read timeout, for ever."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(0.05)


async def floods(stream: trio.SocketStream) -> None:
    """Answer without end, as fast as it goes."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    while True:
        await stream.send_all(chunk)


def error(kind: str, code: str) -> dict[str, Any]:
    return {"error": {"type": kind, "code": code, "message": "so it is"}}


LOST: dict[str, tuple[Behaviour, str]] = {
    "closes without a word": (sends(b""), "RemoteProtocolError"),
    "resets": (sends(b"", then="reset"), "ReadError"),
    "stalls": (sends(b"", then="stall"), "ReadTimeout"),
    "stalls within the head": (sends(b"HTTP/1.1 200 OK\r\nConte", then="stall"), "ReadTimeout"),
    "closes within the head": (sends(b"HTTP/1.1 200 OK\r\nConte"), "RemoteProtocolError"),
    "stalls within the body": (
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", then="stall"),
        "ReadTimeout",
    ),
    "closes within the body": (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "RemoteProtocolError"),
    "resets within the body": (
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", then="reset"),
        "ReadError",
    ),
    "speaks no HTTP": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), "RemoteProtocolError"),
    "sends nothing but 100s": (sends(b"HTTP/1.1 100 Continue\r\n\r\n" * 3, then="stall"), "ReadTimeout"),
    "trickles for ever": (trickles, "total_timeout"),
    "floods": (floods, "answer_too_long"),
    "answers 200 with nothing": (says(200), "http_200"),
    "answers 200 with HTML": (says(200, b"<html>Welcome</html>"), "http_200"),
    "answers 200 with other JSON": (says(200, {"ok": True}), "http_200"),
    "answers 200 with half a charge": (says(200, {**CHARGE, "amount": None}), "http_200"),
    "answers 200 with bytes that are no text": (says(200, b'{"id": "\xff"}'), "http_200"),
    "answers about another order": (says(200, {**CHARGE, "merchant_reference": "order-2"}), "http_200"),
    "answers about another key": (says(200, {**CHARGE, "idempotency_key": "order-2"}), "http_200"),
    "answers a status it may not": (says(200, {**CHARGE, "status": "declined"}), "http_200"),
    "answers a status nobody knows": (says(200, {**CHARGE, "status": "processing"}), "http_200"),
    "answers an amount that is no money": (says(200, {**CHARGE, "currency": "ISK"}), "http_200"),
    "answers a currency nobody knows": (says(200, {**CHARGE, "currency": "???"}), "http_200"),
    "charged under 402": (says(402, CHARGE), "http_402"),
    "declined without a reason": (says(402, {**CHARGE, "status": "declined"}), "http_402"),
    "402 of somebody else": (says(402, b"Payment Required"), "http_402"),
    "redirects": (says(307, b"", "Location: http://127.0.0.1:9/v1/charges"), "http_307"),
    "409 of somebody else": (says(409, error("conflict", "busy")), "http_409"),
    "key reused": (says(422, error("idempotency", "key_reused")), "http_422"),
    "408": (says(408), "http_408"),
    "425": (says(425), "http_425"),
    "400 of a proxy": (says(400, b"Bad Request"), "http_400"),
    "404 of a proxy": (says(404, b"<h1>Not Found</h1>"), "http_404"),
    "500": (says(500, error("api_error", "internal_error")), "http_500"),
    "502": (says(502, b"Bad Gateway"), "http_502"),
    "503": (says(503, b"", "Retry-After: 1"), "http_503"),
    "504": (says(504), "http_504"),
    "a code of its own": (says(799), "http_799"),
}


@pytest.mark.parametrize("name", LOST)
async def test_what_may_have_arrived_is_unknown(name: str, connect: Connect, ask: Any) -> None:
    """For every call: sent exactly once, and no answer is made up."""
    behave, reason = LOST[name]
    patience = {"ReadTimeout": {"read_timeout_s": "0.2"}, "total_timeout": {"total_timeout_s": "0.5"}}
    async with listening(behave) as server, connect(server.url, **patience.get(reason, {})) as psp:
        answers = [
            await psp.charge(ask.charge()),
            await psp.register(ask.charge(None)),
            await psp.inquire(ask.about()),
            await psp.void(ask.about()),
        ]
    assert [type(answer) for answer in answers] == [OutcomeLost] * 4
    sources = [Source.RESPONSE, Source.RESPONSE, Source.INQUIRY, Source.VOID]
    assert [answer.source for answer in answers] == sources
    assert [answer.reason for answer in answers if isinstance(answer, OutcomeLost)][:2] == [reason] * 2
    assert server.connections == len(server.received) == 4


@pytest.mark.parametrize(
    "case",
    [
        (429, b"", (), ("throttled", None)),
        (429, b"slow down", ("Retry-After: 7",), ("throttled", 7_000_000)),
        (429, b"", ("Retry-After: soon",), ("throttled", None)),
        (429, b"", ("Retry-After: -1",), ("throttled", None)),
        (429, b"", ("Retry-After: 99999999999999999999",), ("throttled", None)),
        (429, b"", ("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT",), ("throttled", 0)),
        (401, error("authentication", "unauthorized"), (), ("unauthorized", None)),
        (400, error("invalid_request", "malformed"), (), ("malformed", None)),
        (404, error("invalid_request", "not_found"), (), ("not_found", None)),
    ],
)
async def test_refused_before_processing_is_certain(
    case: tuple[int, object, tuple[str, ...], tuple[str, int | None]], connect: Connect, ask: Any
) -> None:
    status, body, headers, expected = case
    async with listening(says(status, body, *headers)) as server, connect(server.url) as psp:
        answer = await psp.charge(ask.charge())
    assert isinstance(answer, NotExecuted)
    assert (answer.reason, answer.retry_after_us) == expected


async def test_a_refused_connection_is_certain(connect: Connect, ask: Any) -> None:
    """Nobody listens: for a charge that is certainty, for a question it is just no answer."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with connect(f"http://127.0.0.1:{port}") as psp:
        charge, page = await psp.charge(ask.charge()), await psp.register(ask.charge(None))
        assert isinstance(charge, NotExecuted)
        assert isinstance(page, NotExecuted)
        assert charge.reason == page.reason == "ConnectError"
        assert isinstance(await psp.inquire(ask.about()), OutcomeLost)
        assert isinstance(await psp.void(ask.about()), OutcomeLost)


async def test_an_unknown_host_is_certain(connect: Connect, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("trio.socket.getaddrinfo", fails)
    async with connect("http://psp.invalid") as psp:
        answer = await psp.charge(ask.charge())
    assert isinstance(answer, NotExecuted)
    assert answer.reason == "ConnectError"


async def test_a_connection_that_takes_too_long_is_certain(connect: Connect, ask: Any) -> None:
    """A full backlog drops connection attempts, as a firewall does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        crowd = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            crowd.append(sock)
        async with connect(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout_s="0.2") as psp:
            answer = await psp.charge(ask.charge())
        for sock in crowd:
            sock.close()
    assert isinstance(answer, NotExecuted)
    assert answer.reason == "ConnectTimeout"


async def test_a_tls_handshake_that_fails_is_certain(connect: Connect, ask: Any) -> None:
    async with listening(sends(b"no TLS here")) as server:
        async with connect(server.url.replace("http:", "https:"), connect_timeout_s="0.5") as psp:
            answer = await psp.charge(ask.charge())
        assert isinstance(answer, NotExecuted)
        assert not any(b"order-1" in received for received in server.received)


async def test_no_free_connection_is_certain(connect: Connect, ask: Any) -> None:
    """The second call finds the only connection taken for longer than it waits, and was never sent."""
    answers: list[object] = []
    async with (
        listening(sends(b"", then="stall")) as server,
        connect(server.url, connections_max="1", pool_timeout_s="0.1", read_timeout_s="0.5") as psp,
        trio.open_nursery() as nursery,
    ):

        async def one(order: str) -> None:
            answers.append(await psp.charge(ask.charge(order=order)))

        nursery.start_soon(one, "first")
        await wait_all_tasks_blocked()
        nursery.start_soon(one, "second")
    assert [type(answer) for answer in answers] == [NotExecuted, OutcomeLost]
    assert len(server.received) == 1


async def test_a_kept_connection_that_died_is_not_resent(connect: Connect, ask: Any) -> None:
    """The PSP reads the second request and dies: nobody may send it once more behind the engine's back."""
    body = msgspec.json.encode(CHARGE)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    seen: list[bytes] = []

    async def once(stream: trio.SocketStream) -> None:
        await stream.send_all(head + body)
        seen.append(await read_request(stream))

    async with listening(once) as server, connect(server.url) as psp:
        assert isinstance(await psp.charge(ask.charge()), Charged)
        assert isinstance(await psp.charge(ask.charge()), OutcomeLost)
        assert b"order-1" in seen[0]
        assert server.connections == 1


async def test_a_cancelled_call_frees_its_connection(connect: Connect, ask: Any) -> None:
    async with listening(sends(b"", then="stall")) as server, connect(server.url, connections_max="1") as psp:
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await psp.charge(ask.charge())
            assert scope.cancelled_caught
        assert server.connections == 3


async def test_cookies_and_environment_have_no_say(
    connect: Connect, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with listening(says(200, CHARGE, "Set-Cookie: a=b")) as server, connect(server.url) as psp:
        assert isinstance(await psp.charge(ask.charge()), Charged)
        assert b"authorization: bearer sk_test_simulated" in server.received[0].lower()
        assert b'idempotency-key: "order-1"' in server.received[0].lower()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, error("idempotency", "key_reused")),
        (401, error("authentication", "unauthorized")),
        (200, b"garbage tok_visa_secret"),
    ],
)
async def test_failures_are_logged_without_secrets(
    status: int, body: object, connect: Connect, ask: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as logs:
        async with listening(says(status, body)) as server, connect(server.url, secret="sk_hidden") as psp:
            await psp.charge(ask.charge("tok_visa_secret"))
    assert logs
    assert logs[0]["payment_order_id"] == "order-1"
    assert logs[0]["log_level"] == ("warning" if status == 200 else "error")
    said = repr(logs) + "".join(capfd.readouterr())
    assert "sk_hidden" not in said
    assert "tok_visa_secret" not in said


async def test_a_decline_is_read_as_documented(connect: Connect, ask: Any) -> None:
    body = {**CHARGE, "status": "declined", "decline": {"code": "do_not_honour", "class": "soft"}, "new": [1]}
    async with listening(says(402, body)) as server, connect(server.url) as psp:
        answer = await psp.charge(ask.charge())
    assert isinstance(answer, Declined)
    assert (answer.code, answer.psp_reference) == ("do_not_honour", "pay_1")
