"""The changed regions of a mask: their polygons, classes, scores and areas, and GeoJSON of them."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.transform import Affine
from rasterio.warp import transform_geom

from segdiff.files import write_whole

WGS84_SEMI_MAJOR = 6378137.0
"""Equatorial radius in metres."""

WGS84_FLATTENING = 1 / 298.257223563

LONGITUDE_LATITUDE = CRS.from_epsg(4326)

DEGREE_DECIMALS = 9
"""Decimals of longitudes and latitudes in a geometry: 0.1 mm on the ground."""


@dataclass(frozen=True)
class Region:
    """One 8-connected region of one class.

    `score` is the mean probability of its pixels (None without probabilities), `area` its area in `area_unit` ("m2" or
    "px"), `geometry` a GeoJSON geometry with its holes: longitude and latitude (WGS84) where the mask is georeferenced,
    else x to the right and y down in pixels, pixel (row, column) covering column..column + 1 and row..row + 1.
    """

    class_index: int
    score: float | None
    area_pixels: int
    area: float
    area_unit: str
    geometry: dict[str, Any]


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
    in square metres: in a projected CRS those of the map plane, its linear unit converted to metres (Web Mercator's
    plane is four times the ground at 60 degrees); in a geographic one those of the pixels on the WGS84 ellipsoid. A CRS
    of neither kind raises ValueError. A polygon is the outline of the pixels; parts that touch by a corner only share
    that vertex.
    """
    if probability is not None and probability.shape != mask.shape:
        raise ValueError(f"the probability has shape {probability.shape} and the mask {mask.shape}: they must agree")
    labels, classes = label_regions(mask)
    count = len(classes)
    if not count:
        return []
    placed = _place(transform, crs)
    affine = Affine.identity() if placed is None else placed[0]
    rows, columns = np.nonzero(labels)
    of_pixel = labels[rows, columns] - 1
    pixels = np.bincount(of_pixel, minlength=count)
    areas = pixels if placed is None else np.bincount(of_pixel, _pixel_areas(rows, columns, *placed), minlength=count)
    unit = "px" if placed is None else "m2"
    scores = (
        None if probability is None else np.bincount(of_pixel, probability[rows, columns], minlength=count) / pixels
    )
    outlines = [(int(label) - 1, geometry) for geometry, label in shapes(labels, labels > 0, 8, affine)]
    geometries: list[dict[str, Any]] = [{}] * count
    if placed is None:
        for index, geometry in outlines:
            geometries[index] = geometry
    else:
        moved = transform_geom(
            placed[1], LONGITUDE_LATITUDE, [geometry for _, geometry in outlines], precision=DEGREE_DECIMALS
        )
        for (index, _), geometry in zip(outlines, moved, strict=True):
            geometries[index] = geometry
    return [
        Region(
            class_index=int(classes[index]),
            score=None if scores is None else float(scores[index]),
            area_pixels=int(pixels[index]),
            area=float(areas[index]),
            area_unit=unit,
            geometry=geometries[index],
        )
        for index in range(count)
    ]


def label_regions(mask: np.ndarray, *, join: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Number the regions of `mask`, uint8 H x W of class indices 0 being the background: 1, 2, ...

    Gives the labels, int32 H x W with 0 for the background, and the class of each region, int64. Pixels of one class
    are of one region where their dilations by a square of `join` pixels to each side (2 join + 1 wide) overlap or touch
    by an edge or a corner: two pixels that lie at most 2 join + 1 apart along either axis. The dilation joins only, it
    adds no pixels to a region.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"a mask is uint8 H x W, not {mask.dtype} of shape {mask.shape}")
    if join < 0:
        raise ValueError(f"join is {join} pixels: it must be 0 or more")
    square = np.ones((2 * join + 1, 2 * join + 1), np.uint8)
    labels = np.zeros(mask.shape, np.int32)
    classes: list[int] = []
    for index in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)):
        if index == 0:
            continue
        of_class = mask == index
        touching = cv2.dilate(of_class.view(np.uint8), square) if join else of_class.view(np.uint8)
        count, found = cv2.connectedComponents(touching, connectivity=8, ltype=cv2.CV_32S)
        labels[of_class] = found[of_class] + len(classes)
        classes += [int(index)] * (count - 1)
    return labels, np.array(classes, np.int64)


def _place(transform: Sequence[float] | None, crs: str | CRS | None) -> tuple[Affine, CRS] | None:
    if transform is None or not crs:  # a grid whose CRS is unnamed has the text ""
        return None
    system = CRS.from_user_input(crs)
    if not (system.is_geographic or system.is_projected):
        raise ValueError(
            f"the CRS {system.to_wkt()[:60]!r}... is neither geographic nor projected: its place is unknown"
        )
    return Affine(*transform[:6]), system


def _pixel_areas(rows: np.ndarray, columns: np.ndarray, affine: Affine, crs: CRS) -> np.ndarray:
    """The area of each pixel in square metres."""
    _, unit = crs.units_factor
    plane = abs(affine.determinant) * unit * unit
    if not crs.is_geographic:
        return np.full(len(rows), plane)
    # Exact for the cells of a north-up grid, which lie between two parallels; a turned grid's cell takes the mean over
    # the parallels it spans.
    centre = (affine.f + affine.d * (columns + 0.5) + affine.e * (rows + 0.5)) * unit
    half = (abs(affine.d) + abs(affine.e)) / 2 * unit
    return plane * (_zone_area(centre + half) - _zone_area(centre - half)) / (2 * half)


def _zone_area(latitude: np.ndarray) -> np.ndarray:
    """Square metres from the equator to a latitude (radians) on the WGS84 ellipsoid, per radian of longitude.

    a^2 q / 2 with the authalic q of Snyder, Map Projections: A Working Manual (USGS Professional Paper 1395, 1987),
    equation 3-12.
    """
    squared = WGS84_FLATTENING * (2 - WGS84_FLATTENING)
    eccentricity = math.sqrt(squared)
    sine = np.sin(latitude)
    q = (1 - squared) * (sine / (1 - squared * sine**2) + np.arctanh(eccentricity * sine) / eccentricity)
    return WGS84_SEMI_MAJOR**2 * q / 2


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


@contextmanager
def open_geojson(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open a GeoJSON FeatureCollection and give the function that adds a feature to it.

    Each feature is written as it comes, one a line; `path` appears whole at the end, or not at all on an error.
    """
    with write_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"

        def add(item: dict[str, Any]) -> None:
            nonlocal separator
            file.write(separator + json.dumps(item, allow_nan=False, ensure_ascii=False))
            separator = ",\n"

        yield add
        file.write("\n]}\n")
