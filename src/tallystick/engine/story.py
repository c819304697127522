"""Why an order is where it is, in words: the log of its decisions, told to somebody from support.

Pure: a `Story` in, lines out. Each line says when, what happened, and what was decided because of it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.views import AttemptView, LogEntry, Story

_STANDING = {
    State.NOT_STARTED: "is recorded; the risk check has not answered yet",
    State.IN_REVIEW: "is waiting for a person to review it",
    State.EXECUTING: "is being sent to the PSP at this moment",
    State.AWAITING_BUYER: "is waiting for the buyer to act on the PSP's page",
    State.PENDING: "is accepted by the PSP, which will tell the outcome later",
    State.UNKNOWN: "is of unknown outcome: a call was made, nobody knows what came of it, and the PSP is asked",
    State.RETRY_WAIT: "is certainly not charged, and waiting to be tried again",
    State.SUCCESS: "is charged",
    State.FAILED: "has failed: it is certainly not charged, and no further attempt will be made by itself",
    State.CANCELLED: "is cancelled before anything was charged",
}

_SAID = {
    "response": "the PSP's answer",
    "inquiry": "when asked about it, the PSP",
    "void": "when told to void it, the PSP",
    "webhook": "the PSP's webhook",
    "settlement": "the settlement file",
    "person": "recorded by a person",
}


def instant(at: int) -> str:
    """Write a time (µs) as RFC 3339, UTC, to the millisecond."""
    moment = datetime.fromtimestamp(at // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at % 1_000_000 // 1000:03d}Z"


def standing(order: Order) -> str:
    """Say in one sentence where an order stands."""
    sentence = f"{order.payment_order_id} over {order.amount} {_STANDING[order.state]}"
    if order.state is State.SUCCESS:
        books = {
            (True, True): "ledger and wallet are written",
            (True, False): "the ledger is written, the wallet follows",
            (False, True): "the wallet is written, the ledger follows",
            (False, False): "ledger and wallet follow",
        }
        sentence += f"; {books[order.ledger_updated, order.wallet_updated]}"
    if order.failure_code is not None and order.state is not State.SUCCESS:
        sentence += f" ({order.failure_code})"
    if order.wake_at is not None:
        sentence += f"; looked at again at {instant(order.wake_at)}"
    return sentence + "."


def tell(story: Story) -> list[str]:
    """Tell an order's whole story, oldest first, and end with where it stands."""
    order = story.view.order
    recorded = (
        f"{instant(order.created_at)}  Recorded: checkout {order.checkout_id}, {order.amount} "
        f"to seller {order.seller_account}, by {order.method.replace('_', ' ')}."
    )
    lines = [recorded]
    attempts = {attempt.attempt: attempt for attempt in story.view.attempts}
    lines += [_entry_line(entry, attempts) for entry in story.log]
    lines += [
        f"{instant(transfer.at)}  Ledger: {Money(transfer.amount_minor, transfer.currency)} debited "
        f"{transfer.debit_id}, credited {transfer.credit_id} (entry {transfer.seq}, {transfer.cause})."
        for transfer in story.transfers
    ]
    lines += [
        f"{instant(entry.at)}  Wallet: {Money(entry.available_minor, entry.currency)} became available to "
        f"{entry.seller_account} ({entry.cause})."
        for entry in story.wallet_entries
    ]
    lines += [
        f"{instant(mismatch.opened_at)}  Mismatch {mismatch.kind}: attempt {mismatch.attempt} at {mismatch.psp}, "
        f"{Money(mismatch.amount_minor, mismatch.currency)}; remedy: {mismatch.remedy}."
        for mismatch in story.mismatches
    ]
    if story.dead_letter is not None and story.dead_letter.closed_at is None:
        letter = story.dead_letter
        lines.append(f"{instant(letter.opened_at)}  In the dead-letter queue since then: {letter.reason}.")
    return [*lines, f"Now: {standing(order)}"]


def _entry_line(entry: LogEntry, attempts: dict[int, AttemptView]) -> str:
    return f"{instant(entry.at)}  {_happened(entry)}{_consequence(entry, attempts)}"


_Detail = dict[str, Any]

_EVIDENCE: dict[str, Callable[[_Detail], str]] = {
    "Charged": lambda d: (
        f"charged {Money(d['amount']['minor'], d['amount']['currency'])} (reference {d.get('psp_reference')})"
    ),
    "Declined": lambda d: f"declined, {d['code']} ({d['decline_class']})",
    "NotExecuted": lambda d: f"the request had no effect, {d['reason']}",
    "OutcomeLost": lambda d: f"nothing came back, {d['reason']}",
    "NotFound": lambda _: "no such request",
    "Voided": lambda _: "its key is dead, it never charged and never will",
    "Accepted": lambda _: "accepted, the outcome comes later",
    "BuyerActionRequired": lambda _: "the buyer must act on the PSP's page",
}
_OTHERS: dict[str, Callable[[_Detail], str]] = {
    "RiskAccepted": lambda _: "The risk check let it pass",
    "RiskFlagged": lambda d: f"The risk check wants a person to decide: {'; '.join(d['reasons'])}",
    "RiskRefused": lambda d: f"The risk check refused it: {'; '.join(d['reasons'])}",
    "ReviewApproved": lambda d: f"{d['by']} approved it: {d['why']}",
    "ReviewRejected": lambda d: f"{d['by']} rejected it: {d['why']}",
    "CancelRequested": lambda d: f"{d['by']} asked to cancel it: {d['why']}",
    "RetryRequested": lambda d: f"{d['by']} asked for one more attempt: {d['why']}",
    "WakeTimeReached": lambda _: "Its time had come",
    "EngineRestarted": lambda _: "The engine started again while a call may have been under way",
}


def _happened(entry: LogEntry) -> str:
    detail: _Detail = msgspec.json.decode(entry.detail)
    if entry.event in _EVIDENCE:
        return f"Attempt {detail['attempt']}, {_SAID[detail['source']]}: {_EVIDENCE[entry.event](detail)}"
    return _OTHERS[entry.event](detail)


_CONSEQUENCE = {
    State.RETRY_WAIT: "; certainly not charged, so a new attempt follows later.",
    State.FAILED: "; no further attempt is made by itself, and a dead letter was opened.",
    State.UNKNOWN: "; the outcome is unknown, so the PSP is asked before anything else is done.",
}
_ASKING = frozenset({State.UNKNOWN, State.PENDING, State.AWAITING_BUYER})


def _consequence(entry: LogEntry, attempts: dict[int, AttemptView]) -> str:
    if entry.to_state is entry.from_state:
        asked = entry.event == "WakeTimeReached" and entry.to_state in _ASKING
        return "; the PSP was asked." if asked else "; noted."
    if entry.to_state is State.RETRY_WAIT and entry.event == "NotExecuted":
        return "; so it is sent again later, under the same key."
    if entry.to_state is State.EXECUTING:
        begun = next((attempt for attempt in attempts.values() if attempt.begun_at == entry.at), None)
        if begun is None and attempts:
            return "; sent again under the same key, which cannot charge twice."
        number = f"attempt {begun.attempt} at {begun.psp}" if begun else "a new attempt"
        return f"; {number} was committed as begun, then sent."
    standing_words = _STANDING[entry.to_state].split(":", maxsplit=1)[0]
    return _CONSEQUENCE.get(entry.to_state, f"; the order {standing_words}.")
