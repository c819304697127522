"""Goal: each rule about certainty, told as a story of one order.

The random walk in test_transition_table.py covers the combinations; here a reader sees what is meant.
"""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.support.decisions import ASKED, RESPONSE, after, lost, not_found, voided
from tests.support.orders import PSP, T0, a_context, an_order, charged, declined, ignored

from tallystick.engine.errors import MoveRefused
from tallystick.engine.events import (
    Accepted,
    AnyEvent,
    BuyerActionRequired,
    CancelRequested,
    EngineRestarted,
    LedgerPosted,
    NotExecuted,
    RetryRequested,
    ReviewApproved,
    RiskAccepted,
    RiskFlagged,
    RiskRefused,
    WakeTimeReached,
    WalletCredited,
)
from tallystick.engine.order import Method, Order, State, idempotency_key
from tallystick.engine.records import (
    AttemptBegun,
    AttemptResent,
    DeadLetterClosed,
    DeadLettered,
    Effect,
)
from tallystick.engine.retry import DAY_US, HOUR_US, MINUTE_US, SECOND_US, PspPolicy, RetryPolicy
from tallystick.engine.transitions import step

# --- the good way ----------------------------------------------------------------------------------------------


def test_a_payment_goes_through() -> None:
    """Risk passes, the attempt is a row before it is sent, the charge is booked in ledger and then wallet."""
    begun = after(an_order(), RiskAccepted())
    assert begun.order.state is State.EXECUTING
    assert begun.records == (AttemptBegun(attempt=1, psp=PSP, idempotency_key="po-1", begun_at=T0),)
    assert begun.effects == (Effect.SEND_TO_PSP,)
    paid = after(begun.order, charged(reference="ch_9"))
    assert (paid.order.state, paid.order.psp_reference, paid.order.charged_attempt) == (State.SUCCESS, "ch_9", 1)
    assert paid.effects == (Effect.POST_TO_LEDGER,)
    posted = after(paid.order, LedgerPosted())
    assert posted.effects == (Effect.CREDIT_WALLET,)
    credited = after(posted.order, WalletCredited())
    assert credited.order.is_done
    assert not posted.order.is_done


def test_an_engine_that_restarts_goes_on_with_the_book_that_is_missing() -> None:
    """Charged and not posted is not charged again: only the books are resumed."""
    assert after(an_order(State.SUCCESS), EngineRestarted()).effects == (Effect.POST_TO_LEDGER,)
    assert after(an_order(State.SUCCESS, ledger_updated=True), EngineRestarted()).effects == (
        Effect.CREDIT_WALLET,
    )
    done = an_order(State.SUCCESS, ledger_updated=True, wallet_updated=True)
    assert ignored(step(done, EngineRestarted(), a_context())) == "done"


def test_a_flagged_order_waits_for_a_person_and_expires() -> None:
    """Nothing is sent while a person decides, and nobody deciding is a no."""
    flagged = after(an_order(), RiskFlagged(reasons=("amount",))).order
    assert (flagged.state, flagged.wake_at) == (State.IN_REVIEW, T0 + 7 * DAY_US)
    assert after(flagged, ReviewApproved(**ASKED)).order.state is State.EXECUTING
    assert ignored(step(flagged, WakeTimeReached(), a_context(T0))) == "woken early"
    assert after(flagged, WakeTimeReached(), T0 + 7 * DAY_US).order.state is State.CANCELLED


# --- unknown is not failed (rules 3, 4, 5) ---------------------------------------------------------------------


@pytest.mark.parametrize("event", [lost(), EngineRestarted()])
def test_a_lost_answer_is_unknown_and_is_asked_about(event: AnyEvent) -> None:
    """A time-out or a crash says nothing about the money: UNKNOWN, never FAILED, never another key."""
    unknown = after(an_order(State.EXECUTING), event)
    assert unknown.order.state is State.UNKNOWN
    assert unknown.effects == (Effect.INQUIRE_AT_PSP,)
    assert (unknown.order.attempt, unknown.order.psp) == (1, PSP)


