"""The figures an operator watches, in Prometheus' terms. One registry per engine: two can share a process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FAST_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """All metrics of one engine. Label values are bounded: never an id, never an amount."""

    def __init__(self) -> None:
        registry = CollectorRegistry(auto_describe=True)
        self.registry = registry
        self.payments = Counter(
            "tallystick_payment_orders_total",
            "Moves of payment orders into a state.",
            ["state"],
            registry=registry,
        )
        self.accepted = Counter(
            "tallystick_payments_accepted_total", "Payment events at the door.", ["result"], registry=registry
        )
        self.order_seconds = Histogram(
            "tallystick_payment_order_seconds",
            "From acceptance to SUCCESS with both books written.",
            buckets=_SLOW_S,
            registry=registry,
        )
        self.psp_seconds = Histogram(
            "tallystick_psp_call_seconds",
            "Duration of PSP calls.",
            ["psp", "call"],
            buckets=_SLOW_S,
            registry=registry,
        )
        self.psp_answers = Counter(
            "tallystick_psp_answers_total", "Answers of PSP calls.", ["psp", "call", "answer"], registry=registry
        )
        self.psp_in_flight = Gauge(
            "tallystick_psp_calls_in_flight", "PSP calls under way.", ["psp"], registry=registry
        )
        self.circuit_open = Gauge(
            "tallystick_psp_circuit_open", "1 while a PSP's circuit breaker is open.", ["psp"], registry=registry
        )
        self.batch_size = Histogram(
            "tallystick_batch_size", "Items per committed batch.", ["writer"], buckets=_BATCH, registry=registry
        )
        self.commit_seconds = Histogram(
            "tallystick_commit_seconds",
            "Duration of a batch's transaction.",
            ["writer"],
            buckets=_FAST_S,
            registry=registry,
        )
        self.store_errors = Counter(
            "tallystick_store_errors_total",
            "Batches that had to be repeated.",
            ["writer", "error"],
            registry=registry,
        )
        self.queue_depth = Gauge(
            "tallystick_queue_depth", "Messages waiting in a mailbox.", ["mailbox"], registry=registry
        )
        self.live_orders = Gauge("tallystick_live_order_actors", "Order actors alive.", registry=registry)
        self.restarts = Counter(
            "tallystick_actor_restarts_total", "Crashed actors, by name.", ["actor"], registry=registry
        )
        self.in_flight = Gauge(
            "tallystick_payment_orders_open", "Open payment orders by state.", ["state"], registry=registry
        )
        self.oldest_seconds = Gauge(
            "tallystick_payment_orders_oldest_seconds",
            "Age of the oldest open order by state.",
            ["state"],
            registry=registry,
        )
        self.overdue = Counter(
            "tallystick_payment_orders_overdue_total",
            "Alerts on orders in flight too long.",
            ["state"],
            registry=registry,
        )
        self.mismatches = Counter(
            "tallystick_mismatches_total", "Evidence that contradicted belief.", ["kind"], registry=registry
        )
        self.outbox_lag = Gauge(
            "tallystick_outbox_position", "Last position delivered, by receiver.", ["receiver"], registry=registry
        )
        self.delivery_failures = Counter(
            "tallystick_outbox_failures_total", "Failed deliveries, by receiver.", ["receiver"], registry=registry
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
