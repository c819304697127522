"""Goal: writers that work at once, in one engine or in several, neither block each other nor lose anything."""

import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio
from tests.storage.scenes import (
    SELLER,
    T0,
    accepting,
    beginning,
    charge,
    crediting,
    moving,
    new_order,
    posting,
    succeeding,
)

from tallystick.engine.errors import CommitUnknown, Fenced, StoreError, StoreUnavailable
from tallystick.engine.intents import Applied, PaymentAccepted, Posted, Superseded
from tallystick.engine.order import Order
from tallystick.storage.embedded import EmbeddedServer, open_embedded
from tallystick.storage.postgres import PostgresStore, open_store_at
from tallystick.storage.verify import verify

SELLERS = [SELLER, "FR1420041010050500013M02606", "NL91ABNA0417164300"]


def _orders(count: int, prefix: str = "o") -> list[Order]:
    return [
        new_order(
            f"{prefix}{number:03}", checkout=f"{prefix}c{number // 3:03}", seller=SELLERS[number % 3], minor=100
        )
        for number in range(count)
    ]


async def test_books_and_moves_of_the_same_orders_at_once(store: PostgresStore) -> None:
    """Ledger, wallet and decisions touch the same orders and events, each in another order of its own."""
    charged = await charge(store, _orders(60))
    shuffle = random.Random(1).sample

    async def in_batches(write: Callable[[int], Awaitable[object]]) -> None:
        for start in range(0, 60, 15):
            await write(start)

    async def post(start: int) -> None:
        await store.post([posting(order) for order in shuffle(charged, 60)[start : start + 30]])

    async def credit(start: int) -> None:
        await store.credit([crediting(order) for order in shuffle(charged, 60)[start : start + 30]])

    async def move(start: int) -> None:
        late = [moving(order, order.state, "Charged", state_since=T0) for order in shuffle(charged, 60)[start:]]
        await store.apply(late)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for work in (post, credit, move, post, credit):
                nursery.start_soon(in_batches, work)
    await store.post([posting(order) for order in charged])
    await store.credit([crediting(order) for order in charged])
    report = await verify(store)
    assert (report.transfers, report.findings) == (60, ())
    events = await store.outbox_after(position=0, limit=1000)
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    assert sum(event.kind == "payment.done" for event in events) == 20


async def test_two_engines_that_do_the_same_at_once_do_it_once(database_url: str) -> None:
    """Each intent is written by exactly one of two stores, and both are told so."""
    orders = _orders(30)
    async with open_store_at(database_url) as one, open_store_at(database_url) as two:

        async def both(do: Callable[[PostgresStore], Awaitable[Sequence[object]]]) -> list[Sequence[object]]:
            answers: list[Sequence[object]] = []

            async def run(store: PostgresStore) -> None:
                answers.append(await do(store))

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, one)
                    nursery.start_soon(run, two)
            return answers

        payments = [accepting(*orders[start : start + 3]) for start in range(0, 30, 3)]
        for first, second in zip(*await both(lambda store: store.accept(payments)), strict=True):
            assert isinstance(first, PaymentAccepted)
            assert isinstance(second, PaymentAccepted)
            assert first.new != second.new
        begun = [beginning(order) for order in orders]
        assert await both(lambda store: store.apply(begun)) == [[Applied()] * 30] * 2
        ended = [succeeding(item.order) for item in begun]
        assert await both(lambda store: store.apply(ended)) == [[Applied()] * 30] * 2
        stale = await one.apply([moving(orders[0], orders[0].state, "RiskFlagged")])
        assert stale == [Superseded(current=ended[0].order)]
        for write in (
            lambda store: store.post([posting(item.order) for item in ended]),
            lambda store: store.credit([crediting(item.order) for item in ended]),
        ):
            for first, second in zip(*await both(write), strict=True):
                assert isinstance(first, Posted)
                assert isinstance(second, Posted)
                assert first.new != second.new
        # Both ledgers' memory of the head is put to the test: each writes after the other.
        more = await charge(two, _orders(4, prefix="m"))
        for index, order in enumerate(more):
            await (one if index % 2 else two).post([posting(order)])
        await one.credit([crediting(order) for order in more])
        report = await verify(one)
        assert (report.transfers, report.findings) == (34, ())


