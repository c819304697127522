"""A run told in words: for each step who did it, which payment orders it is about, and one sentence.

The sentences are for somebody from support who has never seen the code. What the store has decided is told by
`engine.story`, in the words of `tallystick why`; what happened outside, by this module.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from tallystick.engine.events import Charged, Declined, Event, NotExecuted, OutcomeLost
from tallystick.engine.money import Money
from tallystick.engine.story import tell
from tallystick.sim import memory_reads
from tallystick.sim.clock import SECOND_US
from tallystick.sim.faults import BY_NAME, Site
from tallystick.sim.network import Arrival, Heard, Request
from tallystick.sim.psp.model import Payment, Status
from tallystick.sim.psp.units import to_iso
from tallystick.sim.scenario import ONLY_HERE
from tallystick.sim.snapshots import Recording
from tallystick.sim.trace import Step

FAULTS = ("faults", "trouble")
"""Actors under which strikes are noted: drawn ones, and those of a scenario."""
WRITERS = {"accept": "acceptance", "apply": "transitions", "post": "ledger", "credit": "wallet"}
"""The engine's writers by the kind of their transactions."""
WORLD_LANE = "world"
_SHOWN_MAX = 3
"""A batch writes hundreds of orders; a sentence names this many."""

_REQUESTS = {
    "charge": "to charge",
    "register": "to open a payment page for",
    "inquire": "what became of",
    "void": "to void",
}
_LIVES = {
    "start": "starts: it takes over every order.",
    "up": "is up and takes payments.",
    "pause": "stands still, as a process that was swapped out; it does not know that.",
    "resume": "runs again where it stood, not knowing that time has passed.",
}
# Drawn before the first step, these say what kind of run this is; they strike at a time of their own.
_STRIKING_NOW = frozenset({Site.CHARGE, Site.QUESTION, Site.WEBHOOK, Site.BUYER, Site.CLIENT})
PEOPLE = ("buyer", "reviewer", "person", "support")
_DEEDS = {
    "pay": "pays on the PSP's page",
    "decline": "refuses on the PSP's page",
    "buyer_abandons": "leaves the PSP's page without a word",
    "ReviewApproved": "lets the order pass",
    "ReviewRejected": "refuses the order",
    "retry": "asks for one more attempt",
    "retries": "asks for one more attempt",
    "cancels": "asks to stop the order",
    "reads_settlement_file": "reads the PSP's settlement file",
    "is refused": "is told that it cannot be",
}


class Told(msgspec.Struct, frozen=True):
    """One step, told."""

    lane: str
    """Where it happened: an actor, or a payment order as `order:ID`."""
    orders: tuple[str, ...]
    """The payment orders that it is about; none where it is about all or nothing."""
    text: str
    tone: str
    """`plain`; `fault` for a strike; `lost` for what never came; `crash` for what ends or stops an engine; `money`
    for a charge; `quiet` for what only fills in."""
    parts: tuple[tuple[str, str], ...] = ()
    """Of a batch: what it means for each order by itself."""

    def about(self, order_id: str | None) -> str:
        """Return the sentence as far as it concerns one order; the whole one where none is named."""
        return next((text for name, text in self.parts if name == order_id), self.text)


def seconds(at_us: int) -> str:
    """Write virtual time: seconds since the start of the run, to the microsecond where it matters."""
    whole, rest = divmod(at_us, SECOND_US)
    return f"{whole}.{rest // 1000:03d} s" if rest % 1000 == 0 else f"{whole}.{rest:06d} s"


def narrate(recording: Recording) -> list[Told]:
    """Tell every step of a run."""
    return _Narrator(recording).all()


def evidence(event: Event) -> str:
    """Say in a few words what a piece of evidence tells."""
    match event:
        case Charged(amount=amount):
            return f"charged {amount}"
        case Declined(code=code, decline_class=decline_class):
            return f"declined, {code} ({decline_class.value})"
        case NotExecuted(reason=reason):
            return f"had no effect, {reason}"
        case OutcomeLost(reason=reason):
            return f"nobody knows, {reason}"
        case _:
            return {
                "Accepted": "accepted, the outcome comes later",
                "BuyerActionRequired": "the buyer must act on a page",
                "NotFound": "no such request is known",
                "Voided": "dead: it never charged and never will",
            }.get(type(event).__name__, type(event).__name__)


