"""The HTTP face of the simulated PSP: its API, its hosted page, and its hidden ledger, on a port of its own.

Every answer waits for the journal, so that whatever a client was told survives a kill -9 of this process.
The network manners of magic tokens (`tokens.py`) are acted out here: silence, 500s, slowness.
"""

from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any, TypeVar

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from tallystick.engine.ports import Clock, Entropy
from tallystick.sim.psp import wire
from tallystick.sim.psp.journal import Journal
from tallystick.sim.psp.model import (
    KeyReused,
    PageAction,
    Payment,
    Refused,
    Reply,
    SimulatedPsp,
    Status,
    Throttled,
)
from tallystick.sim.psp.page import missing_html, page_headers, page_html, way_back
from tallystick.sim.psp.tokens import TOKENS, Manners, treatment
from tallystick.sim.psp.units import decimal

DEFAULT_SECRET = "sk_test_simulated"  # noqa: S105  (as public as the test keys in a vendor's docs)
_BODY_BYTES_MAX = 16 * 1024
_LEDGER_PAGE_MAX = 10_000
# Longer than any client of ours waits, so that it is the client who gives up.
_SILENCE_S = 100.0

_HTTP_STATUS = {
    Status.CHARGED: 200,
    Status.PENDING: 202,
    Status.ACTION_REQUIRED: 202,
    Status.DECLINED: 402,
    Status.VOIDED: 409,
}
_encode = msgspec.json.Encoder().encode
_charge_in = msgspec.json.Decoder(wire.ChargeIn)
_page_in = msgspec.json.Decoder(wire.PageIn)
_void_in = msgspec.json.Decoder(wire.VoidIn)

_T = TypeVar("_T")


class Problem(Exception):
    """An answer that is no charge, raised by whatever finds it out."""

    # Whatever the callee takes.
    def __init__(self, status: int, kind: Any, code: str, message: str, **headers: str) -> None:  # noqa: ANN401
        super().__init__(message)
        self.status = status
        self.body = wire.ErrorBody(error=wire.ErrorOut(type=kind, code=code, message=message))
        self.headers = headers


