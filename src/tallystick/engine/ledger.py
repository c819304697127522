"""Double entry: the chart of accounts, transfers, what each business fact posts, and the hash chain.

A transfer debits one account and credits another by the same amount, so that the sum of all entries is zero by
construction. A transfer is never changed; a mistake is reversed by another transfer. Every transfer hashes
itself and its predecessor, so that a changed, missing or inserted row shows.
"""

from enum import StrEnum
from hashlib import sha256

import msgspec

from tallystick.engine.errors import IllegalState
from tallystick.engine.money import Money
from tallystick.engine.order import Order, State

GENESIS_HASH = bytes(32)


class AccountType(StrEnum):
    """The chart of accounts. Debit-normal: what we have or spend; credit-normal: what we owe or earn."""

    PSP_RECEIVABLE = "psp_receivable"
    """What a PSP has captured and not yet settled to our bank; per PSP and currency."""
    SELLER_PAYABLE = "seller_payable"
    """What we owe a seller; per seller and currency."""
    PLATFORM_FEES = "platform_fees"
    PSP_FEES = "psp_fees"
    BANK = "bank"
    PAYOUTS_IN_TRANSIT = "payouts_in_transit"
    REFUNDS = "refunds"
    DISPUTES = "disputes"
    SUSPENSE = "suspense"
    FX = "fx"


DEBIT_NORMAL = frozenset(
    {
        AccountType.PSP_RECEIVABLE,
        AccountType.BANK,
        AccountType.PSP_FEES,
        AccountType.REFUNDS,
        AccountType.DISPUTES,
    }
)


class Account(msgspec.Struct, frozen=True):
    """One ledger account. `owner` is the PSP or the seller it is kept for, empty for the platform's own."""

    type: AccountType
    owner: str
    currency: str

    @property
    def id(self) -> str:
        """Return the account's id, such as `seller_payable:DE89370400440532013000:EUR`."""
        return f"{self.type}:{self.owner}:{self.currency}"


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of money. `cause` is unique for ever: posting the same cause twice is the same as once."""

    cause: str
    kind: str
    debit: Account
    credit: Account
    amount: Money
    payment_order_id: str | None
    at: int


def capture(order: Order, *, at: int) -> Transfer:
    """Return what a captured payment order posts: the PSP owes us, and we owe the seller.

    Raises IllegalState unless the order is a SUCCESS.
    """
    if order.state is not State.SUCCESS or order.psp is None:
        raise IllegalState(f"{order.payment_order_id} is {order.state}; only a SUCCESS is posted")
    currency = order.amount.currency
    return Transfer(
        cause=f"capture:{order.payment_order_id}",
        kind="capture",
        debit=Account(AccountType.PSP_RECEIVABLE, order.psp, currency),
        credit=Account(AccountType.SELLER_PAYABLE, order.seller_account, currency),
        amount=order.amount,
        payment_order_id=order.payment_order_id,
        at=at,
    )


def chain_hash(
    previous: bytes,
    *,
    seq: int,
    cause: str,
    kind: str,
    debit_id: str,
    credit_id: str,
    amount_minor: int,
    currency: str,
    at: int,
) -> bytes:
    """Return the hash of transfer number `seq`: SHA-256 over its predecessor's hash and its own fields.

    Fields are length-prefixed, so that no two different rows have the same text.
    """
    fields = (str(seq), cause, kind, debit_id, credit_id, str(amount_minor), currency, str(at))
    text = "".join([f"{len(field)}:{field}" for field in fields])
    return sha256(previous + text.encode()).digest()


class WalletEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a seller's wallet, in minor units per part of the balance. `cause` is unique for ever."""

    cause: str
    kind: str
    seller_account: str
    currency: str
    available_minor: int = 0
    pending_minor: int = 0
    held_minor: int = 0
    payment_order_id: str | None
    at: int


def wallet_credit(order: Order, *, at: int) -> WalletEntry:
    """Return what a captured order adds to the seller's wallet. Raises IllegalState unless it is a SUCCESS."""
    if order.state is not State.SUCCESS:
        raise IllegalState(f"{order.payment_order_id} is {order.state}; only a SUCCESS is credited")
    return WalletEntry(
        cause=f"capture:{order.payment_order_id}",
        kind="capture",
        seller_account=order.seller_account,
        currency=order.amount.currency,
        available_minor=order.amount.minor,
        payment_order_id=order.payment_order_id,
        at=at,
    )
