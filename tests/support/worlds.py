"""Worlds that are not what they should be. They live here so that a campaign's other processes find them, too."""

import os

from tallystick.sim.options import RunOptions
from tallystick.sim.tape import Tape
from tallystick.sim.world import World


def drifting(options: RunOptions, tape: Tape | None) -> World:
    """Return a world whose trace depends on the process that runs it, from seed 3 on."""
    world = World(options, tape)
    if options.seed >= 3:
        world.note("world", "drift", os.getpid())
    return world
