"""The one place where parts are wired: ports in, a running engine out.

`run_engine` (in `actors.engine`) takes any ports; the simulator calls it with its own. `open_engine` makes the
production ones: PostgreSQL (embedded unless a URL is given), the system's clock and randomness.
"""

import gc
import os
import random
import secrets  # noqa: TID251  (the Entropy port's production side; everything else takes the port)
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tallystick.actors.engine import Engine, Ports, run_engine
from tallystick.actors.settings import EngineSettings
from tallystick.engine.ports import Psp, Receiver, RiskCheck
from tallystick.engine.risk import AmountLimits
from tallystick.storage.event_log import EventLog
from tallystick.storage.postgres import open_store

DATABASE_URL_VARIABLE = "TALLYSTICK_DATABASE_URL"
DEFAULT_DATA_DIR = Path(".tallystick")


def tune_process() -> None:
    """Set up this process for an engine under load. For a program that is ours; an embedding host decides itself.

    The garbage collector looks at every live order again and again, for cycles that are not there: looking a
    hundred times less often saves two fifths of a payment's CPU time (measured: 330 to 190 us), and what is
    loaded by now is not looked at at all. The database's thread gets its turn within 0.5 ms instead of 5.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    sys.setswitchinterval(0.0005)


class SystemClock:
    """The system's wall clock."""

    def now(self) -> int:
        """Return microseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1000


class SystemEntropy:
    """The system's randomness: for jitter a fast generator seeded by it, for identifiers the system itself."""

    def __init__(self) -> None:
        self._fast = random.Random(secrets.randbits(256))  # noqa: TID251, S311  (jitter is no secret)

    def below(self, bound: int) -> int:
        """Return a random integer in [0, bound)."""
        return self._fast.randrange(bound)

    def token(self) -> str:
        """Return 32 hex digits that nobody can guess."""
        return secrets.token_hex(16)


@asynccontextmanager
async def open_engine(
    *,
    psps: Sequence[Psp],
    database_url: str | None = None,
    data_dir: Path | str = DEFAULT_DATA_DIR,
    risk: RiskCheck | None = None,
    receivers: Sequence[Receiver] = (),
    settings: EngineSettings | None = None,
) -> AsyncIterator[Engine]:
    """Run an engine on PostgreSQL for the body of an `async with`, under trio.

    `psps`: the first is where payments go. `database_url`: a PostgreSQL URL; else the environment variable
    TALLYSTICK_DATABASE_URL; else an embedded server below `data_dir`, which also holds the log of business
    events. `receivers`: who else gets every business event.
    Raises SetupError, one clear line, when the machine is not set up for it.
    """
    data_dir = Path(data_dir)
    database_url = database_url or os.environ.get(DATABASE_URL_VARIABLE) or None
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(database_url=database_url, data_dir=data_dir))
        event_log = stack.enter_context(EventLog.open(data_dir / "events.jsonl"))
        ports = Ports(
            store=store,
            psps=psps,
            risk=risk or AmountLimits(),
            clock=clock,
            entropy=SystemEntropy(),
            receivers=(event_log, *receivers),
        )
        # The embedded server admits one owner of its folder at a time, so nobody alive holds the partitions.
        engine = await stack.enter_async_context(run_engine(ports, settings, force_claim=database_url is None))
        yield engine
