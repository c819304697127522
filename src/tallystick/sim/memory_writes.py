"""The memory store's transactions: each decides about the whole batch first, and writes afterwards.

What follows from the batch alone is a bug of the caller and raises before anything is written, as a failed
statement rolls the database's transaction back. The outcomes are those of the database, item by item; the
contract suite demands it.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from tallystick.engine.announcements import Announcement, done_announcement, order_announcements
from tallystick.engine.errors import IllegalState
from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    Applied,
    CreditWallet,
    PaymentAccepted,
    PaymentRefused,
    Posted,
    PostTransfer,
    Superseded,
    Transition,
    TransitionOutcome,
)
from tallystick.engine.ledger import WalletEntry, chain_hash
from tallystick.engine.order import Order, State
from tallystick.engine.records import (
    AttemptBegun,
    AttemptResent,
    AttemptResolved,
    DeadLetterClosed,
    DeadLettered,
    MismatchOpened,
)
from tallystick.engine.transitions import legal_moves
from tallystick.engine.views import (
    AttemptView,
    LogEntry,
    MismatchView,
    OutboxEvent,
    StoredTransfer,
    WalletEntryView,
    WalletView,
)
from tallystick.sim.memory_tables import (
    AccountRow,
    ClaimRow,
    Commit,
    DeadLetterRow,
    EventRow,
    Tables,
    WalletEntryRow,
    forbid_illegal,
)

_LEGAL = legal_moves()

# --- accepting -------------------------------------------------------------------------------------------------


def accept(tables: Tables, batch: Sequence[AcceptPayment]) -> list[AcceptOutcome]:
    """Record payment events, each whole or not at all."""
    commit = Commit(kind="accept")
    outcomes = [_accept_one(tables, item, commit) for item in batch]
    tables.committed(commit)
    return outcomes


def _accept_one(tables: Tables, item: AcceptPayment, commit: Commit) -> AcceptOutcome:
    claim = item.claim
    claimed = None if claim is None else tables.claims.get((claim.scope, claim.key))
    if claim is not None and claimed is not None and claimed.request_hash != claim.request_hash:
        return PaymentRefused(field="Idempotency-Key", detail="was used before with another request")
    recorded = tables.events.get(item.checkout_id)
    if recorded is not None and recorded.content_hash != item.content_hash:
        return PaymentRefused(field="checkout_id", detail="was recorded before with other content")
    if recorded is None:
        ids: dict[str, None] = {}
        for index, order in enumerate(item.orders):
            if order.payment_order_id in tables.orders or order.payment_order_id in ids:
                field = f"payment_orders[{index}].payment_order_id"
                return PaymentRefused(field=field, detail="was recorded before in another checkout")
            ids[order.payment_order_id] = None
        # The point of no return: from here on the item is recorded.
        tables.events[item.checkout_id] = EventRow(
            buyer_info=item.buyer_info,
            content_hash=item.content_hash,
            orders=tuple(sorted(ids)),
            orders_open=len(ids),
            created_at=item.at,
        )
        for order in item.orders:
            tables.put_order(order, at=order.created_at)
            commit.orders.append(order.payment_order_id)
    if claim is not None and claimed is None:
        tables.claims[claim.scope, claim.key] = ClaimRow(claim.request_hash, item.checkout_id, item.at)
    return PaymentAccepted(new=recorded is None, at=item.at if recorded is None else recorded.created_at)


# --- moving ----------------------------------------------------------------------------------------------------


def apply(tables: Tables, batch: Sequence[Transition]) -> list[TransitionOutcome]:
    """Move orders. Raises IllegalState for what no database would write."""
    _check(tables, batch)
    outcomes: list[TransitionOutcome] = []
    moves: list[Transition] = []
    for item in batch:
        before = tables.orders[item.order.payment_order_id]
        if before.version == item.from_version and before.state is item.from_state:
            forbid_illegal(item, before, _LEGAL)
            moves.append(item)
            outcomes.append(Applied())
            continue
        ours = tables.transition_ids.get((item.order.payment_order_id, item.order.version))
        outcomes.append(Applied() if ours == item.transition_id else Superseded(current=before))
    # The point of no return: nothing below refuses.
    if moves:
        commit = Commit(kind="apply")
        deltas: dict[str, int] = {}
        for item in moves:
            was_open = item.order.payment_order_id in tables.open
            _write_move(tables, item)
            commit.orders.append(item.order.payment_order_id)
            is_open = item.order.payment_order_id in tables.open
            checkout_id = item.order.checkout_id
            deltas[checkout_id] = deltas.get(checkout_id, 0) + int(is_open) - int(was_open)
        done = _count_open(tables, deltas, at=max(item.at for item in moves))
        _publish(tables, commit, [*(one for item in moves for one in order_announcements(item)), *done])
        tables.committed(commit)
    return outcomes


def _check(tables: Tables, batch: Sequence[Transition]) -> None:
    if len({item.order.payment_order_id for item in batch}) != len(batch):
        raise IllegalState("two transitions of one order in a batch")
    for item in batch:
        if item.order.version != item.from_version + 1:
            raise IllegalState(f"{item.order.payment_order_id}: version {item.order.version} does not follow")
        if item.order.payment_order_id not in tables.orders:
            raise IllegalState(f"{item.order.payment_order_id} was moved, but never recorded")


def _write_move(tables: Tables, item: Transition) -> None:
    order_id = item.order.payment_order_id
    before = tables.orders[order_id]
    # Flags belong to the postings: a decision made before one of them does not take it back.
    moved = replace(item.order, ledger_updated=before.ledger_updated, wallet_updated=before.wallet_updated)
    tables.put_order(moved, at=item.at)
    tables.log.setdefault(order_id, []).append(
        LogEntry(
            version=moved.version,
            at=item.at,
            from_state=item.from_state,
            to_state=moved.state,
            event=item.event,
            detail=item.detail,
        )
    )
    tables.transition_ids[order_id, moved.version] = item.transition_id
    for record in item.records:
        match record:
            case AttemptBegun() | AttemptResent() | AttemptResolved():
                _write_attempt(tables, order_id, record)
            case MismatchOpened():
                _open_mismatch(tables, order_id, record, at=item.at)
            case DeadLettered(reason=reason):
                _open_dead_letter(tables, order_id, reason, at=item.at)
            case DeadLetterClosed(resolution=resolution):
                letter = tables.dead_letters.get(order_id)
                if letter is not None and letter.closed_at is None:
                    tables.dead_letters[order_id] = replace(letter, closed_at=item.at, resolution=resolution)
            case _:
                pass  # Published: the outbox is written at the end of the transaction.


def _write_attempt(tables: Tables, order_id: str, record: AttemptBegun | AttemptResent | AttemptResolved) -> None:
    attempts = tables.attempts.setdefault(order_id, {})
    if isinstance(record, AttemptBegun):
        attempts[record.attempt] = AttemptView(
            attempt=record.attempt,
            psp=record.psp,
            idempotency_key=record.idempotency_key,
            sends=1,
            begun_at=record.begun_at,
            last_sent_at=record.begun_at,
            result=None,
            code=None,
            psp_reference=None,
            resolved_at=None,
        )
    elif record.attempt not in attempts:
        return
    elif isinstance(record, AttemptResent):
        stored = attempts[record.attempt]
        attempts[record.attempt] = replace(
            stored,
            sends=record.sends,
            last_sent_at=record.sent_at,
            result=None,
            code=None,
            psp_reference=None,
            resolved_at=None,
        )
    else:
        attempts[record.attempt] = replace(
            attempts[record.attempt],
            result=record.result,
            code=record.code,
            psp_reference=record.psp_reference,
            resolved_at=record.resolved_at,
        )


def _open_mismatch(tables: Tables, order_id: str, record: MismatchOpened, *, at: int) -> None:
    if record.mismatch_id in tables.mismatches:
        return
    tables.mismatches[record.mismatch_id] = MismatchView(
        mismatch_id=record.mismatch_id,
        payment_order_id=order_id,
        kind=record.kind,
        attempt=record.attempt,
        psp=record.psp,
        psp_reference=record.psp_reference,
        amount_minor=record.amount_minor,
        currency=record.currency,
        remedy=record.remedy,
        opened_at=at,
    )


def _open_dead_letter(tables: Tables, order_id: str, reason: str, *, at: int) -> None:
    """One that is open already keeps its age; one that was closed begins anew."""
    letter = tables.dead_letters.get(order_id)
    opened_at = letter.opened_at if letter is not None and letter.closed_at is None else at
    tables.dead_letters[order_id] = DeadLetterRow(reason=reason, opened_at=opened_at)


# --- books -----------------------------------------------------------------------------------------------------


def post(tables: Tables, batch: Sequence[PostTransfer]) -> list[Posted]:
    """Append transfers to the hash chain, keep the balances, and set `ledger_updated`."""
    outcomes: list[Posted] = []
    commit = Commit(kind="post")
    for item in batch:
        transfer = item.transfer
        if transfer.amount.minor <= 0 or transfer.debit.id == transfer.credit.id:
            raise IllegalState(f"{transfer.cause} moves nothing")
    # The point of no return: nothing below refuses.
    for item in batch:
        transfer = item.transfer
        new = transfer.cause not in tables.transfer_causes
        outcomes.append(Posted(new=new))
        if not new:
            continue
        seq = len(tables.transfers) + 1
        debit_id, credit_id, amount = transfer.debit.id, transfer.credit.id, transfer.amount
        row = StoredTransfer(
            seq=seq,
            cause=transfer.cause,
            kind=transfer.kind,
            debit_id=debit_id,
            credit_id=credit_id,
            amount_minor=amount.minor,
            currency=amount.currency,
            payment_order_id=transfer.payment_order_id,
            at=transfer.at,
            hash=chain_hash(
                tables.ledger_hash,
                seq=seq,
                cause=transfer.cause,
                kind=transfer.kind,
                debit_id=debit_id,
                credit_id=credit_id,
                amount_minor=amount.minor,
                currency=amount.currency,
                at=transfer.at,
            ),
        )
        tables.transfers.append(row)
        tables.transfer_causes[transfer.cause] = seq
        tables.accounts.setdefault(debit_id, AccountRow(amount.currency)).debits_minor += amount.minor
        tables.accounts.setdefault(credit_id, AccountRow(amount.currency)).credits_minor += amount.minor
        commit.transfers.append(row)
    _flag(tables, commit, {row.payment_order_id: row.at for row in commit.transfers}, "ledger_updated")
    tables.committed(commit)
    return outcomes


def credit(tables: Tables, batch: Sequence[CreditWallet]) -> list[Posted]:
    """Write wallet entries, keep the balances, and set `wallet_updated`."""
    outcomes: list[Posted] = []
    commit = Commit(kind="credit")
    for item in batch:
        entry = item.entry
        new = entry.cause not in tables.wallet_entries
        outcomes.append(Posted(new=new))
        if not new:
            continue
        row = WalletEntryRow(_entry_view(entry), entry.payment_order_id)
        tables.wallet_entries[entry.cause] = row
        _move_wallet(tables, entry)
        commit.wallet_entries.append(row)
    _flag(tables, commit, {row.payment_order_id: row.entry.at for row in commit.wallet_entries}, "wallet_updated")
    tables.committed(commit)
    return outcomes


def _entry_view(entry: WalletEntry) -> WalletEntryView:
    return WalletEntryView(
        cause=entry.cause,
        kind=entry.kind,
        seller_account=entry.seller_account,
        currency=entry.currency,
        available_minor=entry.available_minor,
        pending_minor=entry.pending_minor,
        held_minor=entry.held_minor,
        at=entry.at,
    )


def _move_wallet(tables: Tables, entry: WalletEntry) -> None:
    key = (entry.seller_account, entry.currency)
    before = tables.wallets.get(key)
    tables.wallets[key] = WalletView(
        seller_account=entry.seller_account,
        currency=entry.currency,
        available_minor=entry.available_minor + (before.available_minor if before else 0),
        pending_minor=entry.pending_minor + (before.pending_minor if before else 0),
        held_minor=entry.held_minor + (before.held_minor if before else 0),
        updated_at=max(entry.at, before.updated_at if before else 0),
    )


def _flag(tables: Tables, commit: Commit, posted: Mapping[str | None, int], flag: str) -> None:
    """Set a flag of the orders that a book now holds, and announce the checkouts that this ends."""
    deltas: dict[str, int] = {}
    latest = max(posted.values(), default=0)
    for order_id in sorted(key for key in posted if key is not None):
        order = tables.orders.get(order_id)
        if order is None or order.state is not State.SUCCESS or getattr(order, flag):
            continue
        flagged: Order = replace(order, **{flag: True})
        tables.put_order(flagged, at=max(tables.updated_at[order_id], latest))
        commit.orders.append(order_id)
        if flagged.is_done:
            deltas[order.checkout_id] = deltas.get(order.checkout_id, 0) - 1
    _publish(tables, commit, _count_open(tables, deltas, at=latest))


# --- the end of a transaction ----------------------------------------------------------------------------------


def _count_open(tables: Tables, deltas: Mapping[str, int], *, at: int) -> list[Announcement]:
    """Move events' counters of open orders; return the announcements of those that came to zero."""
    done: list[Announcement] = []
    for checkout_id, delta in deltas.items():
        if delta == 0:
            continue
        event = tables.events[checkout_id]
        event.orders_open += delta
        if event.orders_open == 0:
            event.times_done += 1
            done.append(done_announcement(checkout_id, times_done=event.times_done, at=at))
    return done


def _publish(tables: Tables, commit: Commit, announcements: Sequence[Announcement]) -> None:
    for one in announcements:
        event = OutboxEvent(
            position=len(tables.outbox) + 1,
            event_id=one.event_id,
            kind=one.kind,
            checkout_id=one.checkout_id,
            payment_order_id=one.payment_order_id,
            at=one.at,
            payload=one.payload,
        )
        tables.outbox.append(event)
        commit.outbox.append(event)
