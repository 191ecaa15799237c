"""What the blocks between the streets are used for."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from data_pipelines.synthetic.buildings import plan_flats, plan_homes, plan_works
from data_pipelines.synthetic.ground import EXPANSE
from data_pipelines.synthetic.paints import CROPS
from data_pipelines.synthetic.world import Block, Building, Change, Parcel, StreetGrid


def plan_land(
    grid: StreetGrid, blocks: Sequence[Block], size: int, still: bool, rng: np.random.Generator
) -> tuple[list[Parcel], list[Building], list[np.ndarray], list[Block]]:
    """Give every block in view a use: its parcels, buildings and ponds, and the blocks that are groves."""
    parcels: list[Parcel] = []
    buildings: list[Building] = []
    ponds: list[np.ndarray] = []
    groves: list[Block] = []
    use_shares = rng.dirichlet([3.2, 0.9, 0.9, 1.1, 0.8])
    for block in blocks:
        outline = block.outline(grid)
        if np.any(outline.max(0) < -EXPANSE) or np.any(outline.min(0) > size + EXPANSE):
            continue
        use = rng.choice(["homes", "flats", "works", "fields", "park"], p=use_shares)
        if use == "fields":
            parcels += _plan_fields(grid, block, rng)
        elif use == "park":
            parcels.append(Parcel(outline, "meadow", "meadow", rng.uniform(0.92, 1.05)))
            groves.append(block)
            if rng.random() < 0.5:
                ponds.append(_pond(grid, block, rng))
        else:
            plan = {"homes": plan_homes, "flats": plan_flats, "works": plan_works}[use]
            change: Change = "none"
            if not still and rng.random() < 0.25:  # a whole block is built up, or cleared
                change = "appears" if rng.random() < 0.7 else "vanishes"
            ground, houses = plan(grid, block, change, rng)
            parcels += ground
            buildings += houses
    return parcels, buildings, ponds, groves


def _plan_fields(grid: StreetGrid, block: Block, rng: np.random.Generator) -> list[Parcel]:
    """Strips of crops; most are something else at the other date."""
    cuts = np.linspace(*block.along, rng.integers(2, 5))
    fields = []
    for u0, u1 in pairwise(cuts.tolist()):
        strip = Block((u0 + 0.8, u1 - 0.8), block.across)
        before = str(rng.choice(CROPS))
        after = str(rng.choice(CROPS)) if rng.random() < 0.7 else before
        spacing, steps = rng.uniform(3.2, 5), 8
        if rng.random() < 0.5:
            rows = np.arange(block.across[0] + 1, block.across[1], spacing)
            u, v = np.broadcast_arrays(np.linspace(*strip.along, steps), rows[:, None])
        else:
            rows = np.arange(u0 + 1, u1, spacing)
            u, v = np.broadcast_arrays(rows[:, None], np.linspace(*block.across, steps))
        furrows = tuple(grid.place(u, v))
        fields.append(Parcel(strip.outline(grid), before, after, rng.uniform(0.9, 1.08), furrows))
    return fields


def _pond(grid: StreetGrid, block: Block, rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    a, b = rng.uniform(0, 6, 2)
    radius = 1 + 0.16 * np.sin(2 * angles + a) + 0.1 * np.sin(3 * angles + b)
    length, width = block.along[1] - block.along[0], block.across[1] - block.across[0]
    u = np.mean(block.along) + rng.uniform(-0.2, 0.2) * length + radius * np.cos(angles) * min(length, 110) * 0.22
    return grid.place(u, np.mean(block.across) + radius * np.sin(angles) * width * 0.26)
