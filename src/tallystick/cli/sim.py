"""`tallystick sim …`: the simulator, and the simulated PSP. What a command needs is imported when it is called."""

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

sim = cyclopts.App(name="sim", help="The simulator, and the simulated PSP.")


@sim.command(name="psp")
def sim_psp(
    *,
    host: str = "127.0.0.1",
    port: int = 8081,
    journal: Annotated[
        Path | None, Parameter(help="Where it remembers; it forgets at its end without one.")
    ] = None,
) -> None:
    """Serve the simulated PSP alone."""
    from tallystick.cli.serve import run_psp

    run_psp(host=host, port=port, journal=journal)
