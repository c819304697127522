"""What the outbox says: the ids and payloads of business events, built alike for every store.

An event id is stable, so that a receiver can tell a repetition; its prefix keeps ids of orders and of checkouts
apart, whatever callers put into theirs.
"""

import msgspec

from tallystick.engine.intents import Transition
from tallystick.engine.records import Published

PAYMENT_DONE = "payment.done"


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """A business event before it has a position in the outbox."""

    event_id: str
    kind: str
    checkout_id: str
    payment_order_id: str | None
    at: int
    payload: bytes


def order_announcements(item: Transition) -> list[Announcement]:
    """Return what a committed transition publishes, in the order of its records."""
    kinds = [record.kind for record in item.records if isinstance(record, Published)]
    return [_about_order(item, kind, place) for place, kind in enumerate(kinds)]


def _about_order(item: Transition, kind: str, place: int) -> Announcement:
    order = item.order
    body = {
        "kind": kind,
        "checkout_id": order.checkout_id,
        "payment_order_id": order.payment_order_id,
        "payment_order_status": order.public_status.value,
        "state": order.state.value,
        "seller_account": order.seller_account,
        "amount": order.amount.decimal(),
        "currency": order.amount.currency,
        "at": item.at,
    }
    suffix = f".{place}" if place else ""
    return Announcement(
        event_id=f"order:{order.payment_order_id}:{order.version}{suffix}",
        kind=kind,
        checkout_id=order.checkout_id,
        payment_order_id=order.payment_order_id,
        at=item.at,
        payload=msgspec.json.encode(body),
    )


def done_announcement(checkout_id: str, *, times_done: int, at: int) -> Announcement:
    """Return what is published when the last open order of a checkout has ended, for the n-th time."""
    body = {"kind": PAYMENT_DONE, "checkout_id": checkout_id, "is_payment_done": True, "at": at}
    return Announcement(
        event_id=f"done:{checkout_id}:{times_done}",
        kind=PAYMENT_DONE,
        checkout_id=checkout_id,
        payment_order_id=None,
        at=at,
        payload=msgspec.json.encode(body),
    )
