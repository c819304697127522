"""The simulated world over a real database: the same seeds, the same faults around it, in the same virtual time.

A transaction runs when nobody else can move, and virtual time is held until its answer is there; so a real
database takes no virtual time at all, and a run is as repeatable as it is over the memory store. The memory store
runs beside it: every call goes to both, every answer is compared, and at the end everything that can be read. So
the auditor, which looks at the memory store's rows, has looked at the database's.

This module knows the Store port alone. Whoever wires it (the command line) says how a database is opened.
"""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, cast

import msgspec

from tallystick.engine.errors import StoreError
from tallystick.engine.ports import Store
from tallystick.sim.clock import VirtualClock
from tallystick.sim.faulty_store import Call, Execute, FaultyStore
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.options import RunOptions
from tallystick.sim.session import Session
from tallystick.sim.tape import Tape
from tallystick.sim.verdict import STORES_AGREE
from tallystick.sim.world import World

T = TypeVar("T")
Accuse = Callable[[str, str], None]
Ask = Callable[[Store], Coroutine[Any, Any, object]]

_ALL = 1_000_000
"""More rows than any run has."""


class Database(Protocol):
    """A fresh database for one run."""

    def open(self) -> AbstractAsyncContextManager[Callable[[], Store]]:
        """Open it; the value makes a session, one for each engine."""
        ...


class RealWorld(World):
    """One run over a real database."""

    def __init__(self, options: RunOptions, tape: Tape | None, *, database: Database) -> None:
        super().__init__(options, tape)
        self._database = database
        self._new_session: Callable[[], Store] | None = None

    async def _main(self) -> None:
        opened = self._database.open()
        with self.clock.held():
            self._new_session = await opened.__aenter__()
        try:
            await super()._main()
            with self.clock.held():
                await compare(self._new_session(), MemoryStore(self.tables), self._accuse)
        finally:
            with self.clock.held():
                await opened.__aexit__(None, None, None)

    def _store(self, session: Session) -> FaultyStore:
        if self._new_session is None:
            raise StoreError("the database is not open")
        return FaultyStore(
            mirrored(self._new_session(), MemoryStore(self.tables), self._accuse),
            session=session,
            clock=self.clock,
            faults=self.faults,
            latency=self.tape.stream(f"store/{session.name}"),
            execute=while_time_stands(self.clock, self.spawn),
            note=self.note,
        )

    def _accuse(self, subject: str, detail: str) -> None:
        self.auditor.accuse(STORES_AGREE, subject, detail)


def while_time_stands(clock: VirtualClock, spawn: Callable[[Callable[[], object]], None]) -> Execute:
    """Return how transactions of a real store are run: one at a time, in no virtual time."""

    def execute(delay_us: int, call: Call[T], done: Callable[[T | None, Exception | None], None]) -> None:
        async def run() -> None:
            await clock.idle()
            with clock.held():
                try:
                    result = await call()
                except Exception as error:  # noqa: BLE001  (handed on to whoever asked)
                    done(None, error)
                    return
            done(result, None)

        clock.call_after(delay_us, lambda: spawn(run))

    return execute


def mirrored(real: Store, memory: Store, accuse: Accuse) -> Store:
    """Return a store that asks both and compares; its answers are the real one's."""
    return cast("Store", _Mirror(real, memory, accuse))


class _Mirror:
    """Every method of the port at once: what is asked of it is asked of both."""

    def __init__(self, real: Store, memory: Store, accuse: Accuse) -> None:
        self._real = real
        self._memory = memory
        self._accuse = accuse

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, object]]:
        async def ask(*args: object, **named: object) -> object:
            real = await _outcome(getattr(self._real, name)(*args, **named))
            # Nobody runs in between: the memory store never waits.
            memory = await _outcome(getattr(self._memory, name)(*args, **named))
            if not _same(real, memory):
                self._accuse(name, f"the database answered {_short(real)}, the memory store {_short(memory)}")
            if isinstance(real, Exception):
                raise real
            return real

        return ask


async def _outcome(asked: Coroutine[Any, Any, object]) -> object:
    try:
        return await asked
    except Exception as error:  # noqa: BLE001  (compared, and raised again)
        return error


def _same(real: object, memory: object) -> bool:
    if isinstance(real, Exception) or isinstance(memory, Exception):
        # A database words its refusals in its own way.
        both = isinstance(real, Exception) and isinstance(memory, Exception)
        return both and isinstance(real, StoreError) == isinstance(memory, StoreError)
    return real == memory


def _short(outcome: object) -> str:
    return repr(outcome)[:300]


async def compare(real: Store, memory: MemoryStore, accuse: Accuse) -> None:
    """Compare everything that can be read: each order's whole story, checkouts, both books, the outbox."""
    tables = memory.tables
    asks: list[tuple[str, Ask]] = [
        ("ledger", lambda store: store.transfers_after(seq=0, limit=_ALL)),
        ("outbox", lambda store: store.outbox_after(position=0, limit=_ALL)),
        ("dead letters", lambda store: store.dead_letters(include_closed=True, after=None, limit=_ALL)),
        ("in flight", lambda store: store.in_flight()),
        ("findings", lambda store: store.findings(limit=_ALL)),
        ("checkouts", lambda store: store.checkout_views(list(tables.events))),
    ]
    for order_id in tables.orders:
        asks += _about_order(order_id)
    for seller in dict.fromkeys(seller for seller, _ in tables.wallets):
        asks.append(_about_seller(seller))
    for account_id in tables.accounts:
        asks.append(_about_account(account_id))
    for subject, ask in asks:
        theirs, ours = await _outcome(ask(real)), await _outcome(ask(memory))
        if not _same(theirs, ours):
            accuse(subject, f"the database holds {_difference(theirs, ours)}")


def _about_order(order_id: str) -> list[tuple[str, Ask]]:
    return [(order_id, lambda store: store.order_view(order_id)), (order_id, lambda store: store.story(order_id))]


def _about_seller(seller: str) -> tuple[str, Ask]:
    return seller, lambda store: store.wallet_views(seller)


def _about_account(account_id: str) -> tuple[str, Ask]:
    return account_id, lambda store: store.account_view(account_id, before_seq=None, limit=_ALL)


def _difference(theirs: object, ours: object) -> str:
    """Name the first thing in which two answers differ."""
    if isinstance(theirs, msgspec.Struct) and type(theirs) is type(ours):
        for field in theirs.__struct_fields__:
            one, other = getattr(theirs, field), getattr(ours, field)
            if one != other:
                return f"{field}: {_difference(one, other)}"
    if isinstance(theirs, list | tuple) and isinstance(ours, list | tuple) and len(theirs) == len(ours):
        for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            if one != other:
                return f"at {number} {_difference(one, other)}"
    return f"{_short(theirs)}, the memory store {_short(ours)}"
