"""The gateway to one PSP: every call of every order goes through here.

It bounds concurrency and rate, keeps a circuit breaker, measures, and brings the answer back to the order as an
event. It adds no opinion about money: what it did not send is `NotExecuted`, what it gave up waiting for is
`OutcomeLost`, and everything else is the adapter's answer, unchanged.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio
from msgspec.structs import replace
from prometheus_client import Counter

from tallystick.actors.metrics import Metrics
from tallystick.actors.settings import GatewaySettings
from tallystick.engine.errors import IllegalState
from tallystick.engine.events import AnyEvidence, NotExecuted, OutcomeLost, Source
from tallystick.engine.order import Method, Order
from tallystick.engine.ports import ChargeRequest, Clock, Psp, PspQuery
from tallystick.engine.records import Effect

log = structlog.get_logger("tallystick.gateway")

_TOO_LATE = "too_late_to_send"

A = TypeVar("A")


class Breaker:
    """A circuit breaker: closed, open for a while after many failures in a row, then one trial at a time.

    Times are trio's clock, seconds.
    """

    def __init__(self, *, failures_max: int, open_s: float) -> None:
        self._failures_max = failures_max
        self._open_s = open_s
        self._failures = 0
        self._open_until: float | None = None
        self._trial = False

    @property
    def is_open(self) -> bool:
        """Say whether the circuit is open or on trial."""
        return self._open_until is not None

    def refusal_s(self, now: float) -> float | None:
        """Return None when a call may go out, else the seconds after which to try again."""
        if self._open_until is None:
            return None
        if now < self._open_until:
            return self._open_until - now
        if self._trial:
            return self._open_s
        self._trial = True
        return None

    def note(self, *, good: bool, now: float) -> None:
        """Note how a call that was let through ended."""
        self._trial = False
        if good:
            self._failures, self._open_until = 0, None
            return
        self._failures += 1
        if self._failures >= self._failures_max:
            self._open_until = now + self._open_s


class Pace:
    """At most `rate_per_s` starts per second, in order of arrival, with bursts of up to one second's worth."""

    def __init__(self, rate_per_s: int) -> None:
        self._gap_s = 1.0 / rate_per_s
        self._next = float("-inf")

    async def turn(self) -> None:
        """Wait for one's turn."""
        now = trio.current_time()
        self._next = max(self._next + self._gap_s, now - 1.0)
        if self._next > now:
            await trio.sleep_until(self._next)


