"""The choice tape: every choice that the simulator makes, by named stream, recorded, replayable and editable.

Theory of operation
-------------------
A choice is an integer in [0, bound). It belongs to a stream, such as `network/order-7`; the part before the
first slash is the stream's family (schedule, network, psp, store, crash, workload, faults, entropy). Streams are
independent: what one order meets does not move when another order is taken out of the workload, and that is what
lets the shrinker take orders out.

A tape is either generated or replayed. Choice number i of a stream is a pure function of (seed, stream, i), built
on BLAKE2b, which no Python release will ever change, unlike the algorithms of `random.Random`. What was chosen
is kept, and a run is replayed from that record alone, so that even a change of this module keeps old files alive.

Zero is always the benign choice: no fault, no delay, the first and plainest alternative. A record that was edited
may be too short or hold a number that no longer fits; both read as zero. So a shrinker may cut, shorten and
overwrite as it likes, and every result is a run.
"""

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from struct import Struct
from typing import TypeVar

import msgspec

from tallystick.engine.errors import OurError

T = TypeVar("T")

PPM = 1_000_000
"""Chances are given in parts per million: integers, so that no platform rounds them differently."""

_BLOCK = Struct("<8Q")
_WORDS = 8
_WORD_BITS = 64

Record = dict[str, list[int]]
"""What was chosen, by stream. Streams without a choice other than zero are left out, and so are trailing zeros."""


class TapeDamaged(OurError):
    """A recorded tape cannot be read: it is no text of ours, or it was cut."""


def _word(seed: int, stream: str, block: int) -> tuple[int, ...]:
    """Return eight uniform 64-bit words: block number `block` of a stream."""
    text = f"{seed}/{block}/{stream}".encode()
    return _BLOCK.unpack(blake2b(text, digest_size=_BLOCK.size).digest())


