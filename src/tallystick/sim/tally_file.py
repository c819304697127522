"""A failing run as one small file, `.tally`: everything that a replay needs, and what was wrong.

The file holds the choices of the tape and not the seed alone, so that it stays a failing case when the generator
of choices changes. It is JSON; the tape inside is compressed.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

import tallystick
from tallystick.engine.errors import SetupError
from tallystick.engine.money import Money
from tallystick.sim.options import RunOptions
from tallystick.sim.tape import Record, TapeDamaged, decode
from tallystick.sim.verdict import Verdict

FORMAT = 1
"""Counts changes of the file's format; a reader refuses what it does not know."""
SUFFIX = ".tally"


class TallyFileUnreadable(SetupError):
    """The file is missing, is no `.tally` file, or was written by a version that we do not know."""


class Shrunk(msgspec.Struct, frozen=True, kw_only=True):
    """What shrinking left, in numbers."""

    payments: int
    """Payment orders."""
    faults: int
    """Strikes of faults."""
    choices: int
    """Choices other than zero that are neither a payment's own nor a fault's: the schedule, the wire, jitter."""
    runs: int
    """How many runs it took."""


class TallyFile(msgspec.Struct, frozen=True, kw_only=True):
    """One failing run. `money` says how much is wrong, by currency, as decimal text."""

    tally: int = FORMAT
    version: str = tallystick.__version__
    invariant: str
    """The first invariant that broke: shrinking keeps it broken."""
    money: dict[str, str]
    options: RunOptions
    tape: str
    verdicts: tuple[Verdict, ...]
    trace_digest: str
    store: str = "memory"
    shrunk: Shrunk | None = None

    @property
    def record(self) -> Record:
        """Return the choices of the tape. Raises TapeDamaged."""
        return decode(self.tape)

    @property
    def name(self) -> str:
        """Return the name under which a campaign writes the file."""
        mutant = f"-{self.options.mutant}" if self.options.mutant else ""
        return f"seed-{self.options.seed}{mutant}-{self.invariant}{SUFFIX}"

    def write(self, path: Path) -> None:
        """Write the file, making folders as needed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


class _Header(msgspec.Struct):
    tally: int
    version: str


def read(path: Path) -> TallyFile:
    """Read a file. Raises TallyFileUnreadable, with what is wrong."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise TallyFileUnreadable(f"{path} cannot be read: {error.strerror}") from error
    try:
        header = msgspec.json.decode(text, type=_Header)
        if header.tally != FORMAT:
            raise TallyFileUnreadable(
                f"{path} is of format {header.tally} (Tallystick {header.version}); this version reads {FORMAT}"
            )
        file = msgspec.json.decode(text, type=TallyFile)
        decode(file.tape)
    except (msgspec.DecodeError, TapeDamaged, UnicodeDecodeError) as error:
        raise TallyFileUnreadable(f"{path} is no {SUFFIX} file: {error}") from error
    return file


def money_of(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return how much money the verdicts are about, by currency; two of them about one subject count once."""
    worst: dict[tuple[str, str], int] = {}
    for verdict in verdicts:
        if verdict.currency:
            key = verdict.currency, verdict.subject
            worst[key] = max(worst.get(key, 0), abs(verdict.amount_minor))
    sums: dict[str, int] = {}
    for (currency, _), minor in worst.items():
        sums[currency] = sums.get(currency, 0) + minor
    return {currency: Money(sums[currency], currency).decimal() for currency in sorted(sums)}


def in_words(money: dict[str, str]) -> str:
    """Return sums of money as text, such as `12.30 EUR, 5 JPY`; `no money` for none."""
    return ", ".join(f"{amount} {currency}" for currency, amount in money.items()) or "no money"
