"""The handlers behind the transition table: each decides what one event means for an order in one state.

Every handler is pure: (order, event, context) -> Decision or Ignored. What must happen outside is named in
`Decision.effects` and is done after the commit; what must be written with the move is in `Decision.records`.
A decision whose order has the same version as before has nothing to write.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tallystick.engine import moves
from tallystick.engine.errors import MoveRefused
from tallystick.engine.events import (
    Accepted,
    AnyEvent,
    BuyerActionRequired,
    CancelRequested,
    Charged,
    Declined,
    NotExecuted,
    NotFound,
    OutcomeLost,
    ReviewRejected,
    RiskFlagged,
    RiskRefused,
    Voided,
)
from tallystick.engine.order import TERMINAL, Method, Order, State
from tallystick.engine.records import (
    AttemptResolved,
    Context,
    DeadLetterClosed,
    DeadLettered,
    Decision,
    Effect,
    Ignored,
    Outcome,
    Published,
)

Handler = Callable[[Order, Any, Context], Outcome]


# --- risk and people -------------------------------------------------------------------------------------------


def begin(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """The order may be executed: commit what is sent for it, before it is sent."""
    if order.stray_attempt is not None:
        return moves.fail(order, ctx, "charged_elsewhere")
    return moves.try_again(order, ctx)


def review(order: Order, event: RiskFlagged, ctx: Context) -> Outcome:
    """A person must decide, within the review's expiry."""
    waiting = moves.enter(order, State.IN_REVIEW, ctx, wake_at=ctx.now + ctx.policy.review_expiry_us)
    return Decision(order=waiting, records=(Published(kind="payment_order.in_review"),))


def refuse_for_risk(order: Order, event: RiskRefused, ctx: Context) -> Outcome:
    """The risk check refused: nothing was sent, nothing will be."""
    return moves.fail(order, ctx, "risk_refused")


def reject(order: Order, event: ReviewRejected, ctx: Context) -> Outcome:
    """A person refused the order in review."""
    return moves.fail(order, ctx, "review_rejected")


