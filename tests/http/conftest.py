"""A door without an engine: the API's tests see what it was told, and decide what it answers."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
import structlog
from msgspec.structs import replace

from tallystick.engine.doors import PaymentEvent, Receipt
from tallystick.engine.errors import ContentConflict, MoveRefused, NotFoundError
from tallystick.engine.intake import admit
from tallystick.engine.intents import AcceptPayment, IdempotencyClaim
from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.ports import Store
from tallystick.engine.views import (
    AccountView,
    AttemptView,
    CheckoutView,
    DeadLetterView,
    EntryView,
    OrderView,
    WalletView,
)
from tallystick.http import ApiSettings, create_app

START = 1_770_000_000_000_000


class FakeClock:
    """Time stands still unless a test moves it."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> int:
        return self.at


class FakeStore:
    """The reads of the store, from dicts."""

    def __init__(self) -> None:
        self.accepted: dict[str, AcceptPayment] = {}
        self.orders: dict[str, Order] = {}
        self.claims: dict[tuple[str, str], bytes] = {}
        self.letters: list[DeadLetterView] = []
        self.entries: list[EntryView] = []
        self.asked: list[str] = []
        self.fail_with: Exception | None = None

    def _read(self, key: str) -> None:
        self.asked.append(key)
        if self.fail_with is not None:
            raise self.fail_with

    async def order_view(self, payment_order_id: str) -> OrderView | None:
        self._read(payment_order_id)
        order = self.orders.get(payment_order_id)
        if order is None:
            return None
        attempt = AttemptView(
            attempt=1,
            psp="fake",
            idempotency_key=payment_order_id,
            sends=1,
            begun_at=START,
            last_sent_at=START,
            result=None,
            code=None,
            psp_reference=None,
            resolved_at=None,
        )
        return OrderView(order=order, updated_at=START + 1, attempts=(attempt,))

    async def checkout_views(self, checkout_ids: Sequence[str]) -> list[CheckoutView | None]:
        return [self._checkout_view(checkout_id) for checkout_id in checkout_ids]

    def _checkout_view(self, checkout_id: str) -> CheckoutView | None:
        self._read(checkout_id)
        accepted = self.accepted.get(checkout_id)
        if accepted is None:
            return None
        orders = tuple([self.orders[order.payment_order_id] for order in accepted.orders])
        return CheckoutView(
            checkout_id=checkout_id,
            buyer_info=accepted.buyer_info,
            created_at=accepted.at,
            is_payment_done=all(order.is_done for order in orders),
            orders=orders,
        )

    async def wallet_views(self, seller_account: str) -> list[WalletView]:
        self._read(seller_account)
        totals: dict[str, int] = {}
        for order in self.orders.values():
            if order.seller_account == seller_account and order.is_done:
                totals[order.amount.currency] = totals.get(order.amount.currency, 0) + order.amount.minor
        return [
            WalletView(
                seller_account=seller_account,
                currency=currency,
                available_minor=total,
                pending_minor=0,
                held_minor=0,
                updated_at=START,
            )
            for currency, total in totals.items()
        ]

    async def account_view(self, account_id: str, *, before_seq: int | None, limit: int) -> AccountView | None:
        self._read(account_id)
        if account_id != "bank::EUR":
            return None
        older = [entry for entry in reversed(self.entries) if before_seq is None or entry.seq < before_seq]
        page = older[:limit]
        return AccountView(
            account_id=account_id,
            currency="EUR",
            debits_minor=500,
            credits_minor=700,
            entries=tuple(page),
            next_before_seq=page[-1].seq if len(older) > limit else None,
        )

    async def dead_letters(
        self, *, include_closed: bool, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetterView]:
        self._read("dead letters")
        rows = [
            one
            for one in self.letters
            if (include_closed or one.closed_at is None)
            and (after is None or (one.opened_at, one.payment_order_id) > after)
        ]
        return rows[:limit]


