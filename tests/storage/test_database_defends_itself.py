"""Goal: what must never happen is refused by the database, even to one who writes SQL by hand."""

from collections.abc import AsyncIterator
from itertools import permutations

import asyncpg
import pytest
from msgspec.structs import replace
from tests.storage.scenes import accepting, beginning, new_order, pay

from tallystick.engine.intents import Applied
from tallystick.engine.order import State
from tallystick.engine.transitions import legal_moves
from tallystick.storage.bridge import Bridge, Connection, open_bridge
from tallystick.storage.postgres import PostgresStore

CHARGED = "psp = 'psp-a', charged_attempt = 1, ledger_updated = false, wallet_updated = false"
IMMUTABLE, ILLEGAL_MOVE, TERMS_CHANGED = "TS001", "TS002", "TS003"


@pytest.fixture
async def by_hand(database_url: str, store: PostgresStore) -> AsyncIterator[Bridge]:
    """Return a way to write SQL on a database with one paid and one executing order."""
    await pay(store, [new_order("paid")])
    running = new_order("running")
    await store.accept([accepting(running)])
    await store.apply([beginning(running)])
    async with open_bridge(database_url, connections_max=1) as bridge:
        yield bridge


async def _refused(by_hand: Bridge, statement: str) -> str | None:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await by_hand.write(lambda connection: connection.execute(statement))
    return refused.value.sqlstate


@pytest.mark.parametrize("table", ["transfers", "wallet_entries", "payment_order_log"])
async def test_history_cannot_be_rewritten(by_hand: Bridge, table: str) -> None:
    assert await _refused(by_hand, f"update {table} set at = at + 1") == IMMUTABLE
    assert await _refused(by_hand, f"delete from {table}") == IMMUTABLE
    assert await _refused(by_hand, f"truncate {table}") == IMMUTABLE


async def test_orders_and_announcements_stay(by_hand: Bridge) -> None:
    assert await _refused(by_hand, "delete from payment_orders") == IMMUTABLE
    assert await _refused(by_hand, "update outbox set payload = ''") == IMMUTABLE


async def test_illegal_moves_are_refused_and_legal_ones_are_not(by_hand: Bridge) -> None:
    """Every pair of different states, on an order that has been made to stand in the first."""

    async def try_all(connection: Connection) -> set[tuple[State, State, str | None]]:
        refused: set[tuple[State, State, str | None]] = set()
        for source, target in permutations(State, 2):
            await connection.execute("savepoint one")
            await connection.execute("set local session_replication_role = replica")  # without triggers
            await connection.execute(f"update payment_orders set state = '{source}', {CHARGED}")
            await connection.execute("set local session_replication_role = origin")
            try:
                await connection.execute(f"update payment_orders set state = '{target}', version = version + 1")
            except asyncpg.PostgresError as error:
                refused.add((source, target, error.sqlstate))
            await connection.execute("rollback to savepoint one")
        return refused

    refused = await by_hand.write(try_all)
    assert refused == {(*pair, ILLEGAL_MOVE) for pair in set(permutations(State, 2)) - legal_moves()}


@pytest.mark.parametrize(
    "change",
    [
        "amount_minor = amount_minor + 1",
        "currency = 'USD'",
        "seller_account = 'FR1420041010050500013M02606'",
        "checkout_id = 'co-running'",
        "version = version + 2",
        "version = version - 1",
        "ledger_updated = false",
        "wallet_updated = false",
    ],
)
async def test_what_was_agreed_and_what_was_booked_stays(by_hand: Bridge, change: str) -> None:
    statement = f"update payment_orders set {change} where payment_order_id = 'paid'"
    assert await _refused(by_hand, statement) == TERMS_CHANGED


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (
            "update payment_orders set ledger_updated = true where payment_order_id = 'running'",
            "books_only_of_success",
        ),
        ("update payment_events set orders_open = 2", "orders_open_range"),
        ("update ledger_head set hash = 'short'::bytea", "hash_sha256"),
        ("update account_balances set debits_minor = -1", "not_negative"),
        ("insert into outbox_head (singleton, position) values (false, 1)", "singleton"),
        (
            "insert into transfers select 9, 'x', '', debit_id, debit_id, 1, 'EUR', null, 1, hash from transfers",
            "two_accounts",
        ),
        (
            "insert into transfers select 9, 'x', '', debit_id, credit_id, 0, 'EUR', null, 1, hash from transfers",
            "amount_positive",
        ),
        (
            "insert into transfers select 9, 'x', '', debit_id, credit_id, 1, 'USD', null, 1, hash from transfers",
            "debit_account",
        ),
    ],
)
async def test_checks_hold(by_hand: Bridge, statement: str, constraint: str) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=constraint):
        await by_hand.write(lambda connection: connection.execute(statement))


async def test_a_bug_that_the_database_refuses_is_not_taken_for_an_outage(store: PostgresStore) -> None:
    """A violated CHECK comes out as it is, nothing of the batch is written, and the store goes on."""
    orders = [new_order("good"), new_order("bad")]
    await store.accept([accepting(order) for order in orders])
    begun = [beginning(order) for order in orders]
    wrong = replace(begun[1], order=replace(begun[1].order, attempt=-1))
    with pytest.raises(asyncpg.CheckViolationError):
        await store.apply([begun[0], wrong])
    assert await store.orders(["good"]) == [orders[0]]
    assert await store.apply(begun) == [Applied(), Applied()]
