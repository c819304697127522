-- name: event_counters
select
    payment_events.checkout_id as subject,
    'orders_open is ' || payment_events.orders_open || ' of ' || payment_events.orders_total || ', but '
    || count(payment_orders.payment_order_id) filter (where payment_orders.is_open) || ' of '
    || count(payment_orders.payment_order_id) || ' orders are open' as detail
from payment_events
left join payment_orders on payment_events.checkout_id = payment_orders.checkout_id
group by payment_events.checkout_id
having
    payment_events.orders_open <> count(payment_orders.payment_order_id) filter (where payment_orders.is_open)
    or payment_events.orders_total <> count(payment_orders.payment_order_id)
order by payment_events.checkout_id
limit $1;

-- name: account_balances
with entries as (
    select
        debit_id as account_id,
        amount_minor as debits_minor,
        0 as credits_minor
    from transfers
    union all
    select
        credit_id as account_id,
        0 as debits_minor,
        amount_minor as credits_minor
    from transfers
),

sums as (
    select
        account_id,
        sum(debits_minor) as debits_minor,
        sum(credits_minor) as credits_minor
    from entries
    group by account_id
)

select
    accounts.account_id as subject,
    'the balance says debits ' || coalesce(account_balances.debits_minor::text, 'nothing') || ', credits '
    || coalesce(account_balances.credits_minor::text, 'nothing') || '; the transfers sum to '
    || coalesce(sums.debits_minor, 0) || ' and ' || coalesce(sums.credits_minor, 0) as detail
from accounts
left join account_balances on accounts.account_id = account_balances.account_id
left join sums on accounts.account_id = sums.account_id
where
    account_balances.account_id is null
    or account_balances.debits_minor <> coalesce(sums.debits_minor, 0)
    or account_balances.credits_minor <> coalesce(sums.credits_minor, 0)
order by accounts.account_id
limit $1;

-- name: zero_sum
select
    accounts.currency as subject,
    'debits ' || sum(account_balances.debits_minor)
    || ', credits ' || sum(account_balances.credits_minor) as detail
from accounts
inner join account_balances on accounts.account_id = account_balances.account_id
group by accounts.currency
having sum(account_balances.debits_minor) <> sum(account_balances.credits_minor)
order by accounts.currency
limit $1;

-- name: ledger_head
select
    'ledger' as subject,
    'the head is at ' || ledger_head.seq || ', the newest of ' || (select count(*) from transfers)
    || ' transfers is ' || coalesce(newest.seq, 0) as detail
from ledger_head
left join transfers as newest on newest.seq = (select max(seq) from transfers)
where
    ledger_head.seq <> coalesce(newest.seq, 0)
    or ledger_head.seq <> (select count(*) from transfers)
    or (newest.hash is not null and newest.hash <> ledger_head.hash)
order by subject
limit $1;

-- name: wallets
with sums as (
    select
        seller_account,
        currency,
        sum(available_minor) as available_minor,
        sum(pending_minor) as pending_minor,
        sum(held_minor) as held_minor
    from wallet_entries
    group by seller_account, currency
)

select
    wallets.seller_account || ' ' || wallets.currency as subject,
    'the wallet says available ' || wallets.available_minor || ', pending ' || wallets.pending_minor || ', held '
    || wallets.held_minor || '; its entries sum to ' || coalesce(sums.available_minor, 0) || ', '
    || coalesce(sums.pending_minor, 0) || ', ' || coalesce(sums.held_minor, 0) as detail
from wallets
left join sums on wallets.seller_account = sums.seller_account and wallets.currency = sums.currency
where
    wallets.available_minor <> coalesce(sums.available_minor, 0)
    or wallets.pending_minor <> coalesce(sums.pending_minor, 0)
    or wallets.held_minor <> coalesce(sums.held_minor, 0)
order by wallets.seller_account, wallets.currency
limit $1;

-- name: wallet_against_ledger
-- What one book has and the other will have in a moment is left out on both sides.
with entries as (
    select
        credit_id as account_id,
        amount_minor as minor,
        payment_order_id
    from transfers
    union all
    select
        debit_id as account_id,
        -amount_minor as minor,
        payment_order_id
    from transfers
),

