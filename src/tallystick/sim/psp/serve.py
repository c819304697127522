"""Running the simulated PSP on a port of its own."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tallystick.engine.ports import Clock, Entropy
from tallystick.http.server import bind, serve
from tallystick.sim.psp.journal import Journal, open_journal
from tallystick.sim.psp.model import DAY_US, SimulatedPsp
from tallystick.sim.psp.server import DEFAULT_SECRET, create_psp_app


async def serve_psp(
    *,
    host: str = "127.0.0.1",
    port: int = 8081,
    port_flag: str = "--port",
    journal_path: Path | None,
    clock: Clock,
    entropy: Entropy,
    name: str = "simulated",
    secret: str = DEFAULT_SECRET,
    public_url: str | None = None,
    key_lifetime_us: int = DAY_US,
    on_ready: Callable[[str], object] | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve the simulated PSP until `shutdown_trigger` returns, or until cancelled.

    `on_ready` is called with the address once requests are taken; port 0 picks a free port, and `port_flag` is how
    the user chooses it. `public_url` is where buyers find the hosted pages, when that is not where the API is
    called. Without a journal it forgets all.
    Raises SetupError when the port is taken, or the journal cannot be used.
    """
    model = SimulatedPsp(name=name, key_lifetime_us=key_lifetime_us)
    with _memory(journal_path, model) as journal:
        app = create_psp_app(
            model, clock=clock, entropy=entropy, public_url=public_url, journal=journal, secret=secret
        )
        bound = bind(host, port, flag=port_flag)
        await serve(app, host=host, bound=bound, on_ready=on_ready, shutdown_trigger=shutdown_trigger)


def _memory(path: Path | None, model: SimulatedPsp) -> AbstractContextManager[Journal | None]:
    return nullcontext() if path is None else open_journal(path, model)
