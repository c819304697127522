"""Deciding, in tests: one event, and the decision that was demanded."""

from typing import Any

from tests.support.orders import PSP, T0, a_context, decided

from tallystick.engine.events import (
    AnyEvent,
    NotFound,
    OutcomeLost,
    Source,
    Voided,
)
from tallystick.engine.order import Order
from tallystick.engine.records import (
    Decision,
    MismatchOpened,
)
from tallystick.engine.retry import PspPolicy
from tallystick.engine.transitions import step

RESPONSE: dict[str, Any] = {"source": Source.RESPONSE, "psp": PSP, "attempt": 1}
ASKED: dict[str, Any] = {"by": "ann", "why": "the buyer called"}


def after(order: Order, event: AnyEvent, now: int = T0, policy: PspPolicy | None = None) -> Decision:
    """Decide, and demand that something was decided."""
    return decided(step(order, event, a_context(now, policy=policy)))


def lost() -> OutcomeLost:
    """Return the answer that never came."""
    return OutcomeLost(source=Source.RESPONSE, psp=PSP, attempt=1, reason="timeout")


def voided(attempt: int = 1) -> Voided:
    """Return the PSP's word that an attempt's key is dead."""
    return Voided(source=Source.VOID, psp=PSP, attempt=attempt)


def not_found(asked_at: int, attempt: int = 1) -> NotFound:
    """Return an inquiry's empty answer."""
    return NotFound(source=Source.INQUIRY, psp=PSP, attempt=attempt, asked_at=asked_at)


def mismatches(decision: Decision) -> list[tuple[str, int, str]]:
    """Return kind, attempt and remedy of each mismatch that a decision opens."""
    return [(r.kind, r.attempt, r.remedy) for r in decision.records if isinstance(r, MismatchOpened)]
