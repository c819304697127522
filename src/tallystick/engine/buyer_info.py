"""What may stand in `buyer_info`: an open JSON object, bounded, typed where we know the members, no card data."""

import re
from ipaddress import ip_address
from typing import Any

import msgspec
import pycountry

from tallystick.engine.card_numbers import holds_card_number, is_card_number, refuse_card_number
from tallystick.engine.characters import CONTROL, NOT_IN_TEXT, VISIBLE, WHITE
from tallystick.engine.errors import InvalidRequest

BYTES_MAX = 8_192
DEPTH_MAX = 5
# Counted while walking, so that a megabyte of tiny members is refused before it is encoded.
VALUES_MAX = 1_000
TEXT_CHARS_MAX = 255
# What every database and JSON reader that has integers holds exactly.
NUMBER_MIN, NUMBER_MAX = -(2**63), 2**63 - 1

EMAIL = rf"[^@{CONTROL}{WHITE}]{{1,64}}@[^@{CONTROL}{WHITE}]{{1,189}}"
COUNTRIES: frozenset[str] = frozenset(country.alpha_2 for country in pycountry.countries)
"""ISO 3166-1 alpha-2."""

_EMAIL = re.compile(EMAIL)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_NOT_LETTERS = re.compile(r"[^a-z0-9]")
# An international phone number of at most 12 digits; a longer one, or one without a plus, may be a card. Maestro
# allows 12 digits, too: that risk is taken, or one in ten of some countries' numbers would be refused.
_PHONE = re.compile(r"\+(?:[ ()./-]{0,3}[0-9]){7,12}", re.ASCII)
_HEXTET_WITH_LETTER = re.compile(r"[^:]*[a-f][^:]*", re.IGNORECASE)

# PCI DSS 3.3: never stored after authorisation, not even encrypted. Compared without case and separators.
_CARD_MEMBERS = frozenset(
    {"cardnumber", "cardno", "ccnumber", "cvv", "cvv2", "cvc", "cvc2", "cardcvv", "cardcvc", "securitycode"}
    | {"cardsecuritycode", "trackdata", "track1", "track2"}
)
_encoder = msgspec.json.Encoder(order="sorted")


def check_buyer_info(info: object) -> tuple[bytes, str]:
    """Return the buyer's data as canonical JSON, and the buyer's account (else the e-mail address, else "").

    A known member that is null counts as absent. Raises InvalidRequest, which names the member.
    """
    if not isinstance(info, dict):
        raise InvalidRequest("buyer_info", "must be an object")
    _Walk().members("buyer_info", info, 1)
    known = {name: value for name, value in info.items() if value is not None}
    for name in ("buyer_account", "name", "email", "phone"):
        value = known.get(name, "absent")
        if not isinstance(value, str) or not VISIBLE.search(value) or len(value) > TEXT_CHARS_MAX:
            raise InvalidRequest(f"buyer_info.{name}", f"must be a string of 1 to {TEXT_CHARS_MAX} characters")
    if "email" in known and not _EMAIL.fullmatch(known["email"]):
        raise InvalidRequest("buyer_info.email", "must be an e-mail address")
    country = known.get("country", "DE")
    if not isinstance(country, str) or country not in COUNTRIES:
        raise InvalidRequest("buyer_info.country", "must be an ISO 3166-1 alpha-2 code, such as DE")
    if not isinstance(known.get("address", {}), dict):
        raise InvalidRequest("buyer_info.address", "must be an object")
    if "ip" in known and not _is_ip(known["ip"]):
        raise InvalidRequest("buyer_info.ip", "must be an IPv4 or IPv6 address")
    encoded = _encoder.encode(info)
    if len(encoded) > BYTES_MAX:
        raise InvalidRequest("buyer_info", f"must have at most {BYTES_MAX} bytes")
    return encoded, known.get("buyer_account") or known.get("email") or ""


def _is_ip(value: object) -> bool:
    try:
        ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _has_own_form(name: str, value: object) -> bool:
    """Say whether this is a phone number or an IP address: of those, too many would pass for a card number."""
    if name == "phone":
        return isinstance(value, str) and _PHONE.fullmatch(value) is not None
    return name == "ip" and isinstance(value, str) and _is_ip(value) and not _spells_card_number(value)


def _spells_card_number(ip: str) -> bool:
    """Say whether the decimal groups that stand together in an IP address are, joined, a card number."""
    address, _, zone = ip.partition("%")
    stretches = [part for half in address.split("::") for part in _HEXTET_WITH_LETTER.split(half)]
    return holds_card_number(zone) or any(
        is_card_number(part.replace(":", "").replace(".", "")) for part in stretches
    )


class _Walk:
    """One pass over the data: JSON's own types, bounded, and no card number in any name or value."""

    __slots__ = ("_chars", "_values")

    def __init__(self) -> None:
        self._chars = 0
        self._values = 0

    def _count(self, text: str) -> None:
        """Refuse too much text before it is searched, not after: the search is slower than the parser."""
        self._chars += len(text)
        if self._chars > BYTES_MAX:
            raise InvalidRequest("buyer_info", f"must have at most {BYTES_MAX} bytes")

    def members(self, path: str, members: dict[Any, Any], depth: int) -> None:
        _check_depth(depth)
        for name, value in members.items():
            if not isinstance(name, str) or len(name) > TEXT_CHARS_MAX or NOT_IN_TEXT.search(name):
                detail = f"member names must be strings of at most {TEXT_CHARS_MAX} characters, none of control"
                raise InvalidRequest(path, detail)
            self._count(name)
            if holds_card_number(name):
                raise InvalidRequest(path, "the name of a member looks like a card number")
            inner = f"{path}.{name}" if _PLAIN_NAME.fullmatch(name) else f"{path}.*"
            if _NOT_LETTERS.sub("", name.lower()) in _CARD_MEMBERS:
                raise InvalidRequest(inner, "card data is never accepted; send a token of the PSP instead")
            if depth > 1 or not _has_own_form(name, value):
                self.value(inner, value, depth)

    def items(self, path: str, items: list[Any] | tuple[Any, ...], depth: int) -> None:
        _check_depth(depth)
        for index, item in enumerate(items):
            self.value(f"{path}[{index}]", item, depth)
        if all(isinstance(item, str | int) for item in items):
            # A number that was split into the groups that are printed on the card.
            refuse_card_number(path, " ".join([str(item) for item in items]))

    def value(self, path: str, value: object, depth: int) -> None:
        self._values += 1
        if self._values > VALUES_MAX:
            raise InvalidRequest("buyer_info", f"must have at most {VALUES_MAX} values")
        if isinstance(value, str):
            self._count(value)
            if NOT_IN_TEXT.search(value):
                raise InvalidRequest(path, "must not contain control characters")
            refuse_card_number(path, value)
        elif isinstance(value, dict):
            self.members(path, value, depth + 1)
        elif isinstance(value, list | tuple):
            self.items(path, value, depth + 1)
        else:
            _check_scalar(path, value)


def _check_depth(depth: int) -> None:
    if depth > DEPTH_MAX:
        raise InvalidRequest("buyer_info", f"must be nested at most {DEPTH_MAX} levels deep")


def _check_scalar(path: str, value: object) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int | float):
        # False for NaN, too.
        if not NUMBER_MIN <= value <= NUMBER_MAX:
            raise InvalidRequest(path, "must be a number of at most 64 bits; write a larger one as a string")
        refuse_card_number(path, str(value) if isinstance(value, int) else f"{value:f}")
    else:
        raise InvalidRequest(path, "must be of a type that JSON has")
