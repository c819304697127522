"""The simulated PSP: a deterministic state machine with a hidden ledger. No I/O, no clock, no randomness.

Theory of operation
-------------------
A PSP keeps a `Payment` for each idempotency key that reached it. The first request under a key decides it; every
later one with the same body gets the saved result, declines included; one with another body is refused. A key
is remembered for `key_lifetime_us` from its first use: after that the same key is a new one, and *charges again*,
as at real PSPs. A void kills a key for ever: unseen, it leaves a tombstone, so that a charge which arrives later
is answered `VOIDED`; a key that has charged, was declined or is being processed is answered with that.

A payment ends in one of three statuses, and only two things happen to it by themselves, both when their time
`due_at` has come: a pending one becomes what `then` says, a page expires. `advance` does both, in order of time.

The hidden ledger is the list of captures: the truth by which others are judged. It only grows.

The whole state is `PspState`: dicts of frozen structs, so a shallow copy is a snapshot. Each change is one record
(`Payment` or `ThrottledOnce`); applied in order to an empty model, the records give the same state again, which
is how the journal works. Network faults are not in here; whoever delivers the messages makes them.
"""

from collections.abc import Callable
from hashlib import blake2b
from heapq import heapify, heappop, heappush

import msgspec
from msgspec.structs import replace

from tallystick.sim.psp.records import (
    Capture,
    Change,
    KeyReused,
    PageAction,
    Payment,
    PspState,
    Refused,
    Reply,
    Status,
    Throttled,
    ThrottledOnce,
)
from tallystick.sim.psp.tokens import Manners, Outcome, Token, treatment
from tallystick.sim.psp.units import refusal

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000

__all__ = [
    "Capture",
    "Change",
    "KeyReused",
    "PageAction",
    "Payment",
    "PspState",
    "Refused",
    "Reply",
    "SimulatedPsp",
    "Status",
    "Throttled",
    "ThrottledOnce",
]


