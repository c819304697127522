-- name: insert_events
insert into payment_events (
    checkout_id, partition, buyer_info, content_hash, orders_total, orders_open, created_at
)
select
    new.checkout_id,
    new.partition,
    new.buyer_info,
    new.content_hash,
    new.orders_total,
    new.orders_total,
    new.created_at
from
    unnest($1::text[], $2::smallint[], $3::text[], $4::bytea[], $5::integer[], $6::bigint[])
        as new (checkout_id, partition, buyer_info, content_hash, orders_total, created_at)
on conflict do nothing;

-- name: insert_orders
insert into payment_orders (
    payment_order_id, checkout_id, partition, seller_account, buyer_account, amount_minor, currency, method,
    psp_token, created_at, state, version, state_since, wake_at, attempt, sends, refusals, declines, inquiries,
    escalated, updated_at
)
select
    new.payment_order_id,
    new.checkout_id,
    new.partition,
    new.seller_account,
    new.buyer_account,
    new.amount_minor,
    new.currency,
    new.method,
    new.psp_token,
    new.created_at,
    'NOT_STARTED',
    0,
    new.state_since,
    null,
    0,
    0,
    0,
    0,
    0,
    false,
    new.created_at
from
    unnest(
        $1::text[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
        $9::text[], $10::bigint[], $11::bigint[]
    )
        as new (
            payment_order_id,
            checkout_id,
            partition,
            seller_account,
            buyer_account,
            amount_minor,
            currency,
            method,
            psp_token, created_at, state_since
        )
on conflict do nothing;

-- name: insert_claims
insert into idempotency_keys (scope, key, request_hash, checkout_id, at)
select
    new.scope,
    new.key,
    new.request_hash,
    new.checkout_id,
    new.at
from
    unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bigint[])
        as new (scope, key, request_hash, checkout_id, at)
on conflict do nothing;

-- name: events_known
select
    checkout_id,
    content_hash,
    created_at
from payment_events
where checkout_id = any($1::text[]);

-- name: orders_known
select payment_order_id
from payment_orders
where payment_order_id = any($1::text[]);

-- name: claims_known
select
    stored.scope,
    stored.key,
    stored.request_hash
from unnest($1::text[], $2::text[]) as asked (scope, key)
inner join idempotency_keys as stored on asked.scope = stored.scope and asked.key = stored.key;
