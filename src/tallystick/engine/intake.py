"""The door of the engine: checks a checkout as its caller states it, and makes it an intent.

All rules for what may come in are here, so that embedding programs and the HTTP API have the same ones. Nothing
is echoed: an error names the field and says what is expected, never what was sent, since that may be card data.
"""

import re
from functools import lru_cache
from hashlib import sha256
from operator import itemgetter

import msgspec
from msgspec.structs import replace
from schwifty import IBAN

from tallystick.engine.buyer_info import check_buyer_info
from tallystick.engine.card_numbers import refuse_card_number
from tallystick.engine.characters import NOT_IN_IDS, NOT_IN_TEXT, VISIBLE
from tallystick.engine.doors import CardInfo, PaymentEvent, PaymentOrderRequest
from tallystick.engine.errors import InvalidMoney, InvalidRequest
from tallystick.engine.intents import AcceptPayment, IdempotencyClaim
from tallystick.engine.money import Money
from tallystick.engine.order import DERIVED_KEY_PREFIX, Method, Order

ID_CHARS_MAX = 255
TOKEN_CHARS_MAX = 255
ORDERS_MAX = 999
TEXT_CHARS_MAX = 255
IBAN_CHARS_MAX = 64
"""With spaces; the longest IBAN has 34 characters."""

HOSTED_PAGE = "hosted_page"

_TOKEN = re.compile(rf"[!-~]{{1,{TOKEN_CHARS_MAX}}}")
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)

_encoder = msgspec.json.Encoder(order="sorted")


def admit(event: PaymentEvent, *, now: int, claim: IdempotencyClaim | None = None) -> AcceptPayment:
    """Check a checkout and return the intent that records it, its orders as the caller listed them. Pure.

    `now` is in microseconds. A claim whose `request_hash` is empty is given the hash of the content, so that the
    same content in another notation is the same request.
    Raises InvalidRequest and InvalidMoney, which name the field by its path, such as `payment_orders[0].amount`.
    """
    checkout_id = check_id("checkout_id", event.checkout_id)
    method, token = _check_card_info(event.credit_card_info)
    buyer_info, buyer_account = check_buyer_info(event.buyer_info)
    lines = _check_orders(event.payment_orders)
    content = (
        checkout_id,
        msgspec.Raw(buyer_info),
        method,
        token,
        [(key, iban, amount.minor, amount.currency) for key, iban, amount in sorted(lines, key=itemgetter(0))],
    )
    content_hash = sha256(_encoder.encode(content)).digest()
    if claim is not None and not claim.request_hash:
        claim = replace(claim, request_hash=content_hash)
    orders = tuple(
        Order(
            payment_order_id=payment_order_id,
            checkout_id=checkout_id,
            seller_account=seller_account,
            buyer_account=buyer_account,
            amount=amount,
            method=method,
            psp_token=token,
            created_at=now,
            state_since=now,
        )
        for payment_order_id, seller_account, amount in lines
    )
    return AcceptPayment(
        checkout_id=checkout_id,
        buyer_info=buyer_info,
        content_hash=content_hash,
        orders=orders,
        claim=claim,
        at=now,
    )


# --- rules that other doors use, too ---------------------------------------------------------------------------


def check_id(field: str, value: object) -> str:
    """Return an id: 1 to 255 characters, no control characters, no white space at the ends, no card number.

    Ids are compared code point by code point. Raises InvalidRequest.
    """
    if not isinstance(value, str):
        raise InvalidRequest(field, "must be a string")
    if not 1 <= len(value) <= ID_CHARS_MAX:
        raise InvalidRequest(field, f"must have 1 to {ID_CHARS_MAX} characters")
    if NOT_IN_IDS.search(value):
        raise InvalidRequest(field, "must not contain control characters")
    if not (VISIBLE.match(value[0]) and VISIBLE.match(value[-1])):
        raise InvalidRequest(field, "must not begin or end with white space")
    refuse_card_number(field, value)
    return value


