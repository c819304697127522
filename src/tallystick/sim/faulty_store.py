"""A database as engines meet it: any Store, reached over a wire that is slow, and that breaks at the worst moment.

Over the memory store a transaction runs when its request arrives, as an errand of the clock: also when the engine
that sent it has died by then, as with a real database. Over a real store it runs while virtual time is held and
nobody else can move, so that even that run is repeatable.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from tallystick.engine.errors import CommitUnknown, StoreUnavailable
from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    CreditWallet,
    Posted,
    PostTransfer,
    Transition,
    TransitionOutcome,
)
from tallystick.engine.order import Order, State
from tallystick.engine.ports import Store
from tallystick.engine.views import (
    AccountView,
    CheckoutView,
    DeadLetterView,
    Finding,
    InFlight,
    Lease,
    OrderView,
    OutboxEvent,
    StoredTransfer,
    Story,
    WalletView,
)
from tallystick.sim.clock import Promise, VirtualClock
from tallystick.sim.faults import Faults
from tallystick.sim.session import Session
from tallystick.sim.tape import Stream

T = TypeVar("T")
Call = Callable[[], Coroutine[Any, Any, T]]

# What a round trip to the database takes, in microseconds; the tape picks one. The first is the benign choice.
_ROUND_TRIPS_US = (200, 300, 500, 700, 1_000, 1_500, 2_000, 4_000)
_SLOW_US = 1_500_000
_LATE_US = 4_000_000
_UNAVAILABLE_US = 20_000


class Execute(Protocol):
    """Runs a transaction of the store behind, after a delay, and hands its outcome on."""

    def __call__(self, delay_us: int, call: Call[T], done: Callable[[T | None, Exception | None], None]) -> None:
        """Begin; `done` gets the result or the error, and is called whether or not anybody still waits."""
        ...


def at_once(clock: VirtualClock) -> Execute:
    """Return how transactions of a store that never waits are run: whole, as an errand."""

    def execute(delay_us: int, call: Call[T], done: Callable[[T | None, Exception | None], None]) -> None:
        clock.call_after(delay_us, lambda: _finish(call, done))

    return execute


def _finish(call: Call[T], done: Callable[[T | None, Exception | None], None]) -> None:
    try:
        call().send(None)
    except StopIteration as finished:
        done(finished.value, None)
    except Exception as error:  # noqa: BLE001  (handed on to whoever asked)
        done(None, error)
    else:
        done(None, RuntimeError("a store that never waits has waited"))


class FaultyStore:
    """One engine's connection to the store."""

    def __init__(
        self,
        inner: Store,
        *,
        session: Session,
        clock: VirtualClock,
        faults: Faults,
        latency: Stream,
        execute: Execute,
        note: Callable[[str, str, object], None] | None = None,
    ) -> None:
        """`note` adds to the trace what leaves for the database: a step with the writer and what it writes."""
        self._note = note
        self._inner = inner
        self._session = session
        self._clock = clock
        self._faults = faults
        self._latency = latency
        self._execute = execute
        self.down_until_us = 0
        """Until this virtual time the database cannot be reached."""

    # --- the wire ----------------------------------------------------------------------------------------------

    async def _read(self, call: Call[T]) -> T:
        """Run a read: it may be slow, or fail."""
        await self._session.gate()
        self._refuse_while_down()
        promise: Promise[T] = Promise()
        if self._faults.strikes("store_unavailable", "read"):
            self._clock.call_after(_UNAVAILABLE_US, lambda: promise.fail(StoreUnavailable("connection reset")))
        else:
            self._execute(self._round_trip_us("read"), call, _answer(promise))
        return await self._arrived(promise)

    async def _write(self, writer: str, call: Call[T], items: tuple[object, ...] = ()) -> T:
        """Run a transaction: before, at and after its commit everything may break. `items` is for the trace."""
        await self._session.gate()
        self._refuse_while_down()
        if items and self._note is not None:
            # A fault that strikes this transaction is the trace's next step.
            self._note(self._session.name, "write", (writer, items))
        faults, clock, session = self._faults, self._clock, self._session
        promise: Promise[T] = Promise()
        delay_us = self._round_trip_us(writer)
        if faults.strikes("crash_at_commit", writer):
            after = faults.how("crash_at_commit", writer).below(2) == 1

            def die(*_: object) -> None:
                session.crash(f"{'after' if after else 'before'} a commit of {writer}")

            if after:
                self._execute(delay_us, call, die)
            else:
                clock.call_after(delay_us, die)
        elif faults.strikes("store_unavailable", writer):
            clock.call_after(_UNAVAILABLE_US, lambda: promise.fail(StoreUnavailable("rolled back")))
        elif faults.strikes("commit_unknown_undone", writer):
            clock.call_after(_LATE_US, lambda: promise.fail(CommitUnknown("no answer to commit")))
        elif faults.strikes("commit_unknown_done", writer):
            self._execute(delay_us, call, lambda *_: promise.fail(CommitUnknown("no answer to commit")))
        elif faults.strikes("commit_acknowledged_late", writer):
            answer = _answer(promise)

            def acknowledge(result: T | None, error: Exception | None) -> None:
                clock.call_after(_LATE_US, lambda: answer(result, error))

            self._execute(delay_us, call, acknowledge)
        else:
            self._execute(delay_us, call, _answer(promise))
        return await self._arrived(promise)

    async def _arrived(self, promise: Promise[T]) -> T:
        result = await promise.wait()
        await self._session.gate()
        return result

    def _refuse_while_down(self) -> None:
        if self._clock.elapsed_us < self.down_until_us and not self._faults.healed:
            raise StoreUnavailable("connection refused")

    def _round_trip_us(self, writer: str) -> int:
        if self._faults.strikes("commit_slow", writer):
            return _SLOW_US
        return self._latency.pick(_ROUND_TRIPS_US)

    # --- ownership ---------------------------------------------------------------------------------------------

    async def claim_partitions(self, *, owner: str, now: int, ttl_us: int, force: bool) -> Lease:
        """See Store."""
        inner = self._inner
        return await self._write(
            "lease", lambda: inner.claim_partitions(owner=owner, now=now, ttl_us=ttl_us, force=force)
        )

    async def renew_lease(self, *, now: int, ttl_us: int) -> None:
        """See Store."""
        await self._write("lease", lambda: self._inner.renew_lease(now=now, ttl_us=ttl_us))

    async def release_lease(self) -> None:
        """See Store."""
        await self._write("lease", self._inner.release_lease)

    # --- writes ------------------------------------------------------------------------------------------------

    async def accept(self, batch: Sequence[AcceptPayment]) -> list[AcceptOutcome]:
        """See Store."""
        items = tuple([item.checkout_id for item in batch])
        return await self._write("accept", lambda: self._inner.accept(batch), items)

    async def apply(self, batch: Sequence[Transition]) -> list[TransitionOutcome]:
        """See Store."""
        items = tuple([(item.order.payment_order_id, item.event, item.order.state.value) for item in batch])
        return await self._write("apply", lambda: self._inner.apply(batch), items)

    async def post(self, batch: Sequence[PostTransfer]) -> list[Posted]:
        """See Store."""
        items = tuple([item.transfer.payment_order_id for item in batch])
        return await self._write("post", lambda: self._inner.post(batch), items)

    async def credit(self, batch: Sequence[CreditWallet]) -> list[Posted]:
        """See Store."""
        items = tuple([item.entry.payment_order_id for item in batch])
        return await self._write("credit", lambda: self._inner.credit(batch), items)

    # --- reads that decide -------------------------------------------------------------------------------------

    async def orders(self, ids: Sequence[str]) -> list[Order | None]:
        """See Store."""
        return await self._read(lambda: self._inner.orders(ids))

    async def unfinished(self, *, after: str, limit: int) -> list[str]:
        """See Store."""
        return await self._read(lambda: self._inner.unfinished(after=after, limit=limit))

    async def due(self, *, now: int, limit: int) -> list[str]:
        """See Store."""
        return await self._read(lambda: self._inner.due(now=now, limit=limit))

    async def next_wake_at(self) -> int | None:
        """See Store."""
        return await self._read(self._inner.next_wake_at)

    async def stuck(self, *, states: Sequence[State], since_before: int, limit: int) -> list[Order]:
        """See Store."""
        inner = self._inner
        return await self._read(lambda: inner.stuck(states=states, since_before=since_before, limit=limit))

    async def in_flight(self) -> list[InFlight]:
        """See Store."""
        return await self._read(self._inner.in_flight)

    # --- outbox ------------------------------------------------------------------------------------------------

    async def add_receiver(self, receiver: str) -> int:
        """See Store."""
        return await self._write("outbox", lambda: self._inner.add_receiver(receiver))

    async def outbox_after(self, *, position: int, limit: int) -> list[OutboxEvent]:
        """See Store."""
        return await self._read(lambda: self._inner.outbox_after(position=position, limit=limit))

    async def advance_receiver(self, *, receiver: str, position: int) -> None:
        """See Store."""
        inner = self._inner
        await self._write("outbox", lambda: inner.advance_receiver(receiver=receiver, position=position))

    # --- reads for people --------------------------------------------------------------------------------------

    async def order_view(self, payment_order_id: str) -> OrderView | None:
        """See Store."""
        return await self._read(lambda: self._inner.order_view(payment_order_id))

    async def checkout_views(self, checkout_ids: Sequence[str]) -> list[CheckoutView | None]:
        """See Store."""
        return await self._read(lambda: self._inner.checkout_views(checkout_ids))

    async def wallet_views(self, seller_account: str) -> list[WalletView]:
        """See Store."""
        return await self._read(lambda: self._inner.wallet_views(seller_account))

    async def account_view(self, account_id: str, *, before_seq: int | None, limit: int) -> AccountView | None:
        """See Store."""
        inner = self._inner
        return await self._read(lambda: inner.account_view(account_id, before_seq=before_seq, limit=limit))

    async def dead_letters(
        self, *, include_closed: bool, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetterView]:
        """See Store."""
        inner = self._inner
        return await self._read(
            lambda: inner.dead_letters(include_closed=include_closed, after=after, limit=limit)
        )

    async def story(self, payment_order_id: str) -> Story | None:
        """See Store."""
        return await self._read(lambda: self._inner.story(payment_order_id))

    # --- upkeep ------------------------------------------------------------------------------------------------

    async def transfers_after(self, *, seq: int, limit: int) -> list[StoredTransfer]:
        """See Store."""
        return await self._read(lambda: self._inner.transfers_after(seq=seq, limit=limit))

    async def findings(self, *, limit: int) -> list[Finding]:
        """See Store."""
        return await self._read(lambda: self._inner.findings(limit=limit))

    async def purge_claims(self, *, before: int, limit: int) -> int:
        """See Store."""
        return await self._write("purge", lambda: self._inner.purge_claims(before=before, limit=limit))


def _answer(promise: Promise[T]) -> Callable[[T | None, Exception | None], None]:
    def done(result: T | None, error: Exception | None) -> None:
        if error is not None:
            promise.fail(error)
        else:
            promise.settle(result)  # type: ignore[arg-type]  # None is a result where the call returns None

    return done
