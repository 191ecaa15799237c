"""Pairs of drawn aerial scenes in which buildings appear, vanish or grow, with the true change as label.

A scene is planned once, as a world of streets, parcels, water, buildings, trees and cars (`Scene`), and then seen twice
under different conditions (`Conditions`): another sun, another season, another camera. What differs beside the
buildings (cars, shadows, crops, crowns, colours, noise, misregistration) is there to mislead and is not labelled. One
pixel stands for about half a metre at every image size: a larger image shows more of the world, not larger houses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

SMALLEST = 64
"""The smallest image side in pixels on which a street with houses still fits."""

MARGIN = 4  # pixels drawn around the image, so that misregistration and blur have something to look at
SUPERSAMPLING = 2  # canvas pixels per image pixel, for smooth edges
FIXED_POINT = 4  # OpenCV draws at sub-pixel positions given in 1/16 pixel
UNIT = SUPERSAMPLING * 2**FIXED_POINT  # of those positions, per image pixel
EXPANSE = 40  # pixels around the image in which the world is planned, so that nothing begins at the image's edge
STILL_SHARE = 0.1  # of the scenes have no change at all
SMALLEST_CHANGE = 64  # labelled pixels that every other scene has at least

Date = Literal["before", "after"]
Roof = Literal["flat", "gabled", "hipped"]
Change = Literal["none", "appears", "vanishes", "grows"]


class Paint(NamedTuple):
    """A surface: its colour in 0..255 and its grain, the strength of the texture in percent of the brightness."""

    red: float
    green: float
    blue: float
    grain: float = 4.0


ASPHALT = Paint(104, 104, 107, 5)
MAIN_ASPHALT = Paint(88, 88, 92, 4)
PAVEMENT = Paint(158, 154, 146, 5)
ROAD_MARK = Paint(222, 220, 212, 2)
WATER = Paint(54, 78, 84, 3)
BANK = Paint(122, 118, 88, 12)
COVERS = {
    "lawn": Paint(100, 120, 68, 12),
    "meadow": Paint(88, 108, 60, 16),
    "dry grass": Paint(146, 138, 98, 12),
    "green crop": Paint(78, 112, 54, 8),
    "ripe crop": Paint(186, 166, 104, 7),
    "ploughed": Paint(124, 98, 76, 9),
    "stubble": Paint(166, 150, 114, 8),
    "soil": Paint(156, 130, 102, 11),
    "gravel": Paint(150, 146, 138, 8),
    "concrete": Paint(166, 163, 156, 5),
    "yard": Paint(122, 121, 120, 6),
    "pool": Paint(96, 172, 192, 4),
}
"""What the ground of a parcel can be covered with."""

GREEN_COVERS = frozenset({"lawn", "meadow", "green crop"})  # the seasons colour these
CROPS = ("green crop", "ripe crop", "ploughed", "stubble", "dry grass", "meadow")

TILED_ROOFS = (
    Paint(172, 92, 68, 7),
    Paint(150, 80, 62, 7),
    Paint(186, 116, 86, 7),
    Paint(128, 92, 74, 7),
    Paint(112, 113, 120, 6),
    Paint(84, 86, 94, 6),
    Paint(140, 134, 128, 6),
)
FLAT_ROOFS = (
    Paint(196, 194, 188, 4),
    Paint(216, 214, 208, 3),
    Paint(164, 162, 158, 5),
    Paint(118, 118, 122, 5),
    Paint(150, 172, 186, 3),
    Paint(104, 134, 158, 4),
    Paint(170, 128, 108, 5),
)
HALL_ROOFS = (  # none of the greys of a yard
    Paint(216, 214, 208, 3),
    Paint(204, 206, 206, 3),
    Paint(70, 72, 78, 4),
    Paint(150, 172, 186, 3),
    Paint(96, 128, 158, 4),
    Paint(176, 122, 100, 5),
)
CAR_PAINTS = (
    Paint(228, 228, 226, 0),
    Paint(186, 188, 190, 0),
    Paint(46, 47, 50, 0),
    Paint(90, 92, 96, 0),
    Paint(150, 44, 38, 0),
    Paint(52, 76, 124, 0),
)
BROADLEAF = Paint(74, 98, 50, 16)
CONIFER = Paint(50, 74, 48, 14)


class Season(NamedTuple):
    """The colours that vegetation goes towards, and how far, in 0..1."""

    leaf: Paint
    grass: Paint
    leaf_share: float
    grass_share: float


SEASONS = (
    Season(Paint(96, 132, 58), Paint(112, 142, 70), 0.7, 0.6),  # spring
    Season(Paint(66, 96, 48), Paint(98, 116, 66), 0.8, 0.3),  # early summer
    Season(Paint(78, 94, 50), Paint(148, 140, 92), 0.6, 0.7),  # late summer
    Season(Paint(158, 112, 54), Paint(126, 124, 76), 0.8, 0.5),  # autumn
    Season(Paint(112, 100, 84), Paint(136, 128, 98), 0.8, 0.7),  # end of winter
)


@dataclass(frozen=True)
class StreetGrid:
    """The street grid: coordinates along and across the streets, turned by `heading` and gently bent, in pixels."""

    centre: float
    heading: float
    bend: float
    wave: float
    phase: float

    def place(self, along: np.ndarray | Sequence[float], across: np.ndarray | Sequence[float]) -> np.ndarray:
        """Image positions (x, y), ... x 2, of points of the grid."""
        u = np.asarray(along, np.float64)
        v = np.asarray(across, np.float64) + self.bend * np.sin(u * self.wave + self.phase)
        cosine, sine = math.cos(self.heading), math.sin(self.heading)
        points = np.empty((*np.shape(u), 2))
        points[..., 0] = self.centre + u * cosine - v * sine
        points[..., 1] = self.centre + u * sine + v * cosine
        return points

    def heading_at(self, along: float) -> float:
        """The direction of the streets at one place, in radians."""
        return self.heading + math.atan(self.bend * self.wave * math.cos(along * self.wave + self.phase))


@dataclass(frozen=True)
class Block:
    """A piece of land between streets, in grid coordinates."""

    along: tuple[float, float]
    across: tuple[float, float]

    def outline(self, grid: StreetGrid) -> np.ndarray:
        """Its polygon in the image, N x 2; the long sides follow the bend of the streets."""
        steps = max(2, int((self.along[1] - self.along[0]) / 15))
        u = np.linspace(*self.along, steps)
        return grid.place(np.concatenate([u, u[::-1]]), np.repeat(self.across, steps))


@dataclass(frozen=True)
class Road:
    """A road: its centre line (N x 2), width, and painted marks (M x 2 points each)."""

    line: np.ndarray
    width: float
    main: bool
    marks: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Parcel:
    """Ground with one cover at each date, a tint (factor of brightness) and the lines that a plough or mower left."""

    outline: np.ndarray
    before: str
    after: str
    tint: float = 1.0
    furrows: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Part:
    """A rectangular piece of a building: its ridge runs along `heading`, from its start to its end.

    The roof of a `joined` part runs on at its start into the roof of the part that it leans on.
    """

    centre: np.ndarray
    length: float
    width: float
    heading: float
    joined: bool = False

    @cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors along and across the ridge."""
        cosine, sine = math.cos(self.heading), math.sin(self.heading)
        return np.array([cosine, sine]), np.array([-sine, cosine])

    def at(self, along: float, across: float) -> np.ndarray:
        """The point at a relative position; -1..1 spans the part in both directions."""
        ridge, slope = self.axes
        return self.centre + ridge * (along * self.length / 2) + slope * (across * self.width / 2)

    @cached_property
    def footprint(self) -> np.ndarray:
        """The four corners, 4 x 2."""
        return self.outline((-1, -1), (1, -1), (1, 1), (-1, 1))

    def outline(self, *corners: tuple[float, float]) -> np.ndarray:
        """A polygon of points at relative positions, N x 2; see `at`."""
        (cosine, sine), _ = self.axes
        along = np.array(corners) * (self.length / 2, self.width / 2)
        return self.centre + along @ np.array([[cosine, sine], [-sine, cosine]])


