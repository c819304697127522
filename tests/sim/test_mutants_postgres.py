"""Goal: a safeguard that only a real database needs is seen to be needed there."""

import pytest
import structlog
import trio
from tests.postgres_fixtures import PostgresForTests
from tests.storage.scenes import accepting, beginning, new_order

from tallystick.sim.mutants.catalogue import switched_off
from tallystick.storage.postgres import PostgresStore, open_store_at

ORDERS = 400
ROUNDS = 12
# Two writers that meet by chance may miss each other for a while; they do not for so many rounds.
ROUNDS_UNTIL_THEY_MEET = 120


async def deadlocks(postgres: PostgresForTests, rounds: int) -> int:
    """Have two engines write the same batches at once, round after round; return after how many deadlocks."""
    count = 0
    async with postgres.fresh_database() as url, open_store_at(url) as one, open_store_at(url) as two:
        for number in range(rounds):
            orders = [new_order(f"o{number}-{place:03}", checkout=f"c{number}-{place}") for place in range(ORDERS)]
            await one.accept([accepting(order) for order in orders])
            moves = [beginning(order) for order in orders]

            async def move(store: PostgresStore) -> None:
                await store.apply(moves)  # noqa: B023  (called within this very turn)

            with structlog.testing.capture_logs() as logs:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(move, one)
                    nursery.start_soon(move, two)
            count += sum(1 for line in logs if line.get("sqlstate") == "40P01")
            if count:
                break
    return count


@pytest.mark.parametrize("mutant", [None, "lock_order_dropped"])
async def test_without_a_lock_order_two_writers_deadlock(postgres: PostgresForTests, mutant: str | None) -> None:
    with switched_off(mutant):
        rounds = ROUNDS if mutant is None else ROUNDS_UNTIL_THEY_MEET
        assert bool(await deadlocks(postgres, rounds)) is (mutant is not None)
