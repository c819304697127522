"""The gateway to a PSP: bounds, breaker, and no opinion of its own about money."""

import pytest
import trio

from tallystick.actors.gateway import Breaker, Gateway, Pace
from tallystick.actors.metrics import Metrics
from tallystick.actors.settings import GatewaySettings
from tallystick.engine.errors import IllegalState
from tallystick.engine.events import Charged, NotExecuted, OutcomeLost, Source
from tallystick.engine.money import Money
from tallystick.engine.order import Method, Order, State
from tallystick.engine.ports import ChargeAnswer, ChargeRequest, InquiryAnswer, PspQuery, VoidAnswer
from tallystick.engine.records import Effect
from tallystick.engine.retry import PspPolicy

ORDER = Order(
    payment_order_id="po-1",
    checkout_id="co-1",
    seller_account="DE89370400440532013000",
    buyer_account="",
    amount=Money(315, "EUR"),
    method=Method.CARD_TOKEN,
    psp_token="tok_visa",
    created_at=0,
    state=State.EXECUTING,
    state_since=0,
    psp="fake",
    attempt=1,
    sends=1,
    attempt_begun_at=0,
    last_sent_at=0,
)


class FakePsp:
    """Answers what it is told to, and counts who is inside."""

    name = "fake"
    policy = PspPolicy()

    def __init__(self) -> None:
        self.answers: list[ChargeAnswer | Exception] = []
        self.inside = self.inside_most = self.calls = 0
        self.takes_s = 0.0

    async def charge(self, request: ChargeRequest) -> ChargeAnswer:
        self.calls += 1
        self.inside += 1
        self.inside_most = max(self.inside_most, self.inside)
        try:
            await trio.sleep(self.takes_s)
        finally:
            self.inside -= 1
        answer = self.answers.pop(0) if self.answers else charged()
        if isinstance(answer, Exception):
            raise answer
        return answer

    register = charge

    async def inquire(self, query: PspQuery) -> InquiryAnswer:
        await trio.sleep(self.takes_s)
        return charged()

    async def void(self, query: PspQuery) -> VoidAnswer:
        return charged()


class StoppedClock:
    def __init__(self, now: int = 0) -> None:
        self._now = now

    def now(self) -> int:
        return self._now


def charged(attempt: int = 1) -> Charged:
    return Charged(source=Source.RESPONSE, psp="fake", attempt=attempt, amount=Money(315, "EUR"))


def lost() -> OutcomeLost:
    return OutcomeLost(source=Source.RESPONSE, psp="fake", attempt=1, reason="reset")


def gateway_to(psp: FakePsp, **settings: object) -> Gateway:
    return Gateway(
        psp,
        settings=GatewaySettings(**settings),  # type: ignore[arg-type]  # fields vary by test
        clock=StoppedClock(),
        metrics=Metrics(),
    )


async def test_no_more_calls_at_once_than_allowed(autojump_clock: object) -> None:
    """The PSP's concurrency limit holds under a crowd, and everybody gets through."""
    psp = FakePsp()
    psp.takes_s = 1
    gateway = gateway_to(psp, concurrency_max=7)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(gateway.call, Effect.SEND_TO_PSP, ORDER)
    assert (psp.calls, psp.inside_most) == (50, 7)


async def test_charges_that_hang_do_not_keep_questions_from_being_asked(autojump_clock: object) -> None:
    """Unknown outcomes end by asking; a PSP that hangs on charges must not make them wait behind it."""
    psp = FakePsp()
    psp.takes_s = 29
    gateway = gateway_to(psp, concurrency_max=4, call_timeout_s=30)
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(gateway.call, Effect.SEND_TO_PSP, ORDER)
        await trio.sleep(1)
        psp.takes_s = 0
        began = trio.current_time()
        assert isinstance(await gateway.call(Effect.INQUIRE_AT_PSP, ORDER), Charged)
        assert trio.current_time() - began < 1
        nursery.cancel_scope.cancel()


async def test_a_hanging_call_has_an_unknown_outcome(autojump_clock: object) -> None:
    """No answer in time is not a decline, and not "not executed"."""
    psp = FakePsp()
    psp.takes_s = 1000
    began = trio.current_time()
    answer = await gateway_to(psp, call_timeout_s=30).call(Effect.SEND_TO_PSP, ORDER)
    assert isinstance(answer, OutcomeLost)
    assert trio.current_time() - began == pytest.approx(30, abs=0.1)


