"""The page of a run loads nothing, lets nothing in, and shows in a real browser what the run was.

The tests in a browser run where Chromium and Playwright's Python package are installed, and say so elsewhere.
"""

import base64
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick.cli.sim_step import RunChoice
from tallystick.cli.sim_trace import run_trace
from tallystick.sim.causes import find_causes
from tallystick.sim.html_trace import Page, build, render, write_page
from tallystick.sim.narrate import narrate
from tallystick.sim.options import RunOptions
from tallystick.sim.snapshots import Recording
from tallystick.sim.step_source import Source, from_scenario, from_seed, run
from tallystick.sim.world import World

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def page_of(source: Source) -> tuple[Recording, Page]:
    """Return a run and its page."""
    recording = run(source)
    told = narrate(recording)
    return recording, build(source.title, recording, told, find_causes(recording, told))


@pytest.fixture(scope="module")
def wrong() -> Source:
    """Return a run in which somebody is charged twice."""
    for seed in range(100):
        options = RunOptions(seed=seed, mutant="no_key")
        if any(one.invariant == "no_double_charge" for one in World(options).run().verdicts):
            return from_seed(options)
    pytest.fail("no seed below 100 charges twice without keys")


# --- the page as text --------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_its_policy_allows_only_its_own_code() -> None:
    html = render(page_of(from_scenario("response_lost"))[1])
    assert not re.search(r"""(src|href|action)\s*=|@import|url\(|fetch\(|XMLHttpRequest|WebSocket""", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    style, script = (
        re.search(r"<style>(.*?)</style>", html, re.DOTALL),
        re.search(r"<script>(.*?)</script>", html, re.DOTALL),
    )
    assert policy
    assert style
    assert script
    for text in (style[1], script[1]):
        digest = base64.b64encode(sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert "unsafe" not in policy[1]


def test_what_comes_from_a_run_is_never_markup() -> None:
    page = page_of(from_scenario("response_lost"))[1]
    evil = "</script><img src=x onerror=alert(1)><!-- {{STYLE}}"
    html = render(msgspec.structs.replace(page, title=evil))
    assert evil not in html
    assert "<img" not in html
    data = re.search(r'type="application/json">(.*?)</script>', html, re.DOTALL)
    assert data
    assert msgspec.json.decode(data[1])["title"] == evil


def test_the_page_holds_every_step_and_replaying_its_changes_gives_the_end() -> None:
    recording, page = page_of(from_seed(RunOptions(seed=4)))
    assert len(page.steps) == len(page.changes) == len(page.causes) == len(recording)
    rows: dict[int, list[str | int] | None] = {}
    for changes in page.changes:
        for row, before, after in changes:
            assert rows.get(row) == before
            rows[row] = after
    states = {row[0]: row[2] for number, row in rows.items() if row and page.rows[number][0] == "order"}
    assert states == {name: order.state.value for name, order in recording.tables.orders.items()}


def test_arrows_join_steps_and_lanes_that_exist_and_lost_messages_are_stubs() -> None:
    _, page = page_of(from_scenario("response_lost"))
    for _, sender, sender_lane, to, to_lane, _ in page.arrows:
        assert 0 <= sender < len(page.steps)
        assert -1 <= to < len(page.steps)
        assert 0 <= sender_lane < len(page.lanes)
        assert 0 <= to_lane < len(page.lanes)
    lost = {kind for kind, _, _, to, _, _ in page.arrows if to < 0}
    assert lost == {"answer", "webhook"}


def test_the_banner_says_how_much_money_is_wrong(wrong: Source) -> None:
    _, page = page_of(wrong)
    assert page.broken
    assert page.money != "no money"
    assert page.accused
    assert all(0 <= found < len(page.steps) for found, _, _, _ in page.verdicts)


def test_the_page_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_page(from_seed(RunOptions(seed=9)), tmp_path / f"{name}.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_the_command_writes_the_page_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = RunChoice(file=None, seed=None, scenario="response_lost", mutant=None, orders=20, faults="all")
    target = tmp_path / "made" / "run.html"
    assert run_trace(choice, html=target) == 0
    assert str(target) in capsys.readouterr().out
    assert "response_lost" in target.read_text(encoding="utf-8")


# --- the page in a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a real Chromium."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: the page was not looked at in a browser")
    api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Return a function that opens a run's page from a file, offline; at the end nothing must have gone wrong."""
    contexts: list[Any] = []
    troubles: list[str] = []

    def note_request(request: Any) -> None:
        if not request.url.startswith("file:"):
            troubles.append(request.url)

    def open_page(source: Source, *, width: int = 1280, height: int = 800, scheme: str = "light") -> Any:
        path = tmp_path / "run.html"
        write_page(source, path)
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", note_request)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def test_keys_and_slider_move_through_a_story(opened: Any) -> None:
    source = from_scenario("response_lost")
    recording = run(source)
    page = opened(source)
    assert "Every invariant held" in page.inner_text("#verdict")
    page.keyboard.press("End")
    assert page.inner_text("#place").startswith(f"step {len(recording) - 1} of {len(recording) - 1}")
    assert "SUCCESS" in page.inner_text("#order")
    assert "charged" in page.inner_text("#payment")
    page.keyboard.press("Home")
    assert page.inner_text("#place").startswith("step 0 of")
    assert "no payment order is recorded" in page.inner_text("#order")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#place").startswith("step 2 of")
    strike = next(number for number, step in enumerate(recording.steps) if step.kind == "response_lost")
    page.locator("#slider").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", str(strike)
    )
    assert "Fault response_lost" in page.inner_text("#sentence")
    # The moment that matters: the PSP has taken the money, and we do not know.
    assert "EXECUTING" in page.inner_text("#order")
    assert "charged" in page.inner_text("#payment")
    assert "is asked to charge" in page.inner_text("#why")


def test_a_wrong_run_opens_where_it_is_wrong(opened: Any, wrong: Source) -> None:
    page = opened(wrong)
    verdict = next(one for one in run(wrong).result.verdicts if one.invariant == "no_double_charge")
    assert "wrong" in page.inner_text("#verdict")
    page.select_option("#filter", label=f"{verdict.subject} ✗")
    page.keyboard.press("Home")
    for _ in range(20):
        page.keyboard.press("w")
        if "no_double_charge" in page.inner_text("#found"):
            break
    assert verdict.subject in page.inner_text("#found")
    assert page.inner_text("#payment").count("charged") == 2
    assert page.locator("#order tr.odd").count() == 1
    page.select_option("#filter", "all")
    assert page.locator("#order tbody tr:visible").count() > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(opened: Any, wrong: Source, scheme: str) -> None:
    page = opened(wrong, width=390, height=844, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#canvas").bounding_box()["width"] > 300
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    dark = sum(map(int, re.findall(r"\d+", ground)[:3])) < sum(map(int, re.findall(r"\d+", ink)[:3]))
    assert dark == (scheme == "dark")


def test_a_large_run_stays_fluid(opened: Any) -> None:
    page = opened(from_seed(RunOptions(seed=3, orders=260)))
    total = int(page.get_attribute("#slider", "max"))
    assert total > 5_000
    middle_ms = page.evaluate(
        """() => {
            const slider = document.getElementById("slider"), took = [];
            for (let jump = 0; jump < 40; jump += 1) {
                const began = performance.now();
                slider.value = String((jump * 1999) % slider.max);
                slider.dispatchEvent(new Event("input"));
                took.push(performance.now() - began);
            }
            return took.sort((one, other) => one - other)[20];
        }"""
    )
    # Jumps across the whole run; a step costs far less. Two hundred is a machine that is busy with other things.
    assert middle_ms < 200
    page.check("#each")
    page.click("#in")
    page.select_option("#scale", "time")
    page.keyboard.press("End")
    assert page.inner_text("#sentence") == "All is over."
    pixels = page.evaluate(
        """() => {
            const canvas = document.getElementById("canvas");
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            const seen = new Set();
            for (let at = 0; at < data.length; at += 404) seen.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
            return seen.size;
        }"""
    )
    assert pixels > 3
