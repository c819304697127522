"""Goal: whatever happens on the way to the database, callers learn what is true: done, not done, or unknown."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import trio
from tests.postgres_fixtures import PostgresForTests

from tallystick.engine.errors import CommitUnknown, SetupError, StoreUnavailable
from tallystick.storage import bridge as bridge_module
from tallystick.storage.bridge import Bridge, Connection, open_bridge


@pytest.fixture
async def bridge(database_url: str) -> AsyncIterator[Bridge]:
    async with open_bridge(database_url, connections_max=3, timeout_s=5) as opened:
        await opened.write(lambda c: c.execute("create table numbers (n integer primary key, held integer)"))
        yield opened


async def _insert(connection: Connection, n: int) -> None:
    await connection.execute("insert into numbers (n) values ($1)", n)


async def _numbers(bridge: Bridge) -> list[int]:
    return [row["n"] for row in await bridge.read(lambda c: c.fetch("select n from numbers order by n"))]


async def _cut_off(connection: Connection) -> None:
    """Cut the connection as a broken network does: nothing arrives any more, in either direction."""
    connection._transport.abort()  # type: ignore[attr-defined]


async def test_a_write_is_committed_and_answered(bridge: Bridge) -> None:
    async def work(connection: Connection) -> str:
        await _insert(connection, 1)
        return "done"

    assert await bridge.write(work) == "done"
    assert await _numbers(bridge) == [1]


async def test_an_error_of_the_work_rolls_back_and_comes_out_as_it_is(bridge: Bridge) -> None:
    async def work(connection: Connection) -> None:
        await _insert(connection, 1)
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        await bridge.write(work)

    async def twice(connection: Connection) -> None:
        await _insert(connection, 2)
        await _insert(connection, 2)

    with pytest.raises(asyncpg.UniqueViolationError):
        await bridge.write(twice)
    assert await _numbers(bridge) == []


async def test_a_connection_lost_before_commit_wrote_nothing(bridge: Bridge) -> None:
    async def work(connection: Connection) -> None:
        await _insert(connection, 1)
        await _cut_off(connection)
        await _insert(connection, 2)

    with pytest.raises(StoreUnavailable):
        await bridge.write(work)
    assert await _numbers(bridge) == []


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_lost_answer_to_commit_is_unknown(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, *, arrives: bool
) -> None:
    """COMMIT was on its way when the connection broke: it may have arrived, or not."""
    execute = asyncpg.Connection.execute

    async def cut_at_commit(self: Connection, query: str, *arguments: object) -> str:
        if query == "commit":
            if arrives:
                await execute(self, query)
            await _cut_off(self)
        return await execute(self, query, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "execute", cut_at_commit)
        with pytest.raises(CommitUnknown):
            await bridge.write(lambda connection: _insert(connection, 1))
    assert await _numbers(bridge) == ([1] if arrives else [])


async def test_conflicting_transactions_are_tried_again(bridge: Bridge) -> None:
    """Two transactions lock two rows crosswise; the one that the database ends as a deadlock is repeated."""
    await bridge.write(lambda c: c.execute("insert into numbers values (1, 0), (2, 0)"))
    runs = 0

    async def add(first: int, second: int) -> None:
        async def work(connection: Connection) -> None:
            nonlocal runs
            runs += 1
            await connection.execute("set local deadlock_timeout = '10ms'")
            for n in (first, second):
                await connection.execute("update numbers set held = held + 1 where n = $1", n)
                await connection.execute("select pg_sleep(0.05)")

        await bridge.write(work)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add, 1, 2)
        nursery.start_soon(add, 2, 1)
    rows = await bridge.read(lambda c: c.fetch("select held from numbers"))
    assert [row["held"] for row in rows] == [2, 2]
    assert runs == 3


async def test_endless_conflicts_are_unavailable(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "RETRY_BASE_S", 0)

    async def work(_: Connection) -> None:
        raise asyncpg.SerializationError

    with pytest.raises(StoreUnavailable, match="concurrent"):
        await bridge.write(work)


async def test_the_wait_is_bounded(bridge: Bridge) -> None:
    with pytest.raises(StoreUnavailable, match="Timeout"):
        await bridge.write(lambda c: c.execute("select pg_sleep(60)"), timeout_s=0.05)
    assert await _numbers(bridge) == []


async def test_a_paused_engine_does_not_hold_its_locks_for_ever(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another engine waits to take over; the server ends the session that idles in its transaction."""
    monkeypatch.setitem(bridge_module._SESSION, "idle_in_transaction_session_timeout", "100ms")

    async def pause(connection: Connection) -> None:
        await _insert(connection, 1)
        await asyncio.sleep(1)
        await _insert(connection, 2)

    await bridge.read(_cut_off)  # so that the next connection has the setting
    with pytest.raises(StoreUnavailable):
        await bridge.write(pause)
    assert await _numbers(bridge) == []


async def test_a_cancelled_caller_still_learns_what_was_committed(bridge: Bridge) -> None:
    """Work that was handed over is not abandoned: it is finished, and its answer is given."""
    answers = []

    async def work(connection: Connection) -> str:
        await connection.execute("select pg_sleep(0.1)")
        await _insert(connection, 1)
        return "committed"

    with trio.move_on_after(0.02) as scope:
        answers.append(await bridge.write(work))
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert answers == ["committed"]
    assert await _numbers(bridge) == [1]


async def test_more_callers_than_connections_take_turns(bridge: Bridge) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(bridge.write, lambda connection, n=n: _insert(connection, n))
    assert await _numbers(bridge) == list(range(20))


async def test_sessions_that_the_server_ended_are_replaced(bridge: Bridge, postgres: PostgresForTests) -> None:
    await _numbers(bridge)
    await postgres.run(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname like 'test%' and query like 'select n from numbers%'"
    )
    with trio.fail_after(5):
        while True:
            try:
                assert await _numbers(bridge) == []
            except StoreUnavailable:
                continue
            return


@pytest.mark.parametrize("address", ["postgresql://u@/d?host=/no/such/folder", "postgresql://u@127.0.0.1:1/d"])
async def test_no_server_is_unavailable(address: str) -> None:
    async with open_bridge(address) as bridge:
        with pytest.raises(StoreUnavailable):
            await bridge.write(lambda c: c.execute("select 1"))


async def test_a_malformed_address_is_a_set_up_error() -> None:
    async with open_bridge("mysql://somewhere") as bridge:
        with pytest.raises(SetupError):
            await bridge.read(lambda c: c.execute("select 1"))


async def test_readers_of_several_statements_see_one_moment(bridge: Bridge) -> None:
    first_seen = trio.Event()
    trio_token = trio.lowlevel.current_trio_token()

    async def look_twice(connection: Connection) -> tuple[int, int]:
        before = await connection.fetchval("select count(*) from numbers")
        trio_token.run_sync_soon(first_seen.set)
        await connection.execute("select pg_sleep(0.3)")
        return before, await connection.fetchval("select count(*) from numbers")

    seen: list[tuple[int, int]] = []

    async def read() -> None:
        seen.append(await bridge.read_consistent(look_twice))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await first_seen.wait()
        await bridge.write(lambda connection: _insert(connection, 1))
    assert seen == [(0, 0)]
    assert await _numbers(bridge) == [1]
