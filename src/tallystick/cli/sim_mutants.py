"""`tallystick sim mutants`: which invariant notices that a safeguard is missing, and after how many seeds."""

import os
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import tallystick
from tallystick.engine.errors import SetupError
from tallystick.sim.mutants.catalogue import MUTANTS, UnknownMutant, find
from tallystick.sim.mutants.power import Row, Trial, measure

_WIDTH = 132
"""Names are not wrapped: a table in a file is searched by name."""


class MutantArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    names: str
    trials: int
    seeds_max: int
    orders: int
    first_seed: int
    jobs: int
    json: Path | None


def run_mutants(arguments: MutantArguments) -> int:
    """Measure, and tell. Returns the exit code: 1 when a mutant survived of which nobody said that it must."""
    names = _check(arguments)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not Console(stderr=True).is_terminal,
        transient=True,
    )
    began = time.perf_counter()
    with bar:
        task = bar.add_task("trials", total=len(names) * arguments.trials)

        def on_trial(trial: Trial) -> None:
            bar.update(task, advance=1, description=trial.mutant)

        rows = measure(
            names,
            trials=arguments.trials,
            seeds_max=arguments.seeds_max,
            orders=arguments.orders,
            first_seed=arguments.first_seed,
            jobs=arguments.jobs or os.cpu_count() or 1,
            on_trial=on_trial,
        )
    wall_s = time.perf_counter() - began
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = summary(rows, arguments, wall_s=wall_s)
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    console = Console()
    _tell(Console(width=max(console.width, _WIDTH)), rows)
    return int(any(row.survives and row.survives_because is None for row in rows))


def _check(arguments: MutantArguments) -> list[str]:
    """Return the mutants' names. Raises SetupError, one line."""
    if min(arguments.trials, arguments.seeds_max, arguments.orders) < 1 or arguments.first_seed < 0:
        raise SetupError("--trials, --seeds-max and --orders must be at least 1, and --from at least 0")
    if arguments.jobs < 0:
        raise SetupError("--jobs must be 0, for one per core, or more")
    names = [name.strip() for name in arguments.names.split(",") if name.strip()]
    if names == ["all"]:
        return list(MUTANTS)
    try:
        return [find(name).name for name in names]
    except UnknownMutant as error:
        raise SetupError(f"--names: {error.detail}") from error


def summary(rows: list[Row], arguments: MutantArguments, *, wall_s: float) -> dict[str, object]:
    """Return what `--json` writes."""
    return {
        "version": tallystick.__version__,
        "trials": arguments.trials,
        "seeds_max": arguments.seeds_max,
        "orders": arguments.orders,
        "first_seed": arguments.first_seed,
        "wall_s": round(wall_s, 3),
        "survivors": [row.mutant for row in rows if row.survives],
        "mutants": rows,
    }


def _count(seeds: float | None) -> str:
    return "-" if seeds is None else f"{seeds:g}"


def _tell(console: Console, rows: list[Row]) -> None:
    table = Table(title="Safeguards switched off, one at a time", title_justify="left")
    table.add_column("mutant", no_wrap=True)
    table.add_column("named by", no_wrap=True)
    table.add_column("killed", justify="right")
    table.add_column("median seeds", justify="right")
    table.add_column("worst", justify="right")
    table.add_column("seen first", no_wrap=True)
    table.add_column("after", justify="right")
    for row in rows:
        table.add_row(
            row.mutant,
            row.invariant,
            f"{row.killed}/{row.trials}",
            _count(row.median_seeds),
            _count(row.worst_seeds),
            next(iter(row.first_broken), "nothing"),
            _count(row.median_seeds_to_failure),
            style="yellow" if row.survives else None,
        )
    console.print(table)
    survivors = [row for row in rows if row.survives]
    console.print(f"{len(rows) - len(survivors)} of {len(rows)} killed by the invariant that names them.")
    for row in survivors:
        why = row.survives_because or "unexplained: the world never makes it matter, or the auditor is blind"
        console.print(f"  survives: {row.mutant}: {why}.", highlight=False)
