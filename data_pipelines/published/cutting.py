"""Cut images into tiles without overlap, named after where they come from: NAME_ROW_COLUMN of the upper left pixel."""

from pathlib import Path

import numpy as np

from data_pipelines.decoding import DecodeError, read_image, read_info
from data_pipelines.layouts import Pair
from data_pipelines.published.files import read_binary_mask, require_size, write_image

SIDE = 256
"""Of a tile, in pixels: what the literature cuts LEVIR-CD and WHU-CD into."""


def tiles_in(path: Path) -> int:
    """How many tiles an image has; DecodeError where it cannot be cut without a remainder."""
    info = read_info(path)
    if info.height % SIDE or info.width % SIDE:
        raise DecodeError(
            path,
            f"{info.width} x {info.height} pixels are no whole number of tiles of {SIDE} x {SIDE}; download it again",
        )
    return (info.height // SIDE) * (info.width // SIDE)


def cut_pair(pair: Pair, folder: Path) -> None:
    """Write the tiles of a pair to `folder`/{A,B,label}; DecodeError where sizes differ or the mask is not binary."""
    assert pair.mask is not None, "labelled pairs alone are prepared"
    before, after, mask = read_image(pair.before, 3), read_image(pair.after, 3), read_binary_mask(pair.mask)
    for path, image in ((pair.after, after), (pair.mask, mask)):
        require_size(path, image.shape[:2], pair.before, before.shape[:2])
    write_tiles(folder, pair.name, before, after, mask)


def write_tiles(
    folder: Path, name: str, before: np.ndarray, after: np.ndarray, mask: np.ndarray, first_row: int = 0
) -> None:
    """Cut H x W x 3, H x W x 3 and H x W, whose upper edge is row `first_row` of the whole; a remainder is left out."""
    for row in range(0, before.shape[0] - SIDE + 1, SIDE):
        for column in range(0, before.shape[1] - SIDE + 1, SIDE):
            window = (slice(row, row + SIDE), slice(column, column + SIDE))
            for role, image in (("A", before), ("B", after), ("label", mask)):
                write_image(folder / role / f"{name}_{first_row + row}_{column}.png", image[window])
