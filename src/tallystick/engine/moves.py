"""What decisions are made of: entering a state, beginning and ending attempts, remembering a stray charge.

Words: a *stray* is a charge other than the one that the order is waiting for. An earlier attempt of ours that was
charged after all may yet pay for the order; a charge that we never asked for (foreign) is paid back.
"""

from typing import Any

from msgspec.structs import replace

from tallystick.engine.errors import IllegalState
from tallystick.engine.events import Charged, Evidence, NotExecuted, Source
from tallystick.engine.order import Method, Order, State
from tallystick.engine.records import (
    AnyRecord,
    AttemptBegun,
    AttemptResent,
    AttemptResolved,
    Context,
    DeadLetterClosed,
    DeadLettered,
    Decision,
    Effect,
    Ignored,
    MismatchOpened,
    Outcome,
    Published,
)
from tallystick.engine.retry import RetryPolicy

# As the failure code of an attempt under way: somebody asked to stop, and the PSP's answer is awaited.
CANCEL_ASKED = "cancelled_on_request"
# The same for a person who wants a failed order tried again, while the PSP is asked about its last attempt.
RETRY_ASKED = "retried_on_request"


def enter(order: Order, state: State, ctx: Context, **changes: Any) -> Order:  # noqa: ANN401  (Order's own fields)
    """Return the order in `state`, one version on. Only here is a state assigned."""
    moved = state is not order.state
    base: dict[str, Any] = {
        "state": state,
        "version": order.version + 1,
        "state_since": ctx.now if moved else order.state_since,
        "wake_at": None,
        "inquiries": 0 if moved else order.inquiries,
        "next_action_url": None,
        "next_action_expires_at": None,
    }
    return replace(order, **(base | changes))


def resolved(event: Evidence, ctx: Context, *, code: str | None = None) -> AttemptResolved:
    """Return the row that says what came of an attempt."""
    return AttemptResolved(
        attempt=event.attempt,
        result=type(event).__name__,
        code=code,
        psp_reference=event.psp_reference,
        resolved_at=ctx.now,
    )


def fail(order: Order, ctx: Context, code: str, *records: AnyRecord) -> Decision:
    """End as FAILED: certainly not charged, and a person may look at it."""
    return Decision(
        order=enter(order, State.FAILED, ctx, failure_code=code),
        records=(*records, DeadLettered(reason=code), Published(kind="payment_order.failed")),
    )


def end_cancelled(order: Order, ctx: Context, code: str, *records: AnyRecord) -> Decision:
    """End as CANCELLED: certainly not charged, and nobody needs to look."""
    return Decision(
        order=enter(order, State.CANCELLED, ctx, failure_code=code),
        records=(*records, Published(kind="payment_order.cancelled")),
    )


def await_evidence(
    order: Order, state: State, ctx: Context, *records: AnyRecord, effects: tuple[Effect, ...] = ()
) -> Decision:
    """Enter (or stay in) a state that is left by evidence, with the first inquiry of its schedule set."""
    wake_at = ctx.now + ctx.policy.inquiry_wait_us(0)
    return Decision(order=enter(order, state, ctx, wake_at=wake_at), effects=effects, records=records)


def begin_attempt(order: Order, ctx: Context, *records: AnyRecord) -> Decision:
    """Commit a new attempt as begun. Only ever called when no earlier attempt has charged or can charge."""
    _forbid_second_charge(order)
    attempt = order.attempt + 1
    begun = enter(
        order,
        State.EXECUTING,
        ctx,
        psp=ctx.route,
        attempt=attempt,
        sends=1,
        refusals=0,
        attempt_begun_at=ctx.now,
        last_sent_at=ctx.now,
        escalated=False,
        failure_code=None,
    )
    row = AttemptBegun(attempt=attempt, psp=ctx.route, idempotency_key=begun.idempotency_key, begun_at=ctx.now)
    return Decision(order=begun, effects=(Effect.SEND_TO_PSP,), records=(*records, row))


def send_again(order: Order, ctx: Context, *records: AnyRecord) -> Decision:
    """Commit one more send of the current attempt, under its key. Only ever called while that key is alive."""
    _forbid_second_charge(order)
    resent = enter(order, State.EXECUTING, ctx, sends=order.sends + 1, last_sent_at=ctx.now, failure_code=None)
    row = AttemptResent(attempt=order.attempt, sends=resent.sends, sent_at=ctx.now)
    return Decision(order=resent, effects=(Effect.SEND_TO_PSP,), records=(*records, row))


