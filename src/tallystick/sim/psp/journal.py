"""The simulated PSP's memory on disk: an append-only file of changes, one JSON object a line.

A change is appended in memory at once, and `flush` returns when everything appended before the call is on disk;
whoever answers, flushes first. One write and one fdatasync serve all that queued while the last one ran.

After a crash the last write may be torn. Nothing in it had been answered, so it is cut off at the next start.
Anything unreadable before that is damage, and a reason to stop.
"""

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import trio

from tallystick.engine.errors import OurError, SetupError
from tallystick.sim.psp.model import Change, Payment, SimulatedPsp, ThrottledOnce

if sys.platform != "win32":
    import fcntl

_FORMAT = 1


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The first line: which PSP's memory this is, in which format."""

    name: str
    format: int


_Line = Opened | Payment | ThrottledOnce
_DECODER = msgspec.json.Decoder(_Line)
_ENCODER = msgspec.json.Encoder()
# macOS has no fdatasync.
_sync_file = getattr(os, "fdatasync", os.fsync)


class JournalBroken(OurError):
    """A write failed. What is on disk is not known any more, so nothing may be answered until a restart."""


class Journal:
    """An open journal; close it by leaving its context. Made by `open_journal`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer: list[bytes] = []
        self._appended = 0
        self._durable = 0
        self._writing = trio.Lock()
        self.broken = False
        self.syncs = 0
        """How many times the disk was waited for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what was not flushed, if possible, and let go of the file."""
        try:
            if self._buffer and not self.broken:
                self._write(b"".join(self._buffer))
        finally:
            os.close(self._descriptor)

    def append(self, change: Change) -> None:
        """Add a change. It is on disk once a later `flush` returns."""
        self._buffer.append(_ENCODER.encode(change) + b"\n")
        self._appended += 1

    async def flush(self) -> None:
        """Return when everything appended so far is on disk. Raises JournalBroken.

        Safe to cancel: the wait for a write that has begun is not cut short, and what is left is written by the
        next one who flushes.
        """
        wanted = self._appended
        if self._durable >= wanted and not self.broken:
            return
        async with self._writing:
            if self.broken:
                raise JournalBroken("the journal could not be written")
            if self._durable >= wanted:
                return
            batch, end = b"".join(self._buffer), self._appended
            self._buffer.clear()
            try:
                await trio.to_thread.run_sync(self._write, batch)
            except OSError as error:
                # After a failed fsync the kernel may have dropped the pages: trying again would prove nothing.
                self.broken = True
                raise JournalBroken(f"the journal could not be written: {error}") from error
            self._durable = end

    def _write(self, batch: bytes) -> None:
        view = memoryview(batch)
        while view:
            view = view[os.write(self._descriptor, view) :]
        _sync_file(self._descriptor)
        self.syncs += 1


def open_journal(path: Path, model: SimulatedPsp) -> Journal:
    """Open or create a journal, give an empty model its memory back, and have it record what changes from now on.

    Raises SetupError when the file cannot be used, belongs to another PSP or process, or is damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise SetupError(f"the simulated PSP cannot keep its journal at {path}: {error.strerror}") from error
    try:
        _lock(descriptor, path)
        if _replay(descriptor, path, model) == 0:
            _begin(descriptor, path, model)
    except OSError as error:
        os.close(descriptor)
        raise SetupError(f"the simulated PSP cannot keep its journal at {path}: {error.strerror}") from error
    except BaseException:
        os.close(descriptor)
        raise
    journal = Journal(descriptor)
    model.on_change = journal.append
    return journal


def _lock(descriptor: int, path: Path) -> None:
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"another simulated PSP is using the journal {path}") from None


def _begin(descriptor: int, path: Path, model: SimulatedPsp) -> None:
    """Write the first line, and make sure that the file itself survives."""
    os.write(descriptor, _ENCODER.encode(Opened(name=model.name, format=_FORMAT)) + b"\n")
    _sync_file(descriptor)
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _replay(descriptor: int, path: Path, model: SimulatedPsp) -> int:
    """Apply every whole line to the model, and cut off a torn end. Returns how many lines there were."""
    lines = good_bytes = 0
    with open(descriptor, "rb", closefd=False) as file:
        for line in file:
            record = _decoded(line)
            if record is None:
                if not _is_torn_end(file.read()):
                    raise SetupError(f"the simulated PSP's journal {path} is damaged at line {lines + 1}")
                break
            _take(record, lines, path, model)
            lines += 1
            good_bytes += len(line)
    os.ftruncate(descriptor, good_bytes)
    return lines


def _is_torn_end(rest: bytes) -> bool:
    """Say whether what follows an unreadable line is just as unreadable, as after a write that was cut short."""
    return all(_decoded(line + b"\n") is None for line in rest.split(b"\n"))


def _decoded(line: bytes) -> _Line | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record: _Line = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return record


def _take(record: _Line, lines: int, path: Path, model: SimulatedPsp) -> None:
    if isinstance(record, Opened) is not (lines == 0):
        raise SetupError(f"{path} is not a journal of the simulated PSP")
    if not isinstance(record, Opened):
        model.apply(record)
    elif (record.name, record.format) != (model.name, _FORMAT):
        raise SetupError(f"{path} is the journal of the PSP {record.name!r} in format {record.format}")
