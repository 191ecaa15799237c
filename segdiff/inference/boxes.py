"""Boxes of objects: around the regions of a mask, or from the file of a pair's true objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.boxes import COLUMNS, read_box_lines
from data_pipelines.decoding import read_info
from data_pipelines.layouts import DataError, Pair


@dataclass(frozen=True)
class Boxes:
    """N boxes in one image.

    `corners` is float64 N x 4: x1, y1, x2, y2 in pixels, x to the right and y down, measured at the edges of pixels. So
    x2 and y2 are excluded: the box of the pixel in row 3 and column 5 is 5, 3, 6, 4. `classes` are class indices, int64
    N; `scores` are 0..1, float64 N, and 1 for true objects. `class_scores`, float64 N x K, are those that each box has
    as one of every class, `scores` among them; None where no more is known than `scores`.
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    class_scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, chosen: np.ndarray) -> "Boxes":
        """The boxes that `chosen`, bool N or indices, names."""
        class_scores = None if self.class_scores is None else self.class_scores[chosen]
        return Boxes(self.corners[chosen], self.classes[chosen], self.scores[chosen], class_scores)

    def as_every_class(self) -> "Boxes":
        """Each box once for every class but 0 of which it has a score above 0: what a detector ranks."""
        if self.class_scores is None:
            return self
        box, kind = np.nonzero(self.class_scores[:, 1:])
        return Boxes(self.corners[box], kind + 1, self.class_scores[box, kind + 1])


def find_boxes(
    mask: np.ndarray,
    probability: np.ndarray | None = None,
    *,
    join: int = 0,
    pad: int = 0,
    minimum_area: int = 1,
    unknown: np.ndarray | None = None,
) -> Boxes:
    """The boxes of the regions of `mask`, uint8 H x W of class indices, 0 being the background.

    Pixels of one class whose dilations by `join` pixels to each side touch are one region (`label_regions`). A box is
    that of the region's own pixels, `pad` pixels wider on each side and clipped to the image. Regions of fewer than
    `minimum_area` pixels of their own are left out, and so are those more than half of whose pixels are `unknown`, bool
    H x W. The score is the mean `probability` of the region's class over its pixels: float H x W of change, or
    H x W x K of the classes, by which the box has `class_scores` too; without it, 1. Raises ValueError on shapes that
    differ and options out of range.
    """
    if pad < 0:
        raise ValueError(f"pad is {pad} pixels: it must be 0 or more")
    if minimum_area < 1:
        raise ValueError(f"minimum_area is {minimum_area} pixels: it must be 1 or more")
    for name, array in (("probability", probability), ("unknown", unknown)):
        if array is not None and array.shape[:2] != mask.shape:
            raise ValueError(f"{name} has shape {array.shape} and the mask {mask.shape}: they must agree")
    labels, classes = label_regions(mask, join=join)
    rows, columns = np.nonzero(labels)
    region, count = labels[rows, columns] - 1, len(classes)
    areas = np.bincount(region, minlength=count)
    least, most = np.full((2, count), np.iinfo(np.int64).max), np.full((2, count), -1)
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(least[axis], region, places)
        np.maximum.at(most[axis], region, places)
    size = np.array([mask.shape[::-1]]).T
    corners = np.concatenate([np.maximum(least - pad, 0), np.minimum(most + 1 + pad, size)]).T.astype(np.float64)
    scores, class_scores = np.ones(count), None
    if probability is not None and probability.ndim == 2:
        scores = np.bincount(region, probability[rows, columns], minlength=count) / areas
    elif probability is not None:
        sums = [np.bincount(region, of_class, minlength=count) for of_class in probability[rows, columns].T]
        class_scores = np.stack(sums, axis=1) / areas[:, None]
        scores = class_scores[np.arange(count), classes]
    kept = areas >= minimum_area
    if unknown is not None:
        kept &= np.bincount(region, unknown[rows, columns], minlength=count) * 2 <= areas
    return Boxes(corners, classes, scores, class_scores).take(kept)


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


def read_true_boxes(pairs: Sequence[Pair], classes: Sequence[str]) -> dict[str, Boxes]:
    """The true objects of the pairs, by the name of the pair; empty where none of the pairs has a file of them.

    Raises DataError on the first file that is wrong, and where some pairs have a file and one has not.
    """
    if not any(pair.boxes for pair in pairs):
        return {}
    found = {}
    for pair in pairs:
        if pair.boxes is None:
            other = next(pair.boxes for pair in pairs if pair.boxes)
            raise DataError(
                f"{pair.after}: has no boxes/{pair.name}.csv, other pairs have one such as {other}; "
                f"add it, with no more than the line {','.join(COLUMNS)} where there are no objects"
            )
        info = read_info(pair.after)
        found[pair.name] = read_boxes(pair.boxes, classes, info.height, info.width)
    return found


def read_boxes(path: Path, classes: Sequence[str], height: int, width: int) -> Boxes:
    """The true objects in a file, for a model of those classes (names, 0 first) and an image of height x width pixels.

    The file is one of `read_box_lines`. `type` is the name or the index of a class other than 0; for a model of two
    classes any type is the change. DataError, in one line, names the file, the line and what is wrong with it.
    """
    corners, kinds = [], []
    for box in read_box_lines(path, height, width):
        corners.append(box.corners)
        kinds.append(_class_index(f"{path}: line {box.line}", box.type, classes))
    return Boxes(np.array(corners).reshape(-1, 4), np.array(kinds, np.int64), np.ones(len(kinds)))


def _class_index(line: str, kind: str, classes: Sequence[str]) -> int:
    if len(classes) == 2:
        return 1
    if kind in classes[1:]:
        return classes.index(kind)
    if kind.isdecimal() and 1 <= int(kind) < len(classes):
        return int(kind)
    raise DataError(
        f"{line}: type {kind!r} is no class of the model; it knows {', '.join(classes[1:])} "
        f"(or their indices 1 to {len(classes) - 1}), and data.classes names them in training"
    )
