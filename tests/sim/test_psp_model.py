"""The simulated PSP behaves as real ones do, by key, by reference and in time; its hidden ledger is the truth."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.engine.money import Money
from tallystick.sim.psp.model import (
    DAY_US,
    KeyReused,
    PageAction,
    Payment,
    Refused,
    Reply,
    SimulatedPsp,
    Status,
    Throttled,
)
from tallystick.sim.psp.tokens import TOKENS, Manners, Outcome, treatment
from tallystick.sim.psp.units import decimal, from_iso, to_iso

NOW = 1_700_000_000_000_000
SECOND = 1_000_000


def charge(psp: SimulatedPsp, token: str = "tok_visa", **changes: Any) -> Reply:
    arguments: dict[str, Any] = {
        "key": "k1",
        "merchant_reference": "order-1",
        "amount": 315,
        "currency": "EUR",
        "token": token,
        "now": NOW,
        "draw": "page-1",
    }
    return psp.charge(**(arguments | changes))


def paid(reply: object) -> Payment:
    assert isinstance(reply, Payment)
    return reply


def test_a_key_is_charged_once_and_its_answer_replayed() -> None:
    psp = SimulatedPsp()
    first = charge(psp)
    again = charge(psp, now=NOW + DAY_US - 1)
    assert first == again
    assert [capture.amount for capture in psp.truth()] == [315]


def test_a_saved_decline_is_replayed_too() -> None:
    psp = SimulatedPsp()
    first = paid(charge(psp, "tok_insufficient_funds_once"))
    assert (first.status, first.code, first.soft) == (Status.DECLINED, "insufficient_funds", True)
    assert charge(psp, "tok_insufficient_funds_once") == first
    assert paid(charge(psp, "tok_insufficient_funds_once", key="k2")).status is Status.CHARGED


@pytest.mark.parametrize(
    "other", [{"amount": 316}, {"currency": "USD"}, {"token": "tok_mastercard"}, {"merchant_reference": "order-2"}]
)
def test_a_key_with_another_body_is_refused_and_changes_nothing(other: dict[str, Any]) -> None:
    psp = SimulatedPsp()
    charge(psp)
    before = psp.fingerprint()
    assert isinstance(charge(psp, **other), KeyReused)
    assert psp.fingerprint() == before


def test_an_expired_key_charges_again_which_is_why_rule_five_exists() -> None:
    psp = SimulatedPsp(key_lifetime_us=DAY_US)
    charge(psp)
    charge(psp, now=NOW + DAY_US)
    assert len(psp.truth()) == 2
    assert len(psp.attempts("order-1", now=NOW + DAY_US)) == 2


def test_an_inquiry_after_the_key_expired_finds_the_charge_among_later_declines() -> None:
    psp = SimulatedPsp(key_lifetime_us=SECOND)
    first = charge(psp)
    charge(psp, "tok_declined", now=NOW + 2 * SECOND)
    assert psp.inquire(key="k1", merchant_reference="order-1", now=NOW + 3 * SECOND) == first


def test_an_unseen_key_that_is_voided_stays_dead_for_ever() -> None:
    psp = SimulatedPsp()
    assert paid(psp.void(key="k1", merchant_reference="order-1", now=NOW)).status is Status.VOIDED
    assert paid(charge(psp, now=NOW + 400 * DAY_US)).status is Status.VOIDED
    assert psp.truth() == ()


def test_a_void_that_comes_too_late_says_what_happened() -> None:
    psp = SimulatedPsp()
    charge(psp)
    charge(psp, "tok_stolen", key="k2")
    charge(psp, "tok_pending_5s", key="k3")
    statuses = [paid(psp.void(key=k, merchant_reference="order-1", now=NOW)).status for k in ("k1", "k2", "k3")]
    assert statuses == [Status.CHARGED, Status.DECLINED, Status.PENDING]
    assert isinstance(psp.void(key="k1", merchant_reference="order-2", now=NOW), KeyReused)


def test_inquiry_knows_nothing_of_other_keys_and_references() -> None:
    psp = SimulatedPsp()
    charge(psp)
    assert psp.inquire(key="k2", merchant_reference="order-1", now=NOW) is None
    assert psp.inquire(key="k1", merchant_reference="order-2", now=NOW) is None


def test_a_pending_charge_completes_at_its_time_whoever_looks_later() -> None:
    psp = SimulatedPsp()
    assert paid(charge(psp, "tok_pending_5s")).status is Status.PENDING
    charge(psp, "tok_pending_then_declined", key="k2")
    assert psp.truth() == ()
    assert psp.next_due_at() == NOW + 5 * SECOND
    psp.advance(NOW + 60 * SECOND)
    assert [(capture.key, capture.at) for capture in psp.truth()] == [("k1", NOW + 5 * SECOND)]
    late = psp.inquire(key="k2", merchant_reference="order-1", now=NOW + 60 * SECOND)
    assert late is not None
    assert (late.status, late.code) == (Status.DECLINED, "card_declined")


def test_a_page_can_be_paid_once_and_a_closed_one_never() -> None:
    psp = SimulatedPsp(page_lifetime_us=10 * SECOND)
    for key in ("paid", "closed", "expired", "declined", "left"):
        psp.register(key=key, merchant_reference=key, amount=500, currency="JPY", now=NOW, draw=key)
    for _ in range(2):
        assert paid(psp.act("paid", PageAction.PAY, now=NOW + SECOND)).status is Status.CHARGED
    assert paid(psp.act("left", PageAction.ABANDON, now=NOW + SECOND)).status is Status.ACTION_REQUIRED
    assert paid(psp.act("left", PageAction.PAY, now=NOW + 2 * SECOND)).status is Status.CHARGED
    psp.void(key="closed", merchant_reference="closed", now=NOW + SECOND)
    assert paid(psp.act("closed", PageAction.PAY, now=NOW + SECOND)).status is Status.VOIDED
    assert paid(psp.act("declined", PageAction.DECLINE, now=NOW + SECOND)).status is Status.DECLINED
    assert paid(psp.act("expired", PageAction.PAY, now=NOW + 10 * SECOND)).status is Status.VOIDED
    assert psp.act("never given out", PageAction.PAY, now=NOW) is None
    assert [capture.key for capture in psp.truth()] == ["paid", "left"]


def test_a_page_registered_twice_under_its_nonce_is_one_page() -> None:
    psp = SimulatedPsp()
    first, second = (
        psp.register(key="k", merchant_reference="o", amount=1, currency="EUR", now=NOW, draw=draw)
        for draw in ("a", "b")
    )
    assert paid(first).page == paid(second).page == "a"


def test_throttling_leaves_no_trace_under_the_key() -> None:
    psp = SimulatedPsp()
    assert charge(psp, "tok_429_once") == Throttled(retry_after_us=SECOND)
    assert psp.inquire(key="k1", merchant_reference="order-1", now=NOW) is None
    assert paid(charge(psp, "tok_429_once")).status is Status.CHARGED
    assert charge(psp, "tok_not_executed", key="k9") == Throttled(retry_after_us=None)


@pytest.mark.parametrize(
    ("amount", "currency", "code"),
    [
        (0, "EUR", "amount_out_of_range"),
        (-1, "EUR", "amount_out_of_range"),
        (100, "XAU", "currency_not_supported"),
        (100, "eur", "currency_not_supported"),
        (1001, "KWD", "amount_not_supported"),
        (150, "ISK", "amount_not_supported"),
    ],
)
def test_amounts_that_the_psp_does_not_take(amount: int, currency: str, code: str) -> None:
    psp = SimulatedPsp()
    assert charge(psp, amount=amount, currency=currency) == Refused(code=code)
    assert paid(charge(psp)).status is Status.CHARGED  # The refusal was not saved under the key.


def test_every_magic_token_does_what_its_table_says() -> None:
    for number, (name, how) in enumerate(TOKENS.items()):
        psp = SimulatedPsp()
        reply = charge(psp, name, key=f"k{number}")
        if isinstance(reply, Throttled):
            assert how.outcome in {Outcome.THROTTLE, Outcome.THROTTLE_ONCE}
            continue
        expected = {
            Outcome.CHARGE: Status.CHARGED,
            Outcome.DECLINE: Status.DECLINED,
            Outcome.DECLINE_FIRST: Status.DECLINED,
            Outcome.PEND: Status.PENDING,
            Outcome.PEND_DECLINE: Status.PENDING,
            Outcome.CHALLENGE: Status.ACTION_REQUIRED,
        }
        assert paid(reply).status is expected[how.outcome]
    unknown = paid(charge(SimulatedPsp(), "tok_nobody_knows"))
    assert (unknown.status, unknown.code, unknown.soft) == (Status.DECLINED, "invalid_token", False)


def test_a_request_is_lost_only_while_the_psp_knows_nothing_of_the_order() -> None:
    psp, how = SimulatedPsp(), treatment("tok_timeout_lost")
    assert how.manners is Manners.LOSE_REQUEST
    assert psp.loses(how, "order-1")
    psp.void(key="k1", merchant_reference="order-1", now=NOW)
    assert not psp.loses(how, "order-1")


@pytest.mark.parametrize(
    ("money", "units"),
    [(Money(5, "ISK"), 500), (Money(7, "UGX"), 700), (Money(5, "JPY"), 5), (Money(5, "EUR"), 5)],
)
def test_the_psps_units(money: Money, units: int) -> None:
    assert from_iso(money) == units
    assert to_iso(units, money.currency) == money
    assert decimal(units, money.currency) == money.decimal()


# --- any sequence of calls ---------------------------------------------------------------------------------------

LIFETIME = 10 * SECOND
_calls = st.lists(
    st.tuples(
        st.sampled_from(["charge", "void", "inquire", "register", "pay", "decline", "wait"]),
        st.sampled_from(["k1", "k2", "k3"]),
        st.sampled_from([*TOKENS, "tok_unknown"]),
        st.integers(0, 7 * SECOND),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(_calls)
def test_truth_and_answers_agree_whatever_is_asked(calls: list[tuple[str, str, str, int]]) -> None:
    """At most one capture per key and lifetime; every answer matches the ledger; a rerun and a replay agree."""
    records: list[Any] = []
    psp = SimulatedPsp(key_lifetime_us=LIFETIME, page_lifetime_us=4 * SECOND, on_change=records.append)
    now = NOW
    for number, (kind, key, token, wait) in enumerate(calls):
        now += wait if kind == "wait" else 1
        before, captures = psp.snapshot(), psp.truth()
        reply = _perform(psp, (kind, key, token), now=now, number=number)
        assert psp.truth()[: len(captures)] == captures
        if isinstance(reply, Payment):
            taken = [capture for capture in psp.truth() if capture.psp_reference == reply.psp_reference]
            assert len(taken) == (reply.status is Status.CHARGED)
        if kind == "inquire" and reply is None:
            assert not [capture for capture in psp.truth() if capture.key == key]
        other = SimulatedPsp(key_lifetime_us=LIFETIME, page_lifetime_us=4 * SECOND)
        other.restore(before)
        assert _perform(other, (kind, key, token), now=now, number=number) == reply
        assert other.fingerprint() == psp.fingerprint()
    for key in ("k1", "k2", "k3"):
        born = [p.created_at for p in psp.state.payments.values() if p.key == key and p.charged_at is not None]
        assert all(later - earlier >= LIFETIME for earlier, later in pairwise(born))
    replayed = SimulatedPsp(key_lifetime_us=LIFETIME)
    for record in records:
        replayed.apply(record)
    replayed.advance(now + DAY_US)
    psp.advance(now + DAY_US)
    assert replayed.fingerprint() == psp.fingerprint()


def _perform(psp: SimulatedPsp, call: tuple[str, str, str], *, now: int, number: int) -> object:
    kind, key, token = call
    reference = "order-1"
    match kind:
        case "charge":
            return charge(psp, token, key=key, now=now, draw=f"page-{number}")
        case "register":
            return psp.register(
                key=key, merchant_reference=reference, amount=315, currency="EUR", now=now, draw=f"page-{number}"
            )
        case "void":
            return psp.void(key=key, merchant_reference=reference, now=now)
        case "inquire":
            return psp.inquire(key=key, merchant_reference=reference, now=now)
        case "pay" | "decline":
            return psp.act(f"page-{max(0, number - 1)}", PageAction(kind), now=now)
        case _:
            psp.advance(now)
            return None