owed as (
    select
        accounts.owner as seller_account,
        accounts.currency,
        entries.minor
    from accounts
    inner join entries on accounts.account_id = entries.account_id
    left join payment_orders on entries.payment_order_id = payment_orders.payment_order_id
    where accounts.type = 'seller_payable' and coalesce(payment_orders.wallet_updated, true)
),

kept as (
    select
        wallet_entries.seller_account,
        wallet_entries.currency,
        wallet_entries.available_minor + wallet_entries.pending_minor + wallet_entries.held_minor as minor
    from wallet_entries
    left join payment_orders on wallet_entries.payment_order_id = payment_orders.payment_order_id
    where coalesce(payment_orders.ledger_updated, true)
),

ledger as (
    select
        seller_account,
        currency,
        sum(minor) as minor
    from owed
    group by seller_account, currency
),

wallet as (
    select
        seller_account,
        currency,
        sum(minor) as minor
    from kept
    group by seller_account, currency
)

select
    coalesce(ledger.seller_account, wallet.seller_account) || ' '
    || coalesce(ledger.currency, wallet.currency) as subject,
    'the ledger owes ' || coalesce(ledger.minor, 0) || ', the wallet holds ' || coalesce(wallet.minor, 0) as detail
from ledger
full outer join wallet on ledger.seller_account = wallet.seller_account and ledger.currency = wallet.currency
where coalesce(ledger.minor, 0) <> coalesce(wallet.minor, 0)
order by subject
limit $1;

-- name: order_against_ledger
with captures as (
    select
        payment_order_id,
        count(*) as n,
        sum(amount_minor) as minor,
        min(currency) as currency,
        min(credit_id) as credit_id
    from transfers
    where kind = 'capture' and payment_order_id is not null
    group by payment_order_id
)

select
    payment_orders.payment_order_id as subject,
    payment_orders.state || ' over ' || payment_orders.amount_minor || ' ' || payment_orders.currency
    || ', ledger_updated ' || payment_orders.ledger_updated || ', but the ledger holds '
    || coalesce(captures.n, 0) || ' captures over ' || coalesce(captures.minor, 0) || ' to '
    || coalesce(captures.credit_id, 'nobody') as detail
from payment_orders
left join captures on payment_orders.payment_order_id = captures.payment_order_id
where
    payment_orders.ledger_updated <> (captures.n is not null)
    or (
        captures.n is not null
        and (
            captures.n <> 1
            or captures.minor <> payment_orders.amount_minor
            or captures.currency <> payment_orders.currency
            or captures.credit_id
            <> 'seller_payable:' || payment_orders.seller_account || ':' || payment_orders.currency
        )
    )
order by payment_orders.payment_order_id
limit $1;

-- name: order_against_wallet
with captures as (
    select
        payment_order_id,
        count(*) as n,
        sum(available_minor + pending_minor + held_minor) as minor,
        min(currency) as currency,
        min(seller_account) as seller_account
    from wallet_entries
    where kind = 'capture' and payment_order_id is not null
    group by payment_order_id
)

select
    payment_orders.payment_order_id as subject,
    payment_orders.state || ' over ' || payment_orders.amount_minor || ' ' || payment_orders.currency
    || ', wallet_updated ' || payment_orders.wallet_updated || ', but the wallet of '
    || coalesce(captures.seller_account, 'nobody') || ' holds ' || coalesce(captures.n, 0) || ' entries over '
    || coalesce(captures.minor, 0) as detail
from payment_orders
left join captures on payment_orders.payment_order_id = captures.payment_order_id
where
    payment_orders.wallet_updated <> (captures.n is not null)
    or (
        captures.n is not null
        and (
            captures.n <> 1
            or captures.minor <> payment_orders.amount_minor
            or captures.currency <> payment_orders.currency
            or captures.seller_account <> payment_orders.seller_account
        )
    )
order by payment_orders.payment_order_id
limit $1;

