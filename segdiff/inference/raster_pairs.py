"""Two rasters of any size as a stream of tiles: each row is read once, ahead of its use, and let go."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.decoding import dataset_info, grid_difference, open_tiff, read_rows
from data_pipelines.layouts import DataError
from segdiff.inference.rasters import valid_rows
from segdiff.inference.runtimes import Batch
from segdiff.inference.tiling import TilePlan, read_tile

PREVIEW = 2048
"""The longest side of a preview, in pixels."""


class RasterPair:
    """Two open rasters on one grid, from which tiles are cut row of tiles by row of tiles; see ``open_raster_pair``.

    Memory holds the rows of one row of tiles, the next ones that are being read, and the validity of rows that have
    been read and not yet been asked for.
    """

    def __init__(self, before, after, bands: tuple[int, int]):
        self._datasets, self._bands = (before, after), bands
        self.name = Path(after.name).stem
        self.grid = dataset_info(after).grid
        self.height, self.width = after.height, after.width
        self._factor = max(-(-max(self.height, self.width) // PREVIEW), 1)
        self._reader = ThreadPoolExecutor(1)  # rasterio's datasets are for one thread at a time
        self._coming: Future | None = None
        self._top, self._slab = 0, self._none()
        self._previews: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._unpreviewed = self._none()
        self._valid: list[np.ndarray] = []

    def _none(self) -> Batch:
        before, after = (np.empty((0, self.width, bands), np.uint8) for bands in self._bands)
        return before, after

    def tiles(self, plan: TilePlan) -> Iterator[Batch]:
        """Before and after of every tile in row-major order; to be asked for once. Raises DataError on bad pixels."""
        ends = [min(y + plan.tile_height, self.height) for y in plan.origins_y]
        self._coming = self._reader.submit(self._read, 0, ends[0])
        for row, y in enumerate(plan.origins_y):
            new, valid = self._coming.result()
            bottom = ends[row]
            if row + 1 < len(ends):
                self._coming = self._reader.submit(self._read, bottom, ends[row + 1])
            kept = y - self._top
            before, after = (np.concatenate([old[kept:], rows]) for old, rows in zip(self._slab, new, strict=True))
            self._slab, self._top = (before, after), y
            self._valid.append(valid)
            self._preview(new, last=bottom == self.height)
            for x in plan.origins_x:
                yield self._tile(before, y, x, plan), self._tile(after, y, x, plan)

    def _tile(self, slab: np.ndarray, y: int, x: int, plan: TilePlan) -> np.ndarray:
        def window(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            return slab[y0 - y : y1 - y, x0:x1]

        return read_tile(window, y, x, plan.tile_height, plan.tile_width, size=(self.height, self.width))

    def _read(self, y0: int, y1: int) -> tuple[Batch, np.ndarray]:
        before, after = (
            read_rows(dataset, y0, y1, bands) for dataset, bands in zip(self._datasets, self._bands, strict=True)
        )
        valid = np.logical_and(*(valid_rows(dataset, y0, y1) for dataset in self._datasets))
        return (before, after), valid

    def _preview(self, rows: Batch, *, last: bool) -> None:
        """Shrinks whole blocks of rows by area."""
        waiting = tuple(np.concatenate(pair) for pair in zip(self._unpreviewed, rows, strict=True))
        whole = len(waiting[0]) if last else len(waiting[0]) // self._factor * self._factor
        if whole:
            size = -(-self.width // self._factor), -(-whole // self._factor)
            for shrunk, image in zip(self._previews, waiting, strict=True):
                small = cv2.resize(image[:whole], size, interpolation=cv2.INTER_AREA)
                shrunk.append(small.reshape(*small.shape[:2], image.shape[2]))
        before, after = (image[whole:].copy() for image in waiting)
        self._unpreviewed = before, after

    @property
    def factor(self) -> int:
        """How many pixels a side become one of a preview."""
        return self._factor

    def previews(self) -> Batch:
        """Both images, shrunk by area to at most PREVIEW pixels a side; when all tiles have been asked for."""
        before, after = (np.concatenate(shrunk) for shrunk in self._previews)
        return before, after

    def valid_rows(self, y0: int, y1: int) -> np.ndarray:
        """Which pixels of rows y0 to y1 (excluded) hold data in both rasters: bool; to be asked for once, in order."""
        waiting = self._valid[0] if len(self._valid) == 1 else np.concatenate(self._valid)
        self._valid = [waiting[y1 - y0 :]]
        return waiting[: y1 - y0]

    def close(self) -> None:
        """Waits for what is being read, and closes both rasters."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        for dataset in self._datasets:
            dataset.close()


def open_raster_pair(before: Path, after: Path, bands: tuple[int, int]) -> RasterPair:
    """Opens two GeoTIFFs, to be closed when done. Raises DataError where that cannot be, or their grids differ."""
    with ExitStack() as stack:
        datasets = [stack.enter_context(open_tiff(path)) for path in (before, after)]
        one, other = (dataset_info(dataset) for dataset in datasets)
        if one.grid and other.grid and (difference := grid_difference(one.grid, other.grid)):
            raise DataError(f"{after}: not on the grid of {before}: {difference}; warp one onto the other's grid")
        if (one.height, one.width) != (other.height, other.width):
            raise DataError(
                f"{after}: is {other.width} x {other.height} pixels (width x height), {before} is "
                f"{one.width} x {one.height}; crop or resample one"
            )
        pair = RasterPair(*datasets, bands)
        stack.pop_all()
        return pair
