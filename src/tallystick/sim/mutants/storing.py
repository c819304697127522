"""Mutants of the store: uniqueness, versions, fencing, and what belongs in one commit."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from tallystick.actors import books
from tallystick.actors.engine import Engine
from tallystick.engine import ledger
from tallystick.engine.announcements import Announcement
from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    CreditWallet,
    PaymentAccepted,
    Posted,
    PostTransfer,
    Transition,
    TransitionOutcome,
)
from tallystick.engine.ledger import Transfer
from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.views import Lease
from tallystick.sim import memory_reads, memory_writes
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.memory_tables import Commit, Tables
from tallystick.sim.mutants.frame import Mutant, mutant, replaced
from tallystick.storage.queries import queries

# --- keys of postings and of checkouts -------------------------------------------------------------------------


@mutant(
    rule="rule 7",
    caught_by="ledger_equals_truth",
)
def ledger_cause_not_unique() -> Iterator[None]:
    """A transfer that is posted again, after a lost answer or a restart, is booked again."""
    original, posted = memory_writes.post, [0]

    def post(tables: Tables, batch: Sequence[PostTransfer]) -> list[Posted]:
        fresh = []
        for item in batch:
            posted[0] += 1
            cause = f"{item.transfer.cause}#{posted[0]}"
            fresh.append(PostTransfer(transfer=replace(item.transfer, cause=cause)))
        return original(tables, fresh)

    with replaced(memory_writes, "post", post):
        yield


@mutant(
    rule="rule 7",
    caught_by="wallet_equals_ledger",
)
def wallet_posted_twice() -> Iterator[None]:
    """A wallet entry that is written again, after a lost answer or a restart, is credited again."""
    original, written = memory_writes.credit, [0]

    def credit(tables: Tables, batch: Sequence[CreditWallet]) -> list[Posted]:
        fresh = []
        for item in batch:
            written[0] += 1
            fresh.append(CreditWallet(entry=replace(item.entry, cause=f"{item.entry.cause}#{written[0]}")))
        return original(tables, fresh)

    with replaced(memory_writes, "credit", credit):
        yield


@mutant(
    rule="MISSION: the buyer who clicks twice pays once",
    caught_by="same_key_same_answer",
)
def checkout_recorded_twice() -> Iterator[None]:
    """A checkout that comes a second time is recorded over the first."""
    original = memory_writes._accept_one

    def accept_one(tables: Tables, item: AcceptPayment, commit: Commit) -> AcceptOutcome:
        recorded = tables.events.pop(item.checkout_id, None)
        for order_id in recorded.orders if recorded is not None else ():
            del tables.orders[order_id]
        return original(tables, item, commit)

    with replaced(memory_writes, "_accept_one", accept_one):
        yield


@mutant(
    rule="STYLE 6: a key and a hash",
    caught_by="same_key_same_answer",
)
def content_not_compared() -> Iterator[None]:
    """Other content under a checkout's id is answered as if it were the same."""
    original = memory_writes._accept_one

    def accept_one(tables: Tables, item: AcceptPayment, commit: Commit) -> AcceptOutcome:
        recorded = tables.events.get(item.checkout_id)
        if recorded is not None:
            return PaymentAccepted(new=False, at=recorded.created_at)
        return original(tables, item, commit)

    with replaced(memory_writes, "_accept_one", accept_one):
        yield


# --- versions, epochs ------------------------------------------------------------------------------------------


@mutant(
    rule="DESIGN 8: every update names state and version",
    caught_by="legal_moves_only",
)
def version_check_dropped() -> Iterator[None]:
    """A move is written whatever the order's state and version are by then."""
    original = memory_writes.apply

    def apply(tables: Tables, batch: Sequence[Transition]) -> list[TransitionOutcome]:
        for item in batch:
            order_id = item.order.payment_order_id
            row = tables.orders[order_id]
            tables.orders[order_id] = replace(row, state=item.from_state, version=item.from_version)
        return original(tables, batch)

    with replaced(memory_writes, "apply", apply):
        yield


