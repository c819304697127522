"""Everything the API refuses or fails at, as problem details (RFC 9457).

A kind of problem has a stable `type`, a title and a status. What is particular is in `detail` and in `errors`,
which names each field by its path. Nothing that a client sent is repeated, save the names of fields.
"""

from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus

import msgspec
from werkzeug.exceptions import HTTPException

from tallystick.engine.errors import (
    CallerError,
    CommitUnknown,
    ContentConflict,
    MoveRefused,
    NotFoundError,
    Overloaded,
    PartitionsTaken,
    StoreError,
)

CONTENT_TYPE = "application/problem+json"

# The store's outages are short (a restart, a failover); a client that waits this long need not try often.
STORE_RETRY_AFTER_S = 2


class Kind(Enum):
    """The kinds of problems: the end of the `type` URN, the status, the title."""

    MALFORMED_JSON = ("malformed-json", 400, "The body is not well-formed JSON")
    INVALID_SHAPE = ("invalid-shape", 400, "The body does not have the stated members and types")
    INVALID_HEADER = ("invalid-header", 400, "A header is malformed")
    INVALID_QUERY = ("invalid-query", 400, "A query parameter is malformed")
    BAD_REQUEST = ("bad-request", 400, "The request is malformed")
    NOT_FOUND = ("not-found", 404, "There is no such thing")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "This resource does not have this method")
    BODY_TIMEOUT = ("body-timeout", 408, "The body took too long to arrive")
    STATE_CONFLICT = ("state-conflict", 409, "The present state does not allow this")
    BODY_TOO_LARGE = ("body-too-large", 413, "The body is too large")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported-media-type", 415, "The body must be JSON")
    INVALID_CONTENT = ("invalid-content", 422, "A field's value is not acceptable")
    CONTENT_CONFLICT = ("content-conflict", 422, "The same id or key came before with other content")
    INTERNAL = ("internal", 500, "Something is broken on our side")
    OVERLOADED = ("overloaded", 503, "At capacity for the moment")
    STORE_UNAVAILABLE = ("store-unavailable", 503, "The database does not answer")
    OUTCOME_UNKNOWN = ("outcome-unknown", 503, "The database did not confirm the commit")
    NOT_READY = ("not-ready", 503, "Not ready to take payments")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.type = f"urn:tallystick:problem:{slug}"
        self.status = status
        self.title = title


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one field, by its path, such as `payment_orders[0].amount`."""

    field: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details. `instance` names this one occurrence; the log has it, too."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: tuple[FieldError, ...] = ()


class Refusal(Exception):
    """Raised to answer with a problem."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    @classmethod
    def of_field(cls, kind: Kind, field: str, detail: str) -> "Refusal":
        """Return a refusal of one field."""
        return cls(kind, f"{field}: {detail}", errors=(FieldError(field=field, detail=detail),))

    def body(self, instance: str) -> bytes:
        """Return the problem as JSON."""
        kind = self.kind
        problem = Problem(
            type=kind.type,
            title=kind.title,
            status=kind.status,
            detail=self.detail,
            instance=instance,
            errors=self.errors,
        )
        return msgspec.json.encode(problem)


def refusal_of(error: Exception) -> Refusal | None:
    """Return the problem for an error of the engine or the framework; None when the error is a bug of ours."""
    match error:
        case Refusal():
            return error
        case CallerError():
            return _of_caller(error)
        case Overloaded():
            return _later(Kind.OVERLOADED, "nothing was stored; send it again later", error.retry_after_s)
        case StoreError():
            return _of_store(error)
        case HTTPException():
            return _of_framework(error)
        case _:
            return None


def _of_caller(error: CallerError) -> Refusal:
    match error:
        case NotFoundError():
            return Refusal(Kind.NOT_FOUND, "nothing is known under this id")
        case MoveRefused():
            return Refusal(Kind.STATE_CONFLICT, error.detail)
        case ContentConflict():
            return Refusal.of_field(Kind.CONTENT_CONFLICT, error.field, error.detail)
        case _:
            return Refusal.of_field(Kind.INVALID_CONTENT, error.field, error.detail)


def _of_store(error: StoreError) -> Refusal:
    match error:
        case CommitUnknown():
            detail = "it may have been stored; sending the same request again is safe, and tells"
            return _later(Kind.OUTCOME_UNKNOWN, detail, STORE_RETRY_AFTER_S)
        case PartitionsTaken():
            detail = "another engine has taken over; send it again"
            return _later(Kind.STORE_UNAVAILABLE, detail, STORE_RETRY_AFTER_S)
        case _:
            detail = "nothing was stored; send it again later"
            return _later(Kind.STORE_UNAVAILABLE, detail, STORE_RETRY_AFTER_S)


def _later(kind: Kind, detail: str, retry_after_s: int) -> Refusal:
    return Refusal(kind, detail, headers={"Retry-After": str(max(1, retry_after_s))})


def _of_framework(error: HTTPException) -> Refusal | None:
    match error.code:
        case HTTPStatus.NOT_FOUND:
            return Refusal(Kind.NOT_FOUND, "there is no such path")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            methods = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
            return Refusal(Kind.METHOD_NOT_ALLOWED, f"allowed here: {methods}", headers={"Allow": methods})
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Refusal(Kind.BODY_TOO_LARGE, "the body is larger than we accept")
        case code if code is not None and HTTPStatus.BAD_REQUEST <= code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return Refusal(Kind.BAD_REQUEST, "the request could not be understood")
        case _:
            return None
