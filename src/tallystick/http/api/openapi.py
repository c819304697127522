"""The API's description, OpenAPI 3.1, from the msgspec types.

Schemas come from the types by `msgspec.json.schema_components`; the operations are listed here, with every
status, header and media type that they answer, problem+json among them. A test compares the paths and methods
here with the application's routes, and schemathesis compares every answer with what is stated.
"""

from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from tallystick.engine.intake import ID_CHARS_MAX
from tallystick.http.api import bodies_out, schemas
from tallystick.http.api.problems import CONTENT_TYPE, Problem
from tallystick.http.api.settings import ApiSettings

_JSON = "application/json"
_SCHEMAS = "#/components/schemas/"

_PROBLEMS = {
    400: "Not well-formed JSON, or not of the stated members and types, or a malformed header or parameter.",
    404: "Nothing is known under this id.",
    408: "The body took too long to arrive.",
    409: "The present state does not allow this.",
    413: "The body is too large.",
    415: "The body is not `application/json`.",
    422: "A value is not acceptable, or the same id or key came before with other content. Nothing was changed.",
    500: "A bug of ours. It is logged under the problem's `instance`.",
    503: "At capacity, or the database does not answer. `Retry-After` says when to send the same request again.",
}
_ABOUT = """\
Checkouts in, payments out: each is carried out exactly once.

**Sending again is always safe.** `checkout_id` and `payment_order_id` are yours, and the same content under the
same ids answers the same. Other content under a known id is refused with 422, and nothing changes.

**Money** is a decimal string with an ISO 4217 code, never a float. **Times** are RFC 3339, UTC.

**Errors** are problem details (RFC 9457). `errors` names each field by its path (`payment_orders[0].amount`).

**Card numbers are refused**: 12 to 19 digits that begin like a card scheme's and pass the Luhn check, in any
field, in any script, with anything but letters between them. UUIDs and the usual hexadecimal digests are known not
to be cards. An id that is nothing but so many digits may be taken for a card, so give ids a letter.

**Ids in paths** are percent-encoded, slashes included: `a/b` is `/v1/payments/a%2Fb`.
"""


def openapi_document(settings: ApiSettings) -> dict[str, Any]:
    """Return the OpenAPI document as plain JSON types."""
    types = [
        schemas.Payment,
        schemas.Retry,
        bodies_out.ReceiptBody,
        bodies_out.CheckoutBody,
        bodies_out.PaymentBody,
        bodies_out.OrderBody,
        bodies_out.WalletsBody,
        bodies_out.AccountBody,
        bodies_out.DeadLettersBody,
        Problem,
    ]
    _, components = msgspec.json.schema_components(types, ref_template=_SCHEMAS + "{name}")
    # msgspec has no way to say this of a struct: other members are kept, within limits.
    components["BuyerInfo"] |= schemas.free_members(1)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tallystick",
            "version": version("tallystick"),
            "summary": "Takes payments, and moves each exactly once.",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _payment_paths(settings) | _people_paths(settings) | _system_paths(),
        "components": {"schemas": components, "responses": _problem_responses()},
    }


# --- parts ---------------------------------------------------------------------------------------------------


def _ref(type_: type) -> dict[str, str]:
    return {"$ref": _SCHEMAS + type_.__name__}


def _header(description: str, **schema: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"} | schema}


_LOCATION = {"Location": _header("Where the result is found.", format="uri-reference")}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_REPLAYED = {
    "Idempotent-Replayed": _header("Present when the same content had been accepted before.", const="true")
}
_APPLIED = {"Preference-Applied": _header("The wait that was granted.", pattern="^wait=[0-9]+$")}


def _answer(
    description: str, schema: dict[str, Any], *, headers: dict[str, Any] | None = None, media_type: str = _JSON
) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description, "content": {media_type: {"schema": schema}}}
    if headers:
        answer["headers"] = headers
    return answer


def _problem_responses() -> dict[str, Any]:
    return {
        f"Problem{status}": _answer(
            description,
            _ref(Problem),
            headers=_RETRY_AFTER if status == HTTPStatus.SERVICE_UNAVAILABLE else None,
            media_type=CONTENT_TYPE,
        )
        for status, description in _PROBLEMS.items()
    }


def _operation(
    operation_id: str,
    summary: str,
    answers: dict[int, dict[str, Any]],
    *,
    problems: Sequence[int] = (),
    parameters: Sequence[dict[str, Any]] = (),
    body: type | None = None,
    tag: str = "payments",
    description: str = "",
) -> dict[str, Any]:
    refs = {status: {"$ref": f"#/components/responses/Problem{status}"} for status in problems}
    operation: dict[str, Any] = {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        "responses": {str(status): answer for status, answer in sorted((answers | refs).items())},
    }
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": _ref(body)}}}
    return operation


def _path_id(name: str, example: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "minLength": 1, "maxLength": ID_CHARS_MAX},
        "example": example,
    }


def _paging(settings: ApiSettings, *, cursor_format: str) -> list[dict[str, Any]]:
    limit = {
        "type": "integer",
        "minimum": 1,
        "maximum": settings.page_rows_max,
        "default": settings.page_rows_default,
    }
    return [
        {"name": "limit", "in": "query", "description": "Rows of a page.", "schema": limit},
        {
            "name": "cursor",
            "in": "query",
            "description": "The `next_cursor` of the page before.",
            "schema": {"type": "string", "format": cursor_format},
        },
    ]


