"""What led to what: for each step of a run the steps that caused it, and the messages between lanes.

The trace says what happened, and in which order. Here the order becomes a chain: a request came in because it was
sent, it was sent because a decision had been committed, that was decided because an answer was not heard. It is
found from what the steps say of themselves (numbers of requests, ids of orders), never guessed from time alone,
except that what the simulated world does in one breath stands next to each other in the trace.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tallystick.engine.events import OutcomeLost
from tallystick.sim.narrate import FAULTS, Told
from tallystick.sim.network import Arrival, Heard, Request
from tallystick.sim.psp.model import Payment
from tallystick.sim.snapshots import Recording
from tallystick.sim.trace import Step

_BESIDE_MAX = 6
"""What the world does in one breath is at most this many steps: a payment, its webhooks, their faults."""
_ASKED_FOR = frozenset({"ReviewApproved", "ReviewRejected", "CancelRequested", "RetryRequested"})
_WRITES = ("accept", "apply", "post", "credit")


class Arrow(msgspec.Struct, frozen=True):
    """A message from one lane to another. Without `to` it never came: a stub."""

    kind: str
    """`request`, `answer`, `webhook`, `write`, `commit`, `client` or `order`."""
    sender: int
    """The step at which it left."""
    sender_lane: str
    to: int | None
    to_lane: str
    orders: tuple[str, ...]

    @property
    def lost(self) -> bool:
        """Say whether it never came."""
        return self.to is None


class Causes(NamedTuple):
    """The chains of a run."""

    of: list[tuple[int, ...]]
    """By step: its causes, nearest first. The faults that struck a step's message are among them."""
    arrows: list[Arrow]


def find_causes(recording: Recording, told: list[Told]) -> Causes:
    """Link the steps of a run."""
    linker = _Linker(recording, told)
    for number, step in enumerate(recording.steps):
        linker.link(number, step)
    linker.finish()
    return Causes(linker.causes, linker.arrows)


def chain(causes: Causes, told: list[Told], step: int, order_id: str | None = None) -> list[int]:
    """Return a step and everything that led to it, oldest first; only what is about one order, if one is named."""
    seen: set[int] = set()
    waiting = [step]
    while waiting:
        number = waiting.pop()
        about = told[number].orders
        if number in seen or (order_id is not None and about and order_id not in about):
            continue
        seen.add(number)
        waiting.extend(causes.of[number])
    return sorted(seen)


