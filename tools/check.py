"""All that CI checks beside the tests, two at a time: one line each, and the whole output of what failed."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CODE = [name for name in ("src", "tests", "tools", "benchmarks", "examples") if (ROOT / name).is_dir()]
SQL = "src/tallystick/storage/sql"
MIGRATIONS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "src/tallystick/storage").rglob("migrations/*.sql")
)

# The slowest first, so that it does not start when everything else is over.
CHECKS: dict[str, Sequence[str]] = {
    "types": ("mypy", *CODE),
    "format": ("ruff", "format", "--check", *CODE),
    "lint": ("ruff", "check", *CODE),
    "imports": ("lint-imports",),
    "sql": ("sqlfluff", "lint", "--disable-progress-bar", SQL),
    "migrations": ("squawk", *MIGRATIONS),
    "diagrams": ("python", "tools/diagrams.py", "--check"),
}


def run(name: str) -> bool:
    """Run one check and print its line; return whether it passed."""
    program, *arguments = CHECKS[name]
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603  (our own arguments)
        [BIN / program, *arguments],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    passed = done.returncode == 0
    line = f"{name:<11}{'ok' if passed else 'FAILED'}  {time.monotonic() - started:.1f} s\n"
    print(line if passed else f"{line}{done.stdout}{done.stderr}", end="", flush=True)
    return passed


def main() -> int:
    """Run the checks named on the command line, or all."""
    names = sys.argv[1:] or list(CHECKS)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        print(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(max_workers=2) as pool:
        return 0 if all(list(pool.map(run, names))) else 1


if __name__ == "__main__":
    sys.exit(main())
