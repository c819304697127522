"""The auditor's last look: everything that can only be said when all is over, or is too dear for every step."""

from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.sim.auditor import Auditor

_ENDINGS = {
    State.SUCCESS: "payment_order.succeeded",
    State.FAILED: "payment_order.failed",
    State.CANCELLED: "payment_order.cancelled",
}


def close(auditor: Auditor) -> None:
    """Look over everything once more; `nothing_stuck` includes that all is over."""
    for order in auditor.tables.orders.values():
        _judge_end(auditor, order)
        _judge_captures(auditor, order)
    for order_id, captures in auditor.captures.items():
        if order_id not in auditor.tables.orders:
            one = captures[0]
            auditor.accuse(
                "no_lost_charge", order_id, f"{one.psp} took {one.amount}", money=one.amount, step=one.step
            )
    _judge_mismatches(auditor)
    _judge_accounts(auditor)
    _judge_wallets(auditor)
    _judge_checkouts(auditor)
    _judge_deliveries(auditor)


def is_left_to_a_person(auditor: Auditor, order_id: str) -> bool:
    """Say whether an order may stay open: its PSP took another amount, and a person has been called."""
    order, letter = auditor.tables.orders[order_id], auditor.tables.dead_letters.get(order_id)
    if order.state is not State.UNKNOWN or letter is None or letter.closed_at is not None:
        return False
    wrong = {one.reference for one in auditor.captures.get(order_id, ()) if one.amount != order.amount}
    rows = auditor.tables.mismatches.values()
    return any(row.payment_order_id == order_id and row.psp_reference in wrong for row in rows)


def _judge_end(auditor: Auditor, order: Order) -> None:
    order_id, tables = order.payment_order_id, auditor.tables
    if is_left_to_a_person(auditor, order_id):
        return
    if not order.is_done:
        detail = f"still {order.state}, ledger {order.ledger_updated}, wallet {order.wallet_updated}"
        auditor.accuse("nothing_stuck", order_id, detail, money=order.amount)
        return
    if order.state is State.FAILED and order_id not in tables.dead_letters:
        auditor.accuse("every_ending_announced", order_id, "failed, and stands in no dead-letter queue")
    kinds = [event.kind for event in tables.outbox if event.payment_order_id == order_id]
    if _ENDINGS[order.state] not in kinds:
        auditor.accuse("every_ending_announced", order_id, f"{order.state}, announced was only {kinds}")


def _judge_captures(auditor: Auditor, order: Order) -> None:
    order_id = order.payment_order_id
    named = {
        (row.psp, row.psp_reference)
        for row in auditor.tables.mismatches.values()
        if row.payment_order_id == order_id
    }
    for one in auditor.captures.get(order_id, ()):
        booked = order.state is State.SUCCESS and (order.psp, order.psp_reference) == (one.psp, one.reference)
        if not booked and (one.psp, one.reference) not in named:
            detail = f"{one.psp} took {one.amount} as {one.reference}; we believe {order.state}, with no mismatch"
            auditor.accuse("no_lost_charge", order_id, detail, money=one.amount, step=one.step)
    if order.state is State.SUCCESS and auditor.posted.get(order_id, 0) != 1:
        auditor.accuse("ledger_equals_truth", order_id, "charged, and not in the ledger", money=order.amount)
    if order.state is State.SUCCESS and auditor.credited.get(order_id, 0) != 1:
        auditor.accuse("wallet_equals_ledger", order_id, "charged, and not in the wallet", money=order.amount)


def _judge_mismatches(auditor: Auditor) -> None:
    for row in auditor.tables.mismatches.values():
        if row.remedy != "refund" or row.payment_order_id is None:
            continue
        order = auditor.tables.orders[row.payment_order_id]
        taken = [
            one for one in auditor.captures.get(order.payment_order_id, ()) if one.reference == row.psp_reference
        ]
        booked = order.state is State.SUCCESS and order.psp_reference == row.psp_reference
        if not taken or booked:
            why = "is booked" if booked else "was never taken"
            detail = f"{row.kind} wants {row.psp_reference} refunded, which {why}"
            money = Money(row.amount_minor, row.currency)
            auditor.accuse("no_refund_of_nothing", order.payment_order_id, detail, money=money)


def _judge_accounts(auditor: Auditor) -> None:
    totals: dict[str, int] = {}
    for account_id, account in auditor.tables.accounts.items():
        posted = auditor.debits.get(account_id, 0), auditor.credits.get(account_id, 0)
        if posted != (account.debits_minor, account.credits_minor):
            detail = f"its balance says {account.debits_minor} and {account.credits_minor}, its transfers {posted}"
            auditor.accuse("sums_are_zero", account_id, detail)
        totals[account.currency] = totals.get(account.currency, 0) + account.debits_minor - account.credits_minor
    for currency, total in totals.items():
        if total:
            auditor.accuse(
                "sums_are_zero", currency, f"all accounts add up to {total}", money=Money(total, currency)
            )


def _judge_wallets(auditor: Auditor) -> None:
    tables = auditor.tables
    payables = [name.split(":") for name in tables.accounts if name.startswith("seller_payable:")]
    sellers = {(seller, currency) for _, seller, currency in payables}
    for seller, currency in sorted(sellers | tables.wallets.keys()):
        account_id = f"seller_payable:{seller}:{currency}"
        owed = auditor.credits.get(account_id, 0) - auditor.debits.get(account_id, 0)
        wallet = tables.wallets.get((seller, currency))
        held = 0 if wallet is None else wallet.available_minor + wallet.pending_minor + wallet.held_minor
        if owed != held:
            detail = f"the ledger owes {owed}, the wallet holds {held}"
            auditor.accuse(
                "wallet_equals_ledger", f"{seller}:{currency}", detail, money=Money(owed - held, currency)
            )


def _judge_checkouts(auditor: Auditor) -> None:
    tables = auditor.tables
    done = {event.checkout_id for event in tables.outbox if event.kind == "payment.done"}
    for checkout_id, event in tables.events.items():
        still_open = sum(1 for order_id in event.orders if not tables.orders[order_id].is_done)
        if event.orders_open != still_open:
            auditor.accuse(
                "every_ending_announced", checkout_id, f"counts {event.orders_open} open of {still_open}"
            )
        if not still_open and checkout_id not in done:
            auditor.accuse("every_ending_announced", checkout_id, "all its orders have ended, and nobody was told")
    for checkout_id, (order_ids, _) in auditor.acknowledged.items():
        event_row = tables.events.get(checkout_id)
        if event_row is None or event_row.orders != order_ids:
            auditor.accuse("acknowledged_is_durable", checkout_id, "acknowledged, and gone at the end")


def _judge_deliveries(auditor: Auditor) -> None:
    for receiver in auditor.receivers:
        got = auditor.delivered.get(receiver, {})
        for event in auditor.tables.outbox:
            if event.event_id not in got:
                auditor.accuse("every_event_delivered", event.event_id, f"{receiver} never got {event.kind}")
