"""The faults of a scenario: each strikes where its file says, and nowhere else.

A `Script` stands in for the drawn `Faults` of a campaign: the same places of the world ask it the same questions.
It remembers what has struck, since a story whose trouble never came would prove nothing.
"""

from collections.abc import Sequence

from tallystick.sim.clock import SECOND_US, VirtualClock
from tallystick.sim.faults import BY_NAME, Faults, Site
from tallystick.sim.memory_tables import Tables
from tallystick.sim.scenario import IN_SECONDS, Scenario, Trouble
from tallystick.sim.tape import Stream, Tape

Edits = dict[str, dict[int, int]]

_ON_THE_TAPE = frozenset({"buyer_declines", "risk_flags", "risk_refuses", "psp_cannot_void"})
# A store's writers in the words of a story.
_WRITERS = {"post": "ledger", "credit": "wallet"}
# Which of the world's pauses comes before a process that has died is started again: a second, and twenty after the
# sixtieth death, so that an engine that cannot start at all does not fill a day of virtual time with its attempts.
_RESTARTS = {number: 1 if number < 60 else 3 for number in range(10_000)}  # noqa: PLR2004
_REVIEWERS = ("approves", "rejects", "nothing")


def tape_of(scenario: Scenario) -> Tape:
    """Return the tape of a story: everything benign, but for what people in it decide."""
    edits: Edits = {"crash/restarts": _RESTARTS}
    for trouble in scenario.trouble:
        match trouble.what:
            case "risk_flags":
                edits[f"workload/risk/{trouble.order}"] = {0: 1}
                edits[f"workload/review/{trouble.order}"] = {1: _REVIEWERS.index(trouble.person)}
            case "risk_refuses":
                edits[f"workload/risk/{trouble.order}"] = {0: 2}
            case "buyer_declines":
                edits[f"workload/buyer/{trouble.order}"] = {1: 1}
            case _:
                pass
    return Tape.replay({}, edits=edits)


class _Particulars(Stream):
    """What a story says of a strike, given as if it had been drawn."""

    __slots__ = ("_trouble",)

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.what, seed=None)
        self._trouble = trouble

    def below(self, bound: int) -> int:
        """Return 1 for `after` and `arrives`, of two things that can be."""
        said = self._trouble.when == "after" if self._trouble.what == "crash_at_commit" else self._trouble.arrives
        return min(int(said), bound - 1)

    def between(self, low: int, high: int) -> int:  # noqa: ARG002  (the file decides)
        """Return how late, how much later or how stale, by the file; its bounds are the author's business."""
        unit = 1 if self._trouble.what in IN_SECONDS else SECOND_US
        return round(self._trouble.delay_s * unit)


class Script(Faults):
    """All troubles of one scenario."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        tape: Tape,
        clock: VirtualClock,
        tables: Tables,
    ) -> None:
        super().__init__(tape, allowed=(), swarm=False)
        self.busy_until_us = 0
        """Something that the story tells goes on until then."""
        self.writing = ""
        """What the transaction that asks is about (`commit_words`)."""
        self._troubles: list[tuple[int, Trouble]] = [
            (number, trouble)
            for number, trouble in enumerate(scenario.trouble)
            if trouble.what not in _ON_THE_TAPE
        ]
        self._occasions: dict[int, int] = {}
        self._hits: dict[int, int] = {}
        self._last: dict[tuple[str, str], Trouble] = {}
        self._clock = clock
        self._tables = tables

    def never_struck(self) -> list[Trouble]:
        """Return what should have gone wrong, and did not as often as the story says."""
        return [trouble for number, trouble in self._troubles if self._hits.get(number, 0) < (trouble.times or 1)]

    def keep_going_until(self, at_us: int) -> None:
        """Let the run not be over before then."""
        self.busy_until_us = max(self.busy_until_us, at_us)

    def struck_at(self, trouble: Trouble) -> None:
        """Note that a trouble with a time of its own has come."""
        for number, one in self._troubles:
            if one is trouble:
                self._strike(number, trouble, trouble.psp or "")

    def strikes(self, name: str, where: str = "") -> bool:
        """Say whether a trouble of this name strikes here and now."""
        struck = False
        for number, trouble in self._troubles:
            if trouble.what == name and not self.healed and self._fits(trouble, where):
                self._occasions[number] = self._occasions.get(number, 0) + 1
                if self._is_due(number, trouble):
                    self._strike(number, trouble, where)
                    struck = True
        return struck

    def how(self, name: str, where: str = "") -> Stream:
        """Return the particulars of the strike that was just told."""
        return _Particulars(self._last[name, where])

    def _strike(self, number: int, trouble: Trouble, where: str) -> None:
        self._hits[number] = self._hits.get(number, 0) + 1
        self._last[trouble.what, where] = trouble
        self.struck[trouble.what] = self.struck.get(trouble.what, 0) + 1
        lasts_us = round(max(trouble.delay_s, 0.0) * SECOND_US)
        self.keep_going_until(self._clock.elapsed_us + lasts_us)
        if self.on_strike is not None:
            self.on_strike(trouble.what, where)

    def _is_due(self, number: int, trouble: Trouble) -> bool:
        hits = self._hits.get(number, 0)
        if trouble.from_s is not None:
            now_s = self._clock.elapsed_us / SECOND_US
            until_s = float("inf") if trouble.for_s is None else trouble.from_s + trouble.for_s
            return trouble.from_s <= now_s < until_s and (trouble.times is None or hits < trouble.times)
        return self._occasions[number] >= trouble.nth and hits < (trouble.times or 1)

    def _fits(self, trouble: Trouble, where: str) -> bool:
        fault = BY_NAME.get(trouble.what)
        if trouble.what == "crash_at_commit" or (fault is not None and fault.site is Site.STORE):
            return is_commit(trouble, "read" if where == "read" else self.writing)
        if trouble.what == "message_late":
            return where == trouble.of
        if trouble.receiver is not None:
            return where == trouble.receiver
        if trouble.order is None:
            return True
        at_call = f"{trouble.when}/{trouble.order}"
        return where == (at_call if trouble.what == "crash_at_call" else trouble.order) and self._is_now(trouble)

    def _is_now(self, trouble: Trouble) -> bool:
        """Say whether the order is at the attempt and the send, at the PSP, of which the story speaks."""
        order = self._tables.orders.get(trouble.order or "")
        wanted = (
            (trouble.attempt, None if order is None else order.attempt),
            (trouble.send, None if order is None else order.sends),
            (trouble.psp, None if order is None else order.psp),
        )
        return all(said is None or said == found for said, found in wanted)


def commit_words(writer: str, items: Sequence[object]) -> str:
    """Name what a transaction writes: "SUCCESS of po-1, UNKNOWN of po-2"; for a move the state that it enters."""
    kind = _WRITERS.get(writer, writer)
    parts = [f"{item[2]} of {item[0]}" if isinstance(item, tuple) else f"{kind} of {item}" for item in items]
    return ", ".join(parts) or kind


def is_commit(trouble: Trouble, words: str) -> bool:
    """Say whether a transaction, by its words, is the one that a trouble is about."""
    if trouble.order is None:
        return any(part.partition(" of ")[0] == trouble.of for part in words.split(", "))
    return f"{trouble.of} of {trouble.order}" in words.split(", ")
