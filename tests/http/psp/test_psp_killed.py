"""kill -9 of the simulated PSP under load: what it answered, it still knows, and nothing is taken twice."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import trio

from tallystick.engine.events import Charged
from tallystick.engine.ports import Psp

Connect = Callable[..., AbstractAsyncContextManager[Psp]]

SERVE = """
import os, sys, time, trio
from functools import partial
from pathlib import Path
from tallystick.sim.psp.serve import serve_psp

class Clock:
    def now(self): return time.time_ns() // 1000

class Entropy:
    def token(self): return os.urandom(16).hex()

def on_ready(url): print(url, flush=True)

trio.run(partial(serve_psp, port=0, journal_path=Path(sys.argv[1]), clock=Clock(), entropy=Entropy(),
                 on_ready=on_ready))
"""


@asynccontextmanager
async def running(journal: Path) -> AsyncIterator[tuple[str, trio.Process]]:
    process = await trio.lowlevel.open_process([sys.executable, "-c", SERVE, str(journal)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        url = b""
        while not url.endswith(b"\n"):
            more = await process.stdout.receive_some()
            assert more, "the PSP did not start"
            url += more
        yield url.decode().strip(), process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def test_what_was_answered_survives(tmp_path: Path, connect: Connect, ask: Any) -> None:
    journal = tmp_path / "psp.jsonl"
    answered: dict[str, Charged] = {}
    asked = 0
    for kill_after in (1, 7, 40, 90):
        async with running(journal) as (url, process), connect(url) as psp:
            goal = len(answered) + kill_after
            async with trio.open_nursery() as nursery:

                async def buyer(psp: Psp = psp, goal: int = goal, process: trio.Process = process) -> None:
                    nonlocal asked
                    while process.returncode is None:
                        asked += 1
                        order = f"o{asked}"
                        answer = await psp.charge(ask.charge(order=order))
                        if isinstance(answer, Charged):
                            answered[order] = answer
                        else:
                            return
                        if len(answered) >= goal:
                            process.send_signal(signal.SIGKILL)

                for _ in range(12):
                    nursery.start_soon(buyer)
    async with running(journal) as (url, _), connect(url) as psp, httpx2.AsyncClient() as judge:
        for order, answer in answered.items():
            assert await psp.charge(ask.charge(order=order)) == answer
        headers = {"Authorization": "Bearer sk_test_simulated"}
        captures = (await judge.get(f"{url}/v1/ledger", headers=headers)).json()["captures"]
        taken = [capture["merchant_reference"] for capture in captures]
        assert len(taken) == len(set(taken))
        assert set(answered) <= set(taken)
        # What was taken without being answered is found by inquiry.
        for order in set(taken) - set(answered):
            found = await psp.inquire(ask.about(order))
            assert isinstance(found, Charged)
    assert len(answered) >= 138
