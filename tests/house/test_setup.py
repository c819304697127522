"""Goal: a fresh machine gets what was locked, and whoever types `make` gets one clear line when it cannot be."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREPARE: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "prepare.py"))


def pins(name: str) -> dict[str, set[str]]:
    """Return the pinned packages of a lock: name with marker, and the hashes of its files."""
    found: dict[str, set[str]] = {}
    package = ""
    for line in (ROOT / "requirements" / f"{name}.lock").read_text().splitlines():
        if re.match(r"[a-z0-9]", line):
            package = line.removesuffix("\\").strip()
            found[package] = set()
        found.setdefault(package, set()).update(re.findall(r"sha256:[0-9a-f]{64}", line))
    found.pop("", None)
    return found


@pytest.mark.parametrize("name", ["run", "dev", "lock"])
def test_every_locked_package_has_hashes_and_one_version(name: str) -> None:
    """Pip refuses what has none; a range would not be a lock."""
    for package, hashes in pins(name).items():
        assert "==" in package
        assert hashes, package


def test_the_tools_lock_holds_all_of_the_run_lock() -> None:
    """Both go into one environment, so no package may have two versions."""
    run = {package.split(" ;")[0] for package in pins("run")}
    dev = {package.split(" ;")[0] for package in pins("dev")}
    assert run <= dev


def test_every_dependency_is_locked() -> None:
    """A dependency added to pyproject.toml without `make lock` would be missing at the first start."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "run": [*project["project"]["dependencies"], *project["dependency-groups"]["build"]],
        "dev": project["dependency-groups"]["dev"],
        "lock": project["dependency-groups"]["lock"],
    }
    for name, requirements in wanted.items():
        locked = {package.split("==")[0] for package in pins(name)}
        for requirement in requirements:
            package = re.split(r"[\[<>=!; ]", requirement)[0].lower().replace("_", "-")
            assert package in locked, f"{package} is not in requirements/{name}.lock; run `make lock`"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("[Errno 30] Read-only file system: '.venv'", "cannot be written"),
        ("[Errno 13] Permission denied: '.venv'", "cannot be written by this user"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "differs from the one"),
        ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
        (
            "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution",
            "cannot be reached",
        ),
    ],
)
def test_what_goes_wrong_is_one_clear_line(said: str, meant: str) -> None:
    """What pip and venv print, in the words of the person who typed make."""
    line = PREPARE["explain"](f"…\n{said}\n…")
    assert meant in line
    assert "\n" not in line


def test_an_unknown_failure_is_not_explained_away() -> None:
    """Then the end of the output is shown as it is."""
    assert PREPARE["explain"]("segmentation fault") is None


def copy_of_the_set_up(folder: Path) -> Path:
    """Return a checkout with all that the set-up reads, and nothing set up."""
    folder.mkdir()
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("tools", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def prepare(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the set-up of a checkout."""
    command = [sys.executable, "tools/prepare.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_folder_in_which_no_environment_can_be_made_is_said_so(tmp_path: Path) -> None:
    """One line, no traceback; Python's own rule about colons."""
    done = prepare(copy_of_the_set_up(tmp_path / "a:b"), "run")
    assert done.returncode == 1
    assert done.stderr.startswith("tallystick: Python cannot make an environment below a folder with ':'")
    assert done.stderr.count("\n") == 1


def test_a_file_in_the_environment_s_place_is_said_so(tmp_path: Path) -> None:
    """Whatever the system says ends as one line."""
    folder = copy_of_the_set_up(tmp_path / "checkout")
    (folder / "requirements" / "run.lock").unlink()
    done = prepare(folder, "run")
    assert done.returncode == 1
    assert "run.lock" in done.stderr
    assert "Traceback" not in done.stderr


def test_usage(tmp_path: Path) -> None:
    """A wrong word is told the right ones."""
    done = prepare(copy_of_the_set_up(tmp_path / "checkout"), "everything")
    assert (done.returncode, done.stderr) == (2, "usage: python3 tools/prepare.py run|dev|lock\n")


def test_the_set_up_can_be_read_by_an_old_python() -> None:
    """It must be able to say that the Python is too old; a SyntaxError says nothing."""
    import ast

    ast.parse((ROOT / "tools" / "prepare.py").read_text(), feature_version=(3, 6))
