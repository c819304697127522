"""What the auditor says: which invariant is broken, how much money is wrong, whose, and since when."""

import msgspec

STORES_AGREE = "stores_agree"

INVARIANTS: dict[str, str] = {
    "no_double_charge": "a PSP takes the money for a payment order at most once",
    "no_lost_charge": "money that a PSP took is booked, or stands in an open mismatch",
    "belief_equals_truth": "what we believe of a payment is what the PSP knows: charged, or certainly not",
    "sums_are_zero": "every transfer debits one account and credits another by the same amount, per currency",
    "ledger_equals_truth": "the ledger holds exactly the captures of successful orders, each once",
    "wallet_equals_ledger": "a seller's wallet holds what the ledger says we owe",
    "legal_moves_only": "an order moves only as the design allows, one version at a time, and on evidence",
    "flags_set_once": "ledger_updated and wallet_updated are set with the posting, once, and stay set",
    "acknowledged_is_durable": "what was acknowledged to anyone is in the store, from then on",
    "same_key_same_answer": "the same request gets the same answer; other content under its id is refused",
    "recorded_before_sent": "an attempt is committed before its request reaches the PSP",
    "one_key_one_attempt": "every attempt of an order has an idempotency key of its own",
    "no_charge_without_clearance": "no request reaches a PSP before the risk check or a person let the order pass",
    "waits_are_kept": "the next attempt waits as long as was decided, and as long as the PSP's Retry-After says",
    "old_owner_is_fenced": "an engine whose partitions were taken over writes nothing more",
    "one_open_attempt": "no attempt reaches a PSP while another of the order may still charge, or has",
    "terms_never_change": "seller, amount and currency of an order never change",
    "every_event_delivered": "every receiver gets every event, in order per payment order",
    "every_ending_announced": "every ended order and checkout is announced, and a failed one needs a person",
    "no_refund_of_nothing": "a mismatch asks for a refund only of money that a PSP took beside the booked charge",
    "nothing_stuck": "once everything has healed, every order ends within the stated time",
    "engine_stays_up": "no fault that is not the engine's own ends or deadlocks the engine",
    STORES_AGREE: "over a real database, it and the memory store answer the same and hold the same at the end",
}
"""Every invariant by name, in words for a reader who knows nothing of the code."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One broken invariant. Amounts in minor units; 0 where no money is wrong (yet)."""

    invariant: str
    subject: str
    """The payment order, checkout, seller or event that it is about."""
    detail: str
    amount_minor: int = 0
    currency: str = ""
    step: int
    """The number of the trace's step at which it became wrong."""
    at_us: int
    """The virtual time at which it was found."""
