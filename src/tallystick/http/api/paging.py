"""Query parameters of listings: a limit, and a cursor that is opaque to clients."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from tallystick.http.api.problems import Kind, Refusal
from tallystick.http.api.settings import ApiSettings

T = TypeVar("T")

# What the longest id of 255 characters of four bytes becomes in JSON and base64, with room to spare.
_CURSOR_CHARS_MAX = 4_096


def write_cursor(position: object) -> str:
    """Return a position as an opaque text of letters, digits, - and _."""
    return urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def read_cursor(values: Sequence[str], type_: type[T]) -> T | None:
    """Return the position of `cursor`, or None without one. Raises Refusal (400) for what we did not write."""
    if not values:
        return None
    text = values[0][:_CURSOR_CHARS_MAX]
    position: T | None
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        position = msgspec.json.decode(raw, type=type_)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        position = None
    if position is None or len(values) > 1 or write_cursor(position) != text:
        raise Refusal.of_field(Kind.INVALID_QUERY, "cursor", "must be a next_cursor of an earlier page")
    return position


def read_limit(values: Sequence[str], settings: ApiSettings) -> int:
    """Return the number of rows of a page. Raises Refusal (400)."""
    if not values:
        return settings.page_rows_default
    text = values[0]
    if len(values) == 1 and text.isascii() and text.isdecimal() and len(text) <= len(str(settings.page_rows_max)):
        limit = int(text)
        if 1 <= limit <= settings.page_rows_max and str(limit) == text:
            return limit
    raise Refusal.of_field(
        Kind.INVALID_QUERY, "limit", f"must be a whole number from 1 to {settings.page_rows_max}"
    )
