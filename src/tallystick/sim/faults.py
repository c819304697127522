"""Every way in which the simulated world goes wrong, in one table: its name, where it strikes, how often.

Swarm testing: each seed turns a random half of the classes off, since faults that are always on hide each other
(a PSP that is always down never charges twice). Within a run, each strike is a choice of the tape at the place
where it strikes, on a stream that carries the fault's name; so a shrinker can take faults away one by one, by
class, by order, or all.

To add a fault: add its row, and let the place that it strikes ask `Faults.strikes`.
"""

from collections.abc import Callable, Collection, Iterable
from enum import StrEnum

import msgspec

from tallystick.engine.errors import CallerError
from tallystick.sim.tape import Stream, Tape

FAMILY = "faults"

# Half the classes on: the more there are, the rarer any one pair of them is alone (swarm testing, Groce 2012).
_SWARM_PPM = 500_000


class Site(StrEnum):
    """Where a fault strikes."""

    CHARGE = "charge"
    """A charge or registration on its way to a PSP, or its answer on the way back."""
    QUESTION = "question"
    """An inquiry or a void."""
    PSP = "psp"
    """A PSP as a whole."""
    WEBHOOK = "webhook"
    BUYER = "buyer"
    STORE = "store"
    ENGINE = "engine"
    CLIENT = "client"
    RECEIVER = "receiver"
    CLOCK = "clock"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One class of fault. `ppm` is the chance per occasion, in parts per million, while the class is on."""

    name: str
    site: Site
    ppm: int
    about: str


def _faults(site: Site, *rows: tuple[str, int, str]) -> list[Fault]:
    return [Fault(name=name, site=site, ppm=ppm, about=about) for name, ppm, about in rows]


TABLE: tuple[Fault, ...] = (
    *_faults(
        Site.CHARGE,
        ("request_lost", 60_000, "the request never reaches the PSP, and nothing comes back"),
        ("request_delayed", 60_000, "the request arrives after we gave up on it, perhaps after the inquiry"),
        ("request_duplicated", 60_000, "the request arrives twice, the second time later"),
        ("response_lost", 60_000, "the PSP acted, and its answer is lost"),
        ("response_slow", 80_000, "the answer takes long, but comes in time"),
        ("psp_4xx", 20_000, "the PSP refuses the request before it looks at it"),
        ("psp_429", 40_000, "throttled, with Retry-After"),
        ("psp_5xx_before", 40_000, "an error answer, and nothing was done"),
        ("psp_5xx_after", 40_000, "an error answer, although the PSP acted"),
        ("adapter_crash", 10_000, "our PSP client raises after the request has left: a bug of ours"),
    ),
    *_faults(
        Site.QUESTION,
        ("question_lost", 150_000, "an inquiry or a void gets no answer; a void may still arrive"),
        ("inquiry_stale", 150_000, "the PSP answers an inquiry from an index that lags behind"),
    ),
    *_faults(
        Site.PSP,
        ("psp_down", 500_000, "the PSP refuses every connection for a while"),
        ("psp_breaks", 300_000, "the PSP answers nothing for a while, but works on what arrives"),
        ("key_forgotten", 300_000, "the PSP remembers keys for minutes or seconds only, as it says it does"),
        (
            "decline_taken_back",
            100_000,
            "the PSP charges an attempt that it had declined: contradictory final states",
        ),
    ),
    *_faults(
        Site.WEBHOOK,
        ("webhook_lost", 150_000, "the PSP's webhook never comes"),
        ("webhook_late", 150_000, "it comes late, after younger ones"),
        ("webhook_twice", 150_000, "it comes twice"),
        ("webhook_early", 150_000, "it overtakes the response of the call that caused it"),
        ("webhook_forged", 50_000, "somebody else sends one, unsigned, that says the order is charged"),
    ),
    *_faults(
        Site.BUYER,
        ("buyer_abandons", 300_000, "the buyer leaves the PSP's page without a word"),
        ("buyer_late", 200_000, "the buyer acts close to the page's expiry, or after it"),
    ),
    *_faults(
        Site.STORE,
        ("commit_slow", 30_000, "a transaction takes long"),
        ("commit_acknowledged_late", 20_000, "the commit is durable long before its answer comes"),
        ("commit_unknown_done", 15_000, "the answer of a commit is lost; it was durable"),
        ("commit_unknown_undone", 15_000, "the answer is lost, and nothing was written"),
        ("store_unavailable", 20_000, "a transaction is rolled back, or the database cannot be reached"),
        ("store_down", 200_000, "the database is away for a while"),
    ),
    *_faults(
        Site.ENGINE,
        ("crash_at_commit", 4_000, "the process dies right before or right after a commit"),
        ("crash_at_call", 4_000, "the process dies right before or right after a call to a PSP leaves"),
        ("crash_any_time", 500_000, "the process dies at a random time"),
        ("risk_check_fails", 50_000, "the risk check raises, and must be asked again"),
        ("actor_crash", 5_000, "an order's actor dies with a message in its hand"),
        ("message_late", 20_000, "a message between actors is handed over late"),
        ("actor_starved", 300_000, "one kind of actor gets every message late, for the whole run"),
        ("takeover", 250_000, "the engine is paused, another takes its partitions, and the first wakes up again"),
        ("tight_mailboxes", 300_000, "mailboxes and concurrency limits are tiny, so that everything is full"),
    ),
    *_faults(
        Site.CLIENT,
        ("client_repeats", 150_000, "the client sends the same checkout again, having got its answer"),
        ("client_double_click", 150_000, "two equal requests at once"),
        ("client_leaves", 150_000, "the client disconnects before the answer"),
        ("client_reuses_id", 80_000, "the same id or Idempotency-Key comes with other content"),
    ),
    *_faults(
        Site.RECEIVER,
        ("receiver_fails", 150_000, "a receiver of events refuses a page, or takes it and says that it failed"),
        ("receiver_slow", 100_000, "a receiver takes long"),
    ),
    *_faults(
        Site.CLOCK,
        ("clock_jumps", 300_000, "the wall clock is set forward or back, within what the PSPs' windows allow for"),
    ),
    # Younger classes stand at the end: the swarm draws class by class, and older seeds keep their faults.
    *_faults(
        Site.CHARGE,
        ("psp_other_amount", 4_000, "the PSP takes another amount than it was asked for"),
    ),
    *_faults(
        Site.CLIENT,
        ("client_cancels", 200_000, "the shop asks to stop an order, at whatever moment"),
        ("person_retries", 300_000, "a person has a failed order tried again, from the dead-letter queue"),
    ),
)

BY_NAME: dict[str, Fault] = {fault.name: fault for fault in TABLE}


class UnknownFault(CallerError):
    """No fault class has this name."""


def named(names: Iterable[str]) -> frozenset[str]:
    """Return fault classes by name; `all` and `none` mean what they say. Raises UnknownFault."""
    chosen: set[str] = set()
    for name in names:
        if name == "all":
            chosen |= BY_NAME.keys()
        elif name in BY_NAME:
            chosen.add(name)
        elif name != "none":
            raise UnknownFault("faults", f"no fault class {name!r}; there are {', '.join(BY_NAME)}, all, none")
    return frozenset(chosen)


class Faults:
    """The faults of one run: which classes are on, and each strike."""

    def __init__(self, tape: Tape, *, allowed: Collection[str], swarm: bool = True) -> None:
        """`allowed` bounds what may be on; `swarm` turns a random half of that off."""
        self._tape = tape
        # One choice per class of the whole table, so that allowing fewer does not move the others' choices.
        # The choice 0 is "off": an empty tape is a world without faults.
        swarmed = tape.stream(f"{FAMILY}/swarm")
        self.on = frozenset(
            fault.name
            for fault in TABLE
            if (swarmed.chance(_SWARM_PPM) if swarm else True) and fault.name in allowed
        )
        self.struck: dict[str, int] = {}
        """How often each class struck."""
        self.on_strike: Callable[[str, str], None] | None = None
        """Told the name and the place of each strike."""
        self.healed = False
        """Once everything has healed nothing strikes any more."""
        self._streams: dict[tuple[str, str], Stream] = {}

    def strikes(self, name: str, where: str = "") -> bool:
        """Say whether a fault strikes now; `where` keeps the choices of orders, calls or writers apart."""
        if name not in self.on or self.healed:
            return False
        key = (name, where)
        stream = self._streams.get(key)
        if stream is None:
            stream = self._tape.stream(f"{FAMILY}/{name}/{where}" if where else f"{FAMILY}/{name}")
            self._streams[key] = stream
        if not stream.chance(BY_NAME[name].ppm):
            return False
        self.struck[name] = self.struck.get(name, 0) + 1
        if self.on_strike is not None:
            self.on_strike(name, where)
        return True

    def how(self, name: str, where: str = "") -> Stream:
        """Return the stream for the particulars of a strike: how long, how much, which."""
        return self._tape.stream(f"{FAMILY}/{name}/{where}/how")

    def heal(self) -> None:
        """End all faults."""
        self.healed = True
