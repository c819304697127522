"""A run at one step, for a terminal: belief beside truth, books, queues, and what has just changed."""

from collections.abc import Collection, Iterable, Iterator

import msgspec
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.views import MismatchView, WalletView
from tallystick.sim.memory_tables import DeadLetterRow
from tallystick.sim.narrate import Told, amount_of, seconds
from tallystick.sim.psp.model import Payment, Status
from tallystick.sim.snapshots import Change, Key, Row, View
from tallystick.sim.trace import Step
from tallystick.sim.verdict import Verdict

TONES = {
    "plain": "",
    "quiet": "dim",
    "fault": "bold yellow",
    "lost": "yellow",
    "crash": "bold magenta",
    "money": "bold green",
}
STATES = {
    State.NOT_STARTED: "dim",
    State.IN_REVIEW: "cyan",
    State.EXECUTING: "blue",
    State.AWAITING_BUYER: "cyan",
    State.PENDING: "cyan",
    State.UNKNOWN: "bold yellow",
    State.RETRY_WAIT: "magenta",
    State.SUCCESS: "green",
    State.FAILED: "red",
    State.CANCELLED: "red",
}
_NEW = "reverse"
_STAR = " *"
"""Beside what this step changed, for those who see no colours."""
_NAME_MAX = 12
"""Characters of an account holder's name that fit."""
_ORDERS_MAX = 12
"""Orders shown when there are more: first those that just changed or contradict the truth, then the open ones."""
_NOT_CHARGED = frozenset({State.NOT_STARTED, State.IN_REVIEW, State.RETRY_WAIT, State.FAILED, State.CANCELLED})


def headline(number: int, steps: int, step: Step, told: Told, verdicts: Iterable[Verdict]) -> RenderableType:
    """Show one step: where and when, the sentence, and what is wrong since then."""
    lane = told.lane.removeprefix("order:")
    text = Text(told.text, style=TONES[told.tone])
    parts: list[RenderableType] = [text]
    parts += [Text(f"✗ {in_words(verdict)}", style="bold red") for verdict in verdicts]
    title = f"step {number} of {steps - 1}   {seconds(step.at_us)}   {lane}"
    return Panel(Group(*parts), title=title, title_align="left", border_style="blue")


def in_words(verdict: Verdict) -> str:
    """Say a verdict in one line."""
    money = f" ({Money(abs(verdict.amount_minor), verdict.currency)})" if verdict.currency else ""
    return f"{verdict.invariant}: {verdict.subject} {verdict.detail}{money}"


