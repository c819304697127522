"""Goal: every store keeps the Store port's promises alike: outcomes per item, idempotence, and what follows.

Each test runs on PostgreSQL and on the memory store. `make_store()` opens one more engine's session.
"""

from hashlib import sha256

import pytest
from msgspec.structs import replace
from tests.storage.conftest import MakeStore
from tests.storage.scenes import (
    PSP,
    SELLER,
    T0,
    accepting,
    beginning,
    charge,
    crediting,
    failing,
    moving,
    new_order,
    pay,
    posting,
    reopening,
    succeeding,
)

from tallystick.engine.errors import IllegalState
from tallystick.engine.intents import (
    Applied,
    IdempotencyClaim,
    PaymentAccepted,
    PaymentRefused,
    Posted,
    Superseded,
)
from tallystick.engine.order import State
from tallystick.engine.records import AttemptResent, AttemptResolved, MismatchOpened
from tallystick.engine.views import Story
from tallystick.storage.verify import verify

# --- accept ------------------------------------------------------------------------------------------------------


async def test_a_payment_is_recorded_whole(make_store: MakeStore) -> None:
    store = await make_store()
    orders = (new_order("b", checkout="c"), new_order("a", checkout="c", currency="JPY"))
    assert await store.accept([accepting(*orders)]) == [PaymentAccepted(new=True, at=T0)]
    view = (await store.checkout_views(["c"]))[0]
    assert view is not None
    assert view.orders == (orders[1], orders[0])
    assert (view.buyer_info, view.created_at, view.is_payment_done) == (b'{"name":"Ada"}', T0, False)
    assert await store.orders(["a", "missing", "b"]) == [orders[1], None, orders[0]]


async def test_the_same_content_again_answers_the_same(make_store: MakeStore) -> None:
    store = await make_store()
    first = accepting(new_order("a"))
    again = accepting(new_order("a"), at=T0 + 99)
    assert await store.accept([first]) == [PaymentAccepted(new=True, at=T0)]
    assert await store.accept([again]) == [PaymentAccepted(new=False, at=T0)]
    assert await store.accept([accepting(new_order("b")), again, accepting(new_order("b"))]) == [
        PaymentAccepted(new=True, at=T0),
        PaymentAccepted(new=False, at=T0),
        PaymentAccepted(new=False, at=T0),
    ]


async def test_other_content_under_the_same_checkout_is_refused(make_store: MakeStore) -> None:
    store = await make_store()
    await store.accept([accepting(new_order("a", checkout="c"))])
    [refused] = await store.accept([accepting(new_order("b", checkout="c"))])
    assert isinstance(refused, PaymentRefused)
    assert refused.field == "checkout_id"
    assert await store.orders(["b"]) == [None]


@pytest.mark.parametrize("together", [True, False])
async def test_an_order_id_of_another_checkout_refuses_the_whole_event(
    make_store: MakeStore, *, together: bool
) -> None:
    """Nothing of the refused event stays, and its neighbours are recorded."""
    store = await make_store()
    first = accepting(new_order("taken", checkout="one"))
    second = accepting(new_order("free", checkout="two"), new_order("taken", checkout="two"))
    third = accepting(new_order("other", checkout="three"))
    if together:
        _, refused, accepted = await store.accept([first, second, third])
    else:
        await store.accept([first])
        refused, accepted = await store.accept([second, third])
    assert isinstance(refused, PaymentRefused)
    assert refused.field == "payment_orders[1].payment_order_id"
    assert accepted == PaymentAccepted(new=True, at=T0)
    assert await store.orders(["free"]) == [None]
    assert (await store.checkout_views(["two"]))[0] is None
    assert await store.accept([accepting(new_order("free", checkout="two"))]) == [PaymentAccepted(new=True, at=T0)]


async def test_a_clash_within_a_batch_does_not_hide_what_was_recorded_before(make_store: MakeStore) -> None:
    """Found by the agreement test: the second item was recorded long ago, so the first cannot refuse it."""
    store = await make_store()
    old = accepting(new_order("mine", checkout="old"), content="as ever")
    await store.accept([old])
    thief = accepting(new_order("free", checkout="new"))
    same = accepting(new_order("free", checkout="old"), content="as ever")
    assert await store.accept([thief, same]) == [
        PaymentAccepted(new=True, at=T0),
        PaymentAccepted(new=False, at=T0),
    ]


def _claim(text: str, *, key: str = "k", scope: str = "shop") -> IdempotencyClaim:
    return IdempotencyClaim(scope=scope, key=key, request_hash=sha256(text.encode()).digest())


