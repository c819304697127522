"""How actors talk: bounded mailboxes, and one-shot replies.

A mailbox is bounded: a full one makes the sender wait, up to the HTTP door, which then says so. Nothing is
dropped. A simulator may hand in a `Delivery`, which decides when each message is handed over; in production there
is none, and a message is handed over at once.

Every order has a mailbox of its own, and most see one message. A trio memory channel costs a twentieth of
a payment, so this is the same thing for one receiver: a deque, and a parking lot once somebody waits.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")

Delivery = Callable[[str], Awaitable[None]]
"""Awaited with the mailbox's name before each message is handed to its receiver."""


class Mailbox(Generic[T]):
    """A bounded queue of messages with one receiver."""

    __slots__ = ("_closed", "_delivery", "_messages", "_receiver", "_senders", "capacity", "name")

    def __init__(self, name: str, *, capacity: int, delivery: Delivery | None = None) -> None:
        self.name = name
        self.capacity = capacity
        self._delivery = delivery
        self._messages: deque[T] = deque()
        self._receiver: trio.lowlevel.Task | None = None
        self._senders: trio.lowlevel.ParkingLot | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._messages)

    def put_nowait(self, message: T) -> None:
        """Leave a message. Raises trio.WouldBlock when the box is full, BrokenResourceError when it is closed."""
        if self._closed:
            raise trio.BrokenResourceError
        if len(self._messages) >= self.capacity:
            raise trio.WouldBlock
        self._messages.append(message)
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    async def put(self, message: T) -> None:
        """Leave a message, waiting for room. Raises trio.BrokenResourceError when the box is closed.

        With room it returns at once, without letting others run: senders wait for their answers anyway.
        """
        while True:
            try:
                self.put_nowait(message)
            except trio.WouldBlock:
                if self._senders is None:
                    self._senders = trio.lowlevel.ParkingLot()
                await self._senders.park()
            else:
                return

    def get_nowait(self) -> T:
        """Take a message. Raises trio.WouldBlock when there is none."""
        if not self._messages:
            raise trio.WouldBlock
        if self._senders is not None:
            self._senders.unpark()
        return self._messages.popleft()

    async def get(self) -> T:
        """Take the next message, waiting for one. One task at a time."""
        while not self._messages:
            if self._receiver is not None:
                raise trio.BusyResourceError("a mailbox has one receiver")
            self._receiver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        message = self.get_nowait()
        if self._delivery is not None:
            await self._delivery(self.name)
        return message

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    def drain(self) -> list[T]:
        """Close the box and return what was in it; whoever waits for room gets BrokenResourceError."""
        self._closed = True
        left = list(self._messages)
        self._messages.clear()
        if self._senders is not None:
            self._senders.unpark_all()
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
