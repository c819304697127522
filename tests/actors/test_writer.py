"""Batching writers: group commit, repetition of what is unknown, and isolation of what is broken."""

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from tallystick.actors.metrics import Metrics
from tallystick.actors.writer import BatchWriter
from tallystick.engine.errors import CommitUnknown, Fenced, StoreUnavailable

BROKEN = -1


class Book:
    """A store of one kind of write: notes every batch, and fails on demand, before or after writing."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.attempts = 0
        self.trouble: list[Exception] = []
        self.gate = trio.Event()
        self.gate.set()

    async def write(self, items: Sequence[int]) -> list[str]:
        self.attempts += 1
        await self.gate.wait()
        if self.trouble:
            raise self.trouble.pop(0)
        if BROKEN in items:
            raise ZeroDivisionError("this item breaks its batch")
        self.batches.append(list(items))
        return [f"wrote {item}" for item in items]


def writer_of(book: Book, **options: object) -> BatchWriter[int, str]:
    defaults = {"metrics": Metrics(), "capacity": 100, "batch_max": 50}
    return BatchWriter("test", book.write, **(defaults | options))  # type: ignore[arg-type]  # options vary by test


async def ask_all(writer: BatchWriter[int, str], items: Sequence[int]) -> dict[int, str | Exception]:
    """Ask for all items at once; return each one's outcome."""
    outcomes: dict[int, str | Exception] = {}

    async def ask(item: int) -> None:
        try:
            outcomes[item] = await writer.ask(item)
        except Exception as error:  # noqa: BLE001  (any refusal is an outcome here)
            outcomes[item] = error

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(ask, item)
    return outcomes


async def test_one_item_at_rest_is_written_alone_and_at_once(nursery: trio.Nursery) -> None:
    """One order at rest waits for no timer and for no neighbour."""
    book = Book()
    writer = writer_of(book)
    nursery.start_soon(writer.run)
    assert await writer.ask(1) == "wrote 1"
    assert book.batches == [[1]]


