"""One simulated world: the real engine, over ports that lie, in virtual time, under the auditor's eyes.

A run has three phases. In chaos, clients pay and faults strike. Then everything heals. Then everything must end
within a stated virtual time: whatever is still open is stuck. When the auditor has had a last look, the run is a
`RunResult`: what was wrong, and the hashes by which two runs are compared.
"""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from tallystick.actors.engine import Engine, Ports, run_engine
from tallystick.actors.mailbox import Delivery
from tallystick.actors.settings import EngineSettings, GatewaySettings
from tallystick.engine.errors import Fenced, SetupError, StoreError
from tallystick.engine.order import State
from tallystick.engine.retry import PspPolicy, RetryPolicy
from tallystick.sim import auditor_final
from tallystick.sim.auditor import Auditor
from tallystick.sim.clock import SECOND_US, DeadlockDetected, VirtualClock, with_deadlocks_told
from tallystick.sim.deterministic import deterministic_trio
from tallystick.sim.entropy import TapeEntropy
from tallystick.sim.faults import Faults, named
from tallystick.sim.faulty_store import FaultyStore, at_once
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.memory_tables import Commit, Tables
from tallystick.sim.mutants.catalogue import switched_off
from tallystick.sim.network import Arrival, PspSite, SimPsp
from tallystick.sim.options import RunOptions, RunResult
from tallystick.sim.outsiders import Outsiders, SimReceiver, SimRisk
from tallystick.sim.psp.model import Payment, SimulatedPsp
from tallystick.sim.session import Session
from tallystick.sim.tape import Record, Tape
from tallystick.sim.trace import Trace
from tallystick.sim.workload import checkouts

PSPS = ("alpha", "beta")
RECEIVERS = ("events", "merchant")

_MINUTE_US = 60 * SECOND_US
# Virtual time is free, but events are not: the rhythms of production are shortened where they would make a run
# of minutes into one of days, and polls are made rare, since nothing here is lost without a fault that says so.
_POLICY = PspPolicy(
    request_window_us=100 * SECOND_US,
    key_lifetime_us=60 * _MINUTE_US,
    inquiry_schedule_us=(2 * SECOND_US, 5 * SECOND_US, 15 * SECOND_US, 60 * SECOND_US),
    unknown_bound_us=5 * _MINUTE_US,
    review_expiry_us=5 * _MINUTE_US,
    on_soft_decline=RetryPolicy(base_us=2 * SECOND_US, cap_us=20 * SECOND_US, attempts_max=3),
    on_not_executed=RetryPolicy(base_us=SECOND_US, cap_us=15 * SECOND_US, attempts_max=1000),
)
_SHORT_KEY_LIFETIMES_US = (4 * _MINUTE_US, 10 * SECOND_US)
"""A resend after the second is nearly always one too late."""
_PAGE_LIFETIME_US = 2 * _MINUTE_US
_SETTINGS = EngineSettings(
    outbox_poll_s=30.0,
    scheduler_gap_s=0.2,
    scheduler_idle_s=60.0,
    sweep_interval_s=30.0,
    lease_ttl_us=5 * _MINUTE_US,
    delivery_backoff_max_s=10.0,
    gateway=GatewaySettings(call_timeout_s=30.0),
)
_TIGHT = msgspec.structs.replace(
    _SETTINGS,
    live_orders_max=6,
    accept_queue_max=2,
    writer_queue_max=2,
    order_mailbox_max=1,
    batch_rows_max=2,
    gateway=GatewaySettings(call_timeout_s=30.0, concurrency_max=2, breaker_failures=3),
)
_RESTARTS_US = (50_000, SECOND_US, 5 * SECOND_US, 20 * SECOND_US)


