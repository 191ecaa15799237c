"""Blocks that are built on, with homes, flats or works."""

import math

import numpy as np

from data_pipelines.synthetic.paints import FLAT_ROOFS, HALL_ROOFS, TILED_ROOFS, Paint
from data_pipelines.synthetic.world import Block, Building, Change, Parcel, Part, Roof, StreetGrid


def plan_homes(
    grid: StreetGrid, block: Block, change: Change, rng: np.random.Generator
) -> tuple[list[Parcel], list[Building]]:
    """Two rows of lots, back to back, with a house and a drive on most."""
    parcels, buildings = [], []
    covers = _site_covers(change, "lawn", rng)
    middle = sum(block.across) / 2
    style = TILED_ROOFS[rng.integers(len(TILED_ROOFS))]
    for front, back in (block.across[0], middle), (block.across[1], middle):
        inward = math.copysign(1, back - front)
        u = block.along[0]
        while u + 28 < block.along[1]:
            lot = min(rng.uniform(30, 44), block.along[1] - u)
            vacant = rng.random() < 0.12
            before, after = covers
            if change == "none" and rng.random() < 0.15:  # gardens dry out and are dug up, without any building
                before, after = (str(c) for c in rng.choice(["lawn", "dry grass", "soil", "meadow"], 2))
            ground = Block((u + 0.5, u + lot - 0.5), _span(front, back))
            parcels.append(Parcel(ground.outline(grid), before, after, rng.uniform(0.9, 1.1)))
            if not vacant:
                length, width = rng.uniform(18, min(27, lot - 8)), rng.uniform(13, 16.5)
                along, depth = u + lot - length / 2 - 2, rng.uniform(4, 8)
                across = front + inward * (depth + width / 2)
                paint = style if rng.random() < 0.5 else TILED_ROOFS[rng.integers(len(TILED_ROOFS))]
                buildings.append(_house(grid, (along, across), (length, width), inward, paint, change, rng))
                drive = Block((u + 1.5, u + 5.5), _span(front - inward * 2, front + inward * rng.uniform(12, 20)))
                built = ("concrete", "gravel", "yard")[rng.integers(3)]
                parcels.append(
                    Parcel(
                        drive.outline(grid),
                        built if change != "appears" else before,
                        built if change != "vanishes" else after,
                    )
                )
                if change == "none" and rng.random() < 0.12:
                    pool = Block((along - 4, along + 4), _span(back - inward * 8, back - inward * 3.5))
                    parcels.append(Parcel(pool.outline(grid), "pool", "pool"))
            u += lot
    return parcels, buildings


def plan_flats(
    grid: StreetGrid, block: Block, change: Change, rng: np.random.Generator
) -> tuple[list[Parcel], list[Building]]:
    """Slabs of flats in a common lawn, crosswise or along the street."""
    before, after = _site_covers(change, "lawn", rng)
    parcels = [Parcel(block.outline(grid), before, after, rng.uniform(0.92, 1.08))]
    buildings = []
    crosswise = rng.random() < 0.5
    depth = block.across[1] - block.across[0]
    paint = FLAT_ROOFS[rng.integers(len(FLAT_ROOFS))]
    u = block.along[0] + 4
    while True:
        length = min(depth - 10, rng.uniform(40, 56)) if crosswise else rng.uniform(36, 54)
        width = rng.uniform(13, 17)
        taken = width if crosswise else length
        if u + taken > block.along[1] - 4:
            break
        across = [sum(block.across) / 2] if crosswise or depth < 62 else [block.across[0] + 14, block.across[1] - 14]
        for v in across:
            heading = grid.heading_at(u + taken / 2) + (math.pi / 2 if crosswise else 0)
            body = Part(grid.place([u + taken / 2], [v])[0], length, width, heading)
            vents = tuple((p, rng.uniform(-0.3, 0.3), rng.uniform(2.5, 4)) for p in np.linspace(-0.75, 0.75, 4))
            buildings.append(Building((body,), "flat", paint, rng.uniform(11, 17), vents, change))
        path = Block((u + taken + 3, u + taken + 6), block.across)
        paved = "concrete"
        parcels.append(
            Parcel(
                path.outline(grid), before if change == "appears" else paved, after if change == "vanishes" else paved
            )
        )
        u += taken + rng.uniform(20, 30)
    return parcels, buildings


