"""The auditor's own power: each invariant is broken by hand, and is told by its name, with the money it costs."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

import tallystick.sim.auditor
from tallystick.engine.intents import AcceptPayment, CreditWallet, PostTransfer, Transition
from tallystick.engine.ledger import capture, wallet_credit
from tallystick.engine.money import Money
from tallystick.engine.order import Method, Order, State
from tallystick.engine.records import (
    AnyRecord,
    AttemptBegun,
    AttemptResolved,
    DeadLettered,
    MismatchOpened,
    Published,
)
from tallystick.engine.views import AttemptView, OutboxEvent
from tallystick.sim import auditor_final, memory_writes
from tallystick.sim.auditor import Auditor
from tallystick.sim.memory_tables import Commit, Tables
from tallystick.sim.psp.model import Payment, Status
from tallystick.sim.verdict import INVARIANTS

T0 = 1_767_225_600_000_000
PRICE = Money(315, "EUR")


class Case:
    """One order, its PSP's payments and its rows, moved by hand under the auditor's eyes."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.auditor = Auditor(self.tables, step=lambda: 7, elapsed_us=lambda: 99)
        self.tables.on_commit = self.auditor.saw_commit
        self.order = Order(
            payment_order_id="o",
            checkout_id="c",
            seller_account="DE89",
            buyer_account="b",
            amount=PRICE,
            method=Method.CARD_TOKEN,
            psp_token="tok_visa",
            created_at=T0,
            state_since=T0,
        )
        intent = AcceptPayment(
            checkout_id="c", buyer_info=b"{}", content_hash=bytes(32), orders=(self.order,), claim=None, at=T0
        )
        memory_writes.accept(self.tables, [intent])
        self.auditor.saw_clearance("o")

    def move(
        self, state: State, *records: AnyRecord, event: str = "Charged", detail: bytes = b"{}", **changes: object
    ) -> None:
        stored = self.tables.orders["o"]
        moved = replace(stored, state=state, version=stored.version + 1, **changes)
        memory_writes.apply(
            self.tables,
            [
                Transition(
                    transition_id=f"t{moved.version}",
                    from_state=stored.state,
                    from_version=stored.version,
                    order=moved,
                    event=event,
                    detail=detail,
                    records=records,
                    at=T0,
                )
            ],
        )

    def begin(self, attempt: int = 1, key: str = "o") -> None:
        row = AttemptBegun(attempt=attempt, psp="alpha", idempotency_key=key, begun_at=T0)
        self.move(State.EXECUTING, row, event="RiskAccepted", psp="alpha", attempt=attempt, sends=1)

    def pay(
        self, status: Status = Status.CHARGED, *, key: str = "o", reference: str = "pay_1", amount: int = 315
    ) -> None:
        payment = Payment(
            psp_reference=reference,
            key=key,
            merchant_reference="o",
            created_at=T0,
            status=status,
            amount=amount,
            currency="EUR",
        )
        self.auditor.saw_payment("alpha", payment)

    def succeed(self, reference: str = "pay_1") -> None:
        row = AttemptResolved(attempt=1, result="Charged", code=None, psp_reference=reference, resolved_at=T0)
        told = Published(kind="payment_order.succeeded")
        self.move(State.SUCCESS, row, told, psp_reference=reference, charged_attempt=1)

    def book(self) -> None:
        memory_writes.post(self.tables, [PostTransfer(transfer=capture(self.tables.orders["o"], at=T0))])
        memory_writes.credit(self.tables, [CreditWallet(entry=wallet_credit(self.tables.orders["o"], at=T0))])

    def fail(self) -> None:
        told = Published(kind="payment_order.failed")
        self.move(State.FAILED, DeadLettered(reason="declined"), told, event="Declined", failure_code="declined")

    def close(self) -> list[str]:
        auditor_final.close(self.auditor)
        return self.told

    @property
    def told(self) -> list[str]:
        return [verdict.invariant for verdict in self.auditor.verdicts]


def paid() -> Case:
    case = Case()
    case.begin()
    case.pay()
    case.succeed()
    case.book()
    return case


