-- migrate:up

-- What PostgreSQL enforces beyond the portable schema: history that cannot be rewritten, and orders that move
-- only as the transition table allows. Errors carry these codes: TS001 history is immutable, TS002 illegal move,
-- TS003 an order's fixed fields or flags changed.

create function refuse_rewriting() returns trigger
language plpgsql
as $$
begin
    raise exception '% of % is refused: its rows are never changed', tg_op, tg_table_name
        using errcode = 'TS001';
end
$$;

create trigger transfers_immutable
before update or delete or truncate on transfers
for each statement
execute function refuse_rewriting();

create trigger wallet_entries_immutable
before update or delete or truncate on wallet_entries
for each statement
execute function refuse_rewriting();

create trigger payment_order_log_immutable
before update or delete or truncate on payment_order_log
for each statement
execute function refuse_rewriting();

create trigger outbox_immutable
before update or truncate on outbox
for each statement
execute function refuse_rewriting();

create trigger payment_orders_stay
before delete or truncate on payment_orders
for each statement
execute function refuse_rewriting();

create function refuse_illegal_move() returns trigger
language plpgsql
as $$
begin
    raise exception 'order % may not move from % to %', old.payment_order_id, old.state, new.state
        using errcode = 'TS002';
end
$$;

-- Generated: python -m tallystick.storage.legal_moves
create trigger payment_orders_moves_legally
before update on payment_orders
for each row
when (
    old.state <> new.state
    and (old.state || '>' || new.state) not in (
        'AWAITING_BUYER>CANCELLED',
        'AWAITING_BUYER>FAILED',
        'AWAITING_BUYER>PENDING',
        'AWAITING_BUYER>RETRY_WAIT',
        'AWAITING_BUYER>SUCCESS',
        'AWAITING_BUYER>UNKNOWN',
        'EXECUTING>AWAITING_BUYER',
        'EXECUTING>CANCELLED',
        'EXECUTING>FAILED',
        'EXECUTING>PENDING',
        'EXECUTING>RETRY_WAIT',
        'EXECUTING>SUCCESS',
        'EXECUTING>UNKNOWN',
        'FAILED>EXECUTING',
        'FAILED>UNKNOWN',
        'IN_REVIEW>CANCELLED',
        'IN_REVIEW>EXECUTING',
        'IN_REVIEW>FAILED',
        'NOT_STARTED>CANCELLED',
        'NOT_STARTED>EXECUTING',
        'NOT_STARTED>FAILED',
        'NOT_STARTED>IN_REVIEW',
        'PENDING>AWAITING_BUYER',
        'PENDING>CANCELLED',
        'PENDING>FAILED',
        'PENDING>RETRY_WAIT',
        'PENDING>SUCCESS',
        'PENDING>UNKNOWN',
        'RETRY_WAIT>AWAITING_BUYER',
        'RETRY_WAIT>CANCELLED',
        'RETRY_WAIT>EXECUTING',
        'RETRY_WAIT>FAILED',
        'RETRY_WAIT>PENDING',
        'RETRY_WAIT>SUCCESS',
        'RETRY_WAIT>UNKNOWN',
        'UNKNOWN>AWAITING_BUYER',
        'UNKNOWN>CANCELLED',
        'UNKNOWN>EXECUTING',
        'UNKNOWN>FAILED',
        'UNKNOWN>PENDING',
        'UNKNOWN>RETRY_WAIT',
        'UNKNOWN>SUCCESS'
    )
)
execute function refuse_illegal_move();

create function refuse_altered_order() returns trigger
language plpgsql
as $$
begin
    raise exception 'order %: what was agreed, its version or a flag changed against the rules',
        old.payment_order_id using errcode = 'TS003';
end
$$;

-- What the buyer agreed to never changes; a state changes only with a new version; versions only go up by one;
-- a flag that is set stays set.
create trigger payment_orders_keep_terms
before update on payment_orders
for each row
when (
    old.payment_order_id <> new.payment_order_id
    or old.checkout_id <> new.checkout_id
    or old.partition <> new.partition
    or old.seller_account <> new.seller_account
    or old.amount_minor <> new.amount_minor
    or old.currency <> new.currency
    or old.created_at <> new.created_at
    or new.version not in (old.version, old.version + 1)
    or (old.state <> new.state and old.version = new.version)
    or (old.ledger_updated and not new.ledger_updated)
    or (old.wallet_updated and not new.wallet_updated)
)
execute function refuse_altered_order();

-- Room on the page for the updates that an order sees in its life, so that they need no new index entries.
alter table payment_orders set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

alter table payment_events set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

alter table payment_attempts set (fillfactor = 70);

alter table account_balances set (fillfactor = 50);

alter table wallets set (fillfactor = 50);

-- migrate:down

-- Forward only: what has been paid is not undone by a schema.
