"""Where a mask lies on the earth: the areas of its pixels in square metres, its points on the map and in degrees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform, transform_geom

from segdiff.ground_resolution import WGS84_FLATTENING, WGS84_SEMI_MAJOR

LONGITUDE_LATITUDE = CRS.from_epsg(4326)

DEGREE_DECIMALS = 9
"""Decimals of longitudes and latitudes in a geometry: 0.1 mm on the ground."""

_EASTWARD = 1000.0
"""Units of a Mercator's CRS whose length in longitude is measured."""

_POINTS_AT_ONCE = 1 << 17
"""Points that are transformed together: rasterio takes and gives lists, of many times their size."""


@dataclass(frozen=True)
class Place:
    """The affine transform of a mask's pixels and the reference system, geographic or projected, that it leads to."""

    affine: Affine
    crs: CRS

    def areas(self, row: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The area of the pixels start..stop (excluded) of each row in square metres, float64.

        In a geographic CRS, and in a Mercator's, whose plane is four times the ground at 60 degrees, that on the WGS84
        ellipsoid; in another projected one that of the map plane, its linear unit converted to metres.
        """
        length = stop - start
        if not len(row):
            return np.zeros(0)
        if not (self.crs.is_geographic or self._is_mercator):
            _, unit = self.crs.units_factor
            return length * (abs(self.affine.determinant) * unit * unit)
        if self.affine.d == 0:  # a row lies between two parallels
            rows, of_row = np.unique(row, return_inverse=True)
            return length * self._pixel_areas(rows, np.zeros_like(rows))[of_row]
        first = np.cumsum(length) - length
        column = np.arange(length.sum()) - np.repeat(first - start, length)
        return np.add.reduceat(self._pixel_areas(np.repeat(row, length), column), first)

    @cached_property
    def _is_mercator(self) -> bool:
        return 'PROJECTION["Mercator_' in self.crs.to_wkt(version="WKT1_GDAL")

    def _pixel_areas(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        # Exact for the cells of a north-up grid, which lie between two parallels; a turned grid's cell takes the mean
        # over the parallels it spans.
        affine = self.affine
        centre = affine.f + affine.d * (column + 0.5) + affine.e * (row + 0.5)
        half = (abs(affine.d) + abs(affine.e)) / 2
        (_, upper), (east, lower) = self._radians(centre + half, 0.0), self._radians(centre - half, 1.0)
        return abs(affine.determinant) * east * (_zone_area(upper) - _zone_area(lower)) / (2 * half)

    def _radians(self, y: np.ndarray, x: float) -> tuple[float, np.ndarray]:
        """How far `x` lies east of 0, and the latitudes of `y`: meridians and parallels are straight in these CRSs."""
        if self.crs.is_geographic:
            _, unit = self.crs.units_factor
            return x * unit, y * unit
        points = np.stack([np.full(len(y), self.affine.c), y], axis=1)
        further = np.array([[self.affine.c, self.affine.f], [self.affine.c + _EASTWARD, self.affine.f]])
        longitude, latitude = np.radians(self._unrounded(np.concatenate([points, further]))).T
        east = (longitude[-1] - longitude[-2]) % (2 * math.pi) / _EASTWARD
        return x * east, latitude[:-2]

    def map_points(self, pixels: np.ndarray) -> np.ndarray:
        """Points (x, y) in pixels, N x 2, as coordinates of the CRS, float64 N x 2."""
        (a, b, c, d, e, f) = self.affine[:6]
        x, y = pixels[:, 0], pixels[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    def degrees(self, points: np.ndarray) -> np.ndarray:
        """Points of the CRS, N x 2, as longitudes and latitudes (WGS84), float64 N x 2.

        Raises ValueError where a point lies outside of what the CRS can place on the earth.
        """
        return np.round(self._unrounded(points), DEGREE_DECIMALS)

    def _unrounded(self, points: np.ndarray) -> np.ndarray:
        moved = np.empty((len(points), 2))
        for first in range(0, len(points), _POINTS_AT_ONCE):
            some = slice(first, first + _POINTS_AT_ONCE)
            try:
                moved[some] = np.transpose(transform(self.crs, LONGITUDE_LATITUDE, *points[some].T.tolist()))
            except Exception as error:  # GDAL's: rasterio has no public name for it, nor a base but this one
                raise self._outside(str(error)) from error
        if not np.isfinite(moved).all():
            raise self._outside("infinite longitudes")
        return moved

    def _outside(self, reason: str) -> ValueError:
        return ValueError(f"the CRS {self.crs.to_wkt()[:60]!r}... cannot place the mask on the earth: {reason}")

    def jumps(self, degrees: np.ndarray) -> np.ndarray:
        """The points after which the longitude goes more than half round the earth: indices, sorted.

        So it does in a ring over the antimeridian or around a pole, in a projected CRS; a geographic one says itself
        where its longitudes begin.
        """
        if self.crs.is_geographic:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.abs(np.diff(degrees[:, 0])) > 180)

    def cut_at_antimeridian(self, geometry: dict[str, Any]) -> dict[str, Any]:
        """A GeoJSON geometry of the CRS in longitudes and latitudes, cut at the antimeridian as RFC 7946 asks."""
        return transform_geom(self.crs, LONGITUDE_LATITUDE, geometry, precision=DEGREE_DECIMALS)


def find_place(affine: Sequence[float] | None, crs: str | CRS | None) -> Place | None:
    """The place of a mask whose pixels have the transform (a, b, c, d, e, f in rasterio's order); None without a CRS.

    Raises ValueError on a CRS that is neither geographic nor projected.
    """
    if affine is None or not crs:  # a grid whose CRS is unnamed has the text ""
        return None
    system = CRS.from_user_input(crs)
    if not (system.is_geographic or system.is_projected):
        raise ValueError(
            f"the CRS {system.to_wkt()[:60]!r}... is neither geographic nor projected: its place is unknown"
        )
    return Place(Affine(*affine[:6]), system)


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
