"""Scenarios: small named stories of what goes wrong with a payment, and what must be true at the end.

A scenario is a TOML file that somebody from support can read: who pays what, what goes wrong at which step, and
how it must end. Nothing in it is drawn at random. The world is the same as in a campaign, and so are the names of
the faults (`sim.faults`); here each strikes exactly where the file says. docs/scenarios.md describes the format.

The files lie in `scenarios/` at the root of the repository; a wheel carries them inside this package.
"""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from tallystick.engine.errors import CallerError, SetupError
from tallystick.engine.order import State
from tallystick.sim import faults
from tallystick.sim.faults import Site

SELLERS: dict[str, str] = {
    "anna": "DE89370400440532013000",
    "ben": "FR1420041010050500013M02606",
    "cleo": "GB29NWBK60161331926819",
}
"""The sellers of all stories by first name, so that files need no bank accounts."""

ONLY_HERE: dict[str, str] = {
    "crash": "the process dies at a given time",
    "psp_cannot_void": "the PSP has no way to void a request that it has not seen",
    "buyer_declines": "the buyer refuses on the PSP's page",
    "risk_flags": "the risk check wants a person to decide",
    "risk_refuses": "the risk check refuses the order",
}
"""Troubles that a campaign draws in another way, or not at all. The others are the classes of `sim.faults`."""

TIMED = frozenset({"crash", "psp_down", "psp_breaks", "store_down", "clock_jumps", "takeover"})
"""Troubles that come at a time (`from_s`), not at a step."""

UNSUITED = frozenset(
    {"client_repeats", "client_double_click", "client_leaves", "client_reuses_id", "client_cancels"}
    | {"person_retries", "crash_any_time", "key_forgotten", "tight_mailboxes", "actor_starved"}
)
"""Fault classes that a scenario says in another way: clicks of a checkout, and the tables `psp` and `engine`."""

IN_SECONDS = frozenset({"psp_429", "webhook_late", "webhook_twice", "buyer_late", "decline_taken_back"})
"""Troubles whose `delay_s` the world takes in whole seconds; for all others it is exact to the microsecond."""

COMMITS = ("accept", *(state.value for state in State), "ledger", "wallet", "lease", "outbox", "read")
"""What `of` may name: the kind of commit, for moves of an order the state that it enters."""


class UnknownScenario(CallerError):
    """No scenario has this name."""


class BadScenario(CallerError):
    """The file is no scenario: it names the member that is wrong."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a scenario's file. Times are seconds of virtual time since the start."""


class Line(_Part, frozen=True, kw_only=True):
    """One payment order of a checkout."""

    order: str
    amount: str
    currency: str = "EUR"
    seller: str = "anna"


class CheckoutPart(_Part, frozen=True, kw_only=True):
    """A buyer's checkout, and how the shop's client sends it."""

    id: str = "cart-1"
    pays: tuple[Line, ...]
    token: str | None = "tok_visa"  # noqa: S105  (a magic token of the simulated PSP)
    page: bool = False
    """Pay on the PSP's hosted page; then there is no token."""
    at_s: float = 1.0
    """The engine is up from the first second on."""
    clicks: int = 1
    """How many equal requests are sent at once."""
    again_at_s: tuple[float, ...] = ()
    """When the client sends the same request again."""
    gone_after_s: float | None = None
    """The client disconnects this long after it has sent the request, and does not come back by itself."""
    answers: tuple[str, ...] = ("accepted",)
    """What the client heard, in order: accepted, repeated, `conflict: FIELD` or `refused: FIELD`."""


class Trouble(_Part, frozen=True, kw_only=True):
    """One thing that goes wrong, once unless `times` or a span of time says otherwise."""

    what: str
    order: str | None = None
    attempt: int | None = None
    """Only with this attempt."""
    send: int | None = None
    """Only with this send of the attempt."""
    of: str | None = None
    """Which commit (see COMMITS), or which mailbox."""
    when: str = "after"
    """For crashes: before or after the step."""
    psp: str | None = None
    receiver: str | None = None
    nth: int = 1
    """The first occasion, among those that fit, at which it strikes."""
    times: int | None = None
    """At how many occasions; 1 if there is no span of time."""
    from_s: float | None = None
    for_s: float | None = None
    delay_s: float = 0.0
    """How late, how long after, how stale; for clock_jumps how far off."""
    arrives: bool = False
    """Of a question or a page of events whose answer is lost: whether it arrived."""
    person: str = "approves"
    """What the reviewer does whom risk_flags calls: approves, rejects, nothing."""


class PersonPart(_Part, frozen=True, kw_only=True):
    """Somebody from support or finance does something about an order."""

    does: str
    """retries, cancels, or reads_settlement_file."""
    order: str
    at_s: float
    refused: bool = False
    """Whether the engine must refuse it."""


class OrderEnd(_Part, frozen=True, kw_only=True):
    """What must be true of one payment order at the end."""

    state: State
    charged: int
    """How often the PSPs took money for it."""
    attempts: int = 1
    sends: int | None = None
    """Sends of the last attempt."""
    ledger: bool | None = None
    """Whether it is in the ledger, once; by default exactly when it is a SUCCESS."""
    wallet: bool | None = None
    dead_letter: str | None = None
    """The reason of its open dead letter; by default it must have none."""
    person_called: str | None = None
    """The reason of a dead letter that is closed again."""
    mismatches: tuple[str, ...] = ()
    path: tuple[State, ...] | None = None
    """Every state that it entered, in order."""


