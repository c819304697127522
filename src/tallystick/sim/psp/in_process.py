"""The in-process face of the simulated PSP, for benchmarks, tests and embedding examples."""

from collections.abc import Callable

import structlog
import trio

from tallystick.bootstrap import SystemClock, SystemEntropy
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
from tallystick.engine.ports import (
    ChargeAnswer,
    ChargeRequest,
    Clock,
    Entropy,
    InquiryAnswer,
    PspQuery,
    VoidAnswer,
)
from tallystick.engine.retry import PspPolicy
from tallystick.sim.psp.model import KeyReused, Payment, Refused, Reply, SimulatedPsp, Status, Throttled
from tallystick.sim.psp.tokens import Manners, Outcome, treatment
from tallystick.sim.psp.units import from_iso, to_iso

log = structlog.get_logger(__name__)

Latency = Callable[[Entropy], int]
"""Draws the microseconds that a call takes."""

_PaymentAnswer = Charged | Declined | Accepted | BuyerActionRequired | Voided


def between(low_us: int, high_us: int) -> Latency:
    """Return a latency that is spread evenly over [low_us, high_us]."""
    return lambda entropy: low_us + entropy.below(high_us - low_us + 1)


class InProcessPsp:
    """The engine's `Psp` port over the model, in the same process.

    The model acts when the request arrives, and the latency passes before the answer does: whoever cancels a
    call in between has charged without knowing it, as over a network.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        model: SimulatedPsp | None = None,
        policy: PspPolicy | None = None,
        latency_us: int | Latency = 50_000,
        timeout_us: int = 10_000_000,
        pages_url: str = "https://psp.invalid/pages",
    ) -> None:
        """Wrap a model, by default a new one, with the system's clock and randomness.

        `timeout_us` is how long a caller waits for a response that never comes.
        """
        self.model = SimulatedPsp() if model is None else model
        self._policy = PspPolicy(key_lifetime_us=self.model.key_lifetime_us) if policy is None else policy
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._latency_us = latency_us
        self._timeout_us = timeout_us
        self._pages_url = pages_url

    @property
    def name(self) -> str:
        """The PSP's name."""
        return self.model.name

    @property
    def policy(self) -> PspPolicy:
        """What this PSP promises."""
        return self._policy

    async def charge(self, request: ChargeRequest) -> ChargeAnswer:
        """Charge a token, with the manners that it asks for."""
        token = request.psp_token or ""
        how = treatment(token)
        manners = how.manners
        if manners is not Manners.NORMAL and self.model.loses(how, request.payment_order_id):
            return await self._silence(request, manners)
        reply = self.model.charge(
            key=request.idempotency_key,
            merchant_reference=request.payment_order_id,
            amount=from_iso(request.amount),
            currency=request.amount.currency,
            token=token,
            now=self._clock.now(),
            draw=self._entropy.token() if how.outcome is Outcome.CHALLENGE else "",
        )
        if manners is Manners.SLOW:
            await trio.sleep(how.delay_us / 1e6)
        elif manners is not Manners.NORMAL and self.model.hides(how, reply):
            return await self._silence(request, manners)
        await self._travel()
        return self._answer(request, reply)

    async def register(self, request: ChargeRequest) -> ChargeAnswer:
        """Open a hosted page."""
        reply = self.model.register(
            key=request.idempotency_key,
            merchant_reference=request.payment_order_id,
            amount=from_iso(request.amount),
            currency=request.amount.currency,
            now=self._clock.now(),
            draw=self._entropy.token(),
        )
        await self._travel()
        return self._answer(request, reply)

    async def inquire(self, query: PspQuery) -> InquiryAnswer:
        """Ask what became of an attempt."""
        found = self.model.inquire(
            key=query.idempotency_key, merchant_reference=query.payment_order_id, now=self._clock.now()
        )
        await self._travel()
        if found is None:
            return NotFound(source=Source.INQUIRY, psp=self.name, attempt=query.attempt, asked_at=query.asked_at)
        return self._told(found, Source.INQUIRY, query.attempt)

    async def void(self, query: PspQuery) -> VoidAnswer:
        """Kill an attempt's key, or learn that it is too late."""
        reply = self.model.void(
            key=query.idempotency_key, merchant_reference=query.payment_order_id, now=self._clock.now()
        )
        await self._travel()
        if isinstance(reply, KeyReused):
            return self._reused(Source.VOID, query.payment_order_id, query.attempt)
        told = self._told(reply, Source.VOID, query.attempt)
        if isinstance(told, BuyerActionRequired):
            return OutcomeLost(source=Source.VOID, psp=self.name, attempt=query.attempt, reason="still_open")
        return told

    # --- inside --------------------------------------------------------------------------------------------------

    async def _travel(self) -> None:
        latency = self._latency_us
        await trio.sleep((latency if isinstance(latency, int) else latency(self._entropy)) / 1e6)

    async def _silence(self, request: ChargeRequest, manners: Manners) -> OutcomeLost:
        """End a charge without a clear answer: at once with a 500, otherwise when the caller gives up."""
        if manners is Manners.ERROR_BEFORE or manners is Manners.ERROR_AFTER:
            await self._travel()
            reason = "http_500"
        else:
            await trio.sleep(self._timeout_us / 1e6)
            reason = "timeout"
        return OutcomeLost(source=Source.RESPONSE, psp=self.name, attempt=request.attempt, reason=reason)

    def _answer(self, request: ChargeRequest, reply: Reply) -> ChargeAnswer:
        if isinstance(reply, Payment):
            return self._told(reply, Source.RESPONSE, request.attempt)
        match reply:
            case Throttled(retry_after_us=retry_after_us):
                return NotExecuted(
                    source=Source.RESPONSE,
                    psp=self.name,
                    attempt=request.attempt,
                    reason="throttled",
                    retry_after_us=retry_after_us,
                )
            case Refused(code=code):
                # The PSP will never take this request, so there is no point in patience.
                return Declined(
                    source=Source.RESPONSE,
                    psp=self.name,
                    attempt=request.attempt,
                    code=code,
                    decline_class=DeclineClass.HARD,
                )
            case KeyReused():
                return self._reused(Source.RESPONSE, request.payment_order_id, request.attempt)

    def _reused(self, source: Source, payment_order_id: str, attempt: int) -> OutcomeLost:
        """Report a key that the PSP knows with another body: our bug, and no evidence about the payment."""
        log.error("psp_key_reused", psp=self.name, payment_order_id=payment_order_id, attempt=attempt)
        return OutcomeLost(source=source, psp=self.name, attempt=attempt, reason="key_reused")

    def _told(self, payment: Payment, source: Source, attempt: int) -> _PaymentAnswer:
        """Return what the PSP says of a payment, as evidence."""
        name, reference = self.model.name, payment.psp_reference
        match payment.status:
            case Status.CHARGED:
                return Charged(
                    source=source,
                    psp=name,
                    attempt=attempt,
                    psp_reference=reference,
                    amount=to_iso(payment.amount, payment.currency),
                )
            case Status.DECLINED:
                return Declined(
                    source=source,
                    psp=name,
                    attempt=attempt,
                    psp_reference=reference,
                    code=payment.code or "declined",
                    decline_class=DeclineClass.SOFT if payment.soft else DeclineClass.HARD,
                )
            case Status.PENDING:
                return Accepted(source=source, psp=name, attempt=attempt, psp_reference=reference)
            case Status.VOIDED:
                return Voided(source=source, psp=name, attempt=attempt, psp_reference=reference)
            case Status.ACTION_REQUIRED:
                return BuyerActionRequired(
                    source=source,
                    psp=name,
                    attempt=attempt,
                    psp_reference=reference,
                    url=f"{self._pages_url}/{payment.page}",
                    expires_at=payment.due_at or payment.created_at,
                )