def try_again(order: Order, ctx: Context, *records: AnyRecord) -> Decision:
    """Go on after an attempt without a charge: with a new key, or the old one if all its sends were refused.

    A refusal (throttled, no connection) is certain for that send alone: a copy of it, doubled by the wire, may
    come late and be charged. PSPs save declines under a key, but no refusals; so the same key can be used again,
    and absorbs the copy. Under a new key the copy would be a second charge.
    """
    if not order.is_refused:
        return begin_attempt(order, ctx, *records)
    if key_alive(order, ctx):
        return send_again(replace(order, escalated=False), ctx, *records)
    # The key does not absorb a copy any more, and a copy may have been charged unheard: waiting out the window
    # alone would not do. So the attempt is as unknown as one whose answer was lost, and a new one begins when the
    # PSP, asked after the window, knows of none (`not_found`).
    asking = replace(order, escalated=False)
    return await_evidence(asking, State.UNKNOWN, ctx, *records, effects=(Effect.INQUIRE_AT_PSP,))


def key_alive(order: Order, ctx: Context) -> bool:
    """Say whether the PSP will still remember the attempt's key when a request sent now arrives (rule 5)."""
    # It may arrive a window late, and must be harmless then, too.
    arrives_by = ctx.now + ctx.policy.arrives_within_us
    return order.attempt_begun_at is not None and arrives_by < order.attempt_begun_at + ctx.policy.key_lifetime_us


def can_fence(order: Order, ctx: Context) -> bool:
    """Say whether the PSP can kill the attempt's key, so that what arrives later does not charge (rule 4)."""
    return ctx.policy.can_void and key_alive(order, ctx)


def _forbid_second_charge(order: Order) -> None:
    if order.stray_attempt is not None or order.charged_attempt is not None:
        raise IllegalState(f"{order.payment_order_id} has a charge already; one more request could make it two")


def succeed(
    order: Order,
    ctx: Context,
    *,
    psp: str,
    attempt: int,
    reference: str | None,
    records: tuple[AnyRecord, ...],
) -> Decision:
    """End as SUCCESS: `attempt` at `psp` is the charge that counts."""
    done = enter(
        order,
        State.SUCCESS,
        ctx,
        psp=psp,
        charged_attempt=attempt,
        psp_reference=reference,
        failure_code=None,
    )
    # Of two charges of one order, this one counts. The other is paid back.
    twice = (_stray_twice(order),) if stray_pays(order) and order.stray_attempt != attempt else ()
    return Decision(
        order=done,
        effects=(Effect.POST_TO_LEDGER,),
        records=(*records, *letter_closed(order, "charged"), *twice, Published(kind="payment_order.succeeded")),
    )


def succeed_with_stray(order: Order, ctx: Context, *records: AnyRecord) -> Decision:
    """End as SUCCESS: the stray, an earlier attempt of ours, is the charge that counts."""
    if order.stray_attempt is None or order.stray_psp is None:
        raise IllegalState(f"{order.payment_order_id} has no stray charge")
    return succeed(
        order,
        ctx,
        psp=order.stray_psp,
        attempt=order.stray_attempt,
        reference=order.stray_reference,
        records=records,
    )


def letter_closed(order: Order, resolution: str) -> tuple[AnyRecord, ...]:
    """Return what ends the order's dead letter, if a person has been called."""
    return (DeadLetterClosed(resolution=resolution),) if order.escalated else ()


def decided_otherwise(order: Order, ctx: Context, row: AttemptResolved) -> Outcome | None:
    """Return what an attempt's certain failure means where something else decides; None where the failure does."""
    if order.charged_attempt is not None:
        return Ignored("a charge of another amount is known; a person decides")
    if stray_pays(order):
        # An earlier attempt was charged after all. The buyer has paid once; a further attempt would make it twice.
        return succeed_with_stray(order, ctx, row)
    if order.stray_attempt is not None:
        return fail(order, ctx, "charged_elsewhere", row, *letter_closed(order, "not charged"))
    if order.failure_code == CANCEL_ASKED:
        return end_cancelled(order, ctx, "cancelled", row, *letter_closed(order, "not charged"))
    return None


