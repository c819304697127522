"""`tallystick sim …`: the simulator, and the simulated PSP. What a command needs is imported when it is called."""

import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

sim = cyclopts.App(name="sim", help="The simulator, and the simulated PSP.")

TALLY_DIR = Path("build/tally")


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
def shrink(
    file: Annotated[Path, Parameter(help="A .tally file.")],
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(name=["--out", "-o"], help="Where the small case goes; beside the file if not given."),
    ] = None,
    budget_s: Annotated[float, Parameter(help="Stop looking for something smaller after these seconds.")] = 60.0,
) -> None:
    """Make a failing run as small as it gets: fewest payments, then faults, then other choices."""
    from tallystick.cli.sim_file import run_shrink

    run_shrink(file, out=out, budget_s=budget_s)


@sim.command
def replay(file: Annotated[Path, Parameter(help="A .tally file.")], /) -> None:
    """Run a .tally file again. Exits with 1 when an invariant still breaks."""
    from tallystick.cli.sim_file import run_replay

    sys.exit(run_replay(file))


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


@sim.command
def mutants(
    *,
    names: Annotated[str, Parameter(help="Which, with commas; all by default.")] = "all",
    trials: Annotated[int, Parameter(help="Searches per mutant, each from a seed of its own.")] = 5,
    seeds_max: Annotated[int, Parameter(help="Seeds after which a search is given up.")] = 1_000,
    first_seed: Annotated[int, Parameter(name="--from", help="The first seed of the first search.")] = 0,
    orders: Annotated[int, Parameter(help="Payment orders per seed.")] = 20,
    jobs: Annotated[
        int, Parameter(help="Processes at work; the result does not depend on it. 0 means one per core.")
    ] = 1,
    json: Annotated[Path | None, Parameter(help="Write a row per mutant to this file.")] = None,
) -> None:
    """Switch every safeguard off, one at a time, and count the seeds until the auditor notices."""
    from tallystick.cli.sim_mutants import MutantArguments, run_mutants

    sys.exit(
        run_mutants(
            MutantArguments(
                names=names,
                trials=trials,
                seeds_max=seeds_max,
                first_seed=first_seed,
                orders=orders,
                jobs=jobs,
                json=json,
            )
        )
    )


@sim.command(name="run")
def sim_run(
    *,
    seeds: Annotated[int, Parameter(help="How many seeds to run.")] = 1_000,
    first_seed: Annotated[int, Parameter(name="--from", help="The first seed.")] = 0,
    jobs: Annotated[
        int, Parameter(help="Processes at work; the result does not depend on it. 0 means one per core.")
    ] = 1,
    orders: Annotated[int, Parameter(help="Payment orders per seed.")] = 20,
    faults: Annotated[
        str, Parameter(help="Fault classes that may strike: all, none, or names with commas.")
    ] = "all",
    store: Annotated[str, Parameter(help="memory, or postgres for the real thing (slower).")] = "memory",
    mutant: Annotated[str | None, Parameter(help="Switch one safeguard of the engine off, by name.")] = None,
    rerun: Annotated[
        float, Parameter(help="Share of seeds, 0 to 1, run again in another process and compared step by step.")
    ] = 0.0,
    json: Annotated[Path | None, Parameter(help="Write the campaign's figures to this file.")] = None,
    out: Annotated[Path, Parameter(help="Where a .tally file is written for each seed that fails.")] = TALLY_DIR,
    require_goals: Annotated[
        bool, Parameter(help="Fail when a declared goal was never reached.", negative="")
    ] = False,
) -> None:
    """Run many seeds of the simulated world, and judge every one. Exits with 1 when any invariant broke."""
    from tallystick.cli.sim_run import RunArguments, run_run

    sys.exit(
        run_run(
            RunArguments(
                seeds=seeds,
                first_seed=first_seed,
                jobs=jobs,
                orders=orders,
                faults=faults,
                store=store,
                mutant=mutant,
                rerun=rerun,
                json=json,
                out=out,
                require_goals=require_goals,
            )
        )
    )


TallyFile = Annotated[Path | None, Parameter(help="A .tally file, as a failing run leaves it.")]
Seed = Annotated[int | None, Parameter(help="The run of this seed.")]
ScenarioName = Annotated[str | None, Parameter(name="--scenario", help="The run of this scenario.")]
MutantName = Annotated[str | None, Parameter(help="Switch one safeguard of the engine off, by name.")]
OrderCount = Annotated[int, Parameter(help="Payment orders; only with --seed.")]
FaultNames = Annotated[
    str, Parameter(help="Fault classes that may strike: all, none, or names; only with --seed.")
]


@sim.command
def step(
    file: TallyFile = None,
    /,
    *,
    seed: Seed = None,
    scenario_name: ScenarioName = None,
    mutant: MutantName = None,
    orders: OrderCount = 20,
    faults: FaultNames = "all",
    commands: Annotated[
        str | None,
        Parameter(
            help="Do these and end: commands with semicolons, a file of them, or - for standard input.",
            allow_leading_hyphen=True,
        ),
    ] = None,
) -> None:
    """Step through a run, forwards and backwards, and ask why."""
    from tallystick.cli.sim_step import RunChoice, run_step

    choice = RunChoice(file=file, seed=seed, scenario=scenario_name, mutant=mutant, orders=orders, faults=faults)
    sys.exit(run_step(choice, commands=commands))


@sim.command
def trace(
    file: TallyFile = None,
    /,
    *,
    html: Annotated[Path, Parameter(help="Where to write the page.")],
    seed: Seed = None,
    scenario_name: ScenarioName = None,
    mutant: MutantName = None,
    orders: OrderCount = 20,
    faults: FaultNames = "all",
) -> None:
    """Write a run as one page for a browser: lanes, messages, faults, and belief beside truth at every moment."""
    from tallystick.cli.sim_step import RunChoice
    from tallystick.cli.sim_trace import run_trace

    choice = RunChoice(file=file, seed=seed, scenario=scenario_name, mutant=mutant, orders=orders, faults=faults)
    sys.exit(run_trace(choice, html=html))
