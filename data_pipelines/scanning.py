"""Decode every file of a data set once and remember what it holds.

The memory is one JSON file for each data set in the user's cache folder, an entry being good as long as its file has
the same size and time. Files that could not be read are not remembered: the cause may have been the disk.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.cache import cache_folder
from data_pipelines.decoding import (
    TRANSPARENT,
    DecodeError,
    Grid,
    has_equal_channels,
    image_strips,
    is_opaque,
    mask_strips,
    read_info,
)
from data_pipelines.layouts import DataSet
from data_pipelines.shards import stamp

logger = logging.getLogger(__name__)

_VERSION = 1  # of the scans below and what they mean; an older cache is made anew


@dataclass(frozen=True)
class ImageScan:
    """What an image file holds. Where `error` is set the rest is what the header told, height 0 if not even that.

    `plain_bands` are the bands less opaque alpha, and 1 for three equal channels (`grey_as_rgb`).
    """

    height: int = 0
    width: int = 0
    bands: int = 0
    plain_bands: int = 0
    dtype: str = ""
    grey_as_rgb: bool = False
    grid: Grid | None = None
    error: str | None = None


@dataclass(frozen=True)
class MaskScan:
    """What a mask file holds: size, pixels of each stored value, whether JPEG compressed. `error` as in ImageScan."""

    height: int = 0
    width: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    jpeg: bool = False
    grid: Grid | None = None
    error: str | None = None


def scan_files(
    data: DataSet, on_progress: Callable[[int, int], None] | None = None
) -> tuple[dict[Path, ImageScan], dict[Path, MaskScan]]:
    """Scan the images and the masks of all pairs, each file once, on all cores or from the cache.

    `on_progress` is called with the files done and the files in all. An interrupted scan remembers what it has done.
    """
    wanted = {("image", path): None for pair in data.pairs for path in (pair.before, pair.after)}
    wanted |= {("mask", pair.mask): None for pair in data.pairs if pair.mask}
    memory = cache_folder() / "check" / f"{hashlib.sha256(os.fsencode(data.root.resolve())).hexdigest()[:32]}.json"
    cached = _read_memory(memory)

    # Taken before the file is read: should it change meanwhile, the entry is stale, never wrong.
    stamps = {key: _stamp(key[1]) for key in wanted}
    scans: dict[tuple[str, Path], ImageScan | MaskScan] = {}
    for key, taken in stamps.items():
        entry = cached.get(_entry_key(*key))
        if entry and taken and entry[0] == taken:
            scans[key] = entry[1]
    missing = [key for key in wanted if key not in scans]

    pool = ThreadPoolExecutor(os.cpu_count())  # the decoders let go of the interpreter lock
    try:
        futures = {pool.submit(_SCANNERS[kind], path): (kind, path) for kind, path in missing}
        if on_progress:
            on_progress(len(scans), len(wanted))
        for future in as_completed(futures):
            scans[futures[future]] = future.result()
            if on_progress:
                on_progress(len(scans), len(wanted))
    finally:
        pool.shutdown(cancel_futures=True)
        if missing:
            good = {_entry_key(*key): (stamps[key], scan) for key, scan in scans.items() if not scan.error}
            _write_memory(memory, good)
    images = {path: scan for (_, path), scan in scans.items() if isinstance(scan, ImageScan)}
    masks = {path: scan for (_, path), scan in scans.items() if isinstance(scan, MaskScan)}
    return images, masks


def _scan_image(path: Path) -> ImageScan:
    scan = ImageScan()
    try:
        info = read_info(path)
        scan = ImageScan(info.height, info.width, info.bands, info.bands, info.dtype, grid=info.grid)
        colours = info.bands - info.alpha
        height, width, opaque, equal = 0, 0, True, colours == 3
        for strip in image_strips(path):
            height, width = height + strip.shape[0], strip.shape[1]
            opaque = opaque and (not info.alpha or is_opaque(strip))
            equal = equal and has_equal_channels(strip[..., :3])
    except DecodeError as error:
        return replace(scan, error=error.problem)
    plain_bands = 1 if equal else colours
    scan = replace(scan, height=height, width=width, plain_bands=plain_bands, grey_as_rgb=equal)
    return scan if opaque else replace(scan, error=TRANSPARENT)


def _scan_mask(path: Path) -> MaskScan:
    scan = MaskScan()
    try:
        info = read_info(path)
        scan = MaskScan(info.height, info.width, jpeg=info.jpeg, grid=info.grid)
        height, width, counts = 0, 0, np.zeros(256, np.int64)
        for strip in mask_strips(path):
            height, width = height + strip.shape[0], strip.shape[1]
            counts += np.bincount(strip.ravel(), minlength=256)
    except DecodeError as error:
        return replace(scan, error=error.problem)
    histogram = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return replace(scan, height=height, width=width, counts=histogram)


_SCANNERS: dict[str, Callable[[Path], ImageScan | MaskScan]] = {"image": _scan_image, "mask": _scan_mask}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        return stamp(path)
    except OSError:
        return None  # reading the file will say what is wrong


def _entry_key(kind: str, path: Path) -> str:
    return f"{kind} {path.absolute()}"


def _read_memory(memory: Path) -> dict[str, tuple[tuple[int, int], ImageScan | MaskScan]]:
    try:
        content = json.loads(memory.read_bytes())
        if content["version"] != _VERSION:
            return {}
        return {key: ((size, time), _from_plain(key, scan)) for key, (size, time, scan) in content["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s: the cache of an earlier check is damaged and made anew (%s)", memory, error)
        return {}


def _write_memory(memory: Path, good: dict[str, tuple[tuple[int, int] | None, ImageScan | MaskScan]]) -> None:
    files = {key: (*taken, asdict(scan)) for key, (taken, scan) in good.items() if taken}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, suffix=".tmp", delete=False) as file:
            try:
                json.dump({"version": _VERSION, "files": files}, file)
                file.close()
                Path(file.name).replace(memory)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        logger.warning("%s: this check is not remembered (%s)", memory, error)


def _from_plain(key: str, plain: dict[str, Any]) -> ImageScan | MaskScan:
    if grid := plain["grid"]:
        plain["grid"] = Grid(grid["crs"], tuple(grid["transform"]), grid["width"], grid["height"])
    if key.startswith("image "):
        return ImageScan(**plain)
    plain["counts"] = {int(value): count for value, count in plain["counts"].items()}
    return MaskScan(**plain)
