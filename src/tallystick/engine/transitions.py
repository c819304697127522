"""The one table of a payment order's life: what each event does in each state.

Theory of operation
-------------------
An order lives in exactly one `State`. Something happens to it: an `Event`. `step(order, event, ctx)` looks up
the cell for (state, event) and returns what shall be written and done; it writes and does nothing itself.
A cell is one of four things:

    move        a handler in `decisions` decides; it may end in the listed states and no other
    ignore      nothing changes, and the cell says why
    refuse      the caller asked for something that makes no sense now: `MoveRefused`
    contradict  evidence against what we believe: the state stays, a mismatch is opened, a remedy is named
                (a handler may find that the evidence only repeats what is known; then nothing changes)

The table is total: a test demands a cell for every pair. No other code assigns a state. The legal moves that
the database enforces, and the diagrams in docs/, are generated from this table.

To add a state: add it to `State` and `PUBLIC_STATUS` in order.py, add its row here, and let the totality test
name the cells you forgot; `make diagrams` redraws the pictures, and a migration adds the new legal moves.

What does not fit in a cell:

* Certainty. FAILED, CANCELLED and RETRY_WAIT mean "certainly not charged". Everything short of certainty is
  UNKNOWN (or PENDING, or AWAITING_BUYER), and those are left by evidence, never because time has passed. The
  clock only makes us ask.
* An attempt may be sent several times under one key (`sends`). "Not executed" is certainty about that send
  alone, so `not_executed` compares `sends` with `refusals`. Even when all were refused, a copy of one may come
  late: the attempt is sent again under the same key, which absorbs the copy, and not begun anew (`try_again`).
* Evidence names its attempt. Evidence about an earlier attempt than the current one is ignored, except that
  it was charged: then the order remembers a stray charge, stops the attempt under way where it can, and no
  further attempt begins. When that attempt has ended, one charge counts and the other, if any, is paid back.
* A charge of another amount than asked for is remembered (`charged_attempt`) and given to a person. The order
  stays UNKNOWN, and nothing more is sent for it.
* A decision that leaves `version` as it was has nothing to write: flags are set by the posting that they
  report, in its own commit, and a restart only repeats effects.
"""

from collections.abc import Mapping

import msgspec

from tallystick.engine import decisions as do
from tallystick.engine.decisions import Handler
from tallystick.engine.errors import IllegalState, MoveRefused
from tallystick.engine.events import (
    EVENTS,
    Accepted,
    AnyEvent,
    BuyerActionRequired,
    CancelRequested,
    Charged,
    Declined,
    EngineRestarted,
    Event,
    LedgerPosted,
    NotExecuted,
    NotFound,
    OutcomeLost,
    RetryRequested,
    ReviewApproved,
    ReviewRejected,
    RiskAccepted,
    RiskFlagged,
    RiskRefused,
    Voided,
    WakeTimeReached,
    WalletCredited,
)
from tallystick.engine.order import Order, State
from tallystick.engine.records import Context, Decision, Ignored, Outcome

S = State


class Move(msgspec.Struct, frozen=True):
    """A handler decides, and the order ends in one of `to`."""

    by: Handler
    to: tuple[State, ...]


class Ignore(msgspec.Struct, frozen=True):
    """Nothing changes."""

    why: str


class Refuse(msgspec.Struct, frozen=True):
    """The caller is told why not."""

    why: str


class Contradict(msgspec.Struct, frozen=True):
    """The state stays; a mismatch is opened unless the handler knows the evidence already."""

    by: Handler


Cell = Move | Ignore | Refuse | Contradict
Row = Mapping[tuple[type[Event], ...], Cell]


def _row(cells: Row) -> dict[type[Event], Cell]:
    """Spread grouped cells into one per event, in the order of EVENTS."""
    spread = {event: cell for events, cell in cells.items() for event in events}
    if len(spread) != sum(map(len, cells)):
        raise IllegalState("an event stands twice in a row of the transition table")
    return {event: spread[event] for event in EVENTS if event in spread}


_RISK = (RiskAccepted, RiskFlagged, RiskRefused)
_REVIEW = (ReviewApproved, ReviewRejected)
_BOOKS = (LedgerPosted, WalletCredited)
# Evidence that, once an order has ended or before it has begun, says nothing about money.
_IDLE_EVIDENCE = (NotExecuted, Accepted, BuyerActionRequired, OutcomeLost, NotFound)

_VERDICT_OLD = Ignore("the risk verdict is known already")
_NOT_IN_REVIEW = Refuse("the order is not in review")
_NOT_FAILED = Refuse("only a failed order can be retried")
_IN_FLIGHT = Refuse("an attempt is under way and may charge; wait for its outcome")
_NO_BOOKS = Ignore("nothing was posted for an order that is not charged")
_ASLEEP = Ignore("asleep: evidence or the scheduler moves it")

