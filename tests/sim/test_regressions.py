"""Goal: every bug of our own engine that a campaign found, shrunk to a file, stays fixed.

To add one: `tallystick sim shrink FILE -o tests/sim/regressions/WHAT_IT_WAS.tally`, and a line in `BUGS`.
"""

from pathlib import Path

import pytest

from tallystick.sim import tally_file
from tallystick.sim.tape import Tape
from tallystick.sim.world import World

FOLDER = Path(__file__).parent / "regressions"

BUGS = {
    "refused_then_doubled": (
        "A request was throttled, which was taken as certainly without effect, and a new attempt began under a "
        "new key. A second copy of the first request was carried out later: charged twice. Now what was refused "
        "is sent again under its own key."
    ),
    "earlier_charge_while_other_amount": (
        "A decline was taken back and charged while the next attempt took another amount than it was asked for. "
        "The order waited for a person, and nobody ever booked or gave back the first charge. Now it pays for the "
        "order, and the other amount stands in a mismatch."
    ),
}


def test_every_file_has_its_story() -> None:
    assert {path.stem for path in FOLDER.glob(f"*{tally_file.SUFFIX}")} == BUGS.keys()


@pytest.mark.parametrize("bug", BUGS)
def test_it_stays_fixed(bug: str) -> None:
    file = tally_file.read(FOLDER / f"{bug}{tally_file.SUFFIX}")
    result = World(file.options, Tape.replay(file.record)).run()
    assert result.struck.keys() == set(file.options.faults), "the file no longer makes what it was made for"
    assert result.verdicts == ()