async def test_an_idempotency_key_belongs_to_one_request(make_store: MakeStore) -> None:
    store = await make_store()
    first = accepting(new_order("a"), claim=_claim("a"))
    assert await store.accept([first, first]) == [
        PaymentAccepted(new=True, at=T0),
        PaymentAccepted(new=False, at=T0),
    ]
    [refused] = await store.accept([accepting(new_order("b"), claim=_claim("b"))])
    assert isinstance(refused, PaymentRefused)
    assert refused.field == "Idempotency-Key"
    assert await store.orders(["b"]) == [None]
    other_scope = accepting(new_order("b"), claim=_claim("b", scope="other"))
    assert await store.accept([other_scope]) == [PaymentAccepted(new=True, at=T0)]


async def test_a_refused_event_does_not_use_up_its_key(make_store: MakeStore) -> None:
    store = await make_store()
    await store.accept([accepting(new_order("taken"))])
    clash = accepting(new_order("taken", checkout="two"), claim=_claim("wrong"))
    right = accepting(new_order("free", checkout="two"), claim=_claim("right"))
    refused, accepted = await store.accept([clash, right])
    assert isinstance(refused, PaymentRefused)
    assert accepted == PaymentAccepted(new=True, at=T0)


async def test_old_claims_are_forgotten(make_store: MakeStore) -> None:
    store = await make_store()
    await store.accept([accepting(new_order(name), claim=_claim(name, key=name), at=T0) for name in "abc"])
    await store.accept([accepting(new_order("d"), claim=_claim("d", key="d"), at=T0 + 10)])
    assert await store.purge_claims(before=T0 + 5, limit=2) == 2
    assert await store.purge_claims(before=T0 + 5, limit=2) == 1
    assert await store.purge_claims(before=T0 + 5, limit=2) == 0
    [outcome] = await store.accept([accepting(new_order("e"), claim=_claim("e", key="a"), at=T0 + 11)])
    assert outcome == PaymentAccepted(new=True, at=T0 + 11)


# --- apply -------------------------------------------------------------------------------------------------------


async def _story(store_: object, order_id: str) -> Story:
    story = await store_.story(order_id)  # type: ignore[attr-defined]
    assert isinstance(story, Story)
    return story


async def test_a_move_writes_the_order_its_attempt_and_its_log(make_store: MakeStore) -> None:
    store = await make_store()
    order = new_order("a")
    await store.accept([accepting(order)])
    begun = beginning(order)
    assert await store.apply([begun]) == [Applied()]
    assert await store.orders(["a"]) == [begun.order]
    ended = succeeding(begun.order)
    assert await store.apply([ended]) == [Applied()]
    story = await _story(store, "a")
    assert story.view.order == ended.order
    assert story.view.updated_at == T0 + 2
    [attempt] = story.view.attempts
    assert (attempt.attempt, attempt.psp, attempt.idempotency_key, attempt.sends) == (1, PSP, "a", 1)
    assert (attempt.result, attempt.psp_reference, attempt.resolved_at) == ("Charged", "ch_a", T0 + 2)
    assert [(entry.version, entry.from_state, entry.to_state, entry.event) for entry in story.log] == [
        (1, State.NOT_STARTED, State.EXECUTING, "RiskAccepted"),
        (2, State.EXECUTING, State.SUCCESS, "Charged"),
    ]
    assert story.log[0].detail == b'{"event":"RiskAccepted"}'


async def test_a_repeated_move_is_told_from_somebody_elses(make_store: MakeStore) -> None:
    store = await make_store()
    order = new_order("a")
    await store.accept([accepting(order)])
    ours = beginning(order)
    theirs = replace(ours, transition_id="another engine's")
    assert await store.apply([ours]) == [Applied()]
    assert await store.apply([ours]) == [Applied()]
    assert await store.apply([theirs]) == [Superseded(current=ours.order)]
    ended = succeeding(ours.order)
    await store.apply([ended])
    assert await store.apply([ours]) == [Applied()]
    assert await store.apply([theirs]) == [Superseded(current=ended.order)]
    assert len((await _story(store, "a")).log) == 2


async def test_a_superseded_move_neither_fails_nor_delays_its_neighbours(make_store: MakeStore) -> None:
    store = await make_store()
    orders = [new_order(name) for name in "abc"]
    await store.accept([accepting(order) for order in orders])
    begun = [beginning(order) for order in orders]
    await store.apply([begun[1]])
    other = replace(begun[1], transition_id="other")
    assert await store.apply([begun[0], other, begun[2]]) == [
        Applied(),
        Superseded(current=begun[1].order),
        Applied(),
    ]