async def test_a_write_under_way_is_fenced_or_finished_before_a_takeover(database_url: str) -> None:
    """A takeover waits for the writes that passed the fence; those that come later are refused."""
    async with open_store_at(database_url) as old, open_store_at(database_url) as new:
        await old.claim_partitions(owner="old", now=T0, ttl_us=1, force=False)
        written: list[str] = []
        under_way = trio.Event()

        async def write_until_fenced() -> None:
            for number in range(10_000):
                name = f"o{number}"
                try:
                    await old.accept([accepting(new_order(name))])
                except Fenced:
                    return
                written.append(name)
                if number == 20:
                    under_way.set()
            pytest.fail("never fenced")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_until_fenced)
            await under_way.wait()
            await new.claim_partitions(owner="new", now=T0, ttl_us=1, force=True)
        found = await new.unfinished(after="", limit=20_000)
        assert sorted(found) == sorted(written)


async def _until_done(write: Callable[[], Awaitable[Sequence[object]]], errors: list[StoreError]) -> None:
    """Repeat an intent until the store says that it is done, as the engine does."""
    while True:
        try:
            await write()
        except (StoreUnavailable, CommitUnknown) as error:
            errors.append(error)
            await trio.sleep(0.05)
        else:
            return


@pytest.mark.timeout(120)
async def test_a_server_that_is_killed_under_load_loses_and_doubles_nothing(data_dir: Path) -> None:
    """Kill -9 again and again while batches are written; every intent is repeated until it is acknowledged."""
    errors: list[StoreError] = []
    rng = random.Random(7)
    async with open_embedded(data_dir) as server, open_store_at(server.url()) as store:
        finished = trio.Event()
        paid_since_last = trio.Event()

        def reset() -> None:
            nonlocal paid_since_last
            paid_since_last = trio.Event()

        async def kill_now_and_then(server: EmbeddedServer) -> None:
            for _ in range(3):
                # A whole payment proves that it is up; then it dies in the middle of something.
                await paid_since_last.wait()
                await trio.sleep(rng.random() * 0.2)
                killed = server.pid
                os.kill(killed, signal.SIGKILL)
                while server.pid == killed:  # noqa: ASYNC110  (its sessions may outlive it for a moment)
                    await trio.sleep(0.01)
                reset()
            finished.set()

        async def pay_until_finished(writer: int) -> None:
            number = 0
            while not finished.is_set() or number < 2:
                orders = _orders(9, prefix=f"w{writer}b{number:04}x")
                groups = [orders[start : start + 3] for start in range(0, 9, 3)]
                await _until_done(lambda: store.accept([accepting(*group) for group in groups]), errors)  # noqa: B023
                begun = [beginning(order) for order in orders]
                await _until_done(lambda: store.apply(begun), errors)  # noqa: B023
                ended = [succeeding(item.order) for item in begun]
                await _until_done(lambda: store.apply(ended), errors)  # noqa: B023
                await _until_done(lambda: store.post([posting(item.order) for item in ended]), errors)  # noqa: B023
                await _until_done(lambda: store.credit([crediting(item.order) for item in ended]), errors)  # noqa: B023
                paid.extend(order.payment_order_id for order in orders)
                paid_since_last.set()
                number += 1

        paid: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_now_and_then, server)
            for writer in range(3):
                nursery.start_soon(pay_until_finished, writer)
        assert errors
        report = await verify(store)
        assert (report.transfers, report.findings) == (len(paid), ())
        assert all(order is not None and order.is_done for order in await store.orders(paid))
        assert await store.in_flight() == []
        wallets = [wallet.available_minor for seller in SELLERS for wallet in await store.wallet_views(seller)]
        assert sum(wallets) == 100 * len(paid)
