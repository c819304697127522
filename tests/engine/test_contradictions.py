"""Goal: evidence that contradicts what was believed never becomes a second charge, and is never lost."""

import pytest
from tests.support.decisions import ASKED, RESPONSE, after, mismatches, not_found, voided
from tests.support.orders import PSP, T0, a_context, an_order, charged, declined, ignored

from tallystick.engine.errors import IllegalState, MoveRefused
from tallystick.engine.events import (
    Accepted,
    AnyEvent,
    BuyerActionRequired,
    RetryRequested,
    ReviewApproved,
    RiskAccepted,
    WakeTimeReached,
)
from tallystick.engine.money import Money
from tallystick.engine.moves import begin_attempt
from tallystick.engine.order import Order, State
from tallystick.engine.records import (
    DeadLetterClosed,
    DeadLettered,
    Decision,
    Effect,
)
from tallystick.engine.retry import DAY_US, HOUR_US, MINUTE_US
from tallystick.engine.transitions import step

# --- an earlier attempt was charged after all ------------------------------------------------------------------


def with_stray(state: State) -> Order:
    """Return an order whose second attempt is under way while the first turns out charged."""
    order = an_order(state, attempt=2, declines=1)
    return after(order, charged(1, reference="ch_1")).order


def test_a_stray_charge_pays_when_the_later_attempt_fails() -> None:
    """The buyer has paid once: that is a success, and nothing is to be paid back."""
    paid = after(with_stray(State.EXECUTING), declined(2))
    assert (paid.order.state, paid.order.charged_attempt) == (State.SUCCESS, 1)
    assert mismatches(paid) == []


def test_of_two_charges_one_is_paid_back() -> None:
    """Both attempts charged: the one under way counts, the other is refunded."""
    paid = after(with_stray(State.EXECUTING), charged(2, reference="ch_2"))
    assert paid.order.charged_attempt == 2
    assert mismatches(paid) == [("charged_twice", 1, "refund")]
    again = step(paid.order, charged(1, reference="ch_1"), a_context())
    assert ignored(again) == "known already"


def test_a_third_charge_is_not_lost() -> None:
    """Two earlier attempts charged while a third is under way: each is remembered or paid back."""
    order = after(an_order(State.EXECUTING, attempt=3, declines=2), charged(1)).order
    assert mismatches(after(order, charged(2, reference="ch_2"))) == [("charged_twice", 2, "refund")]


@pytest.mark.parametrize("state", [State.PENDING, State.UNKNOWN, State.AWAITING_BUYER])
def test_a_stray_charge_stops_the_attempt_under_way(state: State) -> None:
    """No resend, no page: the later attempt is voided, for the buyer has paid."""
    order = an_order(state, attempt=2, declines=1)
    marked = after(order, charged(1))
    assert marked.effects == (Effect.VOID_AT_PSP,)
    assert marked.order.next_action_url is None
    assert after(marked.order, voided(2)).order.state is State.SUCCESS


@pytest.mark.parametrize("state", [State.PENDING, State.UNKNOWN])
def test_an_unwanted_attempt_is_stopped_again_and_again_until_the_psp_says_that_it_is(state: State) -> None:
    """The first void may have been lost or come too early; asking alone would let a second charge happen."""
    now, order = T0, with_stray(state)
    for _ in range(5):
        now = max(now, order.wake_at or 0)
        again = after(order, WakeTimeReached(), now=now)
        assert again.effects == (Effect.VOID_AT_PSP,)
        order = again.order


def test_a_payment_that_is_pending_for_days_calls_a_person_once() -> None:
    """The PSP promised to tell and does not: the order stays PENDING, and somebody looks."""
    order = an_order(State.PENDING)
    soon = after(order, WakeTimeReached(), now=T0 + DAY_US)
    assert soon.records == ()
    late = after(order, WakeTimeReached(), now=T0 + 3 * DAY_US)
    assert late.records == (DeadLettered(reason="pending_too_long"),)
    assert late.order.state is State.PENDING
    assert after(late.order, WakeTimeReached(), now=T0 + 4 * DAY_US).records == ()


def test_a_lost_attempt_is_not_sent_again_after_a_stray_charge() -> None:
    """Not found after a stray charge: fence it, do not resend it."""
    assert after(with_stray(State.UNKNOWN), not_found(T0, 2)).effects == (Effect.VOID_AT_PSP,)


def test_a_decline_taken_back_while_waiting_is_a_success() -> None:
    """In RETRY_WAIT no call is under way, so the charge simply counts."""
    assert after(an_order(State.RETRY_WAIT), charged()).order.state is State.SUCCESS


# --- charges that nobody asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.NOT_STARTED, State.IN_REVIEW])
def test_a_charge_before_the_first_attempt_is_paid_back_and_no_attempt_begins(state: State) -> None:
    """Restored from an old backup, say: the PSP knows a charge that we do not. Do not charge once more."""
    marked = after(an_order(state), charged(1))
    assert mismatches(marked) == [("charged_unasked", 1, "refund")]
    go = RiskAccepted() if state is State.NOT_STARTED else ReviewApproved(**ASKED)
    assert after(marked.order, go).order.state is State.FAILED


def test_an_attempt_that_is_none_of_ours_stops_a_waiting_order() -> None:
    """The clock finds a foreign charge and begins nothing."""
    marked = after(an_order(State.RETRY_WAIT), charged(7))
    assert marked.order.state is State.RETRY_WAIT
    assert after(marked.order, WakeTimeReached(), T0 + HOUR_US).order.state is State.FAILED


