"""What a mutant is, and the tools that mutants are made of: put something else in a place, and put it back.

To add a mutant: write a generator function that yields once while the safeguard is off, with a docstring that
says what is off, and decorate it with `mutant(...)`. `tallystick sim mutants --names NAME --json FILE` finds
a seed that kills it, and `tools/mutant_table.py FILE` keeps that seed for the tests.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec

from tallystick.engine.events import Event
from tallystick.engine.order import State
from tallystick.engine.transitions import TABLE, Cell

Off = Callable[[], AbstractContextManager[None]]


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One safeguard that can be switched off. Entering `off()` switches it off, leaving it switches it on."""

    name: str
    about: str
    """What is switched off, in a sentence."""
    rule: str
    """Where the design demands the safeguard."""
    caught_by: str
    """The invariant that names the harm."""
    faults: tuple[str, ...] = ("all",)
    """Which faults make it matter soon; all of them, a random half at a time, where nothing is said."""
    survives_because: str | None = None
    """Why no run can tell, for a safeguard that stands behind another one; None where a run can."""
    off: Off


def mutant(
    *,
    rule: str,
    caught_by: str,
    faults: tuple[str, ...] = ("all",),
    survives_because: str | None = None,
) -> Callable[[Callable[[], Iterator[None]]], Mutant]:
    """Return a decorator that makes a mutant of a generator function, which yields while the safeguard is off.

    The function's name is the mutant's name, its docstring says what is switched off.
    """

    def make(off: Callable[[], Iterator[None]]) -> Mutant:
        return Mutant(
            name=off.__name__,
            about=off.__doc__ or "",
            rule=rule,
            caught_by=caught_by,
            faults=faults,
            survives_because=survives_because,
            off=contextmanager(off),
        )

    return make


@contextmanager
def replaced(owner: Any, name: str, by: Any) -> Iterator[None]:  # noqa: ANN401  (a module's or class's anything)
    """Put `by` in the place of an attribute of a module or a class until the block ends."""
    # From the dict itself, so that properties and static methods go back as what they are.
    before = vars(owner)[name]
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def cells(state: State, *events: type[Event], by: Cell) -> Iterator[None]:
    """Put another cell into the transition table for some events in a state until the block ends."""
    row = TABLE[state]
    before = {event: row[event] for event in events}
    row.update(dict.fromkeys(events, by))
    try:
        yield
    finally:
        row.update(before)
