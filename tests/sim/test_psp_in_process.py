"""The in-process face gives the engine the evidence that each magic token promises, and costs next to nothing."""

import pytest
import trio
from trio.testing import MockClock

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
from tallystick.engine.money import Money
from tallystick.engine.ports import ChargeRequest, Psp, PspQuery
from tallystick.sim.psp.in_process import InProcessPsp, between
from tallystick.sim.psp.model import SimulatedPsp

NOW = 1_700_000_000_000_000
EUR = Money(315, "EUR")


class Clock:
    def now(self) -> int:
        return NOW + int(trio.current_time() * 1e6)


class Entropy:
    def below(self, bound: int) -> int:
        return bound - 1

    def token(self) -> str:
        return "unguessable"


def psp() -> InProcessPsp:
    return InProcessPsp(clock=Clock(), entropy=Entropy())


def request(token: str | None, *, key: str = "o1", amount: Money = EUR, attempt: int = 1) -> ChargeRequest:
    return ChargeRequest(
        payment_order_id="o1",
        attempt=attempt,
        idempotency_key=key,
        amount=amount,
        psp_token=token,
        first_sent_at=NOW,
    )


def query(key: str = "o1", attempt: int = 1) -> PspQuery:
    return PspQuery(payment_order_id="o1", attempt=attempt, idempotency_key=key, asked_at=NOW + 5)


@pytest.mark.parametrize(
    ("token", "kind", "captured"),
    [
        ("tok_visa", Charged, 1),
        ("tok_mastercard", Charged, 1),
        ("tok_slow_2s", Charged, 1),
        ("tok_declined", Declined, 0),
        ("tok_expired", Declined, 0),
        ("tok_stolen", Declined, 0),
        ("tok_insufficient_funds", Declined, 0),
        ("tok_insufficient_funds_once", Declined, 0),
        ("tok_made_up", Declined, 0),
        ("tok_pending_5s", Accepted, 0),
        ("tok_pending_then_declined", Accepted, 0),
        ("tok_3ds", BuyerActionRequired, 0),
        ("tok_timeout", OutcomeLost, 1),
        ("tok_timeout_lost", OutcomeLost, 0),
        ("tok_error_500_before", OutcomeLost, 0),
        ("tok_error_500_after", OutcomeLost, 1),
        ("tok_429_once", NotExecuted, 0),
        ("tok_not_executed", NotExecuted, 0),
    ],
)
async def test_the_evidence_of_each_token(
    token: str, kind: type, captured: int, autojump_clock: MockClock
) -> None:
    face: Psp = (simulated := psp())
    answer = await face.charge(request(token))
    assert isinstance(answer, kind)
    assert (answer.source, answer.psp, answer.attempt) == (Source.RESPONSE, "simulated", 1)
    assert len(simulated.model.truth()) == captured


async def test_what_evidence_carries(autojump_clock: MockClock) -> None:
    face = psp()
    charged = await face.charge(request("tok_visa", amount=Money(5, "ISK")))
    assert isinstance(charged, Charged)
    assert charged.amount == Money(5, "ISK")
    assert charged.psp_reference == face.model.truth()[0].psp_reference
    soft = await face.charge(request("tok_insufficient_funds", key="k2", attempt=2))
    assert isinstance(soft, Declined)
    assert (soft.code, soft.decline_class, soft.attempt) == ("insufficient_funds", DeclineClass.SOFT, 2)
    throttled = await face.charge(request("tok_429_once", key="k3"))
    assert isinstance(throttled, NotExecuted)
    assert throttled.retry_after_us == 1_000_000
    refused = await face.charge(request("tok_visa", key="k4", amount=Money(1001, "KWD")))
    assert isinstance(refused, Declined)
    assert (refused.code, refused.decline_class) == ("amount_not_supported", DeclineClass.HARD)
    page = await face.register(request(None, key="k5"))
    assert isinstance(page, BuyerActionRequired)
    assert page.url.endswith("/unguessable")
    assert page.expires_at > NOW


async def test_our_own_bug_is_no_decline(autojump_clock: MockClock) -> None:
    """A key that comes with another body says nothing about the payment under that key."""
    face = psp()
    await face.charge(request("tok_visa"))
    answer = await face.charge(request("tok_visa", amount=Money(1, "EUR")))
    assert isinstance(answer, OutcomeLost)
    assert answer.reason == "key_reused"


@pytest.mark.parametrize("token", ["tok_timeout_lost", "tok_error_500_before"])
async def test_a_lost_request_is_fenced_and_tried_anew(token: str, autojump_clock: MockClock) -> None:
    face = psp()
    for _ in range(2):
        assert isinstance(await face.charge(request(token)), OutcomeLost)
    assert isinstance(await face.void(query()), Voided)
    assert isinstance(await face.charge(request(token)), Voided)
    assert isinstance(await face.charge(request(token, key="k2", attempt=2)), Charged)


async def test_inquiry_and_void(autojump_clock: MockClock) -> None:
    face = psp()
    nothing = await face.inquire(query())
    assert isinstance(nothing, NotFound)
    assert nothing.asked_at == NOW + 5
    assert isinstance(await face.void(query()), Voided)
    assert isinstance(await face.charge(request("tok_visa")), Voided)
    assert isinstance(await face.inquire(query()), Voided)
    await face.charge(request("tok_visa", key="k2", attempt=2))
    told = await face.inquire(query("k2", attempt=2))
    assert isinstance(told, Charged)
    assert told.source is Source.INQUIRY
    void = await face.void(query("k2", attempt=2))
    assert isinstance(void, Charged)
    assert void.source is Source.VOID


async def test_cancelled_while_the_answer_travels_it_has_charged(autojump_clock: MockClock) -> None:
    face = psp()
    with trio.move_on_after(0.01):
        await face.charge(request("tok_visa"))
    assert len(face.model.truth()) == 1


async def test_latency_is_fixed_or_drawn(autojump_clock: MockClock) -> None:
    for latency, seconds in ((50_000, 0.05), (between(10, 2_000_000), 2.0)):
        face = InProcessPsp(clock=Clock(), entropy=Entropy(), model=SimulatedPsp(), latency_us=latency)
        began = trio.current_time()
        await face.charge(request("tok_visa"))
        assert trio.current_time() - began == pytest.approx(seconds)
