"""The handlers behind the transition table: each decides what one event means for an order in one state.

Every handler is pure: (order, event, context) -> Decision or Ignored. What must happen outside is named in
`Decision.effects` and is done after the commit; what must be written with the move is in `Decision.records`.
A decision whose order has the same version as before has nothing to write.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from tallystick.engine.errors import MoveRefused
from tallystick.engine.events import (
    Accepted,
    AnyEvent,
    BuyerActionRequired,
    CancelRequested,
    Charged,
    Declined,
    Evidence,
    NotExecuted,
    NotFound,
    OutcomeLost,
    ReviewRejected,
    RiskFlagged,
    RiskRefused,
    Voided,
)
from tallystick.engine.order import Method, Order, State
from tallystick.engine.retry import PspPolicy, RetryPolicy


class Effect(StrEnum):
    """What a decision asks the outside to do, after its commit."""

    CHECK_RISK = "check_risk"
    SEND_TO_PSP = "send_to_psp"
    INQUIRE_AT_PSP = "inquire_at_psp"
    VOID_AT_PSP = "void_at_psp"
    POST_TO_LEDGER = "post_to_ledger"
    CREDIT_WALLET = "credit_wallet"


# --- records: what is written in the same commit as the move ---------------------------------------------------


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="record"):
    """Something that is written together with the move."""


class AttemptBegun(Record, frozen=True, kw_only=True, tag="AttemptBegun"):
    """A new attempt is about to be sent: its row, before the call (rule 1)."""

    attempt: int
    psp: str
    idempotency_key: str
    begun_at: int


class AttemptResent(Record, frozen=True, kw_only=True, tag="AttemptResent"):
    """The current attempt is about to be sent once more under its key."""

    attempt: int
    sends: int
    sent_at: int


class AttemptResolved(Record, frozen=True, kw_only=True, tag="AttemptResolved"):
    """What came of an attempt; `result` is the tag of the evidence."""

    attempt: int
    result: str
    code: str | None
    psp_reference: str | None
    resolved_at: int


class MismatchOpened(Record, frozen=True, kw_only=True, tag="MismatchOpened"):
    """Evidence contradicts what we believe; a person or a policy must end it. Opened once per `mismatch_id`."""

    mismatch_id: str
    kind: str
    attempt: int
    psp: str
    psp_reference: str | None
    amount_minor: int
    currency: str
    remedy: str


class DeadLettered(Record, frozen=True, kw_only=True, tag="DeadLettered"):
    """The order needs a person: it failed for good, or its outcome stayed unknown past the bound."""

    reason: str


class DeadLetterClosed(Record, frozen=True, kw_only=True, tag="DeadLetterClosed"):
    """The order's dead letter is ended."""

    resolution: str


class Published(Record, frozen=True, kw_only=True, tag="Published"):
    """A business event for the outbox."""

    kind: str


AnyRecord = (
    AttemptBegun | AttemptResent | AttemptResolved | MismatchOpened | DeadLettered | DeadLetterClosed | Published
)


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision may know beside the order and the event."""

    now: int
    jitter: int
    """A random number in [0, 1000), drawn by the caller."""
    policy: PspPolicy
    """Of the order's PSP, or of the one in `route` before there is one."""
    route: str
    """The PSP at which a new attempt would be made."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The order as it shall be, what to write with it, and what to do once that is committed."""

    order: Order
    effects: tuple[Effect, ...] = ()
    records: tuple[AnyRecord, ...] = ()


class Ignored(msgspec.Struct, frozen=True):
    """Nothing changes, and why."""

    why: str


Outcome = Decision | Ignored
Handler = Callable[[Order, Any, Context], Outcome]


# --- helpers ---------------------------------------------------------------------------------------------------


def _enter(order: Order, state: State, ctx: Context, **changes: Any) -> Order:  # noqa: ANN401  (Order's own fields)
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


def _resolved(event: Evidence, ctx: Context, *, code: str | None = None) -> AttemptResolved:
    return AttemptResolved(
        attempt=event.attempt,
        result=type(event).__name__,
        code=code,
        psp_reference=event.psp_reference,
        resolved_at=ctx.now,
    )


