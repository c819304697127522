"""Breakpoints: conditions on a step, such as `state=UNKNOWN,order=order-1-1`."""

from collections.abc import Callable, Collection

import msgspec

from tallystick.engine.errors import CallerError
from tallystick.engine.events import EVENTS
from tallystick.engine.order import Order, State
from tallystick.sim.faults import BY_NAME
from tallystick.sim.narrate import FAULTS, Told
from tallystick.sim.network import Heard
from tallystick.sim.scenario import ONLY_HERE
from tallystick.sim.snapshots import Recording
from tallystick.sim.verdict import INVARIANTS

ANY = "any"
"""As the value of `fault` or `invariant`: whichever."""


class BadBreakpoint(CallerError):
    """The condition names something that does not exist."""


class Breakpoint(msgspec.Struct, frozen=True):
    """Conditions, all of which a step must meet."""

    conditions: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.conditions)

    def hits(self, recording: Recording, told: list[Told], number: int) -> bool:
        """Say whether a step meets every condition."""
        order = next((value for key, value in self.conditions if key == "order"), None)
        return all(_TESTS[key](recording, told, number, value, order) for key, value in self.conditions)


def parse(text: str, recording: Recording, told: list[Told]) -> Breakpoint:
    """Read `key=value` conditions, joined by commas or blanks. Raises BadBreakpoint."""
    conditions: list[tuple[str, str]] = []
    known: dict[str, Collection[str]] = {
        "state": [state.value for state in State],
        "event": [event.__name__ for event in EVENTS],
        "actor": sorted({one.lane.removeprefix("order:") for one in told}),
        "fault": [ANY, *BY_NAME, *ONLY_HERE],
        "invariant": [ANY, *INVARIANTS],
        "order": list(recording.tables.orders),
    }
    for part in text.replace(",", " ").split():
        key, _, value = part.partition("=")
        if key not in known or not value:
            raise BadBreakpoint(
                "break", f"`{part}` is no condition; there are {', '.join(f'{k}=…' for k in known)}"
            )
        if value not in known[key]:
            raise BadBreakpoint(key, f"no {key} {value!r} here; there are {', '.join(known[key])}")
        conditions.append((key, value))
    if not conditions:
        raise BadBreakpoint("break", f"say on what: {', '.join(f'{key}=…' for key in known)}")
    return Breakpoint(tuple(conditions))


Test = Callable[[Recording, list[Told], int, str, str | None], bool]


def _state(recording: Recording, _: list[Told], number: int, value: str, order: str | None) -> bool:
    """An order enters a state."""
    for change in recording.changes[number]:
        if isinstance(change.new, Order) and order in (None, change.key.name):
            before = change.old.state if isinstance(change.old, Order) else None
            if change.new.state.value == value and before is not change.new.state:
                return True
    return False


def _event(recording: Recording, _: list[Told], number: int, value: str, order: str | None) -> bool:
    """An event comes in, or a decision because of it is committed."""
    step = recording.steps[number]
    if isinstance(step.payload, Heard):
        return type(step.payload.answer).__name__ == value
    if step.actor == "webhook":
        return step.kind == value
    for change in recording.changes[number]:
        if change.key.section == "log" and order in (None, change.key.name) and isinstance(change.new, int):
            since = change.old if isinstance(change.old, int) else 0
            entries = recording.tables.log[change.key.name][since : change.new]
            if any(entry.event == value for entry in entries):
                return True
    return False


def _actor(recording: Recording, told: list[Told], number: int, value: str, _: str | None) -> bool:
    return value in (told[number].lane.removeprefix("order:"), recording.steps[number].actor)


def _fault(recording: Recording, _: list[Told], number: int, value: str, __: str | None) -> bool:
    step = recording.steps[number]
    return step.actor in FAULTS and value in (ANY, step.kind)


def _invariant(recording: Recording, _: list[Told], number: int, value: str, __: str | None) -> bool:
    return any(value in (ANY, verdict.invariant) for verdict in recording.verdicts_at.get(number, ()))


def _order(_: Recording, told: list[Told], number: int, value: str, __: str | None) -> bool:
    return value in told[number].orders


_TESTS: dict[str, Test] = {
    "state": _state,
    "event": _event,
    "actor": _actor,
    "fault": _fault,
    "invariant": _invariant,
    "order": _order,
}
