"""Pay-in measured: payments a second beside pgbench, the HTTP door beside a bare echo, memory of what waits.

    .venv/bin/python benchmarks/pay_in.py [payments] [http] [memory]

Everything runs on one machine and one embedded PostgreSQL with durable settings; read the figures as ratios.
Load stays on loopback and ends by itself.
"""

import gc
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio

from tallystick.actors.engine import Engine, Ports, run_engine
from tallystick.actors.settings import EngineSettings, GatewaySettings
from tallystick.bootstrap import SystemClock, SystemEntropy, tune_process
from tallystick.engine.doors import PaymentEvent, PaymentOrderRequest
from tallystick.engine.retry import HOUR_US, PspPolicy, RetryPolicy
from tallystick.engine.risk import AmountLimits
from tallystick.http import ApiSettings, create_app
from tallystick.http.server import serve
from tallystick.sim.psp.in_process import InProcessPsp
from tallystick.storage import binaries
from tallystick.storage.embedded import EmbeddedServer, open_embedded, server_account
from tallystick.storage.postgres import open_store_at

PSP_LATENCY_US = 50_000
PGBENCH_S = 10
SELLERS = ("DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606")
HTTP_S = 8.0
HTTP_CLIENTS = 128


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def rss_mb() -> float:
    """Return this process's resident memory in MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def event_of(number: int, run: str, token: str = "tok_visa") -> PaymentEvent:
    """Return a checkout with one payment order."""
    return PaymentEvent(
        checkout_id=f"checkout-{run}-{number}",
        buyer_info={"buyer_account": f"buyer-{number % 1000}"},
        credit_card_info=token,
        payment_orders=[
            PaymentOrderRequest(
                payment_order_id=f"order-{run}-{number}",
                seller_account=SELLERS[number % len(SELLERS)],
                amount="3.15",
                currency="EUR",
            )
        ],
    )


@asynccontextmanager
async def engine_on(
    server: EmbeddedServer, *, latency_us: int = PSP_LATENCY_US, policy: PspPolicy | None = None
) -> AsyncIterator[tuple[Engine, InProcessPsp]]:
    """Run an engine over the server's database, with a PSP in this process."""
    clock, entropy = SystemClock(), SystemEntropy()
    psp = InProcessPsp(clock=clock, entropy=entropy, latency_us=latency_us, policy=policy)
    settings = EngineSettings(
        live_orders_max=60_000,
        accept_queue_max=60_000,
        gateway=GatewaySettings(concurrency_max=60_000, call_timeout_s=120),
    )
    async with open_store_at(server.url()) as store:
        ports = Ports(store=store, psps=[psp], risk=AmountLimits(), clock=clock, entropy=entropy)
        async with run_engine(ports, settings, force_claim=True) as engine:
            yield engine, psp


# --- payments a second, beside pgbench -------------------------------------------------------------------------


async def measure_payments(server: EmbeddedServer) -> None:
    """Print payments/s at 500 and at 2,000 at once, and pgbench TPC-B before and after, on the same server."""
    rates = [await pgbench(server)]
    results = {}
    for at_once, count in ((500, 10_000), (2_000, 24_000)):
        results[at_once] = await pay(server, at_once, count)
    rates.append(await pgbench(server))
    tpcb = sum(rates) / len(rates)
    say(f"pgbench TPC-B, 32 clients: {rates[0]:.0f} and {rates[1]:.0f} tps before and after")
    for at_once, (rate, cpu_us, latencies) in results.items():
        p50, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
        say(
            f"{at_once:>5} at once: {rate:.0f} payments/s = {rate / tpcb:.2f} x TPC-B; "
            f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms; Python {cpu_us:.0f} us CPU a payment"
        )


async def pay(server: EmbeddedServer, at_once: int, count: int) -> tuple[float, float, list[float]]:
    """Carry out `count` payments, `at_once` of them at any time; return rate, CPU and sorted latencies."""
    latencies: list[float] = []
    run = f"{random.getrandbits(40):x}x"
    numbers = iter(range(count))
    async with engine_on(server) as (engine, psp):

        async def client() -> None:
            for number in numbers:
                began = time.perf_counter()
                receipt = await engine.submit(event_of(number, run))
                checkout = await engine.wait(receipt.checkout_id, timeout_s=60)
                if not checkout.is_payment_done:
                    raise RuntimeError(f"{checkout.checkout_id} is not done")
                latencies.append(time.perf_counter() - began)

        wall, cpu = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(client)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if len(psp.model.truth()) != count or await engine.store.findings(limit=1):
            raise RuntimeError("the audit after the run found something wrong")
    return count / wall, cpu / count * 1e6, sorted(latencies)


async def pgbench(server: EmbeddedServer) -> float:
    """Return the TPC-B rate of 32 clients on this server."""
    program = binaries.find(server_account()).program("pgbench")
    socket_folder = re.findall(r"host=([^&]+)", server.url())[0]
    user = re.findall(r"//([^@]*)@", server.url())[0]
    connect = ["-h", socket_folder, "-U", user]
    quiet = partial(trio.run_process, capture_stdout=True, capture_stderr=True)
    await quiet([str(Path(program).with_name("createdb")), *connect, "pgbench"], check=False)
    await quiet([program, *connect, "-i", "-q", "-s", "10", "pgbench"])
    done = await quiet([program, *connect, "-c", "32", "-j", "2", "-T", str(PGBENCH_S), "pgbench"])
    return float(re.findall(rb"tps = ([0-9.]+)", done.stdout)[0])


