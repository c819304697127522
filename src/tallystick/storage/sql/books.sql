-- name: move_head
update ledger_head
set
    seq = $3,
    hash = $4
where seq = $1 and hash = $2;

-- name: lock_head
select
    seq,
    hash
from ledger_head
for update;

-- name: read_head
select
    seq,
    hash
from ledger_head;

-- name: open_accounts
insert into accounts (account_id, type, owner, currency, created_at)
select
    new.account_id,
    new.type,
    new.owner,
    new.currency,
    new.created_at
from
    unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        as new (account_id, type, owner, currency, created_at)
on conflict do nothing;

-- name: open_balances
insert into account_balances (account_id)
select new.account_id
from unnest($1::text[]) as new (account_id)
on conflict do nothing;

-- name: insert_transfers
insert into transfers (
    seq, cause, kind, debit_id, credit_id, amount_minor, currency, payment_order_id, at, hash
)
select
    new.seq,
    new.cause,
    new.kind,
    new.debit_id,
    new.credit_id,
    new.amount_minor,
    new.currency,
    new.payment_order_id,
    new.at,
    new.hash
from
    unnest(
        $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
        $9::bigint[], $10::bytea[]
    )
        as new (seq, cause, kind, debit_id, credit_id, amount_minor, currency, payment_order_id, at, hash)
on conflict (cause) do nothing;

-- name: move_balances
-- No lock order is needed: whoever is here holds the ledger's head.
update account_balances as stored
set
    debits_minor = stored.debits_minor + moved.debits_minor,
    credits_minor = stored.credits_minor + moved.credits_minor
from unnest($1::text[], $2::bigint[], $3::bigint[]) as moved (account_id, debits_minor, credits_minor)
where stored.account_id = moved.account_id;

-- name: transfer_causes
select cause
from transfers
where cause = any($1::text[]);

-- name: flag_ledger
with locked as materialized (
    select payment_order_id
    from payment_orders
    where payment_order_id = any($1::text[]) and state = 'SUCCESS' and not ledger_updated
    order by payment_order_id
    for no key update
)

update payment_orders as stored
set
    ledger_updated = true,
    updated_at = greatest(stored.updated_at, $2)
from locked
where stored.payment_order_id = locked.payment_order_id
returning stored.payment_order_id, stored.checkout_id, stored.is_open;

-- name: move_wallets
insert into wallets (seller_account, currency, available_minor, pending_minor, held_minor, updated_at)
select
    moved.seller_account,
    moved.currency,
    moved.available_minor,
    moved.pending_minor,
    moved.held_minor,
    moved.updated_at
from
    unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    with ordinality
        as moved (
            seller_account, currency, available_minor, pending_minor, held_minor, updated_at, place
        )
order by moved.place
on conflict (seller_account, currency) do update
    set
        available_minor = wallets.available_minor + excluded.available_minor,
        pending_minor = wallets.pending_minor + excluded.pending_minor,
        held_minor = wallets.held_minor + excluded.held_minor,
        updated_at = greatest(wallets.updated_at, excluded.updated_at);

-- name: insert_wallet_entries
insert into wallet_entries (
    cause, kind, seller_account, currency, available_minor, pending_minor, held_minor, payment_order_id, at
)
select
    new.cause,
    new.kind,
    new.seller_account,
    new.currency,
    new.available_minor,
    new.pending_minor,
    new.held_minor,
    new.payment_order_id,
    new.at
from
    unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
        $9::bigint[]
    )
        as new (
            cause, kind, seller_account, currency, available_minor, pending_minor, held_minor, payment_order_id, at
        )
on conflict (cause) do nothing;

-- name: wallet_causes
select cause
from wallet_entries
where cause = any($1::text[]);

-- name: flag_wallet
with locked as materialized (
    select payment_order_id
    from payment_orders
    where payment_order_id = any($1::text[]) and state = 'SUCCESS' and not wallet_updated
    order by payment_order_id
    for no key update
)

update payment_orders as stored
set
    wallet_updated = true,
    updated_at = greatest(stored.updated_at, $2)
from locked
where stored.payment_order_id = locked.payment_order_id
returning stored.payment_order_id, stored.checkout_id, stored.is_open;