class Expectation(_Part, frozen=True, kw_only=True):
    """What must be true at the end."""

    within_s: int
    """Everything must have ended by then; where an order stays open on purpose, the run ends here."""
    taken: tuple[str, ...]
    """What the PSPs took in all, such as "12.50 EUR", one a currency."""
    orders: dict[str, OrderEnd] = {}
    in_wallets: tuple[str, ...] | None = None
    """What the sellers have in all; by default what was taken."""
    told_to_wait: bool = False
    """Whether some client was told to try again later (HTTP 503) at least once."""
    engines: int = 1
    """How many engine processes lived."""
    fenced: int = 0
    """How many of them ended because another had taken over their orders."""
    never_logged: tuple[str, ...] = ()
    """Log lines of the engine that must not appear, by their event's name."""
    never_stored: tuple[str, ...] = ()
    """Payment orders that must not exist."""


class Scenario(_Part, frozen=True, kw_only=True):
    """One story."""

    title: str
    story: str
    came_from: str = msgspec.field(name="from")
    """Where such a thing was reported, or which sentence of what was asked for it is about."""
    checkout: tuple[CheckoutPart, ...]
    trouble: tuple[Trouble, ...] = ()
    person: tuple[PersonPart, ...] = ()
    psp: dict[str, Any] = {}
    """What the PSPs promise, where it is not the default: members of PspPolicy, with `_s` for seconds or `_us`."""
    engine: dict[str, Any] = {}
    """Members of EngineSettings."""
    expect: Expectation
    name: str = ""
    """The file's name without its ending."""

    @property
    def open_at_end(self) -> frozenset[str]:
        """Return the orders that stay open on purpose: something, or somebody, is still waited for."""
        over = (State.SUCCESS, State.FAILED, State.CANCELLED)
        return frozenset(order for order, end in self.expect.orders.items() if end.state not in over)


def names() -> list[str]:
    """Return the names of all scenarios, sorted. Raises SetupError when the files are not there."""
    found = [entry.name for entry in _folder().iterdir() if entry.name.endswith(".toml")]
    return sorted(name.removesuffix(".toml") for name in found)


def load(name: str) -> Scenario:
    """Read a scenario by name. Raises UnknownScenario, BadScenario."""
    if name not in names():
        raise UnknownScenario("scenario", f"no scenario {name!r}; `tallystick sim scenario list` names them")
    return parse((_folder() / f"{name}.toml").read_text(encoding="utf-8"), name=name)


def parse(text: str, *, name: str) -> Scenario:
    """Read a scenario from its TOML. Raises BadScenario."""
    try:
        raw = tomllib.loads(text)
        scenario: Scenario = msgspec.convert({**raw, "name": name}, Scenario, strict=False)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as wrong:
        raise BadScenario(name, str(wrong)) from wrong
    for trouble in scenario.trouble:
        _check(scenario, trouble)
    asked = [line.order for checkout in scenario.checkout for line in checkout.pays]
    for order in (*asked, *(one.order for one in scenario.person)):
        if order not in scenario.expect.orders and order not in scenario.expect.never_stored:
            raise BadScenario(name, f"nothing is said about how {order} must end")
    for line in (line for checkout in scenario.checkout for line in checkout.pays):
        if line.seller not in SELLERS:
            raise BadScenario(name, f"no seller {line.seller!r}; there are {', '.join(SELLERS)}")
    return scenario


_NEEDS: Mapping[Site, tuple[str, ...]] = {
    Site.CHARGE: ("order",),
    Site.QUESTION: ("order",),
    Site.WEBHOOK: ("order",),
    Site.BUYER: ("order",),
    Site.STORE: ("of",),
    Site.RECEIVER: ("receiver",),
}
_NEEDS_OF_THEIR_OWN: Mapping[str, tuple[str, ...]] = {
    "store_down": (),
    "clock_jumps": (),
    "decline_taken_back": ("order",),
    "crash_at_commit": ("of",),
    "crash_at_call": ("order",),
    "message_late": ("of",),
    "psp_cannot_void": (),
    "buyer_declines": ("order",),
    "risk_flags": ("order",),
    "risk_refuses": ("order",),
}


def _check(scenario: Scenario, trouble: Trouble) -> None:
    """Refuse a trouble that can never strike as it is written. Raises BadScenario."""
    what = trouble.what
    if what in UNSUITED or (what not in faults.BY_NAME and what not in ONLY_HERE):
        raise BadScenario(scenario.name, f"no trouble {what!r}")
    if what in IN_SECONDS and not trouble.delay_s.is_integer():
        raise BadScenario(scenario.name, f"{what} takes a `delay_s` of whole seconds")
    known = faults.BY_NAME.get(what)
    needs = _NEEDS_OF_THEIR_OWN.get(what, _NEEDS.get(known.site, ()) if known is not None else ())
    needs = (*needs, "from_s") if what in TIMED else needs
    for member in needs:
        if getattr(trouble, member) is None:
            raise BadScenario(scenario.name, f"{what} needs {member!r}")
    if known is not None and known.site is Site.STORE and trouble.of is not None and trouble.of not in COMMITS:
        raise BadScenario(scenario.name, f"no commit {trouble.of!r}; there are {', '.join(COMMITS)}")
    if trouble.when not in ("before", "after") or trouble.person not in ("approves", "rejects", "nothing"):
        raise BadScenario(
            scenario.name, f"{what}: `when` is before or after, `person` approves, rejects or nothing"
        )


def _folder() -> Traversable:
    packaged = files("tallystick.sim") / "scenarios"
    if packaged.is_dir():
        return packaged
    cloned = Path(__file__).resolve().parents[3] / "scenarios"
    if not cloned.is_dir():
        raise SetupError(f"the scenarios are missing: neither in the package nor in {cloned}")
    return cloned
