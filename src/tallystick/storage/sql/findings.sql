-- name: event_counters
select
    payment_events.checkout_id as subject,
    'orders_open is ' || payment_events.orders_open || ', but '
    || count(payment_orders.payment_order_id) filter (where payment_orders.is_open) || ' of '
    || count(payment_orders.payment_order_id) || ' orders are open (orders_total '
    || payment_events.orders_total || ')' as detail
from payment_events
left join payment_orders on payment_events.checkout_id = payment_orders.checkout_id
group by payment_events.checkout_id
having
    payment_events.orders_open
    <> count(payment_orders.payment_order_id) filter (where payment_orders.is_open)
    or payment_events.orders_total <> count(payment_orders.payment_order_id)
limit $1;
