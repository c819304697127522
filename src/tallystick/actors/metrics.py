"""The figures an operator watches, in Prometheus' terms. One registry per engine: two can share a process."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tallystick.engine.order import State

_FAST_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """All metrics of one engine. Label values are bounded: never an id, never an amount."""

    def __init__(self) -> None:
        registry = CollectorRegistry(auto_describe=True)
        self.registry = registry
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        payments = counter("tallystick_payment_orders_total", "Moves of payment orders into a state.", ["state"])
        # Looked up once: finding a label costs more than counting.
        self.payments = {state: payments.labels(state.value) for state in State}
        self.accepted = counter("tallystick_payments_accepted_total", "Payment events at the door.", ["result"])
        self.order_seconds = histogram(
            "tallystick_payment_order_seconds",
            "From acceptance to SUCCESS with both books written.",
            buckets=_SLOW_S,
        )
        self.psp_seconds = histogram(
            "tallystick_psp_call_seconds", "Duration of PSP calls.", ["psp", "call"], buckets=_SLOW_S
        )
        self.psp_answers = counter(
            "tallystick_psp_answers_total", "Answers of PSP calls.", ["psp", "call", "answer"]
        )
        self.psp_in_flight = gauge("tallystick_psp_calls_in_flight", "PSP calls under way.", ["psp"])
        self.circuit_open = gauge(
            "tallystick_psp_circuit_open", "1 while a PSP's circuit breaker is open.", ["psp"]
        )
        self.batch_size = histogram(
            "tallystick_batch_size", "Items per committed batch.", ["writer"], buckets=_BATCH
        )
        self.commit_seconds = histogram(
            "tallystick_commit_seconds", "Duration of a batch's transaction.", ["writer"], buckets=_FAST_S
        )
        self.store_errors = counter(
            "tallystick_store_errors_total", "Batches that had to be repeated.", ["writer", "error"]
        )
        self.queue_depth = gauge("tallystick_queue_depth", "Messages waiting in a mailbox.", ["mailbox"])
        self.live_orders = gauge("tallystick_live_order_actors", "Order actors alive.")
        self.restarts = counter("tallystick_actor_restarts_total", "Crashed actors, by name.", ["actor"])
        self.in_flight = gauge("tallystick_payment_orders_open", "Open payment orders by state.", ["state"])
        self.oldest_seconds = gauge(
            "tallystick_payment_orders_oldest_seconds", "Age of the oldest open order by state.", ["state"]
        )
        self.overdue = counter(
            "tallystick_payment_orders_overdue_total", "Alerts on orders in flight too long.", ["state"]
        )
        self.mismatches = counter("tallystick_mismatches_total", "Evidence that contradicted belief.", ["kind"])
        self.outbox_lag = gauge(
            "tallystick_outbox_position", "Last position delivered, by receiver.", ["receiver"]
        )
        self.delivery_failures = counter(
            "tallystick_outbox_failures_total", "Failed deliveries, by receiver.", ["receiver"]
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
