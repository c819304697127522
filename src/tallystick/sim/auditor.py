"""The auditor: an independent model of the money, which watches while a run goes on.

It knows nothing of the engine's rules: it may not import the transition table, the decisions or the ledger's rules
(a test forbids it). It sees the PSPs' hidden ledgers and the rows of the store, and the two it compares, with
rules of its own, taken from the design's text. What is cheap it checks after every commit and every call; the rest
at the end (`auditor_final`).

On contradictions: a PSP that declines an attempt and charges it later breaks its word, and no engine can prevent
the second charge then. Such a capture is marked by the PSP's own history, and must be booked or stand in a
mismatch at the end; every other second capture is a double charge.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.views import LogEntry, OutboxEvent
from tallystick.sim.memory_tables import Commit, Tables, WalletEntryRow
from tallystick.sim.psp.model import Payment, Status
from tallystick.sim.psp.units import to_iso
from tallystick.sim.verdict import Verdict

S = State

# By hand, from the table in DESIGN section 5: what each state is "left by", and where that may lead.
LEGAL_MOVES: dict[State, frozenset[State]] = {
    S.NOT_STARTED: frozenset({S.EXECUTING, S.IN_REVIEW, S.FAILED, S.CANCELLED}),
    S.IN_REVIEW: frozenset({S.EXECUTING, S.FAILED, S.CANCELLED}),
    S.EXECUTING: frozenset(
        {S.SUCCESS, S.FAILED, S.RETRY_WAIT, S.PENDING, S.AWAITING_BUYER, S.UNKNOWN, S.CANCELLED}
    ),
    S.AWAITING_BUYER: frozenset({S.SUCCESS, S.FAILED, S.RETRY_WAIT, S.PENDING, S.UNKNOWN, S.CANCELLED}),
    S.PENDING: frozenset({S.SUCCESS, S.FAILED, S.RETRY_WAIT, S.AWAITING_BUYER, S.UNKNOWN, S.CANCELLED}),
    S.UNKNOWN: frozenset(
        {S.SUCCESS, S.FAILED, S.RETRY_WAIT, S.PENDING, S.AWAITING_BUYER, S.EXECUTING, S.CANCELLED}
    ),
    S.RETRY_WAIT: frozenset(
        {S.EXECUTING, S.SUCCESS, S.FAILED, S.CANCELLED, S.PENDING, S.AWAITING_BUYER, S.UNKNOWN}
    ),
    S.SUCCESS: frozenset(),
    S.FAILED: frozenset({S.EXECUTING, S.UNKNOWN}),
    S.CANCELLED: frozenset(),
}
# "Evidence only, never a timer."
_TIMERS = frozenset({"WakeTimeReached", "EngineRestarted"})
_CERTAINLY_NOT_CHARGED = frozenset({S.NOT_STARTED, S.IN_REVIEW, S.RETRY_WAIT, S.FAILED, S.CANCELLED})
_MAY_STILL_CHARGE = frozenset({Status.CHARGED, Status.PENDING, Status.ACTION_REQUIRED})


class _Asked(msgspec.Struct):
    """What an event says of waiting."""

    retry_after_us: int | None = None


_RETRY_AFTER = msgspec.json.Decoder(_Asked).decode

# One bug breaks many invariants of many orders; the first ones tell the story.
_VERDICTS_MAX = 50


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """Money that a PSP took, by its own hidden ledger."""

    psp: str
    key: str
    reference: str
    amount: Money
    contradictory: bool
    """The PSP had declined this very attempt before."""
    step: int


class Seen(msgspec.Struct):
    """An order as the auditor saw it last."""

    order: Order
    log_length: int = 0


class Auditor:
    """Watches one run."""

    def __init__(self, tables: Tables, *, step: Callable[[], int], elapsed_us: Callable[[], int]) -> None:
        """`step` returns the number of the trace's latest step."""
        self.tables = tables
        self.verdicts: list[Verdict] = []
        self.captures: dict[str, list[Captured]] = {}
        """By payment order, in the order in which they happened."""
        self.posted: dict[str, int] = {}
        self.credited: dict[str, int] = {}
        self.debits: dict[str, int] = {}
        self.credits: dict[str, int] = {}
        self.acknowledged: dict[str, tuple[tuple[str, ...], int]] = {}
        self.delivered: dict[str, dict[str, int]] = {}
        """By receiver: the position of every event that it got."""
        self.receivers: list[str] = []
        self._payments: dict[str, dict[str, tuple[str, Payment]]] = {}
        """By payment order and PSP reference: the PSP and the payment as it stands."""
        self._declined: set[tuple[str, str]] = set()
        self._copied: set[tuple[str, str]] = set()
        """PSP and key of requests of which a copy, doubled by the wire, has arrived."""
        self._seen: dict[str, Seen] = {}
        self._cleared: set[str] = set()
        self._told: set[tuple[str, str]] = set()
        self._new_acknowledged: set[str] = set()
        self._step = step
        self._elapsed_us = elapsed_us

    def accuse(
        self, invariant: str, subject: str, detail: str, *, money: Money | None = None, step: int | None = None
    ) -> None:
        """Note a broken invariant, once per subject."""
        if (invariant, subject) in self._told or len(self.verdicts) >= _VERDICTS_MAX:
            return
        self._told.add((invariant, subject))
        self.verdicts.append(
            Verdict(
                invariant=invariant,
                subject=subject,
                detail=detail,
                amount_minor=money.minor if money is not None else 0,
                currency=money.currency if money is not None else "",
                step=self._step() if step is None else step,
                at_us=self._elapsed_us(),
            )
        )

    # --- the truth: what happens at the PSPs -------------------------------------------------------------------

    def saw_clearance(self, order_id: str) -> None:
        """The risk check, or the person whom it called, has let an order pass."""
        self._cleared.add(order_id)

    def saw_request(self, psp: str, key: str, order_id: str, *, copy: bool = False) -> None:
        """A request to charge has arrived at a PSP, which has not acted on it yet; perhaps only a `copy`."""
        if copy:
            self._copied.add((psp, key))
        attempts = self.tables.attempts.get(order_id, {})
        if not any(row.idempotency_key == key and row.psp == psp for row in attempts.values()):
            self.accuse(
                "recorded_before_sent", order_id, f"{psp} got a request with key {key}, of which we know nothing"
            )
        if order_id not in self._cleared:
            self.accuse("no_charge_without_clearance", order_id, f"{psp} got a request, and nobody let it pass")
        payments = self._payments.get(order_id, {}).values()
        if any(payment.key == key for _, payment in payments):
            return
        for where, payment in payments:
            contradictory = (where, payment.psp_reference) in self._declined
            if payment.status in _MAY_STILL_CHARGE and not contradictory:
                self.accuse(
                    "one_open_attempt",
                    order_id,
                    f"{psp} got {key} while {where} holds {payment.psp_reference}, {payment.status}",
                    money=to_iso(payment.amount, payment.currency),
                )

    def saw_payment(self, psp: str, payment: Payment) -> None:
        """A payment at a PSP is new, or has changed."""
        order_id, reference = payment.merchant_reference, payment.psp_reference
        payments = self._payments.setdefault(order_id, {})
        before = payments.get(reference)
        payments[reference] = (psp, payment)
        if payment.status is Status.DECLINED:
            self._declined.add((psp, reference))
        if payment.status is Status.CHARGED and (before is None or before[1].status is not Status.CHARGED):
            captured = Captured(
                psp=psp,
                key=payment.key,
                reference=reference,
                amount=to_iso(payment.amount, payment.currency),
                contradictory=(psp, reference) in self._declined,
                step=self._step(),
            )
            self.captures.setdefault(order_id, []).append(captured)
            if not captured.contradictory:
                self._judge_capture(order_id, captured)

    def _judge_capture(self, order_id: str, captured: Captured) -> None:
        honest = [one for one in self.captures[order_id] if not one.contradictory]
        if len(honest) > 1:
            where = " and ".join(f"{one.psp} ({one.key})" for one in honest)
            self.accuse(
                "no_double_charge", order_id, f"charged {len(honest)} times: by {where}", money=captured.amount
            )
        order = self.tables.orders.get(order_id)
        if order is None:
            self.accuse(
                "belief_equals_truth", order_id, "charged, and we know no such order", money=captured.amount
            )
        elif order.state in _CERTAINLY_NOT_CHARGED and not self._may_be_a_copy(order, captured):
            self.accuse(
                "belief_equals_truth",
                order_id,
                f"charged by {captured.psp} while we believe {order.state}: certainly not charged",
                money=captured.amount,
            )
        elif order.state is not S.SUCCESS:
            current = self.tables.attempts.get(order_id, {}).get(order.attempt)
            if current is not None and current.idempotency_key != captured.key:
                self.accuse(
                    "belief_equals_truth",
                    order_id,
                    f"charged under {captured.key}, an attempt that we believe dead",
                    money=captured.amount,
                )

    def _may_be_a_copy(self, order: Order, captured: Captured) -> bool:
        """Say whether a charge is of a copy of a refused request, while the order waits to use its key again.

        "The request had no effect" is true of what was refused and says nothing of what the wire made of it; no
        engine can know. It is bound to meet the charge under the same key, and to have it in its books at the end.
        """
        if order.state is not S.RETRY_WAIT or (captured.psp, captured.key) not in self._copied:
            return False
        current = self.tables.attempts[order.payment_order_id][order.attempt]
        entered = [entry for entry in self.tables.log[order.payment_order_id] if entry.to_state is S.RETRY_WAIT]
        return current.idempotency_key == captured.key and entered[-1].event == "NotExecuted"

    # --- the belief: what is committed -------------------------------------------------------------------------

    def saw_commit(self, commit: Commit) -> None:
        """A transaction is durable."""
        for transfer in commit.transfers:
            self.debits[transfer.debit_id] = self.debits.get(transfer.debit_id, 0) + transfer.amount_minor
            self.credits[transfer.credit_id] = self.credits.get(transfer.credit_id, 0) + transfer.amount_minor
            money = Money(transfer.amount_minor, transfer.currency)
            currencies = {account.rpartition(":")[2] for account in (transfer.debit_id, transfer.credit_id)}
            if (
                transfer.debit_id == transfer.credit_id
                or transfer.amount_minor <= 0
                or currencies != {money.currency}
            ):
                self.accuse("sums_are_zero", transfer.cause, "a transfer that does not move money", money=money)
            if transfer.payment_order_id is not None and transfer.kind == "capture":
                self._judge_posting(transfer.payment_order_id, money, transfer.debit_id, transfer.credit_id)
        for row in commit.wallet_entries:
            self._judge_entry(row)
        for order_id in commit.orders:
            self._judge_order(order_id)
        owner = self.tables.partitions[0].owner
        if commit.owner and commit.owner != owner and commit.orders:
            self.accuse(
                "old_owner_is_fenced", commit.orders[0], f"{commit.owner} wrote after {owner} had taken over"
            )

    def _judge_posting(self, order_id: str, money: Money, debit_id: str, credit_id: str) -> None:
        self.posted[order_id] = self.posted.get(order_id, 0) + 1
        if self.posted[order_id] > 1:
            self.accuse("ledger_equals_truth", order_id, "its capture is posted twice", money=money)
        order = self.tables.orders[order_id]
        truth = [one for one in self.captures.get(order_id, ()) if one.reference == order.psp_reference]
        if not truth:
            self.accuse("ledger_equals_truth", order_id, "posted, but no PSP has taken this money", money=money)
            return
        expected = (
            f"psp_receivable:{truth[0].psp}:{money.currency}",
            f"seller_payable:{order.seller_account}:{money.currency}",
        )
        if truth[0].amount != money or (debit_id, credit_id) != expected:
            self.accuse(
                "ledger_equals_truth",
                order_id,
                f"posted {money} from {debit_id} to {credit_id}; {truth[0].psp} took {truth[0].amount}",
                money=money,
            )

    def _judge_entry(self, row: WalletEntryRow) -> None:
        order_id = row.payment_order_id
        if order_id is None or row.entry.kind != "capture":
            return
        money = Money(row.entry.available_minor, row.entry.currency)
        self.credited[order_id] = self.credited.get(order_id, 0) + 1
        order = self.tables.orders[order_id]
        right = (
            order.state is S.SUCCESS and order.amount == money and order.seller_account == row.entry.seller_account
        )
        if self.credited[order_id] > 1 or not right:
            times = self.credited[order_id]
            detail = f"{row.entry.seller_account} got {money}, {times} times, for an order {order.state}"
            self.accuse("wallet_equals_ledger", order_id, detail, money=money)

    def _judge_order(self, order_id: str) -> None:
        order = self.tables.orders[order_id]
        seen = self._seen.get(order_id)
        if seen is None:
            self._seen[order_id] = Seen(order)
            if order.state is not S.NOT_STARTED or order.version != 0:
                self.accuse("legal_moves_only", order_id, f"began its life as {order.state}")
            return
        before, seen.order = seen.order, order
        log = self.tables.log.get(order_id, [])
        new, seen.log_length = log[seen.log_length :], len(log)
        self._judge_move(before, order, new)
        self._judge_flags(before, order)
        if order.state is not before.state:
            self._judge_belief(order)

    def _judge_move(self, before: Order, order: Order, new: Sequence[LogEntry]) -> None:
        order_id = order.payment_order_id
        if (order.seller_account, order.amount, order.checkout_id) != (
            before.seller_account,
            before.amount,
            before.checkout_id,
        ):
            self.accuse(
                "terms_never_change", order_id, f"{before.amount} became {order.amount}", money=before.amount
            )
        if order.state is not before.state and order.state not in LEGAL_MOVES[before.state]:
            self.accuse(
                "legal_moves_only", order_id, f"moved from {before.state} to {order.state}", money=order.amount
            )
        if order.version != before.version + len(new) or len(new) > 1:
            self.accuse("legal_moves_only", order_id, f"went from version {before.version} to {order.version}")
        keys = [row.idempotency_key for row in self.tables.attempts.get(order_id, {}).values()]
        if len(set(keys)) < len(keys):
            self.accuse("one_key_one_attempt", order_id, f"its attempts have the keys {keys}")
        for entry in new:
            self._judge_wait(before, order, entry)
            left = entry.from_state is S.UNKNOWN and entry.to_state is not S.UNKNOWN
            if left and entry.event in _TIMERS:
                self.accuse("legal_moves_only", order_id, f"left UNKNOWN by {entry.event}, which is no evidence")

    def _judge_wait(self, before: Order, order: Order, entry: LogEntry) -> None:
        """Compare a wait with what it was set to, and with the Retry-After that set it, by the engine's clock."""
        order_id, asked_us = order.payment_order_id, 0
        if entry.to_state is S.RETRY_WAIT and order.wake_at is not None:
            asked_us = _RETRY_AFTER(entry.detail).retry_after_us or 0
            if order.wake_at < entry.at + asked_us:
                detail = f"waits {order.wake_at - entry.at} µs, and was asked to wait {asked_us} µs"
                self.accuse("waits_are_kept", order_id, detail)
        if entry.event == "WakeTimeReached" and before.state is S.RETRY_WAIT and entry.at < (before.wake_at or 0):
            self.accuse("waits_are_kept", order_id, f"woken {(before.wake_at or 0) - entry.at} µs early")

    def _judge_flags(self, before: Order, order: Order) -> None:
        order_id = order.payment_order_id
        lost = (before.ledger_updated and not order.ledger_updated) or (
            before.wallet_updated and not order.wallet_updated
        )
        early = (order.ledger_updated and not self.posted.get(order_id)) or (
            order.wallet_updated and not self.credited.get(order_id)
        )
        if lost or early:
            detail = "a flag was taken back" if lost else "a flag is set, and nothing is posted"
            self.accuse("flags_set_once", order_id, detail, money=order.amount)

    def _judge_belief(self, order: Order) -> None:
        """Compare a state that was just entered with what the PSPs know."""
        order_id = order.payment_order_id
        captures = self.captures.get(order_id, [])
        if order.state is S.SUCCESS:
            booked = [one for one in captures if one.psp == order.psp and one.reference == order.psp_reference]
            if not booked:
                detail = f"believed charged by {order.psp} as {order.psp_reference}, which took nothing"
                self.accuse("belief_equals_truth", order_id, detail, money=order.amount)
            elif booked[0].amount != order.amount:
                detail = f"believed charged {order.amount}, but {order.psp} took {booked[0].amount}"
                self.accuse("belief_equals_truth", order_id, detail, money=order.amount)
        elif order.state in _CERTAINLY_NOT_CHARGED:
            for one in captures:
                if not one.contradictory and not self._may_be_a_copy(order, one):
                    detail = f"{order.state} means certainly not charged, but {one.psp} took {one.amount}"
                    self.accuse("belief_equals_truth", order_id, detail, money=one.amount, step=one.step)

    # --- what was promised -------------------------------------------------------------------------------------

    def saw_receipt(
        self,
        checkout_id: str,
        *,
        order_ids: tuple[str, ...],
        at: int,
        new: bool,
        amounts: Mapping[str, tuple[str, str]],
    ) -> None:
        """A client was told that its checkout is accepted; `amounts` is what it had sent, by order."""
        event = self.tables.events.get(checkout_id)
        if event is None or event.orders != order_ids:
            self.accuse("acknowledged_is_durable", checkout_id, "acknowledged, but not in the store")
            return
        answer = (order_ids, event.created_at)
        if at != event.created_at or self.acknowledged.setdefault(checkout_id, answer) != answer:
            self.accuse(
                "same_key_same_answer", checkout_id, f"recorded at {event.created_at}, acknowledged as of {at}"
            )
        if new and checkout_id in self._new_acknowledged:
            self.accuse("same_key_same_answer", checkout_id, "acknowledged as new twice")
        if new:
            self._new_acknowledged.add(checkout_id)
        for order_id, amount in amounts.items():
            stored = self.tables.orders[order_id].amount
            if (stored.decimal(), stored.currency) != amount:
                detail = f"acknowledged {amount[0]} {amount[1]}, recorded {stored}"
                self.accuse("same_key_same_answer", checkout_id, detail, money=stored)

    def saw_delivery(self, receiver: str, events: Sequence[OutboxEvent]) -> None:
        """A receiver has taken events."""
        got = self.delivered.setdefault(receiver, {})
        for event in events:
            if event.event_id not in got:
                earlier = max(got.values(), default=0)
                if event.position < earlier:
                    self.accuse("every_event_delivered", event.event_id, f"{receiver} got it after a younger one")
                got[event.event_id] = event.position
