"""Goal: every story ends as its file says; a story that is told wrongly fails, and so does a broken engine."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from tallystick.actors.gateway import Gateway
from tallystick.actors.order_actor import OrderActor
from tallystick.engine import moves
from tallystick.engine.events import EngineRestarted, Event, OutcomeLost
from tallystick.engine.order import Order, State
from tallystick.engine.records import Context, Effect, Ignored, Outcome
from tallystick.engine.transitions import TABLE, Move
from tallystick.sim import scenario
from tallystick.sim.scenario import BadScenario, Scenario, UnknownScenario
from tallystick.sim.scenario_judge import ScenarioReport, run_scenario

NAMES = scenario.names()

LESSONS = (
    "medusa 13301",
    "killbill 1015",
    "opencollective 2285",
    "killbill 809",
    "hyperswitch payment_sync",
    "hyperswitch 11448",
    "woocommerce-gateway-stripe 542",
    "akash console 3449",
    "adyen-magento 748",
    "mollie 1047",
    "saleor 10925",
    "woocommerce-payments 3381",
    "stripe-ios 2141",
    "hyperswitch 2239",
    "formance stack 1633",
    "midaz 2425",
    "dbos-transact-ts 1267",
)
"""What users of other payment systems have reported about paying in."""

SIMPLE = """
title = "A title"
story = "One sentence. Another."
from = "nowhere"

[[checkout]]
pays = [{ order = "po-1", amount = "1.00" }]
"""
EXPECT = """
[expect]
within_s = 30
taken = ["1.00 EUR"]
orders.po-1 = { state = "SUCCESS", charged = 1 }
"""


def told(trouble: str = "", expect: str = EXPECT) -> Scenario:
    return scenario.parse(SIMPLE + trouble + expect, name="told")


def played(name: str) -> ScenarioReport:
    return run_scenario(scenario.load(name))


# --- the stories -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_story_ends_as_it_must(name: str) -> None:
    assert played(name).broken == ()


def test_there_are_enough_stories_and_every_lesson_is_among_them() -> None:
    """At least 34, and every report about paying in is named as where some story came from."""
    sources = " ".join(scenario.load(name).came_from for name in NAMES)
    assert len(NAMES) >= 34
    assert [lesson for lesson in LESSONS if lesson not in sources] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_story_is_short_and_in_whole_sentences(name: str) -> None:
    """For somebody from support: two to five sentences, and a title that needs no code."""
    one = scenario.load(name)
    sentences = [part for part in one.story.replace("?", ".").split(".") if part.strip()]
    assert 2 <= len(sentences) <= 5
    assert "_" not in one.title


def test_the_same_story_is_the_same_trace() -> None:
    first, second = played("crash_again_and_again"), played("crash_again_and_again")
    assert (first.trace_digest, first.steps) == (second.trace_digest, second.steps)


# --- what is told wrongly is said --------------------------------------------------------------------------------


def test_a_trouble_that_never_comes_fails_the_story() -> None:
    """Otherwise a story whose order was renamed would pass without anything going wrong in it."""
    report = run_scenario(told('[[trouble]]\nwhat = "response_lost"\norder = "po-1"\nattempt = 2\n'))
    assert not report.passed
    assert "response_lost never came" in report.broken[0]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('state = "SUCCESS"', 'state = "CANCELLED"', "state should be CANCELLED, and is SUCCESS"),
        ("charged = 1", "charged = 2", "charges taken by the PSPs should be 2, and is 1"),
        ("charged = 1", "charged = 1, attempts = 2", "attempts should be 2, and is 1"),
        ("charged = 1", "charged = 1, ledger = false", "entries in the ledger should be 0, and is 1"),
        ("charged = 1", 'charged = 1, dead_letter = "x"', "open dead letter should be x, and is none"),
        ("charged = 1", 'charged = 1, mismatches = ["charged_twice"]', "mismatches should be charged_twice"),
        ("charged = 1", 'charged = 1, path = ["NOT_STARTED"]', "and is NOT_STARTED > EXECUTING > SUCCESS"),
        ("1.00 EUR", "2.00 EUR", "the PSPs should have 2.00 EUR in all, and have 1.00 EUR"),
        ("within_s = 30", "within_s = 30\nengines = 2", "2 engines should live, and 1 did"),
        ("within_s = 30", "within_s = 30\nfenced = 1", "1 engines should end because another took over, and 0"),
        ("within_s = 30", "within_s = 30\ntold_to_wait = true", "clients were told to try later 0 times"),
        ("within_s = 30", 'within_s = 30\nnever_stored = ["po-1"]', "po-1 should never be recorded, and was"),
        ("within_s = 30", 'within_s = 30\nnever_logged = ["engine_up"]', "should never log engine_up, and did"),
    ],
)
def test_every_expectation_is_held_against_the_end(right: str, wrong: str, said: str) -> None:
    assert run_scenario(told()).passed
    report = run_scenario(told(expect=EXPECT.replace(right, wrong, 1)))
    assert any(said in line for line in report.broken), report.broken


def test_what_is_not_over_in_time_is_stuck() -> None:
    """The PSP's answer is lost, which takes ten seconds to see."""
    lost = (
        '[[trouble]]\nwhat = "response_lost"\norder = "po-1"\n[[trouble]]\nwhat = "webhook_lost"\norder = "po-1"\n'
    )
    assert run_scenario(told(lost)).passed
    report = run_scenario(told(lost, EXPECT.replace("within_s = 30", "within_s = 3")))
    assert any("nothing_stuck, po-1: still EXECUTING" in line for line in report.broken), report.broken


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not toml", "Expected"),
        (SIMPLE + '[[trouble]]\nwhat = "earthquake"\n' + EXPECT, "no trouble 'earthquake'"),
        (SIMPLE + '[[trouble]]\nwhat = "response_lost"\n' + EXPECT, "needs 'order'"),
        (SIMPLE + '[[trouble]]\nwhat = "psp_down"\n' + EXPECT, "needs 'from_s'"),
        (SIMPLE + '[[trouble]]\nwhat = "commit_slow"\nof = "everything"\n' + EXPECT, "no commit 'everything'"),
        (SIMPLE + '[[trouble]]\nwhat = "psp_down"\nfrom_s = 1.0\nhow = "badly"\n' + EXPECT, "how"),
        (SIMPLE + '[[trouble]]\nwhat = "webhook_late"\norder = "po-1"\ndelay_s = 1.5\n' + EXPECT, "whole seconds"),
        (SIMPLE.replace("po-1", "po-2") + EXPECT, "nothing is said about how po-2 must end"),
        (SIMPLE.replace('"1.00"', '"1.00", seller = "zoe"') + EXPECT, "no seller 'zoe'"),
    ],
)
def test_a_file_that_is_no_scenario_says_why(text: str, said: str) -> None:
    with pytest.raises(BadScenario, match=said):
        scenario.parse(text, name="bad")


