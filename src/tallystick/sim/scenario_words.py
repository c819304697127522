"""The trace of a scenario in words: one line a step, for a reader who knows nothing of the code."""

from collections.abc import Callable, Iterator
from typing import Any

from tallystick.engine.events import AnyEvidence, BuyerActionRequired, Charged, Declined, NotExecuted, OutcomeLost
from tallystick.sim import faults
from tallystick.sim.clock import SECOND_US
from tallystick.sim.psp.model import Payment
from tallystick.sim.psp.units import to_iso
from tallystick.sim.scenario import ONLY_HERE
from tallystick.sim.trace import Step, Trace

_ASKS = {
    "charge": "is asked to charge",
    "register": "is asked for a page for",
    "inquire": "is asked what became of",
    "void": "is told to void",
}
_WRITES = {"accept": "the checkout", "post": "the ledger's entry", "credit": "the wallet's entry"}


def trace_in_words(trace: Trace) -> Iterator[str]:
    """Return every step that says something, with its time in seconds since the start."""
    for step in trace.steps:
        words = step_in_words(step)
        if words is not None:
            yield f"{step.at_us / SECOND_US:>12.4f} s  {words}"


def step_in_words(step: Step) -> str | None:
    """Return a step in words; None for one that only the machinery cares about."""
    if step.actor == "faults":
        about = ONLY_HERE.get(step.kind) or faults.BY_NAME[step.kind].about
        return f"!! {step.kind}{f' ({step.payload})' if step.payload else ''}: {about}"
    if step.kind in _ASKS:
        # The kind beside it says which payload it is.
        return f"{step.actor} {_ASKS[step.kind]} {step.payload.payment_order_id}"  # type: ignore[union-attr]
    words = _KINDS.get(step.kind)
    if words is None:
        return None if step.kind in _SILENT else f"{step.actor}: {step.kind.replace('_', ' ')}"
    return words(step.actor, step.payload)


def evidence_in_words(answer: AnyEvidence) -> str:
    """Return what a PSP said, as the end of a sentence."""
    match answer:
        case Charged(amount=amount):
            return f"charged {amount}"
        case Declined(code=code, decline_class=decline_class):
            return f"declined, {code} ({decline_class})"
        case NotExecuted(reason=reason) | OutcomeLost(reason=reason):
            return f"{'no effect' if isinstance(answer, NotExecuted) else 'nothing came back'}, {reason}"
        case BuyerActionRequired():
            return "the buyer must act on a page"
        case _:
            return {"Accepted": "accepted, and tells later", "NotFound": "no such request"}.get(
                type(answer).__name__, "the key is dead: it never charged and never will"
            )


def _write(actor: str, payload: Any) -> str:  # noqa: ANN401  (a payload of any kind)
    writer, items = payload
    if writer == "apply":
        moves = ", ".join(f"{order} is now {state} ({event})" for order, event, state in items)
        return f"{actor} writes: {moves}"
    return f"{actor} writes {_WRITES.get(writer, writer)} of {', '.join(items)}"


def _payment(actor: str, payment: Payment) -> str:
    amount = f" {to_iso(payment.amount, payment.currency)}" if payment.currency else ""
    code = f", {payment.code}" if payment.code else ""
    return f"{actor} notes {payment.merchant_reference}: {payment.status}{amount}{code}"


_KINDS: dict[str, Callable[[str, Any], str]] = {
    "write": _write,
    "payment": _payment,
    "send": lambda actor, sent: f"{actor} sends {sent.what} of {sent.payment_order_id} to {sent.psp}",
    "hear": lambda actor, heard: (
        f"{actor} hears from {heard.psp} about {heard.payment_order_id}: {evidence_in_words(heard.answer)}"
    ),
    "sends": lambda actor, checkout: f"{actor} sends checkout {checkout}",
    "receipt": lambda actor, got: f"{actor} hears: {'accepted' if got.new else 'accepted before'}",
    "refused": lambda actor, why: f"{actor} hears nothing it can rely on ({why}), and will try again",
    "conflict": lambda actor, field: f"{actor} is refused: other content under the same {field}",
    "took": lambda actor, events: f"receiver {actor} takes {', '.join(events)}",
    "crash": lambda actor, why: f"{actor} dies {why}",
    "webhook": lambda actor, sent: f"{actor} sends a webhook about {sent[0]}: {sent[1]}",
    "log": lambda _, event: f"log: {event}",
}
# A fault that has a time is told twice, as a fault and by what it strikes; a commit was told when it was sent.
_SILENT = frozenset({"accept", "apply", "post", "credit", "over", "healed", "submit", "clock_jumps"})