def test_a_payment_that_went_well_is_not_accused() -> None:
    assert paid().close() == []


def test_a_failure_that_is_one_is_not_accused() -> None:
    case = Case()
    case.begin()
    case.pay(Status.DECLINED)
    case.fail()
    assert case.close() == []


def test_a_copy_of_a_refused_request_may_be_charged_while_its_key_waits() -> None:
    # Goal: "this send had no effect" says nothing of its copy; that must be in the books at the end.
    case = Case()
    case.begin()
    case.move(State.RETRY_WAIT, event="NotExecuted")
    case.auditor.saw_request("alpha", "o", "o", copy=True)
    case.pay()
    assert case.told == []
    case.succeed()
    case.book()
    assert case.close() == []


@pytest.mark.parametrize("event", ["Declined", "Voided"])
def test_a_copy_excuses_no_other_belief(event: str) -> None:
    case = Case()
    case.begin()
    case.move(State.RETRY_WAIT, event=event)
    case.auditor.saw_request("alpha", "o", "o", copy=True)
    case.pay()
    assert case.told == ["belief_equals_truth"]


def double_charge(case: Case) -> None:
    case.begin()
    case.pay()
    case.pay(key="o2", reference="pay_2")


def lost_charge(case: Case) -> None:
    case.begin()
    case.pay(Status.DECLINED)
    case.fail()
    case.pay()
    auditor_final.close(case.auditor)


def believed_failed(case: Case) -> None:
    case.begin()
    case.pay()
    case.fail()


def believed_charged(case: Case) -> None:
    case.begin()
    case.succeed()


def charged_while_certain_not(case: Case) -> None:
    case.begin()
    case.move(State.RETRY_WAIT, event="NotExecuted")
    case.pay()


def charged_other_amount(case: Case) -> None:
    case.begin()
    case.pay(amount=999)
    case.succeed()


def posted_without_truth(case: Case) -> None:
    case.begin()
    case.succeed()
    case.book()


def posted_twice(case: Case) -> None:
    case.begin()
    case.pay()
    case.succeed()
    case.book()
    again = replace(capture(case.tables.orders["o"], at=T0), cause="again")
    memory_writes.post(case.tables, [PostTransfer(transfer=again)])


def credited_twice(case: Case) -> None:
    case.begin()
    case.pay()
    case.succeed()
    case.book()
    again = replace(wallet_credit(case.tables.orders["o"], at=T0), cause="again")
    memory_writes.credit(case.tables, [CreditWallet(entry=again)])


def illegal_move(case: Case) -> None:
    case.tables.put_order(
        replace(case.order, state=State.SUCCESS, version=1, psp="alpha", charged_attempt=1), at=T0
    )
    case.auditor.saw_commit(Commit(kind="apply", orders=["o"]))


def left_unknown_by_a_timer(case: Case) -> None:
    case.begin()
    case.move(State.UNKNOWN, event="OutcomeLost")
    case.move(State.RETRY_WAIT, event="WakeTimeReached")


def flag_without_posting(case: Case) -> None:
    case.begin()
    case.pay()
    case.succeed()
    case.tables.put_order(replace(case.tables.orders["o"], ledger_updated=True), at=T0)
    case.auditor.saw_commit(Commit(kind="post", orders=["o"]))


def changed_terms(case: Case) -> None:
    case.tables.put_order(replace(case.order, amount=Money(1, "EUR")), at=T0)
    case.auditor.saw_commit(Commit(kind="apply", orders=["o"]))


def sent_before_recorded(case: Case) -> None:
    case.auditor.saw_request("alpha", "o", "o")


def sent_beside_an_open_attempt(case: Case) -> None:
    case.begin()
    case.pay(Status.PENDING)
    case.tables.attempts["o"][2] = replace(case.tables.attempts["o"][1], attempt=2, idempotency_key="o2")
    case.auditor.saw_request("alpha", "o2", "o")


