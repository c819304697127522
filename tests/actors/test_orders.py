"""Goal: whoever asks an engine that is ending is told to try again, and nobody is left waiting.

Found by the simulator: a webhook that came in while another engine took over met an error that is a bug's.
"""

from typing import Any, cast

import pytest
import trio

from tallystick.actors.metrics import Metrics
from tallystick.actors.order_actor import Surroundings
from tallystick.actors.orders import Orders
from tallystick.engine.errors import Overloaded
from tallystick.engine.events import CancelRequested, WakeTimeReached


class StillClock:
    """A clock that stands."""

    def now(self) -> int:
        return 0


def idle_orders() -> Orders:
    unused = cast("Any", None)
    return Orders(live_max=10, clock=StillClock(), metrics=Metrics(), reader=unused, on_rest=lambda _: None)


async def test_who_asks_an_engine_that_has_ended_is_told_to_try_again() -> None:
    orders = idle_orders()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(orders.run, cast("Surroundings", None))
        await orders.started.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(5), pytest.raises(Overloaded):
        await orders.ask("order-1", CancelRequested(by="shop", why="test"))


async def test_who_asks_in_the_moment_of_the_end_is_told_to_try_again() -> None:
    # The parent of all order actors has left its wait, and its nursery has just taken its last child.
    orders = idle_orders()
    answers: list[str] = []

    async def ask_until_over() -> None:
        with trio.CancelScope(shield=True), trio.fail_after(5):
            for _ in range(5):
                try:
                    await orders.ask("order-1", CancelRequested(by="shop", why="test"))
                except Overloaded:
                    answers.append("try again")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(orders.run, cast("Surroundings", cast("Any", "around")))
        await orders.started.wait()
        nursery.cancel_scope.cancel()
        nursery.start_soon(ask_until_over)
    assert answers == ["try again"] * 5


async def test_a_wake_after_the_end_is_left_to_the_store() -> None:
    orders = idle_orders()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(orders.run, cast("Surroundings", None))
        await orders.started.wait()
        nursery.cancel_scope.cancel()
    await orders.wake("order-1", WakeTimeReached())
    assert not orders.is_live("order-1")