def test_a_charge_after_failure_is_paid_back_and_the_order_stays_failed() -> None:
    """Late success: one mismatch, a refund, and no retry any more."""
    late = after(an_order(State.FAILED), charged())
    assert late.order.state is State.FAILED
    assert mismatches(late) == [("charged_after_failed", 1, "refund")]
    assert ignored(step(late.order, charged(), a_context())) == "known already"
    with pytest.raises(MoveRefused):
        step(late.order, RetryRequested(**ASKED), a_context())


def test_a_charge_reported_with_and_without_reference_is_one_charge() -> None:
    """An inquiry may lack the reference that the webhook has; paying that back would undo the only charge."""
    paid = after(an_order(State.EXECUTING), charged(reference=None)).order
    assert ignored(step(paid, charged(reference="ch_1"), a_context())) == "known already"
    twice = after(an_order(State.SUCCESS), charged(reference="ch_2"))
    assert mismatches(twice) == [("charged_twice", 1, "refund")]


# --- the wrong amount ------------------------------------------------------------------------------------------

CENT = Money(1, "EUR")


@pytest.mark.parametrize("escalated", [False, True])
def test_a_charge_of_another_amount_goes_to_a_person(escalated: bool) -> None:
    """Also when a person had been called before: this is news."""
    wrong = after(an_order(State.UNKNOWN, escalated=escalated), charged(amount=CENT))
    assert wrong.order.state is State.UNKNOWN
    assert mismatches(wrong) == [("charged_other_amount", 1, "person")]
    assert DeadLettered(reason="charged_other_amount") in wrong.records
    assert "known already" in ignored(step(wrong.order, charged(amount=CENT), a_context()))


def test_nothing_more_is_sent_after_a_charge_of_another_amount() -> None:
    """Neither a stale inquiry nor a late decline makes room for a second charge."""
    order = after(an_order(State.EXECUTING), charged(amount=CENT)).order
    for event in (not_found(T0 + DAY_US), declined(), voided()):
        assert "a person decides" in ignored(step(order, event, a_context(T0 + DAY_US)))


@pytest.mark.parametrize(
    "late",
    [
        Accepted(**RESPONSE),
        BuyerActionRequired(**RESPONSE, url="https://psp.invalid/page", expires_at=T0 + MINUTE_US),
    ],
)
def test_a_late_answer_does_not_take_a_charge_of_another_amount_from_the_person(late: AnyEvent) -> None:
    # Found by the simulator, seed 901: the webhook said what was charged before the response said "accepted".
    order = after(an_order(State.EXECUTING), charged(amount=CENT)).order
    assert "a person decides" in ignored(step(order, late, a_context()))


def second_attempt_charged_other_amount() -> Decision:
    """Return attempt 1 declined, attempt 2 charged, but another amount."""
    again = after(after(an_order(State.EXECUTING), declined()).order, WakeTimeReached(), T0 + DAY_US // 2)
    assert again.order.attempt == 2
    return after(again.order, charged(attempt=2, amount=CENT))


def test_a_decline_that_is_taken_back_pays_where_the_next_attempt_took_another_amount() -> None:
    # Found by the simulator, seed 23591: the stray waited for the end of an attempt that had ended.
    wrong = second_attempt_charged_other_amount()
    paid = after(wrong.order, charged(attempt=1))
    assert (paid.order.state, paid.order.charged_attempt) == (State.SUCCESS, 1)
    assert mismatches(wrong) == [("charged_other_amount", 2, "person")]
    assert mismatches(paid) == []


def test_a_stray_pays_where_the_attempt_that_it_waited_for_takes_another_amount() -> None:
    again = after(after(an_order(State.EXECUTING), declined()).order, WakeTimeReached(), T0 + DAY_US // 2)
    stray = after(again.order, charged(attempt=1))
    assert stray.order.state is State.EXECUTING
    paid = after(stray.order, charged(attempt=2, amount=CENT))
    assert (paid.order.state, paid.order.charged_attempt) == (State.SUCCESS, 1)
    assert mismatches(paid) == [("charged_other_amount", 2, "person")]


def test_the_right_amount_after_the_wrong_one_is_a_success() -> None:
    """A report corrected by the PSP closes the letter; the mismatch stays for the person to see."""
    order = after(an_order(State.EXECUTING), charged(amount=CENT)).order
    paid = after(order, charged())
    assert paid.order.state is State.SUCCESS
    assert DeadLetterClosed(resolution="charged") in paid.records


def test_a_decline_after_success_goes_to_a_person() -> None:
    """What is booked is not unbooked by a late message."""
    odd = after(an_order(State.SUCCESS), declined())
    assert odd.order.state is State.SUCCESS
    assert mismatches(odd) == [("declined_after_success", 1, "person")]


def test_beginning_an_attempt_on_top_of_a_charge_is_a_bug_that_stops() -> None:
    """The last line of defence raises; it never becomes a payment result."""
    with pytest.raises(IllegalState):
        begin_attempt(an_order(State.RETRY_WAIT, stray_attempt=1, stray_psp=PSP), a_context())
    with pytest.raises(IllegalState):
        begin_attempt(an_order(State.UNKNOWN, charged_attempt=1), a_context())
