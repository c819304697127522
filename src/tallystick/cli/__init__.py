"""The command line. Each command lives in a module of its own, which is imported when the command is called."""

import sys
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import structlog
from cyclopts import Parameter

from tallystick import __version__
from tallystick.cli.sim import sim
from tallystick.engine.errors import OurError, SetupError, TallystickError, traceback_of

app = cyclopts.App(
    name="tallystick",
    help="A payment backend that moves each payment exactly once, and the simulator that shows it.",
    version=__version__,
)
deadletters = cyclopts.App(name="deadletters", help="Payment orders that need a person.")
app.command(deadletters)
app.command(sim)

DataDir = Annotated[
    Path, Parameter(help="Where the embedded database keeps its data.", env_var="TALLYSTICK_DATA_DIR")
]
DatabaseUrl = Annotated[
    str | None,
    Parameter(help="A PostgreSQL URL in place of the embedded database.", env_var="TALLYSTICK_DATABASE_URL"),
]
DATA_DIR = Path(".tallystick")

EXIT_WRONG, EXIT_SETUP, EXIT_CRASH = 1, 2, 3


@app.command
def serve(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port of the API; 0 takes any that is free.")] = 8080,
    psp_port: Annotated[
        int | None, Parameter(help="Port of the simulated PSP; the API's plus one, any if that is any.")
    ] = None,
    psp_url: Annotated[
        str | None, Parameter(help="A simulated PSP that runs already, in place of our own.")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    database_url: DatabaseUrl = None,
    webhook_url: Annotated[
        str | None,
        Parameter(
            help="Where business events are posted, signed with the secret in TALLYSTICK_WEBHOOK_SECRET.",
            env_var="TALLYSTICK_WEBHOOK_URL",
        ),
    ] = None,
    log_format: Annotated[str, Parameter(help="console or json.")] = "console",
) -> None:
    """Serve the checkout API, with a simulated PSP on a port of its own."""
    from tallystick.cli.serve import ServeOptions, run_serve

    _configure_logs(log_format)
    run_serve(
        ServeOptions(
            host=host,
            port=port,
            psp_port=_port_after(port) if psp_port is None else psp_port,
            psp_url=psp_url,
            data_dir=data_dir,
            database_url=database_url,
            webhook_url=webhook_url,
        )
    )


def _port_after(port: int) -> int:
    return port + 1 if port else 0


@app.command
def verify(*, data_dir: DataDir = DATA_DIR, database_url: DatabaseUrl = None) -> None:
    """Replay the ledger's hash chain, and compare ledger, wallets, orders and outbox with each other."""
    from tallystick.cli.people import run_verify

    sys.exit(run_verify(data_dir=data_dir, database_url=database_url))


@app.command
def why(payment_order_id: str, /, *, data_dir: DataDir = DATA_DIR, database_url: DatabaseUrl = None) -> None:
    """Tell a payment order's story in words: each attempt, what came back, what was decided, what was posted."""
    from tallystick.cli.people import run_why

    run_why(payment_order_id, data_dir=data_dir, database_url=database_url)


@app.command
def doctor(
    *,
    data_dir: DataDir = DATA_DIR,
    database_url: DatabaseUrl = None,
    host: str = "127.0.0.1",
    port: int = 8080,
) -> None:
    """Say what is wrong with the set-up, in words."""
    from tallystick.cli.doctor import run_doctor

    sys.exit(run_doctor(data_dir=data_dir, database_url=database_url, host=host, port=port))


AllLetters = Annotated[bool, Parameter(name="--all", negative="", help="Closed ones, too.")]


@deadletters.command(name="list")
def list_letters(
    *, closed: AllLetters = False, data_dir: DataDir = DATA_DIR, database_url: DatabaseUrl = None
) -> None:
    """List the dead letters, oldest first."""
    from tallystick.cli.people import run_list_letters

    run_list_letters(closed=closed, data_dir=data_dir, database_url=database_url)


@deadletters.command(name="show")
def show_letter(
    payment_order_id: str, /, *, data_dir: DataDir = DATA_DIR, database_url: DatabaseUrl = None
) -> None:
    """Show one dead letter: what it is about, why it is here, and the order's whole story."""
    from tallystick.cli.people import run_show_letter

    run_show_letter(payment_order_id, data_dir=data_dir, database_url=database_url)


@deadletters.command(name="retry")
def retry_letter(
    payment_order_id: str,
    /,
    *,
    why: Annotated[str, Parameter(help="Why a further attempt makes sense; it is kept in the order's log.")],
    by: Annotated[str | None, Parameter(help="Who asks; your user name unless given.")] = None,
    data_dir: DataDir = DATA_DIR,
    url: Annotated[
        str | None, Parameter(help="The running server; found in the data folder unless given.")
    ] = None,
) -> None:
    """Have the running server begin one more attempt of a failed order."""
    from tallystick.cli.people import run_retry_letter

    run_retry_letter(payment_order_id, why=why, by=by, data_dir=data_dir, url=url)


def _configure_logs(form: str) -> None:
    """Log to standard error, with UTC times. Never with the values of variables: they may be a buyer's data."""
    if form not in ("console", "json"):
        raise SetupError(f"--log-format must be console or json, not {form!r}")
    renderer: Any = structlog.processors.JSONRenderer()
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def main() -> None:
    """Run the command line; a known error is one clear line and a non-zero exit."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as error:
        known = _known_error(error)
        if known is None:
            if not isinstance(error, Exception):
                raise
            print(traceback_of(error), file=sys.stderr)
            sys.exit(EXIT_CRASH)
        print(f"tallystick: {known}", file=sys.stderr)
        sys.exit(EXIT_SETUP if isinstance(known, (SetupError, OurError)) else EXIT_WRONG)


def _known_error(error: BaseException) -> TallystickError | None:
    """Return the error that the user can act on, also out of nested groups, when there is nothing else in them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, TallystickError) else None