def _fail(order: Order, ctx: Context, code: str, *records: AnyRecord) -> Decision:
    return Decision(
        order=_enter(order, State.FAILED, ctx, failure_code=code),
        records=(*records, DeadLettered(reason=code), Published(kind="payment_order.failed")),
    )


def _cancel(order: Order, ctx: Context, code: str, *records: AnyRecord) -> Decision:
    return Decision(
        order=_enter(order, State.CANCELLED, ctx, failure_code=code),
        records=(*records, Published(kind="payment_order.cancelled")),
    )


def _awaken(
    order: Order, state: State, ctx: Context, *records: AnyRecord, effects: tuple[Effect, ...] = ()
) -> Decision:
    """Enter (or stay in) a state that is left by evidence, with the first inquiry of its schedule set."""
    wake_at = ctx.now + ctx.policy.inquiry_wait_us(0)
    return Decision(order=_enter(order, state, ctx, wake_at=wake_at), effects=effects, records=records)


def _begin_attempt(order: Order, ctx: Context, *records: AnyRecord) -> Decision:
    """Commit a new attempt as begun. Only ever called when no earlier attempt has charged or can charge."""
    attempt = order.attempt + 1
    begun = _enter(
        order,
        State.EXECUTING,
        ctx,
        psp=ctx.route,
        attempt=attempt,
        sends=1,
        attempt_begun_at=ctx.now,
        last_sent_at=ctx.now,
        escalated=False,
        failure_code=None,
    )
    row = AttemptBegun(attempt=attempt, psp=ctx.route, idempotency_key=begun.idempotency_key, begun_at=ctx.now)
    return Decision(order=begun, effects=(Effect.SEND_TO_PSP,), records=(*records, row))


def _succeed(
    order: Order,
    ctx: Context,
    *,
    psp: str,
    attempt: int,
    reference: str | None,
    records: tuple[AnyRecord, ...],
) -> Decision:
    done = _enter(
        order,
        State.SUCCESS,
        ctx,
        psp=psp,
        charged_attempt=attempt,
        psp_reference=reference,
        failure_code=None,
    )
    closed = (DeadLetterClosed(resolution="charged"),) if order.escalated else ()
    return Decision(
        order=done,
        effects=(Effect.POST_TO_LEDGER,),
        records=(*records, *closed, Published(kind="payment_order.succeeded")),
    )


def _retry_or_fail(
    order: Order,
    event: Evidence,
    ctx: Context,
    *,
    policy: RetryPolicy,
    count: int,
    code: str,
    retry_after_us: int | None,
) -> Decision:
    """The current attempt certainly did not charge: wait for the next one, or end."""
    row = _resolved(event, ctx, code=code)
    closed: tuple[AnyRecord, ...] = (DeadLetterClosed(resolution="not charged"),) if order.escalated else ()
    if order.stray_attempt is not None and order.stray_psp is not None:
        # An earlier attempt was charged after all. The buyer has paid once; a further attempt would make it twice.
        return _succeed(
            order,
            ctx,
            psp=order.stray_psp,
            attempt=order.stray_attempt,
            reference=order.stray_reference,
            records=(row,),
        )
    wait_us = policy.wait_us(attempt=count, jitter=ctx.jitter, retry_after_us=retry_after_us)
    too_late = wait_us is not None and ctx.now + wait_us > order.created_at + policy.elapsed_max_us
    if wait_us is None or too_late or order.method is Method.HOSTED_PAGE:
        # A hosted page is never retried behind the buyer's back: the buyer chose to leave it, or saw it declined.
        return _fail(order, ctx, code, row, *closed)
    waiting = _enter(order, State.RETRY_WAIT, ctx, wake_at=ctx.now + wait_us, failure_code=code, escalated=False)
    return Decision(order=waiting, records=(row, *closed))


def _mismatch(order: Order, event: Evidence, kind: str, *, remedy: str) -> MismatchOpened:
    amount = event.amount if isinstance(event, Charged) else order.amount
    return MismatchOpened(
        mismatch_id=f"{kind}:{order.payment_order_id}:{event.attempt}:{event.psp_reference or ''}",
        kind=kind,
        attempt=event.attempt,
        psp=event.psp,
        psp_reference=event.psp_reference,
        amount_minor=amount.minor,
        currency=amount.currency,
        remedy=remedy,
    )