-- name: order_log
with steps as (
    select
        payment_order_id,
        version,
        from_state,
        to_state,
        row_number() over (partition by payment_order_id order by version) as place,
        lag(to_state, 1, 'NOT_STARTED') over (partition by payment_order_id order by version) as came_from
    from payment_order_log
),

logs as (
    select
        payment_order_id,
        count(*) as n,
        max(version) as version,
        sum(
            case
                when version <> place then 1
                when from_state <> came_from then 1
                when from_state <> to_state and from_state || '>' || to_state <> all($2::text[]) then 1
                else 0
            end
        ) as wrong
    from steps
    group by payment_order_id
)

select
    payment_orders.payment_order_id as subject,
    'version ' || payment_orders.version || ' in ' || payment_orders.state || ', but its log has '
    || coalesce(logs.n, 0) || ' entries up to version ' || coalesce(logs.version, 0) || ' ending in '
    || coalesce(last_step.to_state, 'NOT_STARTED') || ', ' || coalesce(logs.wrong, 0)
    || ' of which do not follow' as detail
from payment_orders
left join logs on payment_orders.payment_order_id = logs.payment_order_id
left join payment_order_log as last_step
    on payment_orders.payment_order_id = last_step.payment_order_id and logs.version = last_step.version
where
    coalesce(logs.wrong, 0) > 0
    or coalesce(logs.n, 0) <> payment_orders.version
    or coalesce(last_step.to_state, 'NOT_STARTED') <> payment_orders.state
order by payment_orders.payment_order_id
limit $1;

-- name: attempts
select
    payment_orders.payment_order_id as subject,
    'is at attempt ' || payment_orders.attempt || ', but ' || count(payment_attempts.attempt)
    || ' are recorded' as detail
from payment_orders
left join payment_attempts on payment_orders.payment_order_id = payment_attempts.payment_order_id
group by payment_orders.payment_order_id
having
    payment_orders.attempt <> count(payment_attempts.attempt)
    or payment_orders.attempt <> coalesce(max(payment_attempts.attempt), 0)
order by payment_orders.payment_order_id
limit $1;

-- name: ends_not_announced
select
    payment_order_log.payment_order_id as subject,
    'ended in ' || payment_order_log.to_state || ' with version ' || payment_order_log.version
    || ', which was never announced' as detail
from payment_order_log
left join outbox
    on outbox.event_id = 'order:' || payment_order_log.payment_order_id || ':' || payment_order_log.version
where
    outbox.position is null
    and payment_order_log.to_state in ('SUCCESS', 'FAILED', 'CANCELLED')
    and payment_order_log.from_state <> payment_order_log.to_state
order by payment_order_log.payment_order_id, payment_order_log.version
limit $1;

-- name: announced_without_cause
select
    outbox.event_id as subject,
    'says ' || outbox.kind || ', but no decision did' as detail
from outbox
left join payment_order_log
    on
        outbox.payment_order_id = payment_order_log.payment_order_id
        and split_part(substr(outbox.event_id, length('order:' || outbox.payment_order_id || ':') + 1), '.', 1)
        = payment_order_log.version::text
where outbox.payment_order_id is not null and payment_order_log.version is null
order by outbox.position
limit $1;

-- name: done_announced
with announced as (
    select
        checkout_id,
        count(*) as n
    from outbox
    where kind = 'payment.done'
    group by checkout_id
)

select
    payment_events.checkout_id as subject,
    'was done ' || payment_events.times_done || ' times, and announced ' || coalesce(announced.n, 0)
    || ' times' as detail
from payment_events
left join announced on payment_events.checkout_id = announced.checkout_id
where
    payment_events.times_done <> coalesce(announced.n, 0)
    or (payment_events.orders_open = 0 and payment_events.times_done = 0)
order by payment_events.checkout_id
limit $1;

-- name: outbox_positions
select
    'outbox' as subject,
    'the head is at ' || outbox_head.position || ', but there are ' || (select count(*) from outbox)
    || ' events up to position ' || (select coalesce(max(outbox.position), 0) from outbox) as detail
from outbox_head
where
    outbox_head.position <> (select count(*) from outbox)
    or outbox_head.position <> (select coalesce(max(outbox.position), 0) from outbox)
order by subject
limit $1;