class Stream:
    """One named sequence of choices. Made by `Tape.stream`."""

    __slots__ = ("_edits", "_recorded", "_seed", "_words", "choices", "name")

    def __init__(
        self, name: str, *, seed: int | None, recorded: Sequence[int] = (), edits: Mapping[int, int] | None = None
    ) -> None:
        self.name = name
        self.choices: list[int] = []
        """What was chosen so far; its length is the number of the next choice."""
        self._seed = seed
        self._recorded = recorded
        self._edits = edits
        self._words: tuple[int, ...] = ()

    def below(self, bound: int) -> int:
        """Return a choice in [0, bound); 0 is the benign one. `bound` is at least 1."""
        number = len(self.choices)
        if self._edits is not None and number in self._edits:
            value = self._edits[number]
            value = value if 0 <= value < bound else 0
        elif self._seed is None:
            value = self._recorded[number] if number < len(self._recorded) else 0
            value = value if 0 <= value < bound else 0
        else:
            value = self._generate(self._seed, number) * bound >> _WORD_BITS
        self.choices.append(value)
        return value

    def chance(self, ppm: int) -> bool:
        """Return True in `ppm` of a million cases; recorded as 1, and as 0 for False."""
        if ppm <= 0:
            return False
        number = len(self.choices)
        if self._seed is None or (self._edits is not None and number in self._edits):
            return self.below(2) == 1
        hit = self._generate(self._seed, number) * PPM >> _WORD_BITS < ppm
        self.choices.append(int(hit))
        return hit

    def weighted(self, weights: Sequence[int]) -> int:
        """Return an index, drawn in proportion to the weights. Index 0 is the benign one."""
        number = len(self.choices)
        if self._seed is None or (self._edits is not None and number in self._edits):
            return self.below(len(weights))
        point = self._generate(self._seed, number) * sum(weights) >> _WORD_BITS
        for index, weight in enumerate(weights):
            if point < weight:
                self.choices.append(index)
                return index
            point -= weight
        raise OurError(f"weights {weights!r} of stream {self.name} are not all positive")

    def between(self, low: int, high: int) -> int:
        """Return an integer in [low, high]; `low` is the benign choice."""
        return low + self.below(high - low + 1)

    def pick(self, alternatives: Sequence[T]) -> T:
        """Return one of the alternatives; the first is the benign one."""
        return alternatives[self.below(len(alternatives))]

    def _generate(self, seed: int, number: int) -> int:
        place = number % _WORDS
        if place == 0 or not self._words:
            self._words = _word(seed, self.name, number // _WORDS)
        return self._words[place]


class Tape:
    """All streams of one run."""

    def __init__(
        self,
        *,
        seed: int | None,
        recorded: Mapping[str, Sequence[int]] | None = None,
        edits: Mapping[str, Mapping[int, int]] | None = None,
    ) -> None:
        self._seed = seed
        self._recorded = recorded or {}
        self._edits = edits or {}
        self._streams: dict[str, Stream] = {}

    @classmethod
    def generate(cls, seed: int, *, edits: Mapping[str, Mapping[int, int]] | None = None) -> "Tape":
        """Return a tape whose choices follow from the seed; `edits` (stream, number, choice) overrule some."""
        return cls(seed=seed, edits=edits)

    @classmethod
    def replay(
        cls, recorded: Mapping[str, Sequence[int]], *, edits: Mapping[str, Mapping[int, int]] | None = None
    ) -> "Tape":
        """Return a tape that repeats recorded choices; past the end, and out of bounds, it chooses zero."""
        return cls(seed=None, recorded=recorded, edits=edits)

    def stream(self, name: str) -> Stream:
        """Return the stream of this name, always the same object."""
        stream = self._streams.get(name)
        if stream is None:
            stream = Stream(
                name, seed=self._seed, recorded=self._recorded.get(name, ()), edits=self._edits.get(name)
            )
            self._streams[name] = stream
        return stream

    def record(self) -> Record:
        """Return what was chosen so far, in canonical form: no trailing zeros, streams in order of name."""
        return canonical({name: stream.choices for name, stream in self._streams.items()})

    def lengths(self) -> dict[str, int]:
        """Return how many choices each stream has made so far."""
        return {name: len(stream.choices) for name, stream in self._streams.items()}

    def drawn(self) -> int:
        """Return how many choices were made."""
        return sum(len(stream.choices) for stream in self._streams.values())

    def digest(self) -> str:
        """Return a hash of every choice, zeros included: two runs that agree on it made the same choices."""
        state = blake2b(digest_size=16)
        for name in sorted(self._streams):
            state.update(msgspec.json.encode((name, self._streams[name].choices)))
        return state.hexdigest()


def canonical(record: Mapping[str, Sequence[int]]) -> Record:
    """Drop what reads as zero anyway: trailing zeros and streams that hold nothing else."""
    result: Record = {}
    for name in sorted(record):
        choices = list(record[name])
        while choices and choices[-1] == 0:
            choices.pop()
        if choices:
            result[name] = choices
    return result


def families(record: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return how many choices other than zero each family of streams holds: how large a case is."""
    counts: dict[str, int] = {}
    for name, choices in record.items():
        family = name.partition("/")[0]
        counts[family] = counts.get(family, 0) + sum(1 for choice in choices if choice)
    return counts


def encode(record: Mapping[str, Sequence[int]]) -> str:
    """Write a record as compact text for a `.tally` file."""
    return base64.b85encode(zlib.compress(msgspec.json.encode(canonical(record)), 9)).decode()


def decode(text: str) -> Record:
    """Read what `encode` wrote. Raises TapeDamaged."""
    try:
        record = msgspec.json.decode(zlib.decompress(base64.b85decode(text)), type=dict[str, list[int]])
    except (ValueError, zlib.error, msgspec.DecodeError) as damage:
        raise TapeDamaged(f"the tape cannot be read: {damage}") from damage
    return record


def without(record: Mapping[str, Sequence[int]], streams: Iterable[str]) -> Record:
    """Return the record with these streams chosen all zero."""
    dropped = frozenset(streams)
    return canonical({name: choices for name, choices in record.items() if name not in dropped})