class _Linker:
    """Goes through the steps once, remembering the latest of each kind."""

    def __init__(self, recording: Recording, told: list[Told]) -> None:
        self._recording = recording
        self._steps = recording.steps
        self._told = told
        self.causes: list[tuple[int, ...]] = []
        self.arrows: list[Arrow] = []
        self._requests: dict[tuple[str, int], int] = {}
        """Requests to charge or to ask, by PSP and number: the step at which each was sent."""
        self._arrivals: dict[tuple[str, int], list[int]] = {}
        self._heard: set[tuple[str, int]] = set()
        self._payments: dict[tuple[str, str], int] = {}
        """Latest step of a payment at a PSP."""
        self._decided: dict[str, int] = {}
        """Latest commit about an order."""
        self._evidence: dict[tuple[str, str], int] = {}
        """Latest step that brought an order this kind of event."""
        self._submits: dict[str, int] = {}
        self._accepted: dict[str, int] = {}
        """By checkout: the commit that recorded it."""
        self._writes: dict[tuple[str, str], int] = {}
        """By engine and kind: the transaction that left for the database and has not arrived there."""
        self._webhooks: dict[tuple[str, str, int], int] = {}
        self._lives: dict[str, int] = {}
        """Latest step about each engine."""
        self._asked: dict[str, int] = {}
        """Latest step at which somebody asked for something about an order."""
        self._about: dict[str, int] = {}
        """Latest payment at any PSP for an order."""
        self._linkers: dict[str, Callable[[int, Step], list[int | None]]] = {
            "write": self._write,
            "store": self._commit,
            "webhook": self._webhook,
        }
        self._fault: int | None = None
        """The strike that came right before, at the same moment."""

    def link(self, number: int, step: Step) -> None:
        """Find the causes of the next step."""
        found = self._link(number, step)
        struck = self._fault
        if struck is not None and (struck != number - 1 or self._steps[struck].at_us != step.at_us):
            struck = None
        causes = [cause for cause in found if cause is not None and cause < number]
        if struck is not None and step.kind in (
            "crash",
            "hear",
            "took",
            "payment",
            "actor_crash",
            "client_leaves",
        ):
            causes.append(struck)
        self.causes.append(tuple(dict.fromkeys(causes)))
        self._fault = number if step.actor in FAULTS else None

    def _link(self, number: int, step: Step) -> list[int | None]:
        payload = step.payload
        match payload:
            case Request():
                self._requests[payload.psp, payload.number] = number
                return [self._decided.get(payload.payment_order_id)]
            case Arrival():
                return self._arrived(number, step.actor, payload)
            case Heard():
                return self._hear(number, payload)
            case Payment():
                return self._payment(number, step.actor, payload)
            case _:
                return self._link_by_kind(number, step)

    def _link_by_kind(self, number: int, step: Step) -> list[int | None]:
        link = self._linkers.get("store" if step.actor == "store" and step.kind in _WRITES else step.kind)
        if link is None and step.actor == "webhook":
            link = self._delivered
        elif link is None and step.actor in FAULTS:
            link = self._strike
        elif link is None and step.actor.startswith("engine-"):
            link = self._life
        elif link is None and step.actor.startswith("client-"):
            link = self._client
        if link is not None:
            return link(number, step)
        # What is left are people: what one asks for about an order is why the order is moved.
        self._asked |= dict.fromkeys(self._told[number].orders, number)
        return [self._about.get(order_id) for order_id in self._told[number].orders]

    def _life(self, number: int, step: Step) -> list[int | None]:
        before = self._lives.get(step.actor)
        if before is None and self._lives:
            before = max(self._lives.values())
        self._lives[step.actor] = number
        return [before]

    # --- calls to PSPs -----------------------------------------------------------------------------------------

    def _arrived(self, number: int, psp: str, arrival: Arrival) -> list[int | None]:
        key = psp, arrival.number
        self._arrivals.setdefault(key, []).append(number)
        sent = self._requests.get(key)
        if sent is None:
            return []
        self._arrow("request", sent, number, (arrival.payment_order_id,))
        return [sent, *self._strikes_beside(sent, number, arrival.payment_order_id)]

    def _hear(self, number: int, heard: Heard) -> list[int | None]:
        key = heard.psp, heard.number
        order_id = heard.payment_order_id
        self._heard.add(key)
        self._evidence[order_id, type(heard.answer).__name__] = number
        sent, arrivals = self._requests.get(key), self._arrivals.get(key, [])
        answered = not isinstance(heard.answer, OutcomeLost) or heard.answer.reason.startswith("http")
        if arrivals and answered:
            self._arrow("answer", arrivals[0], number, (order_id,))
        elif arrivals:
            self._stub("answer", arrivals[0], f"order:{order_id}", (order_id,))
        near = (sent, *arrivals) if sent is not None else tuple(arrivals)
        strikes = [strike for one in near for strike in self._strikes_beside(one, number, order_id)]
        return [*reversed(arrivals), sent, *strikes]

    def _strikes_beside(self, step: int, before: int, order_id: str) -> list[int]:
        """Return the faults that struck an order's message at the moment of a step."""
        return [
            strike
            for strike in range(step + 1, min(step + _BESIDE_MAX, before))
            if self._steps[strike].actor in FAULTS
            and self._steps[strike].at_us == self._steps[step].at_us
            and order_id in self._told[strike].orders
        ]

    def _payment(self, number: int, psp: str, payment: Payment) -> list[int | None]:
        key = psp, payment.psp_reference
        before = number - 1
        beside = before >= 0 and self._steps[before].at_us == self._steps[number].at_us
        about = self._told[before].orders if beside else ()
        found = [before if payment.merchant_reference in about else None, self._payments.get(key)]
        self._payments[key] = self._about[payment.merchant_reference] = number
        return found

    # --- the database ------------------------------------------------------------------------------------------

    def _write(self, number: int, step: Step) -> list[int | None]:
        if not isinstance(step.payload, tuple):
            return []
        kind, items = str(step.payload[0]), step.payload[1]
        # A writer writes one batch at a time: the one before this never arrived.
        lost = self._writes.pop((step.actor, kind), None)
        if lost is not None:
            self._stub("write", lost, "store", self._told[lost].orders)
        self._writes[step.actor, kind] = number
        causes: list[int | None] = []
        for item in items if isinstance(items, tuple) else ():
            if kind == "apply" and isinstance(item, tuple):
                order_id, event = str(item[0]), str(item[1])
                causes.append(self._why(order_id, event))
            elif kind == "accept":
                causes.append(self._submits.get(str(item)))
            else:
                causes.append(self._decided.get(str(item)))
        lanes = [f"order:{order_id}" for order_id in self._told[number].orders] if kind != "accept" else []
        for lane in lanes:
            self.arrows.append(Arrow("order", number, lane, number, self._told[number].lane, (lane[6:],)))
        if kind == "accept":
            for cause in causes:
                if cause is not None:
                    self._arrow("client", cause, number, self._told[number].orders)
        return causes

    def _why(self, order_id: str, event: str) -> int | None:
        """Return the step that brought an order this event; what its clock brought began with its decision."""
        found = self._evidence.get((order_id, event))
        decided = self._decided.get(order_id)
        if event == "EngineRestarted":
            return max(self._lives.values(), default=None)
        if event in _ASKED_FOR:
            return self._asked.get(order_id, decided)
        return found if found is not None else decided

    def _commit(self, number: int, step: Step) -> list[int | None]:
        orders = self._told[number].orders
        asked = self._arriving(step.kind, orders)
        if asked is not None:
            self._arrow("write", asked, number, self._told[asked].orders)
            self._acknowledge(asked, number)
        for order_id in orders:
            self._decided[order_id] = number
            if step.kind != "accept":
                self.arrows.append(Arrow("order", number, "store", number, f"order:{order_id}", (order_id,)))
        if step.kind == "accept" and asked is not None:
            payload = self._steps[asked].payload
            items = payload[1] if isinstance(payload, tuple) else ()
            for item in items if isinstance(items, tuple) else ():
                self._accepted[str(item)] = number
        return [asked]

    def _arriving(self, kind: str, orders: tuple[str, ...]) -> int | None:
        """Return which of the transactions under way this commit is: two engines may be writing at once."""
        mine = [key for key in self._writes if key[1] == kind]
        mine.sort(key=lambda key: not set(orders) <= set(self._told[self._writes[key]].orders))
        return self._writes.pop(mine[0]) if mine else None

    def _acknowledge(self, asked: int, number: int) -> None:
        """Say how the commit's answer came back: at once, late, or never."""
        after = asked + 1
        strike = self._steps[after] if after < number else None
        struck = strike.kind if strike is not None and strike.actor in FAULTS else ""
        if struck in ("commit_unknown_done", "crash_at_commit"):
            self._stub("commit", number, self._told[asked].lane, self._told[asked].orders)
        elif struck != "commit_acknowledged_late":
            lane = self._told[asked].lane
            self.arrows.append(Arrow("commit", number, "store", number, lane, self._told[asked].orders))

    # --- the rest ----------------------------------------------------------------------------------------------

    def _webhook(self, number: int, step: Step) -> list[int | None]:
        """A PSP sends a webhook."""
        if not isinstance(step.payload, tuple):
            return []
        order_id, event, delay_us = str(step.payload[0]), str(step.payload[1]), step.payload[2]
        due_us = step.at_us + (delay_us if isinstance(delay_us, int) else 0)
        self._webhooks[order_id, event, due_us] = number
        return [self._about.get(order_id)]

    def _delivered(self, number: int, step: Step) -> list[int | None]:
        order_id = str(step.payload[0]) if isinstance(step.payload, tuple) else ""
        self._evidence[order_id, step.kind] = number
        sent = self._webhooks.pop((order_id, step.kind, step.at_us), None)
        if sent is not None:
            self._arrow("webhook", sent, number, (order_id,))
        return [sent]

    def _client(self, number: int, step: Step) -> list[int | None]:
        checkout_id = str(getattr(step.payload, "checkout_id", step.payload))
        if step.kind in ("submit", "sends"):
            self._submits[checkout_id] = number
            self._submits[step.actor] = number
            return []
        if step.kind == "cancel":
            self._asked[str(step.payload)] = number
        accepted, submit = self._accepted.get(checkout_id), self._submits.get(step.actor)
        if step.kind == "receipt" and accepted is not None:
            self._arrow("client", accepted, number, self._told[number].orders)
        return [accepted if step.kind == "receipt" else submit]

    def _strike(self, number: int, step: Step) -> list[int | None]:
        """A strike meets what happened right before it, at the same moment, about the same thing."""
        before, orders = number - 1, self._told[number].orders
        if before < 0 or self._steps[before].at_us != step.at_us:
            return []
        if step.kind == "webhook_lost" and orders:
            self._stub("webhook", before, f"order:{orders[0]}", orders)
        same = not orders or bool(set(orders) & set(self._told[before].orders))
        return [before if same else None]

    def finish(self) -> None:
        """What was sent and never came in is a stub."""
        for key, sent in self._requests.items():
            if key not in self._arrivals:
                self._stub("request", sent, key[0], self._told[sent].orders)
            elif key not in self._heard:
                self._stub("answer", self._arrivals[key][0], self._told[sent].lane, self._told[sent].orders)
        for sent in self._writes.values():
            self._stub("write", sent, "store", self._told[sent].orders)
        for (order_id, _, _), sent in self._webhooks.items():
            self._stub("webhook", sent, f"order:{order_id}", (order_id,))
        self.arrows.sort(key=lambda arrow: (arrow.sender, arrow.to or arrow.sender))

    def _arrow(self, kind: str, sender: int, to: int, orders: tuple[str, ...]) -> None:
        lanes = self._told[sender].lane, self._told[to].lane
        self.arrows.append(Arrow(kind, sender, lanes[0], to, lanes[1], orders))

    def _stub(self, kind: str, sender: int, to_lane: str, orders: tuple[str, ...]) -> None:
        self.arrows.append(Arrow(kind, sender, self._told[sender].lane, None, to_lane, orders))