async def test_a_bug_of_the_adapter_is_no_answer() -> None:
    """An exception passes through; it never becomes a payment result."""
    psp = FakePsp()
    psp.answers = [ZeroDivisionError("bug")]
    with pytest.raises(ZeroDivisionError):
        await gateway_to(psp).call(Effect.SEND_TO_PSP, ORDER)


async def test_an_answer_about_another_attempt_is_a_bug() -> None:
    """Evidence must be about the attempt that was asked about."""
    psp = FakePsp()
    psp.answers = [charged(attempt=2)]
    with pytest.raises(IllegalState):
        await gateway_to(psp).call(Effect.SEND_TO_PSP, ORDER)


async def test_an_open_circuit_sends_nothing_and_says_so(autojump_clock: object) -> None:
    """What was not sent is certainly not executed; after the pause one trial decides."""
    psp = FakePsp()
    gateway = gateway_to(psp, breaker_failures=3, breaker_open_s=5)
    psp.answers = [lost(), lost(), lost()]
    for _ in range(3):
        assert isinstance(await gateway.call(Effect.SEND_TO_PSP, ORDER), OutcomeLost)
    refused = await gateway.call(Effect.SEND_TO_PSP, ORDER)
    assert isinstance(refused, NotExecuted)
    assert refused.reason == "circuit_open"
    assert refused.retry_after_us is None, "the order's own back-off decides, so that they do not all wake at once"
    assert psp.calls == 3
    await trio.sleep(5)
    assert isinstance(await gateway.call(Effect.SEND_TO_PSP, ORDER), Charged)
    assert isinstance(await gateway.call(Effect.SEND_TO_PSP, ORDER), Charged)


async def test_what_was_recorded_long_ago_is_not_sent_any_more() -> None:
    """An engine that stood still may have been given up by another one (scenario paused_past_the_window)."""
    psp = FakePsp()
    limit_us = psp.policy.send_within_us
    calls = []
    for now in (limit_us, limit_us + 1):
        gateway = Gateway(psp, settings=GatewaySettings(), clock=StoppedClock(now), metrics=Metrics())
        calls.append(await gateway.call(Effect.SEND_TO_PSP, ORDER))
    in_time, late = calls
    assert isinstance(in_time, Charged)
    assert isinstance(late, NotExecuted)
    assert psp.calls == 1


async def test_an_open_circuit_still_lets_inquiries_through() -> None:
    """Asking cannot charge, and it is how unknown outcomes end."""
    psp = FakePsp()
    gateway = gateway_to(psp, breaker_failures=1)
    psp.answers = [lost()]
    await gateway.call(Effect.SEND_TO_PSP, ORDER)
    assert isinstance(await gateway.call(Effect.INQUIRE_AT_PSP, ORDER), Charged)


async def test_evidence_is_not_lost_to_a_character_that_no_database_stores() -> None:
    """A NUL in a PSP's reference must not keep the charge from being recorded."""
    psp = FakePsp()
    odd = Charged(source=Source.RESPONSE, psp="fake", attempt=1, amount=Money(315, "EUR"), psp_reference="ch_\0_1")
    psp.answers = [odd]
    answer = await gateway_to(psp).call(Effect.SEND_TO_PSP, ORDER)
    assert isinstance(answer, Charged)
    assert answer.psp_reference == "ch_\N{REPLACEMENT CHARACTER}_1"
    assert answer.amount == odd.amount


def test_a_half_open_circuit_tries_one_at_a_time() -> None:
    """A recovering PSP is not trampled."""
    breaker = Breaker(failures_max=1, open_s=10)
    breaker.note(good=False, now=0)
    assert breaker.refusal_s(4) == 6
    assert breaker.refusal_s(10) is None, "the trial"
    assert breaker.refusal_s(10) == 10, "everybody else"
    breaker.note(good=False, now=12)
    assert breaker.refusal_s(15) == 7, "a failed trial opens it again"
    assert breaker.refusal_s(22) is None
    breaker.note(good=True, now=23)
    assert not breaker.is_open


async def test_a_rate_limit_spreads_calls(autojump_clock: object) -> None:
    """Ten a second means that the fiftieth beyond the first burst waits for seconds."""
    pace = Pace(10)
    began = trio.current_time()
    for _ in range(50):
        await pace.turn()
    assert trio.current_time() - began >= 3.8
