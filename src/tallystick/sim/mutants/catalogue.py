"""All mutants by name, and the switch."""

from contextlib import AbstractContextManager, nullcontext

from tallystick.engine.errors import CallerError
from tallystick.sim.mutants import acting, deciding, resuming, sending, storing
from tallystick.sim.mutants.frame import Mutant

_FAMILIES = (deciding, resuming, sending, storing, acting)

MUTANTS: dict[str, Mutant] = {one.name: one for family in _FAMILIES for one in family.MUTANTS}


class UnknownMutant(CallerError):
    """No mutant has this name."""


def find(name: str) -> Mutant:
    """Return a mutant. Raises UnknownMutant."""
    mutant = MUTANTS.get(name)
    if mutant is None:
        raise UnknownMutant("mutant", f"no mutant {name!r}; there are {', '.join(MUTANTS)}")
    return mutant


def switched_off(name: str | None) -> AbstractContextManager[None]:
    """Switch a mutant's safeguard off for the length of a block; None for no mutant. Raises UnknownMutant."""
    return nullcontext() if name is None else find(name).off()