@dataclass(frozen=True)
class Building:
    """A building; `extension` stands only after a building grew, and is planned only for one that does."""

    parts: tuple[Part, ...]
    roof: Roof
    paint: Paint
    height: float
    fittings: tuple[tuple[float, float, float], ...] = ()
    """Chimneys, vents and skylights on the first part: relative position along and across, size in pixels."""
    change: Change = "none"
    extension: tuple[Part, ...] = ()

    def standing(self, date: Date) -> tuple[Part, ...]:
        """The parts that stand at a date."""
        if self.change == ("appears" if date == "before" else "vanishes"):
            return ()
        return self.parts + (self.extension if date == "after" else ())


@dataclass(frozen=True)
class Tree:
    """A tree crown; a radius of 0 means that the tree is not there at that date."""

    centre: np.ndarray
    before: float
    after: float
    conifer: bool
    tint: float
    turn: float


@dataclass(frozen=True)
class Car:
    """A car or lorry at one date."""

    body: Part
    paint: Paint


@dataclass(frozen=True)
class Scene:
    """The world of one pair, in pixels of the image after: what stands where at both dates."""

    size: int
    parcels: tuple[Parcel, ...]
    roads: tuple[Road, ...]
    rivers: tuple[tuple[np.ndarray, float], ...]
    ponds: tuple[np.ndarray, ...]
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    cars_before: tuple[Car, ...]
    cars_after: tuple[Car, ...]
    grain: np.ndarray
    """The texture of all surfaces, float32, mean 0 and deviation about 1, of the image with its margin."""


