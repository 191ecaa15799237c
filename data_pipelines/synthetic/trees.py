"""Trees, where there is room for them."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from data_pipelines.synthetic.ground import EXPANSE, occupy
from data_pipelines.synthetic.world import Block, Building, Parcel, StreetGrid, Tree


def plan_trees(
    grid: StreetGrid,
    groves: Sequence[Block],
    parcels: Sequence[Parcel],
    buildings: Sequence[Building],
    ponds: Sequence[np.ndarray],
    reserved: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Tree, ...]:
    """Trees in the open, groves in the parks, and trees on the ground of buildings that came later or went before."""
    span = reserved.shape[0]
    closed = reserved.copy()
    for parcel in parcels:
        if parcel.furrows or parcel.before not in ("lawn", "meadow", "dry grass", "soil", "stubble"):
            cv2.fillPoly(closed, [np.rint(parcel.outline + EXPANSE).astype(np.int32)], 1)
    for pond in ponds:
        cv2.fillPoly(closed, [np.rint(pond + EXPANSE).astype(np.int32)], 1)
    for building in buildings:
        occupy(closed, building.parts + building.extension)
    room = cv2.distanceTransform(1 - closed, cv2.DIST_L2, 3)

    spots = [rng.uniform(-EXPANSE, span - EXPANSE, (int(span**2 / 420), 2))]
    for block in groves:
        area = (block.along[1] - block.along[0]) * (block.across[1] - block.across[0])
        count = int(area / rng.uniform(40, 160))
        u, v = rng.uniform(*block.along, count), rng.uniform(*block.across, count)
        clumped = np.sin(u / 17 + 1) + np.sin(v / 13 + u / 29) > rng.uniform(-1.2, 0.4)
        spots.append(grid.place(u, v)[clumped])
    centres = np.concatenate(spots)
    cells = np.floor(centres + EXPANSE).astype(int)
    inside = np.all((cells >= EXPANSE // 2) & (cells < span - EXPANSE // 2), axis=1)
    centres, cells = centres[inside], cells[inside]
    radii = rng.gamma(6, 0.75, len(centres)) + 0.8
    radii = np.minimum(radii, 1.15 * room[cells[:, 1], cells[:, 0]])
    trees = [_tree(centre, radius, rng) for centre, radius in zip(centres, radii, strict=True) if radius > 2]
    for building in buildings:
        if building.change in ("appears", "vanishes") and rng.random() < 0.35:
            for _ in range(rng.integers(1, 5)):
                tree = _tree(building.parts[0].at(*rng.uniform(-0.7, 0.7, 2)), rng.uniform(2.5, 5), rng)
                trees.append(replace(tree, after=0.0) if building.change == "appears" else replace(tree, before=0.0))
    return tuple(trees)


def _tree(centre: np.ndarray, radius: float, rng: np.random.Generator) -> Tree:
    """A tree that grows between the dates; a few are felled or planted."""
    before, after = radius * rng.uniform(0.7, 1.0), radius
    fate = rng.random()
    if fate < 0.06:
        before = 0.0
    elif fate < 0.12:
        after = 0.0
    return Tree(centre, before, after, rng.random() < 0.25, rng.uniform(0.82, 1.15), rng.uniform(0, 6))
