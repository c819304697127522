"""The log of business events: one JSON object a line, appended, for people and for tools that follow files.

At least once: after a crash the last page may stand twice; `event_id` tells.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import trio

from tallystick.engine.errors import SetupError
from tallystick.engine.ports import DeliveryFailed
from tallystick.engine.views import OutboxEvent


class EventLog:
    """A receiver of the outbox that appends to a file."""

    name = "event_log"

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["EventLog"]:
        """Open the log for appending, making its folder. Raises SetupError when that is not possible."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise SetupError(f"cannot write the event log {path}: {error.strerror}") from error
        try:
            yield cls(descriptor, path)
        finally:
            os.close(descriptor)

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        """Append the events and have the disk confirm it. Raises DeliveryFailed when the disk refuses."""
        lines = b"".join(
            b'{"position":%d,"event_id":%s,"data":%s}\n'
            % (event.position, msgspec.json.encode(event.event_id), event.payload)
            for event in events
        )
        try:
            await trio.to_thread.run_sync(self._append, lines)
        except OSError as error:
            raise DeliveryFailed(f"cannot write {self._path}: {error.strerror}") from error

    def _append(self, lines: bytes) -> None:
        view = memoryview(lines)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fdatasync(self._descriptor)
