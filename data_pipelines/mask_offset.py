"""Masks that lie some pixels away from what they mark: an effect of how they were made."""

import numpy as np


def displaced(maps: np.ndarray, by: tuple[int, int], axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """The maps moved by whole pixels (right, down), negative ones to the left and up; the border is repeated.

    ``axes`` are those of height and width: a mask H x W moves along the first two, N x H x W x K along (1, 2). Shape
    and dtype are those of the maps; moved by nothing they are the maps themselves.
    """
    for axis, distance in zip(axes, reversed(by), strict=True):
        if distance:
            size = maps.shape[axis]
            maps = maps.take((np.arange(size) - distance).clip(0, size - 1), axis)
    return maps