async def test_flags_are_not_taken_back_by_a_decision_that_did_not_know_them(make_store: MakeStore) -> None:
    store = await make_store()
    [charged] = await charge(store, [new_order("a")])
    await store.post([posting(charged)])
    mismatch = MismatchOpened(
        mismatch_id="m",
        kind="charged_twice",
        attempt=1,
        psp=PSP,
        psp_reference="other",
        amount_minor=1000,
        currency="EUR",
        remedy="refund",
    )
    stale = moving(charged, State.SUCCESS, "Charged", mismatch, mismatch, state_since=charged.state_since)
    assert await store.apply([stale]) == [Applied()]
    [stored] = await store.orders(["a"])
    assert stored is not None
    assert (stored.version, stored.ledger_updated, stored.wallet_updated) == (3, True, False)
    assert [one.mismatch_id for one in (await _story(store, "a")).mismatches] == ["m"]


async def test_a_resend_is_counted_on_its_attempt(make_store: MakeStore) -> None:
    store = await make_store()
    order = new_order("a")
    await store.accept([accepting(order)])
    begun = beginning(order)
    row = AttemptResent(attempt=1, sends=2, sent_at=T0 + 9)
    resent = moving(begun.order, State.EXECUTING, "NotFound", row, sends=2, last_sent_at=T0 + 9)
    await store.apply([begun])
    await store.apply([resent])
    [attempt] = (await _story(store, "a")).view.attempts
    assert (attempt.sends, attempt.begun_at, attempt.last_sent_at) == (2, T0 + 1, T0 + 9)


async def test_a_refused_attempt_that_is_sent_again_is_open_again(make_store: MakeStore) -> None:
    store = await make_store()
    order = new_order("a")
    await store.accept([accepting(order)])
    begun = beginning(order)
    result = AttemptResolved(
        attempt=1, result="NotExecuted", code="throttled", psp_reference=None, resolved_at=T0 + 5
    )
    refused = moving(begun.order, State.RETRY_WAIT, "NotExecuted", result, refusals=1, wake_at=T0 + 9)
    row = AttemptResent(attempt=1, sends=2, sent_at=T0 + 9)
    resent = moving(refused.order, State.EXECUTING, "WakeTimeReached", row, sends=2, last_sent_at=T0 + 9)
    for move in (begun, refused):
        await store.apply([move])
    [attempt] = (await _story(store, "a")).view.attempts
    assert (attempt.sends, attempt.result, attempt.code) == (1, "NotExecuted", "throttled")
    await store.apply([resent])
    assert await store.orders(["a"]) == [resent.order]
    [attempt] = (await _story(store, "a")).view.attempts
    assert (attempt.sends, attempt.result, attempt.code, attempt.resolved_at) == (2, None, None, None)


async def test_bugs_of_the_caller_are_refused_and_change_nothing(make_store: MakeStore) -> None:
    store = await make_store()
    order = new_order("a")
    await store.accept([accepting(order)])
    begun = beginning(order)
    with pytest.raises(IllegalState, match="two transitions"):
        await store.apply([begun, begun])
    with pytest.raises(IllegalState, match="does not follow"):
        await store.apply([replace(begun, order=replace(begun.order, version=5))])
    with pytest.raises(IllegalState, match="never recorded"):
        await store.apply([begun, beginning(new_order("missing"))])
    assert await store.orders(["a"]) == [order]


# --- dead letters ------------------------------------------------------------------------------------------------


async def test_a_failed_order_waits_as_a_dead_letter_until_it_is_retried(make_store: MakeStore) -> None:
    store = await make_store()
    orders = [new_order(name) for name in "ab"]
    await store.accept([accepting(order) for order in orders])
    begun = [beginning(order) for order in orders]
    await store.apply(begun)
    failed = [failing(item.order, at=T0 + 10 + index) for index, item in enumerate(begun)]
    await store.apply(failed)
    letters = await store.dead_letters(include_closed=False, after=None, limit=10)
    assert [(one.payment_order_id, one.reason, one.state, one.opened_at) for one in letters] == [
        ("a", "stolen", State.FAILED, T0 + 10),
        ("b", "stolen", State.FAILED, T0 + 11),
    ]
    assert letters[0].amount == orders[0].amount
    after = (letters[0].opened_at, letters[0].payment_order_id)
    assert await store.dead_letters(include_closed=False, after=after, limit=10) == letters[1:]
    await store.apply([reopening(failed[0].order, at=T0 + 20)])
    assert await store.dead_letters(include_closed=False, after=None, limit=10) == letters[1:]
    closed, _ = await store.dead_letters(include_closed=True, after=None, limit=10)
    assert (closed.closed_at, closed.resolution, closed.state) == (T0 + 20, "retried", State.EXECUTING)


