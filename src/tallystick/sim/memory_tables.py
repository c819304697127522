"""What the memory store remembers: the same rows as the database, as dicts of immutable values.

The tables outlive every engine that works on them, as a database does. Each transaction is one synchronous
function over them that decides first and writes afterwards, so it is atomic and serialisable by construction;
what makes databases interesting (waiting, lost answers, refusals) is put around it by `sim.faulty_store`.
"""

from collections.abc import Callable

import msgspec

from tallystick.engine.errors import IllegalState
from tallystick.engine.intents import Transition
from tallystick.engine.ledger import GENESIS_HASH
from tallystick.engine.order import PARTITIONS, Order, State, partition_of
from tallystick.engine.views import (
    AttemptView,
    LogEntry,
    MismatchView,
    OutboxEvent,
    StoredTransfer,
    WalletEntryView,
    WalletView,
)


class Partition(msgspec.Struct):
    """Who owns a share of the orders, at which epoch, until when."""

    epoch: int = 0
    owner: str = ""
    lease_expires_at: int = 0


class EventRow(msgspec.Struct):
    """One checkout. `orders_open` counts its orders that are not done."""

    buyer_info: bytes
    content_hash: bytes
    orders: tuple[str, ...]
    orders_open: int
    created_at: int
    times_done: int = 0


class AccountRow(msgspec.Struct):
    """One ledger account with its balance."""

    currency: str
    debits_minor: int = 0
    credits_minor: int = 0


class ClaimRow(msgspec.Struct, frozen=True):
    """An idempotency key that was used, for what, when."""

    request_hash: bytes
    checkout_id: str
    at: int


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """An order that needs a person."""

    reason: str
    opened_at: int
    closed_at: int | None = None
    resolution: str | None = None


class WalletEntryRow(msgspec.Struct, frozen=True):
    """A wallet entry with the order that it is about."""

    entry: WalletEntryView
    payment_order_id: str | None


class Commit(msgspec.Struct, kw_only=True):
    """What one transaction wrote: for the auditor and the trace, and for nobody who decides about money."""

    kind: str
    owner: str = ""
    """The engine that wrote it."""
    orders: list[str] = msgspec.field(default_factory=list)
    """Orders whose rows were written."""
    transfers: list[StoredTransfer] = msgspec.field(default_factory=list)
    wallet_entries: list[WalletEntryRow] = msgspec.field(default_factory=list)
    outbox: list[OutboxEvent] = msgspec.field(default_factory=list)


class Tables:
    """All rows."""

    def __init__(self) -> None:
        self.partitions: list[Partition] = [Partition() for _ in range(PARTITIONS)]
        self.claimed = 0
        """How often partitions were claimed; while it stands, every session's lease does."""
        self.events: dict[str, EventRow] = {}
        self.orders: dict[str, Order] = {}
        self.updated_at: dict[str, int] = {}
        self.open: dict[str, int] = {}
        """Orders that are not done, each with its partition; a dict, because a set has no order."""
        self.attempts: dict[str, dict[int, AttemptView]] = {}
        self.log: dict[str, list[LogEntry]] = {}
        self.transition_ids: dict[tuple[str, int], str] = {}
        self.accounts: dict[str, AccountRow] = {}
        self.transfers: list[StoredTransfer] = []
        self.transfer_causes: dict[str, int] = {}
        self.wallets: dict[tuple[str, str], WalletView] = {}
        self.wallet_entries: dict[str, WalletEntryRow] = {}
        self.outbox: list[OutboxEvent] = []
        self.receivers: dict[str, int] = {}
        self.claims: dict[tuple[str, str], ClaimRow] = {}
        self.mismatches: dict[str, MismatchView] = {}
        self.dead_letters: dict[str, DeadLetterRow] = {}
        self.writer = ""
        """The engine whose transaction is running."""
        self.on_commit: Callable[[Commit], None] | None = None
        """Told after each transaction that wrote something about orders or money."""

    @property
    def ledger_hash(self) -> bytes:
        """Return the newest transfer's hash."""
        return self.transfers[-1].hash if self.transfers else GENESIS_HASH

    def put_order(self, order: Order, *, at: int) -> None:
        """Write an order's row."""
        order_id = order.payment_order_id
        self.orders[order_id] = order
        self.updated_at[order_id] = at
        if order.is_done:
            self.open.pop(order_id, None)
        elif order_id not in self.open:
            self.open[order_id] = partition_of(order.checkout_id)

    def committed(self, commit: Commit) -> None:
        """Tell who listens that a transaction is durable."""
        if self.on_commit is not None:
            commit.owner = self.writer
            self.on_commit(commit)


def forbid_illegal(move: Transition, before: Order, legal: frozenset[tuple[State, State]]) -> None:
    """Refuse what the database's own constraints and triggers refuse. Raises IllegalState."""
    order = move.order
    order_id = order.payment_order_id
    if order.state is not before.state and (before.state, order.state) not in legal:
        raise IllegalState(f"order {order_id} may not move from {before.state} to {order.state}")
    same_terms = (
        order.checkout_id == before.checkout_id
        and order.seller_account == before.seller_account
        and order.amount == before.amount
        and order.created_at == before.created_at
    )
    if not same_terms or order.version != before.version + 1:
        raise IllegalState(f"order {order_id}: what was agreed, or its version, changed against the rules")
    if order.state is State.SUCCESS and (order.psp is None or order.charged_attempt is None):
        raise IllegalState(f"order {order_id}: a SUCCESS names its charge")
