"""Moving payment orders: each item matches the stored state and version, and is written with all its records."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from tallystick.engine.announcements import order_announcements
from tallystick.engine.errors import IllegalState
from tallystick.engine.intents import Applied, Superseded, Transition, TransitionOutcome
from tallystick.engine.order import State
from tallystick.engine.records import (
    AnyRecord,
    AttemptBegun,
    AttemptResent,
    AttemptResolved,
    DeadLetterClosed,
    DeadLettered,
    MismatchOpened,
)
from tallystick.engine.views import Lease
from tallystick.storage import fencing, outbox, rows
from tallystick.storage.bridge import Connection, Row
from tallystick.storage.queries import queries

_SQL = queries("apply")
_READ = queries("reads")
R = TypeVar("R", bound=AnyRecord)
_ENDED = frozenset({State.FAILED, State.CANCELLED})


async def apply(
    connection: Connection, lease: Lease | None, batch: Sequence[Transition]
) -> list[TransitionOutcome]:
    """Move the orders that still are as the decisions found them. Raises Fenced.

    Raises IllegalState for two transitions of one order, for an order that does not exist, and for a version
    that does not follow: bugs of ours.
    """
    _check(batch)
    await fencing.check(connection, lease)
    ids = sorted(item.order.payment_order_id for item in batch)
    stored = {row["payment_order_id"]: row for row in await connection.fetch(_SQL["lock_orders"], ids)}
    moves: list[Transition] = []
    others: list[Transition] = []
    for item in batch:
        row = stored.get(item.order.payment_order_id)
        if row is None:
            raise IllegalState(f"{item.order.payment_order_id} was moved, but never recorded")
        matches = row["version"] == item.from_version and row["state"] == item.from_state
        (moves if matches else others).append(item)
    outcomes = await _explain(connection, others)
    if moves:
        await _write(connection, moves, stored)
        outcomes |= {item.order.payment_order_id: Applied() for item in moves}
    return [outcomes[item.order.payment_order_id] for item in batch]


def _check(batch: Sequence[Transition]) -> None:
    if len({item.order.payment_order_id for item in batch}) != len(batch):
        raise IllegalState("two transitions of one order in a batch")
    for item in batch:
        if item.order.version != item.from_version + 1:
            raise IllegalState(f"{item.order.payment_order_id}: version {item.order.version} does not follow")


async def _explain(connection: Connection, items: Sequence[Transition]) -> dict[str, TransitionOutcome]:
    """Tell our own repeated intents from orders that moved on without us."""
    if not items:
        return {}
    ids = [item.order.payment_order_id for item in items]
    logged = await connection.fetch(_SQL["transitions_at"], ids, [item.order.version for item in items])
    ours = {row["payment_order_id"]: row["transition_id"] for row in logged}
    current = {row["payment_order_id"]: row for row in await connection.fetch(_READ["orders"], ids)}
    outcomes: dict[str, TransitionOutcome] = {}
    for item in items:
        key = item.order.payment_order_id
        repeated = ours.get(key) == item.transition_id
        outcomes[key] = Applied() if repeated else Superseded(current=rows.order(current[key]))
    return outcomes


async def _write(connection: Connection, moves: Sequence[Transition], stored: dict[str, Row]) -> None:
    await _move_orders(connection, moves)
    await _write_attempts(connection, moves)
    await _write_alarms(connection, moves)
    open_orders: Counter[str] = Counter()
    for item in moves:
        was_open = stored[item.order.payment_order_id]["is_open"]
        # A new SUCCESS is open until both books are written; their postings close it.
        is_open = was_open if item.order.state is item.from_state else item.order.state not in _ENDED
        open_orders[item.order.checkout_id] += is_open - was_open
    done = await outbox.count_open(connection, open_orders, at=max(item.at for item in moves))
    published = [one for item in moves for one in order_announcements(item)]
    await outbox.append(connection, [*published, *done])


async def _move_orders(connection: Connection, moves: Sequence[Transition]) -> None:
    orders = [item.order for item in moves]
    status = await connection.execute(
        _SQL["move_orders"],
        [order.payment_order_id for order in orders],
        [item.from_state for item in moves],
        [item.from_version for item in moves],
        [order.state for order in orders],
        [order.version for order in orders],
        [order.state_since for order in orders],
        [order.wake_at for order in orders],
        [order.psp for order in orders],
        [order.attempt for order in orders],
        [order.sends for order in orders],
        [order.refusals for order in orders],
        [order.attempt_begun_at for order in orders],
        [order.last_sent_at for order in orders],
        [order.declines for order in orders],
        [order.inquiries for order in orders],
        [order.escalated for order in orders],
        [order.next_action_url for order in orders],
        [order.next_action_expires_at for order in orders],
        [order.psp_reference for order in orders],
        [order.charged_attempt for order in orders],
        [order.stray_psp for order in orders],
        [order.stray_attempt for order in orders],
        [order.stray_reference for order in orders],
        [order.failure_code for order in orders],
        [item.at for item in moves],
    )
    if status != f"UPDATE {len(moves)}":
        raise IllegalState(f"locked {len(moves)} orders, but moved {status}")
    await connection.execute(
        _SQL["insert_log"],
        [order.payment_order_id for order in orders],
        [order.version for order in orders],
        [item.at for item in moves],
        [item.from_state for item in moves],
        [order.state for order in orders],
        [item.event for item in moves],
        [item.detail.decode() for item in moves],
        [item.transition_id for item in moves],
    )


def _records(moves: Sequence[Transition], kind: type[R]) -> list[tuple[Transition, R]]:
    return [(item, record) for item in moves for record in item.records if isinstance(record, kind)]


async def _write_attempts(connection: Connection, moves: Sequence[Transition]) -> None:
    if resolved := _records(moves, AttemptResolved):
        await connection.execute(
            _SQL["resolve_attempts"],
            [item.order.payment_order_id for item, _ in resolved],
            [record.attempt for _, record in resolved],
            [record.result for _, record in resolved],
            [record.code for _, record in resolved],
            [record.psp_reference for _, record in resolved],
            [record.resolved_at for _, record in resolved],
        )
    if resent := _records(moves, AttemptResent):
        await connection.execute(
            _SQL["resend_attempts"],
            [item.order.payment_order_id for item, _ in resent],
            [record.attempt for _, record in resent],
            [record.sends for _, record in resent],
            [record.sent_at for _, record in resent],
        )
    if begun := _records(moves, AttemptBegun):
        await connection.execute(
            _SQL["begin_attempts"],
            [item.order.payment_order_id for item, _ in begun],
            [record.attempt for _, record in begun],
            [record.psp for _, record in begun],
            [record.idempotency_key for _, record in begun],
            [record.begun_at for _, record in begun],
        )


async def _write_alarms(connection: Connection, moves: Sequence[Transition]) -> None:
    if opened := _records(moves, MismatchOpened):
        await connection.execute(
            _SQL["open_mismatches"],
            [record.mismatch_id for _, record in opened],
            [item.order.payment_order_id for item, _ in opened],
            [record.kind for _, record in opened],
            [record.attempt for _, record in opened],
            [record.psp for _, record in opened],
            [record.psp_reference for _, record in opened],
            [record.amount_minor for _, record in opened],
            [record.currency for _, record in opened],
            [record.remedy for _, record in opened],
            [item.at for item, _ in opened],
        )
    # Decisions close a dead letter before they open the next, so closing goes first.
    if closed := _records(moves, DeadLetterClosed):
        await connection.execute(
            _SQL["close_dead_letters"],
            [item.order.payment_order_id for item, _ in closed],
            [record.resolution for _, record in closed],
            [item.at for item, _ in closed],
        )
    if dead := _records(moves, DeadLettered):
        await connection.execute(
            _SQL["open_dead_letters"],
            [item.order.payment_order_id for item, _ in dead],
            [record.reason for _, record in dead],
            [item.at for item, _ in dead],
        )
