"""Test-time augmentation: the mean of the predictions of a pair's eight turns and mirror images (the group D4)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from data_pipelines.mask_offset import displaced
from segdiff.prediction import Batch, Predict

TURNS = 8


def dihedral(predict: Predict, mask_offset: tuple[int, int] = (0, 0)) -> Predict:
    """The mean over the eight turns and mirror images of every batch: eight times the work.

    ``mask_offset`` is that of the model, ``data.mask_offset``: whole pixels (right, down) by which its masks lie away
    from what they mark, however the images are turned. It is taken off before they are turned back and the mean has it
    again, as in training; the border is repeated, so that within ``offset_reach`` pixels of it the mean is not what it
    would be in the midst of a larger image.
    """
    right, down = mask_offset

    def turned(tiles: np.ndarray, turn: int) -> np.ndarray:
        tiles = np.rot90(tiles, turn % 4, axes=(1, 2))
        return np.ascontiguousarray(tiles[:, :, ::-1] if turn >= 4 else tiles)

    def back(tiles: np.ndarray, turn: int) -> np.ndarray:
        tiles = displaced(tiles, (-right, -down), axes=(1, 2))
        return np.rot90(tiles[:, :, ::-1] if turn >= 4 else tiles, -(turn % 4), axes=(1, 2))

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        every = ((turned(before, turn), turned(after, turn)) for before, after in batches for turn in range(TURNS))
        total: Any = 0
        for number, probabilities in enumerate(predict(every)):
            total = total + back(probabilities, number % TURNS)
            if number % TURNS == TURNS - 1:
                yield displaced((total / TURNS).astype(np.float32), (right, down), axes=(1, 2))
                total = 0

    return run


def offset_reach(mask_offset: tuple[int, int]) -> int:
    """Pixels from an edge up to which ``dihedral`` makes up what lies beyond it, for a model of that offset.

    The way off and the way back again, along the longer side, for a turn may have made any side of it.
    """
    return 2 * max(map(abs, mask_offset))
