"""The Store port on PostgreSQL, and on what speaks its protocol."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from tallystick.engine.errors import StoreUnavailable
from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    CreditWallet,
    Posted,
    PostTransfer,
    Transition,
    TransitionOutcome,
)
from tallystick.engine.order import PARTITIONS, Order, State
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
from tallystick.storage import accepting, applying, booking, fencing, reading, rows, upkeep
from tallystick.storage.bridge import Bridge, Connection, open_bridge
from tallystick.storage.embedded import open_embedded
from tallystick.storage.migrating import migrate
from tallystick.storage.queries import queries

_SQL = queries("reads")
T = TypeVar("T")
# How often a batch is tried anew because somebody else recorded some of it meanwhile. Each time at least one
# item becomes known, so this is only reached when writers race over the same ids all the time.
RACES_MAX = 20


class PostgresStore:
    """The memory of the engine. What each method does and raises: `engine.ports.Store`."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._lease: Lease | None = None
        self._ledger = booking.Ledger()

    @property
    def _ours(self) -> list[int]:
        """The partitions whose orders are ours: those of the lease, or all while none is claimed."""
        return list(range(PARTITIONS)) if self._lease is None else list(self._lease.epochs)

    # --- ownership -------------------------------------------------------------------------------------------

    async def claim_partitions(self, *, owner: str, now: int, ttl_us: int, force: bool) -> Lease:
        """Take over all partitions."""
        claim = partial(fencing.claim, owner=owner, now=now, ttl_us=ttl_us, force=force)
        self._lease = await self._bridge.write(claim)
        return self._lease

    async def renew_lease(self, *, now: int, ttl_us: int) -> None:
        """Prolong the lease."""
        if self._lease is not None:
            renew = partial(fencing.renew, lease=self._lease, now=now, ttl_us=ttl_us)
            self._lease = await self._bridge.write(renew)

    async def release_lease(self) -> None:
        """End the lease."""
        if self._lease is not None:
            await self._bridge.write(partial(fencing.release, lease=self._lease))

    # --- writes ----------------------------------------------------------------------------------------------

    async def accept(self, batch: Sequence[AcceptPayment]) -> list[AcceptOutcome]:
        """Record payment events with their orders."""
        if not batch:
            return []
        for race in range(RACES_MAX):
            accept = partial(accepting.accept, lease=self._lease, batch=batch, look_first=race > 0)
            try:
                return await self._bridge.write(accept)
            except accepting.KnownAlready:
                continue
        raise StoreUnavailable("others keep recording the same ids")

    async def apply(self, batch: Sequence[Transition]) -> list[TransitionOutcome]:
        """Move orders."""
        if not batch:
            return []
        return await self._bridge.write(partial(applying.apply, lease=self._lease, batch=batch))

    async def post(self, batch: Sequence[PostTransfer]) -> list[Posted]:
        """Append transfers to the ledger."""
        transfers = {item.transfer.cause: item.transfer for item in reversed(batch)}
        wanted = {item.transfer.cause: transfers[item.transfer.cause] for item in batch}

        async def write(causes: Sequence[str]) -> None:
            post = partial(
                booking.post,
                lease=self._lease,
                transfers=[wanted[cause] for cause in causes],
                ledger=self._ledger,
            )
            self._ledger.wrote(*await self._bridge.write(post))

        new = await self._write_new(list(wanted), write, known_by="transfer_causes")
        return _posted([item.transfer.cause for item in batch], new)

    async def credit(self, batch: Sequence[CreditWallet]) -> list[Posted]:
        """Write wallet entries."""
        entries = {item.entry.cause: item.entry for item in reversed(batch)}

        async def write(causes: Sequence[str]) -> None:
            wanted = [entries[cause] for cause in causes]
            await self._bridge.write(partial(booking.credit, lease=self._lease, entries=wanted))

        causes = [item.entry.cause for item in batch]
        new = await self._write_new(list(dict.fromkeys(causes)), write, known_by="wallet_causes")
        return _posted(causes, new)

    async def _write_new(
        self, causes: list[str], write: Callable[[Sequence[str]], Awaitable[None]], *, known_by: str
    ) -> set[str]:
        """Write postings, leaving out those that were posted before; return the causes of the new ones."""
        for _ in range(RACES_MAX):
            if not causes:
                return set()
            try:
                await write(causes)
            except booking.PostedAlready:
                look = partial(booking.posted_causes, query=known_by, causes=causes)
                known = await self._bridge.read(look)
                causes = [cause for cause in causes if cause not in known]
            else:
                return set(causes)
        raise StoreUnavailable("others keep posting the same causes")

    # --- reads that decide -----------------------------------------------------------------------------------

    async def orders(self, ids: Sequence[str]) -> list[Order | None]:
        """Return orders by id."""
        found = await self._bridge.read(lambda connection: connection.fetch(_SQL["orders"], list(ids)))
        by_id = {row["payment_order_id"]: rows.order(row) for row in found}
        return [by_id.get(payment_order_id) for payment_order_id in ids]

    async def unfinished(self, *, after: str, limit: int) -> list[str]:
        """Return ids of orders that a restart resumes."""
        found = await self._bridge.read(lambda c: c.fetch(_SQL["unfinished"], after, self._ours, limit))
        return [row["payment_order_id"] for row in found]

    async def due(self, *, now: int, limit: int) -> list[str]:
        """Return ids of orders to wake."""
        found = await self._bridge.read(lambda c: c.fetch(_SQL["due"], now, self._ours, limit))
        return [row["payment_order_id"] for row in found]

    async def next_wake_at(self) -> int | None:
        """Return the earliest time at which an order is to be woken."""
        row = await self._bridge.read(lambda c: c.fetchrow(_SQL["next_wake_at"], self._ours))
        return None if row is None else row["wake_at"]

    async def stuck(self, *, states: Sequence[State], since_before: int, limit: int) -> list[Order]:
        """Return orders that have been in a state for long."""
        names = [state.value for state in states]
        found = await self._bridge.read(lambda c: c.fetch(_SQL["stuck"], names, since_before, self._ours, limit))
        return [rows.order(row) for row in found]

    async def in_flight(self) -> list[InFlight]:
        """Count open orders by state."""
        found = await self._bridge.read(lambda c: c.fetch(_SQL["in_flight"]))
        return [
            InFlight(state=State(row["state"]), count=row["orders"], oldest_since=row["oldest_since"])
            for row in found
        ]

    # --- outbox ----------------------------------------------------------------------------------------------

    async def add_receiver(self, receiver: str) -> int:
        """Make sure that a receiver has a cursor."""

        async def add(connection: Connection) -> int:
            await connection.execute(_SQL["add_receiver"], receiver)
            return int(await connection.fetchval(_SQL["receiver"], receiver))

        return await self._bridge.write(add)

    async def outbox_after(self, *, position: int, limit: int) -> list[OutboxEvent]:
        """Return events after a position."""
        found = await self._bridge.read(lambda c: c.fetch(_SQL["outbox_after"], position, limit))
        return [rows.outbox_event(row) for row in found]

    async def advance_receiver(self, *, receiver: str, position: int) -> None:
        """Move a receiver's cursor forward."""
        await self._bridge.write(lambda c: c.execute(_SQL["advance_receiver"], receiver, position))

    # --- reads for people ------------------------------------------------------------------------------------

    async def order_view(self, payment_order_id: str) -> OrderView | None:
        """Return an order with its attempts."""
        return await self._bridge.read_consistent(lambda c: reading.order_view(c, payment_order_id))

    async def checkout_views(self, checkout_ids: Sequence[str]) -> list[CheckoutView | None]:
        """Return a payment event with its orders."""
        return await self._bridge.read(lambda c: reading.checkout_views(c, checkout_ids))

    async def wallet_views(self, seller_account: str) -> list[WalletView]:
        """Return a seller's wallets."""
        found = await self._bridge.read(lambda c: c.fetch(_SQL["wallets"], seller_account))
        return [rows.wallet(row) for row in found]

    async def account_view(self, account_id: str, *, before_seq: int | None, limit: int) -> AccountView | None:
        """Return a ledger account with a page of entries."""
        read = partial(reading.account_view, account_id=account_id, before_seq=before_seq, limit=limit)
        return await self._bridge.read_consistent(read)

    async def dead_letters(
        self, *, include_closed: bool, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetterView]:
        """Return dead letters, oldest first."""
        opened_at, payment_order_id = after or (-(2**63), "")
        found = await self._bridge.read(
            lambda c: c.fetch(_SQL["dead_letters"], include_closed, opened_at, payment_order_id, limit)
        )
        return [rows.dead_letter(row) for row in found]

    async def story(self, payment_order_id: str) -> Story | None:
        """Return everything that is known about an order."""
        return await self._bridge.read_consistent(lambda c: reading.story(c, payment_order_id))

    # --- upkeep ----------------------------------------------------------------------------------------------

    async def transfers_after(self, *, seq: int, limit: int) -> list[StoredTransfer]:
        """Return ledger rows for replay."""
        found = await self._bridge.read(lambda c: c.fetch(_SQL["transfers_after"], seq, limit))
        return [rows.transfer(row) for row in found]

    async def findings(self, *, limit: int) -> list[Finding]:
        """Compare everything with everything."""
        check = partial(upkeep.findings, limit=limit)
        return await self._bridge.read_consistent(check, timeout_s=upkeep.TIMEOUT_S)

    async def purge_claims(self, *, before: int, limit: int) -> int:
        """Forget old idempotency claims."""
        status = await self._bridge.write(lambda c: c.execute(_SQL["purge_claims"], before, limit))
        return int(status.removeprefix("DELETE "))


@asynccontextmanager
async def open_store(*, database_url: str | None, data_dir: Path) -> AsyncIterator[PostgresStore]:
    """Open the store at `database_url`, or on an embedded server in `data_dir` when that is None.

    The database is brought to this version's schema first. Raises SetupError and StoreUnavailable.
    """
    if database_url is None:
        async with open_embedded(data_dir) as server, open_store_at(server.url()) as store:
            yield store
    else:
        async with open_store_at(database_url) as store:
            yield store


@asynccontextmanager
async def open_store_at(url: str) -> AsyncIterator[PostgresStore]:
    """Open the store at an address, after its migrations. Raises SetupError and StoreUnavailable."""
    async with open_bridge(url) as bridge:
        await migrate(bridge, url)
        yield PostgresStore(bridge)


def _posted(causes: Sequence[str], new: set[str]) -> list[Posted]:
    """Answer each item; of several with one cause, the first is the new one."""
    outcomes = []
    for cause in causes:
        outcomes.append(Posted(new=cause in new))
        new.discard(cause)
    return outcomes
