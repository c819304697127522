"""The application: routes, what every answer carries, and how errors become answers.

Ids in paths are percent-encoded by the client, slashes included (`a/b` is `/v1/payments/a%2Fb`). An unencoded
slash is taken as part of the id, too, since the server sees the path decoded.
"""

import itertools
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from quart import Response
from quart_trio import QuartTrio
from werkzeug.routing import BaseConverter

from tallystick.engine.card_numbers import mask_card_numbers
from tallystick.engine.doors import Door
from tallystick.engine.ports import Clock
from tallystick.http.api.bodies_in import ApiRequest
from tallystick.http.api.connection import ApiConnection
from tallystick.http.api.payments import PaymentHandlers
from tallystick.http.api.problems import CONTENT_TYPE, Kind, Refusal, refusal_of
from tallystick.http.api.settings import ApiSettings
from tallystick.http.api.system import SystemHandlers

log = structlog.get_logger("tallystick.http")

_EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


class IdConverter(BaseConverter):
    """An id in a path: anything that is not empty."""

    regex = r"[\s\S]+"
    part_isolating = False


class ApiApp(QuartTrio):
    """Quart under trio, with our limits, our headers, our errors and our log."""

    request_class = ApiRequest
    asgi_http_class = ApiConnection

    def __init__(self, clock: Clock, settings: ApiSettings) -> None:
        super().__init__("tallystick.http.api", static_folder=None)
        self._clock = clock
        self._settings = settings
        self._occurrences = itertools.count(1)
        self._started_at = clock.now()
        self.config["MAX_CONTENT_LENGTH"] = settings.body_bytes_max
        # The connection has its own bound, and a shield that quart's would not get through.
        self.config["RESPONSE_TIMEOUT"] = None
        # A double slash belongs to an id and is not ours to merge.
        self.url_map.merge_slashes = False
        self.url_map.converters["id"] = IdConverter
        self.register_error_handler(Exception, self._answer_error)

    async def asgi_app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Refuse what the framework would stumble over: web sockets, and targets that are no paths."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": None})
            return
        if scope["type"] == "http" and not scope["path"].startswith("/"):
            scope["path"] = "/" + scope["path"]
        await super().asgi_app(scope, receive, send)

    async def handle_request(self, request: Any) -> Any:  # noqa: ANN401  (quart's union of two frameworks)
        """Answer one request, and log it: the route's template, never the path, which may hold anything."""
        began_at = self._clock.now()
        status = 0  # stays so when the client leaves before it is answered
        try:
            response = await super().handle_request(request)
            status = response.status_code
            headers = response.headers
            for name, value in _EVERYWHERE.items():
                headers.setdefault(name, value)
            return response
        finally:
            if self._settings.access_log:
                rule = request.url_rule
                log.info(
                    "http_request",
                    method=request.method if rule else "other",
                    route=rule.rule if rule else None,
                    status=status,
                    duration_us=self._clock.now() - began_at,
                )

    def log_exception(self, exception_info: Any) -> None:  # noqa: ANN401  (a tuple with three variants)
        """Quart's own log line would have the raw path; `_answer_error` has logged already."""

    async def _answer_error(self, error: Exception) -> Response:
        refusal = refusal_of(error)
        instance = f"urn:tallystick:occurrence:{self._started_at:x}-{next(self._occurrences)}"
        if refusal is None:
            # As plain text: a renderer of tracebacks may show local variables, and those hold what clients sent.
            text = "".join(traceback.format_exception(error))
            log.error("http_unhandled", instance=instance, traceback=mask_card_numbers(text))
            refusal = Refusal(Kind.INTERNAL, "it has been logged; sending the same request again is safe")
        response = Response(refusal.body(instance), refusal.kind.status, content_type=CONTENT_TYPE)
        response.headers.update(refusal.headers)
        return response


def create_app(engine: Door, *, settings: ApiSettings | None = None) -> ApiApp:
    """Return the HTTP API over a running engine: an ASGI application for trio.

    Serve it with `tallystick.http.server.serve`, or mount it in a trio program of your own.
    """
    settings = settings or ApiSettings()
    app = ApiApp(engine.clock, settings)
    payments = PaymentHandlers(engine, settings)
    system = SystemHandlers(engine, settings)
    routes: list[tuple[str, str, Callable[..., Awaitable[Response]]]] = [
        ("POST", "/v1/payments", payments.post_payment),
        ("GET", "/v1/payments/<id:payment_order_id>", payments.get_payment),
        ("GET", "/v1/checkouts/<id:checkout_id>", payments.get_checkout),
        ("GET", "/v1/wallets/<id:seller_account>", payments.get_wallets),
        ("GET", "/v1/ledger/accounts/<id:account_id>", payments.get_account),
        ("GET", "/v1/dead-letters", payments.get_dead_letters),
        ("POST", "/v1/dead-letters/<id:payment_order_id>/retry", payments.post_retry),
        ("GET", "/healthz", system.get_health),
        ("GET", "/readyz", system.get_readiness),
        ("GET", "/metrics", system.get_metrics),
        ("GET", "/openapi.json", system.get_openapi),
        ("GET", "/docs", system.get_docs),
        ("GET", "/", system.get_index),
    ]
    for method, rule, handler in routes:
        app.add_url_rule(
            rule, endpoint=handler.__name__, view_func=handler, methods=[method], provide_automatic_options=False
        )
    return app
