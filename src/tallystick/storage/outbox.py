"""The end of every writing transaction: counters of open orders, and what is announced."""

from collections import Counter
from collections.abc import Sequence

from tallystick.engine.announcements import Announcement, done_announcement
from tallystick.storage.bridge import Connection
from tallystick.storage.queries import queries

_SQL = queries("apply")


async def count_open(connection: Connection, deltas: Counter[str], *, at: int) -> list[Announcement]:
    """Move events' counters of open orders; return the announcements of those that came to zero."""
    changed = {checkout_id: delta for checkout_id, delta in deltas.items() if delta}
    if not changed:
        return []
    rows = await connection.fetch(_SQL["count_open_orders"], list(changed), list(changed.values()))
    done = {row["checkout_id"]: row["times_done"] for row in rows if row["orders_open"] == 0}
    return [done_announcement(one, times_done=done[one], at=at) for one in changed if one in done]


async def append(connection: Connection, announcements: Sequence[Announcement]) -> None:
    """Append to the outbox. Must be the last thing before the commit: it holds the head's row until then."""
    if not announcements:
        return
    await connection.execute(
        _SQL["append_outbox"],
        [one.event_id for one in announcements],
        [one.kind for one in announcements],
        [one.checkout_id for one in announcements],
        [one.payment_order_id for one in announcements],
        [one.at for one in announcements],
        [one.payload.decode() for one in announcements],
    )
