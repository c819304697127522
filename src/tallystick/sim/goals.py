"""What a campaign must have reached, or it has not tested much: declared here, looked at after every campaign.

A generator that never makes an input finds no bug that needs it, and nobody notices: four of TigerBeetle's fuzzers
missed a bug that way. So every state, every deciding cell of the transition table, every fault class, and the
stories that the design tells are goals. `NEVER_MADE` lists, with reasons, what the world cannot make.
"""

from collections.abc import Collection, Mapping

import msgspec

from tallystick.engine.order import State
from tallystick.engine.transitions import TABLE, Contradict, Move
from tallystick.sim import faults
from tallystick.sim.coverage import Triple

_NOT_BEGUN = "no PSP charges what nobody asked for"
_NO_STEPS = "the simulated PSP decides a payment in one step: it does not ask the buyer after it has accepted"
_KEPT = "the simulated PSP's voids come from us alone, and we ask for them in other states"

NEVER_MADE: dict[tuple[str, str], str] = {
    ("NOT_STARTED", "Charged"): _NOT_BEGUN,
    ("IN_REVIEW", "Charged"): _NOT_BEGUN,
    ("EXECUTING", "Voided"): _KEPT,
    ("PENDING", "Voided"): _KEPT,
    ("AWAITING_BUYER", "Accepted"): _NO_STEPS,
    ("PENDING", "BuyerActionRequired"): _NO_STEPS,
    ("RETRY_WAIT", "Accepted"): _NO_STEPS,
    ("RETRY_WAIT", "BuyerActionRequired"): _NO_STEPS,
    ("NOT_STARTED", "CancelRequested"): "an order's actor asks for the risk verdict before it hears anything else",
}
"""Deciding cells that no seed reaches, and why: the generator's blind spots."""

_RARE = {
    ("RETRY_WAIT", "Charged"): 2_000,
    ("UNKNOWN", "Voided"): 2_000,
    ("SUCCESS", "Voided"): 5_000,
    ("CANCELLED", "Charged"): 5_000,
}


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One situation. What is None may be anything; demanded of campaigns of at least `seeds_min` seeds."""

    name: str
    state: str | None = None
    event: str | None = None
    fault: str | None = None
    seeds_min: int = 200

    def is_met(self, triples: Collection[Triple], struck: Mapping[str, int]) -> bool:
        """Say whether the situation was reached."""
        if self.state is None and self.event is None:
            return bool(struck.get(self.fault or ""))
        return any(
            self.state in (None, state) and self.event in (None, event) and self.fault in (None, fault)
            for state, event, fault in triples
        )


def _story(name: str, state: str, event: str, fault: str, *, seeds_min: int = 500) -> Goal:
    return Goal(name=name, state=state, event=event, fault=fault, seeds_min=seeds_min)


_STORIES = (
    _story("charged, the response lost, found by asking", "UNKNOWN", "Charged", "response_lost"),
    _story(
        "asked, and not found, while the request was still on its way", "UNKNOWN", "NotFound", "request_delayed"
    ),
    _story("asked, and not found, in an index that lags", "UNKNOWN", "NotFound", "inquiry_stale"),
    _story("not found at a PSP that forgets keys soon", "UNKNOWN", "NotFound", "key_forgotten"),
    _story("an error answer after the PSP had charged", "UNKNOWN", "Charged", "psp_5xx_after"),
    _story("the webhook comes before the response", "EXECUTING", "Charged", "webhook_early"),
    _story("the webhook comes twice", "SUCCESS", "Charged", "webhook_twice"),
    _story("no webhook, found by polling", "PENDING", "Charged", "webhook_lost"),
    _story("throttled", "EXECUTING", "NotExecuted", "psp_429"),
    _story("the PSP refuses connections", "EXECUTING", "NotExecuted", "psp_down"),
    _story("the PSP works, and answers nothing", "EXECUTING", "OutcomeLost", "psp_breaks"),
    _story("a decline taken back after the order had failed", "FAILED", "Charged", "decline_taken_back"),
    _story(
        "a decline taken back before the next attempt",
        "RETRY_WAIT",
        "Charged",
        "decline_taken_back",
        seeds_min=5_000,
    ),
    _story("3-D Secure or the hosted page abandoned", "AWAITING_BUYER", "WakeTimeReached", "buyer_abandons"),
    _story("a crash at a commit while a call is under way", "EXECUTING", "EngineRestarted", "crash_at_commit"),
    _story("a crash at a call", "EXECUTING", "EngineRestarted", "crash_at_call"),
    _story("a crash between the charge and the books", "SUCCESS", "EngineRestarted", "crash_at_commit"),
    _story("an order's actor dies with a charge in its hand", "SUCCESS", "EngineRestarted", "actor_crash"),
    _story("another engine takes over a call under way", "EXECUTING", "EngineRestarted", "takeover"),
    _story("a charge whose commit nobody answered for", "SUCCESS", "LedgerPosted", "commit_unknown_done"),
    _story("a commit that was lost and repeated", "SUCCESS", "LedgerPosted", "commit_unknown_undone"),
    _story("a timer across a jump of the clock", "RETRY_WAIT", "WakeTimeReached", "clock_jumps"),
    _story("every mailbox full", "EXECUTING", "Charged", "tight_mailboxes"),
    _story("one kind of actor starved", "EXECUTING", "Charged", "actor_starved"),
)


def _all_goals() -> tuple[Goal, ...]:
    states = [Goal(name=f"an order in {state.value}", state=state.value, seeds_min=50) for state in State]
    cells = [
        Goal(
            name=f"{event.__name__} in {state.value}",
            state=state.value,
            event=event.__name__,
            seeds_min=_RARE.get((state.value, event.__name__), 500),
        )
        for state, row in TABLE.items()
        for event, cell in row.items()
        if isinstance(cell, Move | Contradict) and (state.value, event.__name__) not in NEVER_MADE
    ]
    classes = [Goal(name=f"fault {name}", fault=name) for name in faults.BY_NAME]
    return (*states, *cells, *classes, *_STORIES)


GOALS: tuple[Goal, ...] = _all_goals()


def missed(
    triples: Collection[Triple], struck: Mapping[str, int], *, seeds: int, allowed: Collection[str]
) -> list[Goal]:
    """Return the goals that a campaign of `seeds` seeds should have reached, and has not.

    Judged only of campaigns that allow every fault class: the others are asked something narrower.
    """
    if len(allowed) < len(faults.BY_NAME):
        return []
    return [goal for goal in GOALS if seeds >= goal.seeds_min and not goal.is_met(triples, struck)]
