"""A simulated PSP on a real port, a clock and randomness for tests, and the adapter connected to an address."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trio

from tallystick.engine.money import Money
from tallystick.engine.ports import ChargeRequest, Psp, PspQuery
from tallystick.http.psp.registry import PspSettings
from tallystick.http.psp.simulated import open_psp
from tallystick.sim.psp.serve import serve_psp

Connect = Callable[..., AbstractAsyncContextManager[Psp]]


class WallClock:
    def now(self) -> int:
        return time.time_ns() // 1000


class SystemEntropy:
    def below(self, bound: int) -> int:
        return int.from_bytes(os.urandom(8)) % bound

    def token(self) -> str:
        return os.urandom(16).hex()


@pytest.fixture
def connect() -> Connect:
    """Open the adapter on an address, with a patience that a slow machine does not try."""

    def open_at(base_url: str, **options: str) -> AbstractAsyncContextManager[Psp]:
        patience = {"connect_timeout_s": "5", "read_timeout_s": "10", "total_timeout_s": "20"}
        settings = PspSettings(
            name="simulated", clock=WallClock(), options={"base_url": base_url, **patience, **options}
        )
        return open_psp(settings)

    return open_at


@pytest.fixture
async def psp_url(tmp_path: Path) -> AsyncIterator[str]:
    """Give the address of a simulated PSP that keeps a journal."""
    ready: list[str] = []
    async with trio.open_nursery() as nursery:
        up = trio.Event()

        def on_ready(address: str) -> None:
            ready.append(address)
            up.set()

        serve = partial(
            serve_psp,
            port=0,
            journal_path=tmp_path / "psp.jsonl",
            clock=WallClock(),
            entropy=SystemEntropy(),
            on_ready=on_ready,
        )
        nursery.start_soon(serve)
        await up.wait()
        yield ready[0]
        nursery.cancel_scope.cancel()


class Ask:
    """Makes requests and queries about one payment order."""

    @staticmethod
    def charge(
        token: str | None = "tok_visa",
        *,
        order: str = "order-1",
        key: str | None = None,
        amount: Money = Money(315, "EUR"),  # noqa: B008  (immutable)
        attempt: int = 1,
    ) -> ChargeRequest:
        return ChargeRequest(
            payment_order_id=order,
            attempt=attempt,
            idempotency_key=key or order,
            amount=amount,
            psp_token=token,
            first_sent_at=0,
        )

    @staticmethod
    def about(order: str = "order-1", *, key: str | None = None, attempt: int = 1) -> PspQuery:
        return PspQuery(payment_order_id=order, attempt=attempt, idempotency_key=key or order, asked_at=42)


@pytest.fixture
def ask() -> type[Ask]:
    return Ask