@mutant(
    rule="DESIGN 13: a fencing epoch inside every write",
    caught_by="old_owner_is_fenced",
)
def fencing_dropped() -> Iterator[None]:
    """A write is not checked against the epoch of its partitions."""
    with replaced(MemoryStore, "_check_lease", lambda _: None):
        yield


@mutant(
    rule="DESIGN 13: a fencing epoch inside every write",
    caught_by="old_owner_is_fenced",
)
def epoch_not_raised() -> Iterator[None]:
    """An engine that takes the partitions over leaves their epoch as it was."""
    original = MemoryStore.claim_partitions

    async def claim(self: MemoryStore, *, owner: str, now: int, ttl_us: int, force: bool) -> Lease:
        for partition in self.tables.partitions:
            partition.epoch -= 1
        return await original(self, owner=owner, now=now, ttl_us=ttl_us, force=force)

    with replaced(MemoryStore, "claim_partitions", claim):
        yield


@mutant(
    rule="STYLE 14: rows are locked in sorted order",
    caught_by="nothing_stuck",
    survives_because="the memory store has no locks; on PostgreSQL a test counts the deadlocks that it leads to",
)
def lock_order_dropped() -> Iterator[None]:
    """Each connection locks the orders of a batch in an order of its own."""
    statements = queries("apply")
    sorted_lock = statements["lock_orders"]
    own_order = "order by md5(payment_order_id || pg_backend_pid()::text)"
    statements["lock_orders"] = sorted_lock.replace("order by payment_order_id", own_order)
    try:
        yield
    finally:
        statements["lock_orders"] = sorted_lock


# --- what belongs in one commit --------------------------------------------------------------------------------


@mutant(
    rule="MISSION: flags are set when each service has recorded the result",
    caught_by="flags_set_once",
)
def flag_before_posting() -> Iterator[None]:
    """ledger_updated and wallet_updated are set with the success, before anything is posted."""
    original = memory_writes._write_move

    def write(tables: Tables, item: Transition) -> None:
        original(tables, item)
        order = tables.orders[item.order.payment_order_id]
        if order.state is State.SUCCESS:
            tables.put_order(replace(order, ledger_updated=True, wallet_updated=True), at=item.at)

    with replaced(memory_writes, "_write_move", write):
        yield


@mutant(
    rule="DESIGN 7: every receiver gets every event",
    caught_by="every_ending_announced",
    faults=(
        "crash_at_commit",
        "crash_any_time",
    ),
)
def events_outside_the_commit() -> Iterator[None]:
    """Business events are put into the outbox after the commit that they tell of, not in it."""
    publish, init, nudge = memory_writes._publish, Engine.__init__, Engine._nudge_relays
    limbo: list[tuple[Tables, Commit, Sequence[Announcement]]] = []

    def later(tables: Tables, commit: Commit, announcements: Sequence[Announcement]) -> None:
        limbo.append((tables, commit, announcements))

    def start(self: Engine, *args: object) -> None:
        limbo.clear()  # What the last engine had in memory died with it.
        init(self, *args)  # type: ignore[arg-type]

    def flush(self: Engine) -> None:
        for kept in limbo:
            publish(*kept)
        limbo.clear()
        nudge(self)

    with (
        replaced(memory_writes, "_publish", later),
        replaced(Engine, "__init__", start),
        replaced(Engine, "_nudge_relays", flush),
    ):
        yield


# --- double entry ----------------------------------------------------------------------------------------------


@mutant(
    rule="DESIGN 9: double entry",
    caught_by="sums_are_zero",
)
def one_sided_transfer() -> Iterator[None]:
    """A transfer moves the balance of the debited account alone."""
    original = memory_writes.post

    def post(tables: Tables, batch: Sequence[PostTransfer]) -> list[Posted]:
        outcomes = original(tables, batch)
        for item, outcome in zip(batch, outcomes, strict=True):
            if outcome.new:
                tables.accounts[item.transfer.credit.id].credits_minor -= item.transfer.amount.minor
        return outcomes

    with replaced(memory_writes, "post", post):
        yield