def lines() -> Table:
    """Return an empty list of steps, for `add_line`."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", width=1)
    table.add_column(style="dim", justify="right")
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    return table


def add_line(table: Table, mark: str, number: int, *, step: Step, told: Told, order_id: str | None) -> None:
    """Add one step to a list, as far as it concerns an order."""
    lane = told.lane.removeprefix("order:")
    text = Text(told.about(order_id), TONES[told.tone])
    table.add_row(mark, str(number), seconds(step.at_us), lane, text)


def state(view: View, changed: Collection[Key], *, only: str | None = None, whole: bool = False) -> RenderableType:
    """Show everything side by side: what we believe, what the PSPs know, the books, and what is under way."""
    shown, left_out = _choose(view, changed, only=only, whole=whole)
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    believe = Panel(_beliefs(view, changed, shown), title="what we believe", border_style="blue")
    know = Panel(_truth(view, changed, shown), title="what the PSPs know", border_style="green")
    grid.add_row(believe, know)
    grid.add_row(
        Panel(_ledger(view, changed), title="ledger", border_style="blue"),
        Panel(_wallets(view, changed), title="wallets", border_style="blue"),
    )
    grid.add_row(
        Panel(_under_way(view, changed), title="engines, mailboxes, wires", border_style="dim"),
        Panel(_people(view, changed), title="waiting for a person", border_style="dim"),
    )
    if left_out:
        note = Text(f"{left_out} more orders are not shown: `state all` shows them, `state ORDER` one.", "dim")
        return Group(grid, note)
    return grid


def contradicts(order: Order, payments: Iterable[Payment]) -> bool:
    """Say whether the PSPs know of money that we do not, or of none where we believe that it was taken."""
    charged = sum(1 for one in payments if one.status is Status.CHARGED)
    if order.state is State.SUCCESS:
        return charged != 1
    return charged > 1 or (charged > 0 and order.state in _NOT_CHARGED)


def _choose(
    view: View, changed: Collection[Key], *, only: str | None, whole: bool
) -> tuple[dict[str, Order], int]:
    orders, payments = view.orders(), list(view.payments().values())
    if only is not None:
        return {name: order for name, order in orders.items() if name == only}, 0
    if whole or len(orders) <= _ORDERS_MAX:
        return orders, 0
    about: dict[str, list[Payment]] = {}
    for one in payments:
        about.setdefault(one.merchant_reference, []).append(one)
    touched = {key.name for key in changed if key.section in ("order", "attempts", "mismatch")}
    wrong = {name for name, order in orders.items() if contradicts(order, about.get(name, ()))}
    ranked = sorted(orders, key=lambda name: (name not in touched, name not in wrong, orders[name].is_done))
    chosen = set(ranked[:_ORDERS_MAX])
    return {name: orders[name] for name in orders if name in chosen}, len(orders) - len(chosen)


def _table(*columns: str) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _beliefs(view: View, changed: Collection[Key], shown: dict[str, Order]) -> RenderableType:
    if not shown:
        return Text("no payment order is recorded", "dim")
    table = _table("order", "amount", "state", "attempt", "PSP", "books")
    payments = list(view.payments().values())
    for name, order in shown.items():
        books = f"{'L' if order.ledger_updated else '·'}{'W' if order.wallet_updated else '·'}"
        sends = f"{order.attempt}, {order.sends} sends" if order.sends > 1 else str(order.attempt or "")
        mine = [one for one in payments if one.merchant_reference == name]
        wrong = " ≠" if contradicts(order, mine) else ""
        new = Key("order", name) in changed
        cells = (
            Text(f"{name}{wrong}{_STAR if new else ''}", "bold red" if wrong else ""),
            Text(str(order.amount)),
            Text(order.state.value, STATES[order.state]),
            Text(sends),
            Text(order.psp or ""),
            Text(books),
        )
        table.add_row(*cells, style=_NEW if new else "")
    return table


def _truth(view: View, changed: Collection[Key], shown: Collection[str]) -> RenderableType:
    table = _table("PSP", "order", "key", "amount", "status")
    styles = {Status.CHARGED: "bold green", Status.DECLINED: "red", Status.VOIDED: "red"}
    for name, payment in view.payments().items():
        if payment.merchant_reference in shown:
            row = Text(payment.status.value, styles.get(payment.status, "cyan"))
            key = payment.key if len(payment.key) <= 16 else f"{payment.key[:12]}…"  # noqa: PLR2004  (shown short)
            new = Key("payment", name) in changed
            psp = name.partition(" ")[0] + (_STAR if new else "")
            cells = (psp, payment.merchant_reference, key, amount_of(payment), row)
            table.add_row(*cells, style=_NEW if new else "")
    down = [(name, row) for name, row in view.section("psp").items() if row != "up"]
    notes = [Text(f"{name} {row}", "bold yellow") for name, row in down]
    return Group(table, *notes) if table.row_count or notes else Text("nothing", "dim")


def _ledger(view: View, changed: Collection[Key]) -> RenderableType:
    table = _table("account", "debited", "credited", "balance")
    for name, row in view.section("account").items():
        if isinstance(row, tuple) and len(row) == 2:  # noqa: PLR2004  (a row of two)
            debits, credits_, currency = int(str(row[0])), int(str(row[1])), name.rpartition(":")[2]
            cells = [str(Money(minor, currency)) for minor in (debits, credits_, debits - credits_)]
            new = Key("account", name) in changed
            table.add_row(brief(name) + (_STAR if new else ""), *cells, style=_NEW if new else "")
    return table if table.row_count else Text("nothing is posted", "dim")


def brief(account: str) -> str:
    """Shorten an account's name: the ends of bank accounts tell them apart, and amounts say the currency."""
    kind, _, rest = account.partition(":")
    who = rest.rpartition(":")[0]
    return f"{kind} {f'{who[:4]}…{who[-4:]}' if len(who) > _NAME_MAX else who}".strip()


