"""What there is in a world, and where it stands at both dates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from data_pipelines.synthetic.paints import Paint

Date = Literal["before", "after"]
Roof = Literal["flat", "gabled", "hipped"]
Change = Literal["none", "appears", "vanishes", "grows"]


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
