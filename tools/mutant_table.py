"""Write docs/mutants.md and tests/sim/mutant_seeds.json from what `tallystick sim mutants --json FILE` measured.

    tallystick sim mutants --jobs 0 --json build/mutants.json
    python tools/mutant_table.py build/mutants.json

A seed per mutant is kept for the tests: of those that were found the one whose run was the first in its search.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from tallystick.sim.mutants.catalogue import MUTANTS
from tallystick.sim.verdict import INVARIANTS

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "tests/sim/mutant_seeds.json"

INTRO = """\
# Does the auditor notice when a safeguard is missing?

Made by `python tools/mutant_table.py` from a measurement. Do not edit.

Each *mutant* is the engine with one safeguard switched off, by name: `tallystick sim run --mutant NAME` runs a
campaign with it. `tallystick sim mutants` runs every one on seed after seed until a run breaks the invariant that
names the harm, several times over from different seeds, and prints this table. Mutants live in
`src/tallystick/sim/mutants/`, apart from production code, which never imports them (a test says so).
"""

NOT_HERE = """\
Not in the table: an engine that ignores another one's lease, since every takeover in the simulated world does just
that, and the fence makes it safe (`fencing_dropped`); and an actor that ignores that its move was superseded,
since in the simulated world nobody else moves an order (`two_actors_for_one_order`).
"""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def document(report: dict[str, Any]) -> str:
    """Return docs/mutants.md."""
    rows = report["mutants"]
    survivors = [row for row in rows if row["mutant"] in report["survivors"]]
    killed = [row for row in rows if row not in survivors]
    medians = sorted(row["median_seeds"] for row in killed)
    worst = max(row["worst_seeds"] for row in killed)
    searches, middle, limit = report["trials"], medians[len(medians) // 2], report["seeds_max"]
    lines = [INTRO]
    lines.append(
        f"Measured with {searches} searches per mutant, {report['orders']} payment orders per seed, at most"
        f" {limit} seeds per search. In every search {len(killed)} of {len(rows)} mutants were killed"
        f" by the invariant that names them. Of these, the median of seeds is {_number(middle)} for the middle one"
        f" and {_number(medians[-1])} for the slowest; the worst single search took {worst} seeds."
    )
    lines += ["", "*Seen first*: what the first failing run broke first. A warning may come before the harm.", ""]
    lines.append("| mutant | switched off | demanded by | named by | median seeds | worst | seen first |")
    lines.append("|---|---|---|---|---:|---:|---|")
    for row in killed:
        faults = "" if row["faults"] == ["all"] else f" (with {', '.join(row['faults'])})"
        lines.append(
            f"| {row['mutant']} | {row['about']}{faults} | {row['rule']} | {row['invariant']}"
            f" | {_number(row['median_seeds'])} | {_number(row['worst_seeds'])}"
            f" | {next(iter(row['first_broken']))} |"
        )
    lines += ["", "## Survivors", ""]
    lines.append("Safeguards behind which another one stands: without them no run goes wrong, and this is why.")
    lines += ["", "| mutant | what is switched off | killed | why no run can tell |", "|---|---|---:|---|"]
    lines += [
        f"| {row['mutant']} | {row['about']} | {row['killed']} of {row['trials']}"
        f" | {row['survives_because'] or 'not explained'} |"
        for row in survivors
    ]
    lines += ["", NOT_HERE]
    lines += ["## The invariants", "", "| invariant | what it says | mutants it names |", "|---|---|---:|"]
    for name, about in INVARIANTS.items():
        count = sum(1 for row in killed if row["invariant"] == name)
        lines.append(f"| {name} | {about} | {count or ''} |")
    return "\n".join(lines) + "\n"


def seeds(report: dict[str, Any]) -> dict[str, int]:
    """Return a seed per mutant that can be killed; what was not measured now is kept."""
    kept: dict[str, int] = msgspec.json.decode(SEEDS.read_bytes()) if SEEDS.exists() else {}
    found = {row["mutant"]: row["killing_seeds"][0] for row in report["mutants"] if row["killing_seeds"]}
    killable = [name for name, mutant in MUTANTS.items() if mutant.survives_because is None]
    return {name: one for name in sorted(killable) if (one := found.get(name, kept.get(name))) is not None}


def main() -> int:
    """Write both files."""
    if len(sys.argv) != 2:  # noqa: PLR2004  (the program and its one argument)
        print(__doc__, file=sys.stderr)
        return 2
    report = msgspec.json.decode(Path(sys.argv[1]).read_bytes())
    SEEDS.write_bytes(msgspec.json.format(msgspec.json.encode(seeds(report)), indent=2) + b"\n")
    if len(report["mutants"]) == len(MUTANTS):
        (ROOT / "docs/mutants.md").write_text(document(report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