def test_a_setting_that_does_not_exist_says_so() -> None:
    with pytest.raises(BadScenario, match="wishes"):
        run_scenario(told("[psp]\nwishes = 3\n"))


def test_an_unknown_name_says_where_the_names_are() -> None:
    with pytest.raises(UnknownScenario, match="list"):
        scenario.load("no_such_story")


def test_the_files_lie_where_a_clone_has_them() -> None:
    """A clone has them at its root; a wheel carries them inside the package."""
    root = Path(scenario.__file__).parents[3]
    assert sorted(path.stem for path in (root / "scenarios").glob("*.toml")) == NAMES
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"scenarios": "tallystick/sim/scenarios"}


# --- a broken engine fails ---------------------------------------------------------------------------------------


def patch_cell(monkeypatch: pytest.MonkeyPatch, state: State, event: type[Event], by: object) -> None:
    cell = TABLE[state][event]
    assert isinstance(cell, Move)
    monkeypatch.setitem(TABLE[state], event, Move(by, (*cell.to, *State)))  # type: ignore[arg-type]


def test_a_timeout_taken_for_a_failure_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic: no answer means "failed", so a second attempt is made under a new key."""

    def as_failure(order: Order, event: OutcomeLost, ctx: Context) -> Outcome:
        return moves.retry_or_fail(
            order, event, ctx, policy=ctx.policy.on_not_executed, count=1, code="timeout", retry_after_us=None
        )

    patch_cell(monkeypatch, State.EXECUTING, OutcomeLost, as_failure)
    broken = "\n".join(played("response_lost").broken)
    assert "no_double_charge" in broken
    assert "charges taken by the PSPs should be 1, and is 2" in broken


def test_a_restart_that_sends_again_without_asking_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new engine that begins anew charges twice, unless it asks first."""

    def begin_anew(order: Order, event: object, ctx: Context) -> Outcome:
        return moves.begin_attempt(order, ctx)

    patch_cell(monkeypatch, State.EXECUTING, EngineRestarted, begin_anew)
    assert any("no_double_charge" in line for line in played("crash_after_the_call").broken)


def test_a_restart_that_forgets_the_books_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A charged order whose ledger entry was lost in a crash must not stay half done."""

    def nothing(order: Order, event: object, ctx: Context) -> Outcome:
        return Ignored("forgotten")

    patch_cell(monkeypatch, State.SUCCESS, EngineRestarted, nothing)
    assert any("nothing_stuck" in line for line in played("crash_before_the_ledger").broken)


def test_a_late_request_that_is_sent_all_the_same_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused engine that wakes up with an old request in its hand charges a second time."""
    monkeypatch.setattr(Gateway, "_refuse_late", lambda *_: None)
    assert any("no_double_charge" in line for line in played("paused_past_the_window").broken)


def test_books_that_are_written_out_of_turn_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wallet before the ledger: a seller would have money that no book knows."""
    act = OrderActor._act
    swapped = {Effect.POST_TO_LEDGER: Effect.CREDIT_WALLET}

    async def wallet_only(self: OrderActor, effect: Effect) -> object:
        return await act(self, swapped.get(effect, effect))

    monkeypatch.setattr(OrderActor, "_act", wallet_only)
    assert not played("all_goes_well").passed


def test_a_report_survives_json() -> None:
    report = played("all_goes_well")
    assert msgspec.json.decode(msgspec.json.encode(report), type=ScenarioReport) == report
