"""The changed regions of a mask: their polygons, classes, scores and areas, and GeoJSON of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS

from segdiff.files import write_whole
from segdiff.inference.outlines import Corners, OpenOutlines, trace_rings
from segdiff.inference.places import Place, find_place
from segdiff.inference.runs import Components, Runs, Slab, Spans, check_slabs, encode_slab, touching

_CORNERS_AT_ONCE = 1 << 16
"""Corners of whole regions that are made to polygons together."""


@dataclass(frozen=True)
class Region:
    """One 8-connected region of one class.

    `score` is the mean probability of its pixels (None without probabilities), `area` its area in `area_unit` ("m2" or
    "px"). `geometry` is a GeoJSON geometry with its holes: longitude and latitude (WGS84) where the mask is
    georeferenced, else x to the right and y down in pixels, pixel (row, column) covering column..column + 1 and
    row..row + 1. It is a Polygon, or a MultiPolygon where parts of the region touch by corners only. `polygons` are the
    same in the mask's own CRS: of each polygon its rings, the outline first, closed, float64 N x 2 of (x, y).
    `first_pixel` is (row, column) of its uppermost row's leftmost pixel.
    """

    class_index: int
    score: float | None
    area_pixels: int
    area: float
    area_unit: str
    first_pixel: tuple[int, int]
    geometry: dict[str, Any]
    polygons: list[list[np.ndarray]] = field(compare=False, repr=False)


def find_objects(
    mask: np.ndarray,
    probability: np.ndarray | None,
    *,
    transform: Sequence[float] | None = None,
    crs: str | CRS | None = None,
) -> list[Region]:
    """Find the regions of `mask`, uint8 H x W of class indices, 0 being the background.

    A region is a set of pixels of one class that touch by an edge or a corner; regions come ordered by class, then by
    their first pixel. `probability` is float H x W, 0..1. `transform` is the affine transform of the pixels (a, b, c,
    d, e, f in rasterio's order) and `crs` its reference system; with both the regions are georeferenced, and areas are
    in square metres, as `Place.areas` says. A CRS that is neither projected nor geographic raises ValueError. A polygon
    is the outline of the pixels.
    """
    tracer = RegionTracer(find_place(transform, crs))
    regions: list[Region] = []
    for slab in check_slabs([Slab(0, mask, probability)]):
        regions += tracer.add(encode_slab(slab))
    regions += tracer.finish()
    return sorted(regions, key=lambda region: (region.class_index, region.first_pixel))


@dataclass(frozen=True)
class _Sums:
    """What is known of each of N regions, or of their runs: arrays of N."""

    class_index: np.ndarray
    pixels: np.ndarray
    area: np.ndarray
    probability: np.ndarray
    """Summed over the pixels; 0 without probabilities."""
    first: np.ndarray
    """The first pixel, as row * 2^32 + column."""
    last_row: np.ndarray

    def gather(self, further: "_Sums", into: np.ndarray, count: int) -> "_Sums":
        """These and then those of `further` as `count` regions; `into` names the region of each."""
        both = _Sums(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(further).values(), strict=True)))
        class_index = np.zeros(count, np.uint8)
        class_index[into] = both.class_index
        pixels, area, probability = (np.bincount(into, v, count) for v in (both.pixels, both.area, both.probability))
        first, last_row = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
        np.minimum.at(first, into, both.first)
        np.maximum.at(last_row, into, both.last_row)
        return _Sums(class_index, pixels, area, probability, first, last_row)

    def take(self, index: np.ndarray | slice) -> "_Sums":
        return _Sums(*(values[index] for values in vars(self).values()))


class RegionTracer:
    """Finds the regions of a mask that comes as runs of rows, top to bottom, and gives each where it ends.

        tracer = RegionTracer(find_place(transform, crs))
        for runs in postprocess(slabs, settings, classes=2):
            writer.write_rows(runs.y, runs.mask(), runs.valid_rows())
            for region in tracer.add(runs):
                ...
        for region in tracer.finish():
            ...

    A region is given with the first rows that it does not reach; what is held are the sums and the corners of the
    regions that are open, 24 bytes a corner, and some 300 for each while the region is made. What is given does not
    depend on how the mask is cut into slabs, but for the rounding of scores and areas: regions come by their last row,
    then by their first pixel. `place` is where the mask lies; without it areas and points are in pixels.
    """

    def __init__(self, place: Place | None):
        self._place = place
        self._components, self._outlines = Components(), OpenOutlines()
        self._carried = Spans.none()
        self._open = self._sums(Spans.none(), np.zeros(0), 0)
        self._next_row = 0
        self._scored = False

    def add(self, runs: Runs) -> Iterator[Region]:
        """Take the next rows. The regions that these close are made as they are drawn from the iterator."""
        chosen = runs.value > 0
        total = np.zeros(len(chosen)) if runs.total is None else runs.total
        self._next_row, self._scored = runs.y + runs.height, runs.total is not None
        return self._advance(Spans.of(runs, chosen), total[chosen], runs.y, runs.height)

    def finish(self) -> Iterator[Region]:
        """The regions that reach the last row of the mask."""
        return self._advance(Spans.none(), np.zeros(0), self._next_row, 1)  # a row without change closes them

    def _advance(self, added: Spans, probability: np.ndarray, y: int, height: int) -> Iterator[Region]:
        spans = self._carried.before(added)
        last = spans.row == height - 1
        upper, lower = touching(spans, diagonal=True)
        alike = spans.value[upper] == spans.value[lower]
        upper, lower = upper[alike], lower[alike]
        regions = self._components.join(len(spans), (upper, lower), last)
        by_edge = (spans.start[upper] < spans.stop[lower]) & (spans.start[lower] < spans.stop[upper])
        corners = self._outlines.add(spans, (upper[by_edge], lower[by_edge]), regions, y, height)

        into = np.concatenate([regions.of_open, regions.of_span[len(self._carried) :]])
        sums = self._open.gather(self._sums(added, probability, y), into, regions.count)
        self._carried = spans.carried(last)
        self._open = sums.take(regions.still_open)
        closed = np.delete(np.arange(regions.count), regions.still_open)
        closed = closed[np.lexsort((sums.first[closed], sums.last_row[closed]))]
        rank = np.zeros(regions.count, np.int64)
        rank[closed] = np.arange(len(closed))
        return self._make(sums.take(closed), replace(corners, region=rank[corners.region]))

    def _sums(self, spans: Spans, probability: np.ndarray, y: int) -> _Sums:
        row, pixels = spans.row + y, spans.stop - spans.start
        area = pixels if self._place is None else self._place.areas(row, spans.start, spans.stop)
        return _Sums(spans.value, pixels, area, probability, (row << 32) + spans.start, row)

    def _make(self, sums: _Sums, corners: Corners) -> Iterator[Region]:
        """The regions, in order; `corners.region` counts them."""
        order = np.argsort(corners.region, kind="stable")
        ends = np.cumsum(np.bincount(corners.region))
        first = 0
        while first < len(ends):
            begun = ends[first - 1] if first else 0
            past = max(first + 1, int(np.searchsorted(ends, begun + _CORNERS_AT_ONCE, side="right")))
            some = corners.take(order[begun : ends[past - 1]])
            yield from self._make_some(sums.take(slice(first, past)), replace(some, region=some.region - first))
            first = past

    def _make_some(self, sums: _Sums, corners: Corners) -> Iterator[Region]:
        place = self._place
        part, of_part = _order_parts(corners)
        rings = trace_rings(part, corners.x, corners.y, mirrored=place is not None and place.affine.determinant < 0)
        if place is None:
            on_map, points, jumps = rings.points.astype(float), rings.points, np.zeros(0, int)
        else:
            on_map = place.map_points(rings.points)
            points = place.degrees(on_map)
            jumps = place.jumps(points)
        columns = zip(*(values.tolist() for values in vars(sums).values()), strict=True)
        grouped = groupby(rings.polygons(), key=lambda polygon: of_part[polygon[0]])
        for (class_index, pixels, area, probability, first, _), (_, group) in zip(columns, grouped, strict=True):
            where = [polygon for _, polygon in group]
            polygons = [[on_map[ring] for ring in polygon] for polygon in where]
            begin, end = where[0][0].start, where[-1][-1].stop
            if place and jumps.size and np.any((begin <= jumps) & (jumps < end - 1)):
                geometry = place.cut_at_antimeridian(_geometry(polygons))
            else:
                geometry = _geometry([[points[ring] for ring in polygon] for polygon in where])
            yield Region(
                class_index=class_index,
                score=probability / pixels if self._scored else None,
                area_pixels=int(pixels),
                area=area,
                area_unit="px" if place is None else "m2",
                first_pixel=divmod(first, 1 << 32),
                geometry=geometry,
                polygons=polygons,
            )


def _order_parts(corners: Corners) -> tuple[np.ndarray, list[int]]:
    """The parts by their regions, then by their first corner: of each corner its part, and of each part its region."""
    parts, part = np.unique(corners.part, return_inverse=True)
    count = len(parts)
    place = (corners.y >> 1) * (int(corners.x.max()) + 1) + corners.x
    first, region = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(first, part, place)
    region[part] = corners.region
    order = np.lexsort((first, region))
    number = np.empty(count, np.int64)
    number[order] = np.arange(count)
    return number[part], region[order].tolist()


def _geometry(polygons: list[list[np.ndarray]]) -> dict[str, Any]:
    coordinates = [[ring.tolist() for ring in polygon] for polygon in polygons]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def feature(region: Region, *, pair: str, class_name: str) -> dict[str, Any]:
    """The GeoJSON feature of a region: geometry, and properties pair, class, class_name, score, area, area_unit."""
    return {
        "type": "Feature",
        "properties": {
            "pair": pair,
            "class": region.class_index,
            "class_name": class_name,
            "score": None if region.score is None else round(region.score, 4),
            "area": round(region.area, 3),
            "area_unit": region.area_unit,
        },
        "geometry": region.geometry,
    }


_GEOJSON_HEAD = '{"type": "FeatureCollection", "features": ['


@contextmanager
def open_geojson(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open a GeoJSON FeatureCollection and give the function that adds a feature to it.

    Each feature is written as it comes, one a line; `path` appears whole at the end, or not at all on an error.
    """
    with write_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(_GEOJSON_HEAD)
        separator = "\n"

        def add(item: dict[str, Any]) -> None:
            nonlocal separator
            file.write(separator + json.dumps(item, allow_nan=False, ensure_ascii=False))
            separator = ",\n"

        yield add
        file.write("\n]}\n")


def read_geojson(path: Path) -> Iterator[dict[str, Any]]:
    """The features of a file that `open_geojson` wrote, one after the other.

    Raises ValueError, in one line, on a file that does not have one feature a line.
    """
    with path.open(encoding="utf-8") as file:
        if next(file, "") != _GEOJSON_HEAD + "\n":
            raise ValueError(f"{path}: is not as it was written, one feature a line; remove it to go on without it")
        for line in file:
            if line == "]}\n":
                return
            yield json.loads(line.rstrip(",\n"))
    raise ValueError(f"{path}: ends before its end; remove it to go on without it")
