"""Goal: the story of an order says under which key a request was sent again."""

import msgspec
from tests.support.orders import PSP, T0, an_order, declined

from tallystick.engine.events import Event, NotExecuted, RiskAccepted, Source, WakeTimeReached
from tallystick.engine.order import State
from tallystick.engine.story import tell
from tallystick.engine.views import AttemptView, LogEntry, OrderView, Story


def entry(version: int, source: State, target: State, event: Event) -> LogEntry:
    """Return a line of the log, a second after the one before."""
    return LogEntry(
        version=version,
        at=T0 + version * 1_000_000,
        from_state=source,
        to_state=target,
        event=type(event).__name__,
        detail=msgspec.json.encode(event),
    )


def attempt(number: int, begun_at: int) -> AttemptView:
    """Return an attempt's row."""
    return AttemptView(
        attempt=number,
        psp=PSP,
        idempotency_key=f"key-{number}",
        sends=1,
        begun_at=begun_at,
        last_sent_at=begun_at,
        result=None,
        code=None,
        psp_reference=None,
        resolved_at=None,
    )


def lines(why: Event, *attempts: AttemptView) -> list[str]:
    """Tell an order that began, ended `why`, waited, and went on."""
    log = (
        entry(1, State.NOT_STARTED, State.EXECUTING, RiskAccepted()),
        entry(2, State.EXECUTING, State.RETRY_WAIT, why),
        entry(3, State.RETRY_WAIT, State.EXECUTING, WakeTimeReached()),
    )
    view = OrderView(order=an_order(State.EXECUTING), updated_at=T0, attempts=attempts)
    story = Story(view=view, log=log, transfers=(), wallet_entries=(), mismatches=(), dead_letter=None)
    return tell(story)[1:4]


def test_a_refused_request_is_told_to_be_sent_again_under_the_same_key() -> None:
    throttled = NotExecuted(source=Source.RESPONSE, psp=PSP, attempt=1, reason="throttled")
    began, refused, again = lines(throttled, attempt(1, T0 + 1_000_000))
    assert "attempt 1 at psp-a was committed as begun" in began
    assert refused.endswith("had no effect, throttled; so it is sent again later, under the same key.")
    assert again.endswith("sent again under the same key, which cannot charge twice.")


def test_a_declined_attempt_is_told_to_be_followed_by_a_new_one() -> None:
    _, refused, again = lines(declined(), attempt(1, T0 + 1_000_000), attempt(2, T0 + 3_000_000))
    assert refused.endswith("certainly not charged, so a new attempt follows later.")
    assert "attempt 2 at psp-a was committed as begun" in again
