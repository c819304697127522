"""What a run is made of, beside its tape: the options of a seed, and what came of it."""

import msgspec

from tallystick.sim.verdict import Verdict


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run. Together with the tape it is all that a replay needs."""

    seed: int
    orders: int = 20
    """Payment orders in all; a checkout has one to four of them."""
    faults: tuple[str, ...] = ("all",)
    swarm: bool = True
    """Turn a random half of the fault classes off."""
    skip: tuple[int, ...] = ()
    """Checkouts, by number, that are left out: the shrinker's first cut."""
    mutant: str | None = None
    chaos_s: int = 240
    """Virtual seconds after which everything heals, if it is not over before."""
    settle_s: int = 1_800
    """Virtual seconds after healing within which everything must have ended."""


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    options: RunOptions
    verdicts: tuple[Verdict, ...]
    tape_digest: str
    trace_digest: str
    steps: int
    orders: int
    """Payment orders that were recorded."""
    virtual_us: int
    struck: dict[str, int]
    """How often each fault class struck."""
    engines: int
    """How many engine processes lived."""

    @property
    def passed(self) -> bool:
        """Say whether every invariant held."""
        return not self.verdicts
