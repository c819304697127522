"""A run as one page that anybody can open: lanes, messages, faults, and belief beside truth at every moment.

The page is self-contained: it loads nothing, and its own policy forbids it to. Data are JSON inside it; whatever
comes from a run is put on the page as text, never as markup.
"""

import base64
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

import tallystick
from tallystick.engine.money import Money
from tallystick.engine.order import Order
from tallystick.engine.views import MismatchView, WalletView
from tallystick.sim.causes import Causes, find_causes
from tallystick.sim.memory_tables import DeadLetterRow
from tallystick.sim.narrate import PEOPLE, Told, amount_of, narrate
from tallystick.sim.psp.model import Payment
from tallystick.sim.snapshots import Change, Recording, Row, natural
from tallystick.sim.step_source import Source, broken, run
from tallystick.sim.step_view import in_words
from tallystick.sim.tally_file import in_words as money_in_words
from tallystick.sim.tally_file import money_of

_PAGES = files("tallystick.sim") / "pages"

# Lanes from top to bottom: who asks, the engine from its door inwards, what it writes to, who is outside.
_ENGINE_LANES = ("acceptance", "transitions", "ledger", "wallet")
_NOT_SHOWN = frozenset({"attempts", "log", "books"})
"""Kinds of rows that the page does not show; it has the orders, and the sentences of the steps."""

Cells = list[str | int]


class Lane(msgspec.Struct, frozen=True):
    """One row of the picture."""

    name: str
    label: str
    group: str
    """`people`, `engine`, `order`, `store`, `psp`, `receiver` or `world`."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page draws. Steps, orders, lanes and rows are named by number."""

    title: str
    version: str
    money: str
    broken: tuple[str, ...]
    lanes: list[Lane]
    orders: list[str]
    accused: list[int]
    """Orders about which something is wrong, as it was found."""
    steps: list[tuple[int, int, str, str, list[int]]]
    """Time in µs, lane, tone, sentence, orders."""
    parts: dict[int, dict[int, str]]
    """Of steps about several orders: the sentence about each by itself."""
    arrows: list[tuple[str, int, int, int, int, list[int]]]
    """Kind, step and lane where it left, step (-1: it never came) and lane where it came in, orders."""
    causes: list[tuple[int, ...]]
    rows: list[tuple[str, str]]
    """Kind and name of every row that ever changes."""
    changes: list[list[tuple[int, Cells | None, Cells]]]
    """By step: the row, its cells before (null: it was not there) and after."""
    verdicts: list[tuple[int, int, str, int]]
    """The step at which it was found, the step since which it is so, what is wrong, and the order or -1."""


def write_page(source: Source, path: Path) -> Recording:
    """Run a source, and write its page."""
    recording = run(source)
    told = narrate(recording)
    page = build(source.title, recording, told, find_causes(recording, told))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page), encoding="utf-8")
    return recording


def render(page: Page) -> str:
    """Return the page as HTML."""
    style, script = _part("trace.css"), _part("trace.js")
    data = msgspec.json.encode(page).decode().replace("<", "\\u003c")
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'"
    filled = {
        "POLICY": policy,
        "TITLE": escape(page.title),
        "STYLE": style,
        "DATA": data,
        "SCRIPT": script,
    }
    html = _part("trace.html")
    # In one pass, so that nothing in the data is taken for a place to fill in.
    parts = html.split("{{")
    return parts[0] + "".join(filled[part.partition("}}")[0]] + part.partition("}}")[2] for part in parts[1:])


