-- name: orders
select *
from payment_orders
where payment_order_id = any($1::text[]);

-- name: unfinished
select payment_order_id
from payment_orders
where
    is_open
    and state in ('NOT_STARTED', 'EXECUTING', 'SUCCESS')
    and payment_order_id > $1
    and partition = any($2::smallint[])
order by payment_order_id
limit $3;

-- name: due
select payment_order_id
from payment_orders
where wake_at is not null and wake_at <= $1 and is_open and partition = any($2::smallint[])
order by wake_at, payment_order_id
limit $3;

-- name: next_wake_at
select wake_at
from payment_orders
where wake_at is not null and is_open and partition = any($1::smallint[])
order by wake_at
limit 1;

-- name: stuck
select *
from payment_orders
where is_open and state = any($1::text[]) and state_since < $2 and partition = any($3::smallint[])
order by state_since, payment_order_id
limit $4;

-- name: in_flight
select
    state,
    count(*) as orders,
    min(state_since) as oldest_since
from payment_orders
where is_open
group by state
order by state;

-- name: attempts
select *
from payment_attempts
where payment_order_id = $1
order by attempt;

-- name: checkouts
select
    payment_orders.*,
    payment_events.buyer_info as event_buyer_info,
    payment_events.created_at as event_created_at,
    payment_events.orders_open as event_orders_open
from payment_events
inner join payment_orders on payment_events.checkout_id = payment_orders.checkout_id
where payment_events.checkout_id = any($1::text[])
order by payment_orders.checkout_id, payment_orders.payment_order_id;

-- name: wallets
select *
from wallets
where seller_account = $1
order by currency;

-- name: account
select
    accounts.account_id,
    accounts.currency,
    account_balances.debits_minor,
    account_balances.credits_minor
from accounts
inner join account_balances on accounts.account_id = account_balances.account_id
where accounts.account_id = $1;

-- name: debits_of
select *
from transfers
where debit_id = $1 and seq < $2
order by seq desc
limit $3;

-- name: credits_of
select *
from transfers
where credit_id = $1 and seq < $2
order by seq desc
limit $3;

-- name: dead_letters
select
    dead_letters.*,
    payment_orders.checkout_id,
    payment_orders.state,
    payment_orders.amount_minor,
    payment_orders.currency
from dead_letters
inner join payment_orders on dead_letters.payment_order_id = payment_orders.payment_order_id
where
    (dead_letters.closed_at is null or $1::boolean)
    and (
        dead_letters.opened_at > $2
        or (dead_letters.opened_at = $2 and dead_letters.payment_order_id > $3)
    )
order by dead_letters.opened_at, dead_letters.payment_order_id
limit $4;

-- name: dead_letter_of
select
    dead_letters.*,
    payment_orders.checkout_id,
    payment_orders.state,
    payment_orders.amount_minor,
    payment_orders.currency
from dead_letters
inner join payment_orders on dead_letters.payment_order_id = payment_orders.payment_order_id
where dead_letters.payment_order_id = $1;

-- name: log_of
select *
from payment_order_log
where payment_order_id = $1
order by version;

-- name: transfers_of
select *
from transfers
where payment_order_id = $1
order by seq;

-- name: wallet_entries_of
select *
from wallet_entries
where payment_order_id = $1
order by at, cause;

-- name: mismatches_of
select *
from mismatches
where payment_order_id = $1
order by opened_at, mismatch_id;

-- name: transfers_after
select *
from transfers
where seq > $1
order by seq
limit $2;

-- name: outbox_after
select *
from outbox
where position > $1
order by position
limit $2;

-- name: add_receiver
insert into receivers (receiver, position)
values ($1, 0)
on conflict do nothing;

-- name: receiver
select position
from receivers
where receiver = $1;

-- name: advance_receiver
update receivers
set position = $2
where receiver = $1 and position < $2;

-- name: purge_claims
delete from idempotency_keys
where
    (scope, key) in (
        select
            old.scope,
            old.key
        from idempotency_keys as old
        where old.at < $1
        order by old.at
        limit $2
    );
