"""Campaigns: many seeds, run and judged, in one process or several; the result does not depend on how many.

A campaign is cut into chunks of seeds. A chunk is run whole by one process, which returns a small report. Reruns
for the determinism check are tasks of their own, run by other processes than the first runs, so that a choice that
hangs on memory addresses, hash seeds or what ran before shows as a divergence.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from hashlib import blake2b
from multiprocessing import get_context
from signal import SIG_IGN, SIGINT, signal
from typing import Any, Protocol

import msgspec

from tallystick.sim import faults, goals, tape
from tallystick.sim.coverage import Coverage, Triple
from tallystick.sim.options import RunOptions, RunResult
from tallystick.sim.tally_file import TallyFile, money_of
from tallystick.sim.tape import Tape
from tallystick.sim.trace import Divergence
from tallystick.sim.world import World

# Long enough that handing a chunk over costs nothing, short enough for a progress bar that moves.
_CHUNK_MAX = 20
_RERUN_SCALE = 1_000


class MakeWorld(Protocol):
    """Makes the world of one run. Instances are pickled, so they are functions or plain objects of a module."""

    def __call__(self, options: RunOptions, tape: Tape | None) -> World:
        """Return a world that has not run yet."""
        ...


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign runs."""

    first_seed: int = 0
    seeds: int
    options: RunOptions
    """Of every run; its seed is replaced."""
    store: str = "memory"
    rerun: float = 0.0
    """The share of seeds that is run twice and compared."""

    def is_rerun(self, seed: int) -> bool:
        """Say whether a seed is run twice: spread evenly, and the same seeds every time."""
        share = round(self.rerun * _RERUN_SCALE)
        return (seed + 1) * share // _RERUN_SCALE > seed * share // _RERUN_SCALE


class SeedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign keeps of one run."""

    result: RunResult
    failure: TallyFile | None


class ChunkReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one chunk."""

    reports: list[SeedReport]
    triples: list[tuple[Triple, int]]


