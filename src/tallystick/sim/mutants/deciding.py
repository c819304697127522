"""Mutants of decisions: what an order makes of evidence, of the clock, of a restart."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from msgspec.structs import replace

from tallystick.engine import decisions as do
from tallystick.engine import moves
from tallystick.engine.events import (
    CancelRequested,
    Charged,
    Declined,
    EngineRestarted,
    Evidence,
    NotExecuted,
    NotFound,
    OutcomeLost,
    Source,
    Voided,
    WakeTimeReached,
)
from tallystick.engine.order import Order, State
from tallystick.engine.records import Context, Decision, Ignored, Outcome
from tallystick.engine.transitions import Ignore, Move
from tallystick.sim import memory_writes
from tallystick.sim.mutants.frame import Mutant, cells, mutant, replaced

S = State
_ENDS = (S.RETRY_WAIT, S.FAILED, S.CANCELLED, S.SUCCESS)
_FAR = 10**18

# Kept from before anything is replaced.
_charged, _not_executed, _not_found = do.charged, do.not_executed, do.not_found
_outcome_lost, _voided = do.outcome_lost, do.voided
_ask_again, _ask_or_expire = do.ask_again, do.ask_or_expire
_fail = moves.fail


def _believed_dead(order: Order, event: Evidence, ctx: Context) -> Outcome:
    """Treat the current attempt as one that certainly did not charge."""
    if moves.is_about_another(order, event):
        return Ignored("about another attempt")
    return moves.retry_or_fail(
        order,
        event,
        ctx,
        policy=ctx.policy.on_not_executed,
        count=order.attempt,
        code="believed_dead",
        retry_after_us=event.retry_after_us if isinstance(event, NotExecuted) else None,
    )


# --- what is not certain is taken as certain -------------------------------------------------------------------


@mutant(
    rule="rule 3",
    caught_by="no_double_charge",
)
def timeout_taken_as_decline() -> Iterator[None]:
    """A call without an answer is taken as one that did not charge."""

    def lost(order: Order, event: OutcomeLost, ctx: Context) -> Outcome:
        if event.reason.startswith("http_"):
            return _outcome_lost(order, event, ctx)
        return _believed_dead(order, event, ctx)

    with cells(S.EXECUTING, OutcomeLost, by=Move(lost, (S.UNKNOWN, *_ENDS))):
        yield


@mutant(
    rule="rule 3",
    caught_by="belief_equals_truth",
)
def server_error_taken_as_decline() -> Iterator[None]:
    """A 5xx answer is taken as one that did not charge."""

    def lost(order: Order, event: OutcomeLost, ctx: Context) -> Outcome:
        if not event.reason.startswith("http_5"):
            return _outcome_lost(order, event, ctx)
        return _believed_dead(order, event, ctx)

    with cells(S.EXECUTING, OutcomeLost, by=Move(lost, (S.UNKNOWN, *_ENDS))):
        yield


@mutant(
    rule="rule 3",
    caught_by="belief_equals_truth",
)
def crash_taken_as_failure() -> Iterator[None]:
    """After a restart, a call that was under way is taken as one that did not charge."""

    def restarted(order: Order, _: object, ctx: Context) -> Outcome:
        waiting = moves.enter(order, S.RETRY_WAIT, ctx, wake_at=ctx.now, failure_code="engine_restarted")
        return Decision(order=waiting)

    with cells(S.EXECUTING, EngineRestarted, by=Move(restarted, (S.RETRY_WAIT,))):
        yield


@mutant(
    rule="rule 4",
    caught_by="no_double_charge",
)
def not_found_believed_at_once() -> Iterator[None]:
    """An inquiry that finds nothing is believed without a fence and without waiting."""
    with cells(S.UNKNOWN, NotFound, by=Move(_believed_dead, _ENDS)):
        yield


@mutant(
    rule="rule 4",
    caught_by="no_double_charge",
    faults=(
        "key_forgotten",
        "request_delayed",
    ),
)
def window_not_waited_out() -> Iterator[None]:
    """Where nothing can be fenced, "not found" is believed before the request's stated window is over."""

    def not_found(order: Order, event: NotFound, ctx: Context) -> Outcome:
        outcome = _not_found(order, event, ctx)
        waits = isinstance(outcome, Ignored) and outcome.why.startswith("the request may still arrive")
        return _believed_dead(order, event, ctx) if waits else outcome

    with cells(S.UNKNOWN, NotFound, by=Move(not_found, (S.EXECUTING, S.UNKNOWN, *_ENDS))):
        yield


