"""A fault by hand, and the nearest run that passes: the same run again, with one thing of the tape overruled.

Nothing before the chosen step may change. So the run is made again, and watched for which choice of the fault's
streams comes next after the step; this one choice is overruled. Where the fault's class is off, the run is made
from what its tape chose, with the class allowed; by itself that changes nothing, since a choice that the record
does not hold is zero, the benign one.
"""

from collections.abc import Iterator

import msgspec

from tallystick.engine.errors import CallerError
from tallystick.sim import scenario as stories
from tallystick.sim.clock import SECOND_US
from tallystick.sim.faults import BY_NAME, FAMILY, TABLE, Site
from tallystick.sim.narrate import FAULTS
from tallystick.sim.snapshots import Recording
from tallystick.sim.step_source import Edits, Source, broken, run
from tallystick.sim.tape import Record
from tallystick.sim.trace import Payload, Trace
from tallystick.sim.world import World

# Drawn before the first step, with the moment at which they come; and the places that each of them has.
_PLANNED = {
    "crash_any_time": ("0", "1", "2"),
    "psp_down": ("alpha", "beta"),
    "psp_breaks": ("alpha", "beta"),
    "store_down": ("",),
    "clock_jumps": ("0", "1", "2", "3"),
    "takeover": ("",),
}
_PLANNED_WITHIN_US = 60 * SECOND_US
_WHOLE_RUN = frozenset({"key_forgotten", "tight_mailboxes", "actor_starved"})
_RUNS_MAX = 40
"""How many runs the search for a passing one may take: seconds, where each takes a tenth of one."""


class NothingToStrike(CallerError):
    """The fault has no occasion after the chosen step."""


class Injected(msgspec.Struct, frozen=True):
    """A run with one more fault."""

    source: Source
    step: int
    """Where the run stands: the number, in the new run, of the step at which the fault was asked for."""
    text: str
    """What will strike."""


def inject(source: Source, recording: Recording, step: int, name: str, where: str = "") -> Injected:
    """Return the run with one more fault, at its first occasion after `step`. Raises NothingToStrike."""
    if name not in BY_NAME and name not in stories.ONLY_HERE:
        raise NothingToStrike("fault", f"no fault class {name!r}; `help faults` names them")
    if name in _WHOLE_RUN:
        raise NothingToStrike("fault", f"{name} holds for a whole run; begin one with `--faults {name}`")
    if source.scenario is not None:
        return _inject_into_story(source, recording, step, name, where)
    allowed = _with_class(source, recording, name)
    if name in _PLANNED:
        return _plan(allowed, recording, step, name, where)
    stream, number = _next_occasion(allowed, step, name, where)
    place = stream.removeprefix(f"{FAMILY}/{name}").removeprefix("/")
    overruled = _overrule(allowed, {stream: {number: 1}})
    return Injected(overruled, step, f"{name} strikes next{f' at {place}' if place else ''}")


def without_strike(source: Source, recording: Recording, step: int) -> Source | None:
    """Return the run without the fault that struck at a step; None where a step is no such thing."""
    struck = recording.steps[step]
    if struck.actor not in FAULTS:
        return None
    if source.scenario is not None:
        kept = [one for one in source.scenario.trouble if one.what != struck.kind]
        scenario = msgspec.structs.replace(source.scenario, trouble=tuple(kept))
        return msgspec.structs.replace(source, scenario=scenario)
    record = recording.world.record()
    where = str(struck.payload or "")
    stream = f"{FAMILY}/{struck.kind}/{where}" if where else f"{FAMILY}/{struck.kind}"
    before = sum(
        1
        for one in recording.steps[:step]
        if one.actor in FAULTS and one.kind == struck.kind and str(one.payload or "") == where
    )
    numbers = [number for number, choice in enumerate(record.get(stream, ())) if choice]
    if before >= len(numbers):
        return None
    return _overrule(source, {stream: {numbers[before]: 0}})


class Passing(msgspec.Struct, frozen=True):
    """The nearest run that passes, and what tells it from the failing one."""

    recording: Recording
    text: str


def nearest_passing(source: Source, recording: Recording) -> Passing | None:
    """Return the nearest run that passes: with every safeguard on, or with one fault less, the last one first."""
    for candidate, text in _candidates(source, recording):
        found = run(candidate)
        if found.result.passed or not broken(found):
            return Passing(found, text)
    return None


def _candidates(source: Source, recording: Recording) -> Iterator[tuple[Source, str]]:
    if source.options.mutant is not None:
        options = msgspec.structs.replace(source.options, mutant=None)
        text = f"with the safeguard on that {source.options.mutant} switches off"
        yield msgspec.structs.replace(source, options=options), text
    wrong = min(recording.verdicts_at, default=len(recording) - 1)
    strikes = [number for number, one in enumerate(recording.steps[: wrong + 1]) if one.actor in FAULTS]
    for number in reversed(strikes[-_RUNS_MAX:]):
        candidate = without_strike(source, recording, number)
        if candidate is not None:
            struck = recording.steps[number]
            at = f" at {struck.payload}" if struck.payload else ""
            yield candidate, f"without {struck.kind}{at} (step {number})"


# --- runs from a tape ------------------------------------------------------------------------------------------