@mutant(
    rule="DESIGN 4: adding two currencies is an error",
    caught_by="sums_are_zero",
)
def currencies_mixed() -> Iterator[None]:
    """A capture in any currency is credited to the seller's account in EUR."""
    original = ledger.capture

    def capture(order: Order, *, at: int) -> Transfer:
        transfer = original(order, at=at)
        return replace(transfer, credit=replace(transfer.credit, currency="EUR"))

    with replaced(books, "capture", capture):
        yield


@mutant(
    rule="DESIGN 4: exponents come from a table",
    caught_by="ledger_equals_truth",
)
def yen_times_100() -> Iterator[None]:
    """The ledger takes every currency for one with two decimals."""
    original = ledger.capture

    def capture(order: Order, *, at: int) -> Transfer:
        transfer = original(order, at=at)
        if order.amount.currency != "JPY":
            return transfer
        return replace(transfer, amount=Money(order.amount.minor * 100, "JPY"))

    with replaced(books, "capture", capture):
        yield


# --- what recovery and the scheduler look for ------------------------------------------------------------------


def _recovery_skips(state: State, moment: str) -> Mutant:
    """Return the mutant of which neither recovery nor the sweeper looks for orders in `state`."""
    unfinished, stuck = memory_reads.unfinished, memory_reads.stuck

    def off() -> Iterator[None]:
        def fewer(tables: Tables, owned: frozenset[int] | None, *, after: str, limit: int) -> list[str]:
            found = unfinished(tables, owned, after=after, limit=limit)
            return [order_id for order_id in found if tables.orders[order_id].state is not state]

        def not_stuck(
            tables: Tables, owned: frozenset[int] | None, *, states: Sequence[State], since_before: int, limit: int
        ) -> list[Order]:
            states = [one for one in states if one is not state]
            return stuck(tables, owned, states=states, since_before=since_before, limit=limit)

        with replaced(memory_reads, "unfinished", fewer), replaced(memory_reads, "stuck", not_stuck):
            yield

    off.__name__ = f"recovery_skips_{state.value.lower()}"
    off.__doc__ = f"After a crash, nobody looks for orders that {moment}."
    # A webhook that comes in after the crash would wake the order, too.
    faults = ("crash_at_commit", "crash_at_call", "crash_any_time", "webhook_lost", "webhook_early")
    return mutant(rule="rule 9", caught_by="nothing_stuck", faults=faults)(off)


def _scheduler_skips(state: State, moment: str) -> Mutant:
    """Return the mutant of which the query for due orders leaves out `state`."""
    due = memory_reads.due

    def off() -> Iterator[None]:
        def fewer(tables: Tables, owned: frozenset[int] | None, *, now: int, limit: int) -> list[str]:
            found = due(tables, owned, now=now, limit=limit)
            return [order_id for order_id in found if tables.orders[order_id].state is not state]

        with replaced(memory_reads, "due", fewer):
            yield

    off.__name__ = f"scheduler_skips_{state.value.lower()}"
    off.__doc__ = f"The scheduler does not wake orders that {moment}."
    return mutant(rule="DESIGN 5: left by the timer, or asked about", caught_by="nothing_stuck")(off)


MUTANTS: tuple[Mutant, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Mutant)),
    _recovery_skips(State.NOT_STARTED, "were recorded and not begun"),
    _recovery_skips(State.EXECUTING, "had a call under way"),
    _recovery_skips(State.SUCCESS, "were charged and not booked"),
    _scheduler_skips(State.IN_REVIEW, "wait for a person"),
    _scheduler_skips(State.AWAITING_BUYER, "wait for the buyer"),
    _scheduler_skips(State.PENDING, "wait for the PSP"),
    _scheduler_skips(State.UNKNOWN, "have an unknown outcome"),
    _scheduler_skips(State.RETRY_WAIT, "wait for their next attempt"),
)
