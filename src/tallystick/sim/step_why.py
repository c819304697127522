"""Why an order is where it is: the chain of causes in words, from the buyer's click to what is wrong.

The decisions are told as `tallystick why` tells them; between them stands what only the simulator knows: which
request was lost where, what the PSP did in truth, who crashed.
"""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from tallystick.engine.order import Order
from tallystick.engine.story import tell
from tallystick.engine.views import AttemptView, DeadLetterView, MismatchView, OrderView, Story
from tallystick.sim import step_view
from tallystick.sim.causes import Causes, chain
from tallystick.sim.memory_tables import DeadLetterRow
from tallystick.sim.narrate import Told, amount_of
from tallystick.sim.psp.model import Status
from tallystick.sim.snapshots import Recording, View
from tallystick.sim.step_view import fields


def why(recording: Recording, told: list[Told], causes: Causes, view: View, order_id: str) -> RenderableType:
    """Tell how an order came to where it stands at the view's step; marked is what led to the last thing told."""
    mine = [number for number in range(view.step + 1) if order_id in told[number].orders]
    if not mine:
        return Text(f"Nothing is known of {order_id} at this step; `goto end` and ask again.", "dim")
    found = [
        (number, verdict)
        for number, verdicts in recording.verdicts_at.items()
        for verdict in verdicts
        if verdict.subject == order_id and number <= view.step
    ]
    wrong = [verdict for _, verdict in found]
    roots = {found[0][0], found[0][1].step} if found and found[0][0] in mine else {mine[-1]}
    led = {number for root in roots for number in chain(causes, told, root, order_id)}
    lines = step_view.lines()
    for number in range(mine[0], view.step + 1):
        about = order_id in told[number].orders or told[number].tone == "crash" or number in led
        if not about or told[number].tone == "quiet":
            continue
        mark = "▸" if number in led else ""
        step, about_it = recording.steps[number], told[number]
        step_view.add_line(lines, mark, number, step=step, told=about_it, order_id=order_id)
    ending: list[RenderableType] = [Text(line) for line in _standing(recording, view, order_id)]
    ending.append(Text(f"In truth: {truth(view, order_id)}", "bold green"))
    ending += [Text(f"✗ {step_view.in_words(verdict)}", "bold red") for verdict in wrong]
    return Group(lines, *ending)


def truth(view: View, order_id: str) -> str:
    """Say what the PSPs have taken for an order."""
    found = [
        (name.partition(" ")[0], payment)
        for name, payment in view.payments().items()
        if payment.merchant_reference == order_id
    ]
    taken = [f"{amount_of(payment)} by {psp}" for psp, payment in found if payment.status is Status.CHARGED]
    maybe = [psp for psp, one in found if one.status in (Status.PENDING, Status.ACTION_REQUIRED)]
    if not taken:
        return f"nothing is taken{f', but {maybe[0]} may still take it' if maybe else ''}."
    times = {1: "once", 2: "TWICE"}.get(len(taken), f"{len(taken)} TIMES")
    return f"the buyer was charged {times}: {' and '.join(taken)}."


def _standing(recording: Recording, view: View, order_id: str) -> list[str]:
    """Return what `tallystick why` would say at the view's step about books, mismatches, and where it stands."""
    story = story_at(recording, view, order_id)
    if story is None:
        return ["Now: it is not recorded."]
    return tell(story)[1 + len(story.log) :]


def story_at(recording: Recording, view: View, order_id: str) -> Story | None:
    """Return an order's story as the store would have told it at the view's step."""
    order = view.get("order", order_id)
    if not isinstance(order, Order):
        return None
    attempts = view.get("attempts", order_id)
    views = tuple(one for one in attempts if isinstance(one, AttemptView)) if isinstance(attempts, tuple) else ()
    letter = view.get("letter", order_id)
    return Story(
        view=OrderView(order=order, updated_at=recording.tables.updated_at[order_id], attempts=views),
        log=tuple(recording.tables.log.get(order_id, ())[: view.number("log", order_id)]),
        transfers=tuple(
            row
            for row in recording.transfers(view.number("books", "transfers"))
            if row.payment_order_id == order_id
        ),
        wallet_entries=tuple(
            row.entry
            for row in recording.wallet_entries(view.number("books", "wallet entries"))
            if row.payment_order_id == order_id
        ),
        mismatches=tuple(
            row
            for row in view.section("mismatch").values()
            if isinstance(row, MismatchView) and row.payment_order_id == order_id
        ),
        dead_letter=_letter(order, letter) if isinstance(letter, DeadLetterRow) else None,
    )


def _letter(order: Order, row: DeadLetterRow) -> DeadLetterView:
    return DeadLetterView(
        payment_order_id=order.payment_order_id,
        checkout_id=order.checkout_id,
        reason=row.reason,
        state=order.state,
        amount=order.amount,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        resolution=row.resolution,
    )


def history(recording: Recording, order_id: str, field: str) -> Iterator[tuple[int, str, str]]:
    """Yield every change of one field of an order: the step, before, after."""
    for number, found in enumerate(recording.changes):
        for change in found:
            if change.key.section == "order" and change.key.name == order_id:
                for name, before, after in fields(change.old, change.new):
                    if name == field:
                        yield number, before, after
