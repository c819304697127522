"""Where a run that is stepped through comes from, so that it can be made again: the same, or with one change."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from tallystick.sim import scenario as stories
from tallystick.sim import tally_file
from tallystick.sim.options import RunOptions
from tallystick.sim.scenario_judge import judge
from tallystick.sim.scenario_world import ScenarioWorld
from tallystick.sim.snapshots import Recording, record
from tallystick.sim.tape import Record, Tape
from tallystick.sim.world import World

Edits = dict[str, dict[int, int]]
"""Choices that overrule those of the tape: by stream and number."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One run, by what makes it."""

    title: str
    options: RunOptions
    record: Record | None = None
    """What the tape chose; None where it follows from the seed."""
    edits: Edits = {}
    scenario: stories.Scenario | None = None

    def world(self) -> World:
        """Return the world of this run, which has not run yet."""
        if self.scenario is not None:
            world = ScenarioWorld(self.scenario)
            world.options = msgspec.structs.replace(world.options, mutant=self.options.mutant)
            return world
        edits: Mapping[str, Mapping[int, int]] = self.edits
        if self.record is None:
            return World(self.options, Tape.generate(self.options.seed, edits=edits))
        return World(self.options, Tape.replay(self.record, edits=edits))


def run(source: Source) -> Recording:
    """Run a source to its end, and record it."""
    return record(source.world())


def broken(recording: Recording) -> tuple[str, ...]:
    """Say what was wrong with a run, a sentence each. A scenario is judged by what its file expects, too."""
    world = recording.world
    if isinstance(world, ScenarioWorld):
        return judge(world, recording.result).broken
    return tuple(f"{one.invariant}: {one.subject} {one.detail}" for one in recording.result.verdicts)


def from_seed(options: RunOptions) -> Source:
    """Return the run of a seed."""
    mutant = f", without a safeguard: {options.mutant}" if options.mutant else ""
    return Source(title=f"seed {options.seed}, {options.orders} orders{mutant}", options=options)


def from_file(path: Path, *, mutant: str | None = None) -> Source:
    """Return the run of a `.tally` file; `mutant` in the place of the file's own. Raises TallyFileUnreadable."""
    file = tally_file.read(path)
    options = file.options if mutant is None else msgspec.structs.replace(file.options, mutant=mutant)
    wrong = f"{file.invariant}, {tally_file.in_words(file.money)}" if file.verdicts else "a run that passes"
    # Rows are looked at in memory; the same tape makes the same run there, unless the database is what is wrong.
    elsewhere = "" if file.store == "memory" else f" (found over {file.store}, stepped through over memory)"
    title = f"{path.name}: {wrong}{elsewhere}"
    return Source(title=title, options=options, record=file.record)


def from_scenario(name: str, *, mutant: str | None = None) -> Source:
    """Return the run of a scenario. Raises UnknownScenario, BadScenario."""
    scenario = stories.load(name)
    title = f"{name}: {scenario.title}{f', without a safeguard: {mutant}' if mutant else ''}"
    return Source(title=title, options=RunOptions(seed=0, orders=0, mutant=mutant), scenario=scenario)