def expire_review(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """Nobody decided in time."""
    if order.wake_at is not None and ctx.now < order.wake_at:
        return Ignored("woken early")
    return moves.end_cancelled(order, ctx, "review_expired")


def cancel(order: Order, event: CancelRequested, ctx: Context) -> Outcome:
    """Stop an order of which no attempt has charged or can charge."""
    if order.is_refused:
        # A copy of a refused request may still be charged: the key is killed first, and the PSP's word believed.
        asked = replace(order, failure_code=moves.CANCEL_ASKED)
        fence = Effect.VOID_AT_PSP if moves.can_fence(order, ctx) else Effect.INQUIRE_AT_PSP
        return moves.await_evidence(asked, State.UNKNOWN, ctx, effects=(fence,))
    return moves.end_cancelled(order, ctx, "cancelled")


def cancel_at_psp(order: Order, event: CancelRequested, ctx: Context) -> Outcome:
    """The buyer may be paying at this moment: ask the PSP to close the page, and believe its answer."""
    return Decision(
        order=moves.close_page(order, ctx, failure_code=moves.CANCEL_ASKED), effects=(Effect.VOID_AT_PSP,)
    )


def reopen(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """A person wants it tried again. Safe: FAILED means that every earlier attempt certainly did not charge."""
    if order.stray_attempt is not None:
        raise MoveRefused("payment_order_id", "an attempt of this order was charged after all; refund it instead")
    if order.attempt == 0:
        raise MoveRefused("payment_order_id", "the order was refused before any attempt; place a new one")
    asked = replace(order, failure_code=moves.RETRY_ASKED)
    return moves.try_again(
        asked, ctx, DeadLetterClosed(resolution="retried"), Published(kind="payment_order.reopened")
    )


# --- evidence about a call that may be under way ---------------------------------------------------------------


def charged(order: Order, event: Charged, ctx: Context) -> Outcome:
    """The PSP captured. SUCCESS, unless it is the wrong amount, or an earlier attempt than the one in flight."""
    if moves.is_foreign(order, event):
        return charged_against_belief(order, event, ctx)
    row = moves.resolved(event, ctx)
    if event.amount != order.amount:
        return _charged_other_amount(order, event, ctx, row)
    # Once the later attempt has charged another amount, it has ended, and this charge is the one that pays.
    ended = order.state is State.RETRY_WAIT or order.charged_attempt == order.attempt
    if event.attempt != order.attempt and not ended:
        return _stray(order, event, ctx, row)
    return moves.succeed(
        order, ctx, psp=event.psp, attempt=event.attempt, reference=event.psp_reference, records=(row,)
    )


def _charged_other_amount(order: Order, event: Charged, ctx: Context, row: AttemptResolved) -> Outcome:
    """Money has moved, but not the money that was asked for. A person decides; until then nothing more is sent."""
    if order.charged_attempt == event.attempt:
        return Ignored("known already; a person decides")
    alarm = moves.mismatch(order, event, "charged_other_amount", remedy="person")
    if event.attempt == order.attempt and moves.stray_pays(order):
        # The attempt has ended, and the stray that waited for its end pays for the order.
        return moves.succeed_with_stray(order, ctx, row, alarm)
    seen = replace(order, escalated=True, charged_attempt=event.attempt)
    return moves.await_evidence(seen, State.UNKNOWN, ctx, row, alarm, DeadLettered(reason="charged_other_amount"))


def _stray(order: Order, event: Charged, ctx: Context, row: AttemptResolved) -> Outcome:
    """An attempt believed dead was charged while a later one is under way: stop the later one, if that can be.

    Which of the two counts is decided when the later one has ended; only then is anything paid back.
    """
    if moves.is_known_stray(order, event):
        return Ignored("known already")
    if moves.stray_pays(order):
        alarm = moves.mismatch(order, event, "charged_twice", remedy="refund")
        return Decision(order=replace(order, version=order.version + 1), records=(row, alarm))
    marked = moves.with_stray(order, event)
    if order.state is State.AWAITING_BUYER:
        marked = replace(moves.close_page(marked, ctx), version=marked.version)
    # While a call is under way its answer comes first; what it leads to looks for the stray.
    effects = () if order.state is State.EXECUTING else (Effect.VOID_AT_PSP,)
    return Decision(order=marked, effects=effects, records=(row,))


def declined(order: Order, event: Declined, ctx: Context) -> Outcome:
    """The PSP refused the current attempt: certainly not charged."""
    if moves.is_about_another(order, event):
        return Ignored("about another attempt")
    counted = replace(order, declines=order.declines + 1)
    return moves.retry_or_fail(
        counted,
        event,
        ctx,
        policy=ctx.policy.on_decline(event.decline_class),
        count=counted.declines,
        code=event.code,
        retry_after_us=event.retry_after_us,
    )


def not_executed(order: Order, event: NotExecuted, ctx: Context) -> Outcome:
    """This send had no effect. That is certainty about the attempt only when no other send of it had one."""
    if moves.is_about_another(order, event):
        return Ignored("about another attempt")
    refused = replace(order, refusals=order.refusals + 1)
    if refused.sends > refused.refusals:
        # An earlier send under the same key may have charged; only that key's own answer can tell. This one is not
        # counted as a refusal, so that it counts as a resend, of which there are few before the key is killed.
        return moves.await_evidence(order, State.UNKNOWN, ctx)
    return moves.retry_or_fail(
        refused,
        event,
        ctx,
        policy=ctx.policy.on_not_executed,
        count=moves.attempts_without_answer(order),
        code=event.reason,
        retry_after_us=event.retry_after_us,
    )


def voided(order: Order, event: Voided, ctx: Context) -> Outcome:
    """The attempt's key is dead: it has not charged and cannot any more."""
    if moves.is_about_another(order, event):
        return Ignored("about another attempt")
    row = moves.resolved(event, ctx)
    otherwise = moves.decided_otherwise(order, ctx, row)
    if otherwise is not None:
        return otherwise
    if order.method is Method.HOSTED_PAGE or order.state is State.AWAITING_BUYER:
        # The buyer left the page, or the 3-D Secure challenge; a new attempt would ask an absent person.
        return moves.end_cancelled(
            order, ctx, "buyer_did_not_pay", row, *moves.letter_closed(order, "not charged")
        )
    return moves.retry_or_fail(
        order,
        event,
        ctx,
        policy=ctx.policy.on_not_executed,
        count=moves.attempts_without_answer(order),
        code="voided",
        retry_after_us=None,
    )


def accepted(order: Order, event: Accepted, ctx: Context) -> Outcome:
    """The PSP will tell later: wait for its webhook, and ask now and then."""
    if moves.is_about_another(order, event):
        return Ignored("about another attempt")
    if order.charged_attempt is not None:
        return _left_to_a_person(order, event)
    effects = (Effect.VOID_AT_PSP,) if moves.is_unwanted(order) else ()
    return moves.await_evidence(replace(order, refusals=0), State.PENDING, ctx, effects=effects)


def buyer_must_act(order: Order, event: BuyerActionRequired, ctx: Context) -> Outcome:
    """The buyer must go to a page of the PSP."""
    if moves.is_about_another(order, event):
        return Ignored("about another attempt")
    if order.charged_attempt is not None:
        return _left_to_a_person(order, event)
    if moves.is_unwanted(order):
        closing = moves.close_page(order, ctx, psp_reference=event.psp_reference, refusals=0)
        return Decision(order=closing, effects=(Effect.VOID_AT_PSP,))
    waiting = moves.enter(
        order,
        State.AWAITING_BUYER,
        ctx,
        refusals=0,
        next_action_url=event.url,
        next_action_expires_at=event.expires_at,
        psp_reference=event.psp_reference,
        wake_at=min(event.expires_at, ctx.now + ctx.policy.inquiry_wait_us(0)),
    )
    return Decision(order=waiting)


def _left_to_a_person(order: Order, event: Accepted | BuyerActionRequired) -> Outcome:
    """A charge of another amount is known: the order stays UNKNOWN, and what else is under way is stopped."""
    if event.attempt == order.charged_attempt:
        return Ignored("older than the charge of another amount; a person decides")
    return Decision(order=order, effects=(Effect.VOID_AT_PSP,))


def outcome_lost(order: Order, event: OutcomeLost, ctx: Context) -> Outcome:
    """Nobody knows what came of the call: UNKNOWN, never FAILED, and ask at once."""
    if moves.is_about_another(order, event):
        return Ignored("about another attempt")
    return moves.await_evidence(order, State.UNKNOWN, ctx, effects=(Effect.INQUIRE_AT_PSP,))


def restarted_in_flight(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """The engine ended while a call may have been under way."""
    return moves.await_evidence(order, State.UNKNOWN, ctx, effects=(Effect.INQUIRE_AT_PSP,))


# --- UNKNOWN, PENDING, AWAITING_BUYER: asking ------------------------------------------------------------------


def not_found(order: Order, event: NotFound, ctx: Context) -> Outcome:
    """The PSP knows no such attempt: resend under its key, else fence, and only then believe (rules 4, 5)."""
    if moves.is_about_another(order, event) or order.attempt_begun_at is None or order.last_sent_at is None:
        return Ignored("about another attempt")
    if order.charged_attempt is not None:
        return Ignored("a charge of another amount is known; a person decides")
    policy = ctx.policy
    # Sends that were refused say nothing of the network: long throttling does not use up the resends.
    few = order.sends - order.refusals <= policy.resends_max
    if moves.key_alive(order, ctx) and few and not moves.is_unwanted(order):
        return moves.send_again(order, ctx)
    if moves.can_fence(order, ctx):
        return Decision(order=order, effects=(Effect.VOID_AT_PSP,))
    if event.asked_at > order.last_sent_at + policy.arrives_within_us:
        return _never_arrived(order, event, ctx)
    return Ignored("the request may still arrive; asked again later")


def _never_arrived(order: Order, event: NotFound, ctx: Context) -> Outcome:
    code = "never_arrived"
    if order.failure_code == moves.RETRY_ASKED and not moves.is_unwanted(order):
        # A person wanted the order tried again, whatever the policy's patience; now that is known to be safe.
        row, letter = moves.resolved(event, ctx, code=code), moves.letter_closed(order, "not charged")
        return moves.begin_attempt(order, ctx, row, *letter)
    count, policy = moves.attempts_without_answer(order), ctx.policy.on_not_executed
    return moves.retry_or_fail(order, event, ctx, policy=policy, count=count, code=code, retry_after_us=None)


def ask_again(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """It is time to ask the PSP, or to stop again what must not charge; past the bound, call a person, once."""
    if order.wake_at is not None and ctx.now < order.wake_at:
        return Ignored("woken early")
    inquiries = order.inquiries + 1
    unknown = order.state is State.UNKNOWN
    bound_us = ctx.policy.unknown_bound_us if unknown else ctx.policy.pending_bound_us
    call_a_person = ctx.now - order.state_since >= bound_us and not order.escalated
    asking = moves.enter(
        order,
        order.state,
        ctx,
        inquiries=inquiries,
        wake_at=ctx.now + ctx.policy.inquiry_wait_us(inquiries),
        escalated=order.escalated or call_a_person,
    )
    reason = "outcome_unknown" if unknown else "pending_too_long"
    records = (DeadLettered(reason=reason),) if call_a_person else ()
    # An earlier void may have been lost, or come too early; its answer tells as much as an inquiry's.
    stop = moves.is_unwanted(order) and order.charged_attempt is None and moves.can_fence(order, ctx)
    return Decision(
        order=asking, effects=(Effect.VOID_AT_PSP if stop else Effect.INQUIRE_AT_PSP,), records=records
    )


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
    asking = moves.enter(
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
    """The wait is over: send again under the key that was refused, else a new attempt with a key of its own."""
    if order.wake_at is not None and ctx.now < order.wake_at:
        return Ignored("woken early")
    return begin(order, event, ctx)


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
    ours = 1 <= event.attempt <= order.attempt and (event.attempt != order.attempt or event.psp == order.psp)
    if order.state is State.SUCCESS and event.attempt == order.charged_attempt and event.psp == order.psp:
        if event.amount != order.amount:
            alarm = moves.mismatch(order, event, "charged_other_amount", remedy="person")
            return Decision(order=replace(order, version=order.version + 1), records=(alarm,))
        if moves.same_reference(event.psp_reference, order.psp_reference):
            return Ignored("known already")
    if moves.is_known_stray(order, event):
        return Ignored("known already")
    if order.state is State.SUCCESS:
        kind = "charged_twice"
    else:
        kind = "charged_after_failed" if order.state in TERMINAL else "charged_unasked"
    # A stray that may yet pay for this order is not forgotten for one that is paid back anyway.
    keep = order.state is not State.SUCCESS and moves.stray_pays(order)
    marked = replace(order, version=order.version + 1) if keep else moves.with_stray(order, event)
    rows = (moves.resolved(event, ctx),) if ours else ()
    return Decision(order=marked, records=(*rows, moves.mismatch(order, event, kind, remedy="refund")))


def refused_after_success(order: Order, event: Declined | Voided, ctx: Context) -> Outcome:
    """The PSP says now that the charge we booked did not happen: open a mismatch for a person."""
    if event.attempt != order.charged_attempt or event.psp != order.psp:
        return Ignored("about another attempt")
    alarm = moves.mismatch(order, event, "declined_after_success", remedy="person")
    return Decision(order=replace(order, version=order.version + 1), records=(alarm,))
