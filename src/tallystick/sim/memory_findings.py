"""What `verify` compares inside the memory store: the same checks by the same names as the database's."""

from collections.abc import Iterator

from tallystick.engine.views import Finding
from tallystick.sim.memory_tables import Tables


def findings(tables: Tables, *, limit: int) -> list[Finding]:
    """Run every check; return at most `limit` findings of each."""
    found: list[Finding] = []
    for check in (_event_counters, _balances, _ledger_flags, _wallet_flags, _wallets):
        for count, finding in enumerate(check(tables)):
            if count == limit:
                break
            found.append(finding)
    return found


def _event_counters(tables: Tables) -> Iterator[Finding]:
    for checkout_id, event in sorted(tables.events.items()):
        still_open = sum(1 for order_id in event.orders if order_id in tables.open)
        if event.orders_open != still_open:
            detail = f"orders_open is {event.orders_open}, but {still_open} of {len(event.orders)} orders are open"
            yield Finding(check="event_counters", subject=checkout_id, detail=detail)


def _balances(tables: Tables) -> Iterator[Finding]:
    debits: dict[str, int] = {}
    credits_: dict[str, int] = {}
    for row in tables.transfers:
        debits[row.debit_id] = debits.get(row.debit_id, 0) + row.amount_minor
        credits_[row.credit_id] = credits_.get(row.credit_id, 0) + row.amount_minor
    for account_id, account in sorted(tables.accounts.items()):
        posted = debits.get(account_id, 0), credits_.get(account_id, 0)
        if (account.debits_minor, account.credits_minor) != posted:
            detail = f"the balance says {account.debits_minor} and {account.credits_minor}, transfers say {posted}"
            yield Finding(check="account_balances", subject=account_id, detail=detail)


def _ledger_flags(tables: Tables) -> Iterator[Finding]:
    posted = {row.payment_order_id for row in tables.transfers if row.kind == "capture"}
    for order_id, order in sorted(tables.orders.items()):
        if order.ledger_updated != (order_id in posted):
            detail = f"ledger_updated is {order.ledger_updated}, and a capture is posted: {order_id in posted}"
            yield Finding(check="order_against_ledger", subject=order_id, detail=detail)


def _wallet_flags(tables: Tables) -> Iterator[Finding]:
    credited = {row.payment_order_id for row in tables.wallet_entries.values() if row.entry.kind == "capture"}
    for order_id, order in sorted(tables.orders.items()):
        if order.wallet_updated != (order_id in credited):
            detail = f"wallet_updated is {order.wallet_updated}, and it was credited: {order_id in credited}"
            yield Finding(check="order_against_wallet", subject=order_id, detail=detail)


def _wallets(tables: Tables) -> Iterator[Finding]:
    sums: dict[tuple[str, str], int] = {}
    for row in tables.wallet_entries.values():
        key = row.entry.seller_account, row.entry.currency
        sums[key] = sums.get(key, 0) + row.entry.available_minor
    for key, wallet in sorted(tables.wallets.items()):
        if wallet.available_minor != sums.get(key, 0):
            detail = f"the wallet says {wallet.available_minor}, its entries say {sums.get(key, 0)}"
            yield Finding(check="wallets", subject=":".join(key), detail=detail)
