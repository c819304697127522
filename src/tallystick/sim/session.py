"""One life of an engine process: from its start to its crash, with pauses.

An engine touches the outside only through its ports, and its ports only through its session. A crash closes the
session: the engine's tasks are cancelled, and whatever they still try before they have unwound reaches nobody.
What had left the process before stays under way: packets and commits do not know that their sender died.
A pause closes the gate in both directions, as for a process that was stopped or swapped out.
"""

from collections.abc import Callable

import trio

from tallystick.engine.errors import StoreUnavailable
from tallystick.sim.clock import Promise


class Session:
    """The link between one engine and the simulated world."""

    def __init__(self, number: int, *, on_crash: Callable[["Session", str], None]) -> None:
        self.number = number
        self.name = f"engine-{number}"
        self.alive = True
        self.scope = trio.CancelScope()
        """Everything the engine runs in, and every call of a client that it has accepted."""
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
        while self._paused is not None:
            promise: Promise[None] = Promise()
            self._paused.append(promise)
            await promise.wait()
        if not self.alive:
            raise StoreUnavailable(f"{self.name} has crashed")

    def crash(self, why: str) -> None:
        """Kill the process at once. A dead one is not killed again."""
        if self.alive:
            self.alive = False
            self._on_crash(self, why)
            self.resume()
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
