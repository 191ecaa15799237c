"""Rasters and masks on disk: GeoTIFFs written by rows, PNG masks, and which pixels of a raster are valid."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.transform import Affine
from rasterio.windows import Window

from data_pipelines.decoding import Grid
from segdiff.files import write_whole

BLOCK = 256
"""The edge of a GeoTIFF's blocks in pixels."""

OVERVIEWS_ABOVE = 1024
"""A raster with a side longer than this, in pixels, gets overviews, down to the first that is not longer."""


def is_raster(path: Path) -> bool:
    """Whether `path` is named as a TIFF (.tif, .tiff), which is read and written by windows."""
    return Path(path).suffix.lower() in {".tif", ".tiff"}


class RowWriter:
    """Writes a GeoTIFF from slabs of rows, top to bottom; made by `open_mask_writer` and `open_probability_writer`.

    Slabs of any height are gathered to whole rows of blocks, so that each block is compressed and written once and
    memory stays at a row of blocks.
    """

    def __init__(self, dataset: DatasetWriter):
        self._dataset = dataset
        shape = (BLOCK, dataset.width, dataset.count)
        self._rows = np.zeros(shape, dataset.dtypes[0])
        self._valid = np.ones(shape[:2], bool)
        self._next = 0
        self._masked = False

    def write_rows(self, y: int, rows: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Take the rows from row `y` on, the row after those given last.

        `rows` is n x width for a mask and n x width x K for probabilities, of exactly the raster's dtype. `valid` (n x
        width, bool) is False where the inputs hold no data: those pixels become 0 and are marked in the raster's
        internal mask. Raises ValueError where rows are missing or repeated, or shape or dtype differ.
        """
        dataset = self._dataset
        if rows.ndim == 2:
            rows = rows[:, :, None]
        expected = (len(rows), dataset.width, dataset.count)
        if rows.shape != expected or rows.dtype != self._rows.dtype:
            raise ValueError(
                f"{dataset.name}: rows of shape {rows.shape} and dtype {rows.dtype}; "
                f"it takes n x {dataset.width} x {dataset.count} of dtype {self._rows.dtype}"
            )
        if valid is not None and (valid.shape != rows.shape[:2] or valid.dtype != bool):
            raise ValueError(
                f"{dataset.name}: valid of shape {valid.shape} and dtype {valid.dtype}; "
                f"it takes bool of the rows' shape {rows.shape[:2]}"
            )
        if y != self._next or y + len(rows) > dataset.height:
            raise ValueError(
                f"{dataset.name}: rows {y}..{y + len(rows)} of {dataset.height} came where row {self._next} is next"
            )
        done = 0
        while done < len(rows):
            held = self._next % BLOCK
            count = min(BLOCK - held, len(rows) - done)
            self._rows[held : held + count] = rows[done : done + count]
            self._valid[held : held + count] = True if valid is None else valid[done : done + count]
            self._next += count
            done += count
            if self._next % BLOCK == 0 or self._next == dataset.height:
                self._write_blocks(held + count)

    def finish(self) -> None:
        """Raise ValueError unless every row of the raster has been written."""
        if self._next != self._dataset.height:
            raise ValueError(f"{self._dataset.name}: the rows end at {self._next} of {self._dataset.height}")

    def _write_blocks(self, count: int) -> None:
        top = self._next - count
        rows, valid = self._rows[:count], self._valid[:count]
        rows[~valid] = 0
        self._dataset.write(np.moveaxis(rows, 2, 0), window=Window(0, top, self._dataset.width, count))
        if not self._masked and not valid.all():
            # A mask that says nothing is left out; one that begins further down says first that all above is valid.
            self._masked = True
            for y in range(0, top, BLOCK):
                self._write_mask(y, np.ones((BLOCK, self._dataset.width), bool))
        if self._masked:
            self._write_mask(top, valid)

    def _write_mask(self, y: int, valid: np.ndarray) -> None:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            self._dataset.write_mask(valid, window=Window(0, y, self._dataset.width, len(valid)))


@contextmanager
def open_mask_writer(path: Path, *, width: int, height: int, grid: Grid | None) -> Iterator[RowWriter]:
    """Open a mask GeoTIFF of one uint8 band, no palette, to be written by rows; `path` appears whole at the end.

    Tiled, Deflate, no nodata value: invalid pixels are 0 and marked in GDAL's internal mask, which is left out where
    every pixel is valid. Overviews take the nearest pixel, which keeps small changes in proportion where the most
    frequent value would drop them. `grid` gives CRS and transform. Raises ValueError where the rows written do not fill
    the raster, or the grid has another size.
    """
    with _open_writer(path, width, height, grid, "uint8", None, 2, Resampling.nearest) as writer:
        yield writer


@contextmanager
def open_probability_writer(
    path: Path, *, width: int, height: int, grid: Grid | None, band_names: Sequence[str]
) -> Iterator[RowWriter]:
    """Open a GeoTIFF of probabilities, one float32 band of 0..1 for each of `band_names`, otherwise like a mask's.

    Deflate with the floating-point predictor; overviews are averages.
    """
    with _open_writer(path, width, height, grid, "float32", band_names, 3, Resampling.average) as writer:
        yield writer


@contextmanager
def _open_writer(
    path: Path,
    width: int,
    height: int,
    grid: Grid | None,
    dtype: str,
    band_names: Sequence[str] | None,
    predictor: int,
    overview: Resampling,
) -> Iterator[RowWriter]:
    if grid is not None and (grid.width, grid.height) != (width, height):
        raise ValueError(
            f"{path}: the grid is {grid.width} x {grid.height} pixels (width x height), the raster {width} x {height}"
        )
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": len(band_names) if band_names else 1,
        "dtype": dtype,
        "compress": "deflate",
        "predictor": predictor,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "BIGTIFF": "IF_SAFER",
    }
    if grid is not None:
        profile.update(crs=grid.crs, transform=Affine(*grid.transform[:6]))
    with write_whole(path) as temporary:
        with rasterio.open(temporary, "w", **profile) as dataset:
            for band, name in enumerate(band_names or (), start=1):
                dataset.set_band_description(band, name)
            writer = RowWriter(dataset)
            yield writer
            writer.finish()
        factors: list[int] = []
        while max(width, height) > OVERVIEWS_ABOVE * 2 ** len(factors):
            factors.append(2 ** (len(factors) + 1))
        if factors:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(temporary, "r+") as dataset:
                dataset.build_overviews(factors, overview)


def valid_rows(dataset: DatasetReader, y0: int, y1: int) -> np.ndarray:
    """Which pixels of rows y0..y1 (y1 excluded) of an open raster hold data: bool (y1 - y0) x width.

    From the raster's own mask, alpha band or nodata value; with a nodata value a pixel is invalid where every band
    has it. A raster with none of them is valid throughout, which costs no reading.
    """
    if all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums):
        return np.ones((y1 - y0, dataset.width), bool)
    return dataset.dataset_mask(window=Window(0, y0, dataset.width, y1 - y0)) != 0


def write_png_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask, uint8 H x W, as a PNG of 8 bits and one channel, never a palette; `path` appears whole."""
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"{path}: a mask is uint8 H x W, not {mask.dtype} of shape {mask.shape}")
    done, encoded = cv2.imencode(".png", mask)
    if not done:
        raise ValueError(f"{path}: a mask of {mask.shape[0]} x {mask.shape[1]} pixels cannot be written as PNG")
    with write_whole(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
