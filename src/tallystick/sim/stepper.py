"""The step-through: a finished run under a cursor that goes forwards and backwards, and answers questions.

Nothing is run while one steps: the whole run was recorded (`sim.snapshots`), and a command moves a view over it.
Only `inject` and `nearest` make further runs.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tallystick.engine.errors import CallerError, TallystickError
from tallystick.engine.order import Order
from tallystick.sim import step_breaks, step_view, tape
from tallystick.sim.causes import Causes, find_causes
from tallystick.sim.clock import SECOND_US
from tallystick.sim.faults import TABLE
from tallystick.sim.narrate import FAULTS, Told, narrate, seconds
from tallystick.sim.scenario import ONLY_HERE
from tallystick.sim.snapshots import Key, Recording, View
from tallystick.sim.step_compare import compare
from tallystick.sim.step_inject import Passing, inject, nearest_passing
from tallystick.sim.step_source import Source, broken, run
from tallystick.sim.step_why import history, why
from tallystick.sim.tally_file import SUFFIX, TallyFile, money_of
from tallystick.sim.trace import Step

_LIST = 10


class BadCommand(CallerError):
    """The command does not exist, or cannot be carried out as it was given."""


class Stepper:
    """One session."""

    def __init__(self, source: Source, console: Console) -> None:
        self._console = console
        self._breaks: dict[int, step_breaks.Breakpoint] = {}
        self._breaks_made = 0
        self._last_line = ""
        self._passing: Passing | None = None
        self.failed = False
        """Some command could not be carried out."""
        self._load(source, -1)

    def _load(self, source: Source, step: int) -> None:
        self.source = source
        self.recording: Recording = run(source)
        self.told: list[Told] = narrate(self.recording)
        self._causes: Causes | None = None
        self._passing = None
        self.view = View(self.recording)
        self.view.seek(step)

    @property
    def causes(self) -> Causes:
        """The chains of the run; found when first asked for."""
        if self._causes is None:
            self._causes = find_causes(self.recording, self.told)
        return self._causes

    @property
    def prompt(self) -> str:
        """Where we stand."""
        at = self.view.step
        when = seconds(self.recording.steps[at].at_us) if at >= 0 else "before the first step"
        return f"[{at}/{len(self.recording) - 1}  {when}] "

    def greet(self) -> None:
        """Say which run this is, and what is wrong with it."""
        result = self.recording.result
        self._print(Text(self.source.title, "bold"))
        size = f"{len(self.recording)} steps, {seconds(result.virtual_us)} of virtual time, {result.orders} orders"
        self._print(Text(f"{size}, {sum(result.struck.values())} faults struck.", "dim"))
        for sentence in broken(self.recording):
            self._print(Text(f"✗ {sentence}", "bold red"))
        if not broken(self.recording):
            self._print(Text("✓ every invariant held", "bold green"))
        elif result.verdicts:
            found, since = min(self.recording.verdicts_at), result.verdicts[0].step
            earlier = f"; the first of it is so since step {since}" if since < found else ""
            self._print(Text(f"`goto wrong` goes to step {found}, where it shows{earlier}.", "dim"))

    def execute(self, line: str) -> bool:
        """Carry out one command; return False when it was the last. An empty line repeats the one before."""
        line = line.strip() or self._last_line
        self._last_line = line
        name, _, rest = line.partition(" ")
        if name in ("", "#") or name.startswith("#"):
            return True
        if name in ("quit", "q", "exit"):
            return False
        command = COMMANDS.get(ALIASES.get(name, name))
        try:
            if command is None:
                raise BadCommand("command", f"no command {name!r}; `help` names them")
            command.run(self, rest.strip())
        except TallystickError as error:
            self.failed = True
            self._print(Text(str(error), "bold red"))
        return True

    # --- moving ------------------------------------------------------------------------------------------------

    def next(self, rest: str) -> None:
        """Go forward one step, or N."""
        self._go(self.view.step + _number(rest, 1))

    def back(self, rest: str) -> None:
        """Go back one step, or N."""
        self._go(self.view.step - _number(rest, 1))

    def until(self, rest: str) -> None:
        """Go forward to a virtual time: `until 12.5s`, `until 800ms`."""
        at_us = _time(rest)
        after = [
            number
            for number, step in enumerate(self.recording.steps)
            if step.at_us >= at_us and number > self.view.step
        ]
        self._go(after[0] if after else len(self.recording) - 1)

    def run(self, rest: str) -> None:
        """Go on to the next breakpoint, or to where something is wrong; `run back` goes the other way."""
        if rest not in ("", "back"):
            raise BadCommand("run", "goes on, or `back`")
        at, end = self.view.step, len(self.recording)
        numbers = range(at - 1, -1, -1) if rest else range(at + 1, end)
        for number in numbers:
            hits = [
                f"breakpoint {key}: {one}"
                for key, one in self._breaks.items()
                if one.hits(self.recording, self.told, number)
            ]
            if hits or number in self.recording.verdicts_at:
                self._go(number)
                for hit in hits:
                    self._print(Text(hit, "bold blue"))
                return
        self._go(-1 if rest else end - 1)
        self._print(Text(f"the {'beginning' if rest else 'end'} of the run", "dim"))

    def goto(self, rest: str) -> None:
        """Go to a step by number; `goto wrong` to where the first broken invariant shows, `goto end`."""
        if rest == "wrong":
            if not self.recording.verdicts_at:
                raise BadCommand("goto", "nothing is wrong in this run")
            self._go(min(self.recording.verdicts_at))
        elif rest == "end":
            self._go(len(self.recording) - 1)
        else:
            self._go(_number(rest, None))

    def _go(self, step: int) -> None:
        self.view.seek(step)
        at = self.view.step
        if at < 0:
            self._print(Text("before the first step", "dim"))
            return
        verdicts = self.recording.verdicts_at.get(at, ())
        steps = len(self.recording)
        self._print(step_view.headline(at, steps, self.recording.steps[at], self.told[at], verdicts))

    # --- breakpoints -------------------------------------------------------------------------------------------

    def add_break(self, rest: str) -> None:
        """Stop `run` where all of this holds: `break state=UNKNOWN,order=ID` (event, actor, fault, invariant)."""
        self._breaks_made += 1
        self._breaks[self._breaks_made] = step_breaks.parse(rest, self.recording, self.told)
        self._print(Text(f"breakpoint {self._breaks_made}: {self._breaks[self._breaks_made]}", "blue"))

    def breaks(self, _: str) -> None:
        """List the breakpoints."""
        for key, one in self._breaks.items():
            self._print(Text(f"{key}: {one}", "blue"))
        if not self._breaks:
            self._print(Text("no breakpoints", "dim"))

    def delete(self, rest: str) -> None:
        """Delete a breakpoint by number, or `all`."""
        if rest == "all":
            self._breaks.clear()
        elif self._breaks.pop(_number(rest, None), None) is None:
            raise BadCommand("delete", f"no breakpoint {rest}")

    # --- looking -----------------------------------------------------------------------------------------------

    def state(self, rest: str) -> None:
        """Show belief, truth, ledger, wallets and queues side by side; `state ORDER` one order, `state all`."""
        only = self._order(rest) if rest not in ("", "all") else None
        self._print(step_view.state(self.view, self._changed(), only=only, whole=rest == "all"))

    def diff(self, rest: str) -> None:
        """Show what the last step changed; `diff pass` compares with the nearest run that passes."""
        if rest == "pass":
            self.nearest("")
        elif rest:
            raise BadCommand("diff", "takes nothing, or `pass`")
        else:
            at = self.view.step
            self._print(step_view.changes(self.recording.changes[at] if at >= 0 else ()))

    def list(self, rest: str) -> None:
        """List the steps around this one, or N on either side; `list ORDER` all of one order."""
        order_id = rest if rest in self.recording.tables.orders else None
        if order_id is not None:
            numbers = [number for number, one in enumerate(self.told) if order_id in one.orders]
        else:
            at, width = self.view.step, _number(rest, _LIST)
            numbers = list(range(max(0, at - width), min(len(self.told), at + width + 1)))
        lines = step_view.lines()
        for number in numbers:
            mark = "▶" if number == self.view.step else ""
            step, told = self.recording.steps[number], self.told[number]
            step_view.add_line(lines, mark, number, step=step, told=told, order_id=order_id)
        self._print(lines)

    def why(self, rest: str) -> None:
        """Tell in words how an order came to where it stands, and the truth of it; marked is what led there."""
        order_id = self._order(rest or self._accused())
        if self.view.step < 0:
            self._go(len(self.recording) - 1)
        self._print(why(self.recording, self.told, self.causes, self.view, order_id))

    def history(self, rest: str) -> None:
        """List every value of one field of an order: `history ORDER state`."""
        order_id, _, field = rest.partition(" ")
        order_id, field = self._order(order_id), field.strip() or "state"
        if field not in Order.__struct_fields__:
            raise BadCommand("field", f"no field {field!r}; there are {', '.join(Order.__struct_fields__)}")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("step", "time", "before", "after", "because"):
            table.add_column(column, no_wrap=column != "because")
        for number, before, after in history(self.recording, order_id, field):
            when = seconds(self.recording.steps[number].at_us)
            because = self.told[number].about(order_id).removeprefix(f"{order_id}: ")
            style = "" if number <= self.view.step else "dim"
            table.add_row(str(number), when, before, Text(after, "bold"), because, style=style)
        self._print(table if table.row_count else Text(f"{field} never changed", "dim"))

    def _changed(self) -> set[Key]:
        at = self.view.step
        return {change.key for change in self.recording.changes[at]} if at >= 0 else set()

    def _accused(self) -> str:
        """Return the order that the first verdict is about; for `why` without a name."""
        orders = self.recording.tables.orders
        accused = self._accused_or_none()
        if accused is None and len(orders) != 1:
            raise BadCommand("order", "say which order")
        return accused if accused is not None else next(iter(orders))

    def _accused_or_none(self) -> str | None:
        orders, verdicts = self.recording.tables.orders, self.recording.result.verdicts
        return next((one.subject for one in verdicts if one.subject in orders), None)

    def _order(self, name: str) -> str:
        orders = self.recording.tables.orders
        if name not in orders:
            raise BadCommand("order", f"no order {name!r}; there are {', '.join(list(orders)[:20])}")
        return name

    # --- changing ----------------------------------------------------------------------------------------------

    def inject(self, rest: str) -> None:
        """Let a fault strike at its next occasion from here, and go on: `inject response_lost order-1-1`."""
        name, _, where = rest.partition(" ")
        if not name:
            raise BadCommand("inject", "say which fault; `help faults` names them")
        at = max(self.view.step, 0)
        before = _without_plans(self.recording.steps[: at + 1])
        found = inject(self.source, self.recording, at, name, where.strip())
        self._load(found.source, found.step)
        same = _without_plans(self.recording.steps[: found.step + 1]) == before
        text = f"{found.text}. The run was made again; up to here it is {'the same' if same else 'NOT the same'}."
        self._print(Text(text, "bold yellow"))
        self.greet()

    def nearest(self, _: str) -> None:
        """Compare with the nearest run that passes (a safeguard on, a fault less), and go where they part."""
        if not broken(self.recording):
            raise BadCommand("nearest", "this run passes")
        self._passing = self._passing or nearest_passing(self.source, self.recording)
        if self._passing is None:
            raise BadCommand("nearest", "no run with one fault less passes")
        shown, step = compare(self.recording, self.told, self._passing, self._accused_or_none())
        self._print(shown)
        self.view.seek(step)

    def save(self, rest: str) -> None:
        """Write this run, with what was injected, to a `.tally` file that replays it anywhere."""
        if self.source.scenario is not None:
            raise BadCommand("save", "a scenario is a file already")
        if not rest:
            raise BadCommand("save", "say to which file")
        path = Path(rest) if rest.endswith(SUFFIX) else Path(f"{rest}{SUFFIX}")
        result = self.recording.result
        TallyFile(
            invariant=result.verdicts[0].invariant if result.verdicts else "",
            money=money_of(result.verdicts),
            options=result.options,
            tape=tape.encode(self.recording.world.record()),
            verdicts=result.verdicts,
            trace_digest=result.trace_digest,
        ).write(path)
        self._print(Text(f"written to {path}", "green"))

    # --- help --------------------------------------------------------------------------------------------------

    def help(self, rest: str) -> None:
        """Name the commands; `help faults` the faults that can be injected."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True, style="cyan")
        table.add_column()
        if rest == "faults":
            for fault in TABLE:
                table.add_row(fault.name, fault.about)
            if self.source.scenario is not None:
                for name, about in ONLY_HERE.items():
                    table.add_row(name, about)
        else:
            for name, command in COMMANDS.items():
                table.add_row(command.usage or name, command.run.__doc__ or "")
            table.add_row("quit", "End. An empty line repeats the last command; n, b, s, l, w, q are short forms.")
        self._print(table)

    def _print(self, what: RenderableType) -> None:
        self._console.print(what, highlight=False)


