"""Goal: the table is total and says what it does; a random life never leaves it, and never charges twice.

The property walks orders through random events, right and wrong ones, beside a model of the money that knows only
which evidence was shown. Each safeguard is then switched off, and the same property must notice.
"""

import random
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.orders import AMOUNT, PSP, T0, a_context, an_order

from tallystick.engine import moves, transitions
from tallystick.engine.errors import IllegalState, MoveRefused
from tallystick.engine.events import (
    EVENTS,
    Accepted,
    AnyEvent,
    BuyerActionRequired,
    CancelRequested,
    Charged,
    DeclineClass,
    Declined,
    Event,
    Evidence,
    NotExecuted,
    NotFound,
    OutcomeLost,
    RetryRequested,
    ReviewApproved,
    ReviewRejected,
    RiskAccepted,
    RiskFlagged,
    RiskRefused,
    Source,
    Voided,
    WakeTimeReached,
)
from tallystick.engine.money import Money
from tallystick.engine.order import PUBLIC_STATUS, TERMINAL, Method, Order, State
from tallystick.engine.records import (
    AttemptBegun,
    AttemptResent,
    Context,
    DeadLettered,
    Decision,
    Effect,
    Ignored,
    MismatchOpened,
)
from tallystick.engine.retry import DAY_US, HOUR_US, MINUTE_US, SECOND_US, PspPolicy, RetryPolicy
from tallystick.engine.transitions import TABLE, Contradict, Ignore, Move, Refuse, legal_moves, step

_SLEEPING = {State.IN_REVIEW, State.AWAITING_BUYER, State.PENDING, State.UNKNOWN, State.RETRY_WAIT}


def test_every_pair_of_state_and_event_has_a_cell() -> None:
    """Totality: what can happen is decided beforehand, for every state."""
    missing = [(state, event.__name__) for state in State for event in EVENTS if event not in TABLE[state]]
    assert missing == []
    assert set(TABLE) == set(State) == set(PUBLIC_STATUS)


def test_events_are_all_the_subclasses_that_can_happen() -> None:
    """A new event class that is not in EVENTS would have no column."""
    assert {*Evidence.__subclasses__(), *Event.__subclasses__()} - {Evidence} == set(EVENTS)


def test_every_cell_says_why_or_where() -> None:
    """An ignore or a refusal is an answer to a person; a move names its ends."""
    for state, row in TABLE.items():
        for event, cell in row.items():
            match cell:
                case Ignore(why) | Refuse(why):
                    assert len(why) > 5, (state, event)
                case Move(_, to):
                    assert len(set(to)) == len(to) >= 1, (state, event)
                case Contradict():
                    assert event in {Charged, Declined, Voided}, (state, event)


def test_ended_orders_are_left_by_a_person_alone() -> None:
    """Nothing that the outside does leaves a terminal state."""
    exits = {
        (state, event.__name__, to)
        for state in TERMINAL
        for event, cell in TABLE[state].items()
        if isinstance(cell, Move)
        for to in cell.to
        if to is not state
    }
    assert exits == {(State.FAILED, "RetryRequested", to) for to in (State.EXECUTING, State.UNKNOWN)}


def test_the_clock_never_ends_an_attempt_under_way() -> None:
    """UNKNOWN, PENDING, AWAITING_BUYER and EXECUTING are left by evidence; time only makes us ask (rule 3)."""
    for state in (State.UNKNOWN, State.PENDING, State.AWAITING_BUYER, State.EXECUTING):
        cell = TABLE[state][WakeTimeReached]
        assert not isinstance(cell, Move) or cell.to == (state,)


def test_legal_moves_are_the_table_s() -> None:
    """The list that the database enforces has the moves one would expect, and not the ones that lose money."""
    legal = legal_moves()
    assert (State.NOT_STARTED, State.EXECUTING) in legal
    assert (State.SUCCESS, State.FAILED) not in legal
    assert (State.CANCELLED, State.EXECUTING) not in legal
    assert not any(source is target for source, target in legal)


