"""When to try again: the named retry policies, and the policy of a PSP as a whole.

All durations are integer microseconds. Randomness comes in as `jitter`, a number in [0, 1000).
"""

from enum import StrEnum

import msgspec

from tallystick.engine.events import DeclineClass

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US


# A "come back at once" that is meant for ever would be a busy loop.
_RETRY_AFTER_LEAST_US = SECOND_US // 10
# So many times the PSP's word is taken.
_RETRY_AFTER_TRUSTED = 5


class Strategy(StrEnum):
    """The retry strategies that the mission names."""

    IMMEDIATE = "immediate"
    FIXED = "fixed"
    INCREMENTAL = "incremental"
    EXPONENTIAL = "exponential"
    CANCEL = "cancel"


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait before attempt n+1, and when to stop trying.

    exponential: base · 2^(n-1), capped, of which a random half is taken off ("equal jitter"), so that a herd
    spreads and nobody retries at once. incremental: base · n. A PSP's Retry-After wins over all of them. When it
    has been wrong for five attempts, it is only the least wait: a PSP that says "in two seconds" for an hour would
    otherwise be asked 1,800 times.
    """

    strategy: Strategy = Strategy.EXPONENTIAL
    base_us: int = 1 * SECOND_US
    cap_us: int = 5 * MINUTE_US
    attempts_max: int = 5
    elapsed_max_us: int = 1 * DAY_US
    """No new attempt begins later than this after the order was recorded."""

    def wait_us(self, *, attempt: int, jitter: int, retry_after_us: int | None = None) -> int | None:
        """Return the wait after failed attempt number `attempt`, or None for no further attempt."""
        if self.strategy is Strategy.CANCEL or attempt >= self.attempts_max:
            return None
        if retry_after_us is None:
            return self._own_wait_us(attempt, jitter)
        wait_us = max(retry_after_us, _RETRY_AFTER_LEAST_US)
        return wait_us if attempt <= _RETRY_AFTER_TRUSTED else max(wait_us, self._own_wait_us(attempt, jitter))

    def _own_wait_us(self, attempt: int, jitter: int) -> int:
        if self.strategy is Strategy.IMMEDIATE:
            return 0
        if self.strategy is Strategy.FIXED:
            return self.base_us
        if self.strategy is Strategy.INCREMENTAL:
            return min(self.cap_us, self.base_us * attempt)
        # The exponent is bounded before the shift: 2^40 s is beyond any cap, and 2^(10^6) beyond any memory.
        full = min(self.cap_us, self.base_us << min(attempt - 1, 40))
        return full - full * jitter // 2000


class PspPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one PSP promises, and how we deal with it. Every adapter states its own."""

    key_lifetime_us: int = 24 * HOUR_US
    """How long the PSP remembers an idempotency key. A resend after that could charge again (rule 5)."""
    request_window_us: int = 15 * MINUTE_US
    """How long a request may still arrive after it was sent, by the PSP's statement (rule 4)."""
    send_within_us: int = MINUTE_US
    """A request that has not left this long after it was recorded is not sent any more: the engine stood still,
    and another one may have gone on without it. Longer than any queue of ours, or load would look like a pause."""
    can_void: bool = True
    """Whether the PSP can kill a key, seen or not, so that it never charges."""
    resends_max: int = 3
    """How often one attempt is sent again under its key before it is fenced instead."""
    inquiry_schedule_us: tuple[int, ...] = (2 * SECOND_US, 10 * SECOND_US, MINUTE_US, 5 * MINUTE_US, HOUR_US)
    """Waits between inquiries; the last one repeats."""
    unknown_bound_us: int = HOUR_US
    """After this long in UNKNOWN a person is called. The order stays UNKNOWN, and is still inquired about."""
    pending_bound_us: int = 3 * DAY_US
    """After this long in PENDING a person is called; the PSP is still asked, and believed."""
    review_expiry_us: int = 7 * DAY_US
    on_soft_decline: RetryPolicy = RetryPolicy(base_us=30 * SECOND_US, cap_us=HOUR_US, attempts_max=3)
    on_hard_decline: RetryPolicy = RetryPolicy(strategy=Strategy.CANCEL)
    on_not_executed: RetryPolicy = RetryPolicy(attempts_max=1000)
    """Nothing reached the issuer, so patience costs nothing: an hour of outage is sat out."""

    @property
    def arrives_within_us(self) -> int:
        """How long after it was recorded a request may still arrive: it may leave late, and then travel long."""
        return self.send_within_us + self.request_window_us

    def on_decline(self, decline_class: DeclineClass) -> RetryPolicy:
        """Return the retry policy for a decline of this class."""
        return self.on_hard_decline if decline_class is DeclineClass.HARD else self.on_soft_decline

    def inquiry_wait_us(self, inquiries: int) -> int:
        """Return the wait before the next inquiry after `inquiries` of them."""
        return self.inquiry_schedule_us[min(inquiries, len(self.inquiry_schedule_us) - 1)]
