"""`tallystick sim …`: the simulator, and the simulated PSP. What a command needs is imported when it is called."""

import sys
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


@sim.command
def scenario(
    name: Annotated[str, Parameter(help="A scenario's name; all; or list.")] = "list",
    /,
    *,
    json: Annotated[Path | None, Parameter(help="Write the results there, too.")] = None,
    show: Annotated[bool, Parameter(negative="", help="Tell every step in words.")] = False,
) -> None:
    """Play small stories of what goes wrong with a payment, each with the end that it must have."""
    from tallystick.cli.sim_scenario import run_scenarios

    sys.exit(run_scenarios(name, json=json, show=show))
