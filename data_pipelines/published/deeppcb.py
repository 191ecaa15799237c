"""DeepPCB: six kinds of defects on printed circuit boards, 640 x 640, grey (Tang et al. 2019, arXiv:1902.06197).

As its repository lays it (tangsanli5201/DeepPCB): PCBData/trainval.txt and PCBData/test.txt, 1,000 and 500 lines of an
image and its boxes, "group20085/20085/20085000.jpg group20085/20085_not/20085000.txt". The image stands for two,
20085000_temp.jpg (the template) and 20085000_test.jpg (the tested board); a line of boxes is "x1 y1 x2 y2 type" with
type 1 .. 6.
"""

import re
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.boxes import COLUMNS
from data_pipelines.decoding import DecodeError, read_image
from data_pipelines.layouts import DataError
from data_pipelines.published.downloads import descend, find_base
from data_pipelines.published.files import keep_image, require_size, write_bytes, write_image
from data_pipelines.published.plan import Plan, Work

CLASSES = ("background", "open", "short", "mousebite", "spur", "copper", "pin-hole")
"""Names of the class indices; the types of the boxes are 1 .. 6."""

_PUBLISHED = {"train": 1000, "test": 500}
_LISTS = {"train": "trainval.txt", "test": "test.txt"}
_BRIGHT = 127
"""A pixel above it is copper; the boards are binarised before they are stored as JPEG."""

Box = tuple[int, int, int, int, int]
"""x1, y1, x2, y2 (pixels, x2 and y2 excluded) and the type 1 .. 6."""


def plan(src: Path, out: Path) -> Plan:
    """The splits as published: JPEGs as they are, masks of class indices 0 .. 6, true boxes in boxes/NAME.csv."""
    base = find_base(
        src,
        "DeepPCB",
        "PCBData with trainval.txt or test.txt",
        lambda folder: any(descend(folder, name) for name in _LISTS.values()),
    )
    work = []
    for split, listed in _LISTS.items():
        lines = descend(base, listed)
        for number, line in enumerate(
            lines.read_text(encoding="utf-8", errors="replace").splitlines() if lines else (), 1
        ):
            if not line.strip():
                continue
            entries = line.split()
            if len(entries) != 2:
                raise DataError(f"{lines}: line {number}: {line!r}; an image and its file of boxes are on each line")
            image, boxes = base / entries[0], base / entries[1]
            template, board = (image.with_name(f"{image.stem}_{kind}{image.suffix}") for kind in ("temp", "test"))
            if missing := [path for path in (template, board, boxes) if not path.is_file()]:
                raise DataError(f"{missing[0]}: no such file, and line {number} of {lines} lists it; download it again")
            work.append(Work(split, 1, partial(_write, template, board, boxes, out / split, image.stem)))
    return Plan(tuple(work), _PUBLISHED)


def defect_mask(template: np.ndarray, board: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """Class indices, H x W uint8, of the pixels in which a board differs from its template inside the true boxes.

    `template` and `board` are H x W uint8. In each box the two, binarised, are compared, and what differs is opened by
    2 x 2 pixels, since edges differ by a pixel everywhere; where boxes overlap the later one counts. The opening is
    OpenCV's, which with a kernel of even size moves what it leaves a pixel to the right and down.
    """
    differs = ((template > _BRIGHT) != (board > _BRIGHT)).astype(np.uint8)
    mask = np.zeros_like(differs)
    for x1, y1, x2, y2, kind in boxes:
        opened = cv2.morphologyEx(differs[y1:y2, x1:x2], cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        mask[y1:y2, x1:x2][opened > 0] = kind
    return mask


def read_boxes(path: Path, height: int, width: int) -> list[Box]:
    """The boxes in a published file, for an image of that size; DecodeError names the line that holds none."""
    boxes: list[Box] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        numbers = re.split(r"[\s,]+", line.strip())
        if len(numbers) != 5 or not all(text.isdecimal() for text in numbers):
            raise DecodeError(path, f"line {number}: {line!r}; a box is x1 y1 x2 y2 type, whole numbers")
        x1, y1, x2, y2, kind = map(int, numbers)
        if not (x1 < x2 <= width and y1 < y2 <= height and 1 <= kind < len(CLASSES)):
            raise DecodeError(
                path, f"line {number}: {line!r}; a box lies in the {width} x {height} pixels, and its type is 1 .. 6"
            )
        boxes.append((x1, y1, x2, y2, kind))
    return boxes


def _write(template: Path, board: Path, listed: Path, folder: Path, name: str) -> None:
    before, after = (read_image(path, 1)[..., 0] for path in (template, board))
    require_size(board, after.shape, template, before.shape)
    boxes = read_boxes(listed, *before.shape)
    keep_image(template, folder / "A", name)
    keep_image(board, folder / "B", name)
    write_image(folder / "label" / f"{name}.png", defect_mask(before, after, boxes))
    lines = [",".join(COLUMNS), *(f"{x1},{y1},{x2},{y2},{CLASSES[kind]}" for x1, y1, x2, y2, kind in boxes)]
    write_bytes(folder / "boxes" / f"{name}.csv", "".join(f"{line}\n" for line in lines).encode())