class Command(msgspec.Struct, frozen=True):
    """One command: how it is carried out, and how it is written."""

    run: Callable[[Stepper, str], None]
    usage: str = ""


COMMANDS: dict[str, Command] = {
    "next": Command(Stepper.next, "next [N]"),
    "back": Command(Stepper.back, "back [N]"),
    "until": Command(Stepper.until, "until TIME"),
    "run": Command(Stepper.run, "run [back]"),
    "goto": Command(Stepper.goto, "goto STEP"),
    "break": Command(Stepper.add_break, "break WHAT=…"),
    "breaks": Command(Stepper.breaks),
    "delete": Command(Stepper.delete, "delete N"),
    "state": Command(Stepper.state, "state [ORDER]"),
    "diff": Command(Stepper.diff, "diff [pass]"),
    "list": Command(Stepper.list, "list [N|ORDER]"),
    "why": Command(Stepper.why, "why [ORDER]"),
    "history": Command(Stepper.history, "history ORDER FIELD"),
    "inject": Command(Stepper.inject, "inject FAULT [WHERE]"),
    "nearest": Command(Stepper.nearest),
    "save": Command(Stepper.save, "save FILE"),
    "help": Command(Stepper.help, "help [faults]"),
}
ALIASES = {
    "n": "next",
    "b": "back",
    "s": "state",
    "show": "state",
    "l": "list",
    "w": "why",
    "r": "run",
    "?": "help",
}


def split_commands(text: str) -> Iterator[str]:
    """Yield the commands of a script: one a line, or several parted by semicolons."""
    for line in text.splitlines():
        for command in line.split(";"):
            if command.strip():
                yield command.strip()


def _without_plans(steps: list[Step]) -> list[Step]:
    """Leave out what a run's faults note before its first moment: what is planned, and has not come."""
    return [step for step in steps if step.at_us > 0 or step.actor not in FAULTS]


def _number(text: str, default: int | None) -> int:
    if not text and default is not None:
        return default
    if not text.isascii() or not text.isdigit():
        raise BadCommand("number", f"{text!r} is no number of steps")
    return int(text)


def _time(text: str) -> int:
    """Read a virtual time: seconds unless it says ms or µs."""
    for ending, unit_us in (("ms", 1_000), ("us", 1), ("µs", 1), ("s", SECOND_US), ("", SECOND_US)):
        if text.endswith(ending):
            try:
                return round(float(text.removesuffix(ending)) * unit_us)
            except (ValueError, OverflowError):
                break
    raise BadCommand("time", f"{text!r} is no time; write 12.5s or 800ms")
