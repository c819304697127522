"""Shrinking: the smallest case that still breaks the same invariant, in payments, then faults, then deviations.

Because zero is the benign choice everywhere on the tape, and a tape may be cut and overwritten at will, shrinking
is taking things away and looking whether the invariant still breaks. What is taken away, in this order:

    payments     whole checkouts, then all but one payment order of those that are left
    faults       whole classes, then single strikes
    deviations   every other choice that is not zero: by family of streams, by stream, one by one

Each pass takes away large pieces first, then halves of them, down to single things. After a success the tape is
what the smaller run has drawn, so that choices which nobody asks for any more are gone. Passes repeat until
nothing more can be taken away, or the time is over.

What all payments share (the schedule, the database's pace) shifts when a payment is taken out, and a rare timing
is lost with it. So where keeping the accused payments alone fails, it is tried again with other choices drawn for
what is shared, and then for all that befalls them; and at last, for one or two payments of other seeds. So the
smallest case breaks the same invariant, but it need not do so for the same reason.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

import msgspec

from tallystick.engine.errors import OurError
from tallystick.sim import tape
from tallystick.sim.campaign import MakeWorld
from tallystick.sim.faults import FAMILY
from tallystick.sim.options import RunOptions, RunResult
from tallystick.sim.tally_file import Shrunk, TallyFile, money_of
from tallystick.sim.tape import Record, Tape
from tallystick.sim.verdict import Verdict
from tallystick.sim.workload import checkouts
from tallystick.sim.world import World

T = TypeVar("T")

_SIZES = "workload/sizes"
_SWARM = f"{FAMILY}/swarm"
# Families of streams that belong to nobody in particular.
_SHARED = ("schedule", "store", "entropy", "crash")
_FATE = (*_SHARED, "network", FAMILY)
_STRIDE = 1_000_003  # a prime beyond every campaign, so that no neighbour's seed is drawn
_SCHEDULES_MAX = 12
"""How many other schedules are tried for a set of payments, with everything that befalls each of them kept."""
_FATES_MAX = 150
"""How many other fates, faults included, are tried after that."""
_REDRAW_SHARE = 0.4
"""The share of the time by which all this is over."""
_FEW = 2
"""A case of more payments than this is hard to read: a smaller one is looked for among other seeds, too."""
_SEARCH_SHARE = 0.7


class NotReproduced(OurError):
    """The file's run does not break its invariant here: it was fixed, or the version differs."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A run that breaks the invariant: how it was made, and what came of it."""

    options: RunOptions
    record: Record
    result: RunResult
    payments: int
    """Payment orders that clients asked for."""
    checkouts: tuple[int, ...]

    @property
    def strikes(self) -> int:
        """Return how many faults struck."""
        return sum(self.result.struck.values())

    @property
    def deviations(self) -> int:
        """Return how many choices other than strikes are not zero."""
        return sum(1 for name, choices in self.record.items() if not _is_strikes(name) for one in choices if one)

    @property
    def weight(self) -> tuple[int, int, int]:
        """Return the size: of two cases the one with the smaller weight is the better."""
        return self.payments, self.strikes, self.deviations


Progress = Callable[[str, Case, int], None]
"""Told the name of the pass, the smallest case so far, and the number of runs."""


