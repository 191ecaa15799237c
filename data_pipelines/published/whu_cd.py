"""WHU-CD: building change in Christchurch, aerial RGB of 0.2 m (Ji, Wei and Lu 2019, doi:10.1109/TGRS.2018.2858817).

As downloaded ("Building change detection dataset_add", gpcv.whu.edu.cn/data/building_dataset.html), below "1. The
two-period image data":

    2012/whole_image/{train,test}/image/2012_{train,test}.tif      21243 x 15354 and 11265 x 15354 pixels, RGB
    2016/whole_image/{train,test}/image/2016_{train,test}.tif
    change_label/{train,test}/change_label.tif                     0/1

or, in its first release, before/before.tif, after/after.tif and "change label"/change_label.tif of 32507 x 15354, the
same ground in one piece. The masks of buildings and the ready tiles of 512 x 512 beside them are not used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines.decoding import DecodeError, open_tiff, read_rows
from data_pipelines.layouts import DataError
from data_pipelines.published.cutting import SIDE, write_tiles
from data_pipelines.published.downloads import descend, find_base
from data_pipelines.published.files import require_size, to_binary
from data_pipelines.published.plan import Plan, Work

_PUBLISHED = {"train": 82 * 59, "test": 44 * 59}
_WHOLE, _TRAIN = 32507, 21243
"""Columns of the whole mosaic, and of its training part at the left; the test part begins at the last one of it."""


@dataclass(frozen=True)
class _Part:
    """The rasters of a split, and the columns of them (first, end) that belong to it; None: all."""

    split: str
    before: Path
    after: Path
    mask: Path
    columns: tuple[int, int] | None = None


def plan(src: Path, out: Path) -> Plan:
    """Tiles of 256 x 256 without overlap, the splits as published; a remainder at right and bottom is left out.

    The rasters are read a row of tiles at a time. The tiles have no grid: those of 2012 and 2016 differ by 0.05 m.
    """
    base = find_base(
        src,
        "WHU-CD",
        "2012 and 2016 with whole_image beside change_label, or before/before.tif, after/after.tif and "
        "change label/change_label.tif",
        lambda folder: any(True for _ in _parts(folder)),
    )
    _require_complete(base)
    work = []
    for part in _parts(base):
        height, width = _size_of(part)
        if height < SIDE or width < SIDE:
            raise DecodeError(part.before, f"{width} x {height} pixels, and a tile has {SIDE} x {SIDE}")
        work += [
            Work(part.split, width // SIDE, partial(_write_row, part, row, out / part.split))
            for row in range(0, height - SIDE + 1, SIDE)
        ]
    return Plan(tuple(work), _PUBLISHED)


def _parts(base: Path) -> Iterator[_Part]:
    for split in _PUBLISHED:
        before, after, mask = _rasters(base, split).values()
        if before and after and mask:
            yield _Part(split, before, after, mask)
    whole = descend(base, "before", "before.tif"), descend(base, "after", "after.tif")
    mask = descend(base, "change label", "change_label.tif")
    if whole[0] and whole[1] and mask:
        with open_tiff(whole[0]) as source:
            width = source.width
        train = round(width * _TRAIN / _WHOLE)
        yield _Part("train", whole[0], whole[1], mask, (0, train))
        yield _Part("test", whole[0], whole[1], mask, (train - 1, width))


def _rasters(base: Path, split: str) -> dict[str, Path | None]:
    """Before, after and mask of a split of the second release, by where they lie; None: not there."""
    names = [f"{year}/whole_image/{split}/image/{year}_{split}.tif" for year in ("2012", "2016")]
    names.append(f"change_label/{split}/change_label.tif")
    return {name: descend(base, *name.split("/")) for name in names}


def _require_complete(base: Path) -> None:
    """DataError of a split that is there in part."""
    for split in _PUBLISHED:
        rasters = _rasters(base, split)
        missing = [name for name, path in rasters.items() if path is None]
        if 0 < len(missing) < len(rasters):
            raise DataError(
                f"{base}: no {' and no '.join(missing)}; unpack the {split} rasters again, or remove the rest"
            )


def _size_of(part: _Part) -> tuple[int, int]:
    """Height and width of the part; DecodeError where its rasters differ in size."""
    sizes = {}
    for path in (part.before, part.after, part.mask):
        with open_tiff(path) as source:
            sizes[path] = (source.height, source.width)
        require_size(path, sizes[path], part.before, sizes[part.before])
    height, width = sizes[part.before]
    first, end = part.columns or (0, width)
    return height, end - first


def _write_row(part: _Part, row: int, folder: Path) -> None:
    before, after = (_rows(path, row, part.columns, 3) for path in (part.before, part.after))
    mask = to_binary(part.mask, _rows(part.mask, row, part.columns, 1)[..., 0])
    write_tiles(folder, part.split, before, after, mask, first_row=row)


def _rows(path: Path, row: int, columns: tuple[int, int] | None, bands: int) -> np.ndarray:
    """256 x W x bands from `row` on, read alone."""
    with open_tiff(path) as source:
        rows = read_rows(source, row, row + SIDE, bands)
    return rows if columns is None else rows[:, slice(*columns)]
