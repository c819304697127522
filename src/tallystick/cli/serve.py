"""`tallystick serve`: the checkout API, and a simulated PSP on a port of its own."""

import os
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import structlog
import trio

from tallystick.bootstrap import SystemClock, SystemEntropy, open_engine, tune_process
from tallystick.engine.errors import SetupError
from tallystick.engine.ports import Psp, Receiver
from tallystick.http import ApiSettings, create_app
from tallystick.http.psp.registry import PspSettings, load_adapter
from tallystick.http.server import bind
from tallystick.http.server import serve as serve_http
from tallystick.http.webhooks.outgoing import MerchantWebhook
from tallystick.sim.psp.serve import serve_psp
from tallystick.storage import embedded
from tallystick.storage.postgres_process import is_alive

log = structlog.get_logger("tallystick.serve")

WEBHOOK_SECRET_VARIABLE = "TALLYSTICK_WEBHOOK_SECRET"  # noqa: S105  (a name, not the secret)
_ADDRESS_FILE = "serve.json"


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `tallystick serve` was called with."""

    host: str
    port: int
    psp_port: int
    psp_url: str | None
    data_dir: Path
    database_url: str | None
    webhook_url: str | None


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running server is, for other commands on the same data folder."""

    url: str
    psp_url: str
    pid: int


def run_serve(options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM."""
    tune_process()
    trio.run(_serve, options)


def run_psp(*, host: str, port: int, journal: Path | None) -> None:
    """Serve the simulated PSP alone until SIGINT or SIGTERM."""

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen_for_signals, stop)
            await serve_psp(
                host=host,
                port=port,
                journal_path=journal,
                clock=SystemClock(),
                entropy=SystemEntropy(),
                on_ready=lambda url: print(f"The simulated PSP is at {url}", flush=True),
                shutdown_trigger=stop.wait,
            )
            nursery.cancel_scope.cancel()

    trio.run(main)


async def _serve(options: ServeOptions) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen_for_signals, stop)
        # Both ports are taken before anything is made, so that a taken one leaves nothing behind.
        bound = bind(options.host, options.port)
        async with AsyncExitStack() as stack:
            stack.callback(bound.close)
            psp_url = options.psp_url or await nursery.start(partial(_own_psp, options))
            psp = await stack.enter_async_context(_psp(psp_url))
            receivers = await stack.enter_async_context(_receivers(options))
            engine = await stack.enter_async_context(
                open_engine(
                    psps=[psp],
                    database_url=options.database_url,
                    data_dir=options.data_dir,
                    receivers=receivers,
                )
            )
            base_url = f"http://{options.host}:{bound.getsockname()[1]}"
            app = create_app(engine, settings=ApiSettings(base_url=base_url))
            stack.callback((options.data_dir / _ADDRESS_FILE).unlink, missing_ok=True)
            await serve_http(
                app,
                host=options.host,
                bound=bound,
                on_ready=lambda url: _announce(options, url, psp_url),
                shutdown_trigger=stop.wait,
            )
            log.info("stopping")
        nursery.cancel_scope.cancel()


async def _own_psp(options: ServeOptions, *, task_status: trio.TaskStatus[str]) -> None:
    """Run our own simulated PSP beside the engine; its hidden ledger stays in the data folder."""
    try:
        options.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make the data folder {options.data_dir}: {error.strerror}") from error
    await serve_psp(
        host=options.host,
        port=options.psp_port,
        port_flag="--psp-port",
        journal_path=options.data_dir / "simulated-psp.jsonl",
        clock=SystemClock(),
        entropy=SystemEntropy(),
        on_ready=task_status.started,
    )


@asynccontextmanager
async def _psp(url: str) -> AsyncIterator[Psp]:
    settings = PspSettings(name="simulated", clock=SystemClock(), options={"base_url": url})
    async with load_adapter("simulated")(settings) as psp:
        yield psp


@asynccontextmanager
async def _receivers(options: ServeOptions) -> AsyncIterator[list[Receiver]]:
    """Yield the receivers of business events beside the event log."""
    if options.webhook_url is None:
        yield []
        return
    secret = os.environ.get(WEBHOOK_SECRET_VARIABLE)
    if not secret:
        raise SetupError(f"--webhook-url needs a secret in the environment variable {WEBHOOK_SECRET_VARIABLE}")
    async with MerchantWebhook.open(url=options.webhook_url, secret=secret, clock=SystemClock()) as merchant:
        yield [merchant]


async def _listen_for_signals(stop: trio.Event) -> None:
    """The first signal asks for an ordered stop, the second ends us at once: that is as safe as a kill."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()


def find_server(data_dir: Path) -> Address | None:
    """Return where the server on this data folder is, if one is running. What a killed one left does not count."""
    try:
        address = msgspec.json.decode((data_dir / _ADDRESS_FILE).read_bytes(), type=Address)
    except (OSError, msgspec.DecodeError):
        return None
    # The lock tells where the process id does not: of a server in another container on the same folder.
    return address if is_alive(address.pid) or embedded.is_owned(data_dir) else None


def _announce(options: ServeOptions, url: str, psp_url: str) -> None:
    """Leave our address for other commands, and tell a person what to do next."""
    address = Address(url=url, psp_url=psp_url, pid=os.getpid())
    (options.data_dir / _ADDRESS_FILE).write_bytes(msgspec.json.encode(address))
    named = shlex.quote(str(options.data_dir))
    data_flag = "" if named == ".tallystick" else f" --data-dir {named}"
    print(
        f"""
Tallystick is up: {url}

Pay (paste this):

  curl -s {url}/v1/payments -H 'Content-Type: application/json' -H 'Prefer: wait=10' -d '{{
    "checkout_id": "checkout-1",
    "buyer_info": {{"buyer_account": "ada", "email": "ada@example.com"}},
    "credit_card_info": {{"token": "tok_visa"}},
    "payment_orders": [{{
      "payment_order_id": "order-1", "seller_account": "DE89370400440532013000",
      "amount": "3.15", "currency": "EUR"
    }}]
  }}'

Paste it again: the same answer, and nothing is charged twice. Then look:

  why it went as it did     .venv/bin/tallystick why order-1{data_flag}
  the seller's wallet       curl -s {url}/v1/wallets/DE89370400440532013000
  the books                 curl -s {url}/v1/ledger/accounts/seller_payable:DE89370400440532013000:EUR
  the API's documentation   {url}/docs
  the simulated PSP         {psp_url}  (tokens that decline, fail and hang: {url}/docs)

Ctrl-C stops it.
""",
        flush=True,
    )
