"""What is left of a shrunk case, in words: who paid what, which faults struck, and what that led to."""

from collections.abc import Iterator

from tallystick.sim.faults import BY_NAME
from tallystick.sim.narrate import FAULTS, narrate, seconds
from tallystick.sim.options import RunOptions
from tallystick.sim.snapshots import Recording
from tallystick.sim.tape import Tape
from tallystick.sim.verdict import INVARIANTS, Verdict
from tallystick.sim.workload import Checkout, checkouts

STORY_MAX = 60
"""Lines of the story; a case that is longer is better stepped through."""


def tell_payments(options: RunOptions, tape: Tape) -> Iterator[str]:
    """Say what clients ask for, a line per payment order."""
    for checkout in checkouts(tape, options):
        for line in checkout.event.payment_orders:
            yield (
                f"{line.payment_order_id}: {line.amount} {line.currency} to {line.seller_account}, "
                f"{_how(checkout)}, {seconds(checkout.at_us)} into the run"
            )


def _how(checkout: Checkout) -> str:
    card = checkout.event.credit_card_info
    token = card if isinstance(card, str) else card.token
    return f"with {token}" if token is not None else "on the PSP's page"


def tell_faults(recording: Recording) -> Iterator[str]:
    """Say which faults struck, a line each."""
    for step in recording.steps:
        if step.actor in FAULTS:
            where = f" ({step.payload})" if step.payload else ""
            about = BY_NAME[step.kind].about if step.kind in BY_NAME else ""
            yield f"{seconds(step.at_us)}: {step.kind}{where}: {about}"


def tell_story(recording: Recording, verdicts: tuple[Verdict, ...]) -> Iterator[str]:
    """Tell every step that is about an accused payment order, or about all; at most STORY_MAX lines."""
    accused = {verdict.subject for verdict in verdicts}
    told = narrate(recording)
    lines = 0
    for step, one in zip(recording.steps, told, strict=True):
        if one.tone == "quiet" or (one.orders and not accused.intersection(one.orders)):
            continue
        if lines == STORY_MAX:
            yield "… (see the rest with `tallystick sim step`)"
            return
        lines += 1
        yield f"{seconds(step.at_us)}  {one.lane}: {one.text}"


def tell_verdicts(verdicts: tuple[Verdict, ...]) -> Iterator[str]:
    """Say which invariants broke, for whom, and what they demand."""
    for verdict in verdicts:
        demands = INVARIANTS.get(verdict.invariant, "")
        yield f"{verdict.invariant} ({demands}): {verdict.subject}: {verdict.detail}"
