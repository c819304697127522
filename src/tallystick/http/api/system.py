"""Health, readiness, metrics, and the API's description of itself."""

import msgspec
from quart import Response

from tallystick.engine.doors import Door
from tallystick.http.api.bodies_out import Body
from tallystick.http.api.openapi import openapi_document
from tallystick.http.api.payments import json_response
from tallystick.http.api.problems import Kind, Refusal
from tallystick.http.api.settings import ApiSettings
from tallystick.http.pages.docs import Page, docs_page, index_page

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
READY_RETRY_AFTER_S = 2


class StatusBody(Body, frozen=True, kw_only=True):
    """Alive, or ready."""

    status: str


class SystemHandlers:
    """The handlers for operators and readers, over one engine."""

    def __init__(self, engine: Door, settings: ApiSettings) -> None:
        self._engine = engine
        document = openapi_document(settings)
        self._openapi = msgspec.json.encode(document)
        self._docs = docs_page(document)
        self._index = index_page(settings.base_url)

    async def get_health(self) -> Response:
        """The process answers."""
        return json_response(StatusBody(status="alive"))

    async def get_readiness(self) -> Response:
        """Payments can be taken now."""
        reason = self._engine.not_ready_because()
        if reason is not None:
            raise Refusal(Kind.NOT_READY, reason, headers={"Retry-After": str(READY_RETRY_AFTER_S)})
        return json_response(StatusBody(status="ready"))

    async def get_metrics(self) -> Response:
        """The engine's metrics."""
        return Response(self._engine.metrics_text(), content_type=METRICS_TYPE)

    async def get_openapi(self) -> Response:
        """The API's description."""
        return Response(self._openapi, content_type="application/json")

    async def get_docs(self) -> Response:
        """The API's description for people."""
        return _page_response(self._docs)

    async def get_index(self) -> Response:
        """What this is, and a payment to paste."""
        return _page_response(self._index)


def _page_response(page: Page) -> Response:
    response = Response(page.html, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = page.content_security_policy
    return response
