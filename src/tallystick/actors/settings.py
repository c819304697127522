"""The engine's bounds and rhythms. Everything is bounded, and every bound has a reason."""

import msgspec

from tallystick.engine.retry import DAY_US, MINUTE_US, SECOND_US


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits towards one PSP."""

    concurrency_max: int = 256
    """Calls under way at once; PSPs throttle above a few hundred connections of one merchant."""
    rate_per_s: int | None = None
    """Charges per second, or None for no limit of ours."""
    call_timeout_s: float = 30.0
    """After this a call's outcome is unknown. Card authorisations seldom take longer than 20 s."""
    breaker_failures: int = 20
    """Consecutive failures that open the circuit. High enough that one bad minute of one issuer does not."""
    breaker_open_s: float = 5.0
    """How long an open circuit sends nothing before one trial call."""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one engine."""

    live_orders_max: int = 10_000
    """Order actors alive at once (about 10 kB each); above this the door answers 503."""
    accept_queue_max: int = 2_000
    """Payment events waiting to be recorded; about half a second of work."""
    writer_queue_max: int = 20_000
    """At least two questions per live order, so that a full box means a bug or a dead database."""
    batch_rows_max: int = 500
    """Beyond this a batch gains little and its neighbours wait longer (measured: 200 to 1,000 is flat)."""
    accept_give_up_s: float = 5.0
    """How long a caller waits for a database that is away before hearing 503."""
    order_mailbox_max: int = 32
    """Evidence waiting for one order; more is a storm, and its senders wait."""
    scheduler_page: int = 500
    scheduler_gap_s: float = 0.02
    """The least time between two looks for what is due, so that wakes come in batches."""
    scheduler_idle_s: float = 5.0
    """The most time between two looks; orders that this engine put to sleep are known sooner."""
    sweep_interval_s: float = 10.0
    overdue_us: int = 5 * MINUTE_US
    """How long an order may be in a state that should pass by itself before an alert."""
    outbox_page: int = 500
    outbox_poll_s: float = 1.0
    delivery_backoff_max_s: float = 60.0
    lease_ttl_us: int = 10 * SECOND_US
    """How long a dead engine's partitions stay taken. Safety does not depend on it: writes are fenced."""
    claim_lifetime_us: int = 7 * DAY_US
    """How long an Idempotency-Key is remembered; the documented promise is at least 24 h."""
    drain_s: float = 10.0
    """How long an ordered shutdown waits for what is under way."""
    gateway: GatewaySettings = GatewaySettings()
