"""Two rasters of any size as a stream of tiles: each row is read once, ahead of its use, and let go."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from rasterio.io import DatasetReader

from data_pipelines.decoding import ImageInfo, dataset_info, grid_difference, open_tiff, read_rows
from data_pipelines.layouts import DataError
from segdiff.inference.previews import Preview
from segdiff.inference.rasters import valid_rows
from segdiff.inference.tiling import TilePlan, read_tile
from segdiff.prediction import Batch
from segdiff.resampling import RowResampler

_BLOCK_CACHE = 256 * 2**20
"""Bytes of decoded blocks that GDAL keeps: those that two rows of tiles share; by default it is 5 % of the memory."""

_READERS: set[ThreadPoolExecutor] = set()
"""Those of all pairs that are open: one that is garbage ends its thread, for which a pair of a stream that was given up
would wait for ever when it is closed as the same garbage."""


class RasterPair:
    """Two GeoTIFFs on one grid, open, from which tiles are cut row of tiles by row of tiles; to be closed when done.

    ``bands`` are those of the network. Where the plan of the tiles is of another size than the rasters, their rows are
    resampled to it as they are read. Memory holds the rows of one row of tiles, the next ones that are being read, and
    the validity of rows that have been read and not yet been asked for. Raises DataError where they cannot be opened or
    do not lie on one grid.
    """

    def __init__(self, before: Path, after: Path, bands: tuple[int, int]):
        self._bands = bands
        # rasterio's datasets are used and closed by the thread that opened them
        self._reader = ThreadPoolExecutor(1)
        _READERS.add(self._reader)
        try:
            self._opened, self._datasets, info = self._reader.submit(_open, before, after).result()
        except BaseException:
            self._end_reader()
            raise
        self.name = after.stem
        self.grid, self.height, self.width = info.grid, info.height, info.width
        self._coming: Future | None = None
        self._size = (self.height, self.width)
        """Of the plan; its rows down to ``_made`` have been made, and for them the rasters' own down to ``_taken``."""
        self._made = self._taken = 0
        self._resamplers: list[RowResampler] = []
        self._top, self._slab = 0, self._none()
        self._previews = [Preview(self.height, self.width, "area") for _ in range(2)]
        self._valid: list[np.ndarray] = []
        self.confidence: float | None = None
        """That of its prediction, from models that tell one."""

    def _none(self) -> Batch:
        before, after = (np.empty((0, self._size[1], bands), np.uint8) for bands in self._bands)
        return before, after

    def tiles(self, plan: TilePlan) -> Iterator[Batch]:
        """Before and after of every tile in row-major order; to be asked for once. Raises DataError on bad pixels."""
        self._size = (plan.height, plan.width)
        if self._size != (self.height, self.width):
            self._resamplers = [RowResampler((self.height, self.width), self._size) for _ in range(2)]
        self._slab = self._none()
        ends = [min(y + plan.tile_height, plan.height) for y in plan.origins_y]
        self._coming = self._reader.submit(self._read, ends[0])
        for row, y in enumerate(plan.origins_y):
            new, valid = self._coming.result()
            if row + 1 < len(ends):
                self._coming = self._reader.submit(self._read, ends[row + 1])
            # what mirrors past the lower border may lie above the tile
            top = min(y, max(2 * plan.height - (y + plan.tile_height), 0))
            kept = top - self._top
            before, after = (np.concatenate([old[kept:], rows]) for old, rows in zip(self._slab, new, strict=True))
            self._slab, self._top = (before, after), top
            self._valid += valid
            for x in plan.origins_x:
                yield self._tile(before, y, x, plan), self._tile(after, y, x, plan)

    def _tile(self, slab: np.ndarray, y: int, x: int, plan: TilePlan) -> np.ndarray:
        def window(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            return slab[y0 - self._top : y1 - self._top, x0:x1]

        return read_tile(window, y, x, plan.tile_height, plan.tile_width, size=self._size)

    def _read(self, end: int) -> tuple[Batch, list[np.ndarray]]:
        """The next rows of the plan's size, down to row ``end`` or somewhat further, and the validity of those read."""
        if not self._resamplers:
            rows, valid = self._read_own(end)
            self._made = end
            return rows, [valid]
        made, validity = [self._none()], []
        while self._made < end:
            rows, valid = self._read_own(min(self._taken + self._resamplers[0].step, self.height))
            before, after = (one.add(part) for one, part in zip(self._resamplers, rows, strict=True))
            self._made += len(before)
            made.append((before, after))
            validity.append(valid)
        before, after = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return (before, after), validity

    def _read_own(self, end: int) -> tuple[Batch, np.ndarray]:
        """The rasters' own next rows down to ``end``, excluded, and their validity as ``np.packbits`` packs it."""
        y0, self._taken = self._taken, end
        before, after = (
            read_rows(dataset, y0, end, bands) for dataset, bands in zip(self._datasets, self._bands, strict=True)
        )
        for preview, rows in zip(self._previews, (before, after), strict=True):
            preview.add(rows)
        valid = np.logical_and(*(valid_rows(dataset, y0, end) for dataset in self._datasets))
        return (before, after), np.packbits(valid, axis=1)

    def read_at(self, y0: int, y1: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rasters' rows y0 to y1 (excluded) and their validity, out of turn: n x W x bands uint8, n x W bool."""
        return self._reader.submit(self._read_out_of_turn, y0, y1).result()

    def _read_out_of_turn(self, y0: int, y1: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before, after = (
            read_rows(dataset, y0, y1, bands) for dataset, bands in zip(self._datasets, self._bands, strict=True)
        )
        return before, after, np.logical_and(*(valid_rows(dataset, y0, y1) for dataset in self._datasets))

    def previews(self) -> Batch:
        """Both images, made small; when all tiles have been asked for."""
        before, after = (preview.image() for preview in self._previews)
        return before, after

    def valid_rows(self, y0: int, y1: int) -> np.ndarray:
        """Which pixels of rows y0 to y1 (excluded) hold data in both rasters: bool; to be asked for once, in order."""
        waiting = self._valid[0] if len(self._valid) == 1 else np.concatenate(self._valid)
        self._valid = [waiting[y1 - y0 :]]
        return np.unpackbits(waiting[: y1 - y0], axis=1, count=self.width).view(bool)

    def close(self) -> None:
        """Waits for what is being read, and closes both rasters."""
        try:
            closed = self._reader.submit(self._opened.close)
        except RuntimeError:  # the interpreter is going down, its threads have ended and it closes files itself
            return
        closed.result()
        self._end_reader()

    def _end_reader(self) -> None:
        self._reader.shutdown()
        _READERS.discard(self._reader)


def _open(before: Path, after: Path) -> tuple[ExitStack, list[DatasetReader], ImageInfo]:
    """Both, open, with what closes them, and what the header of the one after says."""
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_BLOCK_CACHE))
        datasets = [stack.enter_context(open_tiff(path)) for path in (before, after)]
        one, other = (dataset_info(dataset) for dataset in datasets)
        if one.grid and other.grid and (difference := grid_difference(one.grid, other.grid)):
            raise DataError(f"{after}: not on the grid of {before}: {difference}; warp one onto the other's grid")
        if (one.height, one.width) != (other.height, other.width):
            raise DataError(
                f"{after}: is {other.width} x {other.height} pixels (width x height), {before} is "
                f"{one.width} x {one.height}; crop or resample one"
            )
        return stack.pop_all(), datasets, other
