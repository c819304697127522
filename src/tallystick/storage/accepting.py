"""Recording payment events: each whole or not at all, and the same content again answers the same.

The first try assumes that everything in the batch is new, as it nearly always is, and only inserts. When items
clash, or the database then holds fewer rows than were sent, the transaction is rolled back, and tried again with
what is known.
"""

from collections.abc import Sequence

import msgspec

from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    IdempotencyClaim,
    PaymentAccepted,
    PaymentRefused,
)
from tallystick.engine.order import partition_of
from tallystick.engine.views import Lease
from tallystick.storage import fencing
from tallystick.storage.bridge import Connection
from tallystick.storage.queries import queries

_SQL = queries("accept")


class KnownAlready(Exception):
    """The database holds some of what was to be inserted; look first, then try again."""


class _Known(msgspec.Struct):
    """What is recorded, before and by this batch."""

    events: dict[str, tuple[bytes, int]] = {}
    """checkout_id: content hash, recorded at."""
    orders: set[str] = set()
    claims: dict[tuple[str, str], bytes] = {}


class _New(msgspec.Struct):
    """What this batch records."""

    events: list[AcceptPayment] = []
    claims: list[tuple[IdempotencyClaim, AcceptPayment]] = []


async def accept(
    connection: Connection, lease: Lease | None, batch: Sequence[AcceptPayment], *, look_first: bool
) -> list[AcceptOutcome]:
    """Record the batch. Raises KnownAlready unless `look_first`, when not all of it is new; and Fenced."""
    await fencing.check(connection, lease)
    known = await _look(connection, batch) if look_first else _Known()
    new = _New()
    outcomes = [_decide(item, known, new) for item in batch]
    if not look_first and any(isinstance(outcome, PaymentRefused) for outcome in outcomes):
        raise KnownAlready  # refused for a neighbour's sake, perhaps; what was recorded before decides first
    await _insert(connection, new)
    return outcomes


def _decide(item: AcceptPayment, known: _Known, new: _New) -> AcceptOutcome:
    """Refuse in order; what passes is noted as new."""
    claim = item.claim
    claimed = None if claim is None else known.claims.get((claim.scope, claim.key))
    if claim is not None and claimed is not None and claimed != claim.request_hash:
        return PaymentRefused(field="Idempotency-Key", detail="was used before with another request")
    recorded = known.events.get(item.checkout_id)
    if recorded is not None:
        content_hash, at = recorded
        if content_hash != item.content_hash:
            return PaymentRefused(field="checkout_id", detail="was recorded before with other content")
    else:
        at = item.at
        seen: set[str] = set()
        for index, order in enumerate(item.orders):
            if order.payment_order_id in known.orders or order.payment_order_id in seen:
                field = f"payment_orders[{index}].payment_order_id"
                return PaymentRefused(field=field, detail="was recorded before in another checkout")
            seen.add(order.payment_order_id)
        # The point of no return: from here on the item is recorded.
        known.orders |= seen
        known.events[item.checkout_id] = (item.content_hash, at)
        new.events.append(item)
    if claim is not None and claimed is None:
        known.claims[claim.scope, claim.key] = claim.request_hash
        new.claims.append((claim, item))
    return PaymentAccepted(new=recorded is None, at=at)


async def _look(connection: Connection, batch: Sequence[AcceptPayment]) -> _Known:
    events = await connection.fetch(_SQL["events_known"], [item.checkout_id for item in batch])
    order_ids = [order.payment_order_id for item in batch for order in item.orders]
    orders = await connection.fetch(_SQL["orders_known"], order_ids)
    claims = [item.claim for item in batch if item.claim is not None]
    claimed = await connection.fetch(
        _SQL["claims_known"], [claim.scope for claim in claims], [claim.key for claim in claims]
    )
    return _Known(
        events={row["checkout_id"]: (row["content_hash"], row["created_at"]) for row in events},
        orders={row["payment_order_id"] for row in orders},
        claims={(row["scope"], row["key"]): row["request_hash"] for row in claimed},
    )


async def _insert(connection: Connection, new: _New) -> None:
    """Insert in sorted order, so that two writers of the same ids queue instead of deadlocking."""
    events = sorted(new.events, key=lambda item: item.checkout_id)
    if events:
        status = await connection.execute(
            _SQL["insert_events"],
            [item.checkout_id for item in events],
            [partition_of(item.checkout_id) for item in events],
            [item.buyer_info.decode() for item in events],
            [item.content_hash for item in events],
            [len(item.orders) for item in events],
            [item.at for item in events],
        )
        _demand_all(status, len(events))
    orders = sorted((order for item in events for order in item.orders), key=lambda order: order.payment_order_id)
    if orders:
        status = await connection.execute(
            _SQL["insert_orders"],
            [order.payment_order_id for order in orders],
            [order.checkout_id for order in orders],
            [partition_of(order.checkout_id) for order in orders],
            [order.seller_account for order in orders],
            [order.buyer_account for order in orders],
            [order.amount.minor for order in orders],
            [order.amount.currency for order in orders],
            [order.method for order in orders],
            [order.psp_token for order in orders],
            [order.created_at for order in orders],
            [order.state_since for order in orders],
        )
        _demand_all(status, len(orders))
    claims = sorted(new.claims, key=lambda pair: (pair[0].scope, pair[0].key))
    if claims:
        status = await connection.execute(
            _SQL["insert_claims"],
            [claim.scope for claim, _ in claims],
            [claim.key for claim, _ in claims],
            [claim.request_hash for claim, _ in claims],
            [item.checkout_id for _, item in claims],
            [item.at for _, item in claims],
        )
        _demand_all(status, len(claims))


def _demand_all(status: str, sent: int) -> None:
    if status != f"INSERT 0 {sent}":
        raise KnownAlready
