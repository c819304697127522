"""How a scenario ended: the world as it is at the end, held against what its file says must be true.

Each difference is one sentence for a person. The auditor's verdicts count like broken expectations, except that an
order which stays open on purpose may be open.
"""

from collections.abc import Iterable, Iterator

import msgspec

from tallystick.engine.errors import TallystickError
from tallystick.engine.money import Money
from tallystick.engine.order import Order, State
from tallystick.engine.story import tell
from tallystick.engine.views import Story
from tallystick.sim.clock import SECOND_US
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.options import RunResult
from tallystick.sim.psp.units import to_iso
from tallystick.sim.scenario import OrderEnd, Scenario
from tallystick.sim.scenario_world import ScenarioWorld
from tallystick.sim.verdict import Verdict


class ScenarioReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one scenario went."""

    name: str
    title: str
    passed: bool
    broken: tuple[str, ...]
    """Every expectation that is not met, and every verdict of the auditor, in words."""
    outcome: tuple[str, ...]
    """How it ended, in words."""
    virtual_s: float
    steps: int
    trace_digest: str


class StoryOver(TallystickError):
    """The memory store waited, which it never does."""


def run_scenario(scenario: Scenario) -> ScenarioReport:
    """Run a scenario in a world of its own, and judge it."""
    world = ScenarioWorld(scenario)
    return judge(world, world.run())


def judge(world: ScenarioWorld, result: RunResult) -> ScenarioReport:
    """Hold the end of a run against its scenario."""
    scenario = world.scenario
    broken = [*_differences(world), *(_in_words(one) for one in result.verdicts if not _is_meant(world, one))]
    return ScenarioReport(
        name=scenario.name,
        title=scenario.title,
        passed=not broken,
        broken=tuple(broken),
        outcome=tuple(_outcome(world)),
        virtual_s=result.virtual_us / SECOND_US,
        steps=result.steps,
        trace_digest=result.trace_digest,
    )


def story_of(world: ScenarioWorld, order_id: str) -> list[str]:
    """Return why an order is where it is, line by line, as `tallystick why` tells it."""
    asking = MemoryStore(world.tables).story(order_id)
    try:
        asking.send(None)
    except StopIteration as answered:
        found: Story | None = answered.value
        return tell(found) if found is not None else [f"{order_id} was never recorded."]
    raise StoryOver("the memory store waited")


# --- differences -------------------------------------------------------------------------------------------------


def _differences(world: ScenarioWorld) -> Iterator[str]:
    for trouble in world.script.never_struck():
        yield f"the trouble {trouble.what} never came, or not as often as it should: the story was not played"
    yield from _talk_differences(world)
    for order_id, end in world.scenario.expect.orders.items():
        order = world.tables.orders.get(order_id)
        if order is None:
            yield f"{order_id} should end as {end.state}, and was never recorded"
        else:
            yield from _order_differences(world, order, end)
    yield from _total_differences(world)


def _talk_differences(world: ScenarioWorld) -> Iterator[str]:
    people = world.people
    for number, checkout in enumerate(world.scenario.checkout, start=1):
        heard = tuple(people.answers[number])
        if heard != checkout.answers:
            yield f"the client of {checkout.id} should hear {_list(checkout.answers)}, and heard {_list(heard)}"
    if world.scenario.expect.told_to_wait != (people.told_to_wait > 0):
        yield f"clients were told to try later {people.told_to_wait} times"
    for person, came_of_it in people.person_heard:
        if (came_of_it == "done") is person.refused:
            yield f"somebody {person.does} {person.order}: {came_of_it}"


def _order_differences(world: ScenarioWorld, order: Order, end: OrderEnd) -> Iterator[str]:
    order_id, tables = order.payment_order_id, world.tables
    in_books = end.state is State.SUCCESS
    letter = tables.dead_letters.get(order_id)
    is_open = letter is not None and letter.closed_at is None
    mismatches = tuple(sorted(row.kind for row in tables.mismatches.values() if row.payment_order_id == order_id))
    pairs: list[tuple[str, object, object]] = [
        ("state", end.state.value, order.state.value),
        ("charges taken by the PSPs", end.charged, len(world.auditor.captures.get(order_id, ()))),
        ("attempts", end.attempts, order.attempt),
        ("sends", order.sends if end.sends is None else end.sends, order.sends),
        ("entries in the ledger", int(in_books if end.ledger is None else end.ledger), _posted(world, order_id)),
        ("entries in the wallet", int(in_books if end.wallet is None else end.wallet), _credited(world, order_id)),
        ("ledger_updated", _posted(world, order_id) > 0, order.ledger_updated),
        ("wallet_updated", _credited(world, order_id) > 0, order.wallet_updated),
        ("open dead letter", end.dead_letter, letter.reason if letter is not None and is_open else None),
        ("mismatches", tuple(sorted(end.mismatches)), mismatches),
    ]
    if end.person_called is not None:
        called = letter.reason if letter is not None and not is_open else None
        pairs.append(("dead letter, closed again", end.person_called, called))
    if end.path is not None:
        pairs.append(("states", " > ".join(end.path), " > ".join(_path(world, order_id))))
    for what, wanted, found in pairs:
        if wanted != found:
            yield f"{order_id}: {what} should be {_said(wanted)}, and is {_said(found)}"


def _total_differences(world: ScenarioWorld) -> Iterator[str]:
    expect = world.scenario.expect
    for order_id in expect.never_stored:
        if order_id in world.tables.orders:
            yield f"{order_id} should never be recorded, and was"
    if world.engines != expect.engines:
        yield f"{expect.engines} engines should live, and {world.engines} did"
    logged = {step.kind for step in world.trace.steps if step.actor == "log"}
    for event in expect.never_logged:
        if event in logged:
            yield f"the engine should never log {event}, and did"
    fenced = sum(1 for step in world.trace.steps if step.kind == "ended" and "Fenced" in str(step.payload))
    if fenced != expect.fenced:
        yield f"{expect.fenced} engines should end because another took over, and {fenced} did"
    taken = _totals(to_iso(one.amount, one.currency) for site in world.sites for one in site.model.truth())
    wallets = _totals(Money(row.available_minor, row.currency) for row in world.tables.wallets.values())
    wanted_in_wallets = expect.taken if expect.in_wallets is None else expect.in_wallets
    for what, wanted, found in (("the PSPs", expect.taken, taken), ("the wallets", wanted_in_wallets, wallets)):
        if sorted(wanted) != found:
            yield f"{what} should have {_list(wanted)} in all, and have {_list(found)}"


def _is_meant(world: ScenarioWorld, verdict: Verdict) -> bool:
    of_open_orders = ("nothing_stuck", "no_lost_charge")
    return verdict.invariant in of_open_orders and verdict.subject in world.scenario.open_at_end


# --- words -------------------------------------------------------------------------------------------------------


def _outcome(world: ScenarioWorld) -> Iterator[str]:
    """Say how it ended: what became of each order, who has the money, and what is left to people."""
    tables = world.tables
    for order_id, order in tables.orders.items():
        charges = len(world.auditor.captures.get(order_id, ()))
        taken = {0: "nothing was taken", 1: "the money was taken once"}.get(
            charges, f"the money was taken {charges} times"
        )
        tries = f"{order.attempt} attempt{'' if order.attempt == 1 else 's'}"
        yield f"{order_id} over {order.amount}: {order.state.value} after {tries}; {taken}.{_books(order)}"
        letter = tables.dead_letters.get(order_id)
        if letter is not None:
            end = f"closed ({letter.resolution})" if letter.closed_at is not None else "open"
            yield f"  A person was called: {letter.reason}; {end}."
    for row in tables.mismatches.values():
        amount = Money(row.amount_minor, row.currency)
        yield f"  A mismatch is open: {row.kind}, {amount} at {row.psp}; remedy: {row.remedy}."
    for (seller, _), wallet in tables.wallets.items():
        yield f"Seller {seller} has {Money(wallet.available_minor, wallet.currency)}."


def _books(order: Order) -> str:
    if order.state is not State.SUCCESS:
        return ""
    written = [name for name, done in (("ledger", order.ledger_updated), ("wallet", order.wallet_updated)) if done]
    return f" Written: {' and '.join(written) or 'neither book'}."


def _in_words(verdict: Verdict) -> str:
    money = f" ({Money(verdict.amount_minor, verdict.currency)})" if verdict.currency else ""
    return f"the auditor: {verdict.invariant}, {verdict.subject}: {verdict.detail}{money}"


def _posted(world: ScenarioWorld, order_id: str) -> int:
    return world.auditor.posted.get(order_id, 0)


def _credited(world: ScenarioWorld, order_id: str) -> int:
    return world.auditor.credited.get(order_id, 0)


def _path(world: ScenarioWorld, order_id: str) -> list[State]:
    """Return every state that the order entered, the first included."""
    entered = [
        entry.to_state for entry in world.tables.log.get(order_id, ()) if entry.to_state != entry.from_state
    ]
    return [State.NOT_STARTED, *entered]


def _totals(amounts: Iterable[Money]) -> list[str]:
    totals: dict[str, int] = {}
    for amount in amounts:
        totals[amount.currency] = totals.get(amount.currency, 0) + amount.minor
    return sorted(str(Money(minor, currency)) for currency, minor in totals.items() if minor)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return _list(value)
    return "none" if value is None else str(value)


def _list(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values) or "nothing"
