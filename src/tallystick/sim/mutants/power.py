"""How strong is the auditor? Each mutant is run on seed after seed until a run fails, several times over.

A mutant is killed by name when a run breaks the invariant that names its harm. A run that breaks only others does
not end the search. The number of seeds that it took is what a reader wants to know: a safeguard that goes missing
is seen after so many.
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
    """One search for a run that breaks the invariant that names a mutant, from a starting seed of its own."""

    mutant: str
    first_seed: int
    seeds_to_failure: int | None
    """How many were run until one failed, that one included."""
    first_broken: str | None
    """The invariant that the first failing run broke first."""
    seeds: int | None
    """How many were run until one broke the invariant that names the mutant, that one included."""

    @property
    def killing_seed(self) -> int | None:
        """Return the seed of the run that broke the invariant that names the mutant."""
        return None if self.seeds is None else self.first_seed + self.seeds - 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one mutant."""

    mutant: str
    about: str
    rule: str
    invariant: str
    """The invariant that names it."""
    trials: int
    faults: tuple[str, ...]
    killed: int
    """In how many trials a run broke that invariant."""
    median_seeds: float | None
    """How many seeds that took."""
    worst_seeds: int | None
    first_broken: dict[str, int]
    """Which invariant the first failing run broke first, and in how many trials."""
    median_seeds_to_failure: float | None
    worst_seeds_to_failure: int | None
    killing_seeds: tuple[int, ...]
    survives_because: str | None

    @property
    def survives(self) -> bool:
        """Say whether a trial ended without a run that broke the invariant."""
        return self.killed < self.trials


def options_of(mutant: Mutant, *, seed: int, orders: int = 20) -> RunOptions:
    """Return the options of one run of a mutant."""
    everything = mutant.faults == ("all",)
    return RunOptions(seed=seed, orders=orders, faults=mutant.faults, swarm=everything, mutant=mutant.name)


def seek(name: str, *, first_seed: int, seeds_max: int, orders: int) -> Trial:
    """Run a mutant on seed after seed until a run breaks the invariant that names it. Raises UnknownMutant."""
    mutant = find(name)
    trial = Trial(mutant=name, first_seed=first_seed, seeds_to_failure=None, first_broken=None, seeds=None)
    for number in range(seeds_max):
        result = World(options_of(mutant, seed=first_seed + number, orders=orders)).run()
        if result.verdicts and trial.first_broken is None:
            first = result.verdicts[0].invariant
            trial = msgspec.structs.replace(trial, seeds_to_failure=number + 1, first_broken=first)
        if any(verdict.invariant == mutant.caught_by for verdict in result.verdicts):
            return msgspec.structs.replace(trial, seeds=number + 1)
    return trial


def sum_up(mutant: Mutant, trials: Sequence[Trial]) -> Row:
    """Return the row of one mutant."""
    counts = [trial.seeds for trial in trials if trial.seeds is not None]
    to_failure = [trial.seeds_to_failure for trial in trials if trial.seeds_to_failure is not None]
    first = [trial.first_broken for trial in trials if trial.first_broken is not None]
    return Row(
        mutant=mutant.name,
        about=mutant.about,
        rule=mutant.rule,
        invariant=mutant.caught_by,
        trials=len(trials),
        faults=mutant.faults,
        killed=len(counts),
        median_seeds=median(counts) if counts else None,
        worst_seeds=max(counts, default=None),
        first_broken=dict(Counter(first).most_common()),
        median_seeds_to_failure=median(to_failure) if to_failure else None,
        worst_seeds_to_failure=max(to_failure, default=None),
        killing_seeds=tuple(trial.killing_seed for trial in trials if trial.killing_seed is not None),
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
