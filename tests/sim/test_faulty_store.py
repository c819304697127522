"""The wire to the database: what each fault leaves written, and what its caller is told."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio

from tallystick.engine.errors import CommitUnknown, StoreUnavailable
from tallystick.engine.intents import AcceptPayment
from tallystick.engine.money import Money
from tallystick.engine.order import Method, Order
from tallystick.sim.clock import SECOND_US, VirtualClock
from tallystick.sim.faults import BY_NAME, Faults
from tallystick.sim.faulty_store import FaultyStore, at_once
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.session import ConnectionLost, Session
from tallystick.sim.tape import Tape

T = TypeVar("T")
ORDER = Order(
    payment_order_id="o",
    checkout_id="c",
    seller_account="s",
    buyer_account="b",
    amount=Money(315, "EUR"),
    method=Method.CARD_TOKEN,
    psp_token="tok_visa",
    created_at=1,
    state_since=1,
)
INTENT = AcceptPayment(
    checkout_id="c", buyer_info=b"{}", content_hash=bytes(32), orders=(ORDER,), claim=None, at=1
)


class Wired:
    """A memory store behind a wire on which exactly the named faults strike, once each."""

    def __init__(self, *strikes: str, **how: int) -> None:
        record = {f"faults/{name}/accept": [1] for name in strikes}
        record |= {f"faults/{name}/accept/how": [value] for name, value in how.items()}
        tape = Tape.replay(record)
        self.clock = VirtualClock()
        self.crashes: list[str] = []
        self.session = Session(1, on_crash=lambda _, why: self.crashes.append(why))
        self.inner = MemoryStore()
        self.faults = Faults(tape, allowed=BY_NAME.keys(), swarm=False)
        self.store = FaultyStore(
            self.inner,
            session=self.session,
            clock=self.clock,
            faults=self.faults,
            latency=tape.stream("store"),
            execute=at_once(self.clock),
        )

    @property
    def written(self) -> bool:
        return "o" in self.inner.tables.orders

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        async def within() -> T:
            try:
                return await main()
            finally:
                await self.clock.sleep(60 * SECOND_US)

        return trio.run(within, clock=self.clock)

    def accept(self) -> bool:
        async def main() -> bool:
            [outcome] = await self.store.accept([INTENT])
            return outcome.new  # type: ignore[union-attr]

        return self.run(main)


def test_a_commit_takes_a_little_time_and_is_acknowledged() -> None:
    wired = Wired()
    assert wired.accept()
    assert wired.written
    assert wired.clock.elapsed_us == 60 * SECOND_US + 200


@pytest.mark.parametrize(
    ("fault", "error", "written"),
    [
        ("store_unavailable", StoreUnavailable, False),
        ("commit_unknown_undone", CommitUnknown, False),
        ("commit_unknown_done", CommitUnknown, True),
    ],
)
def test_what_a_broken_commit_leaves_behind(fault: str, error: type[Exception], written: bool) -> None:
    wired = Wired(fault)
    with pytest.raises(error):
        wired.accept()
    assert wired.written is written


def test_a_commit_may_be_durable_long_before_its_answer() -> None:
    wired = Wired("commit_acknowledged_late")
    seen: list[bool] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wired.store.accept, [INTENT])
            await wired.clock.sleep(SECOND_US)
            seen.append(wired.written)
            seen.append(len(nursery.child_tasks) == 1)

    wired.run(main)
    assert seen == [True, True]


@pytest.mark.parametrize(("after", "written"), [(0, False), (1, True)])
def test_a_crash_at_commit_is_before_or_after_it(after: int, written: bool) -> None:
    wired = Wired("crash_at_commit", crash_at_commit=after)
    answered: list[object] = []

    async def main() -> None:
        with wired.session.scope:
            answered.append(await wired.store.accept([INTENT]))

    wired.run(main)
    assert (answered, wired.written, len(wired.crashes)) == ([], written, 1)
    assert not wired.session.alive


def test_what_has_left_is_committed_although_its_sender_died() -> None:
    # Goal: the zombie's commit, which only fencing keeps out.
    wired = Wired()

    async def main() -> None:
        with wired.session.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wired.store.accept, [INTENT])
                await wired.clock.sleep(10)
                wired.session.crash("now")

    wired.run(main)
    assert wired.written


def test_a_dead_or_a_paused_engine_reaches_nobody() -> None:
    wired = Wired()
    seen: list[bool] = []

    async def main() -> None:
        wired.session.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wired.store.accept, [INTENT])
            await wired.clock.sleep(30 * SECOND_US)
            seen.append(wired.written)
            wired.session.resume()
        seen.append(wired.written)
        wired.session.crash("now")
        with pytest.raises(StoreUnavailable):
            await wired.store.orders(["o"])
        with pytest.raises(ConnectionLost):
            await wired.session.call(lambda: wired.clock.sleep(1), patience_s=1)

    wired.run(main)
    assert seen == [False, True]


def test_a_database_that_is_away_refuses_until_it_is_back() -> None:
    wired = Wired()
    wired.store.down_until_us = 5 * SECOND_US
    seen: list[str] = []

    async def main() -> None:
        try:
            await wired.store.accept([INTENT])
        except StoreUnavailable:
            seen.append("away")
        await wired.clock.sleep(5 * SECOND_US)
        await wired.store.accept([INTENT])

    wired.run(main)
    assert (seen, wired.written) == (["away"], True)