class Shrinker:
    """Shrinks one file. `elapsed_s` tells real time; after `budget_s` the smallest case so far is it."""

    def __init__(
        self,
        file: TallyFile,
        *,
        elapsed_s: Callable[[], float],
        budget_s: float = 60.0,
        make: MakeWorld = World,
        on_progress: Progress = lambda *_: None,
    ) -> None:
        """Replay the file. Raises NotReproduced."""
        self._file = file
        self._elapsed_s = elapsed_s
        self._budget_s = budget_s
        self._make = make
        self._on_progress = on_progress
        self._stage = "replay"
        self._tried: set[bytes] = set()
        self.runs = 0
        first = self._run(file.options, Tape.replay(file.record))
        if first is None:
            raise NotReproduced(f"the run does not break {file.invariant} with this version: nothing to shrink")
        self.best: Case = first

    def shrink(self) -> TallyFile:
        """Take away what can be taken away, and return the smallest case as a file."""
        self._drop_idle_faults()
        self._shrink()
        if self.best.payments > _FEW and self._search():
            self._drop_idle_faults()
            self._shrink()
        return self._as_file()

    def _shrink(self) -> None:
        """Go through all passes until nothing more can be taken away."""
        before = None
        while before != self.best.weight and not self._is_over():
            before = self.best.weight
            self._stage = "payments"
            self._only_the_accused()
            self._take_away(lambda: self.best.checkouts, self._without_checkouts)
            for number in self.best.checkouts:
                self._one_order_of(number)
            self._stage = "faults"
            self._take_away(lambda: self.best.result.struck, self._without_classes)
            self._take_away(lambda: _places(self.best.record, strikes=True), self._without_places)
            self._stage = "deviations"
            self._take_away(lambda: _families(self.best.record), self._without_families)
            self._take_away(lambda: _streams(self.best.record), self._without_streams)
            self._take_away(lambda: _places(self.best.record, strikes=False), self._without_places)

    def _search(self) -> bool:
        """Look for a small case among other seeds: with one payment, then with two."""
        self._stage = "search"
        for orders in range(1, _FEW + 1):
            options = RunOptions(seed=self._file.options.seed, orders=orders, mutant=self._file.options.mutant)
            for number in range(1, _FATES_MAX + 1):
                if self._elapsed_s() > _SEARCH_SHARE * self._budget_s:
                    return False
                if self._adopt(self._run(options, Tape.generate(options.seed + _STRIDE * number))):
                    return True
        return False

    def _as_file(self) -> TallyFile:
        best = self.best
        broken = [one for one in best.result.verdicts if one.invariant == self._file.invariant]
        return msgspec.structs.replace(
            self._file,
            money=money_of(broken),
            options=best.options,
            tape=tape.encode(best.record),
            verdicts=best.result.verdicts,
            trace_digest=best.result.trace_digest,
            shrunk=Shrunk(payments=best.payments, faults=best.strikes, choices=best.deviations, runs=self.runs),
        )

    # --- trying ------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self._elapsed_s() > self._budget_s

    def _run(self, options: RunOptions, choices: Tape) -> Case | None:
        """Run a candidate; return it when it breaks the invariant."""
        self.runs += 1
        world = self._make(options, choices)
        result = world.run()
        if not self._accuses(result.verdicts):
            return None
        record = world.record()
        wanted = list(checkouts(Tape.replay(record), options))
        return Case(
            options=options,
            record=record,
            result=result,
            payments=sum(len(one.event.payment_orders) for one in wanted),
            checkouts=tuple([one.number for one in wanted]),
        )

    def _accuses(self, verdicts: Sequence[Verdict]) -> bool:
        return any(verdict.invariant == self._file.invariant for verdict in verdicts)

    def _try(self, options: RunOptions, record: Record) -> bool:
        """Adopt a candidate when it still breaks the invariant and is smaller."""
        record = tape.canonical(record)
        key = msgspec.msgpack.encode((options, record))
        if key in self._tried or self._is_over():
            return False
        self._tried.add(key)
        return self._adopt(self._run(options, Tape.replay(record)))

    def _adopt(self, case: Case | None) -> bool:
        if case is None or case.weight >= self.best.weight:
            return False
        self.best = case
        self._on_progress(self._stage, case, self.runs)
        return True

    def _take_away(
        self, things: Callable[[], Iterable[T]], without: Callable[[Sequence[T]], tuple[RunOptions, Record]]
    ) -> None:
        """Take things away: all of them, then halves, quarters, and at last one by one."""
        size = len(list(things()))
        while size >= 1 and not self._is_over():
            left, start = list(things()), 0
            while start < len(left):
                if self._try(*without(left[start : start + size])):
                    left = list(things())
                else:
                    start += size
            size //= 2

    # --- payments ----------------------------------------------------------------------------------------------

    def _without_checkouts(self, gone: Sequence[int]) -> tuple[RunOptions, Record]:
        return self._only(set(self.best.checkouts) - set(gone))

    def _only(self, kept: Collection[int]) -> tuple[RunOptions, Record]:
        """Return the case with these checkouts alone. The others' sizes are zero, so that none is cut short."""
        numbers = range(1, self.best.options.orders + 1)
        options = msgspec.structs.replace(
            self.best.options, skip=tuple([number for number in numbers if number not in kept])
        )
        sizes = enumerate(self.best.record.get(_SIZES, ()), start=1)
        cut = {_SIZES: [size if number in kept else 0 for number, size in sizes]}
        return options, self.best.record | cut

    def _only_the_accused(self) -> None:
        """Keep only the checkouts that the verdicts are about: one, or all of them."""
        accused = dict.fromkeys(
            number
            for verdict in self.best.result.verdicts
            if verdict.invariant == self._file.invariant
            for number in _numbers(verdict.subject)
            if number in self.best.checkouts
        )
        if not accused or set(accused) == set(self.best.checkouts):
            return
        for kept in (*([number] for number in accused), list(accused)):
            options, record = self._only(kept)
            if self._try(options, record) or self._redraw(options, record):
                return

    def _redraw(self, options: RunOptions, record: Record) -> bool:
        """Try other choices for what all payments share, then for everything but what the buyers want."""
        for shared, tries in ((_SHARED, _SCHEDULES_MAX), (_FATE, _FATES_MAX)):
            own = {
                name: dict(enumerate(choices))
                for name, choices in record.items()
                if name.partition("/")[0] not in shared
            }
            for number in range(1, tries + 1):
                if self._elapsed_s() > _REDRAW_SHARE * self._budget_s:
                    return False
                if self._adopt(self._run(options, Tape.generate(options.seed + _STRIDE * number, edits=own))):
                    return True
        return False

    def _one_order_of(self, number: int) -> None:
        """Leave one payment order of a checkout: its first, or the accused one in its place."""
        sizes = self.best.record.get(_SIZES, [])
        if number > len(sizes) or not sizes[number - 1]:
            return
        record = _with(self.best.record, {(_SIZES, number - 1): 0})
        if self._try(self.best.options, record):
            return
        for line in range(2, 5):
            if self._try(self.best.options, _renamed(record, f"order-{number}-{line}", f"order-{number}-1")):
                return

    # --- faults ------------------------------------------------------------------------------------------------

    def _drop_idle_faults(self) -> None:
        """Allow only the classes that struck, and switch the swarm's choices off: the run stays the same."""
        options = msgspec.structs.replace(
            self.best.options, faults=tuple(self.best.result.struck) or ("none",), swarm=False
        )
        self._try(options, {name: one for name, one in self.best.record.items() if name != _SWARM})

    def _without_classes(self, gone: Sequence[str]) -> tuple[RunOptions, Record]:
        left = tuple([name for name in self.best.result.struck if name not in gone])
        return msgspec.structs.replace(self.best.options, faults=left or ("none",)), self.best.record

    # --- deviations --------------------------------------------------------------------------------------------

    def _without_places(self, gone: Sequence[tuple[str, int]]) -> tuple[RunOptions, Record]:
        return self.best.options, _with(self.best.record, dict.fromkeys(gone, 0))

    def _without_streams(self, gone: Sequence[str]) -> tuple[RunOptions, Record]:
        return self.best.options, tape.without(self.best.record, gone)

    def _without_families(self, gone: Sequence[str]) -> tuple[RunOptions, Record]:
        streams = [name for name in _streams(self.best.record) if name.partition("/")[0] in gone]
        return self.best.options, tape.without(self.best.record, streams)


