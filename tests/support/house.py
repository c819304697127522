"""A whole house for end-to-end tests: server, embedded PostgreSQL and simulated PSP, as real processes."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import trio

PSP_SECRET = "sk_test_simulated"
UP_WITHIN_S = 60


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class House:
    """Starts, kills and asks the parts. Everything listens on loopback and ends with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.psp_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.psp_url = f"http://127.0.0.1:{self.psp_port}"
        self.client = httpx2.AsyncClient(timeout=35)
        self._engine: trio.Process | None = None
        self._psp: trio.Process | None = None

    # --- the parts -------------------------------------------------------------------------------------------

    async def start_psp(self) -> None:
        """Start the simulated PSP on its journal."""
        journal = self.folder / "psp.jsonl"
        self._psp = await self._run("sim", "psp", "--port", str(self.psp_port), "--journal", str(journal))
        await self._until_up(f"{self.psp_url}/healthz")

    async def start_engine(self, *more: str) -> None:
        """Start the server, and wait until it takes payments."""
        self._engine = await self._run(
            "serve",
            *("--port", str(self.port), "--psp-url", self.psp_url, "--data-dir", str(self.data_dir), *more),
        )
        await self._until_up(f"{self.url}/readyz")

    async def kill_engine(self) -> None:
        """End the server at once, as a power cut would; its PostgreSQL stays."""
        await self._kill(self._engine)

    async def kill_psp(self) -> None:
        """End the PSP at once."""
        await self._kill(self._psp)

    def kill_postgres(self) -> None:
        """End PostgreSQL's first process at once; the server is expected to start it again."""
        pid = int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    async def stop(self) -> None:
        """End everything in order, and prove that the server can."""
        with trio.CancelScope(shield=True):
            if self._engine is not None and self._engine.poll() is None:
                self._engine.terminate()
                with trio.move_on_after(30):
                    await self._engine.wait()
            await self._kill(self._engine)
            await self._kill(self._psp)
            await self.client.aclose()

    def log(self) -> str:
        """Return what the parts have said."""
        return (self.folder / "log").read_text()

    async def command(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Run one command of the command line on this data folder."""
        return await trio.run_process(
            [sys.executable, "-m", "tallystick", *arguments, "--data-dir", str(self.data_dir)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )

    async def _run(self, *arguments: str) -> trio.Process:
        with (self.folder / "log").open("ab") as log:
            return await trio.lowlevel.open_process(
                [sys.executable, "-m", "tallystick", *arguments], stdout=log, stderr=log
            )

    @staticmethod
    async def _kill(process: trio.Process | None) -> None:
        if process is not None and process.poll() is None:
            process.kill()
            await process.wait()

    async def _until_up(self, url: str) -> None:
        with trio.move_on_after(UP_WITHIN_S):
            while True:
                try:
                    if (await self.client.get(url)).status_code == 200:
                        return
                except httpx2.HTTPError:
                    pass
                await trio.sleep(0.05)
        raise AssertionError(f"{url} did not come up:\n{self.log()[-3000:]}")

    # --- payments --------------------------------------------------------------------------------------------

    async def pay_until_acknowledged(self, body: dict[str, Any], *, wait_s: int = 0) -> dict[str, Any]:
        """Post a checkout again and again, as a careful client does, until it is acknowledged."""
        headers = {"prefer": f"wait={wait_s}"} if wait_s else {}
        while True:
            try:
                response = await self.client.post(f"{self.url}/v1/payments", json=body, headers=headers)
            except httpx2.HTTPError:
                await trio.sleep(0.1)
                continue
            if response.status_code in (200, 202):
                answer: dict[str, Any] = response.json()
                return answer
            assert response.status_code == 503, response.text
            assert "retry-after" in response.headers
            await trio.sleep(0.1)

    async def checkout(self, checkout_id: str) -> dict[str, Any] | None:
        """Return a checkout, or None when there is no answer or no such checkout."""
        try:
            response = await self.client.get(f"{self.url}/v1/checkouts/{checkout_id}")
        except httpx2.HTTPError:
            return None
        answer: dict[str, Any] | None = response.json() if response.status_code == 200 else None
        return answer

    async def psp_captures(self) -> list[dict[str, Any]]:
        """Return the PSP's hidden ledger: the truth by which we are judged."""
        captures: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            response = await self.client.get(
                f"{self.psp_url}/v1/ledger?after={after}", headers={"authorization": f"Bearer {PSP_SECRET}"}
            )
            page = response.json()
            captures += page["captures"]
            after = page["next_after"]
        return captures

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = (await self.client.get(f"{self.url}/metrics")).text
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)


@asynccontextmanager
async def open_house(folder: Path) -> AsyncIterator[House]:
    """Run a house whose folder every user may pass, as the database's user must."""
    folder.chmod(0o755)  # noqa: ASYNC240  (one call on a local disk)
    house = House(folder)
    try:
        await house.start_psp()
        await house.start_engine()
        yield house
    finally:
        await house.stop()


def checkout_of(number: str, *tokens_and_amounts: tuple[str, str], token: str = "tok_visa") -> dict[str, Any]:
    """Return a checkout with one payment order per (seller, amount)."""
    return {
        "checkout_id": f"checkout-{number}",
        "buyer_info": {"buyer_account": f"buyer-{number}"},
        "credit_card_info": {"token": token},
        "payment_orders": [
            {
                "payment_order_id": f"order-{number}-{index}",
                "seller_account": seller,
                "amount": amount,
                "currency": "EUR",
            }
            for index, (seller, amount) in enumerate(tokens_and_amounts)
        ],
    }