def test_unknown_stays_unknown_and_calls_a_person_once() -> None:
    """Past the bound a person is called; the order is still asked about, and still not given up."""
    order = an_order(State.UNKNOWN, wake_at=T0)
    late = after(order, WakeTimeReached(), T0 + HOUR_US)
    assert late.records == (DeadLettered(reason="outcome_unknown"),)
    assert (late.order.state, late.order.escalated) == (State.UNKNOWN, True)
    assert late.effects == (Effect.INQUIRE_AT_PSP,)
    assert after(late.order, WakeTimeReached(), T0 + 9 * HOUR_US).records == ()


def test_the_wait_between_inquiries_grows() -> None:
    """Asking is cheap but not free; the last wait repeats."""
    order, now, waits = an_order(State.UNKNOWN, wake_at=T0), T0, []
    for _ in range(6):
        order = after(order, WakeTimeReached(), now).order
        assert order.wake_at is not None
        waits.append((order.wake_at - now) // SECOND_US)
        now = order.wake_at
    assert waits == [10, 60, 300, 3600, 3600, 3600]


def test_not_found_means_send_again_under_the_same_key() -> None:
    """The request may have been lost on the way: the same key makes a resend harmless."""
    again = after(an_order(State.UNKNOWN), not_found(T0))
    assert again.records == (AttemptResent(attempt=1, sends=2, sent_at=T0),)
    assert again.order.idempotency_key == "po-1"


def test_not_found_is_fenced_before_it_is_believed() -> None:
    """After the resends are used up the key is killed; where that cannot be, the PSP's window is waited out."""
    order = an_order(State.UNKNOWN, sends=4)
    assert after(order, not_found(T0)).effects == (Effect.VOID_AT_PSP,)
    mute = PspPolicy(can_void=False)
    # A minute to leave, fifteen to travel.
    early = step(order, not_found(T0 + 16 * MINUTE_US), a_context(T0 + 17 * MINUTE_US, policy=mute))
    assert "may still arrive" in ignored(early)
    sure = after(order, not_found(T0 + 16 * MINUTE_US + 1), T0 + 17 * MINUTE_US, mute)
    assert sure.order.state is State.RETRY_WAIT


def test_nothing_is_sent_under_a_key_that_the_psp_may_have_forgotten() -> None:
    """A resend can arrive a window late; by then the key must still be alive."""
    policy = PspPolicy(key_lifetime_us=HOUR_US)
    order = an_order(State.UNKNOWN)
    assert after(order, not_found(T0), T0 + 43 * MINUTE_US, policy).effects == (Effect.SEND_TO_PSP,)
    believed = after(order, not_found(T0 + 44 * MINUTE_US), T0 + 44 * MINUTE_US, policy)
    assert believed.effects == ()
    assert believed.order.state is State.RETRY_WAIT


# --- refused: the same key again (rule 2) ----------------------------------------------------------------------

REFUSED = NotExecuted(**RESPONSE, reason="throttled", retry_after_us=7 * SECOND_US)


def refused(**changes: Any) -> Order:
    """Return an order whose one send was throttled at T0, seven seconds from being tried again."""
    return after(an_order(State.EXECUTING, **changes), REFUSED).order


def failed_refused(**changes: Any) -> Order:
    """Return an order that has failed, all sends of its last attempt having been refused at T0."""
    return an_order(State.FAILED, declines=0, refusals=1, failure_code="throttled", **changes)


def test_not_executed_is_certain_only_of_that_send() -> None:
    """A refused second send says nothing about a first one whose answer was lost."""
    once = refused()
    assert (once.state, once.wake_at, once.refusals) == (State.RETRY_WAIT, T0 + 7 * SECOND_US, 1)
    assert after(an_order(State.EXECUTING, sends=2), REFUSED).order.state is State.UNKNOWN
    assert after(an_order(State.EXECUTING, sends=2, refusals=1), REFUSED).order.state is State.RETRY_WAIT
    assert after(an_order(State.EXECUTING, sends=3, refusals=1), REFUSED).order.state is State.UNKNOWN


def test_a_refused_request_is_sent_again_under_the_same_key() -> None:
    """A copy of it that comes late is then absorbed by the key; under a new key it would be a second charge."""
    again = after(refused(), WakeTimeReached(), T0 + MINUTE_US)
    assert again.records == (AttemptResent(attempt=1, sends=2, sent_at=T0 + MINUTE_US),)
    assert again.effects == (Effect.SEND_TO_PSP,)
    assert (again.order.attempt, again.order.idempotency_key, again.order.failure_code) == (1, "po-1", None)


def test_a_copy_of_a_refused_request_that_was_charged_is_the_payment() -> None:
    """The webhook comes while the order waits: paid, and nothing more is sent."""
    paid = after(refused(), charged()).order
    assert (paid.state, paid.charged_attempt) == (State.SUCCESS, 1)


def test_a_copy_that_was_accepted_and_declined_makes_room_for_a_new_key() -> None:
    """The PSP has saved a decline under the key now, so the key is of no more use."""
    pending = after(refused(), Accepted(**RESPONSE)).order
    waiting = after(pending, declined()).order
    assert after(waiting, WakeTimeReached(), T0 + HOUR_US).order.attempt == 2


def test_waits_between_refusals_grow_and_end() -> None:
    """Each refused send counts, although the attempt stays the same."""
    policy = PspPolicy(on_not_executed=RetryPolicy(attempts_max=4))
    order, now, waits = an_order(State.EXECUTING), T0, []
    while True:
        order = after(order, NotExecuted(**RESPONSE, reason="circuit_open"), now, policy).order
        if order.wake_at is None:
            break
        waits.append((order.wake_at - now) // SECOND_US)
        now = order.wake_at
        order = after(order, WakeTimeReached(), now, policy).order
    assert waits == [1, 2, 4]
    assert (order.state, order.attempt, order.sends, order.refusals) == (State.FAILED, 1, 4, 4)


def test_long_throttling_does_not_use_up_the_resends() -> None:
    """Forty refused sends, then one whose answer is lost: that one may be sent again, as often as any."""
    order = an_order(State.UNKNOWN, sends=41, refusals=40)
    assert after(order, not_found(T0)).effects == (Effect.SEND_TO_PSP,)
    assert after(replace(order, sends=44), not_found(T0)).effects == (Effect.VOID_AT_PSP,)


@pytest.mark.parametrize("can_void", [True, False])
def test_past_the_key_s_lifetime_a_refused_attempt_is_asked_about_first(can_void: bool) -> None:
    """Its key absorbs no copy any more, and one may have been charged unheard."""
    policy = PspPolicy(can_void=can_void, key_lifetime_us=10 * MINUTE_US)
    asking = after(refused(), WakeTimeReached(), T0 + 7 * SECOND_US, policy)
    assert (asking.order.state, asking.effects) == (State.UNKNOWN, (Effect.INQUIRE_AT_PSP,))
    early = step(asking.order, not_found(T0 + MINUTE_US), a_context(T0 + MINUTE_US, policy=policy))
    assert "may still arrive" in ignored(early)
    now = T0 + 17 * MINUTE_US
    waiting = after(asking.order, not_found(now), now, policy).order
    assert waiting.state is State.RETRY_WAIT
    assert after(waiting, WakeTimeReached(), now + MINUTE_US, policy).order.attempt == 2
    assert after(asking.order, charged(), now, policy).order.state is State.SUCCESS


@pytest.mark.parametrize("can_void", [True, False])
def test_a_refused_order_is_cancelled_when_its_key_is_dead(can_void: bool) -> None:
    """A copy may still come: cancelled is what certainly does not charge."""
    policy = PspPolicy(can_void=can_void)
    asked = after(refused(), CancelRequested(**ASKED), policy=policy)
    assert asked.order.state is State.UNKNOWN
    assert asked.effects == ((Effect.VOID_AT_PSP if can_void else Effect.INQUIRE_AT_PSP),)
    now = T0 + 17 * MINUTE_US
    answer = voided() if can_void else not_found(now)
    assert after(asked.order, answer, now, policy).order.state is State.CANCELLED
    assert after(asked.order, charged(), now, policy).order.state is State.SUCCESS


def test_a_person_s_retry_of_a_refused_order_uses_its_key_again() -> None:
    """Failed for want of patience is not more certain than waiting: the same key while it lives."""
    again = after(failed_refused(), RetryRequested(**ASKED))
    assert AttemptResent(attempt=1, sends=2, sent_at=T0) in again.records
    assert DeadLetterClosed(resolution="retried") in again.records


def test_a_person_s_retry_past_the_key_s_lifetime_asks_and_then_begins() -> None:
    """However old the order is: the person has decided, so the policy's patience does not count."""
    now = T0 + 2 * DAY_US
    asking = after(failed_refused(), RetryRequested(**ASKED), now)
    assert (asking.order.state, asking.effects) == (State.UNKNOWN, (Effect.INQUIRE_AT_PSP,))
    begun = after(asking.order, not_found(now), now).order
    assert (begun.state, begun.attempt, begun.refusals) == (State.EXECUTING, 2, 0)
    assert after(asking.order, charged(), now).order.state is State.SUCCESS


# --- declines and retries --------------------------------------------------------------------------------------


def test_a_soft_decline_waits_for_a_new_attempt_with_a_key_of_its_own() -> None:
    """PSPs replay a saved decline, so the next attempt needs another key (rule 2)."""
    waiting = after(an_order(State.EXECUTING), declined()).order
    assert (waiting.state, waiting.wake_at) == (State.RETRY_WAIT, T0 + 30 * SECOND_US)
    retried = after(waiting, WakeTimeReached(), T0 + 30 * SECOND_US).order
    assert (retried.attempt, retried.idempotency_key) == (2, idempotency_key("po-1", 2))


def test_a_hard_decline_fails_and_a_person_may_look() -> None:
    """A stolen card is not tried again; the order is in the dead-letter queue."""
    failed = after(an_order(State.EXECUTING), declined(hard=True))
    assert failed.order.state is State.FAILED
    assert DeadLettered(reason="stolen_card") in failed.records


def test_no_attempt_begins_later_than_the_policy_allows() -> None:
    """A Retry-After beyond the order's patience ends it."""
    failed = after(an_order(State.EXECUTING), declined(retry_after_us=2 * DAY_US))
    assert failed.order.state is State.FAILED


def test_a_hosted_page_is_opened_again_only_when_nobody_saw_it() -> None:
    """A throttled registration is repeated; a declined page is not opened behind the buyer's back."""
    order = an_order(State.EXECUTING, method=Method.HOSTED_PAGE)
    assert after(order, NotExecuted(**RESPONSE, reason="throttled")).order.state is State.RETRY_WAIT
    assert after(order, declined()).order.state is State.FAILED


def test_a_person_may_retry_a_failed_order_once_more() -> None:
    """From the dead-letter queue: one new attempt, and the letter is closed."""
    again = after(an_order(State.FAILED), RetryRequested(**ASKED))
    assert (again.order.state, again.order.attempt) == (State.EXECUTING, 2)
    assert DeadLetterClosed(resolution="retried") in again.records


def test_an_order_that_the_risk_check_refused_is_not_retried() -> None:
    """The dead-letter queue is no way around the risk check."""
    refused = after(an_order(), RiskRefused(reasons=("sanctions",))).order
    with pytest.raises(MoveRefused):
        step(refused, RetryRequested(**ASKED), a_context())


def test_evidence_of_another_psp_proves_nothing() -> None:
    """A decline by a PSP that was not asked must not begin a second attempt."""
    order = an_order(State.UNKNOWN)
    assert ignored(step(order, declined(psp="psp-b"), a_context())) == "about another attempt"


def test_a_decline_taken_back_and_then_voided_is_still_counted() -> None:
    """The same attempt declined, accepted and voided: patience is counted from one, not from zero."""
    waiting = after(an_order(State.EXECUTING), declined()).order
    pending = after(waiting, Accepted(**RESPONSE)).order
    assert after(pending, voided()).order.state is State.RETRY_WAIT


# --- the buyer -------------------------------------------------------------------------------------------------


def awaiting(method: Method = Method.CARD_TOKEN) -> Order:
    """Return an order whose buyer was sent to a page that is open for ten minutes."""
    page = BuyerActionRequired(**RESPONSE, url="https://psp.example/3ds", expires_at=T0 + 10 * MINUTE_US)
    return after(an_order(State.EXECUTING, method=method), page).order


@pytest.mark.parametrize("method", list(Method))
def test_an_abandoned_page_is_closed_and_not_tried_again(method: Method) -> None:
    """Expiry asks the PSP to close the page; its word ends the order. Nobody is there for a new challenge."""
    order = awaiting(method)
    assert order.next_action_url == "https://psp.example/3ds"
    expired = after(order, WakeTimeReached(), T0 + 10 * MINUTE_US)
    assert expired.effects == (Effect.VOID_AT_PSP,)
    ended = after(expired.order, voided()).order
    assert (ended.state, ended.failure_code) == (State.CANCELLED, "buyer_did_not_pay")


def test_a_page_paid_at_the_last_moment_counts() -> None:
    """The void may come too late; then the PSP says charged, and charged it is."""
    expired = after(awaiting(), WakeTimeReached(), T0 + 10 * MINUTE_US).order
    assert after(expired, charged()).order.state is State.SUCCESS


@pytest.mark.parametrize("answer", [voided(), declined(), declined(hard=True)])
def test_a_cancelled_challenge_is_not_tried_again(answer: AnyEvent) -> None:
    """Somebody asked to stop: whatever says "not charged" ends it."""
    asked = after(awaiting(), CancelRequested(**ASKED))
    assert asked.effects == (Effect.VOID_AT_PSP,)
    assert asked.order.next_action_url is None
    assert after(asked.order, answer).order.state is State.CANCELLED


def test_a_cancel_outlives_a_change_of_mind_of_the_psp() -> None:
    """Accepted, then a page again: the page is closed, not shown."""
    asked = after(awaiting(), CancelRequested(**ASKED)).order
    pending = after(asked, Accepted(**RESPONSE))
    assert pending.effects == (Effect.VOID_AT_PSP,)
    page = BuyerActionRequired(**RESPONSE, url="https://psp.example/again", expires_at=T0 + HOUR_US)
    shown = after(pending.order, page)
    assert shown.effects == (Effect.VOID_AT_PSP,)
    assert shown.order.next_action_url is None


# --- what is written -------------------------------------------------------------------------------------------


def test_idempotency_keys_are_the_order_s_id_and_then_derived() -> None:
    """The same for every resend, another for every attempt, apart from every admissible id, and short enough."""
    keys = [idempotency_key("po-1", attempt) for attempt in range(1, 50)]
    assert keys[0] == "po-1"
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("tsk_") and len(key) == 68 for key in keys[1:])
    assert idempotency_key("x" * 255, 2) != idempotency_key("x" * 254, 2)
    assert keys[1] == "tsk_c1dd3c90e58dfc77d99dc12f74db8e4c8b7162c16f95169e234edd1fdd7aa946"


def test_orders_survive_json() -> None:
    """The log keeps events as JSON; the order's own fields must be plain, too."""
    order = an_order(State.AWAITING_BUYER)
    assert msgspec.json.decode(msgspec.json.encode(order), type=Order) == order