# Where a certain failure of the current attempt may lead: on, to an end, or (an earlier attempt charged) success.
_AFTER_FAILURE = (S.RETRY_WAIT, S.FAILED, S.CANCELLED, S.SUCCESS)

TABLE: dict[State, dict[type[Event], Cell]] = {
    S.NOT_STARTED: _row(
        {
            (RiskAccepted,): Move(do.begin, (S.EXECUTING, S.FAILED)),
            (RiskFlagged,): Move(do.review, (S.IN_REVIEW,)),
            (RiskRefused,): Move(do.refuse_for_risk, (S.FAILED,)),
            (CancelRequested,): Move(do.cancel, (S.CANCELLED,)),
            (EngineRestarted,): Move(do.resume_risk, (S.NOT_STARTED,)),
            (WakeTimeReached,): Ignore("waits for the risk verdict, not for a time"),
            (Charged,): Contradict(do.charged_against_belief),
            (Declined, Voided, *_IDLE_EVIDENCE): Ignore("no attempt has begun"),
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.IN_REVIEW: _row(
        {
            (ReviewApproved,): Move(do.begin, (S.EXECUTING, S.FAILED)),
            (ReviewRejected,): Move(do.reject, (S.FAILED,)),
            (WakeTimeReached,): Move(do.expire_review, (S.CANCELLED,)),
            (CancelRequested,): Move(do.cancel, (S.CANCELLED,)),
            (EngineRestarted,): _ASLEEP,
            _RISK: _VERDICT_OLD,
            (Charged,): Contradict(do.charged_against_belief),
            (Declined, Voided, *_IDLE_EVIDENCE): Ignore("no attempt has begun"),
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.EXECUTING: _row(
        {
            (Charged,): Move(do.charged, (S.SUCCESS, S.UNKNOWN, S.EXECUTING)),
            (Declined,): Move(do.declined, _AFTER_FAILURE),
            (NotExecuted,): Move(do.not_executed, (*_AFTER_FAILURE, S.UNKNOWN)),
            (Voided,): Move(do.voided, _AFTER_FAILURE),
            (Accepted,): Move(do.accepted, (S.PENDING,)),
            (BuyerActionRequired,): Move(do.buyer_must_act, (S.AWAITING_BUYER,)),
            (OutcomeLost,): Move(do.outcome_lost, (S.UNKNOWN,)),
            (EngineRestarted,): Move(do.restarted_in_flight, (S.UNKNOWN,)),
            (NotFound,): Ignore("asked before the send that is under way"),
            (WakeTimeReached,): Ignore("waits for the answer of a call, not for a time"),
            (CancelRequested,): _IN_FLIGHT,
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.AWAITING_BUYER: _row(
        {
            (Charged,): Move(do.charged, (S.SUCCESS, S.UNKNOWN, S.AWAITING_BUYER)),
            (Declined,): Move(do.declined, _AFTER_FAILURE),
            (Voided,): Move(do.voided, _AFTER_FAILURE),
            (Accepted,): Move(do.accepted, (S.PENDING,)),
            (WakeTimeReached,): Move(do.ask_or_expire, (S.AWAITING_BUYER,)),
            (CancelRequested,): Move(do.cancel_at_psp, (S.AWAITING_BUYER,)),
            (BuyerActionRequired,): Ignore("the buyer has been sent to that page"),
            (NotExecuted, OutcomeLost): Ignore("a question failed, not the payment; asked again later"),
            (NotFound,): Ignore("the page was registered; the PSP's index lags behind"),
            (EngineRestarted,): _ASLEEP,
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.PENDING: _row(
        {
            (Charged,): Move(do.charged, (S.SUCCESS, S.UNKNOWN, S.PENDING)),
            (Declined,): Move(do.declined, _AFTER_FAILURE),
            (Voided,): Move(do.voided, _AFTER_FAILURE),
            (BuyerActionRequired,): Move(do.buyer_must_act, (S.AWAITING_BUYER,)),
            (WakeTimeReached,): Move(do.ask_again, (S.PENDING,)),
            (Accepted,): Ignore("known already"),
            (NotExecuted, OutcomeLost): Ignore("a question failed, not the payment; asked again later"),
            (NotFound,): Ignore("the PSP accepted it; its index lags behind"),
            (CancelRequested,): _IN_FLIGHT,
            (EngineRestarted,): _ASLEEP,
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.UNKNOWN: _row(
        {
            (Charged,): Move(do.charged, (S.SUCCESS, S.UNKNOWN)),
            (Declined,): Move(do.declined, _AFTER_FAILURE),
            (Voided,): Move(do.voided, _AFTER_FAILURE),
            (Accepted,): Move(do.accepted, (S.PENDING, S.UNKNOWN)),
            (BuyerActionRequired,): Move(do.buyer_must_act, (S.AWAITING_BUYER, S.UNKNOWN)),
            (NotFound,): Move(do.not_found, (S.EXECUTING, S.UNKNOWN, *_AFTER_FAILURE)),
            (WakeTimeReached,): Move(do.ask_again, (S.UNKNOWN,)),
            (NotExecuted,): Ignore("one send had no effect; another may have had one"),
            (OutcomeLost,): Ignore("a question went unanswered; asked again later"),
            (CancelRequested,): _IN_FLIGHT,
            (EngineRestarted,): _ASLEEP,
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.RETRY_WAIT: _row(
        {
            (WakeTimeReached,): Move(do.next_attempt, (S.EXECUTING, S.UNKNOWN, S.FAILED)),
            # The PSP takes back its decline, or a copy of a refused request came late: no new attempt may begin
            # before this one has ended.
            (Charged,): Move(do.charged, (S.SUCCESS, S.UNKNOWN, S.RETRY_WAIT)),
            (Accepted,): Move(do.accepted, (S.PENDING,)),
            (BuyerActionRequired,): Move(do.buyer_must_act, (S.AWAITING_BUYER,)),
            (CancelRequested,): Move(do.cancel, (S.CANCELLED, S.UNKNOWN)),
            (Declined, Voided): Ignore("known already"),
            (NotExecuted, OutcomeLost, NotFound): Ignore("the attempt has ended without a charge"),
            (EngineRestarted,): _ASLEEP,
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.SUCCESS: _row(
        {
            (LedgerPosted,): Move(do.ledger_posted, (S.SUCCESS,)),
            (WalletCredited,): Move(do.wallet_credited, (S.SUCCESS,)),
            (EngineRestarted,): Move(do.resume_books, (S.SUCCESS,)),
            (Charged,): Contradict(do.charged_against_belief),
            (Declined, Voided): Contradict(do.refused_after_success),
            _IDLE_EVIDENCE: Ignore("late: the order is charged"),
            (WakeTimeReached,): Ignore("nothing is left to wait for"),
            (CancelRequested,): Refuse("the order is charged; refund it instead"),
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
        }
    ),
    S.FAILED: _row(
        {
            (RetryRequested,): Move(do.reopen, (S.EXECUTING, S.UNKNOWN)),
            (Charged,): Contradict(do.charged_against_belief),
            (Declined, Voided, *_IDLE_EVIDENCE): Ignore("late: the order has failed, without a charge"),
            (EngineRestarted, WakeTimeReached): Ignore("nothing is left to do"),
            (CancelRequested,): Refuse("the order has failed already"),
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            _BOOKS: _NO_BOOKS,
        }
    ),
    S.CANCELLED: _row(
        {
            (Charged,): Contradict(do.charged_against_belief),
            (Declined, Voided, *_IDLE_EVIDENCE): Ignore("late: the order was cancelled, without a charge"),
            (EngineRestarted, WakeTimeReached): Ignore("nothing is left to do"),
            (CancelRequested,): Ignore("cancelled already"),
            _RISK: _VERDICT_OLD,
            _REVIEW: _NOT_IN_REVIEW,
            (RetryRequested,): _NOT_FAILED,
            _BOOKS: _NO_BOOKS,
        }
    ),
}


def step(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
    """Decide what `event` means for `order`. Pure.

    Returns a Decision (write it, then do its effects) or Ignored (nothing changes, and why).
    Raises MoveRefused when a caller asked for something that the order's state does not allow, and IllegalState
    when a handler left the path that its cell allows, which is a bug of ours.
    """
    cell = TABLE[order.state][type(event)]
    match cell:
        case Ignore(why):
            return Ignored(why)
        case Refuse(why):
            raise MoveRefused("payment_order_id", why)
        case Move(by, to):
            return _checked(order, event, by(order, event, ctx), to)
        case Contradict(by):
            return _checked(order, event, by(order, event, ctx), (order.state,))


def _checked(order: Order, event: AnyEvent, outcome: Outcome, to: tuple[State, ...]) -> Outcome:
    if isinstance(outcome, Decision) and outcome.order.state not in to:
        raise IllegalState(f"{order.state} on {type(event).__name__} went to {outcome.order.state}, not in {to}")
    return outcome


def legal_moves() -> frozenset[tuple[State, State]]:
    """Return every (from, to) pair of different states that the table allows; the database enforces the same."""
    return frozenset(
        (state, to)
        for state, row in TABLE.items()
        for cell in row.values()
        if isinstance(cell, Move)
        for to in cell.to
        if to is not state
    )