class PspFace:
    """The handlers of the HTTP API over one model."""

    def __init__(
        self,
        model: SimulatedPsp,
        *,
        clock: Clock,
        entropy: Entropy,
        journal: Journal | None,
        public_url: str | None,
        secret: str,
    ) -> None:
        self._model = model
        self._clock = clock
        self._entropy = entropy
        self._journal = journal
        self._public_url = public_url
        self._authorization = f"Bearer {secret}".encode()

    # --- the API -----------------------------------------------------------------------------------------------

    async def charge(self) -> Response:
        """POST /v1/charges."""
        key, body = self._key(), await self._body(_charge_in)
        how = treatment(body.source)
        if self._model.loses(how, body.merchant_reference):
            return await self._misbehave(how.manners)
        reply = self._model.charge(
            key=key,
            merchant_reference=body.merchant_reference,
            amount=body.amount,
            currency=body.currency,
            token=body.source,
            now=self._clock.now(),
            draw=self._entropy.token(),
        )
        await self._durable()
        if how.manners is Manners.SLOW:
            await trio.sleep(how.delay_us / 1e6)
        elif self._model.hides(how, reply):
            return await self._misbehave(how.manners)
        return self._replied(reply)

    async def register(self) -> Response:
        """POST /v1/pages."""
        key, body = self._key(), await self._body(_page_in)
        if body.return_url is not None and not wire.is_return_url(body.return_url):
            raise Problem(400, "invalid_request", "invalid_return_url", "return_url is not a plain http(s) URL")
        reply = self._model.register(
            key=key,
            merchant_reference=body.merchant_reference,
            amount=body.amount,
            currency=body.currency,
            now=self._clock.now(),
            draw=self._entropy.token(),
            return_url=body.return_url,
        )
        await self._durable()
        return self._replied(reply)

    async def inquire(self) -> Response:
        """GET /v1/charges?merchant_reference=…[&idempotency_key=…]: every attempt, or those under one key."""
        self._check_secret()
        reference = request.args.get("merchant_reference")
        if not reference:
            raise Problem(400, "invalid_request", "parameter_missing", "merchant_reference is missing")
        key = request.args.get("idempotency_key")
        found = self._model.attempts(reference, now=self._clock.now())
        await self._durable()
        data = [wire.charge_out(each, self._base_url()) for each in found if key is None or each.key == key]
        return _json(wire.ChargesOut(data=data))

    async def void(self) -> Response:
        """POST /v1/voids: 200 with the charge as it stands afterwards."""
        self._check_secret()
        body = await self._body(_void_in)
        reply = self._model.void(
            key=body.idempotency_key, merchant_reference=body.merchant_reference, now=self._clock.now()
        )
        await self._durable()
        if isinstance(reply, KeyReused):
            return self._replied(reply)
        return _json(wire.charge_out(reply, self._base_url()))

    async def ledger(self) -> Response:
        """GET /v1/ledger?after=SEQ&limit=N: the hidden ledger, for judging; no merchant would see it."""
        self._check_secret()
        after = _bounded("after", default=0, low=0, high=2**62)
        limit = _bounded("limit", default=_LEDGER_PAGE_MAX, low=1, high=_LEDGER_PAGE_MAX)
        self._model.advance(self._clock.now())
        captures = self._model.state.captures
        total, page = len(captures), captures[after : after + limit]
        await self._durable()
        lines = [
            wire.CaptureOut(
                seq=after + index,
                psp_reference=each.psp_reference,
                idempotency_key=each.key,
                merchant_reference=each.merchant_reference,
                amount=decimal(each.amount, each.currency),
                currency=each.currency,
                at=each.at,
            )
            for index, each in enumerate(page, start=1)
        ]
        end = after + len(page)
        return _json(wire.LedgerOut(captures=lines, total=total, next_after=end if end < total else None))

    async def health(self) -> Response:
        """GET /healthz."""
        broken = self._journal is not None and self._journal.broken
        return _json({"status": "journal broken" if broken else "ok"}, 503 if broken else 200)

    async def index(self) -> Response:
        """GET /: the magic tokens."""
        return _json({"psp": self._model.name, "tokens": {name: how.about for name, how in TOKENS.items()}})

    # --- the page ----------------------------------------------------------------------------------------------

    async def page(self, page: str) -> Response:
        """GET /pages/{page}."""
        payment = self._model.page(page, now=self._clock.now())
        await self._durable()
        html = missing_html() if payment is None else page_html(payment)
        return Response(
            html,
            status=404 if payment is None else 200,
            headers=page_headers(payment),
            content_type="text/html; charset=utf-8",
        )

    async def act(self, page: str, action: str) -> Response:
        """POST /pages/{page}/pay, decline or abandon: done once, then back to the shop or to the page."""
        if action not in set(PageAction):
            return await self.page("")
        payment = self._model.act(page, PageAction(action), now=self._clock.now())
        await self._durable()
        if payment is None:
            return await self.page("")
        back = way_back(payment) or f"../{page}"
        return Response("", status=303, headers={**page_headers(payment), "Location": back})

    # --- inside ------------------------------------------------------------------------------------------------

    def _base_url(self) -> str:
        """Return where buyers reach us: as configured, or else as the caller of the API did."""
        return (self._public_url or request.host_url).rstrip("/")

    def _check_secret(self) -> None:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not compare_digest(given, self._authorization):
            raise Problem(401, "authentication", "unauthorized", "the secret key is missing or wrong")

    def _key(self) -> str:
        self._check_secret()
        key = wire.unquoted(request.headers.get("Idempotency-Key", ""))
        if key is None:
            raise Problem(
                400, "invalid_request", "idempotency_key_invalid", "Idempotency-Key: 1 to 255 ASCII characters"
            )
        return key

    async def _body(self, decoder: msgspec.json.Decoder[_T]) -> _T:
        if request.mimetype != "application/json":
            raise Problem(415, "invalid_request", "unsupported_media_type", "send application/json")
        try:
            return decoder.decode(await request.get_data(cache=False))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(400, "invalid_request", "malformed", str(error)) from None

    async def _durable(self) -> None:
        if self._journal is not None:
            await self._journal.flush()

    async def _misbehave(self, manners: Manners) -> Response:
        if manners is Manners.ERROR_BEFORE or manners is Manners.ERROR_AFTER:
            raise Problem(500, "api_error", "internal_error", "something went wrong on our side")
        await trio.sleep(_SILENCE_S)
        raise Problem(504, "api_error", "timeout", "something took too long on our side")

    def _replied(self, reply: Reply) -> Response:
        if isinstance(reply, Payment):
            return _json(wire.charge_out(reply, self._base_url()), _HTTP_STATUS[reply.status])
        match reply:
            case Throttled(retry_after_us=None):
                raise Problem(429, "rate_limit", "throttled", "too many requests")
            case Throttled(retry_after_us=int(wait_us)):
                seconds = str(-(-wait_us // 1_000_000))
                raise Problem(429, "rate_limit", "throttled", "too many requests", **{"Retry-After": seconds})
            case Refused(code=code):
                raise Problem(400, "invalid_request", code, "this amount cannot be charged")
            case _:
                raise Problem(422, "idempotency", "key_reused", "this key came before with another body")


def create_psp_app(
    model: SimulatedPsp,
    *,
    clock: Clock,
    entropy: Entropy,
    public_url: str | None = None,
    journal: Journal | None = None,
    secret: str = DEFAULT_SECRET,
) -> QuartTrio:
    """Return the HTTP face as an ASGI app. Without `public_url`, buyers are sent to where the API was called."""
    face = PspFace(model, clock=clock, entropy=entropy, journal=journal, public_url=public_url, secret=secret)
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _BODY_BYTES_MAX
    routes: list[tuple[str, str, Callable[..., Awaitable[Response]]]] = [
        ("POST", "/v1/charges", face.charge),
        ("GET", "/v1/charges", face.inquire),
        ("POST", "/v1/voids", face.void),
        ("POST", "/v1/pages", face.register),
        ("GET", "/v1/ledger", face.ledger),
        ("GET", "/pages/<page>", face.page),
        ("POST", "/pages/<page>/<action>", face.act),
        ("GET", "/healthz", face.health),
        ("GET", "/", face.index),
    ]
    for method, path, handler in routes:
        app.add_url_rule(path, f"{method} {path}", handler, methods=[method])
    app.register_error_handler(Problem, _on_problem)
    app.register_error_handler(HTTPException, _on_http_error)
    return app


async def _on_problem(problem: Exception) -> Response:
    if not isinstance(problem, Problem):
        raise problem
    return _json(problem.body, problem.status, problem.headers)


async def _on_http_error(error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = error.code or 500
    kind = "api_error" if status >= 500 else "invalid_request"  # noqa: PLR2004  (server errors begin at 500)
    return await _on_problem(Problem(status, kind, error.name.lower().replace(" ", "_"), error.description or ""))


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(body), status=status, headers=headers, content_type="application/json")


def _bounded(name: str, *, default: int, low: int, high: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise Problem(400, "invalid_request", "parameter_invalid", f"{name} is an integer of {low} to {high}")
    return int(text)
