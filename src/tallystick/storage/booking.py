"""Writing the two books: the ledger's hash chain with its balances, and the sellers' wallets.

Each posting is keyed by its cause. The first try assumes that no cause of the batch was posted before; when the
database then keeps fewer rows than were sent, the transaction is rolled back and tried again without those.
The flag of the order that a posting is about is set in the same commit, and so is what follows from it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tallystick.engine.ledger import Account, Transfer, WalletEntry, chain_hash
from tallystick.engine.views import Lease
from tallystick.storage import fencing, outbox
from tallystick.storage.bridge import Connection
from tallystick.storage.queries import queries

_SQL = queries("books")

ACCOUNTS_KNOWN_MAX = 100_000
"""About 20 MB."""


class PostedAlready(Exception):
    """Some of the causes were posted before; find out which, then try again without them."""


class Head(msgspec.Struct, frozen=True):
    """The newest transfer of the chain: its number and its hash."""

    seq: int
    hash: bytes


class Ledger:
    """The single writer's memory: the head it wrote last, and the accounts it knows to exist.

    Both only spare questions. A head that somebody else has moved is noticed and read again.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.accounts: set[Account] = set()

    def wrote(self, head: Head, accounts: Iterable[Account]) -> None:
        """Note what a committed batch wrote. A forgotten account costs one question, so the set is bounded."""
        self.head = head
        if len(self.accounts) > ACCOUNTS_KNOWN_MAX:
            self.accounts.clear()
        self.accounts.update(accounts)


async def post(
    connection: Connection, lease: Lease | None, transfers: Sequence[Transfer], ledger: Ledger
) -> tuple[Head, set[Account]]:
    """Append transfers of different causes; return the new head and the accounts that exist now.

    The caller keeps both once the commit is certain. Raises PostedAlready and Fenced.
    """
    await fencing.check(connection, lease)
    head, hashes = await _move_head(connection, transfers, ledger.head)
    touched = {account for one in transfers for account in (one.debit, one.credit)}
    await _open_accounts(connection, touched - ledger.accounts, at=transfers[0].at)
    status = await connection.execute(
        _SQL["insert_transfers"],
        list(range(head.seq - len(transfers) + 1, head.seq + 1)),
        [one.cause for one in transfers],
        [one.kind for one in transfers],
        [one.debit.id for one in transfers],
        [one.credit.id for one in transfers],
        [one.amount.minor for one in transfers],
        [one.amount.currency for one in transfers],
        [one.payment_order_id for one in transfers],
        [one.at for one in transfers],
        hashes,
    )
    if status != f"INSERT 0 {len(transfers)}":
        raise PostedAlready
    await _move_balances(connection, transfers)
    await _set_flags(connection, "flag_ledger", transfers)
    return head, touched


async def _move_head(
    connection: Connection, transfers: Sequence[Transfer], known: Head | None
) -> tuple[Head, list[bytes]]:
    """Take the numbers for `transfers`, and hash them. Holds the head's row until the transaction ends."""
    for head in (known, None):
        if head is None:
            row = await connection.fetchrow(_SQL["lock_head"])
            if row is None:
                raise LookupError("the ledger's head is missing")
            head = Head(row["seq"], row["hash"])  # noqa: PLW2901  (looked up instead of remembered)
        hashes = _chain(head, transfers)
        new = Head(head.seq + len(transfers), hashes[-1])
        status = await connection.execute(_SQL["move_head"], head.seq, head.hash, new.seq, new.hash)
        if status == "UPDATE 1":
            return new, hashes
    raise LookupError("the ledger's head moved although it was locked")


def _chain(head: Head, transfers: Sequence[Transfer]) -> list[bytes]:
    hashes = []
    latest = head.hash
    for seq, one in enumerate(transfers, head.seq + 1):
        latest = chain_hash(
            latest,
            seq=seq,
            cause=one.cause,
            kind=one.kind,
            debit_id=one.debit.id,
            credit_id=one.credit.id,
            amount_minor=one.amount.minor,
            currency=one.amount.currency,
            at=one.at,
        )
        hashes.append(latest)
    return hashes


async def _open_accounts(connection: Connection, new: Iterable[Account], *, at: int) -> None:
    accounts = sorted(new, key=lambda account: account.id)
    if not accounts:
        return
    ids = [account.id for account in accounts]
    await connection.execute(
        _SQL["open_accounts"],
        ids,
        [account.type for account in accounts],
        [account.owner for account in accounts],
        [account.currency for account in accounts],
        [at] * len(accounts),
    )
    await connection.execute(_SQL["open_balances"], ids)


async def _move_balances(connection: Connection, transfers: Sequence[Transfer]) -> None:
    debits: Counter[str] = Counter()
    credits_: Counter[str] = Counter()
    for one in transfers:
        debits[one.debit.id] += one.amount.minor
        credits_[one.credit.id] += one.amount.minor
    ids = sorted(debits.keys() | credits_.keys())
    await connection.execute(
        _SQL["move_balances"], ids, [debits[one] for one in ids], [credits_[one] for one in ids]
    )


async def credit(connection: Connection, lease: Lease | None, entries: Sequence[WalletEntry]) -> None:
    """Write wallet entries of different causes. Raises PostedAlready and Fenced."""
    await fencing.check(connection, lease)
    sums: dict[tuple[str, str], list[int]] = {}
    for one in entries:
        parts = sums.setdefault((one.seller_account, one.currency), [0, 0, 0, one.at])
        parts[0] += one.available_minor
        parts[1] += one.pending_minor
        parts[2] += one.held_minor
        parts[3] = max(parts[3], one.at)
    wallets = sorted(sums)
    await connection.execute(
        _SQL["move_wallets"],
        [seller for seller, _ in wallets],
        [currency for _, currency in wallets],
        *[[sums[wallet][part] for wallet in wallets] for part in range(4)],
    )
    status = await connection.execute(
        _SQL["insert_wallet_entries"],
        [one.cause for one in entries],
        [one.kind for one in entries],
        [one.seller_account for one in entries],
        [one.currency for one in entries],
        [one.available_minor for one in entries],
        [one.pending_minor for one in entries],
        [one.held_minor for one in entries],
        [one.payment_order_id for one in entries],
        [one.at for one in entries],
    )
    if status != f"INSERT 0 {len(entries)}":
        raise PostedAlready
    await _set_flags(connection, "flag_wallet", entries)


async def _set_flags(connection: Connection, query: str, postings: Sequence[Transfer | WalletEntry]) -> None:
    """Set the flag of the orders posted about, and end those whose two books are now written."""
    ids = [one.payment_order_id for one in postings if one.payment_order_id is not None]
    if not ids:
        return
    at = max(one.at for one in postings)
    rows = await connection.fetch(_SQL[query], ids, at)
    ended = Counter[str]()
    for row in sorted(rows, key=lambda row: str(row["payment_order_id"])):
        if not row["is_open"]:
            ended[row["checkout_id"]] -= 1
    await outbox.append(connection, await outbox.count_open(connection, ended, at=at))


async def posted_causes(connection: Connection, query: str, causes: Sequence[str]) -> set[str]:
    """Return which causes were posted before; `query` is transfer_causes or wallet_causes."""
    return {row["cause"] for row in await connection.fetch(_SQL[query], causes)}
