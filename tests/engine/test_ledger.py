"""Goal: what a capture posts, and a hash chain in which any changed, missing or moved row shows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.orders import T0, an_order

from tallystick.engine.errors import IllegalState
from tallystick.engine.ledger import GENESIS_HASH, Account, AccountType, capture, chain_hash, wallet_credit
from tallystick.engine.order import State

ROW: dict[str, Any] = {
    "seq": 1,
    "cause": "capture:po-1",
    "kind": "capture",
    "debit_id": "psp_receivable:psp-a:EUR",
    "credit_id": "seller_payable:DE89370400440532013000:EUR",
    "amount_minor": 1000,
    "currency": "EUR",
    "at": T0,
}


def test_a_capture_moves_the_amount_from_the_psp_to_the_seller() -> None:
    """One transfer: the PSP owes us, we owe the seller; its cause names the order for ever."""
    transfer = capture(an_order(State.SUCCESS), at=T0)
    assert transfer.debit.id == ROW["debit_id"]
    assert transfer.credit.id == ROW["credit_id"]
    assert (transfer.cause, transfer.amount.minor, transfer.amount.currency) == ("capture:po-1", 1000, "EUR")


def test_the_wallet_gets_what_the_ledger_owes() -> None:
    """Same cause, same amount, from the wallet's own entry."""
    entry = wallet_credit(an_order(State.SUCCESS), at=T0)
    assert (entry.cause, entry.available_minor, entry.pending_minor, entry.held_minor) == (
        "capture:po-1",
        1000,
        0,
        0,
    )


@pytest.mark.parametrize("state", [state for state in State if state is not State.SUCCESS])
def test_only_a_success_is_posted(state: State) -> None:
    """A state that is not SUCCESS never reaches the books, whatever calls."""
    with pytest.raises(IllegalState):
        capture(an_order(state), at=T0)
    with pytest.raises(IllegalState):
        wallet_credit(an_order(state), at=T0)


def test_account_ids_are_readable_and_apart() -> None:
    """One account per type, owner and currency."""
    ids = {
        Account(kind, owner, currency).id
        for kind in AccountType
        for owner in ("", "a")
        for currency in ("EUR", "JPY")
    }
    assert len(ids) == len(AccountType) * 4


def test_the_chain_s_first_hash_never_changes() -> None:
    """A known value: who changes the formula breaks every ledger in the field."""
    assert chain_hash(GENESIS_HASH, **ROW).hex() == (
        "b32dfa923179b56ee8232ce2890948569e9511d50bd6eb3285010769edc7512b"
    )


CHANGES = {
    "seq": 2,
    "cause": "capture:po-2",
    "kind": "capturf",
    "debit_id": "x",
    "credit_id": "x",
    "amount_minor": 1001,
    "currency": "USD",
    "at": T0 + 1,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_hashed(field: str) -> None:
    """Changing any one of them shows."""
    assert chain_hash(GENESIS_HASH, **(ROW | {field: CHANGES[field]})) != chain_hash(GENESIS_HASH, **ROW)


def test_the_predecessor_is_hashed() -> None:
    """So a missing or inserted row shows in all that follow."""
    assert chain_hash(b"\x01" * 32, **ROW) != chain_hash(GENESIS_HASH, **ROW)


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_fields_cannot_run_into_each_other(a: str, b: str, c: str, d: str) -> None:
    """Length prefixes: moving text from one field to the next is a change."""
    one = chain_hash(GENESIS_HASH, **(ROW | {"cause": a, "kind": b}))
    other = chain_hash(GENESIS_HASH, **(ROW | {"cause": c, "kind": d}))
    assert (one == other) == ((a, b) == (c, d))