def _is_strikes(stream: str) -> bool:
    """Say whether a stream holds strikes of faults, and not their particulars."""
    return stream.startswith(f"{FAMILY}/") and not stream.endswith("/how") and stream != _SWARM


def _numbers(subject: str) -> list[int]:
    """Return the numbers of the checkouts that a verdict's subject names."""
    parts = subject.split("-")
    return [int(parts[1])] if len(parts) > 1 and parts[1].isdecimal() else []


def _streams(record: Record) -> list[str]:
    """Return the streams of everything but strikes, and but how many payments there are."""
    return [name for name in record if not _is_strikes(name) and name != _SIZES]


def _families(record: Record) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in _streams(record)))


def _places(record: Record, *, strikes: bool) -> list[tuple[str, int]]:
    """Return the places of choices other than zero, of strikes or of everything else."""
    return [
        (name, number)
        for name, choices in record.items()
        if _is_strikes(name) == strikes and name != _SIZES
        for number, choice in enumerate(choices)
        if choice
    ]


def _with(record: Record, changes: dict[tuple[str, int], int]) -> Record:
    """Return the record with other choices at some places."""
    changed = {name: list(choices) for name, choices in record.items()}
    for (name, number), choice in changes.items():
        changed[name][number] = choice
    return changed


def _renamed(record: Record, old: str, new: str) -> Record:
    """Return the record in which one payment order's streams are another's."""
    others = {name: choices for name, choices in record.items() if new not in name.split("/")}
    mine = {
        "/".join([new if part == old else part for part in name.split("/")]): choices
        for name, choices in record.items()
        if old in name.split("/")
    }
    return others | mine
