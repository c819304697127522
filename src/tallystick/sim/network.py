"""The wire to the PSPs: the engine's Psp port over the model, with every message lost, late, doubled or garbled.

A `PspSite` is the PSP with its hidden ledger; it outlives every engine. A `SimPsp` is one engine's connection.
Requests and answers travel as errands of the clock, so what has left arrives, whether or not its sender still
lives; and what arrives late meets the PSP as it is by then.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio

from tallystick.engine.events import NotExecuted, NotFound, OutcomeLost, Source
from tallystick.engine.order import Method
from tallystick.engine.ports import ChargeAnswer, ChargeRequest, InquiryAnswer, PspQuery, VoidAnswer
from tallystick.engine.retry import PspPolicy
from tallystick.sim.clock import EPOCH_US, SECOND_US, Promise, VirtualClock
from tallystick.sim.entropy import TapeEntropy
from tallystick.sim.faults import Faults
from tallystick.sim.psp.in_process import InProcessPsp
from tallystick.sim.psp.model import Change, KeyReused, Payment, Reply, SimulatedPsp, Status
from tallystick.sim.psp.tokens import Manners, treatment
from tallystick.sim.psp.units import from_iso
from tallystick.sim.session import Session
from tallystick.sim.tape import Tape

A = TypeVar("A", bound=ChargeAnswer | InquiryAnswer | VoidAnswer)

TIMEOUT_US = 10 * SECOND_US
"""How long our side of the wire waits for an answer."""
DELAY_SHARE = 4
"""A request is at most a quarter of the PSP's stated window late, and its index lags by at most another; the rest
of the window is for our own clock, which may be set while we wait."""
_TOO_MUCH = 10
"""In the PSP's units: an amount that every PSP takes stays one."""
_SERVER_ERROR_US = 40_000
_REFUSAL_US = 5_000
# One way, in microseconds; the tape picks one. The first is the benign choice.
_TRAVEL_US = (20_000, 30_000, 45_000, 60_000, 90_000, 150_000, 300_000, 900_000)


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came in at a PSP."""

    what: str
    """`charge`, `register`, `inquire` or `void`."""
    key: str
    payment_order_id: str
    attempt: int
    number: int
    """Of the `Request` that has arrived; twice the same where the wire doubled it."""
    copy: bool = False
    """It is the second one, which the wire made."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it left an engine. `number` counts the requests to one PSP."""

    number: int
    psp: str
    what: str
    payment_order_id: str
    attempt: int
    key: str


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine was told, or concluded by itself, at the end of request `number`."""

    number: int
    psp: str
    payment_order_id: str
    answer: ChargeAnswer | InquiryAnswer | VoidAnswer


class PspSite:
    """One PSP: its model, its past (for an index that lags), and the times at which nobody reaches it."""

    def __init__(
        self,
        model: SimulatedPsp,
        *,
        policy: PspPolicy,
        clock: VirtualClock,
        on_change: Callable[["PspSite", Payment], None],
        on_arrival: Callable[["PspSite", Arrival], None],
        note: Callable[[str, str, object], None] | None = None,
    ) -> None:
        """`note` adds to the trace what the engines send and hear."""
        self.model = model
        self.policy = policy
        self.clock = clock
        self.down_until_us = 0
        """Until then connections are refused."""
        self.silent_until_us = 0
        """Until then answers are lost, although requests are worked on."""
        self.under_way = 0
        """Messages on the wire in either direction."""
        self.attempts_by_key: dict[str, int] = {}
        self.on_arrival = on_arrival
        self.requests = 0
        """Requests that were sent here, by whichever engine."""
        self._note = note
        self._on_change = on_change
        self._past: dict[str, list[tuple[int, Payment]]] = {}
        """Every state of every payment, by merchant reference."""
        model.on_change = self._changed

    @property
    def name(self) -> str:
        """The PSP's name."""
        return self.model.name

    def now(self) -> int:
        """Return the PSP's own clock: right, whatever our wall clock does."""
        return EPOCH_US + self.clock.elapsed_us

    def sent(self, engine: str, what: str, payment_order_id: str, attempt: int, key: str) -> int:
        """Note that an engine sends a request; return its number."""
        self.requests += 1
        request = Request(
            number=self.requests,
            psp=self.name,
            what=what,
            payment_order_id=payment_order_id,
            attempt=attempt,
            key=key,
        )
        if self._note is not None:
            self._note(engine, "send", request)
        return self.requests

    def heard(
        self, engine: str, number: int, payment_order_id: str, answer: ChargeAnswer | InquiryAnswer | VoidAnswer
    ) -> None:
        """Note what an engine has heard."""
        if self._note is not None:
            heard = Heard(number=number, psp=self.name, payment_order_id=payment_order_id, answer=answer)
            self._note(engine, "hear", heard)

    def lagging(self, query: PspQuery, *, lag_us: int) -> Payment | None:
        """Return what an inquiry would have found a while ago."""
        then = self.now() - lag_us
        latest: dict[str, Payment] = {}
        for at, payment in self._past.get(query.payment_order_id, ()):
            if at <= then and payment.key == query.idempotency_key:
                latest[payment.psp_reference] = payment
        found = list(latest.values())
        charged = [payment for payment in found if payment.status is Status.CHARGED]
        return charged[0] if charged else found[-1] if found else None

    def take_back(self, payment: Payment) -> None:
        """Charge a payment that was declined: the PSP contradicts itself."""
        charged = msgspec.structs.replace(payment, status=Status.CHARGED, charged_at=self.now())
        self.model.apply(charged)
        self._changed(charged)

    def _changed(self, change: Change) -> None:
        if not isinstance(change, Payment):
            return
        now = self.now()
        self._past.setdefault(change.merchant_reference, []).append((now, change))
        if change.due_at is not None and change.due_at > now:
            self.clock.call_after(change.due_at - now, lambda: self.model.advance(self.now()))
        self._on_change(self, change)