def amount_of(payment: Payment) -> str:
    """Return a payment's amount as text; empty for the tombstone of an unseen key."""
    return str(to_iso(payment.amount, payment.currency)) if payment.currency else ""


class _Narrator:
    """Goes through the steps once, remembering what a later step refers to."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._sites = [site.name for site in recording.world.sites]
        self._engine = "engine-1"
        self._tellers: dict[str, Callable[[Step], Told]] = {"store": self._store, "webhook": self._delivered}
        self._tellers |= dict.fromkeys(self._sites, self._psp)
        self._tellers |= dict.fromkeys(FAULTS, self._fault)
        self._log_lines = self._read_logs()

    def all(self) -> list[Told]:
        return [self._tell(step) for step in self._recording.steps]

    def _read_logs(self) -> dict[str, list[str]]:
        """Return for each order the sentence of each entry of its log, in order of version."""
        tables, lines = self._recording.tables, {}
        for order_id in tables.orders:
            story = memory_reads.story(tables, order_id)
            if story is not None:
                told = tell(story)[1 : 1 + len(story.log)]
                lines[order_id] = [line.partition("  ")[2] for line in told]
        return lines

    def _tell(self, step: Step) -> Told:
        teller = self._tellers.get(step.actor)
        if teller is not None:
            return teller(step)
        if step.actor.startswith("engine-"):
            return self._life(step)
        if step.actor.startswith("client-"):
            return self._client(step)
        if step.actor.startswith(PEOPLE):
            return self._person(step)
        return self._other(step)

    # --- the engine --------------------------------------------------------------------------------------------

    def _life(self, step: Step) -> Told:
        name, payload = step.actor, step.payload
        self._engine = name if step.kind == "start" else self._engine
        if isinstance(payload, Request):
            order_id = payload.payment_order_id
            return Told(f"order:{order_id}", (order_id,), _asks(payload), "plain")
        if isinstance(payload, Heard):
            return _heard(payload)
        if step.kind == "write":
            return self._write(step)
        return Told(name, (), *_fate(step))

    def _write(self, step: Step) -> Told:
        writer, items = _pair(step.payload)
        lane = WRITERS.get(str(writer), str(writer))
        what: dict[str, str] = {}
        for item in items if isinstance(items, tuple) else ():
            if writer == "accept":
                what |= dict.fromkeys(self._recording.orders_of(str(item)), f"{item} is recorded")
            elif writer == "apply":
                what[str(item[0])] = f"{item[0]} becomes {item[2]}, because of {item[1]}"
            else:
                what[str(item)] = f"{item} enters the {lane}"
        asks = f"The {lane} writer asks the database:"
        parts = tuple((order_id, f"{asks} {text}.") for order_id, text in what.items())
        text = f"{asks} {_some(list(dict.fromkeys(what.values())))}."
        return Told(lane, tuple(what), text, "quiet", parts)

    def _store(self, step: Step) -> Told:
        if step.kind == "store_down":
            return Told("store", (), f"The database is away until {_time(step.payload)}.", "fault")
        if not isinstance(step.payload, tuple) or step.kind not in WRITERS:
            return Told("store", (), f"The database: {step.kind} {_plain(step.payload)}.", "plain")
        written: Any = step.payload[0]
        orders = tuple(str(row[0]) for row in written)
        if step.kind == "apply":
            parts = tuple((str(row[0]), self._decision(str(row[0]), int(row[2]))) for row in written)
            text = _some([part for _, part in parts], " ") or "Nothing is written: the orders had moved on."
            return Told("store", orders, text, "plain", parts)
        book = "recorded" if step.kind == "accept" else f"in the {WRITERS[step.kind]}"
        parts = tuple((order_id, f"Committed: {order_id} is {book}.") for order_id in orders)
        what = [f"{order_id} is {book}" for order_id in orders]
        text = f"Committed: {_some(what)}." if what else f"Nothing is written: it was {book} before."
        return Told("store", orders, text, "plain", parts)

    def _decision(self, order_id: str, version: int) -> str:
        lines = self._log_lines.get(order_id, [])
        said = lines[version - 1] if 0 < version <= len(lines) else "Committed."
        return f"{order_id}: {said}"

    # --- the PSPs ----------------------------------------------------------------------------------------------

    def _psp(self, step: Step) -> Told:
        name, payload = step.actor, step.payload
        if isinstance(payload, Arrival):
            text = f"{name} is asked {_REQUESTS.get(payload.what, payload.what)} {_about(payload)}."
            return Told(name, (payload.payment_order_id,), text, "plain")
        if isinstance(payload, Payment):
            tone = "money" if payload.status is Status.CHARGED else "plain"
            return Told(name, (payload.merchant_reference,), _payment(name, payload), tone)
        if step.kind == "webhook" and isinstance(payload, tuple):
            order_id, event, delay_us = payload
            text = f"{name} sends a webhook: {event}. It will take {seconds(int(str(delay_us)))}."
            return Told(name, (str(order_id),), text, "plain")
        if step.kind in BY_NAME:
            return Told(name, (), f"{name}: {BY_NAME[step.kind].about}, until {_time(payload)}.", "fault")
        return Told(name, (), f"{name}: {step.kind} {_plain(payload)}".rstrip(), "plain")

    def _delivered(self, step: Step) -> Told:
        order_id, event = _pair(step.payload)
        if step.kind == "refused":
            text = "A webhook comes in that no PSP has signed; it is refused."
            return Told(f"order:{event}", (str(event),), text, "fault")
        who = getattr(event, "psp", "somebody")
        what = evidence(event) if isinstance(event, Event) else step.kind
        return Told(f"order:{order_id}", (str(order_id),), f"A webhook of {who} comes in: {what}.", "plain")

    # --- everybody else ----------------------------------------------------------------------------------------

    def _client(self, step: Step) -> Told:
        number = step.actor.removeprefix("client-")
        checkout_id = getattr(step.payload, "checkout_id", step.payload)
        orders = self._recording.orders_of(str(checkout_id)) or self._recording.orders_of(f"checkout-{number}")
        texts = {
            "submit": f"Client {number} sends {step.payload}.",
            "sends": f"Client {number} sends {step.payload}.",
            "receipt": f"Client {number} is told that its checkout is accepted"
            f"{'' if getattr(step.payload, 'new', True) else ', as it was before'}.",
            "refused": f"Client {number} gets no receipt ({step.payload}), and will send it again.",
            "cancel": f"Client {number} asks to stop {step.payload}.",
            "conflict": f"Client {number} is told that this id came before with other content.",
            "client_leaves": f"Client {number} has left without waiting for the answer.",
            "disconnects": f"Client {number} has left without waiting for the answer.",
        }
        text = texts.get(step.kind, f"Client {number}: {step.kind} {_plain(step.payload)}.")
        return Told(step.actor, orders, text, "lost" if step.kind == "refused" else "plain")

    def _person(self, step: Step) -> Told:
        lane = next(one for one in PEOPLE if step.actor.startswith(one))
        about = step.actor.partition(" of ")[2] or str(step.payload or "")
        known = about in self._recording.tables.orders
        who = "Somebody from support" if lane == "support" else f"The {lane}"
        text = f"{who} {_DEEDS.get(step.kind, step.kind)}: {about}."
        return Told(lane, (about,) if known else (), text, "plain")

    def _fault(self, step: Step) -> Told:
        name, where = step.kind, str(step.payload or "")
        fault = BY_NAME.get(name)
        place = where.rpartition("/")[2]
        orders: tuple[str, ...] = (place,) if place in self._recording.tables.orders else ()
        lane = f"order:{place}" if orders else self._place(place)
        if fault is not None and fault.site is Site.CLIENT and place.startswith("client-"):
            orders = self._recording.orders_of(f"checkout-{place.removeprefix('client-')}")
        about = fault.about if fault is not None else ONLY_HERE.get(name, name)
        if step.at_us == 0 and fault is not None and fault.site not in _STRIKING_NOW:
            return Told(lane, orders, f"This run has {name}{f' ({where})' if where else ''}: {about}.", "quiet")
        return Told(lane, orders, f"Fault {name}{f' ({where})' if where else ''}: {about}.", "fault")

    def _place(self, place: str) -> str:
        if place in WRITERS:
            return WRITERS[place]
        known = (*self._sites, *WRITERS.values(), *self._recording.world.auditor.receivers)
        if place in known or place.startswith("client-"):
            return place
        return self._engine

    def _other(self, step: Step) -> Told:
        if step.actor == "log":
            return Told(WORLD_LANE, (), f"The engine logs: {step.kind.replace('_', ' ')}.", "quiet")
        if step.kind == "took" and isinstance(step.payload, tuple):
            about = f"{len(step.payload)} event{'' if len(step.payload) == 1 else 's'}"
            return Told(step.actor, (), f"The receiver {step.actor} takes {about}.", "quiet")
        if step.actor == "clock" and isinstance(step.payload, int):
            text = f"The wall clock is set to {step.payload / SECOND_US:+.0f} s off the true time."
            return Told(WORLD_LANE, (), text, "fault")
        if step.actor == "world":
            texts = {"healed": "Everything heals: nothing goes wrong any more.", "over": "All is over."}
            return Told(WORLD_LANE, (), texts.get(step.kind, step.kind), "plain")
        return Told(WORLD_LANE, (), f"{step.actor}: {step.kind} {_plain(step.payload)}".rstrip(), "plain")


def _heard(heard: Heard) -> Told:
    lost = isinstance(heard.answer, OutcomeLost)
    text = f"{heard.psp} {'is not heard' if lost else 'is heard'}: {evidence(heard.answer)}."
    return Told(f"order:{heard.payment_order_id}", (heard.payment_order_id,), text, "lost" if lost else "plain")


def _fate(step: Step) -> tuple[str, str]:
    """Tell what becomes of an engine: the sentence and its tone."""
    name, payload = step.actor, step.payload
    match step.kind:
        case "crash":
            return f"{name} dies {payload}. What it had not committed is forgotten.", "crash"
        case "ended":
            why = ", ".join(map(str, payload)) if isinstance(payload, tuple) else ""
            return f"{name} has ended: {why or 'nothing said'}.", "crash"
        case "actor_crash":
            return f"In {name} an actor dies with a message of its {payload} mailbox.", "crash"
        case kind if kind in _LIVES:
            return f"{name} {_LIVES[kind]}", "crash" if kind == "pause" else "plain"
        case kind:
            return f"{name}: {kind} {_plain(payload)}".rstrip(), "plain"


def _asks(request: Request) -> str:
    return f"The engine asks {request.psp} {_REQUESTS.get(request.what, request.what)} {_about(request)}."


def _about(message: Request | Arrival) -> str:
    return f"{message.payment_order_id}, attempt {message.attempt}, key {_short(message.key)}"


def _payment(psp: str, payment: Payment) -> str:
    order_id, amount = payment.merchant_reference, amount_of(payment)
    match payment.status:
        case Status.CHARGED:
            return f"{psp} takes {amount} for {order_id}, under key {_short(payment.key)}."
        case Status.DECLINED:
            return f"{psp} declines {order_id}: {payment.code}."
        case Status.PENDING:
            return f"{psp} is still working on {order_id}; it will tell later."
        case Status.ACTION_REQUIRED:
            return f"{psp} waits for the buyer of {order_id} to act on its page."
        case Status.VOIDED:
            return f"{psp} has voided key {_short(payment.key)} of {order_id}: it can never charge."


def _short(key: str) -> str:
    return f"{key[:12]}…" if len(key) > 24 else key  # noqa: PLR2004  (derived keys are 68 long; ids are short)


def _some(parts: list[str], joint: str = "; ") -> str:
    more = len(parts) - _SHOWN_MAX
    ending = "" if more <= 0 else f"{joint}And {more} more." if joint == " " else f"{joint}and {more} more"
    return joint.join(parts[:_SHOWN_MAX]) + ending


def _time(payload: object) -> str:
    return seconds(payload) if isinstance(payload, int) else "later"


def _pair(payload: object) -> tuple[object, object]:
    if isinstance(payload, tuple) and len(payload) == 2:  # noqa: PLR2004  (a pair)
        return payload[0], payload[1]
    return "", payload


def _plain(payload: object) -> str:
    if payload is None:
        return ""
    if isinstance(payload, Money | str | int):
        return str(payload)
    return msgspec.json.encode(payload, order="deterministic").decode()