def _wallets(view: View, changed: Collection[Key]) -> RenderableType:
    table = _table("seller", "available", "pending", "held")
    for name, row in view.section("wallet").items():
        if isinstance(row, WalletView):
            minors = (row.available_minor, row.pending_minor, row.held_minor)
            cells = [str(Money(minor, row.currency)) for minor in minors]
            new = Key("wallet", name) in changed
            table.add_row(row.seller_account + (_STAR if new else ""), *cells, style=_NEW if new else "")
    return table if table.row_count else Text("nobody has anything", "dim")


def _under_way(view: View, changed: Collection[Key]) -> RenderableType:
    lines = []
    for name, row in view.section("engine").items():
        style = {"up": "green", "paused": "bold magenta"}.get(str(row), "red")
        lines.append(Text(f"{name} {row}", _NEW if Key("engine", name) in changed else style))
    waiting = [(name, row) for name, row in view.section("queue").items() if row]
    waiting = [(name, row) for name, row in waiting if not _is_dead(view, name)]
    lines += [Text(f"{name}: {row}", _NEW if Key("queue", name) in changed else "") for name, row in waiting]
    events = view.number("books", "events")
    for name, row in view.section("cursor").items():
        behind = events - row if isinstance(row, int) else events
        lines.append(Text(f"receiver {name}: {f'{behind} events behind' if behind else 'has every event'}", "dim"))
    return Group(*lines) if lines else Text("nothing runs", "dim")


def _is_dead(view: View, queue: str) -> bool:
    """Say whether a queue is of an engine that is gone: what waited there is forgotten."""
    engine = queue.partition(" ")[0]
    return engine.startswith("engine-") and view.get("engine", engine) in ("not up", "dead")


def _people(view: View, changed: Collection[Key]) -> RenderableType:
    lines = []
    for name, row in view.section("letter").items():
        if isinstance(row, DeadLetterRow) and row.closed_at is None:
            new = _NEW if Key("letter", name) in changed else ""
            lines.append(Text(f"{name}: {row.reason}", new))
    for name, row in view.section("mismatch").items():
        if isinstance(row, MismatchView):
            new = _NEW if Key("mismatch", name) in changed else "red"
            amount = Money(row.amount_minor, row.currency)
            text = f"{row.payment_order_id}: {row.kind}, {amount} at {row.psp}; remedy: {row.remedy}"
            lines.append(Text(text, new))
    return Group(*lines) if lines else Text("nobody", "dim")


# --- what changed ------------------------------------------------------------------------------------------------


def changes(found: Iterable[Change]) -> RenderableType:
    """Show what one step changed, a line a field."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("what", "which", "field", "before", "after"):
        table.add_column(column, no_wrap=column not in ("before", "after"), overflow="fold")
    words = {"payment": "PSP", "letter": "dead letter", "books": "count", "log": "decisions"}
    for change in found:
        section = words.get(change.key.section, change.key.section)
        for field, before, after in fields(change.old, change.new):
            table.add_row(section, change.key.name, field, Text(before, "red"), Text(after, "green"))
    return table if table.row_count else Text("This step changed nothing that is shown.", "dim")


def fields(old: Row | None, new: Row) -> Iterator[tuple[str, str, str]]:
    """Yield what differs between two rows: field, before, after."""
    if not isinstance(new, msgspec.Struct):
        yield "", "" if old is None else _value(old), _value(new)
        return
    for field in new.__struct_fields__:
        before = None if old is None else getattr(old, field, None)
        after = getattr(new, field)
        if before != after:
            yield field, "" if before is None else _value(before), _value(after)


def _value(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[-1], msgspec.Struct):
        last = msgspec.to_builtins(value[-1])
        return f"{len(value)}, the last: {', '.join(f'{k} {v}' for k, v in last.items() if v is not None)}"
    if isinstance(value, msgspec.Struct) and not isinstance(value, Money):
        return msgspec.json.encode(value).decode()
    return str(value)
