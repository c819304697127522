"""Mutants of restarts, of the risk check, and of endings: what is left out there leaves an order behind."""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from tallystick.engine import decisions as do
from tallystick.engine import moves
from tallystick.engine.events import (
    EngineRestarted,
    RiskFlagged,
    WakeTimeReached,
)
from tallystick.engine.order import Order, State
from tallystick.engine.records import Context, DeadLettered, Decision, Outcome
from tallystick.engine.transitions import Ignore, Move
from tallystick.sim.mutants.frame import Mutant, cells, mutant, replaced

S = State

# Kept from before anything is replaced.
_fail = moves.fail


@mutant(
    rule="rule 2",
    caught_by="one_open_attempt",
)
def refused_attempt_gets_a_new_key() -> Iterator[None]:
    """A request that was refused is sent anew under another key, although a copy of it may still arrive."""
    with replaced(moves, "try_again", moves.begin_attempt):
        yield


@mutant(
    rule="rule 9",
    caught_by="nothing_stuck",
)
def restart_ignored_in_flight() -> Iterator[None]:
    """After a restart, nobody asks what came of a call that was under way."""
    with cells(S.EXECUTING, EngineRestarted, by=Ignore("the answer will come")):
        yield


@mutant(
    rule="rule 9",
    caught_by="nothing_stuck",
)
def books_not_resumed() -> Iterator[None]:
    """After a restart, nobody posts what was charged and not booked yet."""
    with cells(S.SUCCESS, EngineRestarted, by=Ignore("charged")):
        yield


@mutant(
    rule="MISSION: checks risk",
    caught_by="no_charge_without_clearance",
)
def risk_check_skipped() -> Iterator[None]:
    """An order is executed without its risk check."""
    with cells(S.NOT_STARTED, EngineRestarted, by=Move(do.begin, (S.EXECUTING, S.FAILED))):
        yield


@mutant(
    rule="DESIGN 5: IN_REVIEW",
    caught_by="no_charge_without_clearance",
)
def review_skipped() -> Iterator[None]:
    """An order that the risk check flagged is executed without a person's word."""
    with cells(S.NOT_STARTED, RiskFlagged, by=Move(do.begin, (S.EXECUTING, S.FAILED))):
        yield


@mutant(
    rule="DESIGN 5: IN_REVIEW",
    caught_by="no_charge_without_clearance",
)
def review_expiry_approves() -> Iterator[None]:
    """An order that nobody reviewed in time is executed."""

    def expire(order: Order, event: WakeTimeReached, ctx: Context) -> Outcome:
        return do.next_attempt(order, event, ctx)

    with cells(S.IN_REVIEW, WakeTimeReached, by=Move(expire, (S.EXECUTING, S.FAILED))):
        yield


@mutant(
    rule="MISSION: a dead-letter queue",
    caught_by="every_ending_announced",
)
def dead_letter_forgotten() -> Iterator[None]:
    """A failed order is put before nobody."""

    def fail(order: Order, ctx: Context, code: str, *records: Any) -> Decision:  # noqa: ANN401
        decision = _fail(order, ctx, code, *records)
        kept = tuple(record for record in decision.records if not isinstance(record, DeadLettered))
        return replace(decision, records=kept)

    with replaced(moves, "fail", fail):
        yield


MUTANTS: tuple[Mutant, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Mutant))
