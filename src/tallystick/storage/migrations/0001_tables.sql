-- migrate:up

-- The tables, in SQL that PostgreSQL and the distributed databases that speak its protocol understand alike.
-- What PostgreSQL can enforce beyond that is in 0002.
--
-- Times (columns that end in _at, and state_since) are bigint microseconds since the Unix epoch, UTC: exact,
-- and the same integers that the engine computes with. Money is bigint minor units beside its currency.
-- Ids are compared byte by byte (collate "C"): every machine then sorts and locks them in the same order.

-- Who owns which orders. Every write checks the epochs of its partitions; a claim raises them (fencing).
create table partitions (
    partition smallint primary key,
    epoch bigint not null default 0,
    owner text not null default '',
    lease_expires_at bigint not null default 0,
    constraint partitions_partition_range check (partition between 0 and 15)
);

insert into partitions (partition)
values (0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13), (14), (15);

-- One checkout. is_payment_done is orders_open = 0; the counter moves in the commit that ends an order.
create table payment_events (
    checkout_id text collate "C" primary key,
    partition smallint not null,
    buyer_info text not null,
    content_hash bytea not null,
    orders_total integer not null,
    orders_open integer not null,
    times_done integer not null default 0,
    created_at bigint not null,
    constraint payment_events_partition_range check (partition between 0 and 15),
    constraint payment_events_content_hash_sha256 check (length(content_hash) = 32),
    constraint payment_events_orders_total_positive check (orders_total > 0),
    constraint payment_events_orders_open_range check (orders_open between 0 and orders_total),
    constraint payment_events_times_done_range check (times_done >= 0)
);

create table payment_orders (
    payment_order_id text collate "C" primary key,
    checkout_id text collate "C" not null references payment_events (checkout_id),
    partition smallint not null,
    seller_account text collate "C" not null,
    buyer_account text not null,
    amount_minor bigint not null,
    currency text collate "C" not null,
    method text not null,
    psp_token text,
    created_at bigint not null,
    state text collate "C" not null,
    version integer not null,
    state_since bigint not null,
    wake_at bigint,
    psp text,
    attempt integer not null,
    sends integer not null,
    refusals integer not null,
    attempt_begun_at bigint,
    last_sent_at bigint,
    declines integer not null,
    inquiries integer not null,
    escalated boolean not null,
    next_action_url text,
    next_action_expires_at bigint,
    psp_reference text,
    charged_attempt integer,
    stray_psp text,
    stray_attempt integer,
    stray_reference text,
    failure_code text,
    ledger_updated boolean not null default false,
    wallet_updated boolean not null default false,
    updated_at bigint not null,
    -- Something is left to do: not ended, or charged and a book is still to be written.
    is_open boolean not null generated always as (
        state not in ('FAILED', 'CANCELLED') and not (state = 'SUCCESS' and ledger_updated and wallet_updated)
    ) stored,
    constraint payment_orders_partition_range check (partition between 0 and 15),
    constraint payment_orders_amount_positive check (amount_minor > 0),
    constraint payment_orders_currency_code check (length(currency) = 3),
    constraint payment_orders_method_known check (method in ('card_token', 'hosted_page')),
    constraint payment_orders_state_known check (
        state in (
            'NOT_STARTED', 'IN_REVIEW', 'EXECUTING', 'AWAITING_BUYER', 'PENDING', 'UNKNOWN', 'RETRY_WAIT',
            'SUCCESS', 'FAILED', 'CANCELLED'
        )
    ),
    constraint payment_orders_counts_not_negative check (
        version >= 0 and attempt >= 0 and sends >= 0 and declines >= 0 and inquiries >= 0
    ),
    constraint payment_orders_refusals_are_sends check (refusals between 0 and sends),
    constraint payment_orders_success_has_charge check (
        state <> 'SUCCESS' or (psp is not null and charged_attempt is not null)
    ),
    constraint payment_orders_books_only_of_success check (
        state = 'SUCCESS' or not (ledger_updated or wallet_updated)
    ),
    constraint payment_orders_ended_sleeps_never check (
        wake_at is null or state not in ('SUCCESS', 'FAILED', 'CANCELLED')
    )
);

create index payment_orders_by_checkout on payment_orders (checkout_id);

-- Indexes over what is open alone. They name no column that changes on the way from NOT_STARTED to SUCCESS, so
-- that PostgreSQL can update rows in place (HOT).
create index payment_orders_open on payment_orders (payment_order_id) where is_open;

create index payment_orders_waking on payment_orders (wake_at) where wake_at is not null;

-- One attempt is one idempotency key at one PSP; its row is committed before the call.
create table payment_attempts (
    payment_order_id text collate "C" not null references payment_orders (payment_order_id),
    attempt integer not null,
    psp text not null,
    idempotency_key text collate "C" not null,
    sends integer not null,
    begun_at bigint not null,
    last_sent_at bigint not null,
    result text,
    code text,
    psp_reference text,
    resolved_at bigint,
    primary key (payment_order_id, attempt),
    constraint payment_attempts_attempt_positive check (attempt >= 1),
    constraint payment_attempts_sends_positive check (sends >= 1),
    constraint payment_attempts_key_unique unique (idempotency_key)
);

