"""The outlines of regions: the corners of their pixels, gathered slab by slab, and the rings that the corners make."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from segdiff.inference.runs import Components, Joined, Spans, join


@dataclass(frozen=True)
class Corners:
    """N corners of outlines: arrays of N, int64.

    `region` and `part` are numbers of what the corner belongs to, a part being pixels of a region that are joined by
    edges. `x` and `y` are doubled, which leaves a bit to tell apart the two corners at a point where two pixels of a
    part touch by a corner only: x is odd at the end of a run, y is odd above a run. The point is (x >> 1, y >> 1),
    pixel (row, column) covering row..row + 1 and column..column + 1.
    """

    region: np.ndarray
    part: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def take(self, index: np.ndarray) -> "Corners":
        """Those at the indices."""
        return Corners(self.region[index], self.part[index], self.x[index], self.y[index])


@dataclass
class _Outline:
    """What is held of an open region: arrays N x 3 of (part, x, y), and L x 2 of the numbers of one part."""

    corners: list[np.ndarray] = field(default_factory=list)
    links: list[np.ndarray] = field(default_factory=list)

    def absorb(self, other: "_Outline") -> None:
        self.corners += other.corners
        self.links += other.links


class OpenOutlines:
    """Holds the corners of each region until the region ends.

    A straight edge has no corner but at its ends, so what is held grows with the windings of the regions that are
    open, and not with their pixels.
    """

    def __init__(self) -> None:
        self._parts = Components()
        self._part_ids = np.zeros(0, np.int64)
        self._next_part = 0
        self._held: list[_Outline] = []

    def add(self, spans: Spans, pairs: tuple[np.ndarray, np.ndarray], regions: Joined, y: int, height: int) -> Corners:
        """Take the spans of a slab of `height` rows from row `y` on; give all the corners of the regions it closes.

        `pairs` are the spans of one region that share an edge, and `regions` the components that the spans belong to.
        """
        parts = self._parts.join(len(spans), pairs, spans.row == height - 1)
        part_id = self._next_part + np.arange(parts.count)
        np.minimum.at(part_id, parts.of_open, self._part_ids)  # a part keeps its number, so that each has corners
        links = np.stack([self._part_ids, part_id[parts.of_open]], axis=1)
        region_of_part = np.zeros(parts.count, np.int64)
        region_of_part[parts.of_span] = regions.of_span
        grown = links[:, 0] != links[:, 1]
        links, of_link = links[grown], region_of_part[parts.of_open][grown]
        self._part_ids = part_id[parts.still_open]
        self._next_part += parts.count

        span, x, double_y = find_corners(spans, height)
        corners = np.stack([part_id[parts.of_span[span]], x, double_y + 2 * y], axis=1)
        return self._file(regions, corners, regions.of_span[span], links, of_link)

    def _file(
        self, regions: Joined, corners: np.ndarray, of_corner: np.ndarray, links: np.ndarray, of_link: np.ndarray
    ) -> Corners:
        """Put the corners and links to those that are held of their region; take out what belongs to closed regions."""
        held: dict[int, _Outline] = {}
        for region, outline in zip(regions.of_open.tolist(), self._held, strict=True):
            large, small = sorted((held.get(region, _Outline()), outline), key=lambda o: len(o.corners), reverse=True)
            large.absorb(small)
            held[region] = large
        is_open = np.zeros(regions.count, bool)
        is_open[regions.still_open] = True
        for region, mine in _by_region(corners, of_corner, is_open):
            held.setdefault(region, _Outline()).corners.append(mine)
        for region, mine in _by_region(links, of_link, is_open):
            held.setdefault(region, _Outline()).links.append(mine)
        self._held = [held.pop(region) for region in regions.still_open.tolist()]

        ended = ~is_open[of_corner]
        closed, of_closed, joined = [corners[ended]], [of_corner[ended]], [links[~is_open[of_link]]]
        for region, outline in held.items():
            closed += outline.corners
            of_closed += [np.full(len(mine), region) for mine in outline.corners]
            joined += outline.links
        part, x, y = np.concatenate(closed).T
        ids, number = np.unique(part, return_inverse=True)
        first, second = np.searchsorted(ids, np.concatenate(joined)).T
        _, group = join(len(ids), (first, second))
        return Corners(np.concatenate(of_closed), group[number], x, y)


def _by_region(rows: np.ndarray, region: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of each of the regions that `chosen` (bool) names, where it has any."""
    wanted = np.flatnonzero(chosen[region])
    order = wanted[np.argsort(region[wanted], kind="stable")]
    if len(order):
        bounds = np.flatnonzero(np.diff(region[order])) + 1
        for index in np.split(order, bounds):
            yield int(region[index[0]]), rows[index]