class SimulatedPsp:
    """The model. All times are integer microseconds, passed in as `now`; so is every draw."""

    def __init__(
        self,
        *,
        name: str = "simulated",
        key_lifetime_us: int = DAY_US,
        page_lifetime_us: int = 30 * MINUTE_US,
        on_change: Callable[[Change], None] | None = None,
    ) -> None:
        """Make an empty PSP. `on_change` is told every change, in order, before the call returns."""
        self.name = name
        self.key_lifetime_us = key_lifetime_us
        self.page_lifetime_us = page_lifetime_us
        self.on_change = on_change
        self.state = PspState()

    # --- requests ----------------------------------------------------------------------------------------------

    def charge(
        self,
        *,
        key: str,
        merchant_reference: str,
        amount: int,
        currency: str,
        token: str,
        now: int,
        draw: str = "",
    ) -> Reply:
        """Charge a token. `draw` names the page if the token asks for one: unguessable, and new each time."""
        self.advance(now)
        saved = self._saved(key, now)
        if saved is not None:
            return self._replay(saved, merchant_reference, amount, currency, token)
        code = refusal(amount, currency)
        if code is not None:
            return Refused(code=code)
        how = treatment(token)
        if how.outcome is Outcome.THROTTLE or self._throttles_once(how, merchant_reference):
            return Throttled(retry_after_us=how.delay_us or None)
        payment = Payment(
            psp_reference=self._reference(key, now),
            key=key,
            merchant_reference=merchant_reference,
            amount=amount,
            currency=currency,
            token=token,
            created_at=now,
            status=Status.CHARGED,
            charged_at=now,
        )
        return self._put(self._decided(payment, how, now, draw))

    def register(
        self,
        *,
        key: str,
        merchant_reference: str,
        amount: int,
        currency: str,
        now: int,
        draw: str,
        return_url: str | None = None,
    ) -> Reply:
        """Open a hosted page, under `key` as nonce. `draw` names the page: unguessable, and new each time."""
        self.advance(now)
        saved = self._saved(key, now)
        if saved is not None:
            return self._replay(saved, merchant_reference, amount, currency, None)
        code = refusal(amount, currency)
        if code is not None:
            return Refused(code=code)
        payment = Payment(
            psp_reference=self._reference(key, now),
            key=key,
            merchant_reference=merchant_reference,
            amount=amount,
            currency=currency,
            created_at=now,
            status=Status.ACTION_REQUIRED,
            due_at=now + self.page_lifetime_us,
            page=draw,
            return_url=return_url,
        )
        return self._put(payment)

    def inquire(self, *, key: str, merchant_reference: str, now: int) -> Payment | None:
        """Return what is known under a key, or None. Of several (the key had expired) a charged one."""
        found = [payment for payment in self.attempts(merchant_reference, now=now) if payment.key == key]
        charged = [payment for payment in found if payment.status is Status.CHARGED]
        return charged[0] if charged else found[-1] if found else None

    def attempts(self, merchant_reference: str, *, now: int) -> list[Payment]:
        """Return every payment with a merchant reference, oldest first; keys that have expired, too."""
        self.advance(now)
        return [self.state.payments[ref] for ref in self.state.attempts.get(merchant_reference, ())]

    def void(self, *, key: str, merchant_reference: str, now: int) -> Payment | KeyReused:
        """Kill a key, seen or unseen; or answer what has become of it, when it is too late for that."""
        self.advance(now)
        reference = self.state.keys.get(key)
        if reference is None:
            tombstone = Payment(
                psp_reference=self._reference(key, now),
                key=key,
                merchant_reference=merchant_reference,
                created_at=now,
                status=Status.VOIDED,
            )
            return self._put(tombstone)
        payment = self.state.payments[reference]
        if payment.merchant_reference != merchant_reference:
            return KeyReused()
        if payment.status is Status.ACTION_REQUIRED:
            return self._put(replace(payment, status=Status.VOIDED, due_at=None))
        return payment

    # --- the buyer's page ----------------------------------------------------------------------------------------

    def page(self, page: str, *, now: int) -> Payment | None:
        """Return the payment behind a page."""
        self.advance(now)
        reference = self.state.pages.get(page)
        return None if reference is None else self.state.payments[reference]

    def act(self, page: str, action: PageAction, *, now: int) -> Payment | None:
        """Do what the buyer does on a page; on one that is decided or has expired, nothing."""
        payment = self.page(page, now=now)
        if payment is None or payment.status is not Status.ACTION_REQUIRED or action is PageAction.ABANDON:
            return payment
        if action is PageAction.PAY:
            return self._put(replace(payment, status=Status.CHARGED, charged_at=now, due_at=None))
        code = "card_declined" if payment.token is None else "authentication_failed"
        return self._put(replace(payment, status=Status.DECLINED, code=code, due_at=None))

    # --- time, truth, memory -------------------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Let everything happen that is due by `now`."""
        due = self.state.due
        while due and due[0][0] <= now:
            at, reference = heappop(due)
            payment = self.state.payments[reference]
            if payment.due_at != at:
                continue  # Decided in the meantime, by the buyer or by a void.
            if payment.status is Status.ACTION_REQUIRED:
                self._put(replace(payment, status=Status.VOIDED, due_at=None))
            elif payment.then is Status.CHARGED:
                self._put(replace(payment, status=Status.CHARGED, charged_at=at, due_at=None, then=None))
            else:
                self._put(replace(payment, status=Status.DECLINED, due_at=None, then=None))

    def next_due_at(self) -> int | None:
        """Return when `advance` has something to do next, or earlier; None for never."""
        return self.state.due[0][0] if self.state.due else None

    def truth(self) -> tuple[Capture, ...]:
        """Return the hidden ledger, in the order of capture. Call `advance` first to include what is due."""
        return tuple(self.state.captures)

    def knows(self, merchant_reference: str) -> bool:
        """Say whether any attempt of a merchant reference has left a trace."""
        return merchant_reference in self.state.attempts

    def loses(self, how: Token, merchant_reference: str) -> bool:
        """Say whether a magic token's request gets no further than the door this time."""
        early = how.manners is Manners.LOSE_REQUEST or how.manners is Manners.ERROR_BEFORE
        return early and not self.knows(merchant_reference)

    @staticmethod
    def hides(how: Token, reply: Reply) -> bool:
        """Say whether a magic token keeps this reply, a charge, from the client."""
        late = how.manners is Manners.LOSE_RESPONSE or how.manners is Manners.ERROR_AFTER
        return late and isinstance(reply, Payment) and reply.status is Status.CHARGED

    def apply(self, change: Change) -> None:
        """Take over a change that was recorded before, without telling anyone."""
        if isinstance(change, ThrottledOnce):
            self.state.throttled[change.merchant_reference] = None
            return
        state, reference = self.state, change.psp_reference
        before = state.payments.get(reference)
        state.payments[reference] = change
        if before is None:
            state.keys[change.key] = reference
            state.attempts[change.merchant_reference] = (
                *state.attempts.get(change.merchant_reference, ()),
                reference,
            )
            if change.page is not None:
                state.pages[change.page] = reference
            if change.due_at is not None:
                heappush(state.due, (change.due_at, reference))
        if change.charged_at is not None and (before is None or before.charged_at is None):
            state.captures.append(
                Capture(
                    psp_reference=reference,
                    key=change.key,
                    merchant_reference=change.merchant_reference,
                    amount=change.amount,
                    currency=change.currency,
                    at=change.charged_at,
                )
            )

    def snapshot(self) -> PspState:
        """Return a copy of the state that later calls do not touch."""
        state = self.state
        return PspState(
            payments=state.payments.copy(),
            keys=state.keys.copy(),
            attempts=state.attempts.copy(),
            pages=state.pages.copy(),
            throttled=state.throttled.copy(),
            captures=state.captures.copy(),
            due=state.due.copy(),
        )

    def restore(self, state: PspState) -> None:
        """Go back to a snapshot, which must not be used again."""
        heapify(state.due)
        self.state = state

    def fingerprint(self) -> bytes:
        """Return a digest of the whole state, the same in every process that saw the same calls."""
        return blake2b(msgspec.msgpack.encode(self.state), digest_size=16).digest()

    # --- inside --------------------------------------------------------------------------------------------------

    def _saved(self, key: str, now: int) -> Payment | None:
        """Return what a key is bound to, unless it has been forgotten. The dead stay dead."""
        reference = self.state.keys.get(key)
        if reference is None:
            return None
        payment = self.state.payments[reference]
        if payment.status is Status.VOIDED or now < payment.created_at + self.key_lifetime_us:
            return payment
        return None

    @staticmethod
    def _replay(
        saved: Payment, merchant_reference: str, amount: int, currency: str, token: str | None
    ) -> Payment | KeyReused:
        if saved.status is Status.VOIDED and saved.merchant_reference == merchant_reference:
            return saved  # A tombstone has seen no body to compare with.
        same = (
            saved.merchant_reference == merchant_reference
            and saved.amount == amount
            and saved.currency == currency
            and saved.token == token
        )
        return saved if same else KeyReused()

    def _throttles_once(self, how: Token, merchant_reference: str) -> bool:
        if how.outcome is not Outcome.THROTTLE_ONCE or merchant_reference in self.state.throttled:
            return False
        change = ThrottledOnce(merchant_reference=merchant_reference)
        self.apply(change)
        if self.on_change is not None:
            self.on_change(change)
        return True

    def _decided(self, payment: Payment, how: Token, now: int, draw: str) -> Payment:
        """Return a new payment as the issuer decides it. It comes in as charged, the usual case."""
        match how.outcome:
            case Outcome.DECLINE:
                return self._declined(payment, how)
            case Outcome.DECLINE_FIRST if not self.knows(payment.merchant_reference):
                return self._declined(payment, how)
            case Outcome.PEND | Outcome.PEND_DECLINE:
                then = Status.CHARGED if how.outcome is Outcome.PEND else Status.DECLINED
                return replace(
                    payment,
                    status=Status.PENDING,
                    charged_at=None,
                    code=how.code,
                    due_at=now + how.delay_us,
                    then=then,
                )
            case Outcome.CHALLENGE:
                return replace(
                    payment,
                    status=Status.ACTION_REQUIRED,
                    charged_at=None,
                    page=draw,
                    due_at=now + self.page_lifetime_us,
                )
            case _:
                return payment

    @staticmethod
    def _declined(payment: Payment, how: Token) -> Payment:
        return replace(payment, status=Status.DECLINED, charged_at=None, code=how.code, soft=how.soft)

    def _put(self, payment: Payment) -> Payment:
        self.apply(payment)
        if self.on_change is not None:
            self.on_change(payment)
        return payment

    def _reference(self, key: str, now: int) -> str:
        """Return a new PSP reference: opaque, and not repeated by a PSP that begins again with nothing."""
        seed = f"{self.name}\n{len(self.state.payments)}\n{now}\n{key}".encode()
        return f"pay_{blake2b(seed, digest_size=12).hexdigest()}"