# --- paths ---------------------------------------------------------------------------------------------------


def _payment_paths(settings: ApiSettings) -> dict[str, Any]:
    receipt, checkout = _ref(bodies_out.ReceiptBody), _ref(bodies_out.CheckoutBody)
    post = _operation(
        "post_payment",
        "Take a checkout",
        {
            200: _answer(
                "All its orders are done (with `Prefer: wait` only).",
                checkout,
                headers=_LOCATION | _REPLAYED | _APPLIED,
            ),
            202: _answer(
                "It is durable and will be carried out: the receipt, which is the same for the same content; with "
                "`Prefer: wait`, the checkout as it stands after the wait.",
                {"anyOf": [receipt, checkout]},
                headers=_LOCATION | _REPLAYED | _APPLIED,
            ),
        },
        problems=(400, 408, 413, 415, 422, 500, 503),
        parameters=[
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Optional, since `checkout_id` is the natural key. One string of 1 to 255 visible "
                "ASCII characters, quoted or bare. The same key with other content is refused with 422. It is "
                "kept for at least 24 hours.",
                "schema": {"type": "string", "format": "idempotency-key", "minLength": 1, "maxLength": 512},
                "example": "3c9b2f1e-checkout-1",
            },
            {
                "name": "Prefer",
                "in": "header",
                "description": f"`wait=N` waits up to N seconds (at most {settings.wait_s_max}) until all "
                "orders are done. What cannot be understood is ignored (RFC 7240).",
                "schema": {"type": "string"},
                "example": "wait=10",
            },
        ],
        body=schemas.Payment,
        description=f"Bodies have at most {settings.body_bytes_max:,} bytes. The answer comes after the commit, "
        "never before it.",
    )
    get_payment = _operation(
        "get_payment",
        "Read a payment order",
        {200: _answer("The order with its attempts.", _ref(bodies_out.PaymentBody))},
        problems=(404, 500, 503),
        parameters=[_path_id("payment_order_id", "order-1", "As sent.")],
    )
    get_checkout = _operation(
        "get_checkout",
        "Read a checkout",
        {200: _answer("The checkout with all its orders.", checkout)},
        problems=(404, 500, 503),
        parameters=[_path_id("checkout_id", "checkout-1", "As sent.")],
    )
    return {
        "/v1/payments": {"post": post},
        "/v1/payments/{payment_order_id}": {"get": get_payment},
        "/v1/checkouts/{checkout_id}": {"get": get_checkout},
    }


def _people_paths(settings: ApiSettings) -> dict[str, Any]:
    wallets = _operation(
        "get_wallets",
        "Read a seller's wallets",
        {200: _answer("One wallet per currency.", _ref(bodies_out.WalletsBody))},
        problems=(404, 500, 503),
        parameters=[_path_id("seller_account", "DE89370400440532013000", "An IBAN, in any notation.")],
        tag="books",
    )
    account = _operation(
        "get_account",
        "Read a ledger account",
        {200: _answer("The account with a page of entries, newest first.", _ref(bodies_out.AccountBody))},
        problems=(400, 404, 500, 503),
        parameters=[
            _path_id("account_id", "seller_payable:DE89370400440532013000:EUR", "`type:owner:currency`."),
            *_paging(settings, cursor_format="ledger-cursor"),
        ],
        tag="books",
    )
    letters = _operation(
        "get_dead_letters",
        "List dead letters",
        {200: _answer("Orders that need a person, oldest first.", _ref(bodies_out.DeadLettersBody))},
        problems=(400, 500, 503),
        parameters=_paging(settings, cursor_format="dead-letter-cursor"),
        tag="dead letters",
    )
    retry = _operation(
        "post_retry",
        "Try a failed order again",
        {202: _answer("One more attempt has begun.", _ref(bodies_out.OrderBody), headers=_LOCATION)},
        problems=(400, 404, 408, 409, 413, 415, 422, 500, 503),
        parameters=[_path_id("payment_order_id", "order-1", "As sent.")],
        body=schemas.Retry,
        tag="dead letters",
    )
    return {
        "/v1/wallets/{seller_account}": {"get": wallets},
        "/v1/ledger/accounts/{account_id}": {"get": account},
        "/v1/dead-letters": {"get": letters},
        "/v1/dead-letters/{payment_order_id}/retry": {"post": retry},
    }


def _system_paths() -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    status: dict[str, Any] = {
        "type": "object",
        "properties": {"status": {"type": "string"}},
        "required": ["status"],
    }

    def get(name: str, summary: str, answer: dict[str, Any], problems: Sequence[int] = (500,)) -> dict[str, Any]:
        return {"get": _operation(name, summary, {200: answer}, problems=problems, tag="system")}

    return {
        "/healthz": get("get_health", "Is the process alive?", _answer("Alive.", status)),
        "/readyz": get("get_readiness", "Can it take payments?", _answer("Ready.", status), problems=(500, 503)),
        "/metrics": get(
            "get_metrics", "Metrics", _answer("Prometheus' text format.", text, media_type="text/plain")
        ),
        "/openapi.json": get("get_openapi", "This description", _answer("OpenAPI 3.1.", {"type": "object"})),
        "/docs": get("get_docs", "This description, for people", _answer("HTML.", text, media_type="text/html")),
        "/": get("get_index", "What this is", _answer("HTML.", text, media_type="text/html")),
    }