class World:
    """One run. Make it, `run` it once."""

    def __init__(self, options: RunOptions, tape: Tape | None = None) -> None:
        self.options = options
        self.tape = Tape.generate(options.seed) if tape is None else tape
        self.clock = VirtualClock()
        self.trace = Trace()
        self.faults = Faults(self.tape, allowed=named(options.faults), swarm=options.swarm)
        self.faults.on_strike = lambda name, where: self.note("faults", name, where)
        self.tables = Tables()
        self.tables.on_commit = self._committed
        self.auditor = Auditor(
            self.tables, step=lambda: len(self.trace) - 1, elapsed_us=lambda: self.clock.elapsed_us
        )
        self.auditor.receivers.extend(RECEIVERS)
        self.sites = [self._site(name) for name in PSPS]
        self.settings = _TIGHT if self.faults.strikes("tight_mailboxes") else _SETTINGS
        self.starved = (
            self.faults.how("actor_starved").pick(
                ("order", "transitions", "ledger", "wallet", "reader", "acceptance")
            )
            if self.faults.strikes("actor_starved")
            else None
        )
        self.engines = 0
        self.doors: list[tuple[Session, Engine]] = []
        """Engines that are up, newest last."""
        self.stores: list[FaultyStore] = []
        self.outsiders = Outsiders(self)
        self._nursery: trio.Nursery | None = None

    # --- the run -----------------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Run it all, and judge it."""
        mutant = switched_off(self.options.mutant)
        with mutant, deterministic_trio(self.tape.stream("schedule")), _logs_into(self.note):
            try:
                trio.run(with_deadlocks_told, self.clock, self._main, clock=self.clock)
            except DeadlockDetected as deadlock:
                self.auditor.accuse("engine_stays_up", "world", str(deadlock))
        auditor_final.close(self.auditor)
        return RunResult(
            options=self.options,
            verdicts=tuple(self.auditor.verdicts),
            tape_digest=self.tape.digest(),
            trace_digest=self.trace.digest(),
            steps=len(self.trace),
            orders=len(self.tables.orders),
            virtual_us=self.clock.elapsed_us,
            struck=dict(sorted(self.faults.struck.items())),
            engines=self.engines,
        )

    def record(self) -> Record:
        """Return what the tape chose, for a `.tally` file."""
        return self.tape.record()

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_engine_running)
            for checkout in checkouts(self.tape, self.options):
                self.outsiders.start_client(checkout)
            self._plan_disasters()
            await self._until_settled(self.options.chaos_s)
            self.note("world", "healed")
            self._heal()
            await self._until_settled(self.options.settle_s)
            self.note("world", "over")
            self._nursery = None  # Errands still land while the tasks unwind; they start nothing any more.
            nursery.cancel_scope.cancel()

    async def _until_settled(self, limit_s: int) -> None:
        end_us = self.clock.elapsed_us + limit_s * SECOND_US
        pause_us = SECOND_US // 2
        while not self._settled() and self.clock.elapsed_us < end_us:
            await self.clock.sleep(pause_us)
            pause_us = min(5 * SECOND_US, pause_us * 5 // 4)

    @property
    def _left_open(self) -> bool:
        return any(not auditor_final.is_left_to_a_person(self.auditor, order_id) for order_id in self.tables.open)

    def _settled(self) -> bool:
        """Say whether nothing is left to happen: no order open, nothing on any wire, every event delivered."""
        if self._left_open or self.outsiders.busy or any(site.under_way for site in self.sites):
            return False
        if any(site.model.next_due_at() is not None for site in self.sites):
            return False
        events = len(self.tables.outbox)
        return all(len(self.auditor.delivered.get(name, ())) >= events for name in RECEIVERS)

    def _heal(self) -> None:
        self.faults.heal()
        for session, _ in self.doors:
            session.resume()

    def note(self, actor: str, kind: str, payload: object = None) -> None:
        """Add a step to the trace."""
        # The trace checks its payloads itself.
        self.trace.append(self.clock.elapsed_us, actor, kind, payload)  # type: ignore[arg-type]

    def spawn(self, run: Callable[..., object], *args: object) -> None:
        """Start a task that belongs to the world, not to any engine."""
        if self._nursery is not None:
            self._nursery.start_soon(run, *args)  # type: ignore[arg-type]  # checked by the callee

    # --- the engine --------------------------------------------------------------------------------------------

    async def _keep_engine_running(self) -> None:
        """Start an engine; when it has died, start another, as an init system does."""
        restarts = self.tape.stream("crash/restarts")
        while True:
            self.engines += 1
            session = Session(self.engines, on_crash=self._crashed)
            await self._live(session)
            if session.alive:
                session.alive = False
                if self._taken_over(session):
                    return
            await self.clock.sleep(restarts.pick(_RESTARTS_US))

    def _taken_over(self, session: Session) -> bool:
        return any(other.number > session.number for other, _ in self.doors)

    async def _live(self, session: Session) -> None:
        self.note(session.name, "start")
        entry: tuple[Session, Engine] | None = None
        try:
            with session.scope:
                async with run_engine(self._ports(session), self.settings, force_claim=True) as engine:
                    entry = (session, engine)
                    self.doors.append(entry)
                    self.note(session.name, "up")
                    await trio.sleep_forever()
        except Exception as error:  # noqa: BLE001  (whatever ends an engine is judged here)
            self._judge_end(session, error, was_up=entry is not None)
        finally:
            if entry is not None:
                self.doors.remove(entry)
            session.hang_up()

    def _judge_end(self, session: Session, error: Exception, *, was_up: bool) -> None:
        """An engine may end because another took over, and may fail to start without a database."""
        self.note(session.name, "ended", tuple(sorted({type(one).__name__ for one in _leaves(error)})))
        excused = (Fenced,) if was_up else (Fenced, StoreError, SetupError)
        wrong = [one for one in _leaves(error) if not isinstance(one, excused)]
        if session.alive and wrong:
            self.auditor.accuse("engine_stays_up", session.name, f"{type(wrong[0]).__name__}: {wrong[0]}")

    def _crashed(self, session: Session, why: str) -> None:
        self.note(session.name, "crash", why)

    def _ports(self, session: Session) -> Ports:
        store = self._store(session)
        self.stores.append(store)
        return Ports(
            store=store,
            psps=[self._psp(site, session) for site in self.sites],
            risk=SimRisk(self, session),
            clock=self.clock,
            entropy=TapeEntropy(session.name, self.tape),
            receivers=[SimReceiver(self, session, name) for name in RECEIVERS],
            delivery=self._delivery(session),
        )

    def _store(self, session: Session) -> FaultyStore:
        return FaultyStore(
            MemoryStore(self.tables),
            session=session,
            clock=self.clock,
            faults=self.faults,
            latency=self.tape.stream(f"store/{session.name}"),
            execute=at_once(self.clock),
            note=self.note,
        )

    def _psp(self, site: PspSite, session: Session) -> SimPsp:
        return SimPsp(site, session=session, clock=self.clock, faults=self.faults, tape=self.tape)

    def _delivery(self, session: Session) -> Delivery:
        faults, clock = self.faults, self.clock

        async def deliver(mailbox: str) -> None:
            if session.paused:
                await session.standstill()
            if mailbox == "order" and faults.strikes("actor_crash"):
                self.note(session.name, "actor_crash", mailbox)
                raise RuntimeError("the simulator crashed this actor")
            if mailbox == self.starved and not faults.healed:
                await clock.sleep(faults.how("actor_starved", mailbox).between(50_000, 2 * SECOND_US))
            elif faults.strikes("message_late", mailbox):
                await clock.sleep(faults.how("message_late", mailbox).between(1_000, 3 * SECOND_US))

        return deliver

    # --- the outside -------------------------------------------------------------------------------------------

    def _site(self, name: str) -> PspSite:
        forgets = self.faults.strikes("key_forgotten", name)
        lifetime_us = _POLICY.key_lifetime_us
        if forgets:
            lifetime_us = self.faults.how("key_forgotten", name).pick(_SHORT_KEY_LIFETIMES_US)
        can_void = self.tape.stream(f"psp/{name}").below(4) < 3  # noqa: PLR2004  (three in four can)
        policy = msgspec.structs.replace(_POLICY, key_lifetime_us=lifetime_us, can_void=can_void)
        model = SimulatedPsp(name=name, key_lifetime_us=lifetime_us, page_lifetime_us=_PAGE_LIFETIME_US)
        return PspSite(
            model,
            policy=policy,
            clock=self.clock,
            on_change=self._payment,
            on_arrival=self._arrival,
            note=self.note,
        )

    def _arrival(self, site: PspSite, arrival: Arrival) -> None:
        self.note(site.name, arrival.what, arrival)
        if arrival.what in ("charge", "register"):
            self.auditor.saw_request(site.name, arrival.key, arrival.payment_order_id, copy=arrival.copy)

    def _payment(self, site: PspSite, payment: Payment) -> None:
        self.note(site.name, "payment", payment)
        self.auditor.saw_payment(site.name, payment)
        self.outsiders.payment_changed(site, payment)

    def _committed(self, commit: Commit) -> None:
        orders = self.tables.orders
        written = [
            (order_id, orders[order_id].state.value, orders[order_id].version) for order_id in commit.orders
        ]
        self.note("store", commit.kind, (tuple(written), len(commit.transfers), len(commit.wallet_entries)))
        self.auditor.saw_commit(commit)
        for order_id, state, _ in written:
            if state == State.FAILED:
                self.outsiders.order_failed(order_id)

    # --- disasters that come at a time of their own ------------------------------------------------------------

    def _plan_disasters(self) -> None:
        chaos_us = min(60, self.options.chaos_s) * SECOND_US
        planned: list[tuple[str, str, Callable[[], None]]] = [
            *(("crash_any_time", str(number), self._crash_newest) for number in range(3)),
            *(("psp_down", site.name, partial(self._take_down, site, "psp_down")) for site in self.sites),
            *(("psp_breaks", site.name, partial(self._take_down, site, "psp_breaks")) for site in self.sites),
            ("store_down", "", self._take_store_down),
            *(("clock_jumps", str(number), self._jump_clock) for number in range(4)),
            ("takeover", "", self._begin_takeover),
        ]
        for name, where, strike in planned:
            if self.faults.strikes(name, where):
                self.clock.call_at(self.faults.how(name, where).below(chaos_us), strike)

    def _crash_newest(self) -> None:
        if self.doors and not self.faults.healed:
            self.doors[-1][0].crash("at a random time")

    def _take_down(self, site: PspSite, name: str) -> None:
        until_us = self.clock.elapsed_us + self.faults.how(name, site.name).between(5, 90) * SECOND_US
        self.note(site.name, name, until_us)
        if name == "psp_breaks":
            site.silent_until_us = until_us
        else:
            site.down_until_us = until_us

    def _take_store_down(self) -> None:
        until_us = self.clock.elapsed_us + self.faults.how("store_down").between(1, 15) * SECOND_US
        self.note("store", "store_down", until_us)
        for store in self.stores:
            store.down_until_us = until_us

    def _jump_clock(self) -> None:
        """Set the wall clock to within 12 s of the truth, so that two readings differ by at most 24 s more."""
        offset_us = self.faults.how("clock_jumps").between(0, 24) * SECOND_US - 12 * SECOND_US
        self.note("clock", "clock_jumps", offset_us)
        self.clock.set_wall_offset(offset_us)

    def _begin_takeover(self) -> None:
        if self.doors and not self.faults.healed:
            session = self.doors[-1][0]
            self.note(session.name, "pause")
            session.pause()
            self.spawn(self._keep_engine_running)
            pause_us = self.faults.how("takeover").between(2, 120) * SECOND_US
            self.clock.call_after(pause_us, lambda: self._resume(session))

    def _resume(self, session: Session) -> None:
        self.note(session.name, "resume")
        session.resume()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


@contextmanager
def _logs_into(note: Callable[[str, str], None]) -> Iterator[None]:
    """Make the engine's own log lines steps of the trace, and print none."""
    before = structlog.get_config()

    def drop(_: object, __: str, event: MutableMapping[str, Any]) -> str:
        note("log", str(event["event"]))
        raise structlog.DropEvent

    structlog.configure(processors=[drop], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