def build(title: str, recording: Recording, told: Sequence[Told], causes: Causes) -> Page:
    """Return what the page draws."""
    orders = sorted(recording.tables.orders, key=natural)
    order_number = {name: number for number, name in enumerate(orders)}
    lanes = _lanes(recording, told, orders)
    lane_number = {lane.name: number for number, lane in enumerate(lanes)}
    rows = _Rows()
    verdicts = [
        (step, verdict.step, in_words(verdict), order_number.get(verdict.subject, -1))
        for step, found in sorted(recording.verdicts_at.items())
        for verdict in found
    ]
    subjects = dict.fromkeys(verdict.subject for verdict in recording.result.verdicts)

    def numbers(names: Iterable[str]) -> list[int]:
        return [order_number[name] for name in names if name in order_number]

    return Page(
        title=title,
        version=tallystick.__version__,
        money=money_in_words(money_of(recording.result.verdicts)),
        broken=broken(recording),
        lanes=lanes,
        orders=orders,
        accused=numbers(subjects),
        steps=[
            (step.at_us, lane_number[one.lane], one.tone, one.text, numbers(one.orders))
            for step, one in zip(recording.steps, told, strict=True)
        ],
        parts={
            number: {order_number[name]: text for name, text in one.parts if name in order_number}
            for number, one in enumerate(told)
            if len(one.parts) > 1
        },
        arrows=[
            (
                arrow.kind,
                arrow.sender,
                lane_number[arrow.sender_lane],
                -1 if arrow.to is None else arrow.to,
                lane_number[arrow.to_lane],
                numbers(arrow.orders),
            )
            for arrow in causes.arrows
        ],
        causes=causes.of,
        changes=[rows.changes(found) for found in recording.changes],
        rows=rows.names,
        verdicts=verdicts,
    )


class _Rows:
    """Numbers rows as they first change, and makes their values cells of text."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def changes(self, found: Sequence[Change]) -> list[tuple[int, Cells | None, Cells]]:
        """Return what a step changed, as the page shows it."""
        result: list[tuple[int, Cells | None, Cells]] = []
        for change in found:
            section, name = change.key
            if section in _NOT_SHOWN:
                continue
            before = None if change.old is None else _cells(section, name, change.old)
            after = _cells(section, name, change.new)
            if before != after:
                result.append((self._number(section, name), before, after))
        return result

    def _number(self, section: str, name: str) -> int:
        key = section, name
        if key not in self._numbers:
            self._numbers[key] = len(self.names)
            self.names.append(key)
        return self._numbers[key]


def _cells(section: str, name: str, row: Row) -> Cells:
    """Return what the page shows of a row."""
    match row:
        case Order():
            books = f"{'L' if row.ledger_updated else '·'}{'W' if row.wallet_updated else '·'}"
            attempt = f"{row.attempt}, {row.sends} sends" if row.sends > 1 else str(row.attempt or "")
            return [name, str(row.amount), row.state.value, attempt, row.psp or "", books, row.failure_code or ""]
        case Payment():
            return [name.partition(" ")[0], row.merchant_reference, row.key, amount_of(row), row.status.value]
        case WalletView():
            minors = (row.available_minor, row.pending_minor, row.held_minor)
            return [row.seller_account, *[str(Money(minor, row.currency)) for minor in minors]]
        case MismatchView():
            amount = str(Money(row.amount_minor, row.currency))
            return [row.payment_order_id or "", row.kind, amount, row.psp, row.remedy]
        case DeadLetterRow():
            return [name, row.reason, "open" if row.closed_at is None else f"closed: {row.resolution}"]
        case _:
            return _plain_cells(section, name, row)


def _plain_cells(section: str, name: str, row: Any) -> Cells:  # noqa: ANN401  (what is left: numbers and text)
    if section == "account":
        debits, credits_ = row
        currency = name.rpartition(":")[2]
        return [name, *[str(Money(minor, currency)) for minor in (debits, credits_, debits - credits_)]]
    return [name, row]


def _lanes(recording: Recording, told: Sequence[Told], orders: Sequence[str]) -> list[Lane]:
    """Return every lane in which something happens, from top to bottom."""
    used = {one.lane for one in told} | {"store"}
    sites = [site.name for site in recording.world.sites]
    receivers = recording.world.auditor.receivers
    people = sorted((name for name in used if name.startswith("client-")), key=natural)
    people += [name for name in PEOPLE if name in used]
    engines = sorted((name for name in used if name.startswith("engine-")), key=natural)
    groups = [
        *[(name, "people") for name in people],
        *[(name, "engine") for name in (*engines, _ENGINE_LANES[0])],
        *[(f"order:{order_id}", "order") for order_id in orders],
        *[(name, "engine") for name in _ENGINE_LANES[1:]],
        ("store", "store"),
        *[(name, "psp") for name in sites],
        *[(name, "receiver") for name in receivers],
    ]
    known = {name for name, _ in groups}
    groups += [(name, "world") for name in sorted(used - known)]
    return [Lane(name, name.removeprefix("order:"), group) for name, group in groups]


def _part(name: str) -> str:
    return (_PAGES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
