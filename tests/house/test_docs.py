"""Goal: what the documents say is so: examples run on a real server, links lead somewhere, pictures are fresh.

A fenced block after `<!-- run -->` is run: `sh` by a shell, `python` by an interpreter of its own. It must end
with 0, or with 1 after `<!-- run, exit 1 -->`. A block after `<!-- gives -->` is compared with what it printed:
JSON must be contained in it, text must match line by line, and `…` stands for anything. Addresses and the
program's path are those of the test's own server; a page that only simulates gets none.
"""

import json
import re
import runpy
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tests.support.house import House, free_port

from tallystick.sim.faults import BY_NAME
from tallystick.sim.goals import NEVER_MADE
from tallystick.sim.stepper import COMMANDS
from tallystick.sim.verdict import INVARIANTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"<!-- (run|run, exit 1|gives) -->\n```(\w+)\n(.*?)\n```\n", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Example(msgspec.Struct, frozen=True):
    """One block to run, with what it should print."""

    language: str
    text: str
    expected_as: str | None
    expected: str
    exit_code: int = 0

    @property
    def needs_server(self) -> bool:
        """Say whether it does anything but simulate."""
        commands = [line for line in self.text.splitlines() if "tallystick" in line]
        return not commands or not all("tallystick sim " in line for line in commands)


def examples(page: Path) -> list[Example]:
    """Return a page's examples in order."""
    found: list[Example] = []
    for kind, language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind != "gives":
            found.append(Example(language, text, None, "", exit_code=int(kind.endswith("1"))))
        else:
            last = found.pop()
            assert last.expected_as is None, f"{page.name}: two answers to one example"
            found.append(msgspec.structs.replace(last, expected_as=language, expected=text))
    return found


def contained(expected: Any, found: Any, where: str = "") -> None:
    """Fail unless everything expected is in what was found; `…` stands for any text."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        for key, value in expected.items():
            assert key in found, f"{where}.{key} is missing"
            contained(value, found[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(expected) == len(found), where
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            contained(one, other, f"{where}[{index}]")
    else:
        assert expected in ("…", found), f"{where}: {found!r} in place of {expected!r}"


def alike(expected: str, found: str) -> bool:
    """Compare text line by line; `…` matches anything, and a line of nothing else matches any number of lines."""
    pattern = "\n".join(
        "*" if line == "…" else line.replace("[", "[[]").replace("?", "[?]").replace("*", "[*]").replace("…", "*")
        for line in expected.strip().splitlines()
    )
    return fnmatchcase(found.strip(), pattern)


@pytest.fixture
async def served(page: Path, tmp_path: Path) -> AsyncIterator[House]:
    """A server as `make run` starts it: its own PSP, its own database. Only a folder where none is needed."""
    tmp_path.chmod(0o755)  # noqa: ASYNC240  (one call on a local disk)
    house = House(tmp_path)
    house.psp_port = free_port()
    try:
        if any(example.needs_server for example in examples(page)):
            house._engine = await house._run(
                "serve",
                *("--port", str(house.port), "--psp-port", str(house.psp_port), "--data-dir", str(house.data_dir)),
            )
            await house._until_up(f"{house.url}/readyz")
        yield house
    finally:
        await house.stop()


async def output_of(example: Example, house: House) -> str:
    """Run one example, and return what it printed."""
    program = f"{shlex.quote(sys.executable)} -m tallystick"
    text = example.text.replace("http://127.0.0.1:8080", house.url).replace(".venv/bin/tallystick", program)
    command = ["/bin/sh", "-euc", text] if example.language == "sh" else [sys.executable, "-c", example.text]
    done = await trio.run_process(
        command,
        cwd=house.folder,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "TALLYSTICK_DATA_DIR": str(house.data_dir),
            "HOME": str(house.folder),
            "LC_ALL": "C.UTF-8",
        },
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == example.exit_code, f"{example.text}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode().replace(house.url, "http://127.0.0.1:8080")


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
async def test_examples_do_what_the_page_says(page: Path, served: House) -> None:
    """Each page from top to bottom, on a server of its own."""
    for example in examples(page):
        printed = await output_of(example, served)
        if example.expected_as == "json":
            contained(json.loads(example.expected), json.loads(printed))
        elif example.expected_as == "text":
            assert alike(example.expected, printed), f"{example.text}\n--- printed\n{printed}"


def test_the_pages_that_shall_be_run_are() -> None:
    """A marker that is misspelt would silently run nothing."""
    counts = {str(page.relative_to(ROOT)): len(examples(page)) for page in PAGES}
    assert counts["README.md"] >= 3
    assert counts["docs/api.md"] >= 3
    assert counts["docs/operations.md"] >= 2
    assert counts["docs/simulator.md"] >= 7


def test_links_lead_somewhere() -> None:
    """Files that a page links to exist."""
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        for link in _LINK.findall(page.read_text(encoding="utf-8"))
        if not re.match(r"https?:|#", link) and not (page.parent / link.split("#")[0]).exists()
    ]
    assert broken == []


def files_named(text: str) -> Iterator[str]:
    """Yield what a page puts in code font and looks like a file of ours."""
    for name in re.findall(r"`([a-z_./]+/[a-z_./]*)`", text):
        if name.startswith(("engine/", "actors/", "storage/", "http/", "sim/", "cli/")):
            yield f"src/tallystick/{name}"
        elif name.startswith(("tests/", "src/", "tools/", "docs/")):
            yield name


def test_the_files_that_pages_name_exist() -> None:
    """Architecture and decisions send people to places; the places must be there."""
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in files_named(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_generated_pages_are_up_to_date() -> None:
    """`make diagrams` would change nothing."""
    assert runpy.run_path(str(ROOT / "tools" / "diagrams.py"))["out_of_date"]() == []


def test_tables_in_the_simulators_page_have_a_place() -> None:
    """A table whose place is gone from the page would silently never be made, and the page tell half."""
    made = runpy.run_path(str(ROOT / "tools" / "diagrams.py"))["simulator_page"]()
    for name in (*BY_NAME, *INVARIANTS):
        assert f"| `{name}` |" in made, name
    assert all(f"| {state} | {event} |" in made for state, event in NEVER_MADE)


def test_every_command_of_the_step_through_is_explained() -> None:
    """A command that nobody has heard of might as well not exist."""
    page = (ROOT / "docs" / "step-through.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`{name}" not in page] == []


def test_the_comparison_itself() -> None:
    """A comparison that always agrees would prove nothing."""
    contained({"a": ["…", 1]}, {"a": ["x", 1], "b": 2})
    for wrong in ({"a": [1]}, {"b": 1}, {"a": ["x", 2]}, {"a": "x"}):
        with pytest.raises(AssertionError):
            contained({"a": ["…", 1]}, wrong)
    assert alike("a … c", "a b c\n")
    assert alike("…\nlast", "one\ntwo\nlast")
    assert not alike("a … c", "a b d")
    assert not alike("[a]", "a")
