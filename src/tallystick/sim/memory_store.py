"""The memory store: the engine's Store port over `Tables`, alike in every outcome to the PostgreSQL one.

`MemoryStore` is one engine's session: it holds that engine's lease, and ends with it. The tables stay. A second
session over the same tables is a second engine on the same database, and fences the first.
"""

from collections.abc import Sequence

from tallystick.engine.errors import Fenced, PartitionsTaken
from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    CreditWallet,
    Posted,
    PostTransfer,
    Transition,
    TransitionOutcome,
)
from tallystick.engine.order import Order, State
from tallystick.engine.views import (
    AccountView,
    CheckoutView,
    DeadLetterView,
    Finding,
    InFlight,
    Lease,
    OrderView,
    OutboxEvent,
    StoredTransfer,
    Story,
    WalletView,
)
from tallystick.sim import memory_findings, memory_reads, memory_writes
from tallystick.sim.memory_tables import Tables


class MemoryStore:
    """One session on the tables. Its methods never wait; `sim.faulty_store` makes a database of them."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables = Tables() if tables is None else tables
        self._lease: Lease | None = None
        self._owned: frozenset[int] | None = None
        self._claimed = 0

    # --- ownership ---------------------------------------------------------------------------------------------

    async def claim_partitions(self, *, owner: str, now: int, ttl_us: int, force: bool) -> Lease:
        """Take over all partitions, each with a higher epoch. Raises PartitionsTaken."""
        partitions = self.tables.partitions
        for partition in partitions:
            if partition.owner != owner and partition.lease_expires_at > now and not force:
                raise PartitionsTaken(partition.owner, partition.lease_expires_at)
        for partition in partitions:
            partition.epoch += 1
            partition.owner = owner
            partition.lease_expires_at = now + ttl_us
        self.tables.claimed += 1
        self._claimed = self.tables.claimed
        epochs = {number: partition.epoch for number, partition in enumerate(partitions)}
        self._lease = Lease(owner=owner, epochs=epochs, expires_at=now + ttl_us)
        self._owned = frozenset(epochs)
        return self._lease

    async def renew_lease(self, *, now: int, ttl_us: int) -> None:
        """Prolong the lease. Raises Fenced."""
        self._check_lease()
        for number in self._lease.epochs if self._lease is not None else ():
            self.tables.partitions[number].lease_expires_at = now + ttl_us

    async def release_lease(self) -> None:
        """End the lease where it is still ours."""
        for number, epoch in self._lease.epochs.items() if self._lease is not None else ():
            if self.tables.partitions[number].epoch == epoch:
                self.tables.partitions[number].lease_expires_at = 0

    def _begin(self) -> None:
        self.tables.writer = "" if self._lease is None else self._lease.owner
        self._check_lease()

    def _check_lease(self) -> None:
        """Refuse to write for an engine whose partitions have a newer owner. Raises Fenced."""
        lease = self._lease
        if lease is None or self._claimed == self.tables.claimed:
            return
        partitions = self.tables.partitions
        if any(partitions[number].epoch != epoch for number, epoch in lease.epochs.items()):
            raise Fenced(f"another engine has taken over the partitions of {lease.owner}")

    # --- writes, in batches ------------------------------------------------------------------------------------

    async def accept(self, batch: Sequence[AcceptPayment]) -> list[AcceptOutcome]:
        """Record payment events with their orders. Raises Fenced."""
        self._begin()
        return memory_writes.accept(self.tables, batch)

    async def apply(self, batch: Sequence[Transition]) -> list[TransitionOutcome]:
        """Move orders. Raises Fenced, and IllegalState for what no database would write."""
        self._begin()
        return memory_writes.apply(self.tables, batch)

    async def post(self, batch: Sequence[PostTransfer]) -> list[Posted]:
        """Append transfers to the ledger. Raises Fenced."""
        self._begin()
        return memory_writes.post(self.tables, batch)

    async def credit(self, batch: Sequence[CreditWallet]) -> list[Posted]:
        """Write wallet entries. Raises Fenced."""
        self._begin()
        return memory_writes.credit(self.tables, batch)

    # --- reads that decide -------------------------------------------------------------------------------------

    async def orders(self, ids: Sequence[str]) -> list[Order | None]:
        """Return the orders with these ids."""
        return [self.tables.orders.get(order_id) for order_id in ids]

    async def unfinished(self, *, after: str, limit: int) -> list[str]:
        """Return ids, ascending, of our open orders that a restart resumes."""
        return memory_reads.unfinished(self.tables, self._owned, after=after, limit=limit)

    async def due(self, *, now: int, limit: int) -> list[str]:
        """Return ids of our open orders whose time has come, earliest first."""
        return memory_reads.due(self.tables, self._owned, now=now, limit=limit)

    async def next_wake_at(self) -> int | None:
        """Return the earliest wake_at of our open orders."""
        return memory_reads.next_wake_at(self.tables, self._owned)

    async def stuck(self, *, states: Sequence[State], since_before: int, limit: int) -> list[Order]:
        """Return our open orders in these states that entered them before a time, oldest first."""
        return memory_reads.stuck(self.tables, self._owned, states=states, since_before=since_before, limit=limit)

    async def in_flight(self) -> list[InFlight]:
        """Count open orders by state."""
        return memory_reads.in_flight(self.tables)

    # --- outbox ------------------------------------------------------------------------------------------------

    async def add_receiver(self, receiver: str) -> int:
        """Make sure that a receiver has a cursor; return it."""
        return self.tables.receivers.setdefault(receiver, 0)

    async def outbox_after(self, *, position: int, limit: int) -> list[OutboxEvent]:
        """Return events after a position, in commit order."""
        return memory_reads.outbox_after(self.tables, position=position, limit=limit)

    async def advance_receiver(self, *, receiver: str, position: int) -> None:
        """Move a receiver's cursor forward."""
        if receiver in self.tables.receivers:
            self.tables.receivers[receiver] = max(position, self.tables.receivers[receiver])

    # --- reads for people --------------------------------------------------------------------------------------

    async def order_view(self, payment_order_id: str) -> OrderView | None:
        """Return one order with its attempts."""
        return memory_reads.order_view(self.tables, payment_order_id)

    async def checkout_views(self, checkout_ids: Sequence[str]) -> list[CheckoutView | None]:
        """Return payment events with their orders."""
        return [memory_reads.checkout_view(self.tables, checkout_id) for checkout_id in checkout_ids]

    async def wallet_views(self, seller_account: str) -> list[WalletView]:
        """Return a seller's wallets, one per currency."""
        return memory_reads.wallet_views(self.tables, seller_account)

    async def account_view(self, account_id: str, *, before_seq: int | None, limit: int) -> AccountView | None:
        """Return a ledger account with a page of entries, newest first."""
        return memory_reads.account_view(self.tables, account_id, before_seq=before_seq, limit=limit)

    async def dead_letters(
        self, *, include_closed: bool, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetterView]:
        """Return dead letters, oldest first."""
        return memory_reads.dead_letters(self.tables, include_closed=include_closed, after=after, limit=limit)

    async def story(self, payment_order_id: str) -> Story | None:
        """Return everything that is known about one order."""
        return memory_reads.story(self.tables, payment_order_id)

    # --- upkeep ------------------------------------------------------------------------------------------------

    async def transfers_after(self, *, seq: int, limit: int) -> list[StoredTransfer]:
        """Return ledger rows after a sequence number, ascending."""
        return self.tables.transfers[seq : seq + limit]

    async def findings(self, *, limit: int) -> list[Finding]:
        """Compare sums, balances, wallets, ledger and orders with each other."""
        return memory_findings.findings(self.tables, limit=limit)

    async def purge_claims(self, *, before: int, limit: int) -> int:
        """Forget idempotency claims made before a time; return how many."""
        old = sorted((claim.at, key) for key, claim in self.tables.claims.items() if claim.at < before)[:limit]
        for _, key in old:
            del self.tables.claims[key]
        return len(old)
