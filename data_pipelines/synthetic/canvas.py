"""What a scene is drawn on: an image with a margin, at twice its size."""

from collections.abc import Sequence

import cv2
import numpy as np

MARGIN = 4
"""Pixels drawn around the image, so that misregistration and blur have something to look at."""

_SUPERSAMPLING = 2  # canvas pixels per image pixel, for smooth edges
_FIXED_POINT = 4  # OpenCV draws at sub-pixel positions given in 1/16 pixel
_UNIT = _SUPERSAMPLING * 2**_FIXED_POINT  # of those positions, per image pixel


class Canvas:
    """The image and its margin, drawn at twice its size: surfaces (RGB and grain) and the sunlight on them.

    `surface` is uint8, S x S x 4, `light` uint8, S x S, 0 in shadow and 255 in the sun; S is 2 x (size + 2 x MARGIN).
    Positions (x, y), widths and radii are in pixels of the image. Paints are red, green, blue and grain and are brought
    to 0..255.
    """

    def __init__(self, size: int):
        span = _SUPERSAMPLING * (size + 2 * MARGIN)
        self.surface = np.zeros((span, span, 4), np.uint8)
        self.light = np.full((span, span), 255, np.uint8)

    @staticmethod
    def _fixed(points: np.ndarray) -> np.ndarray:
        """Positions as OpenCV takes them: fixed point, whole numbers at the centres of the pixels."""
        return np.rint(points * _UNIT + (MARGIN * _UNIT - _UNIT / _SUPERSAMPLING / 2)).astype(np.int32)

    def fill(self, polygon: np.ndarray, paint: Sequence[float]) -> None:
        """Paint a polygon, N x 2."""
        cv2.fillPoly(self.surface, [self._fixed(polygon)], _colour(paint), shift=_FIXED_POINT)

    def stroke(self, lines: Sequence[np.ndarray], width: float, paint: Sequence[float]) -> None:
        """Paint lines, N x 2 each, with round ends."""
        thickness = max(1, round(width * _SUPERSAMPLING))
        fixed = [self._fixed(line) for line in lines]
        cv2.polylines(self.surface, fixed, False, _colour(paint), thickness, shift=_FIXED_POINT)

    def discs(self, centres: np.ndarray, radii: np.ndarray, paints: np.ndarray) -> None:
        """Discs one over the other: centres N x 2, radii N, paints N x 4."""
        for centre, radius, paint in zip(*self._round(centres, radii), np.clip(paints, 0, 255).tolist(), strict=True):
            cv2.circle(self.surface, centre, radius, paint, -1, shift=_FIXED_POINT)

    def light_discs(self, centres: np.ndarray, radii: np.ndarray, light: int) -> None:
        """Light, 0..255, on discs: centres N x 2, radii N."""
        for centre, radius in zip(*self._round(centres, radii), strict=True):
            cv2.circle(self.light, centre, radius, light, -1, shift=_FIXED_POINT)

    def light_fill(self, polygon: np.ndarray, light: int) -> None:
        """Light, 0..255, on a polygon, N x 2."""
        cv2.fillPoly(self.light, [self._fixed(polygon)], light, shift=_FIXED_POINT)

    def cast(self, polygon: np.ndarray, throw: np.ndarray) -> None:
        """The shadow of a convex body whose top is `polygon`, thrown by a vector."""
        swept = self._fixed(np.concatenate([polygon, polygon + throw]))
        cv2.fillConvexPoly(self.light, cv2.convexHull(swept), 0, shift=_FIXED_POINT)

    def _round(self, centres: np.ndarray, radii: np.ndarray) -> tuple[list[list[int]], list[int]]:
        return self._fixed(centres).tolist(), np.rint(radii * _UNIT).astype(int).tolist()


def _colour(paint: Sequence[float]) -> tuple[float, ...]:
    return tuple(min(max(float(value), 0.0), 255.0) for value in paint)
