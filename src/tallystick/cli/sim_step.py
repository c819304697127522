"""`tallystick sim step`: a run under a cursor, at a terminal or by a list of commands."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from tallystick.engine.errors import CallerError
from tallystick.sim import step_source
from tallystick.sim.options import RunOptions
from tallystick.sim.step_source import Source
from tallystick.sim.stepper import COMMANDS, Stepper, split_commands

# Two panels side by side need this much; a pipe has no width of its own.
_PIPE_WIDTH = 140
_EXIT_BAD_COMMAND = 2


class RunChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which run: a file, a scenario, or a seed."""

    file: Path | None
    seed: int | None
    scenario: str | None
    mutant: str | None
    orders: int
    faults: str

    def source(self) -> Source:
        """Return the run. Raises CallerError when none, or more than one, is named."""
        named = [one for one in (self.file, self.seed, self.scenario) if one is not None]
        if len(named) != 1:
            raise CallerError("run", "say which run: --seed S, a .tally FILE, or --scenario NAME; one of them")
        if self.file is not None:
            return step_source.from_file(self.file, mutant=self.mutant)
        if self.scenario is not None:
            return step_source.from_scenario(self.scenario, mutant=self.mutant)
        names = tuple(name.strip() for name in self.faults.split(",") if name.strip())
        seed = self.seed or 0
        return step_source.from_seed(RunOptions(seed=seed, orders=self.orders, faults=names, mutant=self.mutant))


def run_step(choice: RunChoice, *, commands: str | None) -> int:
    """Step through a run; return the exit code: 2 when an unattended command could not be carried out."""
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    stepper = Stepper(choice.source(), console)
    stepper.greet()
    if commands is None and sys.stdin.isatty():
        _converse(stepper, console)
        return 0
    for command in split_commands(_read(commands if commands is not None else "-")):
        console.print(Text(f"{stepper.prompt}{command}", "bold cyan"), highlight=False)
        if not stepper.execute(command):
            break
    return _EXIT_BAD_COMMAND if stepper.failed else 0


def _read(commands: str) -> str:
    """Return the commands themselves, those of a file, or those of standard input (`-`)."""
    if commands == "-":
        return sys.stdin.read()
    path = Path(commands)
    first = commands.split(maxsplit=1)[:1]
    if first and first[0].rstrip(";") not in COMMANDS and path.is_file():
        return path.read_text(encoding="utf-8")
    return commands


def _converse(stepper: Stepper, console: Console) -> None:
    """Read commands from a person, with a history where the terminal has one."""
    try:
        import readline  # noqa: F401  (imported for what it does to `input`)
    except ImportError:
        console.print("no line editing on this system", style="dim")
    console.print("`help` names the commands; `next` and `back` step; `quit` ends.", style="dim", highlight=False)
    while True:
        try:
            line = input(stepper.prompt)
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not stepper.execute(line):
            return