# --- books -------------------------------------------------------------------------------------------------------


async def test_a_posting_moves_balances_and_sets_the_flag_once(make_store: MakeStore) -> None:
    store = await make_store()
    first, second = await charge(store, [new_order("a", minor=700), new_order("b", minor=300)])
    assert await store.post([posting(first), posting(second), posting(first)]) == [
        Posted(new=True),
        Posted(new=True),
        Posted(new=False),
    ]
    assert await store.post([posting(second)]) == [Posted(new=False)]
    [stored] = await store.orders(["a"])
    assert stored is not None
    assert (stored.ledger_updated, stored.wallet_updated, stored.version) == (True, False, 2)
    account = await store.account_view(f"seller_payable:{SELLER}:EUR", before_seq=None, limit=10)
    assert account is not None
    assert (account.debits_minor, account.credits_minor, account.next_before_seq) == (0, 1000, None)
    assert [(entry.seq, entry.amount.minor, entry.payment_order_id) for entry in account.entries] == [
        (2, -300, "b"),
        (1, -700, "a"),
    ]
    receivable = await store.account_view(f"psp_receivable:{PSP}:EUR", before_seq=None, limit=1)
    assert receivable is not None
    assert (receivable.debits_minor, receivable.next_before_seq) == (1000, 2)
    assert receivable.entries[0].other_account_id == account.account_id
    assert await store.account_view("bank::EUR", before_seq=None, limit=1) is None


async def test_a_batch_that_is_half_known_posts_the_other_half(make_store: MakeStore) -> None:
    store = await make_store()
    charged = await charge(store, [new_order(name) for name in "abcd"])
    await store.post([posting(charged[1])])
    await store.credit([crediting(charged[2])])
    assert [one.new for one in await store.post([posting(order) for order in charged])] == [
        True,
        False,
        True,
        True,
    ]
    credited = await store.credit([crediting(order) for order in charged])
    assert [one.new for one in credited] == [True, True, False, True]
    [wallet] = await store.wallet_views(SELLER)
    assert (wallet.available_minor, wallet.pending_minor, wallet.held_minor) == (4000, 0, 0)
    assert [row.seq for row in await store.transfers_after(seq=0, limit=10)] == [1, 2, 3, 4]
    assert (await verify(store)).findings == ()


async def test_wallets_are_kept_per_currency(make_store: MakeStore) -> None:
    store = await make_store()
    await pay(store, [new_order("a", minor=5), new_order("b", minor=7, currency="JPY"), new_order("c", minor=11)])
    wallets = await store.wallet_views(SELLER)
    assert [(one.currency, one.available_minor) for one in wallets] == [("EUR", 16), ("JPY", 7)]
    assert await store.wallet_views("nobody") == []


async def test_a_payment_is_done_when_its_last_order_is(make_store: MakeStore) -> None:
    """Done means failed, or charged with both books written; a reopened order makes the payment open again."""
    store = await make_store()
    paid, lost = new_order("paid", checkout="c"), new_order("lost", checkout="c")
    await store.accept([accepting(paid, lost)])
    begun = [beginning(paid), beginning(lost)]
    await store.apply(begun)
    charged, failed = succeeding(begun[0].order), failing(begun[1].order)
    await store.apply([charged, failed])
    await store.credit([crediting(charged.order)])
    view = (await store.checkout_views(["c"]))[0]
    assert view is not None
    assert not view.is_payment_done
    await store.post([posting(charged.order)])
    view = (await store.checkout_views(["c"]))[0]
    assert view is not None
    assert view.is_payment_done
    await store.apply([reopening(failed.order)])
    view = (await store.checkout_views(["c"]))[0]
    assert view is not None
    assert not view.is_payment_done
    [again] = await store.orders(["lost"])
    assert again is not None
    await store.apply([failing(again, at=T0 + 30)])
    kinds = [(event.kind, event.event_id) for event in await store.outbox_after(position=0, limit=100)]
    assert kinds == [
        ("payment_order.succeeded", "order:paid:2"),
        ("payment_order.failed", "order:lost:2"),
        ("payment.done", "done:c:1"),
        ("payment_order.reopened", "order:lost:3"),
        ("payment_order.failed", "order:lost:4"),
        ("payment.done", "done:c:2"),
    ]
    assert (await verify(store)).findings == ()
