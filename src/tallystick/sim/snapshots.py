"""A whole run, recorded so that it can be looked at forwards and backwards without being run again.

Coroutines cannot be copied, so nobody can step a run back. But what a person wants to see of it is a few hundred
immutable rows. Whenever a step is noted, the recorder keeps the rows that have changed since the last step, each
with its old and its new value; a view of the run then moves in either direction by applying them, and going back
costs what going forward costs. Only a fault that is injected by hand needs another run.

The recorder reads and never draws, sleeps or writes: a recorded run is the same, byte for byte, as an unrecorded.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tallystick.engine.order import Order
from tallystick.engine.views import AttemptView, MismatchView, StoredTransfer, WalletView
from tallystick.sim.memory_tables import DeadLetterRow, Tables, WalletEntryRow
from tallystick.sim.options import RunResult
from tallystick.sim.psp.model import Payment
from tallystick.sim.trace import Payload, Step, Trace
from tallystick.sim.verdict import Verdict
from tallystick.sim.world import World


class Key(NamedTuple):
    """One row that can change: which kind, and which."""

    section: str
    """One of SECTIONS."""
    name: str
    """What tells it from others of its kind; parts are joined by a blank."""


SECTIONS = (
    "order",
    "attempts",
    "log",
    "payment",
    "account",
    "wallet",
    "mismatch",
    "letter",
    "books",
    "cursor",
    "queue",
    "engine",
    "psp",
)
"""What we believe; what the PSPs know (`payment`); the books; and what is under way."""

Row = (
    Order
    | tuple[AttemptView, ...]
    | Payment
    | WalletView
    | MismatchView
    | DeadLetterRow
    | tuple[int, int]
    | int
    | str
)


class Change(NamedTuple):
    """A row that a step changed; None where it was not there before."""

    key: Key
    old: Row | None
    new: Row


class Recording:
    """A finished run: its steps, what each changed, and what was wrong in the end."""

    def __init__(self, world: World, result: RunResult, recorder: "Recorder") -> None:
        self.world = world
        self.result = result
        self.steps: list[Step] = world.trace.steps
        self.changes: Sequence[Sequence[Change]] = recorder.changes
        """By step."""
        self.verdicts_at: dict[int, list[Verdict]] = {}
        """By the step at which each was found; a verdict itself says since which step something is wrong."""
        found = [*recorder.found, *[len(self.steps) - 1] * len(result.verdicts)]
        for step, verdict in zip(found, result.verdicts, strict=False):
            self.verdicts_at.setdefault(step, []).append(verdict)
        self._checkouts: dict[str, tuple[str, ...]] = {
            checkout_id: row.orders for checkout_id, row in world.tables.events.items()
        }

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def tables(self) -> Tables:
        """The rows as they are at the end of the run."""
        return self.world.tables

    def orders_of(self, checkout_id: str) -> tuple[str, ...]:
        """Return a checkout's payment orders; none for one that was never recorded."""
        return self._checkouts.get(checkout_id, ())

    def transfers(self, until: int) -> list[StoredTransfer]:
        """Return the first `until` transfers."""
        return self.tables.transfers[:until]

    def wallet_entries(self, until: int) -> list[WalletEntryRow]:
        """Return the first `until` wallet entries."""
        return list(self.tables.wallet_entries.values())[:until]


def record(world: World) -> Recording:
    """Run a world to its end, and record it."""
    recorder = Recorder(world)
    result = world.run()
    recorder.finish()
    return Recording(world, result, recorder)


class View:
    """The rows as they were right after one step. Before the first step (-1) there are none."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.step = -1
        self._rows: dict[Key, Row] = {}

    def seek(self, step: int) -> None:
        """Go to a step, forwards or backwards; beyond either end, to that end."""
        step = max(-1, min(step, len(self._recording) - 1))
        rows, changes = self._rows, self._recording.changes
        while self.step < step:
            self.step += 1
            for change in changes[self.step]:
                rows[change.key] = change.new
        while self.step > step:
            for change in changes[self.step]:
                if change.old is None:
                    del rows[change.key]
                else:
                    rows[change.key] = change.old
            self.step -= 1

    def get(self, section: str, name: str) -> Row | None:
        """Return one row, or None."""
        return self._rows.get(Key(section, name))

    def section(self, section: str) -> dict[str, Row]:
        """Return all rows of a kind, sorted by name so that numbers in names count."""
        found = {key.name: row for key, row in self._rows.items() if key.section == section}
        return {name: found[name] for name in sorted(found, key=natural)}

    def orders(self) -> dict[str, Order]:
        """Return the orders as the store has them."""
        return {name: row for name, row in self.section("order").items() if isinstance(row, Order)}

    def payments(self) -> dict[str, Payment]:
        """Return what the PSPs know, by "PSP reference"."""
        return {name: row for name, row in self.section("payment").items() if isinstance(row, Payment)}

    def number(self, section: str, name: str) -> int:
        """Return a row that is a number; 0 where there is none."""
        row = self.get(section, name)
        return row if isinstance(row, int) else 0


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key under which order-2 comes before order-10."""
    parts: list[tuple[int, str]] = []
    digits = ""
    for char in f"{name}\0":
        if char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, char))
    return tuple(parts)