def sent_without_clearance(case: Case) -> None:
    case.order = replace(case.order, payment_order_id="o3")
    case.tables.put_order(case.order, at=T0)
    case.tables.attempts["o3"] = {
        1: AttemptView(
            attempt=1,
            psp="alpha",
            idempotency_key="o3",
            sends=1,
            begun_at=T0,
            last_sent_at=T0,
            result=None,
            code=None,
            psp_reference=None,
            resolved_at=None,
        )
    }
    case.auditor.saw_request("alpha", "o3", "o3")


def two_attempts_under_one_key(case: Case) -> None:
    case.begin()
    case.pay(Status.DECLINED)
    case.move(State.RETRY_WAIT, event="Declined", wake_at=T0)
    case.begin(attempt=2)


def asked_for_more_patience(case: Case) -> None:
    case.begin()
    case.move(State.RETRY_WAIT, event="NotExecuted", detail=b'{"retry_after_us":5}', wake_at=T0 + 4)


def woken_early(case: Case) -> None:
    case.begin()
    case.pay(Status.DECLINED)
    case.move(State.RETRY_WAIT, event="Declined", wake_at=T0 + 1)
    row = AttemptBegun(attempt=2, psp="alpha", idempotency_key="o2", begun_at=T0)
    case.move(State.EXECUTING, row, event="WakeTimeReached", attempt=2, wake_at=None)


def written_by_an_old_owner(case: Case) -> None:
    case.tables.partitions[0].owner = "new"
    case.tables.writer = "old"
    case.begin()


def acknowledged_and_not_there(case: Case) -> None:
    case.auditor.saw_receipt("c9", order_ids=("o9",), at=T0, new=True, amounts={})


def answered_otherwise(case: Case) -> None:
    case.auditor.saw_receipt("c", order_ids=("o",), at=T0 + 5, new=False, amounts={"o": ("3.15", "EUR")})


def acknowledged_other_amount(case: Case) -> None:
    case.auditor.saw_receipt("c", order_ids=("o",), at=T0, new=True, amounts={"o": ("3.16", "EUR")})


def never_delivered(case: Case) -> None:
    case.auditor.receivers.append("shop")
    case.begin()
    case.pay(Status.DECLINED)
    case.fail()
    auditor_final.close(case.auditor)


def delivered_out_of_order(case: Case) -> None:
    def event(position: int) -> OutboxEvent:
        return OutboxEvent(
            position=position,
            event_id=f"e{position}",
            kind="k",
            checkout_id="c",
            payment_order_id="o",
            at=T0,
            payload=b"{}",
        )

    case.auditor.saw_delivery("shop", [event(2)])
    case.auditor.saw_delivery("shop", [event(1)])


def stuck(case: Case) -> None:
    case.begin()
    auditor_final.close(case.auditor)


def nobody_was_told(case: Case) -> None:
    case.begin()
    case.pay(Status.DECLINED)
    case.move(State.FAILED, event="Declined")
    auditor_final.close(case.auditor)


def refund_of_nothing(case: Case) -> None:
    case.begin()
    case.pay()
    alarm = MismatchOpened(
        mismatch_id="m",
        kind="charged_twice",
        attempt=1,
        psp="alpha",
        psp_reference="pay_1",
        amount_minor=315,
        currency="EUR",
        remedy="refund",
    )
    case.move(State.SUCCESS, alarm, psp_reference="pay_1", charged_attempt=1)
    auditor_final.close(case.auditor)


def unbalanced(case: Case) -> None:
    case.begin()
    case.pay()
    case.succeed()
    case.book()
    case.tables.accounts["psp_receivable:alpha:EUR"].debits_minor += 1
    auditor_final.close(case.auditor)


def wallet_off(case: Case) -> None:
    case.begin()
    case.pay()
    case.succeed()
    case.book()
    wallet = case.tables.wallets["DE89", "EUR"]
    case.tables.wallets["DE89", "EUR"] = replace(wallet, available_minor=wallet.available_minor - 1)
    auditor_final.close(case.auditor)


