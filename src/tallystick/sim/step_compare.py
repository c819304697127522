"""Two runs side by side: a failing one, and the nearest that passes, from where what happens begins to differ."""

from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tallystick.sim import step_view
from tallystick.sim.narrate import Told, narrate, seconds
from tallystick.sim.snapshots import Recording
from tallystick.sim.step_inject import Passing

_BEFORE, _AFTER = 2, 8
"""How many steps are shown around the place where the two part."""


def compare(
    recording: Recording, told: list[Told], passing: Passing, order_id: str | None
) -> tuple[RenderableType, int]:
    """Show where two runs part, as far as one order is concerned; return also that step of the failing run.

    Two runs soon differ in small things that have nothing to do with what is wrong. What happens with the order
    that is wrong differs where it matters.
    """
    other = passing.recording
    theirs = narrate(other)
    left = [at for at, one in enumerate(told) if order_id is None or order_id in one.orders]
    right = [at for at, one in enumerate(theirs) if order_id is None or order_id in one.orders]
    same = 0
    while same < min(len(left), len(right)):
        if told[left[same]].about(order_id) != theirs[right[same]].about(order_id):
            break
        same += 1
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    table.add_row(Text("this run", "bold red"), Text("the run that passes", "bold green"))
    shown = slice(max(0, same - _BEFORE), same + _AFTER)
    for one, two in zip_longest(left[shown], right[shown]):
        table.add_row(_told(recording, told, one, order_id), _told(other, theirs, two, order_id))
    about = f" with {order_id}" if order_id is not None else ""
    group = Group(
        Text(f"The nearest run that passes is this one {passing.text}.", "bold green"),
        Text(f"The two are the same for {_shared(recording, other)} steps.", "dim"),
        Text(f"What happens{about} is first different here:", "dim"),
        table,
    )
    return group, left[same] if same < len(left) else len(told) - 1


def _shared(one: Recording, other: Recording) -> int:
    """Return the number of steps at the beginning that two runs share."""
    ours, theirs = one.world.trace.lines(), other.world.trace.lines()
    for number, (left, right) in enumerate(zip(ours, theirs, strict=False)):
        if left != right:
            return number
    return min(len(ours), len(theirs))


def _told(recording: Recording, told: list[Told], number: int | None, order_id: str | None) -> RenderableType:
    if number is None:
        return Text("the end", "dim")
    text = Text(f"{number}  {seconds(recording.steps[number].at_us)}  ", "dim")
    return text.append(told[number].about(order_id), step_view.TONES[told[number].tone] or "not dim")
