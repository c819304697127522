"""Set up `.venv` for this checkout: `python3 tools/prepare.py run|dev|lock`. Instant when nothing changed.

Runs before anything is installed, on whatever `python3` is, so it uses the standard library alone and only syntax
that Python 3.6 can read: an old interpreter shall be told so in a sentence, not by a SyntaxError.
Whatever goes wrong ends in one line that says what to do; exit code 1.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "tallystick-setup.json"
VERSION_MIN = (3, 11)
# Looked for, in this order, when the python3 that make found is too old.
OTHER_PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.14")
# A level that is set up contains the ones before it. `lock` is apart: only whoever changes dependencies needs uv.
CONTAINS = {"run": ("run",), "dev": ("dev", "run"), "lock": ("lock",)}

# What pip and venv say, and what it means for the person who typed `make`. First match wins.
EXPLANATIONS = (
    ("No space left on device", "the disk is full: free some space for this folder or for {tmp}, then try again"),
    ("Disk quota exceeded", "the disk quota is used up: free some space for this folder or for {tmp}"),
    ("Read-only file system", "this folder cannot be written (read-only file system): {root}"),
    ("Permission denied", "this folder cannot be written by this user: {root}"),
    (
        "DO NOT MATCH THE HASHES",
        "a downloaded package differs from the one that was locked; nothing was installed",
    ),
    ("ensurepip", "this Python has no pip to give: on Debian or Ubuntu, `apt install python3-venv`"),
    ("Failed to establish a new connection", "the package index cannot be reached; the first set-up needs it"),
    ("name resolution", "the package index cannot be reached; the first set-up needs it"),
    ("No matching distribution found", "the package index has no build of a package for this Python and machine"),
)


class SetupFailed(Exception):
    """The set-up cannot go on; the text is the one line to show."""


def explain(output: str) -> Optional[str]:
    """Return one line for what a failed command printed, or None when nothing known is in it."""
    for sign, meaning in EXPLANATIONS:
        if sign in output:
            return meaning.format(root=ROOT, tmp=tempfile.gettempdir())
    return None


def quiet(command: Sequence[object]) -> None:
    """Run a command without its chatter. Raises SetupFailed with a line for what went wrong."""
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")
    # These would send packages elsewhere, or let modules from elsewhere shadow ours.
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV"):
        env.pop(name, None)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=str(ROOT),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode == 0:
        return
    output = done.stdout.decode(errors="replace")
    line = explain(output)
    if line is None:
        sys.stderr.write("\n".join(output.splitlines()[-15:]) + "\n")
        line = "this failed: " + " ".join(str(part) for part in command)
    raise SetupFailed(line)


def go_on_with_a_newer_python() -> None:
    """Replace this process by a newer interpreter, if this one is too old and the machine has one."""
    if sys.version_info >= VERSION_MIN:
        return
    for name in OTHER_PYTHONS:
        # Tried out, because a version manager's shim may exist for a version that is switched off.
        if shutil.which(name) and subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execvp(name, [name, *sys.argv])
    found = "{}.{}".format(*sys.version_info[:2])
    raise SetupFailed(
        f"Python 3.11 or newer is needed, and this is {found}; name one: make PYTHON=/path/to/python3.12"
    )


def fingerprint(level: str) -> Dict[str, str]:
    """Return what must be unchanged for the environment to be still right."""
    digest = hashlib.sha256()
    for path in (ROOT / "requirements" / (level + ".lock"), ROOT / "pyproject.toml", Path(__file__).resolve()):
        digest.update(path.read_bytes())
    # A copied or moved environment has the old path in its scripts.
    return {"inputs": digest.hexdigest(), "at": str(VENV)}


def stamps() -> Dict[str, Dict[str, str]]:
    """Return what is recorded as set up: level -> fingerprint."""
    try:
        recorded = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def is_ready(level: str) -> bool:
    """Say whether nothing is to be done."""
    if not PYTHON.exists():
        return False
    recorded = stamps()
    return any(
        recorded.get(bigger) == fingerprint(bigger) for bigger, contained in CONTAINS.items() if level in contained
    )


def make_venv() -> None:
    """Create the environment, afresh when what is there does not run, or was moved here from elsewhere."""
    moved = any(stamp.get("at") != str(VENV) for stamp in stamps().values())
    if not moved and PYTHON.exists():
        probe = subprocess.run(
            [str(PYTHON), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if probe.returncode == 0:
            return
    if os.pathsep in str(ROOT):
        raise SetupFailed(
            f"Python cannot make an environment below a folder with {os.pathsep!r} in its path: {ROOT}"
        )
    quiet([sys.executable, "-m", "venv", "--clear", VENV])


def install(level: str) -> None:
    """Install the locked packages, each checked against its hash, then the project itself as a link to src/."""
    lock = ROOT / "requirements" / (level + ".lock")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-deps"]
    # Wheels only: building a source distribution would run code and fetch build tools that no hash covers.
    # Bytecode is written at first import, which costs less in all than compiling every module now.
    quiet([*pip, "--require-hashes", "--only-binary", ":all:", "--no-compile", "-r", lock])
    if level != "lock":
        quiet([*pip, "--no-index", "--no-build-isolation", "--editable", ROOT])


def prepare(level: str) -> None:
    """Bring the environment up to date for `level`."""
    if is_ready(level):
        return
    go_on_with_a_newer_python()
    # Two makes at once take turns. The lock is on the folder, so that no file is left behind.
    folder = os.open(str(ROOT), os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    if is_ready(level):
        return
    started = time.monotonic()
    print("setting up .venv ({}) …".format({"run": "first run", "dev": "tools", "lock": "uv"}[level]), flush=True)
    make_venv()
    recorded = {name: stamp for name, stamp in stamps().items() if stamp == fingerprint(name)}
    install(level)
    recorded[level] = fingerprint(level)
    STAMP.write_text(json.dumps(recorded))
    print(f"set up in {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Set up the level that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in CONTAINS:
        print("usage: python3 tools/prepare.py run|dev|lock", file=sys.stderr)
        return 2
    try:
        prepare(sys.argv[1])
    except SetupFailed as problem:
        print(f"tallystick: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"tallystick: {explain(str(problem)) or problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
