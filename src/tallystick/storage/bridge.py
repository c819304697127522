"""The one place that knows asyncpg and asyncio: a thread with an asyncio loop, and the way to it from trio.

Why a thread: it is the fastest bridge that leaves the process's asyncio policy alone (measured: a call costs a
third of what the alternatives cost, and importing trio_asyncio would slow every other asyncio user down).

Work that was handed over is never abandoned: a cancelled trio task waits for the answer all the same, and the
wait is bounded here, on the asyncio side. What came of it is one of three, and callers may rely on it:

    a result, or an error that the database gave   the transaction is committed, or rolled back
    StoreUnavailable                               certainly nothing was written
    CommitUnknown                                  COMMIT was sent, and its answer was lost
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import outcome
import structlog
import trio
from asyncpg import exceptions as pg

from tallystick.engine.errors import CommitUnknown, SetupError, StoreError, StoreUnavailable

T = TypeVar("T")
if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # generic for type checkers alone
Row = asyncpg.Record
Work = Callable[[Connection], Awaitable[T]]

DEFAULT_TIMEOUT_S = 10.0
"""Bounds a transaction, connecting included. Far above any healthy commit, far below a caller's patience."""
CONNECT_TIMEOUT_S = 5.0
RETRIES_MAX = 8
"""How often a transaction that lost against a concurrent one (40001, 40P01) is tried again."""
RETRY_BASE_S = 0.002
CONNECTIONS_MAX = 8
"""Four writers, and readers beside them. More only queue at the disk."""