class Gateway:
    """Calls one PSP on behalf of orders."""

    def __init__(self, psp: Psp, *, settings: GatewaySettings, clock: Clock, metrics: Metrics) -> None:
        self.psp = psp
        self.name = f"gateway:{psp.name}"
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        # Questions have slots of their own: charges that hang must not keep lost outcomes from being asked about.
        questions = max(1, settings.concurrency_max // 4)
        self._slots = {
            Effect.SEND_TO_PSP: trio.Semaphore(settings.concurrency_max),
            Effect.INQUIRE_AT_PSP: trio.Semaphore(questions),
            Effect.VOID_AT_PSP: trio.Semaphore(questions),
        }
        self._breaker = Breaker(failures_max=settings.breaker_failures, open_s=settings.breaker_open_s)
        self._pace = Pace(settings.rate_per_s) if settings.rate_per_s else None
        self._in_flight = metrics.psp_in_flight.labels(psp.name)
        self._circuit = metrics.circuit_open.labels(psp.name)
        self._answers: dict[tuple[Effect, type[AnyEvidence]], Counter] = {}
        self._seconds = {effect: metrics.psp_seconds.labels(psp.name, effect.value) for effect in Effect}

    async def call(self, effect: Effect, order: Order) -> AnyEvidence:
        """Carry out one effect for an order, and return the evidence.

        Raises what the adapter raises: a bug there is never mistaken for an answer about money.
        """
        if effect is Effect.SEND_TO_PSP:
            return await self._send(order)
        query = PspQuery(
            payment_order_id=order.payment_order_id,
            attempt=order.attempt,
            idempotency_key=order.idempotency_key,
            asked_at=self._clock.now(),
        )
        if effect is Effect.INQUIRE_AT_PSP:
            return await self._measured(effect, order, Source.INQUIRY, lambda: self.psp.inquire(query))
        if effect is Effect.VOID_AT_PSP:
            return await self._measured(effect, order, Source.VOID, lambda: self.psp.void(query))
        raise IllegalState(f"{effect} is not a PSP's business")

    async def _send(self, order: Order) -> AnyEvidence:
        wait_s = self._breaker.refusal_s(trio.current_time())
        if wait_s is not None:
            return NotExecuted(
                source=Source.RESPONSE,
                psp=self.psp.name,
                attempt=order.attempt,
                # No Retry-After: the PSP has said nothing, and all its orders waking at once would trample it.
                reason="circuit_open",
            )
        if self._pace is not None:
            await self._pace.turn()
        hosted = order.method is Method.HOSTED_PAGE
        request = ChargeRequest(
            payment_order_id=order.payment_order_id,
            attempt=order.attempt,
            idempotency_key=order.idempotency_key,
            amount=order.amount,
            psp_token=order.psp_token,
            first_sent_at=order.attempt_begun_at or self._clock.now(),
        )
        send = self.psp.register if hosted else self.psp.charge

        async def send_in_time() -> AnyEvidence:
            # As late as can be: the process may have stood still, and the queue for a slot may have been long.
            return self._refuse_late(order) or await send(request)

        settled = False
        try:
            answer = await self._measured(Effect.SEND_TO_PSP, order, Source.RESPONSE, send_in_time)
            settled = not isinstance(answer, OutcomeLost) and not self._is_outage(answer)
        finally:
            # Also when cancelled or on a bug: a trial call that is never noted would keep the circuit open.
            self._breaker.note(good=settled, now=trio.current_time())
            self._circuit.set(self._breaker.is_open)
        return answer

    def _refuse_late(self, order: Order) -> NotExecuted | None:
        """Refuse to send what was recorded so long ago that another engine may believe it will never arrive."""
        if self._clock.now() - (order.last_sent_at or 0) <= self.psp.policy.send_within_us:
            return None
        return NotExecuted(source=Source.RESPONSE, psp=self.psp.name, attempt=order.attempt, reason=_TOO_LATE)

    @staticmethod
    def _is_outage(answer: AnyEvidence) -> bool:
        """A refused connection is an outage; being throttled is the PSP at work, and being late is our fault."""
        return isinstance(answer, NotExecuted) and answer.retry_after_us is None and answer.reason != _TOO_LATE

    async def _measured(
        self, effect: Effect, order: Order, source: Source, call: Callable[[], Awaitable[AnyEvidence]]
    ) -> AnyEvidence:
        answer: AnyEvidence | None = None
        # The non-waiting core first: a turn of the scheduler for every free slot is a tenth of a payment's cost.
        try:
            self._slots[effect].acquire_nowait()
        except trio.WouldBlock:
            await self._slots[effect].acquire()
        try:
            started = trio.current_time()
            self._in_flight.inc()
            try:
                with trio.move_on_after(self._settings.call_timeout_s):
                    answer = await call()
            finally:
                self._in_flight.dec()
                self._seconds[effect].observe(trio.current_time() - started)
        finally:
            self._slots[effect].release()
        if answer is None:
            answer = OutcomeLost(
                source=source, psp=self.psp.name, attempt=order.attempt, reason="no answer in time"
            )
        if answer.attempt != order.attempt:
            raise IllegalState(f"{self.psp.name} answered for attempt {answer.attempt}, asked for {order.attempt}")
        self._count(effect, answer)
        return _storable(answer)

    def _count(self, effect: Effect, answer: AnyEvidence) -> None:
        kind = (effect, type(answer))
        counter = self._answers.get(kind)
        if counter is None:
            labels = (self.psp.name, effect.value, type(answer).__name__)
            counter = self._answers[kind] = self._metrics.psp_answers.labels(*labels)
        counter.inc()


# What a PSP may write freely into an answer.
_TEXTS = ("psp_reference", "code", "reason", "url")


def _storable(answer: AnyEvidence) -> AnyEvidence:
    """Return the answer without NUL characters, which no database stores as text; evidence is not lost to one."""
    odd = {name: text for name in _TEXTS if "\0" in (text := getattr(answer, name, None) or "")}
    if not odd:
        return answer
    return replace(answer, **{name: text.replace("\0", "\N{REPLACEMENT CHARACTER}") for name, text in odd.items()})
