"""The ports: what the engine needs of the outside, as Protocols. Each method lists the errors it may raise.

Production implements them in `storage` (PostgreSQL) and `http.psp`; the simulator in `sim`.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from tallystick.engine.errors import TallystickError
from tallystick.engine.events import (
    Accepted,
    BuyerActionRequired,
    Charged,
    Declined,
    NotExecuted,
    NotFound,
    OutcomeLost,
    RiskAccepted,
    RiskFlagged,
    RiskRefused,
    Voided,
)
from tallystick.engine.intents import (
    AcceptOutcome,
    AcceptPayment,
    CreditWallet,
    Posted,
    PostTransfer,
    Transition,
    TransitionOutcome,
)
from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.retry import PspPolicy
from tallystick.engine.views import (
    AccountView,
    CheckoutView,
    DeadLetterView,
    Finding,
    InFlight,
    Lease,
    OrderView,
    OutboxEvent,
    StoredTransfer,
    Story,
    WalletView,
)


class Clock(Protocol):
    """The only source of wall-clock time."""

    def now(self) -> int:
        """Return microseconds since the Unix epoch, UTC."""
        ...


class Entropy(Protocol):
    """The only source of randomness."""

    def below(self, bound: int) -> int:
        """Return a random integer in [0, bound)."""
        ...

    def token(self) -> str:
        """Return a new identifier that nobody can guess."""
        ...


class ChargeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One send of one attempt."""

    payment_order_id: str
    """Travels as the merchant reference, so that an inquiry finds every attempt."""
    attempt: int
    idempotency_key: str
    amount: Money
    psp_token: str | None
    """None for a hosted page."""
    first_sent_at: int


class PspQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A question about, or a void of, one attempt."""

    payment_order_id: str
    attempt: int
    idempotency_key: str
    asked_at: int


ChargeAnswer = Charged | Declined | NotExecuted | Accepted | BuyerActionRequired | OutcomeLost | Voided
InquiryAnswer = Charged | Declined | Accepted | BuyerActionRequired | NotFound | Voided | OutcomeLost
VoidAnswer = Voided | Charged | Declined | Accepted | OutcomeLost


class Psp(Protocol):
    """A payment service provider. Methods return evidence and raise nothing that is about the payment.

    Every failure to get a clear answer is `OutcomeLost`; only what certainly had no effect is `NotExecuted`.
    An exception out of these methods is a bug of the adapter; the order actor restarts and finds out by inquiry.
    """

    @property
    def name(self) -> str:
        """The PSP's name; part of ledger account ids, so it never changes."""
        ...

    @property
    def policy(self) -> PspPolicy:
        """What this PSP promises, and how its failures are retried."""
        ...

    async def charge(self, request: ChargeRequest) -> ChargeAnswer:
        """Charge a token, under the request's idempotency key."""
        ...

    async def register(self, request: ChargeRequest) -> ChargeAnswer:
        """Open a hosted page for the buyer, under the request's idempotency key as nonce."""
        ...

    async def inquire(self, query: PspQuery) -> InquiryAnswer:
        """Ask what became of an attempt, by merchant reference and key."""
        ...

    async def void(self, query: PspQuery) -> VoidAnswer:
        """Kill the attempt's key, seen or unseen, so that it never charges; or learn that it has."""
        ...


class RiskCheck(Protocol):
    """The check before execution."""

    async def assess(self, order: Order) -> RiskAccepted | RiskFlagged | RiskRefused:
        """Return a verdict. Any exception is survivable: the order stays NOT_STARTED and is checked again."""
        ...


class DeliveryFailed(TallystickError):
    """A receiver did not take its events; they will be delivered again."""


class Receiver(Protocol):
    """Somebody who gets every business event, at least once, in order per payment order."""

    @property
    def name(self) -> str:
        """The receiver's name; its cursor is stored under it."""
        ...

    async def deliver(self, events: Sequence[OutboxEvent]) -> None:
        """Deliver all of them, in order per payment order. Raises DeliveryFailed to get them again later."""
        ...


