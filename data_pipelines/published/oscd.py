"""OSCD: urban change, Sentinel-2 with 13 bands at 10 m (Daudt et al. 2018, doi:10.1109/IGARSS.2018.8518015).

As downloaded (rcdaudt.github.io/oscd), three folders called "Onera Satellite Change Detection dataset - ...":

    ... - Images         train.txt and test.txt (14 and 10 cities, commas between), CITY/imgs_1_rect/B01.tif .. B12.tif
                         and CITY/imgs_2_rect, of two dates: uint16, all bands resampled to 10 m and to one size
    ... - Train Labels   CITY/cm/CITY-cm.tif: 1 no change, 2 change
    ... - Test Labels    the same
"""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError

from data_pipelines.decoding import DecodeError, Grid, grid_difference, open_tiff, read_info, read_mask
from data_pipelines.layouts import DataError
from data_pipelines.published.downloads import descend, find_base, subfolders
from data_pipelines.published.files import require_size, write_bytes, write_image
from data_pipelines.published.plan import Plan, Work

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""In the order in which they are stored: that of their wavelengths."""

STRETCH = "stretch.json"
"""The file that says which values became 0 and 255."""

PERCENTILES = (0.5, 99.5)
_PUBLISHED = {"train": 14, "test": 10}
_VALUES = 2**16


@dataclass(frozen=True)
class Stretch:
    """Of each band the values that become 0 and 255; what lies between is linear, what lies beyond is clipped."""

    low: tuple[int, ...]
    high: tuple[int, ...]

    def tables(self) -> np.ndarray:
        """13 x 65536 uint8: what becomes of each value of each band, round(255 (x - low) / (high - low))."""
        values = np.arange(_VALUES, dtype=np.float64)
        scaled = [255 * (values - low) / (high - low) for low, high in zip(self.low, self.high, strict=True)]
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def plan(src: Path, out: Path) -> Plan:
    """GeoTIFFs of 13 bands, uint8, by one stretch of each band for all cities and both dates, and masks as PNG.

    The stretch goes from the 0.5th to the 99.5th percentile of all pixels of the training cities that are not 0 (no
    data), and is stored in stretch.json. Where both dates of a city have the same grid it is kept.
    """
    base = find_base(
        src,
        "OSCD",
        'folders called "... - Images" (with train.txt) and "... - Train Labels" or "... - Test Labels"',
        lambda folder: _part(folder, "images") is not None and bool(_labels(folder)),
    )
    images, labels = _part(base, "images"), _labels(base)
    assert images is not None, "that is how it was found"
    training = _cities(images, "train")
    stretch = stretch_of(images, training)
    tables = stretch.tables()
    work, notes = [], []
    for split, folder in labels.items():
        for city in _cities(images, split):
            mask = descend(folder, city, "cm", f"{city}-cm.tif")
            if mask is None:
                raise DataError(f"{folder}: no {city}/cm/{city}-cm.tif; download the labels again")
            grid = _common_grid(images, city)
            if isinstance(grid, str):
                notes.append(f"{city}: its images are left without a grid: {grid}")
            write = partial(_write, images, city, mask, tables, None if isinstance(grid, str) else grid, out / split)
            work.append(Work(split, 1, write))
    if len(training) != _PUBLISHED["train"]:
        notes.append(f"the stretch is that of {len(training)} training cities, not of {_PUBLISHED['train']}")
    return Plan(tuple(work), _PUBLISHED, tuple(notes), {STRETCH: _to_json(stretch, training)})


def stretch_of(images: Path, cities: list[str]) -> Stretch:
    """The stretch by the pixels of both dates of these cities."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = sum(pool.map(partial(_counts, images), cities))
    low, high = [], []
    for band, of_band in zip(BANDS, np.asarray(counts), strict=True):
        seen = np.cumsum(of_band[1:])
        if not seen[-1]:
            raise DataError(f"{images}: {band} of all training cities is 0; download the images again")
        lowest, highest = (1 + int(np.searchsorted(seen, seen[-1] * share / 100)) for share in PERCENTILES)
        low.append(lowest)
        high.append(max(highest, lowest + 1))
    return Stretch(tuple(low), tuple(high))


