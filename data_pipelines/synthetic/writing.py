"""Write a data set of drawn pairs."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.synthetic.drawing import draw_scene
from data_pipelines.synthetic.planning import SMALLEST


def scene_names(pairs: int) -> list[str]:
    """What so many drawn pairs are called."""
    return [f"scene_{index:04d}" for index in range(pairs)]


def write_scenes(
    out: Path, pairs: int, size: int, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a data set of drawn pairs: OUT/{A,B,label}/NAME.png and OUT/list/{train,val}.txt.

    A and B are RGB images of `size` x `size` pixels before and after; labels have one channel, 0 or 255 (change), and
    lie on the image after. Every fifth pair, the second first, is for validation; a single pair is for training and
    there is no val.txt. Pair i is drawn from (seed, i) alone: the same seed gives the same bytes, however many pairs
    are drawn.
    `on_progress(done, pairs)` is called after every pair. Where a write fails or the call is interrupted, what it has
    written is removed, and the same call can be made again.

    FileExistsError where OUT is a file or holds anything; ValueError for fewer than 1 pair, a size below 64, or a
    negative seed.
    """
    if pairs < 1:
        raise ValueError(f"pairs {pairs}: a data set needs at least 1 pair")
    if size < SMALLEST:
        raise ValueError(f"size {size}: scenes need at least {SMALLEST} x {SMALLEST} pixels")
    if seed < 0:
        raise ValueError(f"seed {seed}: seeds are whole numbers from 0 up")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: name a new or an empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} already holds files: name a new or an empty folder, or delete it first")
    made: list[Path] = []
    try:
        for name in ("A", "B", "label", "list"):
            (out / name).mkdir(parents=True)
            made.append(out / name)
        _write_pairs(out, pairs, size, seed, on_progress)
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)  # what came up first is what is told
        raise


def _write_pairs(out: Path, pairs: int, size: int, seed: int, on_progress: Callable[[int, int], None] | None) -> None:
    names = scene_names(pairs)
    for index, name in enumerate(names):
        before, after, mask = draw_scene(size, np.random.default_rng((seed, index)))
        _write_png(out / "A" / f"{name}.png", cv2.cvtColor(before, cv2.COLOR_RGB2BGR))
        _write_png(out / "B" / f"{name}.png", cv2.cvtColor(after, cv2.COLOR_RGB2BGR))
        _write_png(out / "label" / f"{name}.png", mask * 255)
        if on_progress is not None:
            on_progress(index + 1, pairs)
    _write_list(out / "list" / "train.txt", [name for index, name in enumerate(names) if index % 5 != 1])
    if validation := names[1::5]:
        _write_list(out / "list" / "val.txt", validation)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    _write_whole(path, cv2.imencode(".png", pixels)[1].tobytes())


def _write_list(path: Path, names: Sequence[str]) -> None:
    _write_whole(path, "".join(f"{name}\n" for name in names).encode())


def _write_whole(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)
