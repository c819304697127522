"""Pin dependencies: `make lock`, or `make lock ARGS=--upgrade` for newer versions than the ones pinned now.

One lock per purpose, valid for every supported Python, for Linux and macOS, with the hash of every file. No
address of any index is written, so that a mirror serves as well. dev.lock holds all of run.lock, at the same
versions, because both are installed into one environment.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `make lock` from pyproject.toml. Do not edit.\n"
COMMON = (
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--only-binary=:all:",
    "--no-emit-index-url",
    "--no-header",
    "--no-annotate",
    "--quiet",
)


def lock(name: str, *what: str) -> None:
    """Resolve into requirements/<name>.lock, keeping the versions pinned there unless told to upgrade."""
    path = ROOT / "requirements" / f"{name}.lock"
    command = ["uv", "pip", "compile", *what, *COMMON, "--output-file", str(path.relative_to(ROOT)), *sys.argv[1:]]
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)  # noqa: S603  (our own arguments)
    path.write_text(HEADER + path.read_text().removeprefix(HEADER))
    print(f"requirements/{name}.lock")


if __name__ == "__main__":
    lock("run", "pyproject.toml", "--group=build")
    lock("dev", "pyproject.toml", "--group=build", "--group=dev", "--constraint=requirements/run.lock")
    lock("lock", "--group=lock")
