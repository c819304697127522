"""Batching writers: one actor per kind of write, group commit without a timer.

A writer takes what has queued while its last batch was in flight. One order at rest therefore waits for nothing
but its own commit, and under load one commit serves hundreds.

A batch whose commit is unknown, or that found no database, is simply written again: every intent is idempotent,
so the second time answers what the first would have. One item that breaks the batch (a bug) is found by writing
the items one by one; it alone fails.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

import structlog
import trio

from tallystick.actors.mailbox import Delivery, Mailbox, Reply
from tallystick.actors.metrics import Metrics
from tallystick.engine.errors import (
    CommitUnknown,
    Fenced,
    IllegalState,
    StoreError,
    StoreUnavailable,
    traceback_of,
)

log = structlog.get_logger("tallystick.writer")

I = TypeVar("I")  # noqa: E741  (item)
O = TypeVar("O")  # noqa: E741  (outcome)

_BACKOFF_FIRST_S = 0.02
_BACKOFF_MAX_S = 1.0


class BatchWriter(Generic[I, O]):
    """Collects items, writes them in batches, answers each."""

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[I]], Awaitable[list[O]]],
        *,
        metrics: Metrics,
        capacity: int,
        batch_max: int,
        delivery: Delivery | None = None,
        key: Callable[[I], Hashable] | None = None,
        rows: Callable[[I], int] | None = None,
        on_written: Callable[[Sequence[I], Sequence[O]], None] | None = None,
        on_settled: Callable[[Sequence[I]], None] | None = None,
        give_up_after_s: float | None = None,
    ) -> None:
        """Make a writer; its `run` is supervised.

        `key`: two items with the same key never share a batch. `rows`: how much of `batch_max` an item takes, one
        unless given. `on_written` runs after the commit and before any answer, `on_settled` after that, and also
        when there was no commit. `give_up_after_s`: then callers get the store's error; None repeats until the
        store is back.
        """
        self.name = name
        self._write = write
        self._mailbox: Mailbox[tuple[I, Reply[O]]] = Mailbox(name, capacity=capacity, delivery=delivery)
        self._batch_max = batch_max
        self._key = key
        self._rows = rows
        self._on_written = on_written
        self._on_settled = on_settled
        self._give_up_after_s = give_up_after_s
        self._held: deque[tuple[I, Reply[O]]] = deque()
        self._store_errors = metrics.store_errors
        self._batch_size = metrics.batch_size.labels(name)
        self._commit_seconds = metrics.commit_seconds.labels(name)
        self.unavailable_since: float | None = None
        self.busy = False

    def __len__(self) -> int:
        return len(self._mailbox) + len(self._held)

    async def ask(self, item: I) -> O:
        """Write an item; return its outcome after the commit. Waits for room in the mailbox."""
        reply: Reply[O] = Reply()
        await self._mailbox.put((item, reply))
        return await reply.wait()

    def ask_nowait(self, item: I) -> Reply[O]:
        """Queue an item; return its reply. Raises trio.WouldBlock when the mailbox is full."""
        reply: Reply[O] = Reply()
        self._mailbox.put_nowait((item, reply))
        return reply

    async def run(self) -> None:
        """Write batches until cancelled."""
        while True:
            batch = await self._gather()
            self.busy = True
            await self._settle(batch)
            self.busy = False

    async def _gather(self) -> list[tuple[I, Reply[O]]]:
        """Take what has queued, at least one item; hold back what must not share this batch."""
        queued, self._held = self._held, deque()
        if not queued:
            queued.append(await self._mailbox.get())
        room = self._batch_max - sum(map(self._rows_of, queued))
        while room > 0:
            try:
                queued.append(self._mailbox.get_nowait())
            except trio.WouldBlock:
                break
            room -= self._rows_of(queued[-1])
        if self._key is None:
            return list(queued)
        batch, keys = [], set()
        for item, reply in queued:
            key = self._key(item)
            if key in keys:
                self._held.append((item, reply))
            else:
                keys.add(key)
                batch.append((item, reply))
        return batch

    def _rows_of(self, queued: tuple[I, Reply[O]]) -> int:
        return 1 if self._rows is None else self._rows(queued[0])

    async def _settle(self, batch: list[tuple[I, Reply[O]]]) -> None:
        items = [item for item, _ in batch]
        try:
            outcomes = await self._write_until_known(items)
            if len(outcomes) != len(items):
                raise IllegalState(f"{self.name}: {len(items)} items, {len(outcomes)} outcomes")  # noqa: TRY301  (a crash like any)
            if self._on_written is not None:
                self._on_written(items, outcomes)
            self._let_go(items)
        except StoreError as error:
            self._fail(batch, error)
            if isinstance(error, Fenced):
                raise
        except Exception as error:  # noqa: BLE001  (given to whoever asked, and logged)
            if len(batch) == 1:
                log.error("item_refused", writer=self.name, traceback=traceback_of(error))
                self._fail(batch, error)
                return
            log.warning("batch_broken", writer=self.name, items=len(batch), error=repr(error))
            for one in batch:
                await self._settle([one])
        else:
            for (_, reply), outcome in zip(batch, outcomes, strict=True):
                reply.set(outcome)

    def _let_go(self, items: list[I]) -> None:
        if self._on_settled is not None:
            self._on_settled(items)

    def _fail(self, batch: list[tuple[I, Reply[O]]], error: Exception) -> None:
        self._let_go([item for item, _ in batch])
        for _, reply in batch:
            reply.fail(error)

    async def _write_until_known(self, items: list[I]) -> list[O]:
        began = trio.current_time()
        backoff_s = _BACKOFF_FIRST_S
        while True:
            started = trio.current_time()
            try:
                outcomes = await self._write(items)
            except (StoreUnavailable, CommitUnknown) as error:
                now = trio.current_time()
                if self.unavailable_since is None:
                    self.unavailable_since = now
                    log.warning("store_unavailable", writer=self.name, error=str(error))
                self._store_errors.labels(self.name, type(error).__name__).inc()
                if self._give_up_after_s is not None and now - began >= self._give_up_after_s:
                    # Whether it is still away, the next one to ask finds out; nobody may ever ask here again.
                    self.unavailable_since = None
                    raise
                await trio.sleep(backoff_s)
                backoff_s = min(_BACKOFF_MAX_S, backoff_s * 2)
            else:
                if self.unavailable_since is not None:
                    log.info("store_back", writer=self.name, after_s=round(trio.current_time() - began, 3))
                    self.unavailable_since = None
                self._batch_size.observe(len(items))
                self._commit_seconds.observe(trio.current_time() - started)
                return outcomes