class SimPsp(InProcessPsp):
    """One engine's connection to a PSP."""

    def __init__(
        self, site: PspSite, *, session: Session, clock: VirtualClock, faults: Faults, tape: Tape
    ) -> None:
        entropy = TapeEntropy(session.name, tape)
        super().__init__(clock=clock, entropy=entropy, model=site.model, policy=site.policy, timeout_us=TIMEOUT_US)
        self._site = site
        self._session = session
        self._virtual = clock
        self._faults = faults
        self._tape = tape

    # --- charging ----------------------------------------------------------------------------------------------

    async def charge(self, request: ChargeRequest) -> ChargeAnswer:
        """Charge a token."""
        return await self._send(request, Method.CARD_TOKEN)

    async def register(self, request: ChargeRequest) -> ChargeAnswer:
        """Open a hosted page."""
        return await self._send(request, Method.HOSTED_PAGE)

    async def _send(self, request: ChargeRequest, method: Method) -> ChargeAnswer:
        asked_us = self._virtual.elapsed_us
        await self._session.gate()
        if self._virtual.elapsed_us - asked_us > self._site.policy.request_window_us // DELAY_SHARE:
            # The process stood still for so long that the PSP has closed its connection: nothing leaves any more.
            return self._lost(request, "connection_closed")
        site, where = self._site, request.payment_order_id
        site.attempts_by_key[request.idempotency_key] = request.attempt
        await self._perhaps_die("before", where)
        promise: Promise[ChargeAnswer] = Promise()
        what = "charge" if method is Method.CARD_TOKEN else "register"
        number = site.sent(self._session.name, what, where, request.attempt, request.idempotency_key)

        def arrive(*, copy: bool = False) -> None:
            reply = self._work_on(request, method, number, copy=copy)
            self._answer_charge(request, reply, promise)

        self._dispatch(request, arrive, promise)
        await self._perhaps_die("after", where)
        if self._faults.strikes("adapter_crash", where):
            raise RuntimeError("the simulated adapter crashed after the request had left")
        answer = await promise.wait()
        await self._session.gate()
        site.heard(self._session.name, number, where, answer)
        return answer

    def _dispatch(
        self, request: ChargeRequest, arrive: Callable[..., None], promise: Promise[ChargeAnswer]
    ) -> None:
        """Put a request on the wire, or lose it there. What the PSP turns away may have a second copy, too."""
        where, strikes, site = request.payment_order_id, self._faults.strikes, self._site
        window_us = site.policy.request_window_us
        late = self._faults.how
        # Whoever waits gives up in the end; an answer that has come by then makes this void.
        give_up = self._lost(request, "timeout")
        if site.clock.elapsed_us < site.down_until_us and not self._faults.healed:
            refused = self._not_executed(request, "connection_refused")
            self._carry(_REFUSAL_US, lambda: promise.settle(refused))
        elif strikes("psp_429", where):
            retry_after_us = SECOND_US * late("psp_429", where).between(1, 10)
            throttled = self._not_executed(request, "throttled", retry_after_us)
            self._perhaps_double(where, arrive)
            self._carry(_SERVER_ERROR_US, lambda: promise.settle(throttled))
        elif strikes("psp_4xx", where):
            refused = self._not_executed(request, "http_400")
            self._perhaps_double(where, arrive)
            self._carry(_SERVER_ERROR_US, lambda: promise.settle(refused))
        elif strikes("psp_5xx_before", where):
            lost = self._lost(request, "http_500")
            self._perhaps_double(where, arrive)
            self._carry(_SERVER_ERROR_US, lambda: promise.settle(lost))
        elif strikes("request_lost", where):
            self._virtual.call_after(TIMEOUT_US, lambda: promise.settle(give_up))
        elif strikes("request_delayed", where):
            delay_us = late("request_delayed", where).between(TIMEOUT_US, window_us // DELAY_SHARE)
            self._virtual.call_after(TIMEOUT_US, lambda: promise.settle(give_up))
            self._carry(delay_us, arrive)
        else:
            self._perhaps_double(where, arrive)
            self._carry(self._pick_travel_us(where), arrive)

    def _perhaps_double(self, where: str, arrive: Callable[..., None]) -> None:
        """Have a copy of a request arrive later, as a proxy may repeat one."""
        if self._faults.strikes("request_duplicated", where):
            # Nobody's wire doubles a request so late that the PSP has forgotten its key by then.
            policy = self._site.policy
            latest_us = min(policy.request_window_us // DELAY_SHARE, policy.key_lifetime_us // 2)
            again_us = self._faults.how("request_duplicated", where).between(SECOND_US, latest_us)
            self._carry(again_us, lambda: arrive(copy=True))

    def _work_on(self, request: ChargeRequest, method: Method, number: int, *, copy: bool) -> Reply | None:
        """Have the model act on a request that arrived; None when a magic token has it lost at the door."""
        site, model = self._site, self.model
        site.on_arrival(
            site,
            Arrival(
                what="charge" if method is Method.CARD_TOKEN else "register",
                key=request.idempotency_key,
                payment_order_id=request.payment_order_id,
                attempt=request.attempt,
                number=number,
                copy=copy,
            ),
        )
        draw = f"page-{site.name}-{request.idempotency_key}"
        amount, currency = from_iso(request.amount), request.amount.currency
        if self._faults.strikes("psp_other_amount", request.payment_order_id):
            amount += _TOO_MUCH
        if method is Method.HOSTED_PAGE:
            return model.register(
                key=request.idempotency_key,
                merchant_reference=request.payment_order_id,
                amount=amount,
                currency=currency,
                now=site.now(),
                draw=draw,
            )
        token = request.psp_token or ""
        if model.loses(treatment(token), request.payment_order_id):
            return None
        return model.charge(
            key=request.idempotency_key,
            merchant_reference=request.payment_order_id,
            amount=amount,
            currency=currency,
            token=token,
            now=site.now(),
            draw=draw,
        )

    def _answer_charge(self, request: ChargeRequest, reply: Reply | None, promise: Promise[ChargeAnswer]) -> None:
        where, strikes = request.payment_order_id, self._faults.strikes
        how = treatment(request.psp_token or "") if request.psp_token is not None else None
        manners = Manners.NORMAL if how is None else how.manners
        silent = self._site.clock.elapsed_us < self._site.silent_until_us and not self._faults.healed
        if reply is None or silent or manners is Manners.LOSE_RESPONSE or strikes("response_lost", where):
            give_up = self._lost(request, "timeout")
            self._virtual.call_after(TIMEOUT_US, lambda: promise.settle(give_up))
            return
        if manners is Manners.ERROR_AFTER or strikes("psp_5xx_after", where):
            answer: ChargeAnswer = self._lost(request, "http_502")
        else:
            answer = self._answer(request, reply)
        travel_us = self._pick_travel_us(where)
        if strikes("response_slow", where):
            travel_us = self._faults.how("response_slow", where).between(SECOND_US, TIMEOUT_US - SECOND_US)
        if how is not None and manners is Manners.SLOW:
            travel_us += how.delay_us
        self._carry(travel_us, lambda: promise.settle(answer))

    # --- asking ------------------------------------------------------------------------------------------------

    async def inquire(self, query: PspQuery) -> InquiryAnswer:
        """Ask what became of an attempt."""
        promise: Promise[InquiryAnswer] = Promise()

        where = query.payment_order_id

        def arrive() -> None:
            if self._faults.strikes("inquiry_stale", where):
                window_us = self._site.policy.request_window_us
                lag_us = self._faults.how("inquiry_stale", where).between(SECOND_US, window_us // DELAY_SHARE)
                found = self._site.lagging(query, lag_us=lag_us)
            else:
                found = self.model.inquire(
                    key=query.idempotency_key, merchant_reference=where, now=self._site.now()
                )
            answer: InquiryAnswer
            if found is None:
                answer = NotFound(
                    source=Source.INQUIRY, psp=self.name, attempt=query.attempt, asked_at=query.asked_at
                )
            else:
                answer = self._told(found, Source.INQUIRY, query.attempt)
            self._carry(self._pick_travel_us(where), lambda: promise.settle(answer))

        lost = OutcomeLost(source=Source.INQUIRY, psp=self.name, attempt=query.attempt, reason="timeout")
        return await self._ask("inquire", query, arrive, promise, lambda: promise.settle(lost))

    async def void(self, query: PspQuery) -> VoidAnswer:
        """Kill an attempt's key, or learn that it is too late."""
        promise: Promise[VoidAnswer] = Promise()
        where = query.payment_order_id

        def arrive() -> None:
            reply = self.model.void(key=query.idempotency_key, merchant_reference=where, now=self._site.now())
            answer: VoidAnswer
            if isinstance(reply, KeyReused):
                answer = self._reused(Source.VOID, where, query.attempt)
            elif reply.status is Status.ACTION_REQUIRED:
                answer = OutcomeLost(source=Source.VOID, psp=self.name, attempt=query.attempt, reason="still_open")
            else:
                answer = self._told(reply, Source.VOID, query.attempt)  # type: ignore[assignment]  # no page is open
            self._carry(self._pick_travel_us(where), lambda: promise.settle(answer))

        lost = OutcomeLost(source=Source.VOID, psp=self.name, attempt=query.attempt, reason="timeout")
        return await self._ask("void", query, arrive, promise, lambda: promise.settle(lost))

    async def _ask(
        self,
        what: str,
        query: PspQuery,
        answer_it: Callable[[], None],
        promise: Promise[A],
        give_up: Callable[[], None],
    ) -> A:
        await self._session.gate()
        site, where, key = self._site, query.payment_order_id, query.idempotency_key
        await self._perhaps_die("before", where)
        number = site.sent(self._session.name, what, where, query.attempt, key)

        def arrive() -> None:
            arrival = Arrival(what=what, key=key, payment_order_id=where, attempt=query.attempt, number=number)
            site.on_arrival(site, arrival)
            answer_it()

        away = site.clock.elapsed_us < max(site.down_until_us, site.silent_until_us) and not self._faults.healed
        if self._faults.strikes("question_lost", where):
            self._virtual.call_after(TIMEOUT_US, give_up)
            if self._faults.how("question_lost", where).below(2) == 1:
                self._carry(self._pick_travel_us(where), arrive)
        elif away:
            self._virtual.call_after(_REFUSAL_US, give_up)
        else:
            self._carry(self._pick_travel_us(where), arrive)
        answer = await promise.wait()
        await self._session.gate()
        site.heard(self._session.name, number, where, answer)
        return answer

    async def _perhaps_die(self, when: str, where: str) -> None:
        if self._faults.strikes("crash_at_call", f"{when}/{where}"):
            self._session.crash(f"{when} a call about {where}")
            await trio.sleep_forever()

    # --- what our side concludes by itself -----------------------------------------------------------------------

    def _lost(self, request: ChargeRequest, reason: str) -> OutcomeLost:
        return OutcomeLost(source=Source.RESPONSE, psp=self.name, attempt=request.attempt, reason=reason)

    def _not_executed(self, request: ChargeRequest, reason: str, retry_after_us: int | None = None) -> NotExecuted:
        return NotExecuted(
            source=Source.RESPONSE,
            psp=self.name,
            attempt=request.attempt,
            reason=reason,
            retry_after_us=retry_after_us,
        )

    # --- the wire ----------------------------------------------------------------------------------------------

    def _pick_travel_us(self, where: str) -> int:
        return self._tape.stream(f"network/{where}").pick(_TRAVEL_US)

    def _carry(self, delay_us: int, arrive: Callable[[], None]) -> None:
        self._site.under_way += 1

        def landed() -> None:
            self._site.under_way -= 1
            arrive()

        self._virtual.call_after(delay_us, landed)
