"""The request bodies as JSON Schema: what `engine.intake` demands, as far as a schema can say it.

These types are documentation. Decoding uses the engine's own types, so that embedding programs and the API have
the same rules, and a test holds the members of both together.
"""

from typing import Annotated, Any

import iso4217
from msgspec import Meta, Struct

from tallystick.engine.buyer_info import (
    BYTES_MAX,
    COUNTRIES,
    DEPTH_MAX,
    EMAIL,
    NUMBER_MAX,
    NUMBER_MIN,
    TEXT_CHARS_MAX,
)
from tallystick.engine.characters import CONTROL, NO_TEXT, WHITE
from tallystick.engine.errors import InvalidMoney
from tallystick.engine.intake import ID_CHARS_MAX, ORDERS_MAX, TOKEN_CHARS_MAX
from tallystick.engine.money import exponent_of
from tallystick.engine.order import DERIVED_KEY_PREFIX


def _payable(code: str) -> bool:
    try:
        exponent_of(code)
    except InvalidMoney:
        return False
    return True


CURRENCIES = sorted(currency.code for currency in iso4217.Currency if _payable(currency.code))

# No control characters or line separators, and no white space at the ends.
_VISIBLE = f"[^{CONTROL}{WHITE}]"
_ID_PATTERN = rf"^{_VISIBLE}(?:[^{CONTROL}\u2028\u2029]*{_VISIBLE})?$"
_ORDER_ID_PATTERN = f"^(?!{DERIVED_KEY_PREFIX}){_ID_PATTERN.removeprefix('^')}"
# No control characters but tab and line ends, and not white space alone.
_ANY = f"[^{NO_TEXT}]"
_TEXT_PATTERN = rf"^{_ANY}*{_VISIBLE}{_ANY}*$"

CheckoutId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ID_CHARS_MAX,
        pattern=_ID_PATTERN,
        description="Yours, unique per checkout: the natural idempotency key. No control characters, no white "
        "space at the ends; compared code point by code point.",
        examples=["checkout-1"],
    ),
]
PaymentOrderId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ID_CHARS_MAX,
        pattern=_ORDER_ID_PATTERN,
        description="Yours, globally unique; it is passed to the PSP as the idempotency key. It does not begin "
        "with tsk_, which marks keys of later attempts.",
        examples=["order-1"],
    ),
]
Iban = Annotated[
    str,
    Meta(
        description="The seller's IBAN. Spaces and lower case are accepted, and normalised.",
        examples=["DE89370400440532013000"],
        extra_json_schema={"format": "iban", "maxLength": 64},
    ),
]
Amount = Annotated[
    str,
    Meta(
        pattern=r"^(?:[1-9][0-9]{0,15}(?:\.[0-9]{1,8})?|0\.(?=0*[1-9])[0-9]{1,8})$",
        # No `examples`: one with decimals is wrong for JPY, and tools combine the examples of members.
        description='A decimal number in a string, such as `"3.15"`: greater than zero, with at most the decimals '
        "that the currency has (EUR 2, JPY 0, KWD 3), and at most 10^12 minor units. Never a float.",
        extra_json_schema={"format": "decimal-amount"},
    ),
]
CurrencyCode = Annotated[
    str, Meta(description="ISO 4217.", examples=["EUR"], extra_json_schema={"enum": CURRENCIES})
]
Text = Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX, pattern=_TEXT_PATTERN)]
_TOKEN: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": TOKEN_CHARS_MAX,
    "pattern": "^[!-~]+$",
    "examples": ["tok_visa"],
}
CreditCardInfo = Annotated[
    Any,
    Meta(
        description="How the buyer pays: a token of the PSP, bare or in an object, or the PSP's hosted page. Card "
        "data is never accepted.",
        extra_json_schema={
            "oneOf": [
                _TOKEN,
                {
                    "type": "object",
                    "properties": {"token": _TOKEN},
                    "required": ["token"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {"method": {"const": "hosted_page"}},
                    "required": ["method"],
                    "additionalProperties": False,
                },
            ]
        },
    ),
]


def free_members(depth: int) -> dict[str, Any]:
    """Return the schema of members of any name, in an object at a depth; a schema cannot count levels."""
    bounds = {"minimum": NUMBER_MIN, "maximum": NUMBER_MAX}
    forms: list[dict[str, Any]] = [
        {"type": "string", "pattern": f"^{_ANY}*$"},
        {"type": "integer"} | bounds,
        {"type": "number"} | bounds,
        {"type": ["boolean", "null"]},
    ]
    if depth < DEPTH_MAX:
        inner = free_members(depth + 1)
        forms += [{"type": "object"} | inner, {"type": "array", "items": inner["additionalProperties"]}]
    names = {"pattern": f"^{_ANY}*$", "maxLength": TEXT_CHARS_MAX}
    return {"additionalProperties": {"anyOf": forms}, "propertyNames": names}


class BuyerInfo(Struct, kw_only=True):
    """What is known about the buyer. Other members are welcome, and kept."""

    buyer_account: Text | None = None
    name: Text | None = None
    email: Annotated[str, Meta(pattern=f"^{EMAIL}$")] | None = None
    phone: Text | None = None
    country: Annotated[
        str | None,
        Meta(description="ISO 3166-1 alpha-2.", extra_json_schema={"enum": [*sorted(COUNTRIES), None]}),
    ] = None
    address: Annotated[dict[str, Any] | None, Meta(extra_json_schema=free_members(2))] = None
    ip: Annotated[str, Meta(description="IPv4 or IPv6.", extra_json_schema={"format": "ip"})] | None = None


class PaymentOrder(Struct, kw_only=True, forbid_unknown_fields=True):
    """One seller's part of a checkout."""

    payment_order_id: PaymentOrderId
    seller_account: Iban
    amount: Amount
    currency: CurrencyCode


class Payment(Struct, kw_only=True, forbid_unknown_fields=True):
    """A checkout."""

    checkout_id: CheckoutId
    buyer_info: Annotated[
        BuyerInfo,
        Meta(
            description=f"A JSON object of at most {BYTES_MAX} bytes, nested at most {DEPTH_MAX} levels deep; "
            "text without control characters, integers of 64 bits, no card data under any name.",
            examples=[{"buyer_account": "buyer-1", "email": "ann@example.com"}],
        ),
    ]
    credit_card_info: CreditCardInfo
    payment_orders: Annotated[
        list[PaymentOrder],
        Meta(
            min_length=1,
            max_length=ORDERS_MAX,
            description="Each with an id of its own.",
            extra_json_schema={"uniqueItems": True},
        ),
    ]


class Retry(Struct, kw_only=True, forbid_unknown_fields=True):
    """Who wants one more attempt, and why; both are kept in the order's log."""

    by: Annotated[str, Meta(min_length=1, max_length=255, pattern=_TEXT_PATTERN, examples=["ann"])]
    why: Annotated[
        str, Meta(min_length=1, max_length=1_000, pattern=_TEXT_PATTERN, examples=["the seller asked for it"])
    ]