-- Every committed decision with its cause. version counts from 1, without a gap. detail is JSON text.
create table payment_order_log (
    payment_order_id text collate "C" not null references payment_orders (payment_order_id),
    version integer not null,
    at bigint not null,
    from_state text collate "C" not null,
    to_state text collate "C" not null,
    event text not null,
    detail text not null,
    transition_id text not null,
    primary key (payment_order_id, version),
    constraint payment_order_log_version_positive check (version >= 1)
);

create table accounts (
    account_id text collate "C" primary key,
    type text not null,
    owner text not null,
    currency text collate "C" not null,
    created_at bigint not null,
    constraint accounts_currency_code check (length(currency) = 3),
    constraint accounts_currency_unique unique (account_id, currency)
);

-- One row debits one account and credits another, so the sum of all entries is zero by construction. The
-- two-column keys make sure that both accounts have the transfer's currency.
create table transfers (
    seq bigint primary key,
    cause text collate "C" not null,
    kind text not null,
    debit_id text collate "C" not null,
    credit_id text collate "C" not null,
    amount_minor bigint not null,
    currency text collate "C" not null,
    payment_order_id text collate "C" references payment_orders (payment_order_id),
    at bigint not null,
    hash bytea not null,
    constraint transfers_cause_unique unique (cause),
    constraint transfers_debit_account foreign key (debit_id, currency)
    references accounts (account_id, currency),
    constraint transfers_credit_account foreign key (credit_id, currency)
    references accounts (account_id, currency),
    constraint transfers_seq_positive check (seq >= 1),
    constraint transfers_amount_positive check (amount_minor > 0),
    constraint transfers_two_accounts check (debit_id <> credit_id),
    constraint transfers_hash_sha256 check (length(hash) = 32)
);

create index transfers_by_debit on transfers (debit_id, seq);

create index transfers_by_credit on transfers (credit_id, seq);

create index transfers_by_order on transfers (payment_order_id) where payment_order_id is not null;

create table account_balances (
    account_id text collate "C" primary key references accounts (account_id),
    debits_minor bigint not null default 0,
    credits_minor bigint not null default 0,
    constraint account_balances_not_negative check (debits_minor >= 0 and credits_minor >= 0)
);

-- The newest transfer's number and hash: one row, moved by every batch that posts.
create table ledger_head (
    singleton boolean primary key default true,
    seq bigint not null,
    hash bytea not null,
    constraint ledger_head_singleton check (singleton),
    constraint ledger_head_hash_sha256 check (length(hash) = 32)
);

insert into ledger_head (seq, hash)
values (0, decode('0000000000000000000000000000000000000000000000000000000000000000', 'hex'));

create table wallets (
    seller_account text collate "C" not null,
    currency text collate "C" not null,
    available_minor bigint not null,
    pending_minor bigint not null,
    held_minor bigint not null,
    updated_at bigint not null,
    primary key (seller_account, currency),
    constraint wallets_currency_code check (length(currency) = 3)
);

create table wallet_entries (
    cause text collate "C" primary key,
    kind text not null,
    seller_account text collate "C" not null,
    currency text collate "C" not null,
    available_minor bigint not null,
    pending_minor bigint not null,
    held_minor bigint not null,
    payment_order_id text collate "C" references payment_orders (payment_order_id),
    at bigint not null,
    constraint wallet_entries_wallet foreign key (seller_account, currency)
    references wallets (seller_account, currency)
);

create index wallet_entries_by_order on wallet_entries (payment_order_id) where payment_order_id is not null;

-- Business events in commit order. Positions come from outbox_head, whose row lock is held until the commit, so
-- that they have no gap and a reader who has seen one has seen all before it.
create table outbox (
    position bigint primary key,
    event_id text collate "C" not null,
    kind text not null,
    checkout_id text collate "C" not null,
    payment_order_id text collate "C",
    at bigint not null,
    payload text not null,
    constraint outbox_event_unique unique (event_id),
    constraint outbox_position_positive check (position >= 1)
);

create table outbox_head (
    singleton boolean primary key default true,
    position bigint not null,
    constraint outbox_head_singleton check (singleton)
);

insert into outbox_head (position) values (0);

create table receivers (
    receiver text collate "C" primary key,
    position bigint not null,
    constraint receivers_position_range check (position >= 0)
);

create table idempotency_keys (
    scope text collate "C" not null,
    key text collate "C" not null,
    request_hash bytea not null,
    checkout_id text collate "C" not null references payment_events (checkout_id),
    at bigint not null,
    primary key (scope, key)
);

create index idempotency_keys_by_age on idempotency_keys (at);

create table mismatches (
    mismatch_id text collate "C" primary key,
    payment_order_id text collate "C" references payment_orders (payment_order_id),
    kind text not null,
    attempt integer not null,
    psp text not null,
    psp_reference text,
    amount_minor bigint not null,
    currency text collate "C" not null,
    remedy text not null,
    opened_at bigint not null
);

create index mismatches_by_order on mismatches (payment_order_id) where payment_order_id is not null;

create table dead_letters (
    payment_order_id text collate "C" primary key references payment_orders (payment_order_id),
    reason text not null,
    opened_at bigint not null,
    closed_at bigint,
    resolution text,
    constraint dead_letters_closed_with_resolution check ((closed_at is null) = (resolution is null))
);

create index dead_letters_open on dead_letters (opened_at, payment_order_id) where closed_at is null;

-- migrate:down

-- Forward only: what has been paid is not undone by a schema.
