"""Reads: of what decides, of what people look at, of what is replayed."""

from collections.abc import Sequence

from tallystick.engine.money import Money
from tallystick.engine.views import AccountView, CheckoutView, EntryView, OrderView, Story
from tallystick.storage import rows
from tallystick.storage.bridge import Connection, Row
from tallystick.storage.queries import queries

_SQL = queries("reads")
_SEQ_MAX = 2**63 - 1


async def order_view(connection: Connection, payment_order_id: str) -> OrderView | None:
    """Return an order with its attempts."""
    found = await connection.fetchrow(_SQL["orders"], [payment_order_id])
    if found is None:
        return None
    attempts = await connection.fetch(_SQL["attempts"], payment_order_id)
    return OrderView(
        order=rows.order(found),
        updated_at=found["updated_at"],
        attempts=tuple(rows.attempt(row) for row in attempts),
    )


async def checkout_views(connection: Connection, checkout_ids: Sequence[str]) -> list[CheckoutView | None]:
    """Return payment events with their orders. One statement, so that each is as of one moment."""
    orders: dict[str, list[Row]] = {}
    for row in await connection.fetch(_SQL["checkouts"], checkout_ids):
        orders.setdefault(row["checkout_id"], []).append(row)
    return [_checkout(orders[checkout_id]) if checkout_id in orders else None for checkout_id in checkout_ids]


def _checkout(found: Sequence[Row]) -> CheckoutView:
    event = found[0]
    return CheckoutView(
        checkout_id=event["checkout_id"],
        buyer_info=event["event_buyer_info"].encode(),
        created_at=event["event_created_at"],
        is_payment_done=event["event_orders_open"] == 0,
        orders=tuple([rows.order(row) for row in found]),
    )


async def account_view(
    connection: Connection, account_id: str, *, before_seq: int | None, limit: int
) -> AccountView | None:
    """Return an account with a page of entries. Each side has an index of its own, so both are read and merged."""
    account = await connection.fetchrow(_SQL["account"], account_id)
    if account is None:
        return None
    below = _SEQ_MAX if before_seq is None else before_seq
    # One more than asked for, to see whether there is a next page.
    debits = await connection.fetch(_SQL["debits_of"], account_id, below, limit + 1)
    credits_ = await connection.fetch(_SQL["credits_of"], account_id, below, limit + 1)
    merged = sorted([*debits, *credits_], key=lambda row: -row["seq"])
    page = merged[:limit]
    return AccountView(
        account_id=account_id,
        currency=account["currency"],
        debits_minor=account["debits_minor"],
        credits_minor=account["credits_minor"],
        entries=tuple(_entry(row, account_id) for row in page),
        next_before_seq=page[-1]["seq"] if len(merged) > limit else None,
    )


def _entry(row: Row, account_id: str) -> EntryView:
    debited = row["debit_id"] == account_id
    amount = Money(row["amount_minor"], row["currency"])
    return EntryView(
        seq=row["seq"],
        cause=row["cause"],
        kind=row["kind"],
        other_account_id=row["credit_id"] if debited else row["debit_id"],
        amount=amount if debited else -amount,
        payment_order_id=row["payment_order_id"],
        at=row["at"],
    )


async def story(connection: Connection, payment_order_id: str) -> Story | None:
    """Return everything that is known about an order."""
    view = await order_view(connection, payment_order_id)
    if view is None:
        return None
    log = await connection.fetch(_SQL["log_of"], payment_order_id)
    transfers = await connection.fetch(_SQL["transfers_of"], payment_order_id)
    entries = await connection.fetch(_SQL["wallet_entries_of"], payment_order_id)
    mismatches = await connection.fetch(_SQL["mismatches_of"], payment_order_id)
    dead = await connection.fetchrow(_SQL["dead_letter_of"], payment_order_id)
    return Story(
        view=view,
        log=tuple(rows.log_entry(row) for row in log),
        transfers=tuple(rows.transfer(row) for row in transfers),
        wallet_entries=tuple(rows.wallet_entry(row) for row in entries),
        mismatches=tuple(rows.mismatch(row) for row in mismatches),
        dead_letter=None if dead is None else rows.dead_letter(dead),
    )
