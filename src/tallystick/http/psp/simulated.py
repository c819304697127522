"""The adapter for the simulated PSP's HTTP API: evidence from answers, with one rule for what cannot be read.

An answer is believed only when its status code and its body say the same, and when it is about the key and the
merchant reference that were asked about. Everything else is `OutcomeLost`, and the engine will inquire.
Nothing is retried in here: whether to send again, and under which key, is decided by the transition table.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Literal, TypeVar

import msgspec
import structlog

from tallystick.engine.errors import InvalidMoney
from tallystick.engine.events import (
    Accepted,
    BuyerActionRequired,
    Charged,
    DeclineClass,
    Declined,
    NotExecuted,
    NotFound,
    OutcomeLost,
    Source,
    Voided,
)
from tallystick.engine.order import DERIVED_KEY_PREFIX
from tallystick.engine.ports import (
    ChargeAnswer,
    ChargeRequest,
    Clock,
    InquiryAnswer,
    Psp,
    PspQuery,
    VoidAnswer,
)
from tallystick.engine.retry import SECOND_US, PspPolicy
from tallystick.http.psp.amounts import AmountNotSupported, from_psp, to_psp
from tallystick.http.psp.exchange import Answer, Exchange, Lost, Timeouts, Unsent, retry_after_us
from tallystick.http.psp.registry import PspSettings, options_of

log = structlog.get_logger(__name__)

_KEY_LENGTH_MAX = 255
# The reasons for a 400 that hold for this amount for ever. Any other 400 is a mistake of ours, and can be mended.
_FINAL_REFUSALS = frozenset({"amount_not_supported", "amount_out_of_range", "currency_not_supported"})

T = TypeVar("T")
_StatusEvidence = Charged | Declined | Accepted | BuyerActionRequired | Voided


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of this adapter."""

    base_url: str = "http://127.0.0.1:8081"
    secret: str = "sk_test_simulated"  # noqa: S105  (the simulated PSP's well-known test key)
    return_url: str | None = None
    """Where the PSP sends buyers after its hosted page; it adds `tokenID` and `payResult`."""
    connections_max: int = 256
    connect_timeout_s: float = 3.0
    pool_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    total_timeout_s: float = 25.0
    key_lifetime_s: int = 86_400
    """How long the PSP remembers a key, by its own documentation."""


# --- the PSP's wire format, as far as we read it ---------------------------------------------------------------


class _ChargeBody(msgspec.Struct, frozen=True, kw_only=True):
    amount: int
    currency: str
    merchant_reference: str
    source: str


class _PageBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    amount: int
    currency: str
    merchant_reference: str
    return_url: str | None = None


class _VoidBody(msgspec.Struct, frozen=True, kw_only=True):
    merchant_reference: str
    idempotency_key: str


class _Decline(msgspec.Struct, frozen=True, kw_only=True, rename={"decline_class": "class"}):
    code: str
    decline_class: Literal["hard", "soft"]


