"""Reads request bodies: bounded in size and time, and strict JSON only.

Two parsers look at a body. msgspec makes typed structs of it, fast; the standard library's scanner then refuses
what msgspec lets pass: a member that appears twice (of which readers keep the first or the last, as they like) and
integers beyond 64 bits (which some readers round).
"""

import json
import re
from typing import Any, Generic, TypeVar

import msgspec
import trio
from quart_trio.wrappers.request import TrioBody, TrioRequest
from werkzeug.exceptions import RequestEntityTooLarge

from tallystick.engine.card_numbers import holds_card_number
from tallystick.http.api.problems import Kind, Refusal
from tallystick.http.api.settings import ApiSettings

T = TypeVar("T")

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_INT_CHARS_MAX = 20
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_MEMBER = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.\[\]-]{1,200}", re.ASCII)
_TYPES = {"str": "a string", "object": "an object", "array": "a list", "int": "a number", "bool": "true or false"}
_EXPECTED = re.compile(r"Expected `(.*?)`")


class BoundedBody(TrioBody):
    """A request's body that is never larger in memory than its limit; what comes beyond is thrown away."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._settled = trio.Event()
        if self._must_raise is not None:
            self._settled.set()

    def append(self, data: bytes) -> None:
        """Take a piece from the connection."""
        if self._must_raise is not None:
            return
        self._data.extend(data)
        if self._max_content_length is not None and len(self._data) > self._max_content_length:
            self._must_raise = RequestEntityTooLarge()
            self._data.clear()
            self._settled.set()

    def set_complete(self) -> None:
        """Note that the connection has brought everything."""
        super().set_complete()
        self._settled.set()

    async def whole(self) -> bytes:
        """Return the body. Raises RequestEntityTooLarge as soon as too much is announced or has come."""
        await self._settled.wait()
        if self._must_raise is not None:
            raise self._must_raise
        return bytes(self._data)

    async def discard(self) -> None:
        """Wait until the client has sent everything."""
        await self._complete.wait()


class ApiRequest(TrioRequest):
    """A request with a bounded body."""

    body_class = BoundedBody


async def read_body(request: Any, settings: ApiSettings) -> bytes:  # noqa: ANN401  (quart's proxy of an ApiRequest)
    """Return the body of a JSON request.

    Raises Refusal: 415 unless it says that it is JSON, 413 when too large, 408 when too slow.
    """
    _check_content_type(request.headers)
    with trio.move_on_after(settings.body_timeout_s):
        try:
            return await request.body.whole()  # type: ignore[no-any-return]  # quart leaves it untyped
        except RequestEntityTooLarge:
            # Closing while the client still sends would reset the connection before it has read our answer.
            with trio.move_on_after(settings.discard_s):
                await request.body.discard()
            detail = f"at most {settings.body_bytes_max} bytes are accepted"
            raise Refusal(Kind.BODY_TOO_LARGE, detail) from None
    detail = f"it must arrive within {settings.body_timeout_s:g} seconds"
    raise Refusal(Kind.BODY_TIMEOUT, detail, headers={"Connection": "close"})


def _check_content_type(headers: Any) -> None:  # noqa: ANN401  (werkzeug's Headers)
    essence, _, parameters = headers.get("Content-Type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if essence.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise Refusal(
            Kind.UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json",
            headers={"Accept": "application/json"},
        )
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        detail = "Content-Encoding must be identity"
        raise Refusal(Kind.UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept-Encoding": "identity"})


class StrictDecoder(Generic[T]):
    """Decodes JSON into one type. Raises Refusal (400) which names the field where one can be named."""

    def __init__(self, type_: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(type_)
        self._scanner = json.JSONDecoder(object_pairs_hook=_members, parse_int=_parse_int)

    def decode(self, body: bytes) -> T:
        """Return the body as the decoder's type."""
        try:
            decoded = self._decoder.decode(body)
            self._scanner.decode(body.decode())
        except msgspec.ValidationError as error:
            raise _shape_refusal(str(error)) from None
        except msgspec.DecodeError as error:
            raise Refusal(Kind.MALFORMED_JSON, str(error)) from None
        except UnicodeDecodeError:
            raise Refusal(Kind.MALFORMED_JSON, "it is not UTF-8") from None
        except RecursionError:
            raise Refusal(Kind.MALFORMED_JSON, "it is nested too deeply") from None
        return decoded


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                detail = "appears more than once in an object"
                raise Refusal.of_field(Kind.MALFORMED_JSON, plain_path(name), detail)
            seen.add(name)
    return members


def _parse_int(digits: str) -> int:
    value = int(digits) if len(digits) <= _INT_CHARS_MAX else _INT_MAX + 1
    if not _INT_MIN <= value <= _INT_MAX:
        raise Refusal(Kind.MALFORMED_JSON, "an integer has more than 64 bits; write it as a string")
    return value


def _shape_refusal(message: str) -> Refusal:
    """Turn msgspec's sentence into a field and a detail."""
    place = _PLACE.fullmatch(message)
    what, path = (place["what"], place["path"] or "") if place else (message, "")
    path = path.removeprefix(".").replace("[...]", "")
    member = _MEMBER.fullmatch(what)
    if member is not None:
        detail = "is missing" if member[1].startswith("missing") else "is not known here"
        return Refusal.of_field(Kind.INVALID_SHAPE, plain_path(f"{path}.{member[2]}".removeprefix(".")), detail)
    expected = _EXPECTED.match(what)
    if expected is None:
        return Refusal.of_field(Kind.INVALID_SHAPE, plain_path(path), "is not of the stated type")
    types = [_TYPES.get(name, name) for name in expected[1].split(" | ")]
    return Refusal.of_field(Kind.INVALID_SHAPE, plain_path(path), f"must be {' or '.join(types)}")


def plain_path(path: str) -> str:
    """Return a field's path when it can be shown; what a client made up may be a card number or worse."""
    return path if _PLAIN_PATH.fullmatch(path) and not holds_card_number(path) else "body"
