"""Two runs side by side: a failing one, and the nearest that passes, from where what happens begins to differ."""

from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tallystick.sim import step_view
from tallystick.sim.narrate import Told, narrate, seconds
from tallystick.sim.snapshots import Recording
from tallystick.sim.step_inject import Passing

_BEFORE, _AFTER = 5, 5
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
    left, right = _about(told, order_id), _about(theirs, order_id)
    ours, others = _decisions(told, left), _decisions(theirs, right)
    same = 0
    while same < min(len(ours), len(others)):
        if told[ours[same]].about(order_id) != theirs[others[same]].about(order_id):
            break
        same += 1
    from_left, from_right = _window(left, ours, same), _window(right, others, same)
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    table.add_row(Text("this run", "bold red"), Text("the run that passes", "bold green"))
    for one, two in zip_longest(left[from_left], right[from_right]):
        table.add_row(_told(recording, told, one, order_id), _told(other, theirs, two, order_id))
    about = f" with {order_id}" if order_id is not None else ""
    group = Group(
        Text(f"The nearest run that passes is this one {passing.text}.", "bold green"),
        Text(f"The two are the same for {_shared(recording, other)} steps.", "dim"),
        Text(f"What is decided, or taken,{about} is first different here:", "dim"),
        table,
    )
    return group, ours[same] if same < len(ours) else len(told) - 1


def _about(told: list[Told], order_id: str | None) -> list[int]:
    """Return the steps about an order; all, if none is named."""
    return [at for at, one in enumerate(told) if order_id is None or order_id in one.orders]


def _decisions(told: list[Told], steps: list[int]) -> list[int]:
    """Return those steps at which something was decided for good: a commit of ours, or money taken by a PSP.

    When a message comes, and how often somebody has to knock, says nothing yet about what became of the order.
    """
    return [at for at in steps if told[at].lane == "store" or told[at].tone == "money"]


def _window(steps: list[int], decisions: list[int], number: int) -> slice:
    """Return the part of the steps around a decision."""
    place = steps.index(decisions[number]) if number < len(decisions) else len(steps)
    return slice(max(0, place - _BEFORE), place + _AFTER)


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
