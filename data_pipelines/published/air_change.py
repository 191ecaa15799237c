"""SZTAKI AirChange: man-made change in Hungary, aerial RGB of 1.5 m.

Benedek and Sziranyi 2009, doi:10.1109/TGRS.2009.2022633. As downloaded (SZTAKI_AirChange_Benchmark.zip,
mplab.sztaki.hu): Szada/1 .. 7, Tiszadob/1 .. 5 and Archive/1, in each im1, im2 and gt of 952 x 640, their endings .bmp
or .BMP.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines.decoding import read_image
from data_pipelines.layouts import DataError
from data_pipelines.published.downloads import descend, find_base, subfolders
from data_pipelines.published.files import require_size, write_image
from data_pipelines.published.plan import Plan, Work

_PUBLISHED = {"train": 14, "test": 2}
_PLACES = ("Szada", "Tiszadob")
_TESTED = ("szada_1", "tiszadob_3")
_HEIGHT, _WIDTH = 448, 784
"""Of the upper left part that is tested."""


def plan(src: Path, out: Path) -> Plan:
    """The division that the literature compares on (Zhan et al. 2017, doi:10.1109/LGRS.2017.2738149), in PNGs.

    test: the upper left 784 x 448 of Szada/1 and Tiszadob/3. train: the other ten pairs whole, and of those two the
    rest, cut into NAME_right (168 x 448) and NAME_bottom (952 x 192). Archive is a single pair, which the literature
    leaves out.
    """
    base = find_base(
        src,
        "SZTAKI AirChange",
        "Szada or Tiszadob with numbered folders of im1.bmp, im2.bmp and gt.bmp",
        lambda folder: any(True for _ in _pairs(folder)),
    )
    work = []
    for name, folder in _pairs(base):
        files = {stem: descend(folder, f"{stem}.bmp") for stem in ("im1", "im2", "gt")}
        if missing := [stem for stem, path in files.items() if path is None]:
            raise DataError(f"{folder}: no {', '.join(f'{stem}.bmp' for stem in missing)}; download the set again")
        paths = tuple(path for path in files.values() if path is not None)
        if name in _TESTED:
            work.append(Work("test", 1, partial(_write, paths, out / "test", name, 0, _HEIGHT, 0, _WIDTH)))
            work.append(Work("train", 1, partial(_write, paths, out / "train", f"{name}_right", 0, _HEIGHT, _WIDTH)))
            work.append(Work("train", 1, partial(_write, paths, out / "train", f"{name}_bottom", _HEIGHT)))
        else:
            work.append(Work("train", 1, partial(_write, paths, out / "train", name)))
    archive = ("Archive is left out, as in the literature",) if descend(base, "Archive") else ()
    return Plan(tuple(work), _PUBLISHED, archive)


def _pairs(base: Path) -> Iterator[tuple[str, Path]]:
    for place in _PLACES:
        folder = descend(base, place)
        for numbered in subfolders(folder) if folder and folder.is_dir() else ():
            if re.fullmatch(r"\d+", numbered.name):
                yield f"{place.lower()}_{numbered.name}", numbered


def _write(
    paths: tuple[Path, ...],
    folder: Path,
    name: str,
    top: int = 0,
    bottom: int | None = None,
    left: int = 0,
    right: int | None = None,
) -> None:
    before, after = (read_image(path, 3) for path in paths[:2])
    # as a picture, since a palette may be in any order; whatever is not black is change
    mask = np.where(read_image(paths[2], 1)[..., 0] > 0, np.uint8(255), np.uint8(0))
    for path, image in zip(paths[1:], (after, mask), strict=True):
        require_size(path, image.shape[:2], paths[0], before.shape[:2])
    if before.shape[0] <= max(top, bottom or 0) or before.shape[1] <= max(left, right or 0):
        raise DataError(
            f"{paths[0]}: {before.shape[1]} x {before.shape[0]} pixels, and its upper left {_WIDTH} x {_HEIGHT} are to "
            "be cut off; download the set again"
        )
    for role, image in (("A", before), ("B", after), ("label", mask)):
        write_image(folder / role / f"{name}.png", image[top:bottom, left:right])
