"""Which buildings may stand, and which of them appear, vanish or grow."""

import math
from dataclasses import replace

import numpy as np

from data_pipelines.synthetic.buildings import wing
from data_pipelines.synthetic.ground import EXPANSE, in_view, occupy, touches
from data_pipelines.synthetic.world import Building, Change, Part


def may_stand(building: Building, size: int, reserved: np.ndarray) -> bool:
    """Free ground in view, and not a changed building of which the image shows a sliver only."""
    if not any(in_view(part.centre, size, EXPANSE) for part in building.parts):
        return False
    if building.change != "none" and not _well_inside(building, size):
        return False
    return not any(touches(part, reserved) for part in building.parts)


def plan_changes(
    buildings: list[Building], size: int, reserved: np.ndarray, rng: np.random.Generator
) -> list[Building]:
    """Let single buildings appear, vanish and grow, beside the blocks that change as a whole."""
    rate = rng.uniform(0.1, 0.45)
    occupied = reserved.copy()
    for building in buildings:
        occupy(occupied, building.parts)
    planned = []
    for building in buildings:
        if building.change == "none" and rng.random() < rate and _well_inside(building, size):
            kind: Change = ("appears", "appears", "vanishes", "grows", "grows")[rng.integers(5)]
            extension = _extension(building, size, occupied, rng) if kind == "grows" else ()
            if kind != "grows" or extension:
                building = replace(building, change=kind, extension=extension)
                occupy(occupied, extension)
        planned.append(building)
    return planned


def _well_inside(building: Building, size: int) -> bool:
    return all(in_view(part.centre, size, -6) for part in building.parts)


def _extension(building: Building, size: int, occupied: np.ndarray, rng: np.random.Generator) -> tuple[Part, ...]:
    """A new part on free ground beside the first part, or nothing where there is no room."""
    main = building.parts[0]
    width = min(main.width, rng.uniform(12, 16.5) if main.width < 20 else rng.uniform(16, 26))
    length = rng.uniform(11, 16) if main.width < 20 else rng.uniform(14, 22)
    ways = [wing(main, rng.uniform(-1, 1), side, length, width) for side in (-1, 1)]
    ways += [_lengthening(main, end, length) for end in (-1, 1)]
    for i in rng.permutation(4):
        room = replace(ways[i], centre=ways[i].at(4 / length, 0))  # leaves out the seam with the main part
        if in_view(ways[i].centre, size, -8) and not touches(room, occupied):
            return (ways[i],)
    return ()


def _lengthening(main: Part, end: float, length: float) -> Part:
    """A part that carries `main` on at one of its ends (-1, 1)."""
    heading = main.heading if end > 0 else main.heading + math.pi
    return Part(main.at(end, 0) + main.axes[0] * (end * length / 2), length, main.width, heading, joined=True)
