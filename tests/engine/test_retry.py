"""Goal: each retry policy, by name and by its exact values; and what a PSP's own advice changes."""

import pytest

from tallystick.engine.events import DeclineClass
from tallystick.engine.retry import DAY_US, HOUR_US, MINUTE_US, SECOND_US, PspPolicy, RetryPolicy, Strategy


def waits(policy: RetryPolicy, attempts: int, jitter: int = 0) -> list[int | None]:
    """Return the waits in seconds after attempts 1 to n."""
    found = [policy.wait_us(attempt=attempt, jitter=jitter) for attempt in range(1, attempts + 1)]
    return [None if wait is None else wait // SECOND_US for wait in found]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("immediate", [0, 0, 0, 0, None]),
        ("fixed", [10, 10, 10, 10, None]),
        ("incremental", [10, 20, 30, 35, None]),
        ("exponential", [10, 20, 35, 35, None]),
        ("cancel", [None, None, None, None, None]),
    ],
)
def test_the_named_strategies(strategy: str, expected: list[int | None]) -> None:
    """Five names from the mission; base 10 s, cap 35 s, five attempts."""
    policy = RetryPolicy(
        strategy=Strategy(strategy), base_us=10 * SECOND_US, cap_us=35 * SECOND_US, attempts_max=5
    )
    assert waits(policy, 5) == expected


def test_exponential_is_the_default_and_takes_off_at_most_half() -> None:
    """Jitter spreads a herd, and never makes anybody retry at once."""
    policy = RetryPolicy()
    assert policy.strategy is Strategy.EXPONENTIAL
    assert policy.wait_us(attempt=1, jitter=0) == 1_000_000
    assert policy.wait_us(attempt=1, jitter=999) == 500_500
    assert policy.wait_us(attempt=4, jitter=500) == 6_000_000


def test_a_million_attempts_overflow_nothing() -> None:
    """The exponent is bounded before the shift."""
    assert RetryPolicy(attempts_max=10**7).wait_us(attempt=10**6, jitter=0) == 5 * MINUTE_US


@pytest.mark.parametrize("strategy", [s for s in Strategy if s is not Strategy.CANCEL])
def test_retry_after_wins(strategy: Strategy) -> None:
    """The PSP knows best when to come back, be it sooner or later than our own wait; nonsense is not obeyed."""
    policy = RetryPolicy(strategy=strategy)
    for retry_after_us in (SECOND_US // 2, 42 * SECOND_US, HOUR_US):
        assert policy.wait_us(attempt=1, jitter=700, retry_after_us=retry_after_us) == retry_after_us
    assert policy.wait_us(attempt=1, jitter=700, retry_after_us=-5) == SECOND_US // 10
    assert policy.wait_us(attempt=5, jitter=0, retry_after_us=42) is None


def test_a_psp_that_always_says_soon_is_not_asked_for_ever_at_that_pace() -> None:
    """After five wrong promises the waits grow all the same (scenario throttled_for_an_hour)."""
    policy = RetryPolicy(attempts_max=1000)
    waits_us = [policy.wait_us(attempt=n, jitter=0, retry_after_us=2 * SECOND_US) for n in range(1, 12)]
    assert waits_us[:5] == [2 * SECOND_US] * 5
    assert waits_us[5:7] == [32 * SECOND_US, 64 * SECOND_US]
    assert waits_us[-1] == 5 * MINUTE_US


def test_cancel_is_not_talked_into_a_retry() -> None:
    """A PSP's Retry-After does not revive what the policy has given up."""
    assert RetryPolicy(strategy=Strategy.CANCEL).wait_us(attempt=1, jitter=0, retry_after_us=1) is None


def test_a_psp_s_defaults() -> None:
    """Hard declines end, soft ones have three attempts, and what never reached the issuer is sat out."""
    policy = PspPolicy()
    assert policy.on_decline(DeclineClass.HARD).strategy is Strategy.CANCEL
    assert waits(policy.on_decline(DeclineClass.SOFT), 3) == [30, 60, None]
    assert policy.on_not_executed.wait_us(attempt=999, jitter=0) == 5 * MINUTE_US
    assert policy.on_not_executed.elapsed_max_us == DAY_US
    assert [policy.inquiry_wait_us(n) for n in (0, 1, 4, 99)] == [2 * SECOND_US, 10 * SECOND_US, HOUR_US, HOUR_US]
