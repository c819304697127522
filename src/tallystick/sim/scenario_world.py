"""The world of a scenario: the simulated world of a campaign, with a script in the place of chance.

Rhythms and windows are those of production: what the PSP promises is the default policy, and an hour of outage
is an hour of virtual time.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec
import trio

from tallystick.engine.doors import CardInfo, PaymentEvent, PaymentOrderRequest
from tallystick.engine.errors import CallerError, ContentConflict, MoveRefused, Overloaded, StoreError
from tallystick.engine.events import AnyEvent, CancelRequested, Charged, RetryRequested, Source
from tallystick.engine.retry import MINUTE_US, PspPolicy
from tallystick.sim.clock import SECOND_US
from tallystick.sim.faulty_store import Call, FaultyStore, at_once
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.network import PspSite
from tallystick.sim.options import RunOptions
from tallystick.sim.outsiders import Outsiders
from tallystick.sim.psp.model import SimulatedPsp, Status
from tallystick.sim.psp.units import to_iso
from tallystick.sim.scenario import SELLERS, TIMED, BadScenario, CheckoutPart, PersonPart, Scenario, Trouble
from tallystick.sim.scenario_script import Script, commit_words, tape_of
from tallystick.sim.session import ConnectionLost, Session
from tallystick.sim.workload import Checkout
from tallystick.sim.world import World

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

_PAGE_LIFETIME_US = 30 * MINUTE_US
_PATIENCE_S = 20.0
_PAUSE_US = SECOND_US
_AWAKE_US = 10 * SECOND_US
_TRIES_MAX = 10_000
"""Clients and people of a story repeat what they want once a second for nearly three hours."""


class ScenarioWorld(World):
    """One run of a scenario. Make it, `run` it once, and ask `sim.scenario_judge` how it ended."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario  # First: what the world is made of looks into it.
        expect = scenario.expect
        super().__init__(
            RunOptions(seed=0, orders=0, faults=("none",), swarm=False, chaos_s=expect.within_s, settle_s=0),
            tape_of(scenario),
        )
        self.script = Script(scenario, tape=self.tape, clock=self.clock, tables=self.tables)
        self.script.on_strike = self.faults.on_strike
        self.faults = self.script
        self.settings = _changed(self.settings, scenario.engine, scenario.name)
        self.people = ScenarioPeople(self)
        self.outsiders = self.people

    def _plan_disasters(self) -> None:
        for number, checkout in enumerate(self.scenario.checkout, start=1):
            self.people.start_checkout(number, checkout)
        for person in self.scenario.person:
            self.people.start_person(person)
        for trouble in self.scenario.trouble:
            if trouble.what in TIMED and trouble.from_s is not None:
                at_us = round(trouble.from_s * SECOND_US)
                self.script.keep_going_until(at_us)
                self.clock.call_at(at_us, partial(self._strike, trouble))

    def _strike(self, trouble: Trouble) -> None:
        until_us = self.clock.elapsed_us + round((trouble.for_s or 0.0) * SECOND_US)
        self.script.struck_at(trouble)
        sites = [site for site in self.sites if trouble.psp in (None, site.name)]
        match trouble.what:
            case "psp_down":
                for site in sites:
                    site.down_until_us = until_us
            case "psp_breaks":
                for site in sites:
                    site.silent_until_us = until_us
            case "store_down":
                for store in self.stores:
                    store.down_until_us = until_us
            case "clock_jumps":
                self.clock.set_wall_offset(round(trouble.delay_s * SECOND_US))
            case "crash":
                self.doors[-1][0].crash("when the story says")
            case _:
                self._pause(until_us)

    def _pause(self, until_us: int) -> None:
        """Stop the engine where it stands, and start another on its partitions."""
        session = self.doors[-1][0]
        self.note(session.name, "pause")
        session.pause()
        self.spawn(self._keep_engine_running)
        self.clock.call_at(until_us, lambda: self._resume(session))
        # What the first engine does when it wakes up is what the story is about.
        self.script.keep_going_until(until_us + _AWAKE_US)

    def _settled(self) -> bool:
        return self.clock.elapsed_us >= self.script.busy_until_us and super()._settled()

    # --- what the story changes in the world -------------------------------------------------------------------

    def _site(self, name: str) -> PspSite:
        cannot_void = any(trouble.what == "psp_cannot_void" for trouble in self.scenario.trouble)
        policy = _changed(PspPolicy(can_void=not cannot_void), self.scenario.psp, self.scenario.name)
        model = SimulatedPsp(name=name, key_lifetime_us=policy.key_lifetime_us, page_lifetime_us=_PAGE_LIFETIME_US)
        return PspSite(
            model,
            policy=policy,
            clock=self.clock,
            on_change=self._payment,
            on_arrival=self._arrival,
            note=self.note,
        )

    def _store(self, session: Session) -> FaultyStore:
        store = ScenarioStore(
            MemoryStore(self.tables),
            session=session,
            clock=self.clock,
            faults=self.faults,
            latency=self.tape.stream(f"store/{session.name}"),
            execute=at_once(self.clock),
            note=self.note,
        )
        store.script = self.script
        store.down_until_us = self.stores[-1].down_until_us if self.stores else 0
        return store


class ScenarioStore(FaultyStore):
    """A connection to the database that says what each transaction is about, so that a story can name it."""

    script: Script

    async def _write(self, writer: str, call: Call[T], items: tuple[object, ...] = ()) -> T:
        await self._session.gate()
        # Nothing waits between this and the questions that the transaction asks of the script.
        self.script.writing = commit_words(writer, items)
        return await super()._write(writer, call, items)


