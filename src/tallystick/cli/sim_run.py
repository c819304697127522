"""`tallystick sim run`: a campaign at a terminal, and what came of it in words and as JSON."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import tallystick
from tallystick.cli.sim_stores import worlds_on
from tallystick.engine.errors import CallerError, SetupError
from tallystick.sim.campaign import Campaign, Diverged, Plan, run_campaign
from tallystick.sim.clock import SECOND_US
from tallystick.sim.faults import BY_NAME, named
from tallystick.sim.goals import GOALS
from tallystick.sim.mutants.catalogue import find
from tallystick.sim.options import RunOptions
from tallystick.sim.tally_file import TallyFile, in_words, money_of
from tallystick.sim.verdict import INVARIANTS

_FAILURES_SHOWN = 5
"""Files named per invariant; the rest is in the folder and in the JSON."""
_SIDE_SHOWN = 400
"""Characters of each side of a divergence."""


class RunArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    seeds: int
    first_seed: int
    jobs: int
    orders: int
    faults: str
    store: str
    mutant: str | None
    rerun: float
    json: Path | None
    out: Path
    require_goals: bool


def run_run(arguments: RunArguments) -> int:
    """Run a campaign and tell of it. Returns the exit code: 0 when everything held."""
    plan = _plan(arguments)
    console = Console(stderr=True)
    files: dict[int, Path] = {}
    with worlds_on(arguments.store) as make, _progress(console, plan) as show:

        def on_progress(campaign: Campaign) -> None:
            _write_failures(campaign, arguments.out, files)
            show(campaign)

        began = time.perf_counter()
        campaign = run_campaign(
            plan, jobs=arguments.jobs or os.cpu_count() or 1, make=make, on_progress=on_progress
        )
        wall_s = time.perf_counter() - began
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = summary(campaign, wall_s=wall_s, files=files)
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    _tell(Console(), campaign, wall_s=wall_s, files=files)
    failed = bool(campaign.failures) or campaign.diverged is not None
    return int(failed or (arguments.require_goals and bool(campaign.goals_missed)))


def _plan(arguments: RunArguments) -> Plan:
    """Check the options. Raises SetupError, one line."""
    if arguments.seeds < 1 or arguments.first_seed < 0 or arguments.orders < 1:
        raise SetupError("--seeds and --orders must be at least 1, and --from at least 0")
    if arguments.jobs < 0:
        raise SetupError("--jobs must be 0, for one per core, or more")
    if not 0 <= arguments.rerun <= 1:
        raise SetupError("--rerun is a share from 0 to 1, such as 0.1")
    names = tuple(name.strip() for name in arguments.faults.split(",") if name.strip()) or ("none",)
    try:
        named(names)
        if arguments.mutant is not None:
            find(arguments.mutant)
    except CallerError as error:
        raise SetupError(f"--{error.field}: {error.detail}") from error
    return Plan(
        first_seed=arguments.first_seed,
        seeds=arguments.seeds,
        options=RunOptions(
            seed=arguments.first_seed, orders=arguments.orders, faults=names, mutant=arguments.mutant
        ),
        store=arguments.store,
        rerun=arguments.rerun,
    )


# --- while it runs ---------------------------------------------------------------------------------------------


@contextmanager
def _progress(console: Console, plan: Plan) -> Iterator[Callable[[Campaign], None]]:
    """Show a bar where somebody can see it."""
    bar = Progress(
        TextColumn("seeds"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[failed]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("seeds", total=plan.seeds, speed="", failed="")
        began = time.perf_counter()

        def on_progress(campaign: Campaign) -> None:
            speed = campaign.seeds / max(1e-9, time.perf_counter() - began)
            failed = f"[red]{len(campaign.failures)} failed[/red]" if campaign.failures else "none failed"
            bar.update(task, completed=campaign.seeds, speed=f"{speed:.1f} seeds/s", failed=failed)

        yield on_progress


def _write_failures(campaign: Campaign, out: Path, files: dict[int, Path]) -> None:
    """Write the files of the failures that are new: at once, so that an end before the end loses none."""
    for failure in campaign.failures[len(files) :]:
        path = out / failure.name
        failure.write(path)
        files[failure.options.seed] = path


# --- afterwards ------------------------------------------------------------------------------------------------


def summary(campaign: Campaign, *, wall_s: float, files: dict[int, Path]) -> dict[str, Any]:
    """Return the campaign as the JSON file tells it. Times in seconds; money as decimal text by currency."""
    plan = campaign.plan
    virtual_s = campaign.virtual_us / SECOND_US
    diverged = campaign.diverged
    return {
        "version": tallystick.__version__,
        "seeds": campaign.seeds,
        "first_seed": plan.first_seed,
        "options": {
            "orders": plan.options.orders,
            "faults": list(plan.options.faults),
            "mutant": plan.options.mutant,
            "store": plan.store,
        },
        "orders": campaign.orders,
        "failures": [
            {
                "seed": failure.options.seed,
                "invariant": failure.invariant,
                "money": failure.money,
                "file": str(files[failure.options.seed]),
                "invariants": list(dict.fromkeys(verdict.invariant for verdict in failure.verdicts)),
            }
            for failure in campaign.failures
        ],
        "seeds_per_s": round(campaign.seeds / wall_s, 3),
        "orders_per_s": round(campaign.orders / wall_s, 3),
        "virtual_s": round(virtual_s, 3),
        "wall_s": round(wall_s, 3),
        "steps": campaign.steps,
        "engines": campaign.engines,
        "trace_hash": campaign.trace_hash,
        "reruns": campaign.reruns,
        "divergence": None if diverged is None else {"seed": diverged.seed, "sides": _sides(diverged)},
        "coverage": {
            "triples_reached": len(campaign.coverage.triples),
            "cells_reached": len(campaign.coverage.cells),
            "triples": campaign.coverage.as_text(),
            "faults": dict(sorted(campaign.struck.items())),
        },
        "goals": len(GOALS),
        "goals_missed": [goal.name for goal in campaign.goals_missed],
    }


def _sides(diverged: Diverged) -> list[str]:
    """Return what each of two runs of one seed did at the first step at which they differ."""
    if diverged.at is None:
        digests = f"{diverged.first.trace_digest} and {diverged.second.trace_digest}"
        return [f"the traces' hashes were {digests}; run once more, they were alike"]
    return [
        f"step {diverged.at.number}: {side.decode()[:_SIDE_SHOWN] if side is not None else 'the trace had ended'}"
        for side in (diverged.at.left, diverged.at.right)
    ]


def _tell(console: Console, campaign: Campaign, *, wall_s: float, files: dict[int, Path]) -> None:
    plan = campaign.plan
    virtual_s = campaign.virtual_us / SECOND_US
    last = plan.first_seed + campaign.seeds - 1
    console.print(
        f"seeds {plan.first_seed} to {last}: {campaign.orders:,} payment orders, {campaign.steps:,} steps, "
        f"{campaign.engines:,} engine processes",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{campaign.seeds / wall_s:.1f} seeds/s, {campaign.orders / wall_s:,.0f} orders/s; "
        f"{virtual_s / 3600:,.1f} h of virtual time in {wall_s:.1f} s ({virtual_s / wall_s:,.0f} times real time)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"reached: {len(campaign.coverage.triples):,} triples of state, event and fault in "
        f"{len(campaign.coverage.cells)} cells of the table; "
        f"{sum(map(bool, campaign.struck.values()))} of {len(BY_NAME)} fault classes",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"trace hash {campaign.trace_hash}", highlight=False, soft_wrap=True)
    if plan.rerun:
        console.print(f"{campaign.reruns} seeds run twice and compared", highlight=False, soft_wrap=True)
    for goal in campaign.goals_missed:
        console.print(f"[yellow]goal never reached:[/yellow] {goal.name}", highlight=False, soft_wrap=True)
    if campaign.diverged is not None:
        console.print(
            f"[red]seed {campaign.diverged.seed} did not run the same twice:[/red]",
            highlight=False,
            soft_wrap=True,
        )
        for side in _sides(campaign.diverged):
            console.print(f"  {side}", highlight=False, markup=False, soft_wrap=True)
    if campaign.failures:
        _tell_failures(console, campaign.failures, files)
    elif campaign.diverged is None:
        console.print("[green]every invariant held[/green]", highlight=False, soft_wrap=True)


def _tell_failures(console: Console, failures: list[TallyFile], files: dict[int, Path]) -> None:
    """Print failures by the invariant that broke first, with the money and the files."""
    groups: dict[str, list[TallyFile]] = {}
    for failure in failures:
        groups.setdefault(failure.invariant, []).append(failure)
    table = Table(title=f"{len(failures)} seeds failed", title_justify="left", title_style="bold red")
    table.add_column("invariant")
    table.add_column("seeds", justify="right")
    table.add_column("money")
    table.add_column("what it says", overflow="fold")
    for invariant, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        verdicts = [
            msgspec.structs.replace(verdict, subject=f"{failure.options.seed}/{verdict.subject}")
            for failure in group
            for verdict in failure.verdicts
        ]
        table.add_row(invariant, str(len(group)), in_words(money_of(verdicts)), INVARIANTS.get(invariant, ""))
    console.print(table)
    for invariant, group in groups.items():
        for failure in group[:_FAILURES_SHOWN]:
            console.print(f"  {files[failure.options.seed]}", highlight=False, soft_wrap=True)
        if len(group) > _FAILURES_SHOWN:
            console.print(f"  and {len(group) - _FAILURES_SHOWN} more of {invariant}", highlight=False)
    first = files[failures[0].options.seed]
    console.print(f"next: .venv/bin/tallystick sim shrink {first}", highlight=False, soft_wrap=True)