def check_text(field: str, value: object, *, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Return text for people: not blank, bounded, no control characters but line ends and tabs, no card number.

    Raises InvalidRequest.
    """
    if not isinstance(value, str):
        raise InvalidRequest(field, "must be a string")
    if len(value) > chars_max or not VISIBLE.search(value):
        raise InvalidRequest(field, f"must have 1 to {chars_max} characters, not all of them white space")
    if NOT_IN_TEXT.search(value):
        raise InvalidRequest(field, "must not contain control characters")
    refuse_card_number(field, value)
    return value


@lru_cache(maxsize=65_536)
def normal_iban(text: str) -> str | None:
    """Return an IBAN without spaces and in capitals, or None when it is none (checksum, length, country's format).

    Cached, since the check costs 6 µs and the same sellers come again and again.
    """
    if not text.isascii() or len(text) > IBAN_CHARS_MAX:
        return None
    try:
        return str(IBAN(text.replace(" ", "").upper()))
    except ValueError:
        return None


# --- how the buyer pays ----------------------------------------------------------------------------------------


def _check_card_info(info: object) -> tuple[Method, str | None]:
    field = "credit_card_info"
    if isinstance(info, str):
        return Method.CARD_TOKEN, _check_token(field, info)
    if not isinstance(info, CardInfo):
        raise InvalidRequest(field, 'must be a token of the PSP, {"token": …} or {"method": "hosted_page"}')
    if (info.token is None) == (info.method is None):
        raise InvalidRequest(field, "must have exactly one of token and method")
    if info.token is not None:
        return Method.CARD_TOKEN, _check_token(f"{field}.token", info.token)
    if info.method != HOSTED_PAGE:
        raise InvalidRequest(f"{field}.method", f'must be "{HOSTED_PAGE}"')
    return Method.HOSTED_PAGE, None


def _check_token(field: str, token: object) -> str:
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise InvalidRequest(field, f"must be a token of the PSP: 1 to {TOKEN_CHARS_MAX} visible ASCII characters")
    refuse_card_number(field, token)
    return token


# --- orders ----------------------------------------------------------------------------------------------------


def _check_orders(requests: object) -> list[tuple[str, str, Money]]:
    """Return (payment_order_id, IBAN, amount) of each order, as listed: a refusal names a line by its place."""
    if not isinstance(requests, list | tuple):
        raise InvalidRequest("payment_orders", "must be a list")
    if not 1 <= len(requests) <= ORDERS_MAX:
        raise InvalidRequest("payment_orders", f"must have 1 to {ORDERS_MAX} orders")
    lines: dict[str, tuple[str, str, Money]] = {}
    for index, request in enumerate(requests):
        field = f"payment_orders[{index}]"
        line = _check_order(field, request)
        if line[0] in lines:
            raise InvalidRequest(f"{field}.payment_order_id", "is the id of an earlier order of this checkout")
        lines[line[0]] = line
    return list(lines.values())


def _check_order(field: str, request: object) -> tuple[str, str, Money]:
    if not isinstance(request, PaymentOrderRequest):
        raise InvalidRequest(field, "must be a payment order")
    payment_order_id = check_id(f"{field}.payment_order_id", request.payment_order_id)
    if payment_order_id.startswith(DERIVED_KEY_PREFIX):
        detail = f"must not begin with {DERIVED_KEY_PREFIX}, which marks keys of later attempts at the PSP"
        raise InvalidRequest(f"{field}.payment_order_id", detail)
    seller_account = _check_iban(f"{field}.seller_account", request.seller_account)
    return payment_order_id, seller_account, _check_amount(field, request.amount, request.currency)


def _check_iban(field: str, value: object) -> str:
    iban = normal_iban(value) if isinstance(value, str) else None
    if iban is None:
        raise InvalidRequest(field, "must be a valid IBAN")
    return iban


def _check_amount(field: str, amount: object, currency: object) -> Money:
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise InvalidMoney(f"{field}.currency", "must be an ISO 4217 code of three capital letters, such as EUR")
    if not isinstance(amount, str):
        raise InvalidMoney(f"{field}.amount", 'must be a string with a decimal number, such as "3.15"')
    try:
        money = Money.parse(amount, currency)
    except InvalidMoney as error:
        raise InvalidMoney(f"{field}.{error.field}", error.detail) from None
    if money.minor <= 0:
        raise InvalidMoney(f"{field}.amount", "must be greater than zero")
    return money
