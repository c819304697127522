"""The SQL statements: named sections of the files in sql/, loaded once.

A section begins with `-- name: some_name` and holds one statement.
"""

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


@cache
def queries(file: str) -> dict[str, str]:
    """Return the statements of `sql/{file}.sql` by name."""
    text = files("tallystick.storage").joinpath("sql", f"{file}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    names, bodies = parts[::2], parts[1::2]
    found = {name: body.strip().removesuffix(";") for name, body in zip(names, bodies, strict=True)}
    if len(found) != len(names):
        raise ValueError(f"a name stands twice in {file}.sql")
    return found
