"""How actors talk: bounded mailboxes, and one-shot replies.

A mailbox is a bounded trio memory channel: a full one makes the sender wait, up to the HTTP door, which then
says so. Nothing is dropped. A simulator may hand in a `Delivery`, which decides when each message is handed
over; in production there is none, and a message is handed over at once.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")

Delivery = Callable[[str], Awaitable[None]]
"""Awaited with the mailbox's name before each message is handed to its receiver."""


class Mailbox(Generic[T]):
    """A bounded queue of messages with one receiver."""

    def __init__(self, name: str, *, capacity: int, delivery: Delivery | None = None) -> None:
        self.name = name
        self.capacity = capacity
        # No `open_memory_channel[T]`: subscribing at run time costs more than the channel itself.
        self._send: trio.MemorySendChannel[T]
        self._receive: trio.MemoryReceiveChannel[T]
        self._send, self._receive = trio.open_memory_channel(capacity)
        self._delivery = delivery

    def __len__(self) -> int:
        return self._send.statistics().current_buffer_used

    def put_nowait(self, message: T) -> None:
        """Leave a message. Raises trio.WouldBlock when the box is full, BrokenResourceError when it is closed."""
        self._send.send_nowait(message)

    async def put(self, message: T) -> None:
        """Leave a message, waiting for room. Raises trio.BrokenResourceError when the box is closed.

        With room it returns at once, without letting others run: senders wait for their answers anyway.
        """
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            await self._send.send(message)

    def get_nowait(self) -> T:
        """Take a message. Raises trio.WouldBlock when there is none."""
        return self._receive.receive_nowait()

    async def get(self) -> T:
        """Take the next message, waiting for one."""
        message = await self._receive.receive()
        if self._delivery is not None:
            await self._delivery(self.name)
        return message

    def drain(self) -> list[T]:
        """Close the box and return what was in it, messages that waited for room included."""
        left = []
        while self._send.statistics().current_buffer_used:
            left.append(self._receive.receive_nowait())
        self._receive.close()
        return left


class Reply(Generic[T]):
    """The answer to one question: set once, awaited at most once."""

    __slots__ = ("_outcome", "_task")

    def __init__(self) -> None:
        self._outcome: outcome.Outcome[T] | None = None
        self._task: trio.lowlevel.Task | None = None

    @property
    def is_set(self) -> bool:
        """Say whether the answer is there."""
        return self._outcome is not None

    def set(self, value: T) -> None:
        """Answer. A second answer is ignored: the first may have been acted upon."""
        self._settle(outcome.Value(value))

    def fail(self, error: BaseException) -> None:
        """Answer with an error, which is raised where the answer is awaited."""
        self._settle(outcome.Error(error))

    def _settle(self, result: outcome.Outcome[T]) -> None:
        if self._outcome is None:
            self._outcome = result
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)
                self._task = None

    async def wait(self) -> T:
        """Return the answer, or raise the error that was given in its place."""
        if self._outcome is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        if self._outcome is None:
            raise trio.TrioInternalError("rescheduled without an answer")
        return self._outcome.unwrap()

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
