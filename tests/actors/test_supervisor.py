"""Supervision: a crash restarts one child, too many escalate, and being fenced is not survivable."""

import pytest
import trio
import trio.testing

from tallystick.actors.mailbox import Mailbox, Reply
from tallystick.actors.metrics import Metrics
from tallystick.actors.supervisor import Child, RestartLimit, RestartsExhausted, supervise
from tallystick.engine.errors import Fenced, StoreUnavailable


class TrioClock:
    """The engine's clock over trio's, so that autojump moves both."""

    def now(self) -> int:
        return int(trio.current_time() * 1_000_000)


async def test_a_crashed_child_is_restarted_and_its_siblings_go_on(autojump_clock: object) -> None:
    """One-for-one: only the child that crashed starts again."""
    lives, sibling_ticks = [], []

    async def crashes_twice() -> None:
        lives.append(trio.current_time())
        if len(lives) <= 2:
            raise ValueError("a bug")
        await trio.sleep_forever()

    async def sibling() -> None:
        while True:
            sibling_ticks.append(1)
            await trio.sleep(0.1)

    metrics = Metrics()
    with trio.move_on_after(3):
        await supervise(
            [Child(name="shaky", run=crashes_twice), Child(name="steady", run=sibling)],
            clock=TrioClock(),
            metrics=metrics,
        )
    assert len(lives) == 3
    assert lives[2] - lives[1] > lives[1] - lives[0] > 0, "the back-off grows"
    assert len(sibling_ticks) >= 29
    assert metrics.registry.get_sample_value("tallystick_actor_restarts_total", {"actor": "shaky"}) == 2


async def test_past_its_limit_a_crash_escalates(autojump_clock: object) -> None:
    """A child that cannot live takes its parent down, so that somebody notices."""

    async def hopeless() -> None:
        raise ValueError("a bug")

    limit = RestartLimit(restarts_max=3, backoff_first_s=0.01)
    with pytest.raises(ExceptionGroup) as caught:
        await supervise([Child(name="hopeless", run=hopeless, limit=limit)], clock=TrioClock(), metrics=Metrics())
    assert caught.group_contains(RestartsExhausted)


async def test_crashes_spread_over_a_long_time_do_not_escalate(autojump_clock: object) -> None:
    """The limit is about a window: an actor that crashes now and then is restarted for ever."""
    lives = 0

    async def seldom() -> None:
        nonlocal lives
        lives += 1
        await trio.sleep(100)
        raise ValueError("a bug")

    with trio.move_on_after(2000):
        await supervise(
            [Child(name="seldom", run=seldom, limit=RestartLimit(restarts_max=2))],
            clock=TrioClock(),
            metrics=Metrics(),
        )
    assert lives >= 19


async def test_a_database_that_is_away_is_waited_for_without_limit(autojump_clock: object) -> None:
    """An outage of the database, however long, must not end the engine: it is nobody's crash."""
    tries = 0

    async def needs_the_store() -> None:
        nonlocal tries
        tries += 1
        if tries <= 500:
            raise StoreUnavailable("refused")
        await trio.sleep_forever()

    with trio.move_on_after(3600):
        await supervise(
            [Child(name="relay", run=needs_the_store, limit=RestartLimit(restarts_max=2))],
            clock=TrioClock(),
            metrics=Metrics(),
        )
    assert tries == 501


async def test_being_fenced_is_not_survivable() -> None:
    """Another engine has taken over: no restart, out at once."""
    lives = 0

    async def fenced() -> None:
        nonlocal lives
        lives += 1
        raise Fenced("superseded")

    with pytest.raises(ExceptionGroup) as caught:
        await supervise([Child(name="writer", run=fenced)], clock=TrioClock(), metrics=Metrics())
    assert caught.group_contains(Fenced)
    assert lives == 1


async def test_an_actor_that_returns_counts_as_crashed(autojump_clock: object) -> None:
    """An actor that should run for ever and returns has lost its work silently; it must not pass as done."""
    lives = 0

    async def returns() -> None:
        nonlocal lives
        lives += 1

    with pytest.raises(ExceptionGroup) as caught:
        await supervise(
            [Child(name="short", run=returns, limit=RestartLimit(restarts_max=2))],
            clock=TrioClock(),
            metrics=Metrics(),
        )
    assert caught.group_contains(RestartsExhausted)
    assert lives == 3


async def test_a_reply_is_given_once() -> None:
    """A second answer never replaces the first, which may have been acted upon."""
    reply: Reply[int] = Reply()
    reply.set(1)
    reply.set(2)
    reply.fail(ValueError())
    assert await reply.wait() == 1


async def test_who_leaves_before_the_reply_does_no_harm() -> None:
    """A client that disconnects cancels its wait; the answer then simply finds nobody."""
    reply: Reply[int] = Reply()
    with trio.move_on_after(0.01):
        await reply.wait()
    reply.set(1)
    assert await reply.wait() == 1


async def test_a_drained_mailbox_returns_its_messages_and_refuses_all_others() -> None:
    """What a crashed actor had not read is not lost, and nothing is left where nobody reads."""
    box: Mailbox[int] = Mailbox("box", capacity=2)
    box.put_nowait(1)
    box.put_nowait(2)
    refused = []

    async def waits_for_room() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await box.put(3)
        refused.append(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits_for_room)
        await trio.testing.wait_all_tasks_blocked()
        assert box.drain() == [1, 2]
    assert refused == [3]
    with pytest.raises(trio.BrokenResourceError):
        await box.put(4)


async def test_a_full_mailbox_keeps_its_senders_waiting_and_loses_nothing() -> None:
    """Many senders, little room, one reader: every message arrives once, each sender's in its order."""
    box: Mailbox[tuple[int, int]] = Mailbox("box", capacity=3)

    async def send(sender: int) -> None:
        for number in range(20):
            await box.put((sender, number))
            assert len(box) <= 3

    received = []
    async with trio.open_nursery() as nursery:
        for sender in range(10):
            nursery.start_soon(send, sender)
        for _ in range(200):
            received.append(await box.get())
            await trio.lowlevel.checkpoint()
    assert sorted(received) == [(sender, number) for sender in range(10) for number in range(20)]
    for sender in range(10):
        assert [number for who, number in received if who == sender] == list(range(20))


async def test_a_receiver_that_gives_up_takes_nothing_with_it() -> None:
    """A cancelled wait for a message leaves the mailbox as it was."""
    box: Mailbox[int] = Mailbox("box", capacity=2)
    with trio.move_on_after(0.01):
        await box.get()
    box.put_nowait(1)
    assert await box.get() == 1