def _is_old(order: Order, event: Evidence) -> bool:
    return event.attempt != order.attempt


# --- risk and people -------------------------------------------------------------------------------------------


def begin(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """The order may be executed: commit its first attempt."""
    return _begin_attempt(order, ctx)


def review(order: Order, event: RiskFlagged, ctx: Context) -> Outcome:
    """A person must decide, within the review's expiry."""
    waiting = _enter(order, State.IN_REVIEW, ctx, wake_at=ctx.now + ctx.policy.review_expiry_us)
    return Decision(order=waiting, records=(Published(kind="payment_order.in_review"),))


def refuse_for_risk(order: Order, event: RiskRefused, ctx: Context) -> Outcome:
    """The risk check refused: nothing was sent, nothing will be."""
    return _fail(order, ctx, "risk_refused")


def reject(order: Order, event: ReviewRejected, ctx: Context) -> Outcome:
    """A person refused the order in review."""
    return _fail(order, ctx, "review_rejected")


def expire_review(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """Nobody decided in time."""
    if order.wake_at is not None and ctx.now < order.wake_at:
        return Ignored("woken early")
    return _cancel(order, ctx, "review_expired")


def cancel(order: Order, event: CancelRequested, ctx: Context) -> Outcome:
    """Stop an order of which no attempt has charged or can charge."""
    return _cancel(order, ctx, "cancelled")


def cancel_at_psp(order: Order, event: CancelRequested, ctx: Context) -> Outcome:
    """The buyer may be paying at this moment: ask the PSP to close the page, and believe its answer."""
    closing = _enter(
        order,
        order.state,
        ctx,
        failure_code="cancelled",
        next_action_expires_at=ctx.now,
        wake_at=ctx.now + ctx.policy.inquiry_wait_us(0),
    )
    return Decision(order=closing, effects=(Effect.VOID_AT_PSP,))


def reopen(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """A person wants one more attempt. Safe: FAILED means that every earlier one certainly did not charge."""
    if order.stray_attempt is not None:
        raise MoveRefused("payment_order_id", "an attempt of this order was charged after all; refund it instead")
    return _begin_attempt(
        order, ctx, DeadLetterClosed(resolution="retried"), Published(kind="payment_order.reopened")
    )


# --- evidence about a call that may be under way ---------------------------------------------------------------


def charged(order: Order, event: Charged, ctx: Context) -> Outcome:
    """The PSP captured. SUCCESS, unless it is the wrong amount, or an earlier attempt than the one in flight."""
    row = _resolved(event, ctx)
    if not 1 <= event.attempt <= order.attempt:
        return charged_against_belief(order, event, ctx)
    if event.amount != order.amount:
        if order.escalated:
            return Ignored("a person has been called already")
        alarm = _mismatch(order, event, "charged_other_amount", remedy="person")
        called = replace(order, escalated=True)
        return _awaken(called, State.UNKNOWN, ctx, row, alarm, DeadLettered(reason="charged_other_amount"))
    if _is_old(order, event) and order.state is not State.RETRY_WAIT:
        return _stray(order, event, row)
    return _succeed(
        order, ctx, psp=event.psp, attempt=event.attempt, reference=event.psp_reference, records=(row,)
    )


def _stray(order: Order, event: Charged, row: AttemptResolved) -> Outcome:
    """An attempt believed dead was charged while a later one is under way. Remember it; let the later one end."""
    if order.stray_attempt is not None:
        return Ignored("known already")
    alarm = _mismatch(order, event, "charged_after_declined", remedy="refund")
    return Decision(order=_with_stray(order, event), records=(row, alarm))


def _with_stray(order: Order, event: Charged) -> Order:
    return replace(
        order,
        version=order.version + 1,
        stray_psp=event.psp,
        stray_attempt=event.attempt,
        stray_reference=event.psp_reference,
    )


def declined(order: Order, event: Declined, ctx: Context) -> Outcome:
    """The PSP refused the current attempt: certainly not charged."""
    if _is_old(order, event):
        return Ignored("about an earlier attempt")
    counted = replace(order, declines=order.declines + 1)
    return _retry_or_fail(
        counted,
        event,
        ctx,
        policy=ctx.policy.on_decline(event.decline_class),
        count=counted.declines,
        code=event.code,
        retry_after_us=event.retry_after_us,
    )


def not_executed(order: Order, event: NotExecuted, ctx: Context) -> Outcome:
    """This send had no effect. That is certainty about the attempt only when it was sent once."""
    if _is_old(order, event):
        return Ignored("about an earlier attempt")
    if order.sends > 1:
        # An earlier send under the same key may have charged; only that key's own answer can tell.
        return _awaken(order, State.UNKNOWN, ctx)
    return _retry_or_fail(
        order,
        event,
        ctx,
        policy=ctx.policy.on_not_executed,
        count=order.attempt - order.declines,
        code=event.reason,
        retry_after_us=event.retry_after_us,
    )


def voided(order: Order, event: Voided, ctx: Context) -> Outcome:
    """The attempt's key is dead: it has not charged and cannot any more."""
    if _is_old(order, event):
        return Ignored("about an earlier attempt")
    if order.method is Method.HOSTED_PAGE:
        return _cancel(order, ctx, order.failure_code or "buyer_did_not_pay", _resolved(event, ctx))
    return _retry_or_fail(
        order,
        event,
        ctx,
        policy=ctx.policy.on_not_executed,
        count=order.attempt - order.declines,
        code="voided",
        retry_after_us=None,
    )


def accepted(order: Order, event: Accepted, ctx: Context) -> Outcome:
    """The PSP will tell later: wait for its webhook, and ask now and then."""
    if _is_old(order, event):
        return Ignored("about an earlier attempt")
    return _awaken(order, State.PENDING, ctx)


def buyer_must_act(order: Order, event: BuyerActionRequired, ctx: Context) -> Outcome:
    """The buyer must go to a page of the PSP."""
    if _is_old(order, event):
        return Ignored("about an earlier attempt")
    waiting = _enter(
        order,
        State.AWAITING_BUYER,
        ctx,
        next_action_url=event.url,
        next_action_expires_at=event.expires_at,
        psp_reference=event.psp_reference,
        wake_at=min(event.expires_at, ctx.now + ctx.policy.inquiry_wait_us(0)),
    )
    return Decision(order=waiting)


def outcome_lost(order: Order, event: OutcomeLost, ctx: Context) -> Outcome:
    """Nobody knows what came of the call: UNKNOWN, never FAILED, and ask at once."""
    if _is_old(order, event):
        return Ignored("about an earlier attempt")
    return _awaken(order, State.UNKNOWN, ctx, effects=(Effect.INQUIRE_AT_PSP,))


def restarted_in_flight(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """The engine ended while a call may have been under way."""
    return _awaken(order, State.UNKNOWN, ctx, effects=(Effect.INQUIRE_AT_PSP,))


# --- UNKNOWN, PENDING, AWAITING_BUYER: asking ------------------------------------------------------------------


def not_found(order: Order, event: NotFound, ctx: Context) -> Outcome:
    """The PSP knows no such attempt: resend under its key, else fence, and only then believe (rules 4, 5)."""
    if _is_old(order, event) or order.attempt_begun_at is None or order.last_sent_at is None:
        return Ignored("about an earlier attempt")
    policy = ctx.policy
    # A resend may itself arrive a window late, so it must be safe then, too.
    key_alive = ctx.now + policy.request_window_us < order.attempt_begun_at + policy.key_lifetime_us
    if key_alive and order.sends <= policy.resends_max:
        resent = _enter(order, State.EXECUTING, ctx, sends=order.sends + 1, last_sent_at=ctx.now)
        row = AttemptResent(attempt=order.attempt, sends=resent.sends, sent_at=ctx.now)
        return Decision(order=resent, effects=(Effect.SEND_TO_PSP,), records=(row,))
    if key_alive and policy.can_void:
        return Decision(order=order, effects=(Effect.VOID_AT_PSP,))
    if event.asked_at > order.last_sent_at + policy.request_window_us:
        return _retry_or_fail(
            order,
            event,
            ctx,
            policy=policy.on_not_executed,
            count=order.attempt - order.declines,
            code="never_arrived",
            retry_after_us=None,
        )
    return Ignored("the request may still arrive; asked again later")


def ask_again(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """It is time to ask the PSP; past the bound, call a person too, once."""
    if order.wake_at is not None and ctx.now < order.wake_at:
        return Ignored("woken early")
    inquiries = order.inquiries + 1
    overdue = order.state is State.UNKNOWN and ctx.now - order.state_since >= ctx.policy.unknown_bound_us
    call_a_person = overdue and not order.escalated
    asking = _enter(
        order,
        order.state,
        ctx,
        inquiries=inquiries,
        wake_at=ctx.now + ctx.policy.inquiry_wait_us(inquiries),
        escalated=order.escalated or call_a_person,
    )
    records = (DeadLettered(reason="outcome_unknown"),) if call_a_person else ()
    return Decision(order=asking, effects=(Effect.INQUIRE_AT_PSP,), records=records)


def ask_or_expire(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """While the page is open, ask; once it has expired, have the PSP close it and believe its answer."""
    expires_at = order.next_action_expires_at
    if order.wake_at is not None and ctx.now < order.wake_at:
        return Ignored("woken early")
    inquiries = order.inquiries + 1
    wake_at = ctx.now + ctx.policy.inquiry_wait_us(inquiries)
    expired = expires_at is not None and ctx.now >= expires_at
    if expires_at is not None and not expired:
        wake_at = min(wake_at, expires_at)
    asking = _enter(
        order,
        order.state,
        ctx,
        inquiries=inquiries,
        wake_at=wake_at,
        next_action_url=order.next_action_url,
        next_action_expires_at=expires_at,
    )
    return Decision(order=asking, effects=(Effect.VOID_AT_PSP if expired else Effect.INQUIRE_AT_PSP,))


def next_attempt(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """The wait is over: a new attempt, with a key of its own."""
    if order.wake_at is not None and ctx.now < order.wake_at:
        return Ignored("woken early")
    return _begin_attempt(order, ctx)


# --- after the end ---------------------------------------------------------------------------------------------


def resume_risk(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """Recorded, and the verdict was not: ask for it again."""
    return Decision(order=order, effects=(Effect.CHECK_RISK,))


def resume_books(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """Charged, and a book is not written yet. Posting twice is the same as once (rule 7)."""
    if not order.ledger_updated:
        return Decision(order=order, effects=(Effect.POST_TO_LEDGER,))
    if not order.wallet_updated:
        return Decision(order=order, effects=(Effect.CREDIT_WALLET,))
    return Ignored("done")


def ledger_posted(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """The books hold the capture; now the seller's wallet follows."""
    posted = replace(order, ledger_updated=True)
    return Decision(order=posted, effects=() if posted.wallet_updated else (Effect.CREDIT_WALLET,))


def wallet_credited(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """The seller's wallet holds the amount."""
    return Decision(order=replace(order, wallet_updated=True))


def charged_against_belief(order: Order, event: Charged, ctx: Context) -> Outcome:
    """Evidence of a charge that we believed impossible: open a mismatch; the remedy is a refund."""
    if order.state is State.SUCCESS and event.attempt == order.charged_attempt:
        if event.amount != order.amount:
            alarm = _mismatch(order, event, "charged_other_amount", remedy="person")
            return Decision(order=replace(order, version=order.version + 1), records=(alarm,))
        if event.psp_reference is None or event.psp_reference == order.psp_reference:
            return Ignored("known already")
    if order.stray_attempt == event.attempt and order.stray_reference == event.psp_reference:
        return Ignored("known already")
    kind = "charged_twice" if order.state is State.SUCCESS else "charged_after_failed"
    return Decision(
        order=_with_stray(order, event),
        records=(_resolved(event, ctx), _mismatch(order, event, kind, remedy="refund")),
    )


def refused_after_success(order: Order, event: Declined | Voided, ctx: Context) -> Outcome:
    """The PSP says now that the charge we booked did not happen: open a mismatch for a person."""
    if event.attempt != order.charged_attempt:
        return Ignored("about an earlier attempt")
    alarm = _mismatch(order, event, "declined_after_success", remedy="person")
    return Decision(order=replace(order, version=order.version + 1), records=(alarm,))
