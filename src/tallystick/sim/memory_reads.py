"""What the memory store answers when it is read: the same views, in the same order, as the database gives."""

from collections.abc import Iterable, Sequence

from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.views import (
    AccountView,
    CheckoutView,
    DeadLetterView,
    EntryView,
    InFlight,
    MismatchView,
    OrderView,
    OutboxEvent,
    StoredTransfer,
    Story,
    WalletView,
)
from tallystick.sim.memory_tables import DeadLetterRow, Tables

# --- reads that decide -----------------------------------------------------------------------------------------


def _ours(tables: Tables, owned: frozenset[int] | None) -> Iterable[Order]:
    """Return open orders of our partitions; of all of them to a reader that has claimed none."""
    orders = tables.orders
    return (orders[order_id] for order_id, partition in tables.open.items() if owned is None or partition in owned)


def unfinished(tables: Tables, owned: frozenset[int] | None, *, after: str, limit: int) -> list[str]:
    """Return ids, ascending, of our open orders that move by themselves."""
    moving = (State.NOT_STARTED, State.EXECUTING, State.SUCCESS)
    ids = [
        order.payment_order_id
        for order in _ours(tables, owned)
        if order.state in moving and order.payment_order_id > after
    ]
    return sorted(ids)[:limit]


def due(tables: Tables, owned: frozenset[int] | None, *, now: int, limit: int) -> list[str]:
    """Return ids of our open orders whose time has come, earliest first."""
    waking = [
        (order.wake_at, order.payment_order_id)
        for order in _ours(tables, owned)
        if order.wake_at is not None and order.wake_at <= now
    ]
    return [order_id for _, order_id in sorted(waking)[:limit]]


def next_wake_at(tables: Tables, owned: frozenset[int] | None) -> int | None:
    """Return the earliest time at which one of our orders is due."""
    return min((order.wake_at for order in _ours(tables, owned) if order.wake_at is not None), default=None)


def stuck(
    tables: Tables, owned: frozenset[int] | None, *, states: Sequence[State], since_before: int, limit: int
) -> list[Order]:
    """Return our open orders that have been in these states since before a time, oldest first."""
    found = [order for order in _ours(tables, owned) if order.state in states and order.state_since < since_before]
    return sorted(found, key=lambda order: (order.state_since, order.payment_order_id))[:limit]


def in_flight(tables: Tables) -> list[InFlight]:
    """Count open orders by state."""
    counts: dict[State, int] = {}
    oldest: dict[State, int] = {}
    for order in _ours(tables, None):
        counts[order.state] = counts.get(order.state, 0) + 1
        oldest[order.state] = min(oldest.get(order.state, order.state_since), order.state_since)
    return [InFlight(state=state, count=counts[state], oldest_since=oldest[state]) for state in sorted(counts)]


# --- outbox ----------------------------------------------------------------------------------------------------


def outbox_after(tables: Tables, *, position: int, limit: int) -> list[OutboxEvent]:
    """Return events after a position; positions count from 1 without a gap."""
    return tables.outbox[position : position + limit]


# --- reads for people ------------------------------------------------------------------------------------------


def order_view(tables: Tables, payment_order_id: str) -> OrderView | None:
    """Return one order with its attempts."""
    order = tables.orders.get(payment_order_id)
    if order is None:
        return None
    attempts = tables.attempts.get(payment_order_id, {})
    return OrderView(
        order=order,
        updated_at=tables.updated_at[payment_order_id],
        attempts=tuple([attempts[number] for number in sorted(attempts)]),
    )


def checkout_view(tables: Tables, checkout_id: str) -> CheckoutView | None:
    """Return a payment event with its orders."""
    event = tables.events.get(checkout_id)
    if event is None:
        return None
    return CheckoutView(
        checkout_id=checkout_id,
        buyer_info=event.buyer_info,
        created_at=event.created_at,
        is_payment_done=event.orders_open == 0,
        orders=tuple([tables.orders[order_id] for order_id in sorted(event.orders)]),
    )


def wallet_views(tables: Tables, seller_account: str) -> list[WalletView]:
    """Return a seller's wallets by currency."""
    found = [wallet for (seller, _), wallet in tables.wallets.items() if seller == seller_account]
    return sorted(found, key=lambda wallet: wallet.currency)


def account_view(tables: Tables, account_id: str, *, before_seq: int | None, limit: int) -> AccountView | None:
    """Return a ledger account with a page of its entries, newest first."""
    account = tables.accounts.get(account_id)
    if account is None:
        return None
    entries: list[EntryView] = []
    newest = len(tables.transfers) if before_seq is None else min(before_seq - 1, len(tables.transfers))
    for transfer in reversed(tables.transfers[: max(0, newest)]):
        if account_id in (transfer.debit_id, transfer.credit_id):
            entries.append(_entry(transfer, account_id))
        if len(entries) > limit:
            break
    page = entries[:limit]
    return AccountView(
        account_id=account_id,
        currency=account.currency,
        debits_minor=account.debits_minor,
        credits_minor=account.credits_minor,
        entries=tuple(page),
        next_before_seq=page[-1].seq if page and len(entries) > limit else None,
    )


def _entry(transfer: StoredTransfer, account_id: str) -> EntryView:
    debited = transfer.debit_id == account_id
    return EntryView(
        seq=transfer.seq,
        cause=transfer.cause,
        kind=transfer.kind,
        other_account_id=transfer.credit_id if debited else transfer.debit_id,
        amount=Money(transfer.amount_minor if debited else -transfer.amount_minor, transfer.currency),
        payment_order_id=transfer.payment_order_id,
        at=transfer.at,
    )


def _dead_letter_view(tables: Tables, payment_order_id: str, row: DeadLetterRow) -> DeadLetterView:
    order = tables.orders[payment_order_id]
    return DeadLetterView(
        payment_order_id=payment_order_id,
        checkout_id=order.checkout_id,
        reason=row.reason,
        state=order.state,
        amount=order.amount,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        resolution=row.resolution,
    )


def dead_letters(
    tables: Tables, *, include_closed: bool, after: tuple[int, str] | None, limit: int
) -> list[DeadLetterView]:
    """Return dead letters, oldest first."""
    found = sorted(
        (row.opened_at, order_id)
        for order_id, row in tables.dead_letters.items()
        if include_closed or row.closed_at is None
    )
    chosen = [place for place in found if after is None or place > after][:limit]
    return [_dead_letter_view(tables, order_id, tables.dead_letters[order_id]) for _, order_id in chosen]


def _mismatches_of(tables: Tables, payment_order_id: str) -> tuple[MismatchView, ...]:
    found = [view for view in tables.mismatches.values() if view.payment_order_id == payment_order_id]
    return tuple(sorted(found, key=lambda view: (view.opened_at, view.mismatch_id)))


def story(tables: Tables, payment_order_id: str) -> Story | None:
    """Return everything that is known about one order."""
    view = order_view(tables, payment_order_id)
    if view is None:
        return None
    entries = [row.entry for row in tables.wallet_entries.values() if row.payment_order_id == payment_order_id]
    dead_letter = tables.dead_letters.get(payment_order_id)
    return Story(
        view=view,
        log=tuple(tables.log.get(payment_order_id, ())),
        transfers=tuple([row for row in tables.transfers if row.payment_order_id == payment_order_id]),
        wallet_entries=tuple(sorted(entries, key=lambda entry: (entry.at, entry.cause))),
        mismatches=_mismatches_of(tables, payment_order_id),
        dead_letter=None if dead_letter is None else _dead_letter_view(tables, payment_order_id, dead_letter),
    )
