"""Running the simulated PSP on a port of its own."""

import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.utils import wrap_app

from tallystick.engine.errors import SetupError
from tallystick.engine.ports import Clock, Entropy
from tallystick.sim.psp.journal import Journal, open_journal
from tallystick.sim.psp.model import DAY_US, SimulatedPsp
from tallystick.sim.psp.server import DEFAULT_SECRET, create_psp_app

# Idle connections stay open for longer than any client keeps them, so that the client closes first: a request
# that meets a closing connection has an unknown outcome.
_KEEP_ALIVE_S = 75.0
_BACKLOG = 1024


async def serve_psp(
    *,
    host: str = "127.0.0.1",
    port: int = 8081,
    journal_path: Path | None,
    clock: Clock,
    entropy: Entropy,
    name: str = "simulated",
    secret: str = DEFAULT_SECRET,
    public_url: str | None = None,
    key_lifetime_us: int = DAY_US,
    on_ready: Callable[[str], None] = lambda _: None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve the simulated PSP until `shutdown_trigger` returns, or until cancelled.

    `on_ready` is called with the address once requests are taken; port 0 picks a free port. `public_url` is where
    buyers find the hosted pages, when that is not the address served. Without a journal it forgets at the end.
    Raises SetupError when the port is taken, or the journal cannot be used.
    """
    model = SimulatedPsp(name=name, key_lifetime_us=key_lifetime_us)
    with _listening(host, port) as listener, _memory(journal_path, model) as journal:
        address = _address(host, listener)
        app = create_psp_app(
            model,
            clock=clock,
            entropy=entropy,
            public_url=public_url or address,
            journal=journal,
            secret=secret,
        )
        run = partial(
            worker_serve,
            wrap_app(app, _config().wsgi_max_body_size, "asgi"),
            _config(),
            sockets=Sockets(secure_sockets=[], insecure_sockets=[listener], quic_sockets=[]),
            shutdown_trigger=shutdown_trigger,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            on_ready(address)


def _config() -> Config:
    config = Config()
    config.errorlog = None  # It would only say on which port it runs, which on_ready does.
    config.keep_alive_timeout = _KEEP_ALIVE_S
    config.backlog = _BACKLOG
    config.include_server_header = False
    return config


def _memory(path: Path | None, model: SimulatedPsp) -> AbstractContextManager[Journal | None]:
    return nullcontext() if path is None else open_journal(path, model)


def _listening(host: str, port: int) -> socket.socket:
    """Take the port, before anything else is touched."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        why = "it is taken" if error.errno == errno.EADDRINUSE else error.strerror
        raise SetupError(f"the simulated PSP cannot listen on {host} port {port}: {why}") from error


def _address(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
