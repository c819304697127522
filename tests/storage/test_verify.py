"""Goal: whatever is tampered with in the database, verify names it; and a healthy store has no findings."""

import pytest
from tests.storage.scenes import accepting, charge, new_order, pay, posting

from tallystick.storage.bridge import Connection, open_bridge
from tallystick.storage.postgres import PostgresStore
from tallystick.storage.verify import verify

UNBOOKED = "ledger_updated = false, wallet_updated = false"
TAMPERING: dict[str, tuple[str, set[str]]] = {
    "an amount in the ledger": (
        "update transfers set amount_minor = amount_minor + 1 where seq = 2",
        {"HASH_MISMATCH", "account_balances", "wallet_against_ledger", "order_against_ledger"},
    ),
    "a cause in the ledger": ("update transfers set cause = 'capture:x' where seq = 2", {"HASH_MISMATCH"}),
    "a hash in the ledger": ("update transfers set hash = sha256('x') where seq = 1", {"HASH_MISMATCH"}),
    "a missing transfer": (
        "delete from transfers where seq = 2",
        {"SEQUENCE_GAP", "account_balances", "ledger_head", "wallet_against_ledger", "order_against_ledger"},
    ),
    "the newest transfer missing": (
        "delete from transfers where seq = 3",
        {"account_balances", "ledger_head", "wallet_against_ledger", "order_against_ledger"},
    ),
    "the ledger's head": ("update ledger_head set seq = 9", {"ledger_head"}),
    "a balance": (
        "update account_balances set credits_minor = credits_minor + 1 where account_id like 'seller%'",
        {"account_balances", "zero_sum"},
    ),
    "a wallet": ("update wallets set available_minor = 1", {"wallets"}),
    "a wallet entry": (
        "update wallet_entries set available_minor = 1 where payment_order_id = 'a'",
        {"wallets", "wallet_against_ledger", "order_against_wallet"},
    ),
    "an order's amount": (
        "update payment_orders set amount_minor = 1 where payment_order_id = 'a'",
        {"order_against_ledger", "order_against_wallet"},
    ),
    "a flag": (
        "update payment_orders set wallet_updated = false where payment_order_id = 'a'",
        {"event_counters", "wallet_against_ledger", "order_against_wallet"},
    ),
    "an order's state": (
        f"update payment_orders set state = 'FAILED', {UNBOOKED} where payment_order_id = 'a'",
        {"order_against_ledger", "order_against_wallet", "order_log"},
    ),
    "an order's version": ("update payment_orders set version = 7 where payment_order_id = 'a'", {"order_log"}),
    "a gap in a log": (
        "delete from payment_order_log where payment_order_id = 'a' and version = 1",
        {"order_log"},
    ),
    "an illegal step in a log": (
        "update payment_order_log set from_state = 'FAILED' where payment_order_id = 'a' and version = 2",
        {"order_log"},
    ),
    "a missing attempt": ("delete from payment_attempts where payment_order_id = 'a'", {"attempts"}),
    "a counter of open orders": (
        "update payment_events set orders_open = 1 where checkout_id = 'co-a'",
        {"event_counters"},
    ),
    "an announcement that is gone": (
        "delete from outbox where event_id = 'order:a:2'",
        {"ends_not_announced", "outbox_positions"},
    ),
    "an announcement of nothing": (
        "update outbox set event_id = 'order:a:9' where event_id = 'order:a:2'",
        {"ends_not_announced", "announced_without_cause"},
    ),
    "a done that was not announced": (
        "update payment_events set times_done = 2 where checkout_id = 'co-a'",
        {"done_announced"},
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_tampering_is_named(store: PostgresStore, database_url: str, what: str) -> None:
    await pay(store, [new_order("a"), new_order("b"), new_order("c")])
    healthy = await verify(store)
    assert (healthy.transfers, healthy.findings) == (3, ())
    statement, expected = TAMPERING[what]
    async with open_bridge(database_url) as bridge:

        async def tamper(connection: Connection) -> None:
            await connection.execute("set local session_replication_role = replica")  # without triggers
            await connection.execute(statement)

        await bridge.write(tamper)
    found = await verify(store)
    assert {finding.check for finding in found.findings} == expected


async def test_a_payment_on_its_way_is_no_finding(store: PostgresStore) -> None:
    """Between two commits of one payment the books differ, and verify knows why."""
    await pay(store, [new_order("paid")])
    [charged, _] = await charge(store, [new_order("charged"), new_order("charged too")])
    await store.accept([accepting(new_order("new"))])
    assert (await verify(store)).findings == ()
    await store.post([posting(charged)])
    assert (await verify(store)).findings == ()


async def test_findings_are_bounded_per_check(store: PostgresStore, database_url: str) -> None:
    await pay(store, [new_order(f"o{number}") for number in range(5)])
    async with open_bridge(database_url) as bridge:
        await bridge.write(lambda c: c.execute("update payment_events set times_done = 9"))
    report = await verify(store, limit=2)
    assert [finding.check for finding in report.findings] == ["done_announced", "done_announced"]
