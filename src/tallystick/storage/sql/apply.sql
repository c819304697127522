-- name: lock_orders
-- Sorted, so that transactions over the same orders queue instead of deadlocking. NO KEY: the foreign keys of
-- other writers' rows need not wait.
select
    payment_order_id,
    state,
    version,
    is_open
from payment_orders
where payment_order_id = any($1::text[])
order by payment_order_id
for no key update;

-- name: transitions_at
select
    logged.payment_order_id,
    logged.transition_id
from unnest($1::text[], $2::integer[]) as asked (payment_order_id, version)
inner join payment_order_log as logged
    on asked.payment_order_id = logged.payment_order_id and asked.version = logged.version;

-- name: move_orders
update payment_orders as stored
set
    state = moved.state,
    version = moved.version,
    state_since = moved.state_since,
    wake_at = moved.wake_at,
    psp = moved.psp,
    attempt = moved.attempt,
    sends = moved.sends,
    refusals = moved.refusals,
    attempt_begun_at = moved.attempt_begun_at,
    last_sent_at = moved.last_sent_at,
    declines = moved.declines,
    inquiries = moved.inquiries,
    escalated = moved.escalated,
    next_action_url = moved.next_action_url,
    next_action_expires_at = moved.next_action_expires_at,
    psp_reference = moved.psp_reference,
    charged_attempt = moved.charged_attempt,
    stray_psp = moved.stray_psp,
    stray_attempt = moved.stray_attempt,
    stray_reference = moved.stray_reference,
    failure_code = moved.failure_code,
    updated_at = moved.updated_at
from
    unnest(
        $1::text[], $2::text[], $3::integer[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[],
        $8::text[], $9::integer[], $10::integer[], $11::integer[], $12::bigint[], $13::bigint[], $14::integer[],
        $15::integer[], $16::boolean[], $17::text[], $18::bigint[], $19::text[], $20::integer[], $21::text[],
        $22::integer[], $23::text[], $24::text[], $25::bigint[]
    )
        as moved (
            payment_order_id, from_state, from_version, state, version, state_since, wake_at, psp, attempt, sends,
            refusals,
            attempt_begun_at,
            last_sent_at,
            declines,
            inquiries,
            escalated,
            next_action_url,
            next_action_expires_at,
            psp_reference, charged_attempt, stray_psp, stray_attempt, stray_reference, failure_code, updated_at
        )
where
    stored.payment_order_id = moved.payment_order_id
    and stored.state = moved.from_state
    and stored.version = moved.from_version;

-- name: insert_log
insert into payment_order_log (
    payment_order_id, version, at, from_state, to_state, event, detail, transition_id
)
select
    new.payment_order_id,
    new.version,
    new.at,
    new.from_state,
    new.to_state,
    new.event,
    new.detail,
    new.transition_id
from unnest(
    $1::text[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[]
)
    as new (payment_order_id, version, at, from_state, to_state, event, detail, transition_id);

-- name: begin_attempts
insert into payment_attempts (
    payment_order_id, attempt, psp, idempotency_key, sends, begun_at, last_sent_at
)
select
    new.payment_order_id,
    new.attempt,
    new.psp,
    new.idempotency_key,
    1,
    new.begun_at,
    new.begun_at
from unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::bigint[])
    as new (payment_order_id, attempt, psp, idempotency_key, begun_at);

-- name: resend_attempts
update payment_attempts as stored
set
    sends = sent.sends,
    last_sent_at = sent.sent_at,
    -- What came of the sends before this one is in the log; what comes of the attempt is open again.
    result = null,
    code = null,
    psp_reference = null,
    resolved_at = null
from
    unnest($1::text[], $2::integer[], $3::integer[], $4::bigint[])
        as sent (payment_order_id, attempt, sends, sent_at)
where stored.payment_order_id = sent.payment_order_id and stored.attempt = sent.attempt;

-- name: resolve_attempts
update payment_attempts as stored
set
    result = resolved.result,
    code = resolved.code,
    psp_reference = resolved.psp_reference,
    resolved_at = resolved.resolved_at
from
    unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::bigint[])
        as resolved (payment_order_id, attempt, result, code, psp_reference, resolved_at)
where stored.payment_order_id = resolved.payment_order_id and stored.attempt = resolved.attempt;

-- name: open_mismatches
insert into mismatches (
    mismatch_id, payment_order_id, kind, attempt, psp, psp_reference, amount_minor, currency, remedy, opened_at
)
select
    new.mismatch_id,
    new.payment_order_id,
    new.kind,
    new.attempt,
    new.psp,
    new.psp_reference,
    new.amount_minor,
    new.currency,
    new.remedy,
    new.opened_at
from
    unnest(
        $1::text[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::bigint[], $8::text[],
        $9::text[], $10::bigint[]
    )
        as new (
            mismatch_id,
            payment_order_id,
            kind,
            attempt,
            psp,
            psp_reference,
            amount_minor,
            currency,
            remedy,
            opened_at
        )
on conflict do nothing;

-- name: close_dead_letters
update dead_letters as stored
set
    closed_at = closed.at,
    resolution = closed.resolution
from unnest($1::text[], $2::text[], $3::bigint[]) as closed (payment_order_id, resolution, at)
where stored.payment_order_id = closed.payment_order_id and stored.closed_at is null;

-- name: open_dead_letters
-- One that is open already keeps its age; one that was closed begins anew.
insert into dead_letters (payment_order_id, reason, opened_at)
select
    new.payment_order_id,
    new.reason,
    new.at
from unnest($1::text[], $2::text[], $3::bigint[]) as new (payment_order_id, reason, at)
on conflict (payment_order_id) do update
    set
        reason = excluded.reason,
        opened_at = case
            when dead_letters.closed_at is null then dead_letters.opened_at
            else excluded.opened_at
        end,
        closed_at = null,
        resolution = null;

-- name: count_open_orders
-- An order that ended (or was reopened) moves its event's counter; times_done numbers the times it came to zero.
with locked as materialized (
    select
        stored.checkout_id,
        changed.delta
    from unnest($1::text[], $2::integer[]) as changed (checkout_id, delta)
    inner join payment_events as stored on changed.checkout_id = stored.checkout_id
    order by stored.checkout_id
    for no key update of stored
)

update payment_events as stored
set
    orders_open = stored.orders_open + locked.delta,
    times_done = stored.times_done + case when stored.orders_open + locked.delta = 0 then 1 else 0 end
from locked
where stored.checkout_id = locked.checkout_id
returning stored.checkout_id, stored.orders_open, stored.times_done;

-- name: append_outbox
-- Always the last statement: the head's row stays locked from here to the commit, and no longer.
with head as (
    update outbox_head
    set position = position + cardinality($1::text[])
    returning position - cardinality($1::text[]) as position
)

insert into outbox (position, event_id, kind, checkout_id, payment_order_id, at, payload)
select
    head.position + new.place,
    new.event_id,
    new.kind,
    new.checkout_id,
    new.payment_order_id,
    new.at,
    new.payload
from head
cross join
    unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[])
    with ordinality as new (event_id, kind, checkout_id, payment_order_id, at, payload, place);
