"""What a campaign has reached: which event met an order in which state, and which fault had touched it.

The simulator alone wraps the decision function for the length of a run; production code knows nothing of it. A
fault counts for an order's event when it struck that order (or its client) at any time before, or, within the last
half minute, something that all orders share: the store, an engine, a PSP as a whole, the clock. What holds for a
whole run (tiny mailboxes, a PSP that forgets keys soon) counts for every event of that run.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tallystick.actors import order_actor
from tallystick.engine.events import AnyEvent
from tallystick.engine.order import Order
from tallystick.engine.records import Context, Outcome
from tallystick.sim.clock import SECOND_US
from tallystick.sim.trace import Trace

Triple = tuple[str, str, str]
"""State, event, fault."""
NO_FAULT = "-"

_DECIDE = "step"
"""The name under which order actors know the decision function."""

# Faults that hold from the start of a run to its end.
_STANDING = frozenset({"tight_mailboxes", "actor_starved", "key_forgotten"})
# Faults that are drawn at the start and come at a time of their own, with the step that the world notes then.
_BEGUN: dict[object, str] = {
    "psp_down": "psp_down",
    "psp_breaks": "psp_breaks",
    "store_down": "store_down",
    "clock_jumps": "clock_jumps",
    "pause": "takeover",
    ("crash", "at a random time"): "crash_any_time",
}
_PLANNED = frozenset(_BEGUN.values())
_ORDER, _CLIENT = "order-", "client-"
_SHARED_US = 30 * SECOND_US


class Coverage:
    """Counts triples over many runs. Addition of two is the coverage of both campaigns."""

    def __init__(self) -> None:
        self.triples: Counter[Triple] = Counter()

    def add(self, other: "Coverage") -> None:
        """Count what another campaign reached."""
        self.triples.update(other.triples)

    @property
    def cells(self) -> dict[tuple[str, str], int]:
        """Return how often each event met each state; with several faults, it is counted for each."""
        counts: Counter[tuple[str, str]] = Counter()
        for (state, event, _), count in self.triples.items():
            counts[state, event] += count
        return dict(counts)

    def as_text(self) -> dict[str, int]:
        """Return the counts by `state/event/fault`, in order."""
        return {"/".join(triple): self.triples[triple] for triple in sorted(self.triples)}

    @contextmanager
    def watching(self, trace: Trace) -> Iterator[None]:
        """Count while the block runs a world with this trace."""
        touched = _Touched(trace)
        decide: Callable[[Order, AnyEvent, Context], Outcome] = getattr(order_actor, _DECIDE)

        def step(order: Order, event: AnyEvent, ctx: Context) -> Outcome:
            pair = str(order.state), type(event).__name__
            for fault in touched.faults_of(order.payment_order_id) or (NO_FAULT,):
                self.triples[(*pair, fault)] += 1
            return decide(order, event, ctx)

        setattr(order_actor, _DECIDE, step)
        try:
            yield
        finally:
            setattr(order_actor, _DECIDE, decide)


class _Touched:
    """Which faults have touched an order, read from the trace as it grows."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._read = 0
        self._standing: dict[str, None] = {}
        self._own: dict[str, dict[str, None]] = {}
        """By order or client."""
        self._shared: dict[str, int] = {}
        """By fault: until when it counts for everybody."""

    def faults_of(self, order_id: str) -> list[str]:
        """Return the faults that count for this order's next event."""
        self._catch_up()
        found = list(self._standing)
        found += self._own.get(order_id, ())
        found += self._own.get(_CLIENT + order_id.split("-")[1], ())
        if self._shared:
            now_us = self._trace.steps[-1].at_us
            found += [name for name, until_us in self._shared.items() if now_us <= until_us]
        return found

    def _catch_up(self) -> None:
        steps = self._trace.steps
        for number in range(self._read, len(steps)):
            at_us, actor, kind, payload = steps[number]
            if actor == "faults":
                if kind not in _PLANNED:
                    self._note(kind, str(payload).rpartition("/")[2], at_us)
            elif (begun := _BEGUN.get((kind, payload) if kind == "crash" else kind)) is not None:
                self._shared[begun] = at_us + _SHARED_US
        self._read = len(steps)

    def _note(self, name: str, place: str, at_us: int) -> None:
        if name in _STANDING:
            self._standing[name] = None
        elif place.startswith((_ORDER, _CLIENT)):
            self._own.setdefault(place, {})[name] = None
        else:
            self._shared[name] = at_us + _SHARED_US
