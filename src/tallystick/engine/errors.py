"""Every error the engine raises, sorted by who erred. A vendor's errors are mapped to these at the edge.

CallerError: the request was wrong; it names the field, and nothing was changed.
StoreError:  the database did not answer as hoped; says whether anything may have been written.
OurError:    a bug or a broken set-up of ours; it never becomes a payment result.
"""

from traceback import format_exception


def traceback_of(error: BaseException) -> str:
    """Return an error's traceback as text without the values of variables, which may be a buyer's data."""
    return "".join(format_exception(error))


class TallystickError(Exception):
    """The root of all errors that Tallystick raises on purpose."""


# --- they erred ------------------------------------------------------------------------------------------------


class CallerError(TallystickError):
    """The request was wrong. `field` is a JSON pointer-like path, `detail` a sentence for a person."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


class InvalidMoney(CallerError):
    """An amount or a currency that is not money."""


class InvalidRequest(CallerError):
    """A field that is malformed, missing, out of bounds or forbidden."""


class ContentConflict(CallerError):
    """The same id or key came before with other content. Nothing was changed."""


class NotFoundError(CallerError):
    """No such payment order, checkout, wallet, account or dead letter."""


class MoveRefused(CallerError):
    """The order is in a state in which this request makes no sense, e.g. cancelling a charged one."""


class Overloaded(TallystickError):
    """Admission is closed for now: a bounded queue is full. Nothing was written; try again later."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"at capacity, try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


# --- the database --------------------------------------------------------------------------------------------


class StoreError(TallystickError):
    """The store could not do what was asked. All intents are idempotent, so the same call may be made again."""


class StoreUnavailable(StoreError):
    """The store could not be reached, or it rolled back. Certainly nothing was written."""


class CommitUnknown(StoreError):
    """A commit was sent and its answer was lost. Re-read, or repeat the idempotent intent, then decide."""


class Fenced(StoreError):
    """Another engine owns our partitions now. This engine must stop; it can no longer write."""


class PartitionsTaken(StoreError):
    """Another live engine holds the partitions. `owner` says which, `retry_at_us` when its lease ends."""

    def __init__(self, owner: str, retry_at_us: int) -> None:
        super().__init__(f"another engine ({owner}) is running on this database")
        self.owner = owner
        self.retry_at_us = retry_at_us


# --- we erred ------------------------------------------------------------------------------------------------


class OurError(TallystickError):
    """A bug or broken set-up of ours."""


class IllegalState(OurError):
    """An invariant that the engine itself keeps does not hold."""


class SetupError(OurError):
    """The machine is not set up for what was asked: one clear line, with what to do."""
