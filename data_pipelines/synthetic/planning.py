"""Plan a world: streets and rivers, and what lies between them."""

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from data_pipelines.synthetic.canvas import MARGIN
from data_pipelines.synthetic.changes import may_stand, plan_changes
from data_pipelines.synthetic.ground import EXPANSE, reserved_ground
from data_pipelines.synthetic.land import plan_land
from data_pipelines.synthetic.traffic import plan_cars
from data_pipelines.synthetic.trees import plan_trees
from data_pipelines.synthetic.truth import change_mask
from data_pipelines.synthetic.world import Block, Road, Scene, StreetGrid

SMALLEST = 64
"""The smallest image side in pixels on which a street with houses still fits."""

_STILL_SHARE = 0.1  # of the scenes have no change at all
_SMALLEST_CHANGE = 64  # labelled pixels that every other scene has at least


def plan_scene(size: int, rng: np.random.Generator) -> Scene:
    """Plan a world for an image of `size` x `size` pixels.

    About one scene in ten has no change; every other has at least 64 changed pixels. ValueError for a size below 64.
    """
    if size < SMALLEST:
        raise ValueError(f"size {size}: scenes need at least {SMALLEST} x {SMALLEST} pixels")
    still = rng.random() < _STILL_SHARE
    while True:  # a small window may hold no house; look at another part of the world then
        scene = _plan_world(size, rng, still)
        if still or np.count_nonzero(change_mask(scene)) >= _SMALLEST_CHANGE:
            return scene


def _plan_world(size: int, rng: np.random.Generator, still: bool) -> Scene:
    grid = StreetGrid(
        centre=size / 2,
        heading=rng.uniform(0, math.pi),
        bend=rng.uniform(0, 16),
        wave=2 * math.pi / rng.uniform(260, 520),
        phase=rng.uniform(0, 2 * math.pi),
    )
    reach = size * 0.71 + EXPANSE
    streets = _positions(rng, reach, 84, 118)
    crossings = _positions(rng, reach, 110, 210)
    widths = [16.0 if rng.random() < 0.25 else rng.uniform(9, 11.5) for _ in streets]
    roads = [_street(grid, reach, v, w, crossings) for v, w in zip(streets, widths, strict=True)]
    roads += [Road(grid.place([u, u], [-reach, reach]), 10.0, False, ()) for u in crossings]
    rivers = _plan_rivers(size, rng)
    reserved = reserved_ground(size, rivers, roads)

    blocks = [
        Block((u0 + 7, u1 - 7), (v0 + w0 / 2 + 2, v1 - w1 / 2 - 2))
        for (v0, w0), (v1, w1) in pairwise(zip(streets, widths, strict=True))
        for u0, u1 in pairwise(crossings)
    ]
    parcels, buildings, ponds, groves = plan_land(grid, blocks, size, still, rng)
    buildings = [b for b in buildings if may_stand(b, size, reserved)]
    if not still:
        buildings = plan_changes(buildings, size, reserved, rng)
    return Scene(
        size=size,
        parcels=tuple(parcels),
        roads=tuple(roads),
        rivers=rivers,
        ponds=tuple(ponds),
        buildings=tuple(buildings),
        trees=plan_trees(grid, groves, parcels, buildings, ponds, reserved, rng),
        cars_before=plan_cars(grid, reach, size, streets, widths, rng),
        cars_after=plan_cars(grid, reach, size, streets, widths, rng),
        grain=_grain(size + 2 * MARGIN, rng),
    )


def _positions(rng: np.random.Generator, reach: float, least: float, most: float) -> list[float]:
    """Where parallel roads lie, from beyond one edge of the world to beyond the other."""
    positions = [-reach - rng.uniform(0, most)]
    while positions[-1] < reach:
        positions.append(positions[-1] + rng.uniform(least, most))
    return positions


def _street(grid: StreetGrid, reach: float, across: float, width: float, crossings: Sequence[float]) -> Road:
    u = np.arange(-reach - 20, reach + 20, 10.0)
    main = width > 12
    rows = [(0.0, 5.0)] if not main else [(-width / 2 + 1.5, 12.0), (0.0, 6.0), (width / 2 - 1.5, 12.0)]
    starts = np.arange(-reach, reach, 12.0)
    starts = starts[np.all(np.abs(starts[:, None] + 4 - np.asarray(crossings)) > 12, axis=1)]
    ends = np.array([0.0, 1.0])
    marks = [grid.place(starts[:, None] + ends * dash, np.full((len(starts), 2), across + v)) for v, dash in rows]
    return Road(grid.place(u, np.full_like(u, across)), width, main, tuple(np.concatenate(marks)))


def _plan_rivers(size: int, rng: np.random.Generator) -> tuple[tuple[np.ndarray, float], ...]:
    if rng.random() > 0.3:
        return ()
    course = StreetGrid(
        size / 2, rng.uniform(0, math.pi), rng.uniform(10, 30), 2 * math.pi / rng.uniform(180, 360), rng.uniform(0, 6)
    )
    u = np.arange(-size - EXPANSE, size + EXPANSE, 8.0)
    line = course.place(u, np.full_like(u, rng.uniform(-0.45, 0.45) * size))
    return ((line, rng.uniform(16, 36)),)


def _grain(span: int, rng: np.random.Generator) -> np.ndarray:
    """Texture at three scales: single pixels, tufts, patches."""
    grain = 0.55 * rng.standard_normal((span, span), np.float32)
    for scale, weight in ((3, 0.7), (14, 0.6)):
        coarse = rng.standard_normal((span // scale + 2,) * 2, np.float32)
        grain += weight * cv2.resize(coarse, (span, span), interpolation=cv2.INTER_CUBIC)
    return grain