class ScenarioPeople(Outsiders):
    """The clients and the people of a story. What they were told is kept for the judge."""

    def __init__(self, world: ScenarioWorld) -> None:
        super().__init__(world)
        self._story = world
        self.answers: dict[int, list[str]] = {}
        """What the client of each checkout heard, in order; checkouts are numbered from 1."""
        self.told_to_wait = 0
        """How often a client heard 503."""
        self.person_heard: list[tuple[PersonPart, str]] = []
        """What people asked for, and what came of it: done, or why it was refused."""

    def start_checkout(self, number: int, part: CheckoutPart) -> None:
        """Let a client send a checkout as the story says."""
        self.answers[number] = []
        checkout = Checkout(number=number, at_us=round(part.at_s * SECOND_US), event=_event(part))
        for _ in range(part.clicks):
            self._start(self._send, checkout, checkout.at_us, part.gone_after_s)
        for at_s in part.again_at_s:
            self._start(self._send, checkout, round(at_s * SECOND_US), None)

    async def _send(self, checkout: Checkout, at_us: int, gone_after_s: float | None) -> None:
        await self._story.clock.sleep(at_us)
        who = f"client-{checkout.number}"
        self._story.note(who, "sends", checkout.event.checkout_id)
        with trio.move_on_after(float("inf") if gone_after_s is None else gone_after_s) as scope:
            await self._submit_until_answered(who, checkout)
        if scope.cancelled_caught:
            self._story.note(who, "disconnects")

    async def _submit_until_answered(self, who: str, checkout: Checkout) -> None:
        heard = self.answers[checkout.number]
        for _ in range(_TRIES_MAX):
            try:
                receipt = await self._through(lambda engine: engine.submit(checkout.event), patience_s=_PATIENCE_S)
            except (ConnectionLost, Overloaded, StoreError) as error:
                self.told_to_wait += not isinstance(error, ConnectionLost)
                self._story.note(who, "refused", type(error).__name__)
                await self._story.clock.sleep(_PAUSE_US)
            except CallerError as error:
                word = "conflict" if isinstance(error, ContentConflict) else "refused"
                self._story.note(who, word, error.field)
                heard.append(f"{word}: {error.field}")
                return
            else:
                heard.append("accepted" if receipt.new else "repeated")
                self._got(who, checkout, receipt)
                return

    def start_person(self, part: PersonPart) -> None:
        """Let somebody act as the story says."""
        self._start(self._act, part)

    async def _act(self, part: PersonPart) -> None:
        await self._story.clock.sleep(round(part.at_s * SECOND_US))
        self._story.note("person", part.does, part.order)
        for event in self._asked_for(part):
            self.person_heard.append((part, await self._ask(part.order, event)))

    def _asked_for(self, part: PersonPart) -> list[AnyEvent]:
        by, why = "support", "as the story says"
        match part.does:
            case "retries":
                return [RetryRequested(by=by, why=why)]
            case "cancels":
                return [CancelRequested(by=by, why=why)]
            case "reads_settlement_file":
                return [
                    Charged(
                        source=Source.SETTLEMENT,
                        psp=site.name,
                        attempt=site.attempts_by_key[payment.key],
                        psp_reference=payment.psp_reference,
                        amount=to_iso(payment.amount, payment.currency),
                    )
                    for site in self._story.sites
                    for payment in site.model.attempts(part.order, now=site.now())
                    if payment.status is Status.CHARGED
                ]
            case _:
                raise BadScenario(self._story.scenario.name, f"nobody {part.does!r}")

    async def _ask(self, order: str, event: AnyEvent) -> str:
        for _ in range(_TRIES_MAX):
            try:
                await self._through(lambda engine: engine.tell(order, event), patience_s=_PATIENCE_S)
            except MoveRefused as refused:
                self._story.note("person", "is refused", refused.detail)
                return refused.detail
            except (ConnectionLost, Overloaded, StoreError):
                await self._story.clock.sleep(_PAUSE_US)
            else:
                return "done"
        return "never answered"


def _event(part: CheckoutPart) -> PaymentEvent:
    return PaymentEvent(
        checkout_id=part.id,
        buyer_info={"name": "Berta Buyer", "email": "berta@example.com"},
        credit_card_info=CardInfo(method="hosted_page") if part.page else CardInfo(token=part.token),
        payment_orders=[
            PaymentOrderRequest(
                payment_order_id=line.order,
                seller_account=SELLERS[line.seller],
                amount=line.amount,
                currency=line.currency,
            )
            for line in part.pays
        ],
    )


def _changed(base: S, changes: Mapping[str, Any], name: str) -> S:
    """Return settings with what a story says about them; `x_s` also names `x_us`. Raises BadScenario."""
    fields = {field.name for field in msgspec.structs.fields(base)}
    said: dict[str, Any] = {}
    for key, value in changes.items():
        in_us = f"{key.removesuffix('_s')}_us"
        if key in fields:
            said[key] = value
        elif key.endswith("_s") and in_us in fields:
            many = isinstance(value, list)
            said[in_us] = [round(one * SECOND_US) for one in value] if many else round(value * SECOND_US)
        else:
            raise BadScenario(name, f"there is no {key!r} in {type(base).__name__}")
    try:
        return msgspec.convert({**msgspec.to_builtins(base), **said}, type(base))
    except msgspec.ValidationError as wrong:
        raise BadScenario(name, str(wrong)) from wrong