def plan_works(
    grid: StreetGrid, block: Block, change: Change, rng: np.random.Generator
) -> tuple[list[Parcel], list[Building]]:
    """Halls with wide roofs on paved yards."""
    before, after = _site_covers(change, ("yard", "concrete", "gravel")[rng.integers(3)], rng)
    parcels = [Parcel(block.outline(grid), before, after, rng.uniform(0.92, 1.08))]
    buildings = []
    depth = block.across[1] - block.across[0]
    u = block.along[0] + rng.uniform(5, 12)
    while True:
        length, width = rng.uniform(38, 74), rng.uniform(26, min(48, depth - 12))
        if u + length > block.along[1] - 4:
            break
        across = block.across[0] + 5 + width / 2 + rng.uniform(0, depth - width - 10)
        body = Part(grid.place([u + length / 2], [across])[0], length, width, grid.heading_at(u + length / 2))
        roof: Roof = "flat" if rng.random() < 0.7 else "gabled"
        count = rng.integers(3, 9)
        vents = tuple(
            zip(rng.uniform(-0.85, 0.85, count), rng.uniform(-0.8, 0.8, count), rng.uniform(2.2, 5, count), strict=True)
        )
        paint = HALL_ROOFS[rng.integers(len(HALL_ROOFS))]
        buildings.append(Building((body,), roof, paint, rng.uniform(7, 11), vents, change))
        u += length + rng.uniform(12, 30)
    return parcels, buildings


def _site_covers(change: Change, garden: str, rng: np.random.Generator) -> tuple[str, str]:
    """The covers before and after of land whose buildings change: open land where nothing stands yet, or any more."""
    open_land = str(rng.choice(["soil", "soil", "meadow", "dry grass", "stubble"]))
    return {"appears": (open_land, garden), "vanishes": (garden, open_land)}.get(change, (garden, garden))


def _span(one: float, other: float) -> tuple[float, float]:
    return min(one, other), max(one, other)


def _house(
    grid: StreetGrid,
    spot: tuple[float, float],
    plan: tuple[float, float],
    inward: float,
    paint: Paint,
    change: Change,
    rng: np.random.Generator,
) -> Building:
    """A house at a spot (along, across) with a plan (length, width); a wing, if any, is on the `inward` side."""
    (along, across), (length, width) = spot, plan
    heading = grid.heading_at(along) + rng.normal(0, 0.03)
    if rng.random() < 0.25 and length < 22:
        heading += math.pi / 2
    main = Part(grid.place([along], [across])[0], length, width, heading)
    parts = [main]
    if rng.random() < 0.35:
        side = inward if math.cos(heading - grid.heading) > 0 else -inward
        parts.append(wing(main, rng.choice([-1, 1]), side, rng.uniform(7, 10), rng.uniform(10, width)))
    roof: Roof = ("gabled", "gabled", "hipped", "flat")[rng.integers(4)]
    if roof == "flat":
        paint = FLAT_ROOFS[rng.integers(len(FLAT_ROOFS))]
    chimney = ((rng.uniform(-0.7, 0.7), rng.uniform(-0.4, 0.4), 1.8),)
    return Building(tuple(parts), roof, paint, rng.uniform(5, 8), chimney, change)


def wing(main: Part, end: float, side: float, length: float, width: float) -> Part:
    """A part across `main`, flush with one of its ends (-1, 1) or between (0), on one of its sides (-1, 1)."""
    ridge, slope = main.axes
    shift = ridge * (end * (main.length - width) / 2) + slope * (side * (main.width + length) / 2)
    return Part(main.centre + shift, length, width, main.heading + side * math.pi / 2, joined=True)
