"""How strong is the auditor? Each mutant is run on seed after seed until a run fails, several times over.

A mutant is killed by name when the invariant that names its harm is among those that the failing run broke. The
number of seeds that it took is what a reader wants to know: a safeguard that goes missing is seen after so many.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from signal import SIG_IGN, SIGINT, signal
from statistics import median

import msgspec

from tallystick.sim.mutants.catalogue import MUTANTS, find
from tallystick.sim.mutants.frame import Mutant
from tallystick.sim.options import RunOptions
from tallystick.sim.world import World


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One search for a run that fails, from a starting seed of its own."""

    mutant: str
    first_seed: int
    seeds: int
    """How many were run, the failing one included."""
    broken: tuple[str, ...]
    """The invariants that the failing run broke, first one first; empty when no run failed."""

    @property
    def killed(self) -> bool:
        """Say whether a run failed."""
        return bool(self.broken)

    @property
    def failing_seed(self) -> int:
        """Return the seed of the run that failed."""
        return self.first_seed + self.seeds - 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one mutant."""

    mutant: str
    about: str
    rule: str
    invariant: str
    """The invariant that names it."""
    trials: int
    killed: int
    named: int
    """In how many trials the invariant that names it was broken, too."""
    first_broken: dict[str, int]
    """Which invariant was broken first, and in how many trials."""
    median_seeds: float | None
    worst_seeds: int | None
    failing_seeds: tuple[int, ...]
    survives_because: str | None

    @property
    def survives(self) -> bool:
        """Say whether a trial ended without a failing run, or none of them broke the invariant that names it."""
        return self.killed < self.trials or self.named == 0


def seek(mutant: str, *, first_seed: int, seeds_max: int, orders: int) -> Trial:
    """Run a mutant on seed after seed until a run fails."""
    for number in range(seeds_max):
        result = World(RunOptions(seed=first_seed + number, orders=orders, mutant=mutant)).run()
        if not result.passed:
            broken = tuple(dict.fromkeys(verdict.invariant for verdict in result.verdicts))
            return Trial(mutant=mutant, first_seed=first_seed, seeds=number + 1, broken=broken)
    return Trial(mutant=mutant, first_seed=first_seed, seeds=seeds_max, broken=())


def sum_up(mutant: Mutant, trials: Sequence[Trial]) -> Row:
    """Return the row of one mutant."""
    killed = [trial for trial in trials if trial.killed]
    counts = [trial.seeds for trial in killed]
    return Row(
        mutant=mutant.name,
        about=mutant.about,
        rule=mutant.rule,
        invariant=mutant.caught_by,
        trials=len(trials),
        killed=len(killed),
        named=sum(1 for trial in killed if mutant.caught_by in trial.broken),
        first_broken=dict(Counter(trial.broken[0] for trial in killed).most_common()),
        median_seeds=median(counts) if counts else None,
        worst_seeds=max(counts, default=None),
        failing_seeds=tuple(trial.failing_seed for trial in killed),
        survives_because=mutant.survives_because,
    )


def measure(
    names: Iterable[str] = (),
    *,
    trials: int,
    seeds_max: int,
    orders: int = 20,
    first_seed: int = 0,
    jobs: int = 1,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> list[Row]:
    """Run `trials` searches for each mutant, all from different seeds. The result does not depend on `jobs`.

    Raises UnknownMutant.
    """
    mutants = [find(name) for name in names] or list(MUTANTS.values())
    wanted = [(one.name, first_seed + number * seeds_max) for one in mutants for number in range(trials)]
    found: dict[tuple[str, int], Trial] = {}
    if jobs == 1:
        for name, start in wanted:
            found[name, start] = seek(name, first_seed=start, seeds_max=seeds_max, orders=orders)
            on_trial(found[name, start])
    else:
        with ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), initializer=signal, initargs=(SIGINT, SIG_IGN)
        ) as pool:
            futures = [
                pool.submit(seek, name, first_seed=start, seeds_max=seeds_max, orders=orders)
                for name, start in wanted
            ]
            for future in as_completed(futures):
                trial = future.result()
                found[trial.mutant, trial.first_seed] = trial
                on_trial(trial)
    return [sum_up(one, [found[key] for key in wanted if key[0] == one.name]) for one in mutants]