@mutant(
    rule="rule 4",
    caught_by="belief_equals_truth",
    faults=(
        "client_cancels",
        "question_lost",
        "psp_breaks",
        "webhook_lost",
    ),
)
def unanswered_void_believed() -> Iterator[None]:
    """A void that got no answer is taken as done."""

    def lost(order: Order, event: OutcomeLost, ctx: Context) -> Outcome:
        if event.source is not Source.VOID or event.reason != "timeout":
            return Ignored("a question went unanswered; asked again later")
        return _voided(order, Voided(source=event.source, psp=event.psp, attempt=event.attempt), ctx)

    cell = Move(lost, (S.UNKNOWN, S.AWAITING_BUYER, *_ENDS))
    with cells(S.UNKNOWN, OutcomeLost, by=cell), cells(S.AWAITING_BUYER, OutcomeLost, by=cell):
        yield


@mutant(
    rule="rule 3",
    caught_by="no_double_charge",
    faults=(
        "request_delayed",
        "psp_429",
        "psp_4xx",
    ),
)
def earlier_send_forgotten() -> Iterator[None]:
    """That a resend was not executed is believed of the earlier sends, too."""

    def not_executed(order: Order, event: NotExecuted, ctx: Context) -> Outcome:
        return _believed_dead(order, event, ctx) if order.sends > 1 else _not_executed(order, event, ctx)

    with cells(S.EXECUTING, NotExecuted, by=Move(not_executed, (S.UNKNOWN, *_ENDS))):
        yield


@mutant(
    rule="rule 3",
    caught_by="no_double_charge",
    faults=(
        "tight_mailboxes",
        "psp_down",
        "psp_5xx_before",
        "psp_5xx_after",
        "request_delayed",
        "request_lost",
        "response_lost",
        "inquiry_stale",
        "webhook_lost",
    ),
)
def breaker_refusal_believed() -> Iterator[None]:
    """A resend that the circuit breaker held back ends the attempt, although an earlier send went out."""

    def not_executed(order: Order, event: NotExecuted, ctx: Context) -> Outcome:
        if order.sends > 1 and event.reason == "circuit_open":
            return _believed_dead(order, event, ctx)
        return _not_executed(order, event, ctx)

    with cells(S.EXECUTING, NotExecuted, by=Move(not_executed, (S.UNKNOWN, *_ENDS))):
        yield


@mutant(
    rule="rule 6",
    caught_by="one_open_attempt",
)
def failover_on_unknown() -> Iterator[None]:
    """When a call got no answer, the next attempt goes to the other PSP at once."""
    other = {"alpha": "beta", "beta": "alpha"}

    def lost(order: Order, event: OutcomeLost, ctx: Context) -> Outcome:
        if moves.is_about_another(order, event) or order.psp is None:
            return Ignored("about another attempt")
        return moves.begin_attempt(order, replace(ctx, route=other[order.psp]))

    with cells(S.EXECUTING, OutcomeLost, by=Move(lost, (S.EXECUTING,))):
        yield


@mutant(
    rule="rule 5",
    caught_by="no_double_charge",
    faults=("key_forgotten", "request_delayed"),
)
def resend_past_key_lifetime() -> Iterator[None]:
    """An attempt is sent again under its key although the PSP may have forgotten the key."""

    def not_found(order: Order, event: NotFound, ctx: Context) -> Outcome:
        return _not_found(order, event, replace(ctx, policy=replace(ctx.policy, key_lifetime_us=_FAR)))

    with cells(S.UNKNOWN, NotFound, by=Move(not_found, (S.EXECUTING, S.UNKNOWN, *_ENDS))):
        yield