# --- the HTTP door, beside a bare echo ---------------------------------------------------------------------------


async def measure_http(server: EmbeddedServer) -> None:
    """Print requests/s of POST /v1/payments and of a bare quart-trio echo, alternating, in this process."""
    echo = QuartTrio("echo")

    @echo.post("/v1/payments")
    async def answer() -> Response:
        return Response(await request.get_data(), content_type="application/json")

    rates: dict[str, list[float]] = {"echo": [], "payments": []}
    async with engine_on(server) as (engine, _):
        doors: dict[str, Any] = {
            "echo": echo,
            "payments": create_app(engine, settings=ApiSettings(access_log=False)),
        }
        for _ in range(3):
            for name, app in doors.items():
                rates[name].append(await requests_per_s(app))
        await until(lambda: not engine.live_orders)
    for name, each in rates.items():
        say(f"{name:>9}: {', '.join(f'{rate:.0f}' for rate in each)} requests/s")
    ratios = [post / bare for post, bare in zip(rates["payments"], rates["echo"], strict=True)]
    say(f"POST /v1/payments against the echo: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


async def requests_per_s(app: QuartTrio) -> float:
    """Serve `app` on loopback, post checkouts from a process of its own for HTTP_S seconds; return the rate."""
    ready: list[str] = []
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, app, port=0, on_ready=ready.append, shutdown_trigger=stop.wait))
        await until(lambda: bool(ready))
        done = await trio.run_process([sys.executable, __file__, "client", ready[0]], capture_stdout=True)
        stop.set()
        nursery.cancel_scope.cancel()
    return float(done.stdout)


async def http_client(url: str) -> None:
    """Post checkouts over keep-alive connections, without a library: the generator shall cost little."""
    host, port = url.removeprefix("http://").split(":")
    run = f"{random.getrandbits(40):x}x"
    numbers = iter(range(10**9))
    counts = [0]
    deadline = trio.current_time() + HTTP_S

    async def connection() -> None:
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            while trio.current_time() < deadline:
                body = msgspec.json.encode(event_of(next(numbers), run))
                head = (
                    f"POST /v1/payments HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(body)}\r\n\r\n"
                )
                await stream.send_all(head.encode() + body)
                answer = bytes(await stream.receive_some(65536))
                while b"\r\n\r\n" not in answer:
                    answer += bytes(await stream.receive_some(65536))
                start = answer.index(b"\r\n\r\n") + 4
                length = int(re.findall(rb"content-length: (\d+)", answer, re.IGNORECASE)[0])
                while len(answer) < start + length:
                    answer += bytes(await stream.receive_some(65536))
                if answer[9:12] not in (b"200", b"202"):
                    raise RuntimeError(answer.decode())
                counts[0] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(HTTP_CLIENTS):
            nursery.start_soon(connection)
    say(str(counts[0] / HTTP_S))


# --- memory ----------------------------------------------------------------------------------------------------


async def measure_memory(server: EmbeddedServer) -> None:
    """Print the memory that 50,000 sleeping and 10,000 active orders take beyond an idle engine."""
    patient = PspPolicy(on_soft_decline=RetryPolicy(base_us=4 * HOUR_US, cap_us=4 * HOUR_US))
    async with engine_on(server, latency_us=1_000, policy=patient) as (engine, _):
        await submit_many(engine, 2_000, "tok_visa")
        await until(lambda: not engine.live_orders)
        idle = rss_mb()
        await submit_many(engine, 50_000, "tok_insufficient_funds")
        await until(lambda: not engine.live_orders)
        say(f"50,000 orders asleep in RETRY_WAIT: {rss_mb() - idle:+.1f} MB over {idle:.0f} MB idle")
    async with engine_on(server, latency_us=40_000_000) as (engine, psp):
        idle = rss_mb()
        await submit_many(engine, 10_000, "tok_visa")
        await until(lambda: len(psp.model.truth()) >= 10_000)
        say(f"10,000 orders active, each in a PSP call: {rss_mb() - idle:+.1f} MB over {idle:.0f} MB idle")
        await until(lambda: not engine.live_orders)


async def submit_many(engine: Engine, count: int, token: str) -> None:
    """Submit `count` checkouts, 500 at a time."""
    run = f"{random.getrandbits(40):x}x"
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await engine.submit(event_of(number, run, token))

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(client)


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    with trio.fail_after(300):
        while not true():  # noqa: ASYNC110  (nobody announces what a benchmark looks for)
            await trio.sleep(0.05)


async def main(names: list[str]) -> None:
    """Run the measurements named, or all."""
    parts = {"payments": measure_payments, "http": measure_http, "memory": measure_memory}
    with scratch() as folder:
        async with open_embedded(folder) as server:
            for name in names or list(parts):
                say(f"--- {name}")
                await parts[name](server)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a data folder that the database's user may pass, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "data"


if __name__ == "__main__":
    tune_process()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    if sys.argv[1:2] == ["client"]:
        trio.run(http_client, sys.argv[2])
    else:
        trio.run(main, sys.argv[1:])
