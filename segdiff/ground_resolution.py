"""Metres per pixel: what a raster says of its own, and to which an image is brought for a model."""

import math

import numpy as np
from rasterio.crs import CRS
from rasterio.warp import transform

from data_pipelines.decoding import Grid
from data_pipelines.layouts import DataError

WGS84_SEMI_MAJOR = 6378137.0
"""Equatorial radius in metres."""

WGS84_FLATTENING = 1 / 298.257223563

TOLERANCE = 1.25
"""Ground resolutions whose ratio is no more than this are taken for the same."""

LARGEST_ENLARGEMENT = 32
"""Of an image for a model of a finer resolution: 10 m for one of 0.5 m is within it, a wrong unit is not."""

SMALLEST_SHRUNK = 4
"""Pixels of the longer side of an image that was shrunk: of fewer a mask would say that nothing changed."""

_OTHERWISE = "take another model, or correct --resolution (which is for plain images) or data.ground_resolution"
"""What to do about an image that cannot be brought to the resolution of a model."""


def differ(one: float, other: float) -> bool:
    """Whether two ground resolutions differ by more than a quarter."""
    return max(one, other) / min(one, other) > TOLERANCE


def mean_side(own: tuple[float, float]) -> float:
    """The side of a square pixel of the same area."""
    return math.sqrt(own[0] * own[1])


def ground_resolution(grid: Grid | None) -> tuple[float, float] | None:
    """Metres per pixel of a raster across and down, at its centre, on the WGS84 ellipsoid.

    On the ground and not in the plane of the map, whose metres are in Web Mercator at 60 degrees twice those of the
    ground. None without a CRS, and with one that gives the centre no place on the earth.
    """
    if grid is None or not grid.crs:
        return None
    crs = CRS.from_user_input(grid.crs)
    if not (crs.is_geographic or crs.is_projected):
        return None
    column, row = grid.width / 2, grid.height / 2
    ends = [(column - 0.5, row), (column + 0.5, row), (column, row - 0.5), (column, row + 0.5)]
    a, b, c, d, e, f = grid.transform[:6]
    x = [a * column + b * row + c for column, row in ends]
    y = [d * column + e * row + f for column, row in ends]
    try:
        longitude, latitude = transform(crs, CRS.from_epsg(4326), x, y)
    except Exception:  # GDAL's, of a place outside the CRS: rasterio has no public name for it
        return None
    left, right, above, below = _earth_centred(np.array(longitude), np.array(latitude))
    across, down = float(np.linalg.norm(right - left)), float(np.linalg.norm(below - above))
    return (across, down) if 0 < across < math.inf and 0 < down < math.inf else None


def _earth_centred(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Points on the ellipsoid, N of degrees, as metres from the centre of the earth, N x 3: they know no antimeridian
    and no pole."""
    east, north = np.radians(longitude), np.radians(latitude)
    squared = WGS84_FLATTENING * (2 - WGS84_FLATTENING)
    radius = WGS84_SEMI_MAJOR / np.sqrt(1 - squared * np.sin(north) ** 2)
    flat = radius * np.cos(north)
    return np.stack([flat * np.cos(east), flat * np.sin(east), (1 - squared) * radius * np.sin(north)], axis=1)


def own_resolution(grid: Grid | None, said: float | None) -> tuple[float, float] | None:
    """Metres per pixel of an image across and down: its raster's own, else what is ``said`` of it; None: not known.

    Raises DataError where both are there and differ by more than a quarter.
    """
    own = ground_resolution(grid)
    if said is None:
        return own
    if own is not None and differ(mean_side(own), said):
        raise DataError(
            f"its georeference says {_metres(own)} m a pixel, and the resolution given is {said:g}, which is for plain "
            "images; leave it out, or mend the georeference"
        )
    return own or (said, said)


def target_resolution(own: tuple[float, float] | None, trained: tuple[float, float] | None) -> float | None:
    """Metres per pixel to which an image is resampled, across and down alike; None: it is taken as it is.

    ``own`` is the image's, across and down, ``trained`` the finest and the coarsest at which the model works.
    Within these an image keeps its own, and is brought to the nearer of them outside.
    """
    if own is None or trained is None:
        return None
    target = min(max(mean_side(own), trained[0]), trained[1])
    return target if any(differ(axis, target) for axis in own) else None


def size_at(height: int, width: int, own: tuple[float, float], target: float) -> tuple[int, int]:
    """Height and width of an image of ``own`` metres per pixel, across and down, where its pixels are ``target``.

    Raises DataError where it would be enlarged beyond sense, or shrunk to nothing that can be looked at.
    """
    across, down = own
    if (times := max(own) / target) > LARGEST_ENLARGEMENT:
        raise DataError(
            f"{max(own):.3g} m a pixel would be enlarged {times:.0f} times for a model of {target:g} m, allowed are "
            f"{LARGEST_ENLARGEMENT} times: {_OTHERWISE}"
        )
    to = max(round(height * down / target), 1), max(round(width * across / target), 1)
    if max(to) < SMALLEST_SHRUNK <= max(height, width):
        raise DataError(
            f"{width} x {height} pixels of {min(own):.3g} m would be {to[1]} x {to[0]} for a model of {target:g} m, "
            f"where nothing can be seen: {_OTHERWISE}"
        )
    return to


def resolution_line(
    own: tuple[float, float] | None, trained: tuple[float, float] | None, target: float | None
) -> str | None:
    """What a person is told at the beginning of a run; None where both resolutions are known and agree."""
    if target is not None and own is not None and trained is not None:
        if max(own) / target > LARGEST_ENLARGEMENT:  # will not be resampled: `size_at` refuses it pair by pair
            return None
        return (
            f"resampled from {_metres(own)} to {target:.3g} m a pixel, as the model works at {_span(trained)}; "
            "results are on the images' own grid"
        )
    if own is None and trained is None:
        return (
            "neither the model (data.ground_resolution) nor the images (--resolution M) say their metres per pixel: "
            "nothing is resampled"
        )
    if own is None and trained is not None:
        return (
            f"the model works at {_span(trained)} m a pixel and the images do not say theirs: nothing is "
            "resampled, --resolution M does it"
        )
    if trained is None and own is not None:
        return (
            f"the images have {_metres(own)} m a pixel and the model does not say at what it works "
            "(data.ground_resolution): nothing is resampled"
        )
    return None


def _metres(own: tuple[float, float]) -> str:
    across, down = (f"{axis:.3g}" for axis in own)
    return across if across == down else f"{across} x {down}"


def _span(trained: tuple[float, float]) -> str:
    finest, coarsest = (f"{end:.3g}" for end in trained)
    return finest if finest == coarsest else f"{finest} to {coarsest}"
