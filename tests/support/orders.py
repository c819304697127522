"""Payment orders, events and contexts for tests: each builder gives a plausible one, but for what is named."""

from typing import Any

from msgspec.structs import replace

from tallystick.engine.events import Charged, DeclineClass, Declined, Source
from tallystick.engine.money import Money
from tallystick.engine.order import Method, Order, State
from tallystick.engine.records import Context, Decision, Ignored, Outcome
from tallystick.engine.retry import MINUTE_US, PspPolicy

T0 = 1_700_000_000_000_000
PSP = "psp-a"
AMOUNT = Money(1000, "EUR")

_IN_FLIGHT = {"psp": PSP, "attempt": 1, "sends": 1, "attempt_begun_at": T0, "last_sent_at": T0}
_BY_STATE: dict[State, dict[str, Any]] = {
    State.NOT_STARTED: {},
    State.IN_REVIEW: {"wake_at": T0 + MINUTE_US},
    State.EXECUTING: _IN_FLIGHT,
    State.AWAITING_BUYER: _IN_FLIGHT
    | {
        "wake_at": T0 + MINUTE_US,
        "next_action_url": "https://psp.example/page",
        "next_action_expires_at": T0 + 30 * MINUTE_US,
    },
    State.PENDING: _IN_FLIGHT | {"wake_at": T0 + MINUTE_US},
    State.UNKNOWN: _IN_FLIGHT | {"wake_at": T0 + MINUTE_US},
    State.RETRY_WAIT: _IN_FLIGHT
    | {"wake_at": T0 + MINUTE_US, "declines": 1, "failure_code": "insufficient_funds"},
    State.SUCCESS: _IN_FLIGHT | {"charged_attempt": 1, "psp_reference": "ch_1"},
    State.FAILED: _IN_FLIGHT | {"declines": 1, "failure_code": "stolen_card"},
    State.CANCELLED: {"failure_code": "cancelled"},
}


def an_order(state: State = State.NOT_STARTED, **changes: Any) -> Order:
    """Return an order that stands in `state`."""
    order = Order(
        payment_order_id="po-1",
        checkout_id="co-1",
        seller_account="DE89370400440532013000",
        buyer_account="",
        amount=AMOUNT,
        method=Method.CARD_TOKEN,
        psp_token="tok_visa",
        created_at=T0,
        state_since=T0,
    )
    return replace(order, **({"state": state, "version": 3} | _BY_STATE[state] | changes))


def a_context(now: int = T0, *, policy: PspPolicy | None = None, jitter: int = 0, route: str = PSP) -> Context:
    """Return what a decision may know beside order and event."""
    return Context(now=now, jitter=jitter, policy=policy or PspPolicy(), route=route)


def charged(
    attempt: int = 1, *, psp: str = PSP, reference: str | None = "ch_1", amount: Money = AMOUNT
) -> Charged:
    """Return a webhook that says: charged."""
    return Charged(source=Source.WEBHOOK, psp=psp, attempt=attempt, psp_reference=reference, amount=amount)


def declined(
    attempt: int = 1, *, psp: str = PSP, hard: bool = False, retry_after_us: int | None = None
) -> Declined:
    """Return a response that says: declined, softly unless told otherwise."""
    return Declined(
        source=Source.RESPONSE,
        psp=psp,
        attempt=attempt,
        code="stolen_card" if hard else "insufficient_funds",
        decline_class=DeclineClass.HARD if hard else DeclineClass.SOFT,
        retry_after_us=retry_after_us,
    )


def decided(outcome: Outcome) -> Decision:
    """Return the decision; fails when the event was ignored."""
    assert isinstance(outcome, Decision), outcome
    return outcome


def ignored(outcome: Outcome) -> str:
    """Return why the event was ignored; fails when it was not."""
    assert isinstance(outcome, Ignored), outcome
    return outcome.why