# --- the clock decides what only evidence may ------------------------------------------------------------------


@mutant(
    rule="DESIGN 5: UNKNOWN is left by evidence only",
    caught_by="legal_moves_only",
)
def unknown_given_up() -> Iterator[None]:
    """An outcome that stays unknown is declared a failure after a few inquiries."""

    def wake(order: Order, event: WakeTimeReached, ctx: Context) -> Outcome:
        return _fail(order, ctx, "gave_up") if order.inquiries else _ask_again(order, event, ctx)

    with cells(S.UNKNOWN, WakeTimeReached, by=Move(wake, (S.UNKNOWN, S.FAILED))):
        yield


@mutant(
    rule="DESIGN 5: PENDING is left by evidence",
    caught_by="belief_equals_truth",
)
def pending_given_up() -> Iterator[None]:
    """A pending payment is declared failed at the last poll, whatever the PSP decides later."""

    def wake(order: Order, event: WakeTimeReached, ctx: Context) -> Outcome:
        return _fail(order, ctx, "gave_up") if order.inquiries else _ask_again(order, event, ctx)

    with cells(S.PENDING, WakeTimeReached, by=Move(wake, (S.PENDING, S.FAILED))):
        yield


@mutant(
    rule="DESIGN 5: AWAITING_BUYER is left by evidence",
    caught_by="belief_equals_truth",
)
def page_expiry_believed() -> Iterator[None]:
    """A page whose time is over ends the order, without the PSP's word that it was not paid."""

    def wake(order: Order, event: WakeTimeReached, ctx: Context) -> Outcome:
        expires_at = order.next_action_expires_at
        if expires_at is not None and ctx.now >= expires_at:
            return moves.end_cancelled(order, ctx, "page_expired")
        return _ask_or_expire(order, event, ctx)

    with cells(S.AWAITING_BUYER, WakeTimeReached, by=Move(wake, (S.AWAITING_BUYER, S.CANCELLED))):
        yield


@mutant(
    rule="MISSION: the server may say Retry-After",
    caught_by="waits_are_kept",
)
def retry_after_ignored() -> Iterator[None]:
    """The PSP's Retry-After is not kept; the usual back-off is."""
    original = moves.retry_or_fail

    def retry_or_fail(order: Order, event: Evidence, ctx: Context, **known: Any) -> Outcome:  # noqa: ANN401
        return original(order, event, ctx, **{**known, "retry_after_us": None})

    with replaced(moves, "retry_or_fail", retry_or_fail):
        yield


@mutant(
    rule="MISSION: exponential back-off, Retry-After",
    caught_by="waits_are_kept",
)
def retry_without_waiting() -> Iterator[None]:
    """The next attempt begins at once, without any back-off."""
    original = moves.retry_or_fail

    def retry_or_fail(order: Order, event: Evidence, ctx: Context, **known: Any) -> Outcome:  # noqa: ANN401
        outcome = original(order, event, ctx, **known)
        if isinstance(outcome, Decision) and outcome.order.state is S.RETRY_WAIT:
            return replace(outcome, order=replace(outcome.order, wake_at=ctx.now))
        return outcome

    with replaced(moves, "retry_or_fail", retry_or_fail):
        yield


@mutant(
    rule="STYLE 7: everything is bounded",
    caught_by="nothing_stuck",
)
def declines_not_counted() -> Iterator[None]:
    """A declined card is tried again without end."""
    original = do.declined

    def declined(order: Order, event: Declined, ctx: Context) -> Outcome:
        return original(replace(order, declines=0), event, ctx)

    ends = (*_ENDS,)
    with (
        cells(S.EXECUTING, Declined, by=Move(declined, ends)),
        cells(S.UNKNOWN, Declined, by=Move(declined, ends)),
        cells(S.PENDING, Declined, by=Move(declined, ends)),
    ):
        yield


