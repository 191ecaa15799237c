"""Which ground is in view, and which is taken: rasters of the image and the expanse around it."""

from collections.abc import Sequence

import cv2
import numpy as np

from data_pipelines.synthetic.world import Part, Road

EXPANSE = 40
"""Pixels around the image in which the world is planned, so that nothing begins at the image's edge."""


def reserved_ground(size: int, rivers: Sequence[tuple[np.ndarray, float]], roads: Sequence[Road]) -> np.ndarray:
    """Where rivers and roads leave no room to build or grow, uint8 0/1 over the image and the expanse around it."""
    reserved = np.zeros((size + 2 * EXPANSE,) * 2, np.uint8)
    strips = [(line, width + 12) for line, width in rivers] + [(road.line, road.width + 4) for road in roads]
    for line, width in strips:
        cv2.polylines(reserved, [np.rint(line + EXPANSE).astype(np.int32)], False, 1, round(width))
    return reserved


def in_view(point: np.ndarray, size: int, beyond: float) -> bool:
    """Whether a point lies in the image or at most so many pixels beyond its edges."""
    x, y = point.tolist()
    return -beyond < min(x, y) and max(x, y) < size + beyond


def touches(part: Part, raster: np.ndarray) -> bool:
    """Whether any of the ground under a part is taken in a raster as of `reserved_ground`."""
    corners = np.rint(part.footprint + EXPANSE).astype(np.int32)
    x0, y0 = np.maximum(corners.min(0), 0)
    x1, y1 = corners.max(0) + 1
    window = raster[y0:y1, x0:x1]
    if not window.any():
        return False
    covered = np.zeros_like(window)
    cv2.fillConvexPoly(covered, corners - (x0, y0), 1)
    return bool((window & covered).any())


def occupy(raster: np.ndarray, parts: Sequence[Part]) -> None:
    """Mark the ground under parts as taken, in place, in a raster as of `reserved_ground`."""
    for part in parts:
        cv2.fillConvexPoly(raster, np.rint(part.footprint + EXPANSE).astype(np.int32), 1)
