"""Goal: every answer of the application has our headers and problems, and its log lines name routes, not paths."""

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from tallystick.engine.doors import CardInfo, PaymentEvent, PaymentOrderRequest
from tallystick.http.api import schemas
from tallystick.http.api.openapi import openapi_document
from tallystick.http.api.payments import RetryRequest
from tallystick.http.api.settings import ApiSettings

if TYPE_CHECKING:
    from tests.http.conftest import FakeDoor

PATHS = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/", "/v1/dead-letters", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_has_the_security_headers(client: Any, path: str) -> None:
    headers = (await client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


async def test_health_readiness_and_metrics(client: Any, door: "FakeDoor") -> None:
    assert await (await client.get("/healthz")).get_json() == {"status": "alive"}
    assert await (await client.get("/readyz")).get_json() == {"status": "ready"}
    metrics = await client.get("/metrics")
    assert metrics.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"tallystick_fake 1" in await metrics.get_data()
    door.not_ready = "the database does not answer"
    response = await client.get("/readyz")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert (await response.get_json())["detail"] == "the database does not answer"
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/payments", "POST"),
        ("DELETE", "/v1/payments/x", "GET, HEAD"),
        ("OPTIONS", "/v1/payments", "POST"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("PATCH", "/v1/dead-letters/x/retry", "POST"),
    ],
)
async def test_another_method_is_405_with_those_that_are_allowed(
    client: Any, method: str, path: str, allowed: str
) -> None:
    response = await client.open(path, method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, allowed)
    assert response.content_type == "application/problem+json"


async def test_a_request_is_logged_by_route_status_and_time(
    client: Any, checkout: dict[str, Any], door: "FakeDoor", log_lines: list[Any]
) -> None:
    await client.get("/v1/payments/secret-id?token=secret")
    await client.get("/secret")
    await client.post("/v1/payments", json=checkout)
    assert [(line["method"], line["route"], line["status"]) for line in log_lines] == [
        ("GET", "/v1/payments/<id:payment_order_id>", 404),
        ("other", None, 404),
        ("POST", "/v1/payments", 202),
    ]
    assert all(
        set(line) == {"event", "log_level", "method", "route", "status", "duration_us"} for line in log_lines
    )


async def test_pages_have_no_script_and_need_no_other_host(client: Any) -> None:
    for path in ("/", "/docs"):
        response = await client.get(path)
        html = await response.get_data(as_text=True)
        assert "<script" not in html
        assert "style-src 'sha256-" in response.headers["Content-Security-Policy"]
        assert 'name="viewport"' in html
        assert 'src="' not in html
        assert 'href="http' not in html


async def test_the_docs_tell_every_operation_and_schema(client: Any) -> None:
    document = openapi_document(ApiSettings())
    html = await (await client.get("/docs")).get_data(as_text=True)
    for path in document["paths"]:
        assert f"<code>{path}</code>" in html
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in html


async def test_the_description_has_exactly_the_routes_of_the_application(app: Any) -> None:
    routes = {
        (method.lower(), rule.rule.replace("<id:", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
    }
    described = {
        (method, path) for path, item in openapi_document(ApiSettings())["paths"].items() for method in item
    }
    assert described == routes


async def test_the_description_resolves_within_itself(app: Any) -> None:
    document = openapi_document(ApiSettings())

    def refs(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [node["$ref"]] if "$ref" in node else [ref for inner in node.values() for ref in refs(inner)]
        return [ref for inner in node for ref in refs(inner)] if isinstance(node, list) else []

    for ref in refs(document):
        target: Any = document
        for part in ref.removeprefix("#/").split("/"):
            target = target[part]


def _members(type_: Any) -> dict[str, bool]:
    return {field.encode_name: field.required for field in msgspec.structs.fields(type_)}


def test_the_described_bodies_have_the_members_that_are_decoded() -> None:
    assert _members(schemas.Payment) == _members(PaymentEvent)
    assert _members(schemas.PaymentOrder) == _members(PaymentOrderRequest)
    assert _members(schemas.Retry) == _members(RetryRequest)
    _, components = msgspec.json.schema_components([schemas.Payment])
    forms = components["Payment"]["properties"]["credit_card_info"]["oneOf"]
    assert {name for form in forms for name in form.get("properties", {})} == set(_members(CardInfo))


async def _asgi(
    app: Any, scope: dict[str, Any], messages: list[dict[str, Any]], *, hang: bool = False
) -> list[Any]:
    sent: list[Any] = []
    queue = iter(messages)

    async def receive() -> dict[str, Any]:
        for message in queue:
            return message
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    base = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/payments",
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
    }
    with trio.fail_after(5):
        await app(base | scope, receive, send)
    return sent


async def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(app: Any, door: "FakeDoor") -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"1048577")]
    sent = await _asgi(app, {"headers": headers}, [])
    assert sent[0]["status"] == 413
    assert door.submitted == []


async def test_a_body_that_grows_too_large_is_refused_and_not_kept(app: Any, door: "FakeDoor") -> None:
    piece = {"type": "http.request", "body": b" " * 300_000, "more_body": True}
    sent = await _asgi(app, {}, [piece] * 50 + [{"type": "http.request", "body": b"", "more_body": False}])
    assert sent[0]["status"] == 413
    assert door.submitted == []


async def test_a_body_of_exactly_the_limit_is_read(app: Any) -> None:
    body = b"{" + b" " * (1_048_576 - 2) + b"}"
    sent = await _asgi(app, {}, [{"type": "http.request", "body": body, "more_body": False}])
    assert sent[0]["status"] == 400


async def test_a_body_that_never_ends_is_408(app: Any, autojump_clock: Any) -> None:
    sent = await _asgi(app, {}, [{"type": "http.request", "body": b"{", "more_body": True}])
    assert sent[0]["status"] == 408


async def test_a_client_that_leaves_cancels_only_its_handler(
    app: Any, door: "FakeDoor", log_lines: list[Any], autojump_clock: Any
) -> None:
    sent = await _asgi(
        app, {}, [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )
    assert sent == []
    assert [line["status"] for line in log_lines] == [0]


async def test_web_sockets_are_refused(app: Any) -> None:
    sent = await _asgi(app, {"type": "websocket"}, [{"type": "websocket.connect"}])
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("path", ["*", "http://[", "http://x/healthz", "x"])
async def test_a_target_that_is_no_path_is_404(app: Any, path: str) -> None:
    sent = await _asgi(
        app, {"method": "GET", "path": path}, [{"type": "http.request", "body": b"", "more_body": False}]
    )
    assert sent[0]["status"] == 404