# Hot statements touch rows by key alone. A plan that was made while a table was new, and scans it whole, would be
# kept while the table grows; so the planner is told once what is true for ever. An engine that is paused in the
# middle of a transaction must not hold its locks for ever: another one waits to take over. A server that does not
# know a setting (a distributed database) does without.
_SESSION = {
    "idle_in_transaction_session_timeout": "15s",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

# The server or the network failed, rather than the statement. OperatorIntervention: shut down, crashed, starting.
_LOST = (
    OSError,  # refused, reset, no such socket, and TimeoutError
    pg.PostgresConnectionError,
    pg.InternalClientError,
    pg.OperatorInterventionError,
    pg.IdleInTransactionSessionTimeoutError,
)
# The database cannot write now: full disk, out of memory or connections, read-only after a fail-over.
_REFUSED = (pg.InsufficientResourcesError, pg.ReadOnlySQLTransactionError, pg.PostgresSystemError)
_CONFLICT = (pg.SerializationError, pg.DeadlockDetectedError)
# The address, or the rights on it, are wrong: no waiting will help.
_MISCONFIGURED = (
    pg.ClientConfigurationError,
    pg.InvalidAuthorizationSpecificationError,
    pg.InvalidCatalogNameError,
)

log = structlog.get_logger(__name__)


class Bridge:
    """A pool of connections on an asyncio loop in a thread of its own. Made by `open_bridge`."""

    def __init__(self, url: str, *, connections_max: int, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._trio = trio.lowlevel.current_trio_token()
        self._loop = _new_loop()
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(connections_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run_loop, name="tallystick-postgres", daemon=True)
        self._thread.start()

    # --- from trio -------------------------------------------------------------------------------------------

    async def write(self, work: Work[T], *, timeout_s: float | None = None) -> T:
        """Run `work` in a transaction and commit it.

        `work` may run several times (after a conflict), so it must not keep anything from a run that failed.
        Raises StoreUnavailable, CommitUnknown, whatever `work` raises (rolled back), and database errors that
        are bugs of ours, such as a violated CHECK, as they are (rolled back).
        """
        return await self._call(self._bounded(self._write_with_retries, work, timeout_s))

    async def read(self, work: Work[T], *, timeout_s: float | None = None) -> T:
        """Run one reading statement, outside a transaction. Raises StoreUnavailable."""
        return await self._call(self._bounded(self._read, work, timeout_s))

    async def read_consistent(self, work: Work[T], *, timeout_s: float | None = None) -> T:
        """Run several reading statements on one snapshot. Raises StoreUnavailable."""
        return await self._call(self._bounded(self._read_consistent, work, timeout_s))

    def _bounded(
        self, run: Callable[[Work[T], float], Awaitable[T]], work: Work[T], timeout_s: float | None
    ) -> Callable[[], Awaitable[T]]:
        return partial(run, work, self._timeout_s if timeout_s is None else timeout_s)

    async def _call(self, run: Callable[[], Awaitable[T]]) -> T:
        """Hand a coroutine function to the loop and wait for its outcome, even when cancelled meanwhile."""
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()

        async def answer() -> None:
            result: outcome.Outcome[T]
            try:
                result = outcome.Value(await run())
            except BaseException as error:  # noqa: BLE001  (it is delivered to the caller, whatever it is)
                result = outcome.Error(error)
            self._trio.run_sync_soon(trio.lowlevel.reschedule, task, result)

        def start() -> None:
            running = self._loop.create_task(answer())
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)

        def abort(_: Any) -> trio.lowlevel.Abort:  # noqa: ANN401  (trio's own signature)
            # A transaction under way is never abandoned: its answer decides what is true.
            return trio.lowlevel.Abort.FAILED

        self._loop.call_soon_threadsafe(start)
        answered: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return answered

    # --- on the loop -----------------------------------------------------------------------------------------

    async def _write_with_retries(self, work: Work[T], timeout_s: float) -> T:
        deadline = self._loop.time() + timeout_s
        for attempt in range(RETRIES_MAX):
            try:
                return await self._write_once(work, deadline)
            except _CONFLICT as error:
                log.info("transaction_conflict", attempt=attempt + 1, sqlstate=error.sqlstate)
                await asyncio.sleep(RETRY_BASE_S * 2**attempt)
        raise StoreUnavailable(f"lost against concurrent transactions {RETRIES_MAX} times")

    async def _write_once(self, work: Work[T], deadline: float) -> T:
        async with self._connected(deadline) as connection:
            await connection.execute("begin")
            result = await work(connection)
            await self._commit(connection)
            return result

    async def _commit(self, connection: Connection) -> None:
        """Send COMMIT. From here on, a lost answer means that nobody knows."""
        try:
            status = await connection.execute("commit")
        except asyncio.CancelledError as error:  # the deadline of `_connected`
            raise CommitUnknown("COMMIT was not answered in time") from error
        except Exception as error:
            if _is_lost(error, connection):
                raise CommitUnknown(f"the answer to COMMIT was lost: {_name(error)}") from error
            raise
        if status != "COMMIT":
            raise StoreUnavailable(f"the database answered {status} to COMMIT")

    async def _read(self, work: Work[T], timeout_s: float) -> T:
        try:
            async with self._connected(self._loop.time() + timeout_s) as connection:
                return await work(connection)
        except _CONFLICT as error:  # a distributed database may ask a reader, too, to come again
            raise StoreUnavailable(f"lost against a concurrent transaction: {_name(error)}") from error

    async def _read_consistent(self, work: Work[T], timeout_s: float) -> T:
        async def on_one_snapshot(connection: Connection) -> T:
            await connection.execute("begin isolation level repeatable read read only")
            result = await work(connection)
            await connection.execute("commit")
            return result

        return await self._read(on_one_snapshot, timeout_s)

    @asynccontextmanager
    async def _connected(self, deadline: float) -> AsyncIterator[Connection]:
        """Lend a connection until the deadline; map what goes wrong; take it back clean, or end it."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout_at(deadline), self._places:
                connection = self._take_idle() or await self._connect()
                yield connection
            self._idle.append(connection)
        except BaseException as error:
            await self._take_back(connection, error)
            if _is_lost(error, connection):
                raise StoreUnavailable(f"the database is not available: {_name(error)}") from error
            raise

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await asyncpg.connect(
                    self._url,
                    max_cached_statement_lifetime=0,
                    server_settings={"application_name": "tallystick"},
                )
                for name, value in _SESSION.items():
                    with contextlib.suppress(pg.SyntaxOrAccessError, pg.FeatureNotSupportedError, pg.DataError):
                        await connection.execute("select set_config($1, $2, false)", name, value)
        except _MISCONFIGURED as error:
            raise SetupError(f"the database refuses us: {error}") from error
        return connection

    async def _take_back(self, connection: Connection | None, error: BaseException) -> None:
        if connection is None:
            return
        unclear = isinstance(error, (StoreError, TimeoutError)) or not isinstance(error, Exception)
        if not unclear and not connection.is_closed():
            with contextlib.suppress(*_LOST, pg.InterfaceError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await connection.execute("rollback")
                self._idle.append(connection)
                return
        connection.terminate()  # the server rolls back what was not committed

    # --- life ------------------------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _close_connections(self) -> None:
        for connection in self._idle:
            with contextlib.suppress(*_LOST):
                await connection.close(timeout=1.0)
        self._idle.clear()

    async def aclose(self) -> None:
        """Close the connections and end the thread. Nothing may be under way."""
        with trio.CancelScope(shield=True):
            await self._call(self._close_connections)
            self._loop.call_soon_threadsafe(self._loop.stop)
            await trio.to_thread.run_sync(self._thread.join)


@asynccontextmanager
async def open_bridge(
    url: str, *, connections_max: int = CONNECTIONS_MAX, timeout_s: float = DEFAULT_TIMEOUT_S
) -> AsyncIterator[Bridge]:
    """Open a bridge to the database at `url`. Connects on first use, so the server need not be up yet."""
    bridge = Bridge(url, connections_max=connections_max, timeout_s=timeout_s)
    try:
        yield bridge
    finally:
        await bridge.aclose()


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop loop where that exists (twice as fast), without touching the process's policy."""
    try:
        import uvloop  # noqa: PLC0415  (optional: there is none for some platforms)
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _is_lost(error: BaseException, connection: Connection | None) -> bool:
    """Say whether the server or the way to it failed; if not, the error is about what we asked."""
    if isinstance(error, pg.InterfaceError):  # misuse, unless the connection broke under us
        return connection is not None and connection.is_closed()
    return isinstance(error, (*_LOST, *_REFUSED))


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