def retry_or_fail(
    order: Order,
    event: Evidence,
    ctx: Context,
    *,
    policy: RetryPolicy,
    count: int,
    code: str,
    retry_after_us: int | None,
) -> Outcome:
    """The current attempt certainly did not charge: wait to try again, or end."""
    row = resolved(event, ctx, code=code)
    otherwise = decided_otherwise(order, ctx, row)
    if otherwise is not None:
        return otherwise
    closed = letter_closed(order, "not charged")
    wait_us = policy.wait_us(attempt=count, jitter=ctx.jitter, retry_after_us=retry_after_us)
    too_late = wait_us is not None and ctx.now + wait_us > order.created_at + policy.elapsed_max_us
    # A page that the buyer has left, or has seen declined, is not opened again behind the buyer's back.
    buyer_has_gone = order.method is Method.HOSTED_PAGE and not isinstance(event, NotExecuted)
    if not isinstance(event, NotExecuted):
        # The PSP has an answer saved under this key, or has none and will not get one: it is of no more use.
        order = replace(order, refusals=0)
    if wait_us is None or too_late or buyer_has_gone:
        return fail(order, ctx, code, row, *closed)
    waiting = enter(order, State.RETRY_WAIT, ctx, wake_at=ctx.now + wait_us, failure_code=code, escalated=False)
    return Decision(order=waiting, records=(row, *closed))


def attempts_without_answer(order: Order) -> int:
    """Return how often the issuer was not reached, this time included: bounded apart from declines.

    By whole attempts, and by sends of the current one that were refused before this time.
    """
    # At least this one: a PSP that takes back a decline lets the same attempt be declined and then voided.
    return max(1, order.attempt - order.declines + order.refusals)


def mismatch(order: Order, event: Evidence, kind: str, *, remedy: str) -> MismatchOpened:
    """Return the record of evidence that contradicts belief; the same evidence gives the same id."""
    amount = event.amount if isinstance(event, Charged) else order.amount
    return MismatchOpened(
        mismatch_id=f"{kind}:{order.payment_order_id}:{event.psp}:{event.attempt}:{event.psp_reference or ''}",
        kind=kind,
        attempt=event.attempt,
        psp=event.psp,
        psp_reference=event.psp_reference,
        amount_minor=amount.minor,
        currency=amount.currency,
        remedy=remedy,
    )


def is_about_another(order: Order, event: Evidence) -> bool:
    """Say whether the evidence is not about the current attempt."""
    return event.attempt != order.attempt or event.psp != order.psp


def is_foreign(order: Order, event: Evidence) -> bool:
    """Say whether we never made such an attempt: its number is none of ours, or it went to another PSP."""
    return not 1 <= event.attempt <= order.attempt or (event.attempt == order.attempt and event.psp != order.psp)


def same_reference(one: str | None, other: str | None) -> bool:
    """Say whether two reports of one attempt are one charge: a reference that one of them lacks is no proof."""
    return one == other or one is None or other is None


def is_known_stray(order: Order, event: Charged) -> bool:
    """Say whether the charge is the stray that the order remembers."""
    same = (order.stray_psp, order.stray_attempt) == (event.psp, event.attempt)
    return same and same_reference(event.psp_reference, order.stray_reference)


def stray_pays(order: Order) -> bool:
    """Say whether the remembered stray charge is an earlier attempt of ours, and not a foreign one."""
    return order.stray_attempt is not None and 1 <= order.stray_attempt < order.attempt


def is_unwanted(order: Order) -> bool:
    """Say whether the attempt under way should not charge any more: paid already, or to be stopped."""
    return (
        order.stray_attempt is not None or order.charged_attempt is not None or order.failure_code == CANCEL_ASKED
    )


def close_page(order: Order, ctx: Context, **changes: Any) -> Order:  # noqa: ANN401  (Order's own fields)
    """Show the buyer's page no longer, and let the clock repeat the void until the PSP has answered it."""
    wake_at = ctx.now + ctx.policy.inquiry_wait_us(0)
    return enter(order, State.AWAITING_BUYER, ctx, next_action_expires_at=ctx.now, wake_at=wake_at, **changes)


def with_stray(order: Order, event: Charged) -> Order:
    """Return the order with a stray charge remembered, one version on."""
    return replace(
        order,
        version=order.version + 1,
        stray_psp=event.psp,
        stray_attempt=event.attempt,
        stray_reference=event.psp_reference,
    )


def _stray_twice(order: Order) -> MismatchOpened:
    if order.stray_attempt is None or order.stray_psp is None:
        raise IllegalState(f"{order.payment_order_id} has no stray charge")
    charge = Charged(
        source=Source.RESPONSE,
        psp=order.stray_psp,
        attempt=order.stray_attempt,
        psp_reference=order.stray_reference,
        amount=order.amount,
    )
    return mismatch(order, charge, "charged_twice", remedy="refund")
