"""`POST /v1/payments`, and what is read back: payments, checkouts, wallets, ledger accounts, dead letters.

No handler owns payment work. A client that disconnects cancels its handler; the engine goes on.
"""

import msgspec
from quart import Response, request

from tallystick.engine.doors import Door, PaymentEvent, Receipt
from tallystick.engine.errors import CallerError, NotFoundError, StoreError
from tallystick.engine.intake import check_id, check_text, normal_iban
from tallystick.engine.intents import IdempotencyClaim
from tallystick.engine.views import CheckoutView
from tallystick.http.api.bodies_in import StrictDecoder, read_body
from tallystick.http.api.bodies_out import (
    DeadLettersBody,
    account_body,
    checkout_body,
    checkout_path,
    dead_letter_body,
    order_body,
    payment_body,
    payment_path,
    receipt_body,
    wallets_body,
)
from tallystick.http.api.headers import idempotency_key, preferred_wait_s
from tallystick.http.api.paging import read_cursor, read_limit, write_cursor
from tallystick.http.api.settings import ApiSettings

# Until there are API keys, every caller is in one scope. The resource is part of it, so that a key of another
# kind of request, once there is one, is another key.
CLAIM_SCOPE = "POST /v1/payments"

_encode = msgspec.json.Encoder().encode


class RetryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wants one more attempt of a failed order, and why; both are kept in the order's log."""

    by: str
    why: str


def json_response(body: object, status: int = 200) -> Response:
    """Return a struct as a JSON response."""
    return Response(_encode(body), status, content_type="application/json")


class PaymentHandlers:
    """The handlers of the business resources, over one engine."""

    def __init__(self, engine: Door, settings: ApiSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._events = StrictDecoder(PaymentEvent)
        self._retries = StrictDecoder(RetryRequest)

    # --- taking payments -------------------------------------------------------------------------------------

    async def post_payment(self) -> Response:
        """Take a checkout: 202 after the commit; with `Prefer: wait=N`, 200 once all orders are done."""
        headers = request.headers
        key = idempotency_key(headers.getlist("Idempotency-Key"))
        event = self._events.decode(await read_body(request, self._settings))
        # An empty hash: intake fills in the hash of the content, which does not depend on notation.
        claim = None if key is None else IdempotencyClaim(scope=CLAIM_SCOPE, key=key, request_hash=b"")
        receipt = await self._engine.submit(event, claim=claim)
        wait_s = preferred_wait_s(headers.getlist("Prefer"), wait_s_max=self._settings.wait_s_max)
        view = None if wait_s is None else await self._waited(receipt, wait_s)
        if view is None:
            response = json_response(receipt_body(event, receipt), 202)
        else:
            response = json_response(checkout_body(view), 200 if view.is_payment_done else 202)
            response.headers["Preference-Applied"] = f"wait={wait_s}"
        response.headers["Location"] = checkout_path(receipt.checkout_id)
        if not receipt.new:
            response.headers["Idempotent-Replayed"] = "true"
        return response

    async def _waited(self, receipt: Receipt, wait_s: int) -> CheckoutView | None:
        """Return the checkout after the wait; None when it cannot be read, since it is accepted all the same."""
        try:
            return await self._engine.wait(receipt.checkout_id, timeout_s=wait_s)
        except (StoreError, NotFoundError):
            return None

    # --- reading back ----------------------------------------------------------------------------------------

    async def get_payment(self, payment_order_id: str) -> Response:
        """One payment order with its attempts."""
        view = await self._engine.store.order_view(_known_id(payment_order_id))
        if view is None:
            raise _not_found()
        return json_response(payment_body(view))

    async def get_checkout(self, checkout_id: str) -> Response:
        """A checkout with all its payment orders."""
        (view,) = await self._engine.store.checkout_views([_known_id(checkout_id)])
        if view is None:
            raise _not_found()
        return json_response(checkout_body(view))

    async def get_wallets(self, seller_account: str) -> Response:
        """A seller's wallets. What is no IBAN has none."""
        iban = normal_iban(seller_account)
        views = await self._engine.store.wallet_views(iban) if iban else []
        if iban is None or not views:
            raise _not_found()
        return json_response(wallets_body(iban, views))

    async def get_account(self, account_id: str) -> Response:
        """A ledger account with a page of entries, newest first."""
        limit = read_limit(request.args.getlist("limit"), self._settings)
        before_seq = read_cursor(request.args.getlist("cursor"), int)
        view = await self._engine.store.account_view(_known_id(account_id), before_seq=before_seq, limit=limit)
        if view is None:
            raise _not_found()
        following = view.next_before_seq
        return json_response(
            account_body(view, next_cursor=None if following is None else write_cursor(following))
        )

    # --- dead letters ----------------------------------------------------------------------------------------

    async def get_dead_letters(self) -> Response:
        """Open dead letters, oldest first."""
        limit = read_limit(request.args.getlist("limit"), self._settings)
        after = read_cursor(request.args.getlist("cursor"), tuple[int, str])
        # One more than asked for tells whether there is another page.
        views = await self._engine.store.dead_letters(include_closed=False, after=after, limit=limit + 1)
        page = views[:limit]
        more = len(views) > limit
        cursor = write_cursor((page[-1].opened_at, page[-1].payment_order_id)) if more else None
        return json_response(
            DeadLettersBody(dead_letters=tuple([dead_letter_body(view) for view in page]), next_cursor=cursor)
        )

    async def post_retry(self, payment_order_id: str) -> Response:
        """Begin one more attempt of a failed order: 202 with the order as it is now."""
        body = self._retries.decode(await read_body(request, self._settings))
        order = await self._engine.retry(
            _known_id(payment_order_id),
            by=check_text("by", body.by),
            why=check_text("why", body.why, chars_max=1_000),
        )
        response = json_response(order_body(order), 202)
        response.headers["Location"] = payment_path(order.payment_order_id)
        return response


def _known_id(value: str) -> str:
    """Return an id out of a path. One that intake would refuse cannot exist, and the database is not asked."""
    try:
        return check_id("id", value)
    except CallerError:
        raise _not_found() from None


def _not_found() -> NotFoundError:
    return NotFoundError("id", "nothing is known under this id")
