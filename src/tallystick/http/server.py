"""Serves an application under hypercorn, in the trio program that calls it."""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable

import structlog
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.typing import ASGIFramework

from tallystick.engine.card_numbers import mask_card_numbers
from tallystick.engine.errors import SetupError

log = structlog.get_logger("tallystick.http")

BACKLOG = 1_024
GRACEFUL_S = 5.0
"""How long requests that are under way at shutdown may take."""
KEEP_ALIVE_S = 75.0
"""An idle connection is closed after this; longer than the usual proxy's own time-out, so that the proxy closes it
first. It also bounds how long a client may take to send its headers."""
READ_TIMEOUT_S = 120
"""A connection on which nothing has come for so long is closed; longer than the longest `Prefer: wait`."""
HEADER_BYTES_MAX = 16_384
PORT_MAX = 65_535


class _Config(Config):
    """Hypercorn's configuration, with a socket that is bound already."""

    def __init__(self, bound: socket.socket) -> None:
        self._bound = bound

    def create_sockets(self) -> Sockets:
        return Sockets(secure_sockets=[], insecure_sockets=[self._bound], quic_sockets=[])


class _ToOurLog(logging.Handler):
    """Hypercorn's warnings and errors as lines of our log, without card numbers."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, "http_server", message=mask_card_numbers(self.format(record)))


def bind(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """Return a listening socket. Port 0 takes any free one; `flag` is what the user chooses another port with.

    Raises SetupError, one clear line, when the port is taken, not permitted, or the host is not of this machine.
    """
    if not 0 <= port <= PORT_MAX:
        limits = f"ports go from 0 (any that is free) to {PORT_MAX}; choose another with {flag}"
        raise SetupError(f"cannot listen on {host}:{port}: {limits}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise SetupError(f"cannot listen on {host}:{port}: the host is not known ({error})") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.settimeout(0)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise SetupError(_why_not(host, port, error, flag)) from error
    return bound


def _why_not(host: str, port: int, error: OSError, flag: str) -> str:
    where = f"cannot listen on {host}:{port}"
    code = error.errno
    if code == errno.EADDRINUSE:
        return f"{where}: the port is taken; stop what uses it, or choose another with {flag}"
    if code == errno.EACCES:
        return f"{where}: not permitted; ports below 1024 are for root, choose another with {flag}"
    if code == errno.EADDRNOTAVAIL:
        return f"{where}: this machine has no such address"
    return f"{where}: {error}"


async def serve(
    app: ASGIFramework,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    bound: socket.socket | None = None,
    on_ready: Callable[[str], object] | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until `shutdown_trigger` returns (or cancelled); requests under way then get GRACEFUL_S seconds.

    `bound` is a socket from `bind`, for who must know that the port is free before anything else is done; it is
    closed at the end. `on_ready` is called with the URL once connections are taken. Raises SetupError as `bind`
    does.
    """
    bound = bound or bind(host, port)
    try:
        config = _Config(bound)
        # Not in the tree of loggers: a host's own handlers would print unmasked tracebacks.
        config.errorlog = logging.Logger("hypercorn.error", logging.WARNING)  # noqa: LOG001
        config.errorlog.addHandler(_ToOurLog())
        config.backlog = BACKLOG
        config.graceful_timeout = GRACEFUL_S
        config.keep_alive_timeout = KEEP_ALIVE_S
        config.keep_alive_max_requests = 1_000_000_000
        config.read_timeout = READ_TIMEOUT_S
        config.h11_max_incomplete_size = HEADER_BYTES_MAX
        config.include_server_header = False
        async with trio.open_nursery() as nursery:
            await nursery.start(_run, app, config, shutdown_trigger)
            if on_ready is not None:
                on_ready(_url(host, bound))
    finally:
        bound.close()


async def _run(
    app: ASGIFramework,
    config: Config,
    shutdown_trigger: Callable[[], Awaitable[None]] | None,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await hypercorn_serve(
        app, config, shutdown_trigger=shutdown_trigger or trio.sleep_forever, task_status=task_status
    )


def _url(host: str, bound: socket.socket) -> str:
    port = bound.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
