"""`tallystick sim trace`: a run as one page for a browser."""

from pathlib import Path

from tallystick.cli.sim_step import RunChoice
from tallystick.sim.html_trace import write_page


def run_trace(choice: RunChoice, *, html: Path) -> int:
    """Write the page, and say where it is; return the exit code."""
    recording = write_page(choice.source(), html)
    size_kb = html.stat().st_size // 1024
    print(f"{html}: {len(recording)} steps, {recording.result.orders} orders, {size_kb} kB")
    return 0
