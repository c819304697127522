"""Goal: the house rules that no linter knows. What is found is named with file and line."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

# Written in two parts, so that this file does not find itself.
_ELSEWHERE = re.compile(
    "|".join(["pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.(org|com)", r"deb\.debian"])
)
_MACHINE = re.compile(
    "|".join(["/wo" + r"rk/(main|shared)", "/ho" + "me/[a-z]", "/opt/" + "wheels", "/Us" + "ers/"])
)
_IGNORE = re.compile(r"#\s*(noqa|type:\s*ignore)(?P<codes>(:| ?\[)[^(#]*)?(?P<reason>.*)")


@cache
def tracked() -> tuple[Path, ...]:
    """Return the project's files: what git knows, or would if it were told."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return tuple(path for name in names if name and (path := ROOT / name).is_file())


def python_files(*folders: str) -> Iterator[tuple[Path, str]]:
    """Yield each Python file below the folders with its text."""
    roots = [ROOT / folder for folder in folders]
    for path in tracked():
        if path.suffix == ".py" and any(root in path.parents for root in roots):
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def test_imports_go_one_way() -> None:
    """The contracts in pyproject.toml: engine knows no framework, the rooms are blind to each other."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_no_package_markers_below_tests() -> None:
    """With importmode importlib they would only make two ways to name a test."""
    assert [path for path, _ in python_files("tests") if path.name == "__init__.py"] == []


def test_modules_and_functions_fit_the_head() -> None:
    """Long functions are where the bugs are."""
    found = []
    for path, text in python_files("src", "tests", "tools", "benchmarks", "examples"):
        if (lines := text.count("\n")) > MODULE_LINES_MAX:
            found.append(f"{path}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(f"{path}:{node.lineno} {node.name}: {lines} lines")
    assert found == []


def test_every_ignore_names_its_rule_and_says_why() -> None:
    """Beside it, or in a comment on the line above.

    In tests, and in mutants, which break things on purpose, the rule's name is enough.
    """
    found = []
    for path, text in python_files("src", "tests", "tools", "benchmarks", "examples"):
        named_is_enough = path.parts[0] == "tests" or "mutants" in path.parts
        lines = text.splitlines()
        for number, line in enumerate(lines):
            match = _IGNORE.search(line)
            if match is None or path == Path(__file__).relative_to(ROOT):
                continue
            above = lines[number - 1].strip() if number else ""
            explained = named_is_enough or match["reason"].strip(" #") or above.startswith("#")
            if not match["codes"] or not explained:
                found.append(f"{path}:{number + 1}")
    assert found == []


def test_only_one_function_assigns_a_state() -> None:
    """`moves.enter`. Everything else that makes an order reads it from a store, or records a new one."""
    found = []
    for path, text in python_files("src/tallystick/engine", "src/tallystick/actors", "src/tallystick/http"):
        for node in ast.walk(ast.parse(text)):
            name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if name in {"replace", "Order"} and any(word.arg == "state" for word in node.keywords):  # type: ignore[attr-defined]  # a Call, by the name
                found.append(f"{path}:{node.lineno}")  # type: ignore[attr-defined]  # a Call, by the name
    assert found == []
    moves = (ROOT / "src/tallystick/engine/moves.py").read_text(encoding="utf-8")
    assert moves.count('"state": state') == 1


def test_nothing_is_left_for_later() -> None:
    """No notes to self, no stubs, no tests that are switched off."""
    leftover = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImplemented" + r"Error|mark\.(skip|xfail)\b")
    found = [
        f"{path}:{number}"
        for path, text in python_files("src", "tests", "tools", "examples")
        for number, line in enumerate(text.splitlines(), 1)
        if leftover.search(line) and '"XX' + 'X"' not in line
    ]
    assert found == []


def test_no_file_names_a_registry_or_a_machine() -> None:
    """The project runs anywhere, with whatever index its user has."""
    found = []
    for path in tracked():
        if path.suffix in {".png", ".ico"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if _ELSEWHERE.search(line) or _MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


@pytest.mark.parametrize(
    "name", ["decisions", "transitions", "moves", "retry", "money", "order", "events", "ledger"]
)
def test_the_engine_s_heart_imports_no_framework(name: str) -> None:
    """Read from the source, so that it holds even where an import is hidden in a function."""
    text = (ROOT / f"src/tallystick/engine/{name}.py").read_text(encoding="utf-8")
    allowed = {
        "tallystick.engine",
        "msgspec",
        "collections",
        "enum",
        "typing",
        "hashlib",
        "zlib",
        "re",
        "functools",
    }
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for imported in names:
            assert any(imported == one or imported.startswith(f"{one}.") for one in {*allowed, "iso4217"}), (
                imported
            )