class _Action(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    expires_at: int


class _Charge(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    status: Literal["charged", "declined", "voided", "pending", "action_required"]
    amount: int
    currency: str
    merchant_reference: str
    idempotency_key: str
    decline: _Decline | None = None
    action: _Action | None = None


class _Charges(msgspec.Struct, frozen=True, kw_only=True):
    data: list[_Charge]


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    code: str


class _ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: _Error


_CHARGE = msgspec.json.Decoder(_Charge)
_CHARGES = msgspec.json.Decoder(_Charges)
_ERROR = msgspec.json.Decoder(_ErrorBody)
_ENCODE = msgspec.json.Encoder().encode

# Which statuses of a charge an answer to POST /v1/charges or /v1/pages may carry under which HTTP status.
_STATUSES_BY_HTTP = {
    200: frozenset({"charged"}),
    202: frozenset({"pending", "action_required"}),
    402: frozenset({"declined"}),
    409: frozenset({"voided"}),
}
# Refused before processing, by the PSP's documentation, when its own error body comes with it.
_REFUSED_UNPROCESSED = frozenset({400, 401, 403, 404, 405, 413, 415})


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a call is about, to check answers against and to put into evidence."""

    source: Source
    payment_order_id: str
    attempt: int
    key: str


class SimulatedPspClient:
    """The engine's `Psp` port over the simulated PSP's HTTP API."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        name: str,
        clock: Clock,
        policy: PspPolicy,
        return_url: str | None = None,
    ) -> None:
        self._exchange = exchange
        self._name = name
        self._clock = clock
        self._policy = policy
        self._return_url = return_url

    @property
    def name(self) -> str:
        """The PSP's name."""
        return self._name

    @property
    def policy(self) -> PspPolicy:
        """What this PSP promises."""
        return self._policy

    async def charge(self, request: ChargeRequest) -> ChargeAnswer:
        """POST /v1/charges."""
        call = _call(request, Source.RESPONSE)
        try:
            amount = to_psp(request.amount)
        except AmountNotSupported:
            return self._declined(call, "amount_not_supported")
        if request.psp_token is None:
            return self._declined(call, "token_missing")
        body = _ChargeBody(
            amount=amount,
            currency=request.amount.currency,
            merchant_reference=request.payment_order_id,
            source=request.psp_token,
        )
        return self._charge_answer(call, await self._exchange.post("/v1/charges", _ENCODE(body), key=call.key))

    async def register(self, request: ChargeRequest) -> ChargeAnswer:
        """POST /v1/pages."""
        call = _call(request, Source.RESPONSE)
        try:
            amount = to_psp(request.amount)
        except AmountNotSupported:
            return self._declined(call, "amount_not_supported")
        body = _PageBody(
            amount=amount,
            currency=request.amount.currency,
            merchant_reference=request.payment_order_id,
            return_url=self._return_url,
        )
        return self._charge_answer(call, await self._exchange.post("/v1/pages", _ENCODE(body), key=call.key))

    async def inquire(self, query: PspQuery) -> InquiryAnswer:
        """GET /v1/charges. Of several charges under the key (it had expired), one that took money counts."""
        call = _call(query, Source.INQUIRY)
        answer = await self._exchange.get(
            "/v1/charges",
            {"merchant_reference": query.payment_order_id, "idempotency_key": call.key},
        )
        if not isinstance(answer, Answer):
            return self._lost(call, answer.reason)
        found = _decoded(_CHARGES, answer) if answer.status == 200 else None  # noqa: PLR2004  (HTTP)
        if found is None or not all(_is_about(call, charge) for charge in found.data):
            return self._unreadable(call, answer)
        if not found.data:
            return NotFound(source=call.source, psp=self._name, attempt=call.attempt, asked_at=query.asked_at)
        charged = [charge for charge in found.data if charge.status == "charged"]
        evidence = self._told(call, charged[0] if charged else found.data[-1])
        return self._unreadable(call, answer) if evidence is None else evidence

    async def void(self, query: PspQuery) -> VoidAnswer:
        """POST /v1/voids."""
        call = _call(query, Source.VOID)
        body = _VoidBody(merchant_reference=query.payment_order_id, idempotency_key=call.key)
        answer = await self._exchange.post("/v1/voids", _ENCODE(body))
        if not isinstance(answer, Answer):
            return self._lost(call, answer.reason)
        charge = _decoded(_CHARGE, answer) if answer.status == 200 else None  # noqa: PLR2004  (HTTP)
        evidence = self._told(call, charge) if charge is not None and _is_about(call, charge) else None
        if evidence is None or isinstance(evidence, BuyerActionRequired):
            return self._unreadable(call, answer)
        return evidence

    # --- reading answers -----------------------------------------------------------------------------------------

    def _charge_answer(self, call: _Call, answer: Answer | Unsent | Lost) -> ChargeAnswer:
        match answer:
            case Unsent(reason):
                return self._not_executed(call, reason)
            case Lost(reason):
                return self._lost(call, reason)
            case Answer(status=429):
                wait_us = retry_after_us(answer, now=self._clock.now())
                return self._not_executed(call, "throttled", wait_us)
            case Answer(status=status) if status in _REFUSED_UNPROCESSED:
                return self._refused(call, answer)
            case _:
                charge = _decoded(_CHARGE, answer)
                allowed = _STATUSES_BY_HTTP.get(answer.status, frozenset())
                if charge is None or charge.status not in allowed or not _is_about(call, charge):
                    return self._unreadable(call, answer)
                return self._told(call, charge) or self._unreadable(call, answer)

    def _refused(self, call: _Call, answer: Answer) -> ChargeAnswer:
        """Read a 4xx that comes before processing. Without the PSP's own error body it may be anybody's."""
        body = _decoded(_ERROR, answer)
        if body is None:
            return self._unreadable(call, answer)
        if answer.status == 400 and body.error.code in _FINAL_REFUSALS:  # noqa: PLR2004  (HTTP)
            return self._declined(call, body.error.code)
        log.error(
            "psp_refuses_us",
            psp=self._name,
            payment_order_id=call.payment_order_id,
            http_status=answer.status,
            code=body.error.code,
        )
        return self._not_executed(call, body.error.code)

    def _told(self, call: _Call, charge: _Charge) -> _StatusEvidence | None:
        """Return a charge's status as evidence, or None when it does not hang together."""
        source, psp, attempt, reference = call.source, self._name, call.attempt, charge.id
        match charge.status:
            case "charged":
                return self._charged(call, charge)
            case "declined" if charge.decline is not None:
                return Declined(
                    source=source,
                    psp=psp,
                    attempt=attempt,
                    psp_reference=reference,
                    code=charge.decline.code,
                    decline_class=DeclineClass(charge.decline.decline_class),
                )
            case "voided":
                return Voided(source=source, psp=psp, attempt=attempt, psp_reference=reference)
            case "pending":
                return Accepted(source=source, psp=psp, attempt=attempt, psp_reference=reference)
            case "action_required" if charge.action is not None:
                return BuyerActionRequired(
                    source=source,
                    psp=psp,
                    attempt=attempt,
                    psp_reference=reference,
                    url=charge.action.url,
                    expires_at=charge.action.expires_at * SECOND_US,
                )
            case _:
                return None

    def _charged(self, call: _Call, charge: _Charge) -> Charged | None:
        try:
            amount = from_psp(charge.amount, charge.currency)
        except InvalidMoney:
            return None
        return Charged(
            source=call.source, psp=self._name, attempt=call.attempt, psp_reference=charge.id, amount=amount
        )

    def _not_executed(self, call: _Call, reason: str, wait_us: int | None = None) -> NotExecuted:
        return NotExecuted(
            source=call.source, psp=self._name, attempt=call.attempt, reason=reason, retry_after_us=wait_us
        )

    def _declined(self, call: _Call, code: str) -> Declined:
        """The PSP will never take this request; sent or not, it is certain that nothing was charged for it."""
        return Declined(
            source=call.source,
            psp=self._name,
            attempt=call.attempt,
            code=code,
            decline_class=DeclineClass.HARD,
        )

    def _lost(self, call: _Call, reason: str) -> OutcomeLost:
        return OutcomeLost(source=call.source, psp=self._name, attempt=call.attempt, reason=reason)

    def _unreadable(self, call: _Call, answer: Answer) -> OutcomeLost:
        """An answer that proves nothing. The log says what kind it was, never what it contained."""
        body = _decoded(_ERROR, answer)
        # 422 means that the key came before with another body: we contradict ourselves, a bug.
        our_bug = answer.status == 422  # noqa: PLR2004  (HTTP)
        (log.error if our_bug else log.warning)(
            "psp_key_reused" if our_bug else "psp_answer_unreadable",
            psp=self._name,
            payment_order_id=call.payment_order_id,
            attempt=call.attempt,
            source=call.source,
            http_status=answer.status,
            code=None if body is None else body.error.code[:64],
        )
        return self._lost(call, f"http_{answer.status}")


def _call(about: ChargeRequest | PspQuery, source: Source) -> _Call:
    return _Call(
        source=source,
        payment_order_id=about.payment_order_id,
        attempt=about.attempt,
        key=psp_key(about.idempotency_key),
    )


def psp_key(idempotency_key: str) -> str:
    """Return the key as this PSP can carry it: itself, or a digest when it is not up to 255 visible characters.

    A digest lies under a prefix that no order id may have, and is longer than the keys derived there already.
    """
    if idempotency_key.isascii() and idempotency_key.isprintable() and len(idempotency_key) <= _KEY_LENGTH_MAX:
        return idempotency_key
    return f"{DERIVED_KEY_PREFIX}x{sha256(idempotency_key.encode()).hexdigest()}"


def _is_about(call: _Call, charge: _Charge) -> bool:
    return charge.idempotency_key == call.key and charge.merchant_reference == call.payment_order_id


def _decoded(decoder: msgspec.json.Decoder[T], answer: Answer) -> T | None:
    try:
        return decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@asynccontextmanager
async def open_psp(settings: PspSettings) -> AsyncIterator[Psp]:
    """Connect to the simulated PSP over HTTP, under trio. Raises SetupError when an option is wrong.

    The connection itself is made by the first call: a PSP that is down at start is like one that goes down later.
    """
    options = options_of(settings, Options)
    exchange = Exchange(
        options.base_url,
        secret=options.secret,
        timeouts=Timeouts(
            connect_s=options.connect_timeout_s,
            pool_s=options.pool_timeout_s,
            read_s=options.read_timeout_s,
            total_s=options.total_timeout_s,
        ),
        connections_max=options.connections_max,
        idle_s=30.0,  # The PSP keeps idle connections for 75 s; whoever closes first must be us.
    )
    async with exchange:
        yield SimulatedPspClient(
            exchange,
            name=settings.name,
            clock=settings.clock,
            policy=PspPolicy(key_lifetime_us=options.key_lifetime_s * SECOND_US),
            return_url=options.return_url,
        )