def _with_class(source: Source, recording: Recording, name: str) -> Source:
    """Return the run with a fault class allowed, which strikes nowhere else because of that.

    Where the class is off, the run continues from its record: a tape that follows from a seed would let the class
    strike wherever it likes.
    """
    if name in recording.world.faults.on:
        return source
    options = source.options
    if not {"all", name} & set(options.faults):
        options = msgspec.structs.replace(options, faults=(*options.faults, name))
    record = recording.world.record()
    edits: Edits = {}
    if options.swarm:
        number = next(index for index, fault in enumerate(TABLE) if fault.name == name)
        edits = {f"{FAMILY}/swarm": {number: 1}}
    return Source(title=source.title, options=options, record=record, edits=edits)


def _overrule(source: Source, more: Edits) -> Source:
    edits = {name: dict(numbers) for name, numbers in source.edits.items()}
    for name, numbers in more.items():
        edits.setdefault(name, {}).update(numbers)
    return msgspec.structs.replace(source, edits=edits)


class _Occasions(Trace):
    """A trace that watches, from one step on, which streams of a fault make choices."""

    __slots__ = ("_before", "_name", "_step", "_where", "_world", "found")

    def __init__(self, world: World, step: int, name: str, where: str) -> None:
        super().__init__()
        self.found: tuple[str, int] | None = None
        self._before: dict[str, int] | None = None
        self._world, self._step = world, step
        self._name, self._where = f"{FAMILY}/{name}", where
        for one in world.trace.steps:
            self.append(*one)
        world.trace = self

    def append(self, at_us: int, actor: str, kind: str, payload: Payload = None) -> int:
        """Add a step, having looked which occasion came up since the one before."""
        number = super().append(at_us, actor, kind, payload)
        if number >= self._step and self.found is None:
            self.look()
        return number

    def look(self) -> None:
        """Look for an occasion since the step."""
        now = {name: length for name, length in self._world.tape.lengths().items() if self._fits(name)}
        if self._before is None:
            self._before = now
            return
        for name in sorted(now):
            if now[name] > self._before.get(name, 0) and self.found is None:
                self.found = name, self._before.get(name, 0)

    def _fits(self, stream: str) -> bool:
        if stream.endswith("/how") or not (stream == self._name or stream.startswith(f"{self._name}/")):
            return False
        return not self._where or stream.endswith(f"/{self._where}")


def _next_occasion(source: Source, step: int, name: str, where: str) -> tuple[str, int]:
    world = source.world()
    occasions = _Occasions(world, step, name, where)
    world.run()
    occasions.look()
    if occasions.found is None:
        about = f" at {where}" if where else ""
        raise NothingToStrike("fault", f"after step {step} there is no occasion for {name}{about}")
    return occasions.found


def _plan(source: Source, recording: Recording, step: int, name: str, where: str) -> Injected:
    """Plan a fault that has a moment of its own for the moment of a step."""
    # A moment later, so that what happens at the same moment as the step has happened.
    at_us = recording.steps[step].at_us + 1
    if at_us >= _PLANNED_WITHIN_US:
        raise NothingToStrike(
            "fault", f"{name} can come in the first {_PLANNED_WITHIN_US // SECOND_US} s of a run"
        )
    record: Record = recording.world.record()
    free = [place for place in _PLANNED[name] if where in ("", place) and not _strikes_at(record, name, place)]
    if not free:
        raise NothingToStrike("fault", f"{name} comes already in this run, as often as it can")
    place = free[0]
    stream = f"{FAMILY}/{name}/{place}" if place else f"{FAMILY}/{name}"
    overruled = _overrule(source, {stream: {0: 1}, f"{FAMILY}/{name}/{place}/how": {0: at_us}})
    # Its plan is a step of the trace, before the first.
    return Injected(overruled, step + 1, f"{name} comes now{f', at {place}' if place else ''}")


def _strikes_at(record: Record, name: str, place: str) -> bool:
    stream = f"{FAMILY}/{name}/{place}" if place else f"{FAMILY}/{name}"
    return any(record.get(stream, ())[:1])


# --- runs from a story -----------------------------------------------------------------------------------------


def _inject_into_story(source: Source, recording: Recording, step: int, name: str, where: str) -> Injected:
    """Add a trouble to a story, from the moment of the step on, once."""
    scenario = source.scenario
    if scenario is None:
        raise NothingToStrike("fault", "this run is no scenario")
    what = "crash" if name == "crash_any_time" else name
    fault = BY_NAME.get(name)
    trouble = stories.Trouble(what=what, from_s=recording.steps[step].at_us / SECOND_US, times=1)
    at_commit = name == "crash_at_commit" or (fault is not None and fault.site is Site.STORE)
    if at_commit:
        of, _, order = where.partition(" of ")
        trouble = msgspec.structs.replace(trouble, of=of or None, order=order or None)
    elif fault is not None and fault.site is Site.RECEIVER:
        trouble = msgspec.structs.replace(trouble, receiver=where or None)
    elif fault is not None and fault.site in (Site.PSP, Site.CLOCK):
        trouble = msgspec.structs.replace(trouble, psp=where or None, for_s=30.0)
    elif where:
        trouble = msgspec.structs.replace(trouble, order=where)
    changed = msgspec.structs.replace(scenario, trouble=(*scenario.trouble, trouble))
    at = f" at {where}" if where else ""
    return Injected(msgspec.structs.replace(source, scenario=changed), step, f"{name} strikes next{at}")
