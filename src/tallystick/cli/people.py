"""Commands for people who look into payments: verify, why, deadletters."""

import getpass
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
import trio
from rich.console import Console
from rich.table import Table

from tallystick.cli.serve import find_server
from tallystick.engine.errors import MoveRefused, NotFoundError, SetupError
from tallystick.engine.ports import Store
from tallystick.engine.story import instant, tell
from tallystick.engine.views import DeadLetterView
from tallystick.storage.verify import verify
from tallystick.storage.visiting import visit_store

T = TypeVar("T")

_FINDINGS_MAX = 100
_PAGE = 500
_HTTP_TIMEOUT_S = 35.0
# Columns; far more than the longest ids and reasons take.
_PIPED_WIDTH = 10_000
_CONFLICT, _NOT_FOUND = 409, 404


def _with_store(run: Callable[[Store], Awaitable[T]], *, data_dir: Path, database_url: str | None) -> T:
    """Run something on the store, beside a running server or without one."""

    async def main() -> T:
        async with _store(data_dir, database_url) as store:
            return await run(store)

    return trio.run(main)


@asynccontextmanager
async def _store(data_dir: Path, database_url: str | None) -> AsyncIterator[Store]:
    async with visit_store(database_url=database_url, data_dir=data_dir) as store:
        yield store


def run_verify(*, data_dir: Path, database_url: str | None) -> int:
    """Check everything; print what was found. Returns the exit code: 0 when all is well, 1 when not."""
    report = _with_store(
        lambda store: verify(store, limit=_FINDINGS_MAX), data_dir=data_dir, database_url=database_url
    )
    for finding in report.findings:
        print(f"{finding.check}  {finding.subject}: {finding.detail}")
    if report.findings:
        print(f"{len(report.findings)} findings in {report.transfers} transfers.")
        return 1
    print(f"All is well: {report.transfers} transfers replayed, hashes, sums, wallets and orders agree.")
    return 0


def run_why(payment_order_id: str, *, data_dir: Path, database_url: str | None) -> None:
    """Print an order's story. Raises NotFoundError."""
    story = _with_store(lambda store: store.story(payment_order_id), data_dir=data_dir, database_url=database_url)
    if story is None:
        raise NotFoundError("payment_order_id", f"no payment order {payment_order_id!r}")
    print("\n".join(tell(story)))


def run_list_letters(*, closed: bool, data_dir: Path, database_url: str | None) -> None:
    """Print the dead letters as a table."""

    async def read(store: Store) -> list[DeadLetterView]:
        letters: list[DeadLetterView] = []
        after: tuple[int, str] | None = None
        while page := await store.dead_letters(include_closed=closed, after=after, limit=_PAGE):
            letters += page
            after = (page[-1].opened_at, page[-1].payment_order_id)
        return letters

    letters = _with_store(read, data_dir=data_dir, database_url=database_url)
    if not letters:
        print("No dead letters." if closed else "No open dead letters.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("since", "payment order", "amount", "state", "why", "ended"):
        table.add_column(heading, overflow="fold")
    for letter in letters:
        ended = f"{instant(letter.closed_at)} {letter.resolution}" if letter.closed_at is not None else ""
        table.add_row(
            instant(letter.opened_at),
            letter.payment_order_id,
            str(letter.amount),
            letter.state.value,
            letter.reason,
            ended,
        )
    # A terminal folds what is too long; for a pipe each letter is one line. Nothing is cut, and ids are no markup.
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def run_show_letter(payment_order_id: str, *, data_dir: Path, database_url: str | None) -> None:
    """Print one dead letter with its order's story. Raises NotFoundError."""
    story = _with_store(lambda store: store.story(payment_order_id), data_dir=data_dir, database_url=database_url)
    if story is None or story.dead_letter is None:
        raise NotFoundError("payment_order_id", f"no dead letter for {payment_order_id!r}")
    letter = story.dead_letter
    print(f"{letter.payment_order_id} of checkout {letter.checkout_id}, {letter.amount}: {letter.reason}")
    if letter.closed_at is None:
        print(f"Open since {instant(letter.opened_at)}.")
    else:
        print(f"Open from {instant(letter.opened_at)} to {instant(letter.closed_at)}: {letter.resolution}.")
    print("\n".join(["", *tell(story)]))


def run_retry_letter(payment_order_id: str, *, why: str, by: str | None, data_dir: Path, url: str | None) -> None:
    """Ask the running server for one more attempt. Raises NotFoundError, MoveRefused, SetupError."""
    if url is None:
        server = find_server(data_dir)
        if server is None:
            raise SetupError("no server is running on this data folder; start one, or name it with --url")
        url = server.url
    target = f"{url.rstrip('/')}/v1/dead-letters/{quote(payment_order_id, safe='')}/retry"
    try:
        response = httpx2.post(target, json={"by": by or getpass.getuser(), "why": why}, timeout=_HTTP_TIMEOUT_S)
    except httpx2.HTTPError as error:
        raise SetupError(f"the server at {url} does not answer: {type(error).__name__}") from error
    try:
        answer: dict[str, Any] = response.json()
    except ValueError:
        raise SetupError(f"what answers at {url} is not Tallystick") from None
    if response.status_code == _NOT_FOUND:
        raise NotFoundError("payment_order_id", answer.get("detail", "not found"))
    if response.status_code == _CONFLICT:
        raise MoveRefused("payment_order_id", answer.get("detail", "refused"))
    if not response.is_success:
        raise SetupError(f"the server answered {response.status_code}: {answer.get('detail', '')}")
    print(f"{payment_order_id}: one more attempt is under way ({answer['state']}).")
    print(f"See what becomes of it: tallystick why {payment_order_id}")
