"""Randomness for a simulated engine: chances from the tape, identifiers from a counter."""

from hashlib import blake2b

from tallystick.sim.tape import Tape


class TapeEntropy:
    """The engine's Entropy port. `owner` keeps the engines of a run apart."""

    def __init__(self, owner: str, tape: Tape) -> None:
        self._owner = owner
        self._choices = tape.stream(f"entropy/{owner}")
        self._tokens = 0

    def below(self, bound: int) -> int:
        """Return a choice of the tape in [0, bound)."""
        return self._choices.below(bound)

    def token(self) -> str:
        """Return an identifier that no other call returns.

        It is no choice of the tape: with all choices zero, identifiers must still differ.
        """
        self._tokens += 1
        return blake2b(f"{self._owner}/{self._tokens}".encode(), digest_size=16).hexdigest()
