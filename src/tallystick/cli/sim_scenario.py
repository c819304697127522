"""`tallystick sim scenario`: play small named stories of what goes wrong, and say in words how each ended."""

from pathlib import Path
from textwrap import wrap

import msgspec

from tallystick import __version__
from tallystick.sim.narrate import narrate, seconds
from tallystick.sim.scenario import Scenario, load, names
from tallystick.sim.scenario_judge import ScenarioReport, judge, story_of
from tallystick.sim.scenario_world import ScenarioWorld
from tallystick.sim.snapshots import record

_WIDTH = 100


class _Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` holds."""

    version: str
    scenarios: int
    failed: int
    reports: tuple[ScenarioReport, ...]


def run_scenarios(name: str, *, json: Path | None, show: bool) -> int:
    """Play one scenario, or all; or list them. Returns the exit code: 1 when an expectation is not met."""
    if name == "list":
        _list()
        return 0
    several = name == "all"
    reports = [_play(load(one), at_length=not several, show=show) for one in (names() if several else [name])]
    failed = sum(1 for report in reports if not report.passed)
    if several:
        print(f"{len(reports)} scenarios, {failed} failed.")
    if json is not None:
        summary = _Summary(version=__version__, scenarios=len(reports), failed=failed, reports=tuple(reports))
        json.write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    return 1 if failed else 0


def _list() -> None:
    found = names()
    width = max(map(len, found), default=0)
    for name in found:
        print(f"{name:<{width}}  {load(name).title}")


def _play(scenario: Scenario, *, at_length: bool, show: bool) -> ScenarioReport:
    world = ScenarioWorld(scenario)
    recording = record(world) if show else None
    report = judge(world, world.run() if recording is None else recording.result)
    print(f"{'ok    ' if report.passed else 'FAILED'}  {scenario.name}: {scenario.title}")
    if at_length or show or not report.passed:
        _tell(scenario, report)
    if recording is not None:
        print("Step by step:")
        for step, told in zip(recording.steps, narrate(recording), strict=True):
            print(f"{seconds(step.at_us):>16}  {'!! ' if told.tone == 'fault' else ''}{told.text}")
        for order_id in world.tables.orders:
            print(f"\nWhy {order_id} is where it is:")
            print("\n".join(f"  {line}" for line in story_of(world, order_id)))
    return report


def _tell(scenario: Scenario, report: ScenarioReport) -> None:
    for paragraph in (scenario.story, f"From: {scenario.came_from}"):
        print()
        for line in wrap(paragraph, _WIDTH):
            print(f"  {line}")
    print(f"\n  How it ended, after {report.virtual_s:.1f} s of virtual time and {report.steps} steps:")
    for line in report.outcome:
        print(f"    {line}")
    for line in report.broken:
        print(f"    NOT AS IT SHOULD BE: {line}")
    print()