class Diverged(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs of one seed were not the same: where, and what each side did there."""

    seed: int
    first: RunResult
    second: RunResult
    at: Divergence | None
    """None when a third run agreed with the second: it is not even wrong in the same way twice."""


def run_seed(make: MakeWorld, options: RunOptions, coverage: Coverage) -> tuple[World, RunResult]:
    """Run one seed."""
    world = make(options, None)
    with coverage.watching(world.trace):
        result = world.run()
    return world, result


def as_tally_file(world: World, result: RunResult, *, store: str) -> TallyFile:
    """Return a failed run as what is written to a `.tally` file."""
    return TallyFile(
        invariant=result.verdicts[0].invariant,
        money=money_of(result.verdicts),
        options=result.options,
        tape=tape.encode(world.record()),
        verdicts=result.verdicts,
        trace_digest=result.trace_digest,
        store=store,
    )


def run_chunk(make: MakeWorld, plan: Plan, seeds: Sequence[int]) -> ChunkReport:
    """Run some seeds, one after another."""
    coverage, reports = Coverage(), []
    for seed in seeds:
        world, result = run_seed(make, msgspec.structs.replace(plan.options, seed=seed), coverage)
        failure = None if result.passed else as_tally_file(world, result, store=plan.store)
        reports.append(SeedReport(result=result, failure=failure))
    return ChunkReport(reports=reports, triples=list(coverage.triples.items()))


def rerun_chunk(make: MakeWorld, plan: Plan, expected: Sequence[RunResult]) -> RunResult | None:
    """Run seeds again; return the first result that differs from the expected one."""
    for first in expected:
        _, second = run_seed(make, msgspec.structs.replace(plan.options, seed=first.options.seed), Coverage())
        if second != first:
            return second
    return None


def trace_lines(make: MakeWorld, plan: Plan, seed: int) -> list[bytes]:
    """Run a seed once more, for its trace."""
    world, _ = run_seed(make, msgspec.structs.replace(plan.options, seed=seed), Coverage())
    return world.trace.lines()


class Campaign:
    """Takes in reports in order of seed, and sums them up."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.coverage = Coverage()
        self.struck: Counter[str] = Counter()
        self.failures: list[TallyFile] = []
        self.seeds = 0
        self.orders = 0
        self.steps = 0
        self.engines = 0
        self.virtual_us = 0
        self.reruns = 0
        self.diverged: Diverged | None = None
        self._hash = blake2b(digest_size=16)

    @property
    def trace_hash(self) -> str:
        """Return one hash over all traces, in order of seed."""
        return self._hash.hexdigest()

    @property
    def goals_missed(self) -> list[goals.Goal]:
        """Return the goals that a campaign of this size should have reached."""
        return goals.missed(
            list(self.coverage.triples),
            self.struck,
            seeds=self.seeds,
            allowed=faults.named(self.plan.options.faults),
        )

    def take(self, chunk: ChunkReport) -> None:
        """Add a chunk's report. Chunks come in order of seed."""
        self.coverage.triples.update(dict(chunk.triples))
        for report in chunk.reports:
            result = report.result
            self.seeds += 1
            self.orders += result.orders
            self.steps += result.steps
            self.engines += result.engines
            self.virtual_us += result.virtual_us
            self.struck.update(result.struck)
            self._hash.update(f"{result.options.seed}:{result.trace_digest}\n".encode())
            if report.failure is not None:
                self.failures.append(report.failure)


Progress = Callable[[Campaign], None]


def run_campaign(
    plan: Plan, *, jobs: int = 1, make: MakeWorld = World, on_progress: Progress = lambda _: None
) -> Campaign:
    """Run a whole campaign; stops early at a divergence only."""
    campaign = Campaign(plan)
    chunks = _chunks(plan, jobs)
    if jobs == 1 and not plan.rerun:
        for seeds in chunks:
            campaign.take(run_chunk(make, plan, seeds))
            on_progress(campaign)
    else:
        with ExitStack() as stack:
            firsts, seconds = stack.enter_context(_workers(jobs)), stack.enter_context(_workers(jobs))
            _Crew(campaign, firsts, seconds, make=make, on_progress=on_progress).run(chunks, jobs)
    return campaign


def _chunks(plan: Plan, jobs: int) -> Iterator[list[int]]:
    """Cut the seeds into chunks: as long as makes sense, and enough of them that nobody idles at the end."""
    size = max(1, min(_CHUNK_MAX, plan.seeds // (4 * jobs)))
    end = plan.first_seed + plan.seeds
    for first in range(plan.first_seed, end, size):
        yield list(range(first, min(first + size, end)))


def _workers(jobs: int) -> ProcessPoolExecutor:
    """Return a pool of processes that share nothing with this one, each with a hash seed of its own."""
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=signal, initargs=(SIGINT, SIG_IGN)
    )


class _Crew:
    """Keeps `jobs` tasks under way, first runs and reruns together, and takes in reports in order."""

    def __init__(
        self,
        campaign: Campaign,
        firsts: ProcessPoolExecutor,
        seconds: ProcessPoolExecutor,
        *,
        make: MakeWorld,
        on_progress: Progress,
    ) -> None:
        self._campaign = campaign
        self._plan = campaign.plan
        self._firsts = firsts
        self._seconds = seconds
        self._make = make
        self._on_progress = on_progress
        self._reports: dict[int, Future[ChunkReport]] = {}
        """First runs by number of the chunk, until they are taken in."""
        self._reruns: dict[Future[RunResult | None], list[RunResult]] = {}
        self._waiting: deque[list[RunResult]] = deque()
        """Seeds to be run again; they come before new chunks, so that a divergence is known soon."""

    def run(self, chunks: Iterator[list[int]], jobs: int) -> None:
        """Run all chunks, and the reruns; stop at the first divergence."""
        numbered, next_taken = enumerate(chunks), 0
        while True:
            self._fill(numbered, jobs)
            under_way = self._under_way()
            if not under_way:
                return
            wait(under_way, return_when=FIRST_COMPLETED)
            while next_taken in self._reports and self._reports[next_taken].done():
                self._take(self._reports.pop(next_taken).result())
                next_taken += 1
            if self._found_divergence():
                self._firsts.shutdown(cancel_futures=True)
                self._seconds.shutdown(cancel_futures=True)
                return

    def _under_way(self) -> list[Future[Any]]:
        futures: list[Future[Any]] = [*self._reports.values(), *self._reruns]
        return [future for future in futures if not future.done()]

    def _fill(self, numbered: Iterator[tuple[int, list[int]]], jobs: int) -> None:
        while len(self._under_way()) < jobs:
            if self._waiting:
                expected = self._waiting.popleft()
                future = self._seconds.submit(rerun_chunk, self._make, self._plan, expected)
                self._reruns[future] = expected
                continue
            number, seeds = next(numbered, (-1, []))
            if not seeds:
                return
            self._reports[number] = self._firsts.submit(run_chunk, self._make, self._plan, seeds)

    def _take(self, chunk: ChunkReport) -> None:
        self._campaign.take(chunk)
        again = [one.result for one in chunk.reports if self._plan.is_rerun(one.result.options.seed)]
        if again:
            self._waiting.append(again)
        self._on_progress(self._campaign)

    def _found_divergence(self) -> bool:
        for future in [one for one in self._reruns if one.done()]:
            expected, second = self._reruns.pop(future), future.result()
            if second is None:
                self._campaign.reruns += len(expected)
                continue
            seed = second.options.seed
            first = next(one for one in expected if one.options.seed == seed)
            self._campaign.diverged = Diverged(seed=seed, first=first, second=second, at=self._compare(seed))
            return True
        return False

    def _compare(self, seed: int) -> Divergence | None:
        left, right = [
            pool.submit(trace_lines, self._make, self._plan, seed).result()
            for pool in (self._firsts, self._seconds)
        ]
        for number in range(max(len(left), len(right))):
            one = left[number] if number < len(left) else None
            other = right[number] if number < len(right) else None
            if one != other:
                return Divergence(number, one, other)
        return None
