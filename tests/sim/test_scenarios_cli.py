"""Goal: `tallystick sim scenario` tells stories in words, writes JSON, and exits with 1 when one ends wrongly."""

from pathlib import Path

import msgspec
import pytest

from tallystick.actors.gateway import Gateway
from tallystick.cli import app
from tallystick.sim import scenario


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(["sim", "scenario", *words])
    return int(ended.value.code or 0)


def test_the_list_names_every_story(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    printed = capsys.readouterr().out
    assert [name for name in scenario.names() if name not in printed] == []


def test_one_story_is_told_with_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("response_lost") == 0
    printed = capsys.readouterr().out
    assert "its answer never reaches us" in printed
    assert "SUCCESS after 1 attempt; the money was taken once" in printed


def test_show_tells_every_step_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("response_lost", "--show") == 0
    printed = capsys.readouterr().out
    assert "!! Fault response_lost (po-1)" in printed
    assert "alpha is asked what became of po-1" in printed
    assert "Why po-1 is where it is" in printed


def test_a_story_that_ends_wrongly_exits_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the JSON says what is wrong, for a machine."""
    monkeypatch.setattr(Gateway, "_refuse_late", lambda *_: None)
    file = tmp_path / "out.json"
    assert run("paused_past_the_window", "--json", str(file)) == 1
    assert "NOT AS IT SHOULD BE: the auditor: no_double_charge, po-1" in capsys.readouterr().out
    found = msgspec.json.decode(file.read_bytes())
    assert (found["scenarios"], found["failed"]) == (1, 1)
    assert any("no_double_charge" in line for line in found["reports"][0]["broken"])


def test_all_of_them_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert run("all", "--json", str(file)) == 0
    count = len(scenario.names())
    assert f"{count} scenarios, 0 failed." in capsys.readouterr().out
    assert len(msgspec.json.decode(file.read_bytes())["reports"]) == count