def test_a_handler_that_leaves_its_cell_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is a promise; a handler that breaks it is a bug of ours, not a payment result."""
    row = dict(TABLE[State.EXECUTING])
    row[OutcomeLost] = Move(_fails, (State.UNKNOWN,))
    monkeypatch.setitem(TABLE, State.EXECUTING, row)
    with pytest.raises(IllegalState):
        step(
            an_order(State.EXECUTING),
            OutcomeLost(source=Source.RESPONSE, psp=PSP, attempt=1, reason="timeout"),
            a_context(),
        )


def _fails(order: Order, event: AnyEvent, ctx: Context) -> Decision:
    return moves.fail(order, ctx, "timeout")


def test_an_event_listed_twice_in_a_row_is_refused() -> None:
    """Two answers for one pair would make the table a matter of order."""
    with pytest.raises(IllegalState):
        transitions._row({(Charged,): Ignore("a"), (Charged, Voided): Ignore("b")})


# --- the random life -------------------------------------------------------------------------------------------

_WAITS_US = (0, SECOND_US, 30 * SECOND_US, 5 * MINUTE_US, 20 * MINUTE_US, HOUR_US, 26 * HOUR_US)
_POLICIES = (
    PspPolicy(),
    PspPolicy(can_void=False, resends_max=0),
    PspPolicy(resends_max=1, key_lifetime_us=HOUR_US, on_hard_decline=RetryPolicy(attempts_max=4)),
    PspPolicy(on_soft_decline=RetryPolicy(attempts_max=9, elapsed_max_us=30 * DAY_US), unknown_bound_us=MINUTE_US),
)


class Model:
    """What must be so, from the evidence alone. Knows no handler."""

    def __init__(self, policy: PspPolicy) -> None:
        self.policy = policy
        self.charges: dict[tuple[str, int], Money] = {}
        self.not_charged: dict[int, bool] = {}
        self.remedied: dict[tuple[str, int], str] = {}
        self.psps: dict[int, str] = {}

    def see(self, order: Order, event: AnyEvent) -> None:
        """Note what an event proves, before the engine decides about it."""
        if not isinstance(event, Evidence):
            return
        if isinstance(event, Charged):
            self.charges.setdefault((event.psp, event.attempt), event.amount)
        if (event.psp, event.attempt) != (order.psp, order.attempt):
            return
        self.not_charged[event.attempt] = self.not_charged.get(event.attempt, False) or self._proves(order, event)
        # After an end, "accepted" is the first answer come late. Before it, the PSP may have changed its mind.
        if isinstance(event, Accepted | BuyerActionRequired) and order.state not in TERMINAL:
            self.not_charged[event.attempt] = False

    def _proves(self, order: Order, event: Evidence) -> bool:
        match event:
            case Declined() | Voided():
                return True
            case NotFound(asked_at=asked_at):
                return asked_at > (order.last_sent_at or 0) + self.policy.arrives_within_us
            case _:
                return False

    def judge(self, before: Order, event: AnyEvent, decision: Decision, now: int) -> None:
        """Fail when the decision could move money that it must not move, or loses sight of money that moved."""
        after = decision.order
        sends = Effect.SEND_TO_PSP in decision.effects
        begun = [record for record in decision.records if isinstance(record, AttemptBegun)]
        resent = [record for record in decision.records if isinstance(record, AttemptResent)]
        assert sends == bool(begun or resent), "a send is committed as a row before it goes out (rule 1)"
        assert after.attempt == before.attempt + len(begun)
        if sends:
            assert after.state is State.EXECUTING
            assert not self.charges, "nothing more is sent once a charge of this order is known"
        for row in begun:
            self.psps[row.attempt] = row.psp
        if begun and before.attempt:
            assert self.not_charged[before.attempt], "a new attempt needs certainty about the last (rule 2)"
        if resent:
            assert before.attempt_begun_at is not None
            assert now + self.policy.arrives_within_us < before.attempt_begun_at + self.policy.key_lifetime_us
            assert after.idempotency_key == before.idempotency_key
        for record in decision.records:
            if isinstance(record, MismatchOpened):
                self.remedied.setdefault((record.psp, record.attempt), record.remedy)
        if after.state in TERMINAL:
            self._account(after)

    def _account(self, order: Order) -> None:
        """Every charge that was ever shown either counts, or is in a mismatch; never both, never neither."""
        counted = set()
        if order.state is State.SUCCESS:
            assert order.psp is not None
            assert order.charged_attempt is not None
            counted = {(order.psp, order.charged_attempt)}
            assert self.charges.get((order.psp, order.charged_attempt)) is not None, "SUCCESS needs a charge"
        for charge in self.charges:
            if charge in counted:
                assert self.remedied.get(charge) != "refund", "the charge that counts must not be paid back"
            else:
                assert charge in self.remedied, f"the charge {charge} is neither counted nor remedied"


class Choices:
    """A number read as a sequence of choices: quick to draw by the thousand, and it shrinks."""

    def __init__(self, number: int) -> None:
        self._rest = number

    def of(self, *options: Any) -> Any:
        """Choose one of the options."""
        self._rest, index = divmod(self._rest, len(options))
        return options[index]


def _event(choose: Choices, order: Order, now: int, psps: dict[int, str]) -> AnyEvent:
    attempt = choose.of(order.attempt, order.attempt, max(0, order.attempt - 1), order.attempt + 1, 1)
    psp = psps.get(attempt, PSP)
    # An order knows the PSP of its current attempt alone, so only there (and beyond) can a wrong one be noticed.
    if attempt >= order.attempt:
        psp = choose.of(psp, psp, psp, "psp-b")
    about = {"source": choose.of(*Source), "psp": psp, "attempt": attempt}
    after = {"retry_after_us": choose.of(None, 0, SECOND_US, HOUR_US)}
    who = {"by": "ann", "why": "because"}
    kind = choose.of(*EVENTS, RiskAccepted, WakeTimeReached, WakeTimeReached, Charged)
    fields: dict[type[Event], dict[str, Any]] = {
        Charged: about | {"amount": choose.of(AMOUNT, AMOUNT, AMOUNT, Money(1, "EUR"))},
        Declined: about | after | {"code": "code", "decline_class": choose.of(*DeclineClass)},
        NotExecuted: about | after | {"reason": "throttled"},
        BuyerActionRequired: about | {"url": "https://psp.example/page", "expires_at": now + 10 * MINUTE_US},
        OutcomeLost: about | {"reason": "timeout"},
        NotFound: about | {"asked_at": now - choose.of(0, SECOND_US, HOUR_US)},
        Accepted: about,
        Voided: about,
        RiskFlagged: {"reasons": ("amount",)},
        RiskRefused: {"reasons": ("amount",)},
        ReviewApproved: who,
        ReviewRejected: who,
        CancelRequested: who,
        RetryRequested: who,
    }
    return cast("AnyEvent", kind(**fields.get(kind, {})))


def _live(start: int, numbers: list[int]) -> None:
    """Walk one order through events, judged at each."""
    choose = Choices(start)
    order = an_order(method=choose.of(*Method), version=0)
    policy = choose.of(*_POLICIES)
    model, now = Model(policy), T0
    for number in numbers:
        choose = Choices(number)
        now += choose.of(*_WAITS_US)
        event = _event(choose, order, now, model.psps)
        ctx = a_context(now, policy=policy, jitter=now % 1000, route=choose.of(PSP, "psp-b"))
        model.see(order, event)
        cell = TABLE[order.state][type(event)]
        try:
            outcome = step(order, event, ctx)
        except MoveRefused:
            assert isinstance(cell, Refuse) or isinstance(event, RetryRequested)
            continue
        if isinstance(outcome, Ignored):
            assert not isinstance(cell, Refuse)
            continue
        _check_shape(order, event, outcome)
        model.judge(order, event, outcome, now)
        order = outcome.order


def _check_shape(before: Order, event: AnyEvent, decision: Decision) -> None:
    after = decision.order
    assert after.version in {before.version, before.version + 1}
    if after.version == before.version:
        assert decision.records == (), "what has no version has nothing to write"
        assert after.state is before.state
    if after.state is not before.state:
        assert (before.state, after.state) in legal_moves()
        assert before.state not in TERMINAL or isinstance(event, RetryRequested)
    assert (after.wake_at is not None) == (after.state in _SLEEPING), "asleep means: somebody will wake it"
    if after.state is State.FAILED and before.state is not State.FAILED:
        assert any(isinstance(record, DeadLettered) for record in decision.records)
    for name in ("payment_order_id", "checkout_id", "seller_account", "amount", "method", "created_at"):
        assert getattr(after, name) == getattr(before, name)


_LIFE = (st.integers(0, 2**8), st.lists(st.integers(0, 2**32), min_size=1, max_size=30))


@settings(max_examples=3000, deadline=None)
@given(*_LIFE)
def test_a_random_life_never_leaves_the_table_and_never_charges_twice(start: int, numbers: list[int]) -> None:
    """Right evidence, wrong evidence, late evidence, other PSPs, restarts, people: in any order."""
    _live(start, numbers)


_OFF: dict[str, Callable[..., object]] = {
    "is_unwanted": lambda _order: False,
    "is_about_another": lambda _order, _event: False,
    "is_foreign": lambda _order, _event: False,
    "stray_pays": lambda _order: False,
    "decided_otherwise": lambda _order, _ctx, _row: None,
}


@pytest.mark.parametrize("safeguard", _OFF)
def test_the_property_notices_when_a_safeguard_is_off(safeguard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The property's own power: without any one of these it must fail."""
    monkeypatch.setattr(moves, safeguard, _OFF[safeguard])
    rng = random.Random(7)

    def many_lives() -> None:
        for _ in range(60_000):
            _live(rng.randrange(2**8), [rng.randrange(2**32) for _ in range(30)])

    with pytest.raises((AssertionError, IllegalState)):
        many_lives()
