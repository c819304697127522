"""The whole engine over the memory store, in virtual time: its door under overload, lost answers and crashes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from tallystick.actors.engine import Engine, Ports, run_engine
from tallystick.actors.settings import EngineSettings, GatewaySettings
from tallystick.engine.doors import PaymentEvent, PaymentOrderRequest
from tallystick.engine.errors import CommitUnknown, Overloaded
from tallystick.engine.intents import AcceptOutcome, AcceptPayment
from tallystick.engine.order import State
from tallystick.engine.ports import ChargeAnswer, ChargeRequest
from tallystick.engine.risk import AmountLimits
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.memory_tables import Tables
from tallystick.sim.psp.in_process import InProcessPsp

SETTINGS = EngineSettings(live_orders_max=20, gateway=GatewaySettings(concurrency_max=100))


class TrioClock:
    """The engine's clock over trio's, so that autojump moves both; 2026 or so."""

    def now(self) -> int:
        return 1_800_000_000_000_000 + int(trio.current_time() * 1_000_000)


class Dice:
    def below(self, bound: int) -> int:
        return bound // 2

    def token(self) -> str:
        return "0123456789abcdef"


class SlowStore(MemoryStore):
    """A memory store that takes its time over acceptances, and can lose the answer of one."""

    accepts_in_s = 0.0
    lose_one_answer = False

    async def accept(self, batch: Sequence[AcceptPayment]) -> list[AcceptOutcome]:
        await trio.sleep(self.accepts_in_s)
        outcomes = await super().accept(batch)
        if self.lose_one_answer:
            self.lose_one_answer = False
            raise CommitUnknown("lost")
        return outcomes


class BuggyPsp(InProcessPsp):
    """An adapter with a bug for one token."""

    async def charge(self, request: ChargeRequest) -> ChargeAnswer:
        if request.psp_token == "tok_mastercard":
            raise ZeroDivisionError("a bug of the adapter")
        return await super().charge(request)


@asynccontextmanager
async def an_engine(store: MemoryStore, *, latency_us: int = 1_000) -> AsyncIterator[Engine]:
    clock, dice = TrioClock(), Dice()
    psp = BuggyPsp(clock=clock, entropy=dice, latency_us=latency_us)
    ports = Ports(store=store, psps=[psp], risk=AmountLimits(), clock=clock, entropy=dice)
    async with run_engine(ports, SETTINGS) as engine:
        yield engine


def checkout(number: int, orders: int = 1, token: str = "tok_visa") -> PaymentEvent:
    return PaymentEvent(
        checkout_id=f"co-{number}",
        buyer_info={},
        credit_card_info=token,
        payment_orders=[
            PaymentOrderRequest(
                payment_order_id=f"po-{number}-{index}",
                seller_account="DE89370400440532013000",
                amount="1.00",
                currency="EUR",
            )
            for index in range(orders)
        ],
    )


async def test_clients_that_leave_do_not_open_the_door_wider(autojump_clock: object) -> None:
    """A caller that disconnects frees no room before its checkout is settled: the bound on live orders holds."""
    store = SlowStore(Tables())
    store.accepts_in_s = 1.0
    most = refused = 0
    async with an_engine(store, latency_us=60_000_000) as engine:

        async def impatient(number: int) -> None:
            nonlocal refused
            with trio.move_on_after(0.01):
                try:
                    await engine.submit(checkout(number))
                except Overloaded:
                    refused += 1

        for wave in range(5):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(impatient, wave * 30 + number)
        for _ in range(50):
            most = max(most, engine.live_orders)
            await trio.sleep(0.1)
    assert refused > 0
    assert 0 < most <= SETTINGS.live_orders_max


async def test_a_lost_answer_to_an_acceptance_starts_the_payment_all_the_same(autojump_clock: object) -> None:
    """COMMIT arrived and its answer did not: the caller hears "accepted", and nothing waits for a sweep."""
    store = SlowStore(Tables())
    store.lose_one_answer = True
    async with an_engine(store) as engine:
        began = trio.current_time()
        await engine.submit(checkout(1))
        view = await engine.wait("co-1", timeout_s=60)
        assert view.is_payment_done
        assert trio.current_time() - began < 2


async def test_a_bug_of_the_adapter_stays_with_its_own_orders(autojump_clock: object) -> None:
    """Orders that crash in an adapter are found out about by asking; all others go on undisturbed."""
    store = MemoryStore(Tables())
    async with an_engine(store) as engine:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(engine.submit, checkout(number, token="tok_mastercard"))
        good = await engine.submit(checkout(100, orders=3))
        view = await engine.wait(good.checkout_id, timeout_s=5)
        assert [order.state for order in view.orders] == [State.SUCCESS] * 3
        (stuck,) = await store.orders(["po-0-0"])
        assert stuck is not None
        assert stuck.state in (State.UNKNOWN, State.EXECUTING), "never a payment result"
    assert store.tables.transfers is not None
    assert len([order for order in store.tables.orders.values() if order.state is State.SUCCESS]) == 3


async def test_nothing_is_taken_while_shutting_down(autojump_clock: object) -> None:
    """An ordered stop refuses new work, finishes what is under way, and keeps what waits."""
    store = MemoryStore(Tables())
    async with an_engine(store, latency_us=500_000) as engine:
        await engine.submit(checkout(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.drain)
            await trio.sleep(0.01)
            with pytest.raises(Overloaded):
                await engine.submit(checkout(2))
    assert store.tables.orders["po-1-0"].is_done
    assert "po-2-0" not in store.tables.orders