def _counts(images: Path, city: str) -> np.ndarray:
    """13 x 65536: how often each value stands in each band, of both dates."""
    counts = np.zeros((len(BANDS), _VALUES), np.int64)
    for date in (1, 2):
        for index, path in enumerate(_band_files(images, city, date)):
            counts[index] += np.bincount(_read_band(path).ravel(), minlength=_VALUES)
    return counts


def _to_json(stretch: Stretch, cities: list[str]) -> str:
    content = {
        "stored": "round(255 * (x - low) / (high - low)), clipped to 0 .. 255",
        "percentiles": PERCENTILES,
        "cities": cities,
        "bands": {
            band: {"low": low, "high": high} for band, low, high in zip(BANDS, stretch.low, stretch.high, strict=True)
        },
    }
    return json.dumps(content, indent=2) + "\n"


# ---------------------------------------------------------------------------------------------------- its folders


def _part(base: Path, ending: str) -> Path | None:
    """The folder whose name ends so; unpacked into a folder of its own name it is the inner one."""
    for folder in subfolders(base):
        if folder.name.lower().replace("_", " ").endswith(ending):
            return descend(folder, folder.name) or folder
    return None


def _labels(base: Path) -> dict[str, Path]:
    found = {split: _part(base, f"{split} labels") for split in _PUBLISHED}
    return {split: folder for split, folder in found.items() if folder is not None}


def _cities(images: Path, split: str) -> list[str]:
    path = descend(images, f"{split}.txt")
    if path is None:
        raise DataError(f"{images}: no {split}.txt, which names the cities of the split; download the images again")
    cities = [city for city in re.split(r"[\s,]+", path.read_text(encoding="utf-8", errors="replace")) if city]
    if not cities:
        raise DataError(f"{path}: names no city; download the images again")
    return cities


def _band_files(images: Path, city: str, date: int) -> list[Path]:
    files = []
    for band in BANDS:
        path = descend(images, city, f"imgs_{date}_rect", f"{band}.tif")
        if path is None:
            raise DataError(f"{images}: no {city}/imgs_{date}_rect/{band}.tif; download the images again")
        files.append(path)
    return files


def _common_grid(images: Path, city: str) -> Grid | str | None:
    """That of both dates, None where neither has one, or in words why there is none."""
    one, other = (read_info(_band_files(images, city, date)[0]).grid for date in (1, 2))
    if one is None and other is None:
        return None
    if one is None or other is None:
        return "only one of the dates has one"
    return grid_difference(one, other) or one


# ----------------------------------------------------------------------------------------------------- its pixels


def _read_band(path: Path) -> np.ndarray:
    with open_tiff(path) as source:
        if source.count != 1 or source.dtypes[0] != "uint16":
            raise DecodeError(path, f"{source.count} bands of {source.dtypes[0]}; OSCD has one of uint16 a file")
        try:
            return source.read(1)
        except RasterioIOError as error:
            raise DecodeError(path, "unreadable or cut short; download the images again") from error


def _write(images: Path, city: str, mask: Path, tables: np.ndarray, grid: Grid | None, folder: Path) -> None:
    stored = read_mask(mask)
    if not set(values := np.unique(stored).tolist()) <= {1, 2}:
        raise DecodeError(mask, f"values {values}; OSCD has 1 (no change) and 2 (change): download the labels again")
    for role, date in (("A", 1), ("B", 2)):
        bands = []
        for path, table in zip(_band_files(images, city, date), tables, strict=True):
            band = _read_band(path)
            require_size(path, band.shape, mask, stored.shape)
            bands.append(table[band])
        write_bytes(folder / role / f"{city}.tif", _geotiff(np.stack(bands), grid))
    write_image(folder / "label" / f"{city}.png", np.where(stored == 2, np.uint8(255), np.uint8(0)))


def _geotiff(bands: np.ndarray, grid: Grid | None) -> bytes:
    """13 x H x W uint8 as the bytes of a GeoTIFF, its bands described by their names."""
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": len(bands), "compress": "deflate"}
    profile |= {"height": bands.shape[1], "width": bands.shape[2], "photometric": "minisblack", "predictor": 2}
    if grid is not None:
        profile |= {"crs": grid.crs or None, "transform": rasterio.Affine(*grid.transform)}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(bands)
            target.descriptions = BANDS
        return memory.read()
