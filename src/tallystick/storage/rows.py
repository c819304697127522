"""Rows as the database gives them, made into the engine's types."""

from tallystick.engine.money import Money
from tallystick.engine.order import Method, Order, State
from tallystick.engine.views import (
    AttemptView,
    DeadLetterView,
    LogEntry,
    MismatchView,
    OutboxEvent,
    StoredTransfer,
    WalletEntryView,
    WalletView,
)
from tallystick.storage.bridge import Row

ORDER_FIELDS = tuple(field for field in Order.__struct_fields__ if field not in {"amount", "state", "method"})


def order(row: Row) -> Order:
    """Make an Order of a row of payment_orders."""
    return Order(
        **{field: row[field] for field in ORDER_FIELDS},
        amount=Money(row["amount_minor"], row["currency"]),
        state=State(row["state"]),
        method=Method(row["method"]),
    )


def attempt(row: Row) -> AttemptView:
    """Make an AttemptView of a row of payment_attempts."""
    return AttemptView(**{field: row[field] for field in AttemptView.__struct_fields__})


def log_entry(row: Row) -> LogEntry:
    """Make a LogEntry of a row of payment_order_log."""
    return LogEntry(
        version=row["version"],
        at=row["at"],
        from_state=State(row["from_state"]),
        to_state=State(row["to_state"]),
        event=row["event"],
        detail=row["detail"].encode(),
    )


def transfer(row: Row) -> StoredTransfer:
    """Make a StoredTransfer of a row of transfers."""
    return StoredTransfer(**{field: row[field] for field in StoredTransfer.__struct_fields__})


def wallet(row: Row) -> WalletView:
    """Make a WalletView of a row of wallets."""
    return WalletView(**{field: row[field] for field in WalletView.__struct_fields__})


def wallet_entry(row: Row) -> WalletEntryView:
    """Make a WalletEntryView of a row of wallet_entries."""
    return WalletEntryView(**{field: row[field] for field in WalletEntryView.__struct_fields__})


def mismatch(row: Row) -> MismatchView:
    """Make a MismatchView of a row of mismatches."""
    return MismatchView(**{field: row[field] for field in MismatchView.__struct_fields__})


def dead_letter(row: Row) -> DeadLetterView:
    """Make a DeadLetterView of a row of dead_letters joined with its order."""
    return DeadLetterView(
        payment_order_id=row["payment_order_id"],
        checkout_id=row["checkout_id"],
        reason=row["reason"],
        state=State(row["state"]),
        amount=Money(row["amount_minor"], row["currency"]),
        opened_at=row["opened_at"],
        closed_at=row["closed_at"],
        resolution=row["resolution"],
    )


def outbox_event(row: Row) -> OutboxEvent:
    """Make an OutboxEvent of a row of outbox."""
    return OutboxEvent(
        position=row["position"],
        event_id=row["event_id"],
        kind=row["kind"],
        checkout_id=row["checkout_id"],
        payment_order_id=row["payment_order_id"],
        at=row["at"],
        payload=row["payload"].encode(),
    )