def find_corners(spans: Spans, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The corners of `spans`, those of a slab of `height` rows: span, x and y as in `Corners`, from the slab's top.

    Where two runs of one class in successive rows begin (or end) at the same column, the outline goes straight on;
    elsewhere each has a corner. The corners below the last row depend on the row that follows: they come with the next
    slab, to which this row is row -1.
    """
    pitch = int(spans.stop.max(initial=0)) + 2
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for is_end, column in enumerate((spans.start, spans.stop)):
        place = spans.row * pitch + column
        over = np.searchsorted(place, place - pitch)
        goes_up = (place[over] == place - pitch) & (spans.value[over] == spans.value)
        goes_down = np.zeros(len(spans), bool)
        goes_down[over[goes_up]] = True
        upper = np.flatnonzero(~goes_up & (spans.row >= 0))
        lower = np.flatnonzero(~goes_down & (spans.row < height - 1))
        found.append((upper, 2 * column[upper] + is_end, 2 * spans.row[upper] + 1))
        found.append((lower, 2 * column[lower] + is_end, 2 * spans.row[lower] + 2))
    span, x, y = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return span, x, y


@dataclass(frozen=True)
class Rings:
    """Closed rings: `points` is int64 M x 2 of (x, y), ring k being points[bounds[k]:bounds[k + 1]] of part `part[k]`.

    The last point of a ring is its first. The rings of a part follow each other, its outline before its holes.
    """

    points: np.ndarray
    bounds: list[int]
    part: list[int]

    def polygons(self) -> Iterator[tuple[int, list[slice]]]:
        """Each part and where the rings of its polygon lie in `points`."""
        for part, rings in groupby(range(len(self.part)), key=self.part.__getitem__):
            yield part, [slice(self.bounds[k], self.bounds[k + 1]) for k in rings]


def trace_rings(part: np.ndarray, x: np.ndarray, y: np.ndarray, *, mirrored: bool) -> Rings:
    """Link corners, `part`, `x` and `y` as in `Corners`, to rings; parts come in the order of their numbers.

    No ring goes through a point twice: where two pixels of a part touch by a corner only, two of its rings touch. An
    outline runs so that its shoelace area is positive in (x, y), a hole the other way; with `mirrored` each runs the
    other way round. A ring begins at the leftmost of its uppermost points.

    The corners alone give the edges of a rectilinear polygon: along each line they pair off, one after the other.
    """
    across = np.lexsort((x, y >> 1, part))
    part, x, y = part[across], x[across], y[across]  # the horizontal edge of corner k now leads to corner k ^ 1
    along = np.lexsort((y, x >> 1, part))
    vertical = np.empty(len(x), np.int64)
    vertical[along[::2]], vertical[along[1::2]] = along[1::2], along[::2]
    below, parts = vertical.tolist(), part.tolist()

    visited = bytearray(len(below) // 2)
    order: list[int] = []
    bounds: list[int] = [0]
    of_ring: list[int] = []
    for first in range(0, len(below), 2):
        if visited[first >> 1]:
            continue
        ring: list[int] = []
        corner = first
        while not visited[corner >> 1]:
            visited[corner >> 1] = 1
            ring += (corner, corner ^ 1)
            corner = below[corner ^ 1]
        ring.append(first)
        is_hole = bool(of_ring) and of_ring[-1] == parts[first]
        order += ring[::-1] if is_hole != mirrored else ring
        bounds.append(len(order))
        of_ring.append(parts[first])
    return Rings(np.stack([x[order], y[order]], axis=1) >> 1, bounds, of_ring)
