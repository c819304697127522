"""`tallystick sim trace`: a run as one page for a browser."""

from pathlib import Path

from tallystick.cli.sim_step import RunChoice
from tallystick.sim.html_trace import write_page


def run_trace(choice: RunChoice, *, html: Path) -> int:
    """Write the page, and say where it is; return the exit code."""
    recording = write_page(choice.source(), html)
    size_kb = html.stat().st_size // 1024
    orders = recording.result.orders
    print(f"{html}: {len(recording)} steps, {orders} order{'' if orders == 1 else 's'}, {size_kb} kB")
    print("Open it in a browser; it needs no network.")
    return 0