@pytest.mark.parametrize(
    ("breaks", "invariant"),
    [
        (double_charge, "no_double_charge"),
        (sent_without_clearance, "no_charge_without_clearance"),
        (two_attempts_under_one_key, "one_key_one_attempt"),
        (asked_for_more_patience, "waits_are_kept"),
        (woken_early, "waits_are_kept"),
        (written_by_an_old_owner, "old_owner_is_fenced"),
        (lost_charge, "no_lost_charge"),
        (believed_failed, "belief_equals_truth"),
        (believed_charged, "belief_equals_truth"),
        (charged_while_certain_not, "belief_equals_truth"),
        (charged_other_amount, "belief_equals_truth"),
        (posted_without_truth, "ledger_equals_truth"),
        (posted_twice, "ledger_equals_truth"),
        (credited_twice, "wallet_equals_ledger"),
        (wallet_off, "wallet_equals_ledger"),
        (unbalanced, "sums_are_zero"),
        (illegal_move, "legal_moves_only"),
        (left_unknown_by_a_timer, "legal_moves_only"),
        (flag_without_posting, "flags_set_once"),
        (changed_terms, "terms_never_change"),
        (sent_before_recorded, "recorded_before_sent"),
        (sent_beside_an_open_attempt, "one_open_attempt"),
        (acknowledged_and_not_there, "acknowledged_is_durable"),
        (answered_otherwise, "same_key_same_answer"),
        (acknowledged_other_amount, "same_key_same_answer"),
        (never_delivered, "every_event_delivered"),
        (delivered_out_of_order, "every_event_delivered"),
        (nobody_was_told, "every_ending_announced"),
        (refund_of_nothing, "no_refund_of_nothing"),
        (stuck, "nothing_stuck"),
    ],
)
def test_what_is_broken_is_told_by_its_name(breaks: Callable[[Case], None], invariant: str) -> None:
    case = Case()
    breaks(case)
    assert invariant in case.told
    assert set(case.told) <= INVARIANTS.keys()


def test_a_verdict_says_how_much_whose_and_since_when() -> None:
    case = Case()
    double_charge(case)
    verdict = next(one for one in case.auditor.verdicts if one.invariant == "no_double_charge")
    assert (verdict.amount_minor, verdict.currency, verdict.subject) == (315, "EUR", "o")
    assert (verdict.step, verdict.at_us) == (7, 99)


def test_the_same_accusation_is_made_once() -> None:
    case = Case()
    double_charge(case)
    case.pay(key="o3", reference="pay_3")
    assert case.told.count("no_double_charge") == 1


def test_a_psp_that_contradicts_itself_is_not_our_double_charge() -> None:
    # Goal: no false alarm. The PSP declined pay_1, then charged it; pay_2 was charged in good faith.
    case = Case()
    case.begin()
    case.pay(Status.DECLINED)
    case.move(State.RETRY_WAIT, event="Declined")
    case.begin(2, "o2")
    case.pay(key="o2", reference="pay_2")
    case.succeed("pay_2")
    case.book()
    case.pay()
    alarm = MismatchOpened(
        mismatch_id="m",
        kind="charged_after_declined",
        attempt=1,
        psp="alpha",
        psp_reference="pay_1",
        amount_minor=315,
        currency="EUR",
        remedy="refund",
    )
    case.move(State.SUCCESS, alarm)
    assert case.close() == []


@pytest.mark.parametrize("name", ["auditor.py", "auditor_final.py", "verdict.py"])
def test_the_auditor_knows_nothing_of_the_engines_rules(name: str) -> None:
    source = (Path(tallystick.sim.auditor.__file__).parent / name).read_text()
    imported = {node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    allowed = {"tallystick.engine.money", "tallystick.engine.order", "tallystick.engine.views"}
    assert {module for module in imported if module.startswith("tallystick.engine")} <= allowed
    assert not [module for module in imported if module.startswith(("tallystick.actors", "tallystick.storage"))]


def test_every_invariant_but_those_of_whole_runs_is_tried_here() -> None:
    tried = {pair[1] for pair in test_what_is_broken_is_told_by_its_name.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert INVARIANTS.keys() - tried == {"engine_stays_up", "stores_agree"}