@dataclass(frozen=True)
class Conditions:
    """How the world is seen at one date."""

    date: Date
    sun: np.ndarray
    """Unit vector on the ground towards the sun."""
    shadow: float
    """Length of a shadow per height."""
    ambient: np.ndarray
    """Light left in the shadow, per channel, 0..1."""
    season: Season
    leaf_tint: float
    tones: np.ndarray
    """The camera's response, 256 x 1 x 3 uint8."""
    clouds: np.ndarray
    """Uneven illumination, a coarse grid of factors."""
    blur: float
    noise: float
    offset: tuple[float, float]
    """Misregistration (x, y) in pixels; its length is at most 2."""


# --- planning the world ---


def plan_scene(size: int, rng: np.random.Generator) -> Scene:
    """Plan a world for an image of `size` x `size` pixels.

    About one scene in ten has no change; every other has at least 64 changed pixels. ValueError for a size below 64.
    """
    if size < SMALLEST:
        raise ValueError(f"size {size}: scenes need at least {SMALLEST} x {SMALLEST} pixels")
    still = rng.random() < STILL_SHARE
    while True:  # a small window may hold no house; look at another part of the world then
        scene = _plan_world(size, rng, still)
        if still or np.count_nonzero(change_mask(scene)) >= SMALLEST_CHANGE:
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
    reserved = _reserved_ground(size, rivers, roads)

    blocks = [
        Block((u0 + 7, u1 - 7), (v0 + w0 / 2 + 2, v1 - w1 / 2 - 2))
        for (v0, w0), (v1, w1) in pairwise(zip(streets, widths, strict=True))
        for u0, u1 in pairwise(crossings)
    ]
    parcels, buildings, ponds, groves = _plan_land(grid, blocks, size, still, rng)
    buildings = [b for b in buildings if _may_stand(b, size, reserved)]
    if not still:
        buildings = _plan_changes(buildings, size, reserved, rng)
    return Scene(
        size=size,
        parcels=tuple(parcels),
        roads=tuple(roads),
        rivers=rivers,
        ponds=tuple(ponds),
        buildings=tuple(buildings),
        trees=_plan_trees(grid, groves, parcels, buildings, ponds, reserved, rng),
        cars_before=_plan_cars(grid, reach, size, streets, widths, rng),
        cars_after=_plan_cars(grid, reach, size, streets, widths, rng),
        grain=_grain(size + 2 * MARGIN, rng),
    )


