"""Goal: an independent checker finds that the API does what its description says: no 5xx, nothing undocumented."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from tallystick.engine.doors import PaymentEvent, Receipt
from tallystick.engine.errors import ContentConflict
from tallystick.engine.intents import IdempotencyClaim
from tallystick.engine.order import State
from tallystick.http import ApiSettings, create_app
from tallystick.http.server import serve

if TYPE_CHECKING:
    from tests.http.conftest import FakeDoor

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")


async def test_schemathesis_finds_nothing(
    door: "FakeDoor", checkout: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    await _prepare(door, checkout, monkeypatch)
    app = create_app(door, settings=ApiSettings(wait_s_max=1))
    stop = trio.Event()
    urls_in, urls_out = trio.open_memory_channel[str](1)

    async def run() -> None:
        await serve(app, port=0, on_ready=urls_in.send_nowait, shutdown_trigger=stop.wait)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            result = await _schemathesis(await urls_out.receive(), tmp_path)
            stop.set()
    finally:
        structlog.reset_defaults()
    # The curl lines of its report hold whole bodies.
    report = "\n".join([line[:300] for line in result.stdout.decode().splitlines()])
    assert result.returncode == 0, report
    assert "Tested: 12" in report


async def _schemathesis(url: str, folder: Path) -> Any:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    options = ["--max-examples", "15", "--seed", "7", "--continue-on-failure", "--no-color"]
    options += ["--generation-database", "none", "--phases", "examples,coverage,fuzzing,stateful"]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": HOOKS.stem,
        "PYTHONPATH": os.pathsep.join([str(HOOKS.parent), *sys.path]),
    }
    return await trio.run_process(
        command + options, capture_stdout=True, capture_stderr=True, check=False, env=environment, cwd=folder
    )


async def _prepare(door: "FakeDoor", checkout: dict[str, Any], monkeypatch: Any) -> None:
    """Let every resource exist under its documented example, and forget whatever would be a conflict.

    Schemathesis sends other content under ids that it has used, which is refused by design; the tests of
    conflicts are elsewhere.
    """
    submit, retry = door.submit, door.retry
    event = msgspec.convert(checkout, PaymentEvent)

    async def forgetful_submit(event: PaymentEvent, *, claim: IdempotencyClaim | None = None) -> Receipt:
        try:
            return await submit(event, claim=claim)
        except ContentConflict:
            door.rows.accepted.clear()
            door.rows.orders.clear()
            door.rows.claims.clear()
            return await submit(event, claim=claim)

    async def ever_failing_retry(payment_order_id: str, *, by: str, why: str) -> Any:
        if payment_order_id in door.rows.orders:
            door.change(payment_order_id, state=State.FAILED)
        return await retry(payment_order_id, by=by, why=why)

    monkeypatch.setattr(door, "submit", forgetful_submit)
    monkeypatch.setattr(door, "retry", ever_failing_retry)
    await door.submit(event)
    door.finish("checkout-1")
    for number in range(9):
        door.letter(number)
        door.entry(number)