async def test_what_queues_during_a_commit_shares_the_next(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Group commit: everything that came while a batch was in flight is one batch."""
    book = Book()
    book.gate = trio.Event()
    writer = writer_of(book)
    nursery.start_soon(writer.run)
    first = writer.ask_nowait(0)
    await trio.testing.wait_all_tasks_blocked()
    rest = [writer.ask_nowait(item) for item in range(1, 21)]
    book.gate.set()
    assert await first.wait() == "wrote 0"
    assert [await reply.wait() for reply in rest] == [f"wrote {item}" for item in range(1, 21)]
    assert book.batches == [[0], list(range(1, 21))]


async def test_a_batch_is_bounded(nursery: trio.Nursery) -> None:
    """No batch holds more than its bound, and nothing is left behind."""
    book = Book()
    writer = writer_of(book, batch_max=8)
    replies = [writer.ask_nowait(item) for item in range(20)]
    nursery.start_soon(writer.run)
    for reply in replies:
        await reply.wait()
    assert [len(batch) for batch in book.batches] == [8, 8, 4]


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), CommitUnknown("lost")])
async def test_a_batch_of_unknown_fate_is_written_again(
    nursery: trio.Nursery, autojump_clock: object, error: Exception
) -> None:
    """Intents are idempotent, so the same batch is simply repeated until its outcome is known."""
    book = Book()
    book.trouble = [error, error, error]
    writer = writer_of(book)
    nursery.start_soon(writer.run)
    assert await writer.ask(7) == "wrote 7"
    assert book.attempts == 4


async def test_a_caller_with_a_limit_hears_that_the_database_is_away(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """The door must answer 503 in time; the writer goes on to serve the next."""
    book = Book()
    book.trouble = [StoreUnavailable("gone")] * 50
    writer = writer_of(book, give_up_after_s=2.0)
    nursery.start_soon(writer.run)
    with pytest.raises(StoreUnavailable):
        await writer.ask(1)
    book.trouble.clear()
    assert await writer.ask(2) == "wrote 2"
    assert writer.unavailable_since is None


async def test_one_broken_item_fails_alone(nursery: trio.Nursery) -> None:
    """A bug in one item neither fails nor loses its neighbours."""
    book = Book()
    writer = writer_of(book)
    nursery.start_soon(writer.run)
    outcomes = await ask_all(writer, [11, 12, BROKEN, 14])
    assert isinstance(outcomes.pop(BROKEN), ZeroDivisionError)
    assert outcomes == {11: "wrote 11", 12: "wrote 12", 14: "wrote 14"}


async def test_being_fenced_ends_the_writer_and_tells_its_callers() -> None:
    """Another engine owns the partitions: nobody here may go on, or wait for ever."""
    book = Book()
    book.trouble = [Fenced("superseded")]
    writer = writer_of(book)
    reply = writer.ask_nowait(1)
    with pytest.raises(Fenced):
        await writer.run()
    with pytest.raises(Fenced):
        await reply.wait()


async def test_items_with_one_key_never_share_a_batch(nursery: trio.Nursery) -> None:
    """Two moves of one order are written one after the other, in the order they came."""
    book = Book()
    writer = writer_of(book, key=lambda item: item % 10)
    replies = [writer.ask_nowait(item) for item in (1, 2, 11, 21, 3)]
    nursery.start_soon(writer.run)
    for reply in replies:
        await reply.wait()
    assert book.batches == [[1, 2, 3], [11], [21]]


async def test_the_hook_runs_before_any_answer(nursery: trio.Nursery) -> None:
    """Accepted orders get their actors even when every caller has left meanwhile."""
    book = Book()
    seen: list[int] = []
    hook: Callable[[Sequence[int], Sequence[str]], None] = lambda items, _: seen.extend(items)  # noqa: E731
    writer = writer_of(book, on_written=hook)
    reply = writer.ask_nowait(5)
    nursery.start_soon(writer.run)
    assert not reply.is_set
    await reply.wait()
    assert seen == [5]


async def test_a_full_mailbox_pushes_back() -> None:
    """Nothing is dropped: who may not wait is told, who may, waits."""
    writer = writer_of(Book(), capacity=2)
    writer.ask_nowait(1)
    writer.ask_nowait(2)
    with pytest.raises(trio.WouldBlock):
        writer.ask_nowait(3)
    with trio.move_on_after(0.01) as scope:
        await writer.ask(3)
    assert scope.cancelled_caught
    assert len(writer) == 2


async def test_a_batch_is_bounded_by_rows_where_items_have_many(nursery: trio.Nursery) -> None:
    """Items of many rows (checkouts of 999 orders) fill a batch by their rows, and one always fits."""
    book = Book()
    writer = writer_of(book, batch_max=10, rows=lambda item: item)
    replies = [writer.ask_nowait(item) for item in (4, 4, 4, 4, 50, 1)]
    nursery.start_soon(writer.run)
    for reply in replies:
        await reply.wait()
    assert book.batches == [[4, 4, 4], [4, 50], [1]]


async def test_every_item_is_let_go_once_however_it_ends(nursery: trio.Nursery, autojump_clock: object) -> None:
    """What was reserved for an item is given back after a commit, a refusal, or giving up; callers may be gone."""
    book = Book()
    let_go: list[int] = []
    writer = writer_of(book, on_settled=let_go.extend, give_up_after_s=1.0)
    nursery.start_soon(writer.run)
    await ask_all(writer, [11, BROKEN, 12])
    assert sorted(let_go) == [BROKEN, 11, 12]
    let_go.clear()
    book.trouble = [StoreUnavailable("gone")] * 50
    with trio.move_on_after(0.1):
        await writer.ask(5)
    await trio.sleep(2)
    assert let_go == [5]
    assert writer.unavailable_since is None, "an idle writer must not say for ever that the store is away"
