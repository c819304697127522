"""The wire to a PSP: what each fault leaves at the PSP, and what the engine's side concludes."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio

from tallystick.engine.events import (
    Charged,
    Declined,
    NotExecuted,
    NotFound,
    OutcomeLost,
    Voided,
)
from tallystick.engine.money import Money
from tallystick.engine.ports import ChargeRequest, PspQuery
from tallystick.engine.retry import PspPolicy
from tallystick.sim.clock import EPOCH_US, SECOND_US, VirtualClock
from tallystick.sim.faults import BY_NAME, Faults
from tallystick.sim.network import Arrival, PspSite, SimPsp
from tallystick.sim.psp.model import SimulatedPsp
from tallystick.sim.session import Session
from tallystick.sim.tape import Tape

T = TypeVar("T")


class Line:
    """A PSP at the end of a line on which exactly the named faults strike, once each, about order `o`."""

    def __init__(self, *strikes: str, **how: int) -> None:
        record = {f"faults/{name}/o": [1] for name in strikes}
        record |= {f"faults/{name}/o/how": [value] for name, value in how.items()}
        tape = Tape.replay(record)
        self.clock = VirtualClock()
        self.arrivals: list[Arrival] = []
        self.site = PspSite(
            SimulatedPsp(name="alpha"),
            policy=PspPolicy(request_window_us=100 * SECOND_US),
            clock=self.clock,
            on_change=lambda *_: None,
            on_arrival=lambda _, arrival: self.arrivals.append(arrival),
        )
        self.session = Session(1, on_crash=lambda *_: None)
        self.faults = Faults(tape, allowed=BY_NAME.keys(), swarm=False)
        self.psp = SimPsp(self.site, session=self.session, clock=self.clock, faults=self.faults, tape=tape)

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        """Run `main`, then let everything arrive that is under way."""

        async def within() -> T:
            result = await main()
            await self.clock.sleep(200 * SECOND_US)
            return result

        return trio.run(within, clock=self.clock)

    def charge(self, token: str = "tok_visa") -> Any:
        return self.run(lambda: self.psp.charge(request(token)))

    @property
    def charges(self) -> int:
        return len([one for one in self.arrivals if one.what == "charge"])

    @property
    def captures(self) -> int:
        return len(self.site.model.truth())


def request(token: str = "tok_visa") -> ChargeRequest:
    return ChargeRequest(
        payment_order_id="o",
        attempt=1,
        idempotency_key="o",
        amount=Money(315, "EUR"),
        psp_token=token,
        first_sent_at=EPOCH_US,
    )


QUERY = PspQuery(payment_order_id="o", attempt=1, idempotency_key="o", asked_at=EPOCH_US)


def test_a_quiet_line_brings_the_charge_and_the_answer() -> None:
    line = Line()
    assert isinstance(line.charge(), Charged)
    assert (line.charges, line.captures) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "answer", "arrivals", "captures"),
    [
        ("request_lost", OutcomeLost, 0, 0),
        ("request_delayed", OutcomeLost, 1, 1),
        ("request_duplicated", Charged, 2, 1),
        ("response_lost", OutcomeLost, 1, 1),
        ("response_slow", Charged, 1, 1),
        ("psp_4xx", NotExecuted, 0, 0),
        ("psp_429", NotExecuted, 0, 0),
        ("psp_5xx_before", OutcomeLost, 0, 0),
        ("psp_5xx_after", OutcomeLost, 1, 1),
    ],
)
def test_what_a_fault_leaves_and_what_it_tells(fault: str, answer: type, arrivals: int, captures: int) -> None:
    line = Line(fault)
    assert isinstance(line.charge(), answer)
    assert (line.charges, line.captures) == (arrivals, captures)
    assert line.site.under_way == 0


@pytest.mark.parametrize(
    ("fault", "answer"),
    [("psp_429", NotExecuted), ("psp_4xx", NotExecuted), ("psp_5xx_before", OutcomeLost)],
)
def test_what_the_psp_turned_away_may_have_a_copy(fault: str, answer: type) -> None:
    # Goal: "had no effect" is true of the request that was answered, and says nothing of its copy.
    line = Line(fault, "request_duplicated")
    assert isinstance(line.charge(), answer)
    assert [one.copy for one in line.arrivals] == [True]
    assert line.captures == 1


def test_being_throttled_names_when_to_come_back() -> None:
    answer = Line("psp_429", psp_429=2).charge()
    assert answer.retry_after_us == 3 * SECOND_US


def test_an_adapter_may_crash_with_the_request_on_its_way() -> None:
    line = Line("adapter_crash")

    async def main() -> bool:
        try:
            await line.psp.charge(request())
        except RuntimeError:
            return True
        return False

    assert line.run(main)
    assert line.captures == 1


def test_a_delayed_request_meets_the_psp_as_it_is_then() -> None:
    # Goal: a void that came first kills the key; the late request then charges nothing.
    line = Line("request_delayed", request_delayed=14 * SECOND_US)

    async def main() -> object:
        await line.psp.charge(request())
        return await line.psp.void(QUERY)

    assert isinstance(line.run(main), Voided)
    assert line.captures == 0
    assert line.charges == 1


def test_an_index_that_lags_knows_nothing_yet() -> None:
    line = Line("inquiry_stale")

    async def main() -> list[object]:
        await line.psp.charge(request())
        return [await line.psp.inquire(QUERY), await line.psp.inquire(QUERY)]

    stale, fresh = line.run(main)
    assert isinstance(stale, NotFound)
    assert isinstance(fresh, Charged)


def test_a_psp_that_is_down_takes_nothing_and_answers_nothing() -> None:
    line = Line()
    line.site.down_until_us = 60 * SECOND_US

    async def main() -> list[object]:
        return [await line.psp.charge(request()), await line.psp.inquire(QUERY), await line.psp.void(QUERY)]

    assert [type(answer) for answer in line.run(main)] == [NotExecuted, OutcomeLost, OutcomeLost]
    assert line.arrivals == []


def test_a_psp_that_is_silent_works_on_what_arrives() -> None:
    line = Line()
    line.site.silent_until_us = 60 * SECOND_US
    assert isinstance(line.charge(), OutcomeLost)
    assert line.captures == 1


def test_a_psp_may_take_back_its_decline() -> None:
    line = Line()
    assert isinstance(line.charge("tok_declined"), Declined)
    [payment] = line.site.model.state.payments.values()
    line.site.take_back(payment)
    assert line.captures == 1


@pytest.mark.parametrize(("when", "arrivals"), [("before", 0), ("after", 1)])
def test_a_crash_at_a_call_is_before_or_after_it_leaves(when: str, arrivals: int) -> None:
    line = Line()
    line.faults = Faults(Tape.replay({f"faults/crash_at_call/{when}/o": [1]}), allowed=BY_NAME.keys(), swarm=False)
    line.psp = SimPsp(line.site, session=line.session, clock=line.clock, faults=line.faults, tape=Tape.replay({}))

    async def main() -> None:
        with line.session.scope:
            await line.psp.charge(request())

    line.run(main)
    assert (line.charges, line.session.alive) == (arrivals, False)
