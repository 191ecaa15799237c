"""Rasters made small while their rows go by."""

from typing import Literal

import cv2
import numpy as np

from segdiff.resizing import resize

LONGEST = 2048
"""The longest side of a preview, in pixels."""


def preview_factor(height: int, width: int) -> int:
    """How many pixels a side become one of a preview: 1 where the raster is no larger than LONGEST."""
    return max(-(-max(height, width) // LONGEST), 1)


class Preview:
    """Shrinks an image of uint8 H x W or H x W x C that comes as slabs of rows of any heights, by a whole factor.

    ``by`` is ``area``, the mean of the pixels, or ``largest``: of class indices every change stays to be seen.
    """

    def __init__(self, height: int, width: int, by: Literal["area", "largest"]):
        self._height, self._width, self._by = height, width, by
        self._factor = preview_factor(height, width)
        self._taken = 0
        self._waiting: list[np.ndarray] = []
        self._shrunk: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """The next rows."""
        self._taken += len(rows)
        self._waiting.append(rows)
        rows = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        whole = len(rows) if self._taken == self._height else len(rows) // self._factor * self._factor
        if whole:
            self._shrunk.append(self._shrink(rows[:whole]))
        self._waiting = [rows[whole:].copy()]

    def _shrink(self, rows: np.ndarray) -> np.ndarray:
        factor = self._factor
        if factor == 1:
            return rows.copy()
        if self._by == "largest":
            tall = np.maximum.reduceat(rows, np.arange(0, len(rows), factor), axis=0)
            return np.maximum.reduceat(tall, np.arange(0, self._width, factor), axis=1)
        to = -(-len(rows) // factor), -(-self._width // factor)
        small = resize(rows.reshape(*rows.shape[:2], -1), to, cv2.INTER_AREA)
        return small.reshape(*to, *rows.shape[2:])

    def image(self) -> np.ndarray:
        """The small image, when all rows have been added."""
        return np.concatenate(self._shrunk)
