"""Test-time augmentation: the mean of the predictions of a pair as it is seen turned, mirrored and at other scales."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from data_pipelines.mask_offset import displaced
from segdiff.model_files import Augmentation
from segdiff.prediction import Batch, Predict
from segdiff.resizing import resize


@dataclass(frozen=True)
class View:
    """How the network is to see a tile: turned by ``turn`` quarters, from 4 on mirrored too, then brought to ``scale``
    times its size."""

    turn: int
    scale: float = 1.0


VIEWS: dict[Augmentation, tuple[View, ...]] = {
    "none": (View(0),),
    "d4": tuple(View(turn) for turn in range(8)),
    # `aerial` gains more by scales than by turns: on LEVIR-CD's validation tiles these four are better than d4
    "multiscale": (View(0), View(1, 0.8125), View(2, 1.25), View(7, 1.5)),
}
"""What each kind takes the mean of. D4 is the group of the turns and mirror images of a square."""

_INTERPOLATED = 2
"""Pixels by which bringing a tile to another scale and its probabilities back reaches further."""


def rescales(kind: Augmentation) -> bool:
    """Whether some of its views are at another scale, which a network of one tile size cannot take."""
    return any(view.scale != 1 for view in VIEWS[kind])


def augmented(predict: Predict, kind: Augmentation, mask_offset: tuple[int, int] = (0, 0), stride: int = 1) -> Predict:
    """The mean over the views of every batch; of kind "none" ``predict`` itself.

    A view at another scale has sides that are multiples of the network's ``stride`` again, and its probabilities are
    brought back linearly. ``mask_offset`` is that of the model, ``data.mask_offset``: whole pixels (right, down) by
    which its masks lie away from what they mark, however the images are turned. It is taken off before they are turned
    back and the mean has it again, as in training; the border is repeated, so that near it the mean is not what it
    would be in the midst of a larger image: see ``augmented_reach``.
    """
    views = VIEWS[kind]
    if kind == "none":
        return predict
    right, down = mask_offset

    def seen(tiles: np.ndarray, view: View) -> np.ndarray:
        tiles = np.rot90(tiles, view.turn % 4, axes=(1, 2))
        tiles = tiles[:, :, ::-1] if view.turn >= 4 else tiles
        height, width = (max(round(side * view.scale / stride), 1) * stride for side in tiles.shape[1:3])
        method = cv2.INTER_AREA if view.scale < 1 else cv2.INTER_CUBIC
        return _resized(tiles, (height, width), method)

    def back(probabilities: np.ndarray, view: View, size: tuple[int, int]) -> np.ndarray:
        probabilities = displaced(probabilities, (-right, -down), axes=(1, 2))
        probabilities = _resized(probabilities, size[::-1] if view.turn % 2 else size, cv2.INTER_LINEAR)
        return np.rot90(probabilities[:, :, ::-1] if view.turn >= 4 else probabilities, -(view.turn % 4), axes=(1, 2))

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        sizes = deque[tuple[int, int]]()  # of the batches that have been asked for and not been answered

        def every() -> Iterator[Batch]:
            for before, after in batches:
                sizes.append(before.shape[1:3])
                for view in views:
                    yield seen(before, view), seen(after, view)

        total: Any = 0
        for number, probabilities in enumerate(predict(every())):
            total = total + back(probabilities, views[number % len(views)], sizes[0])
            if number % len(views) == len(views) - 1:
                sizes.popleft()
                yield displaced((total / len(views)).astype(np.float32), (right, down), axes=(1, 2))
                total = 0

    return run


def augmented_reach(kind: Augmentation, reach: int, mask_offset: tuple[int, int]) -> int:
    """Pixels from a tile's edge up to which its padding is felt, of a network of that ``reach`` and offset.

    That is further than the network's own where its masks are moved off their offset and back, along the longer side,
    for a turn may have made any side of it, and in tiles that are made smaller.
    """
    if kind == "none":
        return reach
    offset = max(map(abs, mask_offset))
    return offset + max(
        math.ceil((reach + offset) / view.scale) + (_INTERPOLATED if view.scale != 1 else 0) for view in VIEWS[kind]
    )


def _resized(tiles: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    """N x H x W x C at that height and width."""
    if tiles.shape[1:3] == size:
        return np.ascontiguousarray(tiles)
    return np.stack([resize(tile, size, method) for tile in tiles])