class FakeDoor:
    """Accepts as the engine does; carries nothing out."""

    def __init__(self) -> None:
        self.rows = FakeStore()
        self.clock = FakeClock()
        self.submitted: list[PaymentEvent] = []
        self.waited_s: list[float] = []
        self.retried: list[tuple[str, str, str]] = []
        self.fail_with: BaseException | None = None
        self.not_ready: str | None = None
        self.done_after_wait = False

    @property
    def store(self) -> Store:
        return cast("Store", self.rows)

    async def submit(self, event: PaymentEvent, *, claim: IdempotencyClaim | None = None) -> Receipt:
        intent = admit(event, now=self.clock.now(), claim=claim)
        if self.fail_with is not None:
            raise self.fail_with
        self.submitted.append(event)
        if intent.claim is not None:
            slot = (intent.claim.scope, intent.claim.key)
            if self.rows.claims.setdefault(slot, intent.claim.request_hash) != intent.claim.request_hash:
                raise ContentConflict("Idempotency-Key", "came before with other content")
        first = self.rows.accepted.setdefault(intent.checkout_id, intent)
        if first.content_hash != intent.content_hash:
            raise ContentConflict("checkout_id", "came before with other content")
        new = first is intent
        if new:
            self.rows.orders |= {order.payment_order_id: order for order in intent.orders}
        ids = tuple([order.payment_order_id for order in intent.orders])
        return Receipt(checkout_id=intent.checkout_id, payment_order_ids=ids, accepted_at=first.at, new=new)

    async def wait(self, checkout_id: str, *, timeout_s: float) -> CheckoutView:
        self.waited_s.append(timeout_s)
        if self.done_after_wait:
            self.finish(checkout_id)
        view = (await self.store.checkout_views([checkout_id]))[0]
        if view is None:
            raise NotFoundError("checkout_id", "no such checkout")
        return view

    def finish(self, checkout_id: str) -> None:
        """Make all orders of a checkout charged, with both books written."""
        for order in self.rows.accepted[checkout_id].orders:
            self.change(order.payment_order_id, state=State.SUCCESS, ledger_updated=True, wallet_updated=True)

    def change(self, payment_order_id: str, **changes: Any) -> None:
        """Let an order be otherwise."""
        self.rows.orders[payment_order_id] = replace(self.rows.orders[payment_order_id], **changes)

    async def retry(self, payment_order_id: str, *, by: str, why: str) -> Order:
        order = self.rows.orders.get(payment_order_id)
        if order is None:
            raise NotFoundError("payment_order_id", f"no order {payment_order_id!r}")
        if order.state is not State.FAILED:
            raise MoveRefused("payment_order_id", "the order has not failed")
        self.retried.append((payment_order_id, by, why))
        self.change(payment_order_id, state=State.EXECUTING, attempt=2)
        return self.rows.orders[payment_order_id]

    def not_ready_because(self) -> str | None:
        return self.not_ready

    def metrics_text(self) -> bytes:
        return b"# TYPE tallystick_fake counter\ntallystick_fake 1\n"

    def letter(self, number: int) -> DeadLetterView:
        """Return (and store) a dead letter."""
        view = DeadLetterView(
            payment_order_id=f"order-{number}",
            checkout_id=f"checkout-{number}",
            reason="card_declined",
            state=State.FAILED,
            amount=Money(315, "EUR"),
            opened_at=START + number // 2,
            closed_at=None,
            resolution=None,
        )
        self.rows.letters.append(view)
        return view

    def entry(self, seq: int) -> None:
        """Store a ledger entry."""
        self.rows.entries.append(
            EntryView(
                seq=seq,
                cause=f"capture:{seq}",
                kind="capture",
                other_account_id="suspense::EUR",
                amount=Money(-seq, "EUR"),
                payment_order_id=None,
                at=START,
            )
        )


@pytest.fixture
def door() -> FakeDoor:
    return FakeDoor()


@pytest.fixture
def app(door: FakeDoor) -> Any:
    return create_app(door, settings=ApiSettings(body_timeout_s=0.5, discard_s=0.2))


@pytest.fixture
def client(app: Any) -> Any:
    return app.test_client()


@pytest.fixture
def log_lines() -> Iterator[list[Any]]:
    """Everything that is logged, as the processors get it."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def checkout() -> dict[str, Any]:
    """A checkout that is accepted."""
    return {
        "checkout_id": "checkout-1",
        "buyer_info": {"buyer_account": "buyer-1", "email": "ann@example.com"},
        "credit_card_info": {"token": "tok_visa"},
        "payment_orders": [
            {
                "payment_order_id": "order-1",
                "seller_account": "DE89370400440532013000",
                "amount": "3.15",
                "currency": "EUR",
            }
        ],
    }
