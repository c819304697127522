"""Goal: every store reads, tells and fences alike: what is due, what goes out, and who may write.

The second half of the contract in test_store_contract.py; each test runs on PostgreSQL and on the memory store.
"""

import pytest
from tests.storage.conftest import MakeStore
from tests.storage.scenes import (
    T0,
    accepting,
    beginning,
    charge,
    crediting,
    failing,
    moving,
    new_order,
    pay,
    posting,
    succeeding,
)

from tallystick.engine.errors import Fenced, PartitionsTaken
from tallystick.engine.intents import (
    Posted,
)
from tallystick.engine.order import PARTITIONS, State
from tallystick.storage.verify import verify

# --- reads that decide -------------------------------------------------------------------------------------------


async def test_what_a_restart_resumes_and_what_is_due(make_store: MakeStore) -> None:
    store = await make_store()
    names = ["asleep", "charged", "done", "failed", "new", "running"]
    orders = {name: new_order(name) for name in names}
    await store.accept([accepting(order) for order in orders.values()])
    begun = {name: beginning(orders[name]) for name in names if name != "new"}
    await store.apply(list(begun.values()))
    asleep = moving(begun["asleep"].order, State.RETRY_WAIT, "NotExecuted", wake_at=T0 + 500)
    charged = {name: succeeding(begun[name].order) for name in ("charged", "done")}
    await store.apply([asleep, *charged.values(), failing(begun["failed"].order)])
    await store.post([posting(charged["done"].order)])
    await store.credit([crediting(charged["done"].order)])

    assert await store.unfinished(after="", limit=10) == ["charged", "new", "running"]
    assert await store.unfinished(after="charged", limit=1) == ["new"]
    assert await store.next_wake_at() == T0 + 500
    assert await store.due(now=T0 + 499, limit=10) == []
    assert await store.due(now=T0 + 500, limit=10) == ["asleep"]
    stuck = await store.stuck(states=[State.EXECUTING, State.NOT_STARTED], since_before=T0 + 1, limit=10)
    assert [order.payment_order_id for order in stuck] == ["new"]
    in_flight = {one.state: (one.count, one.oldest_since) for one in await store.in_flight()}
    assert in_flight == {
        State.EXECUTING: (1, T0 + 1),
        State.NOT_STARTED: (1, T0),
        State.RETRY_WAIT: (1, T0 + 1),
        State.SUCCESS: (1, T0 + 2),
    }


async def test_due_orders_come_earliest_first(make_store: MakeStore) -> None:
    store = await make_store()
    orders = [new_order(name) for name in "abc"]
    await store.accept([accepting(order) for order in orders])
    begun = [beginning(order) for order in orders]
    await store.apply(begun)
    wakes = [T0 + 30, T0 + 10, T0 + 20]
    await store.apply(
        [
            moving(item.order, State.UNKNOWN, "OutcomeLost", wake_at=wake)
            for item, wake in zip(begun, wakes, strict=True)
        ]
    )
    assert await store.due(now=T0 + 100, limit=2) == ["b", "c"]
    assert await store.next_wake_at() == T0 + 10


# --- outbox ------------------------------------------------------------------------------------------------------


async def test_events_are_read_in_commit_order_without_a_gap(make_store: MakeStore) -> None:
    store = await make_store()
    await pay(store, [new_order(f"o{number}") for number in range(5)])
    events = await store.outbox_after(position=0, limit=100)
    assert [event.position for event in events] == list(range(1, 11))
    assert await store.outbox_after(position=4, limit=2) == events[4:6]
    first = events[0]
    assert first.payload == (
        b'{"kind":"payment_order.succeeded","checkout_id":"co-o0","payment_order_id":"o0",'
        b'"payment_order_status":"SUCCESS","state":"SUCCESS","seller_account":"DE89370400440532013000",'
        b'"amount":"10.00","currency":"EUR","at":1700000000000002}'
    )


async def test_a_receivers_cursor_only_moves_forward(make_store: MakeStore) -> None:
    store = await make_store()
    assert await store.add_receiver("log") == 0
    await store.advance_receiver(receiver="log", position=7)
    await store.advance_receiver(receiver="log", position=3)
    assert await store.add_receiver("log") == 7
    assert await store.add_receiver("webhooks") == 0


# --- ownership ---------------------------------------------------------------------------------------------------


async def test_an_engine_that_was_taken_over_can_no_longer_write(make_store: MakeStore) -> None:
    old, new = await make_store(), await make_store()
    first = await old.claim_partitions(owner="old", now=T0, ttl_us=100, force=False)
    assert sorted(first.epochs) == list(range(PARTITIONS))
    charged, known = await charge(old, [new_order("a"), new_order("known")])
    await old.post([posting(known)])
    with pytest.raises(PartitionsTaken) as taken:
        await new.claim_partitions(owner="new", now=T0 + 99, ttl_us=100, force=False)
    assert (taken.value.owner, taken.value.retry_at_us) == ("old", T0 + 100)
    second = await new.claim_partitions(owner="new", now=T0 + 100, ttl_us=100, force=False)
    assert all(second.epochs[number] > first.epochs[number] for number in range(PARTITIONS))
    with pytest.raises(Fenced):
        await old.accept([accepting(new_order("b"))])
    with pytest.raises(Fenced):
        await old.apply([moving(charged, State.SUCCESS, "Charged")])
    with pytest.raises(Fenced):
        await old.post([posting(charged)])
    with pytest.raises(Fenced):
        await old.credit([crediting(charged)])
    with pytest.raises(Fenced):
        await old.renew_lease(now=T0 + 101, ttl_us=100)
    assert await new.post([posting(charged)]) == [Posted(new=True)]
    assert await new.orders(["b"]) == [None]


async def test_a_lease_is_prolonged_released_and_forced(make_store: MakeStore) -> None:
    old, new = await make_store(), await make_store()
    await old.claim_partitions(owner="old", now=T0, ttl_us=100, force=False)
    await old.renew_lease(now=T0 + 90, ttl_us=100)
    with pytest.raises(PartitionsTaken):
        await new.claim_partitions(owner="new", now=T0 + 150, ttl_us=100, force=False)
    await old.release_lease()
    await new.claim_partitions(owner="new", now=T0 + 150, ttl_us=100, force=False)
    await old.release_lease()  # no longer ours to release
    with pytest.raises(PartitionsTaken):
        await old.claim_partitions(owner="old", now=T0 + 151, ttl_us=100, force=False)
    await old.claim_partitions(owner="old", now=T0 + 151, ttl_us=100, force=True)
    with pytest.raises(Fenced):
        await new.accept([accepting(new_order("a"))])


# --- the rest ----------------------------------------------------------------------------------------------------


async def test_empty_batches_and_unknown_ids_are_no_trouble(make_store: MakeStore) -> None:
    store = await make_store()
    assert await store.accept([]) == []
    assert await store.apply([]) == []
    assert await store.post([]) == []
    assert await store.credit([]) == []
    assert await store.orders([]) == []
    assert await store.order_view("x") is None
    assert (await store.checkout_views(["x"]))[0] is None
    assert await store.story("x") is None
    assert await store.next_wake_at() is None
    assert await store.in_flight() == []
    assert (await verify(store)).findings == ()
