"""Finds payment card numbers in text, so that none is ever accepted, stored or logged (PCI DSS, requirement 3).

A card number is 12 to 19 digits that begin like those of a card scheme, have a length which that scheme issues,
and pass the Luhn check. Digits may be of any script, and anything but letters may stand between them; a number
must begin and end where a group of digits does. What cannot be told from a card number is taken for one: of
plain 16-digit ids that begin like a card, one in ten is refused. Two shapes are known to be something else, when
they hold at least one letter: UUIDs, and hexadecimal digests and ids of the usual lengths, these unless a card
number stands in them in one piece.

What is not found: a number with letters between its digits, in words, or encoded, and one whose pieces are spread
over several fields or members of an object. That takes intent, and no pattern stops intent.
"""

import re
import unicodedata

from tallystick.engine.errors import InvalidRequest

DIGITS_MIN = 12
DIGITS_MAX = 19

# Any number of these may stand between two digits of one number. Possessive: nothing is ever searched twice for
# another way to match, so that time grows with the text and not with its square.
_GAP = r"[\W_]*+"
_CANDIDATE = re.compile(rf"(?:\d{_GAP}){{{DIGITS_MIN - 1}}}\d")
_RUN = re.compile(rf"\d(?:{_GAP}\d)*+")
_GROUP = re.compile(r"\d+")

_HEX = "[0-9a-fA-F]"
# A shorter one comes about by chance in digests. The first digit and the last are those of the whole group.
_DIGITS_MIN_IN_HEX = 13
_HARMLESS = re.compile(
    rf"(?<![0-9A-Za-z])(?=[0-9-]{{0,64}}[a-fA-F])"
    rf"(?:{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}|{_HEX}{{64}}|{_HEX}{{40}}|{_HEX}{{32}}|{_HEX}{{24}})"
    rf"(?![0-9A-Za-z])"
)

_DOUBLED = str.maketrans("0123456789", "0246813579")

# (first, last, lengths): prefixes as the schemes publish them, compared by as many digits as `first` has.
_SCHEMES: tuple[tuple[str, str, frozenset[int]], ...] = (
    ("34", "34", frozenset({15})),  # American Express
    ("37", "37", frozenset({15})),
    ("30", "30", frozenset(range(14, 20))),  # Diners Club
    ("36", "36", frozenset(range(14, 20))),
    ("38", "39", frozenset(range(14, 20))),
    ("35", "35", frozenset(range(16, 20))),  # JCB
    ("4", "4", frozenset({13, 16, 18, 19})),  # Visa
    ("51", "55", frozenset({16})),  # Mastercard
    ("2221", "2720", frozenset({16})),
    ("2200", "2204", frozenset(range(16, 20))),  # Mir
    ("50", "50", frozenset(range(12, 20))),  # Maestro, and within 56-69 Discover, UnionPay, RuPay, Elo
    ("56", "69", frozenset(range(12, 20))),
    ("81", "82", frozenset(range(16, 20))),  # UnionPay, RuPay
)


def holds_card_number(text: str) -> bool:
    """Say whether a card number stands anywhere in the text."""
    if len(text) < DIGITS_MIN:
        return False
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    if _CANDIDATE.search(plain) is None:
        return False
    plain = _HARMLESS.sub(_without_harmless, plain)
    return any(_card_spans(run) for run in _RUN.finditer(plain))


def refuse_card_number(field: str, text: str) -> None:
    """Raise InvalidRequest when a card number stands in the text. The number itself is never repeated."""
    if holds_card_number(text):
        raise InvalidRequest(
            field, "looks like a card number; send a token of the PSP in credit_card_info instead"
        )


def mask_card_numbers(text: str) -> str:
    """Return the text with every card number replaced: for a traceback that is about to be logged."""
    if not holds_card_number(text):
        return text
    plain = unicodedata.normalize("NFKC", text)
    return _RUN.sub(lambda run: "[card number]" if _card_spans(run) else run[0], plain)


def is_card_number(digits: str) -> bool:
    """Say whether these ASCII digits, as a whole, are a card number."""
    return _luhn(digits) and any(
        first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _SCHEMES
    )


def _without_harmless(found: re.Match[str]) -> str:
    """Return what to search in place of a UUID or a hexadecimal text."""
    groups = () if "-" in found[0] else _GROUP.findall(found[0])
    holds = any(len(group) >= _DIGITS_MIN_IN_HEX and is_card_number(group) for group in groups)
    return found[0] if holds else "x"


def _card_spans(run: re.Match[str]) -> bool:
    """Say whether neighbouring groups of a run of digits make a card number."""
    groups = [_ascii_digits(group) for group in _GROUP.findall(run[0])]
    for first in range(len(groups)):
        digits = ""
        for group in groups[first:]:
            digits += group
            if len(digits) > DIGITS_MAX:
                break
            if len(digits) >= DIGITS_MIN and is_card_number(digits):
                return True
    return False


def _ascii_digits(group: str) -> str:
    return group if group.isascii() else "".join([str(unicodedata.decimal(digit)) for digit in group])


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: from the right, every second digit counts double, and as the sum of its digits."""
    doubled = digits[-2::-2].translate(_DOUBLED)
    return (sum(map(int, digits[-1::-2])) + sum(map(int, doubled))) % 10 == 0
