"""`tallystick sim shrink` and `replay`: what can be done with one `.tally` file."""

import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from tallystick.cli.sim_stores import worlds_on
from tallystick.engine.errors import SetupError
from tallystick.sim.campaign import MakeWorld
from tallystick.sim.shrink_words import tell_faults, tell_payments, tell_story, tell_verdicts
from tallystick.sim.shrinker import Case, Shrinker
from tallystick.sim.snapshots import Recording, record
from tallystick.sim.tally_file import SUFFIX, TallyFile, in_words, read
from tallystick.sim.tape import Tape


def run_shrink(path: Path, *, out: Path | None, budget_s: float) -> None:
    """Shrink a file, write the smaller one, and say what is left."""
    if budget_s <= 0:
        raise SetupError("--budget-s must be above 0")
    file = read(path)
    out = out or path.with_name(f"{path.name.removesuffix(SUFFIX)}-small{SUFFIX}")
    console, progress = Console(), Console(stderr=True)
    began = time.perf_counter()
    with worlds_on(file.store) as make, progress.status("replaying") as status:

        def on_progress(stage: str, case: Case, runs: int) -> None:
            status.update(f"{stage}: {_size(*case.weight)} after {runs} runs")

        shrinker = Shrinker(
            file,
            elapsed_s=lambda: time.perf_counter() - began,
            budget_s=budget_s,
            make=make,
            on_progress=on_progress,
        )
        before = shrinker.best.weight
        small = shrinker.shrink()
        took_s = time.perf_counter() - began
        recording = _recorded(small, make)
    small.write(out)
    console.print(f"from {_size(*before)}", highlight=False)
    console.print(
        f"to   {_size(*shrinker.best.weight)}, in {shrinker.runs} runs and {took_s:.1f} s", highlight=False
    )
    _tell(console, small, recording)
    console.print(f"\nwritten to {out}", highlight=False, soft_wrap=True)
    console.print(f"next: .venv/bin/tallystick sim step {out}", highlight=False, soft_wrap=True)


def run_replay(path: Path) -> int:
    """Run a file again. Returns 1 when an invariant still breaks, 0 when none does."""
    file = read(path)
    console = Console()
    with worlds_on(file.store) as make:
        result = _recorded(file, make).result
    if result.passed:
        console.print(f"[green]every invariant held[/green]; the file says {file.invariant}", highlight=False)
        return 0
    same = "as it was recorded" if result.trace_digest == file.trace_digest else "in another way than recorded"
    console.print(f"[red]fails, {same}[/red]", highlight=False)
    _lines(console, tell_verdicts(result.verdicts))
    return 1


def _recorded(file: TallyFile, make: MakeWorld) -> Recording:
    return record(make(file.options, Tape.replay(file.record)))


def _size(payments: int, strikes: int, deviations: int) -> str:
    return f"{_count(payments, 'payment')}, {_count(strikes, 'fault')}, {_count(deviations, 'other choice')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tell(console: Console, file: TallyFile, recording: Recording) -> None:
    broken = tuple([verdict for verdict in file.verdicts if verdict.invariant == file.invariant])
    mutant = f", with the safeguard {file.options.mutant} switched off" if file.options.mutant else ""
    console.print(
        f"\n[bold]{file.invariant}[/bold] still breaks{mutant}; {in_words(file.money)} is wrong",
        highlight=False,
        soft_wrap=True,
    )
    _lines(console, tell_verdicts(broken))
    others = dict.fromkeys(one.invariant for one in file.verdicts if one.invariant != file.invariant)
    if others:
        console.print(
            f"  broken because of it, or beside it: {', '.join(others)}", highlight=False, soft_wrap=True
        )
    console.print("\n[bold]payments[/bold]")
    _lines(console, tell_payments(file.options, Tape.replay(file.record)))
    console.print("\n[bold]faults[/bold]")
    _lines(console, list(tell_faults(recording)) or ["none"])
    console.print("\n[bold]what happens[/bold]")
    _lines(console, tell_story(recording, broken))


def _lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