class Recorder(Trace):
    """A trace that looks at the world's rows whenever a step is noted. Takes the place of the world's own."""

    __slots__ = ("_rows", "_world", "changes", "found")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.changes: list[list[Change]] = []
        self.found: list[int] = []
        """For each verdict the step at which it was found."""
        self._rows: dict[Key, Row] = {}
        self._world = world
        for step in world.trace.steps:
            self.append(*step)
        world.trace = self

    def append(self, at_us: int, actor: str, kind: str, payload: Payload = None) -> int:
        """Add a step, keep what has changed, and return the step's number."""
        number = super().append(at_us, actor, kind, payload)
        self._look_for_verdicts()
        self.changes.append([])
        # Rows are written by transactions, and each transaction is a step of the store. Everything else is cheap.
        if actor == "store":
            self._keep(_tables(self._world.tables))
        elif isinstance(payload, Payment):
            self._keep(iter([(Key("payment", f"{actor} {payload.psp_reference}"), payload)]))
        self._keep(_surroundings(self._world))
        return number

    def finish(self) -> None:
        """Keep what changed after the last step: it belongs to that one."""
        if self.changes:
            self._keep(_tables(self._world.tables))

    def _look_for_verdicts(self) -> None:
        """A verdict that has come up since the last step was found there."""
        new = len(self._world.auditor.verdicts) - len(self.found)
        self.found += [max(0, len(self.changes) - 1)] * new

    def _keep(self, found: Iterator[tuple[Key, Row]]) -> None:
        rows, changes = self._rows, self.changes[-1]
        for key, row in found:
            old = rows.get(key)
            if old is not row and old != row:
                rows[key] = row
                changes.append(Change(key, old, row))


def _tables(tables: Tables) -> Iterator[tuple[Key, Row]]:
    for order_id, order in tables.orders.items():
        yield Key("order", order_id), order
    for order_id, attempts in tables.attempts.items():
        yield Key("attempts", order_id), tuple(attempts.values())
    for order_id, log in tables.log.items():
        yield Key("log", order_id), len(log)
    for account_id, account in tables.accounts.items():
        yield Key("account", account_id), (account.debits_minor, account.credits_minor)
    for (seller, currency), wallet in tables.wallets.items():
        yield Key("wallet", f"{seller} {currency}"), wallet
    for mismatch_id, mismatch in tables.mismatches.items():
        yield Key("mismatch", mismatch_id), mismatch
    for order_id, letter in tables.dead_letters.items():
        yield Key("letter", order_id), letter
    yield Key("books", "transfers"), len(tables.transfers)
    yield Key("books", "wallet entries"), len(tables.wallet_entries)
    yield Key("books", "events"), len(tables.outbox)


def _surroundings(world: World) -> Iterator[tuple[Key, Row]]:
    up = {session.name: (session, engine) for session, engine in world.doors}
    for number in range(1, world.engines + 1):
        name = f"engine-{number}"
        if name not in up:
            yield Key("engine", name), "not up"
            continue
        session, engine = up[name]
        yield Key("engine", name), "dead" if not session.alive else "paused" if session.paused else "up"
        for mailbox, waiting in engine.queues().items():
            yield Key("queue", f"{name} {mailbox}"), waiting
        yield Key("queue", f"{name} live orders"), engine.live_orders
    for receiver, position in world.tables.receivers.items():
        yield Key("cursor", receiver), position
    for site in world.sites:
        elapsed_us = world.clock.elapsed_us
        if elapsed_us < site.down_until_us and not world.faults.healed:
            yield Key("psp", site.name), "refuses connections"
        elif elapsed_us < site.silent_until_us and not world.faults.healed:
            yield Key("psp", site.name), "answers nothing"
        else:
            yield Key("psp", site.name), "up"
        yield Key("queue", f"wire to {site.name}"), site.under_way
