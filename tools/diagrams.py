"""Draw docs/ from the code: `make diagrams` writes, `--check` says what is out of date.

docs/states.md comes from the live transition table; docs/diagrams/overview.svg is the picture in the README. In
docs/simulator.md the tables are filled in, each between `<!-- made: NAME -->` and `<!-- end -->`.
"""

import sys
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from tallystick.engine.events import EVENTS
from tallystick.engine.order import PUBLIC_STATUS, TERMINAL, State
from tallystick.engine.transitions import TABLE, Cell, Contradict, Ignore, Move, Refuse, legal_moves
from tallystick.sim import faults
from tallystick.sim.goals import NEVER_MADE
from tallystick.sim.tape import PPM
from tallystick.sim.verdict import INVARIANTS

ROOT = Path(__file__).resolve().parent.parent

STATES_INTRO = """\
# The life of a payment order

Made by `make diagrams` from the transition table in `src/tallystick/engine/transitions.py`. Do not edit: a test
compares. The table itself, with its theory of operation, is the place to read first and the only place to change.

Four statuses are public (`payment_order_status`). Inside, the states say more.
"""


# --- docs/states.md --------------------------------------------------------------------------------------------


def _mermaid(lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```", ""])


def _public_diagram() -> str:
    edges = {
        (PUBLIC_STATUS[source], PUBLIC_STATUS[target])
        for source, target in legal_moves()
        if PUBLIC_STATUS[source] is not PUBLIC_STATUS[target]
    }
    starts = ["[*] --> NOT_STARTED"]
    ends = [f"{status} --> [*]" for status in dict.fromkeys(PUBLIC_STATUS[s] for s in State if s in TERMINAL)]
    return _mermaid([*starts, *(f"{source} --> {target}" for source, target in sorted(edges)), *ends])


def _detailed_diagram() -> str:
    labels: dict[tuple[State, State], list[str]] = {}
    for state, row in TABLE.items():
        for event, cell in row.items():
            for target in cell.to if isinstance(cell, Move) else ():
                if target is not state:
                    labels.setdefault((state, target), []).append(event.__name__)
    edges = [f"{source} --> {target} : {', '.join(events)}" for (source, target), events in labels.items()]
    return _mermaid(["[*] --> NOT_STARTED", *edges, *(f"{state} --> [*]" for state in State if state in TERMINAL)])


def _states_table() -> str:
    lines = ["| state | public status | waits, and is left by |", "|---|---|---|"]
    for state, row in TABLE.items():
        leaving = [
            event.__name__
            for event, cell in row.items()
            if isinstance(cell, Move) and any(target is not state for target in cell.to)
        ]
        lines.append(f"| `{state}` | {PUBLIC_STATUS[state]} | {', '.join(leaving) or 'nothing: it has ended'} |")
    return "\n".join([*lines, ""])


def _cell_text(state: State, cell: Cell) -> tuple[str, str]:
    """Return what a cell does and why, in words."""
    match cell:
        case Move(by, to):
            ends = ", ".join("stays" if target is state else f"**{target}**" for target in to)
            return f"move: {ends}", _first_line(by)
        case Contradict(by):
            return "contradict", _first_line(by)
        case Ignore(why):
            return "ignore", why
        case Refuse(why):
            return "refuse", why


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


def states_page() -> str:
    """Return docs/states.md."""
    parts = [
        STATES_INTRO,
        "## In public\n",
        _public_diagram(),
        "## Inside\n",
        _detailed_diagram(),
        _states_table(),
    ]
    parts.append(f"## Every cell\n\n{len(State)} states, {len(EVENTS)} events, and an answer for each pair.\n")
    for state, row in TABLE.items():
        parts.append(f"### {state}\n\n| event | what happens | why |\n|---|---|---|")
        for event, cell in row.items():
            what, why = _cell_text(state, cell)
            parts.append(f"| {event.__name__} | {what} | {why} |")
        parts.append("")
    return "\n".join(parts)


# --- tables in docs/simulator.md -------------------------------------------------------------------------------


def _faults_table() -> str:
    """Return every class of faults: where and how often it strikes, and what it does."""
    places = list(faults.Site)
    rows = [
        f"| {fault.site} | `{fault.name}` | {fault.ppm * 1000 // PPM} | {fault.about} |"
        for fault in sorted(faults.TABLE, key=lambda fault: places.index(fault.site))
    ]
    return "\n".join(["| where | fault | in a thousand | what happens |", "|---|---|---|---|", *rows])


def _invariants_table() -> str:
    rows = [f"| `{name}` | {words} |" for name, words in INVARIANTS.items()]
    return "\n".join(["| invariant | what it says |", "|---|---|", *rows])


def _never_made_table() -> str:
    rows = [f"| {state} | {event} | {why} |" for (state, event), why in NEVER_MADE.items()]
    return "\n".join(["| an order in | never meets | because |", "|---|---|---|", *rows])


MADE: dict[str, Callable[[], str]] = {
    "faults": _faults_table,
    "invariants": _invariants_table,
    "never made": _never_made_table,
}


def simulator_page() -> str:
    """Return docs/simulator.md with its tables filled in; what else stands there is written by hand."""
    text = (ROOT / "docs/simulator.md").read_text(encoding="utf-8")
    for name, make in MADE.items():
        before, found, rest = text.partition(f"<!-- made: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not found or not end:
            raise SystemExit(f"docs/simulator.md has no place for the table of {name}")
        text = f"{before}{found}{make()}\n{end}{after}"
    return text


# --- docs/diagrams/overview.svg --------------------------------------------------------------------------------

# Columns and rows of the picture, in pixels. One hue for what is ours, none for what is not.
WIDTH, HEIGHT = 880, 360
INK, PAPER, OURS, LINE, SOFT = "#1f2933", "#fffdf8", "#eef4ef", "#3f6f5a", "#7b8794"

# name, words, left, top, width, height, ours
BOXES = (
    ("shop", ("your shop", "checkout"), 20, 130, 100, 64, False),
    ("door", ("HTTP API", "or open_engine()"), 186, 130, 132, 64, True),
    ("order", ("order actor", "one per live order"), 386, 130, 132, 64, True),
    ("gateway", ("PSP gateway", "limits, breaker"), 588, 130, 124, 64, True),
    ("psp", ("PSP", "its half"), 778, 130, 82, 64, False),
    ("outbox", ("outbox", "events, webhooks"), 186, 254, 132, 64, True),
    ("store", ("PostgreSQL", "before it is sent"), 386, 254, 132, 64, True),
    ("books", ("ledger, wallet", "our half"), 588, 254, 124, 64, True),
)

# from, to, words
ARROWS = (
    ("shop", "door", "1 pay"),
    ("door", "order", "2 accept"),
    ("order", "gateway", "4 charge"),
    ("gateway", "psp", "5 once"),
    ("order", "store", "3 record"),
    ("store", "books", "6 book"),
    ("store", "outbox", "7 tell"),
)


def _text(x: int, y: int, words: str, *, fill: str = SOFT, anchor: str = "middle", size: int = 11) -> str:
    weight = ' font-weight="600"' if fill == INK else ""
    font = 'font-family="ui-sans-serif, system-ui, Helvetica, Arial, sans-serif"'
    place = f'x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} {font} fill="{fill}"{weight}>{escape(words)}</text>'


def _box(words: tuple[str, str], left: int, top: int, width: int, height: int, *, ours: bool) -> str:
    fill, stroke, dashes = (OURS, LINE, "") if ours else (PAPER, SOFT, ' stroke-dasharray="5 4"')
    shape = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{stroke}"'
    middle = left + width // 2
    return "".join(
        [
            f'{shape} stroke-width="1.5"{dashes}/>',
            _text(middle, top + 28, words[0], fill=INK, size=14),
            _text(middle, top + 47, words[1]),
        ]
    )


def _arrow(source: str, target: str, words: str) -> str:
    places = {name: (left, top, width, height) for name, _, left, top, width, height, _ in BOXES}
    (left, top, width, height), (other_left, other_top, other_width, _) = places[source], places[target]
    if top == other_top:
        y = top + height // 2
        ends = (
            (left + width + 3, other_left - 8) if other_left > left else (left - 3, other_left + other_width + 8)
        )
        line = f'x1="{ends[0]}" y1="{y}" x2="{ends[1]}" y2="{y}"'
        label = _text(sum(ends) // 2, y - 9, words, fill=LINE)
    else:
        x = left + width // 2
        line = f'x1="{x}" y1="{top + height + 3}" x2="{x}" y2="{other_top - 8}"'
        label = _text(x + 10, (top + height + other_top) // 2 + 4, words, fill=LINE, anchor="start")
    return f'<line {line} stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"/>{label}'


def _stick() -> str:
    """Return the stick, split lengthwise, with the notches that run through both halves."""
    halves = "".join(
        f'<path d="M188 {top} h 502 q 9 9 0 18 h -502 z" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
        for top, fill, stroke in ((40, OURS, LINE), (60, PAPER, SOFT))
    )
    notches = "".join(
        f'<line x1="{x}" y1="40" x2="{x}" y2="78" stroke="{INK}" stroke-width="1.5"/>'
        for x in (240, 252, 264, 330, 386, 398, 470, 526, 538, 550, 620)
    )
    words = _text(176, 53, "our half", anchor="end") + _text(176, 73, "half of the PSP", anchor="end")
    return halves + notches + words


def overview_svg() -> str:
    """Return the picture of a payment's way through the house, with the stick of which both sides keep a half."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    label = (
        "A payment goes from the shop through the API to an order actor, is recorded in PostgreSQL before it is "
        "sent to the PSP, once, and is booked in the ledger and the wallet"
    )
    tip = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">',
            f'<defs><marker id="tip" {tip}><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="{PAPER}"/>',
            _stick(),
            *(_box(words, left, top, width, high, ours=ours) for _, words, left, top, width, high, ours in BOXES),
            *(_arrow(*arrow) for arrow in ARROWS),
            "</svg>",
            "",
        ]
    )


# --- writing and comparing -------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Return every generated file: path below the repository, and text."""
    return {
        "docs/states.md": states_page(),
        "docs/simulator.md": simulator_page(),
        "docs/diagrams/overview.svg": overview_svg(),
    }


def out_of_date() -> list[str]:
    """Return the paths of generated files that are not what the code says now."""
    return [
        name
        for name, text in pages().items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the files, or with --check only compare."""
    stale = out_of_date()
    if sys.argv[1:] == ["--check"]:
        for name in stale:
            print(f"{name} is not what the code says; run `make diagrams`")
        return 1 if stale else 0
    for name in stale:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pages()[name], encoding="utf-8")
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
