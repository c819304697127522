"""The trace of a run: an append-only list of steps with a running hash, the same byte for byte on every machine.

Appending must cost next to nothing, since a campaign appends millions of steps that nobody reads. So a step keeps
references to immutable payloads, and text and hash are made only when somebody asks, for all new steps at once.
"""

from hashlib import blake2b
from typing import NamedTuple

import msgspec

Payload = msgspec.Struct | tuple[object, ...] | str | int | None
"""What happened, in immutable values: frozen structs, tuples, text, numbers. Never a set: it has no order."""


class Step(NamedTuple):
    """Something happened at `at_us` of virtual time; `actor` is who did it, or to whom it was done."""

    at_us: int
    actor: str
    kind: str
    payload: Payload


_ENCODER = msgspec.json.Encoder(order="deterministic")


class Trace:
    """All steps of one run, oldest first. A step's number is its place in `steps`."""

    __slots__ = ("_hash", "_hashed", "steps")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._hash = blake2b(digest_size=16)
        self._hashed = 0

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, at_us: int, actor: str, kind: str, payload: Payload = None) -> int:
        """Add a step and return its number."""
        self.steps.append(Step(at_us, actor, kind, payload))
        return len(self.steps) - 1

    def digest(self) -> str:
        """Return the hash over all steps so far."""
        if self._hashed < len(self.steps):
            self._hash.update(_ENCODER.encode_lines(self.steps[self._hashed :]))
            self._hashed = len(self.steps)
        return self._hash.hexdigest()

    def lines(self) -> list[bytes]:
        """Return every step as one line of JSON, exactly as it is hashed."""
        return [_ENCODER.encode(step) for step in self.steps]


class Divergence(NamedTuple):
    """The first step at which two traces differ; a side is None where that trace had ended."""

    number: int
    left: bytes | None
    right: bytes | None


def first_divergence(left: Trace, right: Trace) -> Divergence | None:
    """Return where two traces part, or None when they are the same."""
    if left.digest() == right.digest():
        return None
    ours, theirs = left.lines(), right.lines()
    for number in range(max(len(ours), len(theirs))):
        one = ours[number] if number < len(ours) else None
        other = theirs[number] if number < len(theirs) else None
        if one != other:
            return Divergence(number, one, other)
    return None
