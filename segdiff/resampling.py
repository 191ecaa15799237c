"""Images brought to another size while their rows go by."""

import math
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from scipy.sparse import csr_array

from segdiff.resizing import resize

_PIXELS_AT_ONCE = 1 << 20
"""Pixels that are resampled together: as float32 a dozen megabytes."""


class RowResampler:
    """Brings an image that comes as slabs of rows to another size, holding the rows alone that are not done with.

    Each axis by itself: where it shrinks, a pixel is the mean over what it covers, pixels at its edge counted by the
    part covered; where it grows, it lies linearly between the two nearest centres of pixels, beyond the outermost it
    is that one. These are OpenCV's INTER_AREA and INTER_LINEAR of the whole image. ``size`` and ``to`` are (height,
    width) in pixels.
    """

    def __init__(self, size: tuple[int, int], to: tuple[int, int]):
        self._width, self._to_width = size[1], to[1]
        self._weights = _weights(size[0], to[0])
        self._first = self._weights.indices[self._weights.indptr[:-1]]
        self._last = self._weights.indices[self._weights.indptr[1:] - 1]
        self._held: np.ndarray | None = None
        self._top = self._seen = self._done = 0
        self.step = max(_PIXELS_AT_ONCE // max(size[1], to[1] * to[0] // size[0]), 1)
        """Rows to give at a time, so that no more than some megabytes are worked on."""

    def add(self, rows: np.ndarray) -> np.ndarray:
        """Takes the next rows, uint8 or float32 n x W x C, and gives those of the result that they complete.

        The result has the dtype of the rows, uint8 rounded to the nearest, and may have no row.
        """
        narrow = self._across(rows)
        held = narrow if self._held is None else np.concatenate([self._held, narrow])
        self._seen += len(rows)
        ready = int(np.searchsorted(self._last, self._seen))
        part = self._weights[self._done : ready, self._top : self._seen]
        _, *row = held.shape
        made = (part @ held.reshape(len(held), math.prod(row))).reshape(ready - self._done, *row)
        top = int(self._first[ready]) if ready < len(self._first) else self._seen
        self._held, self._top, self._done = held[top - self._top :].copy(), top, ready
        return np.rint(made).astype(np.uint8) if rows.dtype == np.uint8 else made

    def _across(self, rows: np.ndarray) -> np.ndarray:
        """The same rows in the other width, float32."""
        rows = rows.astype(np.float32, copy=False)
        if self._to_width == self._width or not len(rows):
            return rows if len(rows) else np.empty((0, self._to_width, rows.shape[2]), np.float32)
        method = cv2.INTER_AREA if self._to_width < self._width else cv2.INTER_LINEAR
        return resize(rows, (len(rows), self._to_width), method)


def resample_rows(slabs: Iterable[np.ndarray], size: tuple[int, int], to: tuple[int, int]) -> Iterator[np.ndarray]:
    """The rows of an image, float32 or uint8 n x W x C a slab, brought from ``size`` to ``to`` in slabs of few rows."""
    resampler = RowResampler(size, to)
    for slab in slabs:
        for y in range(0, len(slab), resampler.step):
            made = resampler.add(slab[y : y + resampler.step])
            if len(made):
                yield made


def resample(image: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """An image, uint8 or float32 H x W x C, brought to another height and width."""
    return np.concatenate(list(resample_rows([image], (image.shape[0], image.shape[1]), to)))


def _weights(length: int, to: int) -> csr_array:
    """By how much each of ``length`` pixels in a row counts in each of ``to``: float32 to x length."""
    if to <= length:
        # in units in which a pixel is ``to`` long before and ``length`` after, every border is a whole number
        borders = np.union1d(np.arange(length + 1) * to, np.arange(to + 1) * length)
        begin, part = borders[:-1], np.diff(borders) / length
        weights = csr_array((part.astype(np.float32), (begin // length, begin // to)), shape=(to, length))
    else:
        centre = np.clip((np.arange(to) + 0.5) * length / to - 0.5, 0, length - 1)
        upper = centre.astype(np.int64)
        part = centre - upper
        pixels = np.concatenate([upper, np.minimum(upper + 1, length - 1)])
        values = np.concatenate([1 - part, part]).astype(np.float32)
        weights = csr_array((values, (np.tile(np.arange(to), 2), pixels)), shape=(to, length))
        weights.eliminate_zeros()
    weights.sort_indices()
    return weights