def _plan_land(
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
            plan = {"homes": _plan_homes, "flats": _plan_flats, "works": _plan_works}[use]
            change: Change = "none"
            if not still and rng.random() < 0.25:  # a whole block is built up, or cleared
                change = "appears" if rng.random() < 0.7 else "vanishes"
            ground, houses = plan(grid, block, change, rng)
            parcels += ground
            buildings += houses
    return parcels, buildings, ponds, groves


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


def _reserved_ground(size: int, rivers: Sequence[tuple[np.ndarray, float]], roads: Sequence[Road]) -> np.ndarray:
    """Where rivers and roads leave no room to build or grow, uint8 0/1 over the image and the expanse around it."""
    reserved = np.zeros((size + 2 * EXPANSE,) * 2, np.uint8)
    strips = [(line, width + 12) for line, width in rivers] + [(road.line, road.width + 4) for road in roads]
    for line, width in strips:
        cv2.polylines(reserved, [np.rint(line + EXPANSE).astype(np.int32)], False, 1, round(width))
    return reserved


def _pond(grid: StreetGrid, block: Block, rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    a, b = rng.uniform(0, 6, 2)
    radius = 1 + 0.16 * np.sin(2 * angles + a) + 0.1 * np.sin(3 * angles + b)
    length, width = block.along[1] - block.along[0], block.across[1] - block.across[0]
    u = np.mean(block.along) + rng.uniform(-0.2, 0.2) * length + radius * np.cos(angles) * min(length, 110) * 0.22
    return grid.place(u, np.mean(block.across) + radius * np.sin(angles) * width * 0.26)


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


def _site_covers(change: Change, garden: str, rng: np.random.Generator) -> tuple[str, str]:
    """The covers before and after of land whose buildings change: open land where nothing stands yet, or any more."""
    open_land = str(rng.choice(["soil", "soil", "meadow", "dry grass", "stubble"]))
    return {"appears": (open_land, garden), "vanishes": (garden, open_land)}.get(change, (garden, garden))


def _plan_homes(
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
        parts.append(_wing(main, rng.choice([-1, 1]), side, rng.uniform(7, 10), rng.uniform(10, width)))
    roof: Roof = ("gabled", "gabled", "hipped", "flat")[rng.integers(4)]
    if roof == "flat":
        paint = FLAT_ROOFS[rng.integers(len(FLAT_ROOFS))]
    chimney = ((rng.uniform(-0.7, 0.7), rng.uniform(-0.4, 0.4), 1.8),)
    return Building(tuple(parts), roof, paint, rng.uniform(5, 8), chimney, change)


def _wing(main: Part, end: float, side: float, length: float, width: float) -> Part:
    """A part across `main`, flush with one of its ends (-1, 1) or between (0), on one of its sides (-1, 1)."""
    ridge, slope = main.axes
    shift = ridge * (end * (main.length - width) / 2) + slope * (side * (main.width + length) / 2)
    return Part(main.centre + shift, length, width, main.heading + side * math.pi / 2, joined=True)


def _lengthening(main: Part, end: float, length: float) -> Part:
    """A part that carries `main` on at one of its ends (-1, 1)."""
    heading = main.heading if end > 0 else main.heading + math.pi
    return Part(main.at(end, 0) + main.axes[0] * (end * length / 2), length, main.width, heading, joined=True)


def _plan_flats(
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


def _plan_works(
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


def _may_stand(building: Building, size: int, reserved: np.ndarray) -> bool:
    """Free ground in view, and not a changed building of which the image shows a sliver only."""
    if not any(_in_view(part.centre, size, EXPANSE) for part in building.parts):
        return False
    if building.change != "none" and not _well_inside(building, size):
        return False
    return not any(_touches(part, reserved) for part in building.parts)


def _in_view(point: np.ndarray, size: int, beyond: float) -> bool:
    """Whether a point lies in the image or at most so many pixels beyond its edges."""
    x, y = point.tolist()
    return -beyond < min(x, y) and max(x, y) < size + beyond


def _well_inside(building: Building, size: int) -> bool:
    return all(_in_view(part.centre, size, -6) for part in building.parts)


def _touches(part: Part, raster: np.ndarray) -> bool:
    corners = np.rint(part.footprint + EXPANSE).astype(np.int32)
    x0, y0 = np.maximum(corners.min(0), 0)
    x1, y1 = corners.max(0) + 1
    window = raster[y0:y1, x0:x1]
    if not window.any():
        return False
    covered = np.zeros_like(window)
    cv2.fillConvexPoly(covered, corners - (x0, y0), 1)
    return bool((window & covered).any())


def _plan_changes(
    buildings: list[Building], size: int, reserved: np.ndarray, rng: np.random.Generator
) -> list[Building]:
    """Let single buildings appear, vanish and grow, beside the blocks that change as a whole."""
    rate = rng.uniform(0.1, 0.45)
    occupied = reserved.copy()
    for building in buildings:
        _occupy(occupied, building.parts)
    planned = []
    for building in buildings:
        if building.change == "none" and rng.random() < rate and _well_inside(building, size):
            kind: Change = ("appears", "appears", "vanishes", "grows", "grows")[rng.integers(5)]
            extension = _extension(building, size, occupied, rng) if kind == "grows" else ()
            if kind != "grows" or extension:
                building = replace(building, change=kind, extension=extension)
                _occupy(occupied, extension)
        planned.append(building)
    return planned


def _occupy(raster: np.ndarray, parts: Sequence[Part]) -> None:
    for part in parts:
        cv2.fillConvexPoly(raster, np.rint(part.footprint + EXPANSE).astype(np.int32), 1)


def _extension(building: Building, size: int, occupied: np.ndarray, rng: np.random.Generator) -> tuple[Part, ...]:
    """A new part on free ground beside the first part, or nothing where there is no room."""
    main = building.parts[0]
    width = min(main.width, rng.uniform(12, 16.5) if main.width < 20 else rng.uniform(16, 26))
    length = rng.uniform(11, 16) if main.width < 20 else rng.uniform(14, 22)
    ways = [_wing(main, rng.uniform(-1, 1), side, length, width) for side in (-1, 1)]
    ways += [_lengthening(main, end, length) for end in (-1, 1)]
    for i in rng.permutation(4):
        room = replace(ways[i], centre=ways[i].at(4 / length, 0))  # leaves out the seam with the main part
        if _in_view(ways[i].centre, size, -8) and not _touches(room, occupied):
            return (ways[i],)
    return ()


def _plan_trees(
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
        _occupy(closed, building.parts + building.extension)
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


def _plan_cars(
    grid: StreetGrid,
    reach: float,
    size: int,
    streets: Sequence[float],
    widths: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Car, ...]:
    """The traffic of one date: cars in both lanes and at the kerb, a lorry now and then."""
    cars = []
    for across, width in zip(streets, widths, strict=True):
        u = -reach + rng.exponential(40)
        while u < reach:
            lorry = rng.random() < 0.08
            lane = rng.choice([-1, 1]) * (width / 4 if rng.random() < 0.6 or width > 12 else width / 2 - 1.6)
            length, breadth = (rng.uniform(13, 17), 4.6) if lorry else (rng.uniform(7, 8.6), 3.6)
            paint = CAR_PAINTS[0] if lorry else CAR_PAINTS[rng.integers(len(CAR_PAINTS))]
            place = grid.place([u], [across + lane])[0]
            if _in_view(place, size, 10):
                cars.append(Car(Part(place, length, breadth, grid.heading_at(u) + (math.pi if lane > 0 else 0)), paint))
            u += length + 4 + rng.exponential(45)
    return tuple(cars)


def _grain(span: int, rng: np.random.Generator) -> np.ndarray:
    """Texture at three scales: single pixels, tufts, patches."""
    grain = 0.55 * rng.standard_normal((span, span), np.float32)
    for scale, weight in ((3, 0.7), (14, 0.6)):
        coarse = rng.standard_normal((span // scale + 2,) * 2, np.float32)
        grain += weight * cv2.resize(coarse, (span, span), interpolation=cv2.INTER_CUBIC)
    return grain


# --- seeing the world ---


def plan_conditions(date: Date, rng: np.random.Generator) -> Conditions:
    """Draw the sun, the season and the camera of one date; only the image before is misregistered."""
    azimuth = rng.uniform(0, 2 * math.pi)
    slip, direction = rng.uniform(0.3, 2.0), rng.uniform(0, 2 * math.pi)
    shade = rng.uniform(0.36, 0.52)
    return Conditions(
        date=date,
        sun=np.array([math.cos(azimuth), math.sin(azimuth)]),
        shadow=rng.uniform(0.5, 1.25),
        ambient=np.array([shade * 0.92, shade, shade * 1.12], np.float32),
        season=SEASONS[rng.integers(len(SEASONS))],
        leaf_tint=rng.uniform(0.85, 1.1),
        tones=_tones(rng),
        clouds=rng.uniform(0.9, 1.1, (4, 4)).astype(np.float32),
        blur=rng.uniform(0.3, 0.75),
        noise=rng.uniform(1.5, 4.5),
        offset=(slip * math.cos(direction), slip * math.sin(direction)) if date == "before" else (0.0, 0.0),
    )


def _tones(rng: np.random.Generator) -> np.ndarray:
    """Exposure, white balance, contrast and haze as one curve a channel."""
    level = np.linspace(0, 1, 256)[:, None, None]
    warmth = rng.normal(0, 0.035)
    gains = rng.uniform(0.9, 1.16) * np.array([1 + warmth, 1 + rng.normal(0, 0.015), 1 - warmth])
    haze = rng.uniform(0, 0.16)
    seen = np.clip(level * gains, 0, 1) ** rng.uniform(0.85, 1.2)
    return np.rint(255 * ((1 - haze) * seen + haze * np.array([0.74, 0.79, 0.86]))).astype(np.uint8)


class _Canvas:
    """The image and its margin, drawn at twice its size: surfaces (RGB and grain) and the sunlight on them."""

    def __init__(self, size: int):
        span = SUPERSAMPLING * (size + 2 * MARGIN)
        self.surface = np.zeros((span, span, 4), np.uint8)
        self.light = np.full((span, span), 255, np.uint8)

    @staticmethod
    def _fixed(points: np.ndarray) -> np.ndarray:
        """Positions as OpenCV takes them: fixed point, whole numbers at the centres of the pixels."""
        return np.rint(points * UNIT + (MARGIN * UNIT - UNIT / SUPERSAMPLING / 2)).astype(np.int32)

    def fill(self, polygon: np.ndarray, paint: Sequence[float]) -> None:
        cv2.fillPoly(self.surface, [self._fixed(polygon)], _colour(paint), shift=FIXED_POINT)

    def stroke(self, lines: Sequence[np.ndarray], width: float, paint: Sequence[float]) -> None:
        thickness = max(1, round(width * SUPERSAMPLING))
        fixed = [self._fixed(line) for line in lines]
        cv2.polylines(self.surface, fixed, False, _colour(paint), thickness, shift=FIXED_POINT)

    def discs(self, centres: np.ndarray, radii: np.ndarray, paints: np.ndarray) -> None:
        """Discs one over the other: centres N x 2, radii N, paints N x 4."""
        for centre, radius, paint in zip(*self._round(centres, radii), np.clip(paints, 0, 255).tolist(), strict=True):
            cv2.circle(self.surface, centre, radius, paint, -1, shift=FIXED_POINT)

    def light_discs(self, centres: np.ndarray, radii: np.ndarray, light: int) -> None:
        for centre, radius in zip(*self._round(centres, radii), strict=True):
            cv2.circle(self.light, centre, radius, light, -1, shift=FIXED_POINT)

    def light_fill(self, polygon: np.ndarray, light: int) -> None:
        cv2.fillPoly(self.light, [self._fixed(polygon)], light, shift=FIXED_POINT)

    def cast(self, polygon: np.ndarray, throw: np.ndarray) -> None:
        """The shadow of a convex body whose top is `polygon`, thrown by a vector."""
        swept = self._fixed(np.concatenate([polygon, polygon + throw]))
        cv2.fillConvexPoly(self.light, cv2.convexHull(swept), 0, shift=FIXED_POINT)

    def _round(self, centres: np.ndarray, radii: np.ndarray) -> tuple[list[list[int]], list[int]]:
        return self._fixed(centres).tolist(), np.rint(radii * UNIT).astype(int).tolist()


def _colour(paint: Sequence[float]) -> tuple[float, ...]:
    return tuple(min(max(float(value), 0.0), 255.0) for value in paint)


def _lit(paint: Sequence[float], factor: float) -> Paint:
    return Paint(paint[0] * factor, paint[1] * factor, paint[2] * factor, paint[3])


def _mixed(paint: Paint, other: Paint, share: float) -> Paint:
    keep = 1 - share
    return Paint(
        keep * paint.red + share * other.red,
        keep * paint.green + share * other.green,
        keep * paint.blue + share * other.blue,
        paint.grain,
    )


def render(scene: Scene, seen: Conditions, rng: np.random.Generator) -> np.ndarray:
    """The image of a scene at one date, size x size x 3 uint8 RGB; `rng` draws the noise of the camera."""
    canvas = _Canvas(scene.size)
    _draw_ground(canvas, scene, seen)
    _draw_water(canvas, scene)
    _draw_roads(canvas, scene.roads)
    for car in scene.cars_before if seen.date == "before" else scene.cars_after:
        _draw_car(canvas, car, seen)
    _draw_trees(canvas, scene.trees, seen)
    for building in scene.buildings:
        for part in building.standing(seen.date):
            canvas.cast(part.footprint, -seen.sun * (building.height * seen.shadow))
    for building in scene.buildings:
        _draw_building(canvas, building, seen)
    return _expose(canvas, scene.grain, seen, rng)


def _draw_ground(canvas: _Canvas, scene: Scene, seen: Conditions) -> None:
    whole = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 2.0 * scene.size
    canvas.fill(whole, _cover_paint("meadow", 1.0, seen))
    for parcel in scene.parcels:
        cover = parcel.before if seen.date == "before" else parcel.after
        paint = _cover_paint(cover, parcel.tint, seen)
        canvas.fill(parcel.outline, paint)
        if parcel.furrows:
            canvas.stroke(parcel.furrows, 1.0, _lit(paint, 0.91))


def _cover_paint(cover: str, tint: float, seen: Conditions) -> Paint:
    paint = _lit(COVERS[cover], tint)
    return _mixed(paint, seen.season.grass, seen.season.grass_share) if cover in GREEN_COVERS else paint


def _draw_water(canvas: _Canvas, scene: Scene) -> None:
    for line, width in scene.rivers:
        canvas.stroke([line], width + 7, BANK)
        canvas.stroke([line], width, WATER)
        canvas.stroke([line], width * 0.5, _lit(WATER, 0.92))
    for pond in scene.ponds:
        canvas.stroke([np.concatenate([pond, pond[:1]])], 4, BANK)
        canvas.fill(pond, WATER)


def _draw_roads(canvas: _Canvas, roads: Sequence[Road]) -> None:
    for road in roads:
        canvas.stroke([road.line], road.width + 4, PAVEMENT)
    for road in sorted(roads, key=lambda road: road.main):
        canvas.stroke([road.line], road.width, MAIN_ASPHALT if road.main else ASPHALT)
    for road in roads:
        if road.marks:
            canvas.stroke(road.marks, 0.5, ROAD_MARK)


def _draw_car(canvas: _Canvas, car: Car, seen: Conditions) -> None:
    body = car.body
    canvas.cast(body.footprint, -seen.sun * (2.2 * seen.shadow))
    canvas.light_fill(body.footprint, 255)
    canvas.fill(body.footprint, car.paint)
    canvas.fill(body.outline((0.2, -0.8), (0.45, -0.8), (0.45, 0.8), (0.2, 0.8)), _lit(car.paint, 0.45))


def _draw_trees(canvas: _Canvas, trees: Sequence[Tree], seen: Conditions) -> None:
    """Shadows first: no crown darkens its neighbour. A crown is a ring of leaf clumps, bright towards the sun."""
    there = [tree for tree in trees if (tree.before if seen.date == "before" else tree.after) > 0]
    if not there:
        return
    centres = np.stack([tree.centre for tree in there])
    radii = np.array([tree.before if seen.date == "before" else tree.after for tree in there])
    broadleaf = _mixed(BROADLEAF, seen.season.leaf, seen.season.leaf_share)
    leaves = np.array([_lit(CONIFER if tree.conifer else broadleaf, tree.tint * seen.leaf_tint) for tree in there])
    canvas.light_discs(centres - seen.sun * (1.1 * seen.shadow * radii[:, None]), radii * 0.95, 0)
    canvas.light_discs(centres, radii * 0.9, 255)

    step = np.arange(6)
    angles = np.array([tree.turn for tree in there])[:, None] + step * 2.4  # the golden angle: clumps do not line up
    outward = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    clumps = centres[:, None] + outward * (radii[:, None] * (0.62 - 0.07 * step))[..., None]
    glow = 0.92 + 0.24 * (outward @ seen.sun)
    spots = np.concatenate([centres[:, None], clumps], axis=1)
    sizes = radii[:, None] * np.array([0.85] + [0.42] * 6)
    brightness = np.concatenate([np.full((len(there), 1), 0.72), glow], axis=1)
    paints = np.repeat(leaves[:, None], 7, axis=1)
    paints[..., :3] *= brightness[..., None]
    canvas.discs(spots.reshape(-1, 2), sizes.ravel(), paints.reshape(-1, 4))


def _draw_building(canvas: _Canvas, building: Building, seen: Conditions) -> None:
    parts = building.standing(seen.date)
    for part in parts:
        canvas.light_fill(part.footprint, 255)
        if building.roof == "flat":
            _draw_flat_roof(canvas, part, building.paint)
        else:
            _draw_pitched_roof(canvas, part, building.paint, building.roof == "hipped", seen.sun)
    if parts:
        for along, across, size in building.fittings:
            _draw_fitting(canvas, Part(parts[0].at(along, across), size, size, parts[0].heading), seen)


def _draw_flat_roof(canvas: _Canvas, part: Part, paint: Paint) -> None:
    """The parapet is a bright rim around the roof."""
    canvas.fill(part.footprint, _lit(paint, 1.12))
    inner = replace(part, length=part.length - 2, width=part.width - 2)
    canvas.fill(inner.footprint, paint)


def _draw_pitched_roof(canvas: _Canvas, part: Part, paint: Paint, hipped: bool, sun: np.ndarray) -> None:
    """Faces shaded by their slope towards the sun; a joined part's ridge runs into its neighbour's roof."""
    ridge, slope = part.axes
    inset = part.width / part.length if hipped else 0.0  # hips fall at the pitch of the other faces
    start = (-1 - part.width / part.length if part.joined else -1 + inset, 0.0)
    end = (1 - inset, 0.0)
    for side in (-1, 1):
        canvas.fill(part.outline(start, end, (1, side), (-1, side)), _lit(paint, 1 + 0.3 * side * float(slope @ sun)))
    if hipped:
        canvas.fill(part.outline(end, (1, 1), (1, -1)), _lit(paint, 1 + 0.3 * float(ridge @ sun)))
        if not part.joined:
            canvas.fill(part.outline(start, (-1, 1), (-1, -1)), _lit(paint, 1 - 0.3 * float(ridge @ sun)))
    canvas.stroke([part.outline(start, end)], 0.5, _lit(paint, 1.25))


def _draw_fitting(canvas: _Canvas, box: Part, seen: Conditions) -> None:
    canvas.cast(box.footprint, -seen.sun * (1.6 * seen.shadow))
    canvas.light_fill(box.footprint, 255)
    canvas.fill(box.footprint, Paint(178, 176, 172, 2))


def _expose(canvas: _Canvas, grain: np.ndarray, seen: Conditions, rng: np.random.Generator) -> np.ndarray:
    """Light, texture, misregistration, blur, the camera's tones and its noise."""
    span = grain.shape[0]
    *colours, roughness = cv2.split(cv2.resize(canvas.surface, (span, span), interpolation=cv2.INTER_AREA))
    light = cv2.resize(canvas.light, (span, span), interpolation=cv2.INTER_AREA) * np.float32(1 / 255)
    texture = 1 + roughness * grain * np.float32(1 / 100)
    texture *= cv2.resize(seen.clouds, (span, span), interpolation=cv2.INTER_CUBIC)
    lit = [
        colour * (texture * (ambient + (1 - ambient) * light))
        for colour, ambient in zip(colours, seen.ambient, strict=True)
    ]
    image = cv2.merge(lit)
    image = cv2.GaussianBlur(image, (0, 0), seen.blur)
    dx, dy = seen.offset
    size = span - 2 * MARGIN
    shift = np.array([[1, 0, dx - MARGIN], [0, 1, dy - MARGIN]])
    image = cv2.warpAffine(image, shift, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    tones = cv2.LUT(np.clip(np.rint(image), 0, 255).astype(np.uint8), seen.tones)
    noisy = tones + seen.noise * rng.standard_normal(tones.shape, np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


# --- the truth ---


def footprints(scene: Scene, date: Date) -> np.ndarray:
    """Where roofs are at a date, size x size uint8 0/1, in the frame of the image after."""
    canvas = _Canvas(scene.size)
    canvas.light[:] = 0
    for building in scene.buildings:
        for part in building.standing(date):
            canvas.light_fill(part.footprint, 255)
    span = scene.size + 2 * MARGIN
    share = cv2.resize(canvas.light, (span, span), interpolation=cv2.INTER_AREA)
    return (share[MARGIN:-MARGIN, MARGIN:-MARGIN] > 127).astype(np.uint8)


def change_mask(scene: Scene) -> np.ndarray:
    """The true change, size x size uint8: 1 where a roof stands at one date only, else 0; shadows do not count."""
    return footprints(scene, "before") ^ footprints(scene, "after")


def draw_scene(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one pair: before and after (size x size x 3 uint8 RGB) and mask (size x size uint8, 1 = change, 0 = none).

    The mask lies on the image after; the image before is moved against it by up to 2 pixels in a direction of its own.
    ValueError for a size below 64.
    """
    scene = plan_scene(size, rng)
    before = render(scene, plan_conditions("before", rng), rng)
    after = render(scene, plan_conditions("after", rng), rng)
    return before, after, change_mask(scene)


# --- the data set ---


def write_scenes(
    out: Path, pairs: int, size: int, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a data set of drawn pairs: OUT/{A,B,label}/NAME.png and OUT/list/{train,val}.txt.

    A and B are RGB images of `size` x `size` pixels before and after; labels have one channel, 0 or 255 (change), and
    lie on the image after. Every fifth pair, the second first, is for validation; a single pair is for training and
    there is no val.txt. Pair i is drawn from (seed, i) alone: the same seed gives the same bytes, however many pairs
    are drawn.
    `on_progress(done, pairs)` is called after every pair.

    FileExistsError where OUT is a file or holds anything; ValueError for fewer than 1 pair, a size below 64, or a
    negative seed.
    """
    if pairs < 1:
        raise ValueError(f"pairs {pairs}: a data set needs at least 1 pair")
    if size < SMALLEST:
        raise ValueError(f"size {size}: scenes need at least {SMALLEST} x {SMALLEST} pixels")
    if seed < 0:
        raise ValueError(f"seed {seed}: seeds are whole numbers from 0 up")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: name a new or an empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} already holds files: name a new or an empty folder, or delete it first")
    for folder in ("A", "B", "label", "list"):
        (out / folder).mkdir(parents=True)
    names = [f"scene_{index:04d}" for index in range(pairs)]
    for index, name in enumerate(names):
        before, after, mask = draw_scene(size, np.random.default_rng((seed, index)))
        _write_png(out / "A" / f"{name}.png", cv2.cvtColor(before, cv2.COLOR_RGB2BGR))
        _write_png(out / "B" / f"{name}.png", cv2.cvtColor(after, cv2.COLOR_RGB2BGR))
        _write_png(out / "label" / f"{name}.png", mask * 255)
        if on_progress is not None:
            on_progress(index + 1, pairs)
    validation = names[1::5]
    _write_list(out / "list" / "train.txt", [name for name in names if name not in validation])
    if validation:
        _write_list(out / "list" / "val.txt", validation)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    _write_whole(path, cv2.imencode(".png", pixels)[1].tobytes())


def _write_list(path: Path, names: Sequence[str]) -> None:
    _write_whole(path, "".join(f"{name}\n" for name in names).encode())


def _write_whole(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)