class Store(Protocol):
    """The memory of the engine. Every method is one transaction.

    Any method may raise StoreUnavailable (certainly nothing was written). Writes may raise CommitUnknown
    (repeat the intent) and, once partitions were claimed, Fenced (stop).
    """

    # --- ownership -------------------------------------------------------------------------------------------

    async def claim_partitions(self, *, owner: str, now: int, ttl_us: int, force: bool) -> Lease:
        """Take over all partitions with a higher epoch; every later write of this store is checked against it.

        Raises PartitionsTaken while another owner's lease has not ended, unless `force`, which is safe at any
        time (the old owner is fenced) but rude to an owner that is alive.
        """
        ...

    async def renew_lease(self, *, now: int, ttl_us: int) -> None:
        """Prolong the lease. Raises Fenced when another engine has taken over."""
        ...

    async def release_lease(self) -> None:
        """End the lease, so that a next engine need not wait."""
        ...

    # --- writes, in batches ----------------------------------------------------------------------------------

    async def accept(self, batch: Sequence[AcceptPayment]) -> list[AcceptOutcome]:
        """Record payment events with their orders."""
        ...

    async def apply(self, batch: Sequence[Transition]) -> list[TransitionOutcome]:
        """Move orders. At most one transition per order in a batch."""
        ...

    async def post(self, batch: Sequence[PostTransfer]) -> list[Posted]:
        """Append transfers to the ledger's hash chain, and keep the balances."""
        ...

    async def credit(self, batch: Sequence[CreditWallet]) -> list[Posted]:
        """Write wallet entries, and keep the balances."""
        ...

    # --- reads that decide -----------------------------------------------------------------------------------

    async def orders(self, ids: Sequence[str]) -> list[Order | None]:
        """Return the orders with these ids."""
        ...

    async def unfinished(self, *, after: str, limit: int) -> list[str]:
        """Return ids, ascending, of our open NOT_STARTED, EXECUTING and SUCCESS orders: a restart resumes them."""
        ...

    async def due(self, *, now: int, limit: int) -> list[str]:
        """Return ids of our open orders whose wake_at has come, earliest first."""
        ...

    async def next_wake_at(self) -> int | None:
        """Return the earliest wake_at of our open orders."""
        ...

    async def stuck(self, *, states: Sequence[State], since_before: int, limit: int) -> list[Order]:
        """Return our open orders in these states that entered them before a time, oldest first."""
        ...

    async def in_flight(self) -> list[InFlight]:
        """Count open orders by state."""
        ...

    # --- outbox ----------------------------------------------------------------------------------------------

    async def add_receiver(self, receiver: str) -> int:
        """Make sure that a receiver has a cursor; return it. A new one starts at the beginning."""
        ...

    async def outbox_after(self, *, position: int, limit: int) -> list[OutboxEvent]:
        """Return events after a position, in commit order."""
        ...

    async def advance_receiver(self, *, receiver: str, position: int) -> None:
        """Move a receiver's cursor forward, after its events were delivered."""
        ...

    # --- reads for people ------------------------------------------------------------------------------------

    async def order_view(self, payment_order_id: str) -> OrderView | None:
        """Return one order with its attempts."""
        ...

    async def checkout_views(self, checkout_ids: Sequence[str]) -> list[CheckoutView | None]:
        """Return payment events with their orders, each as of one moment, in the order of the ids."""
        ...

    async def wallet_views(self, seller_account: str) -> list[WalletView]:
        """Return a seller's wallets, one per currency."""
        ...

    async def account_view(self, account_id: str, *, before_seq: int | None, limit: int) -> AccountView | None:
        """Return a ledger account with a page of entries, newest first."""
        ...

    async def dead_letters(
        self, *, include_closed: bool, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetterView]:
        """Return dead letters, oldest first, after (opened_at, payment_order_id)."""
        ...

    async def story(self, payment_order_id: str) -> Story | None:
        """Return everything that is known about one order."""
        ...

    # --- upkeep ----------------------------------------------------------------------------------------------

    async def transfers_after(self, *, seq: int, limit: int) -> list[StoredTransfer]:
        """Return ledger rows after a sequence number, ascending, for replay."""
        ...

    async def findings(self, *, limit: int) -> list[Finding]:
        """Compare sums, balances, wallets, ledger and orders with each other; return at most `limit` per check."""
        ...

    async def purge_claims(self, *, before: int, limit: int) -> int:
        """Forget idempotency claims made before a time; return how many."""
        ...
