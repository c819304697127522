"""Reads the two request headers that change what a POST does."""

import re

from tallystick.engine.card_numbers import holds_card_number
from tallystick.http.api.problems import Kind, Refusal

KEY_CHARS_MAX = 255
PREFER_CHARS_MAX = 1_000
"""Preferences beyond are not looked at: taking them apart costs the square of their length at worst."""

# RFC 8941, 3.3.3: a quoted string of printable ASCII, in which only quote and backslash are escaped.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-+\--~]+")
_ESCAPED = re.compile(r"\\(.)")

# RFC 7240, 2: preferences are separated by commas that stand in no quoted string.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_WAIT = re.compile(r'\s*wait\s*=\s*("?)([0-9]{1,9})\1\s*(?:;.*)?', re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r"\s*([^\s=;]+)")


def idempotency_key(values: list[str]) -> str | None:
    """Return the key of `Idempotency-Key`, or None without one.

    The draft wants a quoted structured-field string; many clients send it bare. Both are the same key.
    Raises Refusal (400) for anything else, and for a key that looks like a card number.
    """
    if not values:
        return None
    text = values[0].strip()
    quoted = _QUOTED.fullmatch(text)
    key = _ESCAPED.sub(r"\1", quoted[1]) if quoted else text
    if len(values) > 1 or not (quoted or _BARE.fullmatch(text)) or not 1 <= len(key) <= KEY_CHARS_MAX:
        detail = f"must be one string of 1 to {KEY_CHARS_MAX} visible ASCII characters, quoted or bare"
        raise Refusal.of_field(Kind.INVALID_HEADER, "Idempotency-Key", detail)
    if holds_card_number(key):
        raise Refusal.of_field(Kind.INVALID_HEADER, "Idempotency-Key", "looks like a card number")
    return key


def preferred_wait_s(values: list[str], *, wait_s_max: int) -> int | None:
    """Return the seconds of `Prefer: wait`, at most `wait_s_max`; None when there is none that can be read.

    The first one counts, and what is malformed is ignored (RFC 7240, 2).
    """
    for preference in _PREFERENCE.findall(",".join(values)[:PREFER_CHARS_MAX]):
        name = _NAME.match(preference)
        if name is not None and name[1].lower() == "wait":
            wait = _WAIT.fullmatch(preference)
            return min(int(wait[2]), wait_s_max) if wait else None
    return None
