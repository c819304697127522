"""Goal: PostgreSQL and the memory store agree, outcome by outcome and row by row, on whatever is asked of them.

Hypothesis draws sequences of batches over few ids, so that they clash: repeated, stale, conflicting, half known.
Both stores get the same; their answers, and all that can be read back at the end, must be equal.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.postgres_fixtures import PostgresForTests
from tests.storage.scenes import (
    PSP,
    SELLER,
    T0,
    accepting,
    beginning,
    crediting,
    failing,
    moving,
    new_order,
    posting,
    reopening,
    succeeding,
)

from tallystick.engine.intents import (
    AcceptPayment,
    IdempotencyClaim,
    Intent,
    Transition,
)
from tallystick.engine.order import Order, State
from tallystick.engine.ports import Store
from tallystick.sim.memory_store import MemoryStore
from tallystick.storage.postgres import open_store_at
from tallystick.storage.verify import verify

ORDERS = [f"o{number}" for number in range(5)]
CHECKOUTS = [f"c{number}" for number in range(4)]

_numbers = st.integers(0, 999)
_item = st.tuples(_numbers, _numbers, _numbers)
# Most orders shall get far, so that the books have something to disagree about.
_kinds = st.sampled_from(["apply", "post", "apply", "credit", "apply", "accept", "apply", "takeover"])
_op = st.tuples(_kinds, st.lists(_item, min_size=3, max_size=6))


class Script:
    """Turns numbers into intents, remembering every order it has seen so that it can be stale on purpose."""

    def __init__(self) -> None:
        self.time = T0
        self.seen: dict[str, list[Order]] = {}

    def accept(self, which: int, orders: int, variant: int) -> AcceptPayment:
        checkout = CHECKOUTS[which % len(CHECKOUTS)]
        first = orders % len(ORDERS)
        ids = [ORDERS[(first + step) % len(ORDERS)] for step in range(1 + orders % 2)]
        claim = None
        if variant % 3:
            claim = IdempotencyClaim(scope="s", key=f"k{variant % 4}", request_hash=bytes([which % 2]) * 32)
        content = "other content" if variant % 7 == 0 else f"content of {checkout}"
        made = [new_order(one, checkout=checkout, minor=100 + which) for one in ids]
        return accepting(*made, claim=claim, content=content, at=self.time)

    def move(self, order_id: str, choice: int, age: int) -> Transition | None:
        """Decide on the newest copy of the order, or on an older one."""
        copies = self.seen.get(order_id)
        if not copies:
            return None
        order = copies[-1 - min(max(0, age % 6 - 3), len(copies) - 1)]
        at = self.time
        match order.state:
            case State.NOT_STARTED:
                return beginning(order, at=at)
            case State.FAILED:
                return reopening(order, at=at)
            case State.SUCCESS:
                return moving(order, State.SUCCESS, "Charged", at=at, state_since=order.state_since)
            case State.EXECUTING if choice % 3 == 0:
                return moving(order, State.UNKNOWN, "OutcomeLost", at=at, wake_at=at + choice)
            case _:
                return succeeding(order, at=at) if choice % 3 == 1 else failing(order, at=at)

    def batch(self, kind: str, items: Sequence[tuple[int, int, int]]) -> list[Intent]:
        self.time += 10
        if kind == "accept":
            return [self.accept(*item) for item in items]
        batch: dict[str, Intent] = {}
        repeated: list[Intent] = []
        for number, choice, age in items:
            order_id = ORDERS[number % len(ORDERS)]
            newest = self.seen.get(order_id, [None])[-1]
            intent: Intent | None = None
            if kind == "apply":
                intent = self.move(order_id, choice, age)
            elif newest is not None and newest.state is State.SUCCESS:
                intent = posting(newest, at=self.time) if kind == "post" else crediting(newest, at=self.time)
            if intent is not None and order_id in batch and kind != "apply":
                repeated.append(intent)
            elif intent is not None:
                batch[order_id] = intent
        return [*batch.values(), *repeated]

    async def look(self, store: Store) -> None:
        for order in await store.orders(ORDERS):
            if order is not None and order not in self.seen.setdefault(order.payment_order_id, []):
                self.seen[order.payment_order_id].append(order)


async def _write(store: Store, kind: str, batch: list[Any]) -> object:
    match kind:
        case "accept":
            return await store.accept(batch)
        case "apply":
            return await store.apply(batch)
        case "post":
            return await store.post(batch)
        case "credit":
            return await store.credit(batch)
        case _:
            return await store.claim_partitions(owner="one more", now=T0, ttl_us=1, force=True)


async def _everything(store: Store) -> dict[str, object]:
    states = list(State)
    return {
        "orders": await store.orders(ORDERS),
        "stories": [await store.story(order_id) for order_id in ORDERS],
        "checkouts": [(await store.checkout_views([checkout_id]))[0] for checkout_id in CHECKOUTS],
        "wallets": await store.wallet_views(SELLER),
        "accounts": [
            await store.account_view(account, before_seq=None, limit=3)
            for account in (f"psp_receivable:{PSP}:EUR", f"seller_payable:{SELLER}:EUR")
        ],
        "transfers": await store.transfers_after(seq=0, limit=100),
        "outbox": await store.outbox_after(position=0, limit=1000),
        "dead letters": await store.dead_letters(include_closed=True, after=None, limit=100),
        "unfinished": await store.unfinished(after="", limit=100),
        "due": await store.due(now=T0 + 300, limit=100),
        "next wake": await store.next_wake_at(),
        "stuck": await store.stuck(states=states, since_before=T0 + 50, limit=100),
        "in flight": sorted((one.state, one.count, one.oldest_since) for one in await store.in_flight()),
        "findings": (await verify(store)).findings,
    }


@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ops=st.lists(_op, min_size=25, max_size=40))
async def test_the_stores_agree(
    postgres: PostgresForTests, ops: list[tuple[str, list[tuple[int, int, int]]]]
) -> None:
    async with postgres.fresh_database() as url, open_store_at(url) as real:
        memory = MemoryStore()
        script = Script()
        for kind, items in [("accept", [(number, number, 1) for number in range(4)]), *ops]:
            batch = script.batch(kind, items)
            assert await _write(real, kind, batch) == await _write(memory, kind, batch), (kind, batch)
            await script.look(memory)
        ours = await _everything(real)
        assert ours == await _everything(memory)
        assert ours["findings"] == ()