# --- evidence is taken for what it is not ----------------------------------------------------------------------


@mutant(
    rule="rule 3: UNKNOWN is left by evidence only",
    caught_by="belief_equals_truth",
)
def cancelled_in_flight() -> Iterator[None]:
    """Whoever asks to stop an order is believed to have stopped it, whatever is under way."""
    states = (S.EXECUTING, S.AWAITING_BUYER, S.PENDING, S.UNKNOWN)
    with ExitStack() as stack:
        for state in states:
            stack.enter_context(cells(state, CancelRequested, by=Move(do.cancel, (S.CANCELLED,))))
        yield


@mutant(
    rule="DESIGN 11: belief equals truth",
    caught_by="belief_equals_truth",
    faults=("psp_other_amount",),
)
def amount_not_compared() -> Iterator[None]:
    """A charge counts, whatever its amount."""

    def charged(order: Order, event: Charged, ctx: Context) -> Outcome:
        return _charged(order, replace(event, amount=order.amount), ctx)

    to = (S.SUCCESS, S.UNKNOWN)
    with (
        cells(S.EXECUTING, Charged, by=Move(charged, (*to, S.EXECUTING))),
        cells(S.UNKNOWN, Charged, by=Move(charged, to)),
        cells(S.PENDING, Charged, by=Move(charged, (*to, S.PENDING))),
        cells(S.AWAITING_BUYER, Charged, by=Move(charged, (*to, S.AWAITING_BUYER))),
    ):
        yield


@mutant(
    rule="DESIGN 6: evidence names its attempt",
    caught_by="belief_equals_truth",
)
def attempt_not_compared() -> Iterator[None]:
    """Evidence about an earlier attempt is taken as being about the current one."""
    with replaced(moves, "is_about_another", lambda _, __: False):
        yield


@mutant(
    rule="rule 9",
    caught_by="legal_moves_only",
)
def late_webhook_wins() -> Iterator[None]:
    """A webhook that comes late overrules what an answer or an inquiry has told since."""

    def refused(order: Order, event: Declined | Voided, ctx: Context) -> Outcome:
        if event.source is not Source.WEBHOOK:
            return Ignored("known already")
        return _fail(order, ctx, "declined_by_webhook")

    # The database refuses the move, too; that guard is off as well, or nobody would get this far.
    with (
        cells(S.SUCCESS, Declined, Voided, by=Move(refused, (S.FAILED,))),
        replaced(memory_writes, "forbid_illegal", lambda *_: None),
    ):
        yield


@mutant(
    rule="rule 9",
    caught_by="no_refund_of_nothing",
)
def known_charge_not_recognised() -> Iterator[None]:
    """A charge that is told a second time is taken for a second charge."""
    with replaced(moves, "same_reference", lambda _, __: False):
        yield


@mutant(
    rule="DESIGN 5: contradict",
    caught_by="no_lost_charge",
)
def contradiction_ignored() -> Iterator[None]:
    """A charge of an order that is over, or that was declined before, is not written down."""
    ignore = Ignore("over")
    with cells(S.FAILED, Charged, by=ignore), cells(S.CANCELLED, Charged, by=ignore):
        yield


@mutant(
    rule="rule 6",
    caught_by="no_lost_charge",
    faults=(
        "decline_taken_back",
        "person_retries",
        "response_slow",
        "response_lost",
        "request_delayed",
    ),
)
def stray_charge_forgotten() -> Iterator[None]:
    """An earlier attempt that was charged after all is not remembered."""

    def with_stray(order: Order, _: Charged) -> Order:
        return replace(order, version=order.version + 1)

    with replaced(moves, "with_stray", with_stray):
        yield


MUTANTS: tuple[Mutant, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Mutant))
