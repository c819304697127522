"""One life of an engine process: from its start to its crash, with pauses.

An engine touches the outside only through its ports, and its ports only through its session. A crash closes the
session: the engine's tasks are cancelled, and whatever they still try before they have unwound reaches nobody.
What had left the process before stays under way: packets and commits do not know that their sender died.
A pause closes the gate in both directions, as for a process that was stopped or swapped out.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from tallystick.engine.errors import StoreUnavailable, TallystickError
from tallystick.sim.clock import Promise

T = TypeVar("T")


class ConnectionLost(TallystickError):
    """The engine that was called has died, or did not answer in time. What became of the call is not known."""


class Session:
    """The link between one engine and the simulated world."""

    def __init__(self, number: int, *, on_crash: Callable[["Session", str], None]) -> None:
        self.number = number
        self.name = f"engine-{number}"
        self.alive = True
        self.scope = trio.CancelScope()
        """Everything the engine runs in."""
        self._calls: dict[trio.CancelScope, None] = {}
        self._on_crash = on_crash
        self._paused: list[Promise[None]] | None = None

    @property
    def paused(self) -> bool:
        """Say whether the process stands still."""
        return self._paused is not None

    async def gate(self) -> None:
        """Pass when the process runs; wait while it is paused.

        Raises StoreUnavailable after a crash, so that even code that is shielded from cancellation ends.
        """
        await self.standstill()
        if not self.alive:
            raise StoreUnavailable(f"{self.name} has crashed")

    async def standstill(self) -> None:
        """Wait while the process is paused."""
        while self._paused is not None:
            promise: Promise[None] = Promise()
            self._paused.append(promise)
            await promise.wait()

    async def call(self, ask: Callable[[], Awaitable[T]], *, patience_s: float) -> T:
        """Call the engine from outside. Raises ConnectionLost when it dies or takes longer than `patience_s`."""
        if self.alive:
            with trio.move_on_after(patience_s) as scope:
                self._calls[scope] = None
                try:
                    await self.standstill()
                    answer = await ask()
                    await self.standstill()
                finally:
                    del self._calls[scope]
                return answer
        raise ConnectionLost(f"{self.name} is gone")

    def hang_up(self) -> None:
        """Break every connection of those who call."""
        for scope in self._calls:
            scope.cancel()

    def crash(self, why: str) -> None:
        """Kill the process at once. A dead one is not killed again."""
        if self.alive:
            self.alive = False
            self._on_crash(self, why)
            self.resume()
            self.hang_up()
            self.scope.cancel()

    def pause(self) -> None:
        """Stop the process where it stands."""
        if self._paused is None:
            self._paused = []

    def resume(self) -> None:
        """Let it go on."""
        waiting, self._paused = self._paused or [], None
        for promise in waiting:
            promise.settle(None)
