"""A trained model at work: images of any size in, mask and probability out."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.io
import rasterio.vrt

from data_pipelines.decoding import (
    Grid,
    array_with_bands,
    dataset_info,
    grid_difference,
    open_tiff,
    read_image,
    read_info,
    read_rows,
)  # fmt: skip
from data_pipelines.layouts import DataError, Pair
from data_pipelines.pair_index import PairIndex
from data_pipelines.shards import gdal_name
from segdiff.augmented_prediction import augmented, augmented_reach, rescales
from segdiff.ground_resolution import differ, own_resolution, size_at, target_resolution
from segdiff.inference.pair_threshold import PairScale, measure_pair
from segdiff.inference.postprocessing import postprocess_mask
from segdiff.inference.raster_pairs import RasterPair
from segdiff.inference.rasters import is_raster, valid_rows
from segdiff.inference.runtimes import (
    Batch,
    Network,
    Precision,
    RuntimeName,
    by_threes,
    mean_of,
    open_network,
)
from segdiff.inference.tiling import TilePlan, blend_rows, plan_tiles, read_tile
from segdiff.model_files import Augmentation, ModelError, PostProcessing, Settings, known_augmentation
from segdiff.resampling import resample, resample_rows

_BATCH_PIXELS = 8 * 256 * 256
"""Pixels of the tiles that go through the network at once: enough to keep the cores busy, little memory."""

_LONGEST_SIDE = 1 << 21
"""Pixels: where a row has more, those of one row of tiles do not fit into memory."""

_READ_AHEAD = 4
"""Pairs that are read, at most, before their turn."""

_FAULTS_NAMED = 20
"""Images without partner, at most, in the message of an error."""

_DATASETS = (rasterio.io.DatasetReader, rasterio.io.DatasetWriter, rasterio.vrt.WarpedVRT)
"""What rasterio opens, be it a file, one in memory or a warped view."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one pair, on the grid of its images."""

    mask: np.ndarray
    """uint8 H x W, post-processed: 0 and 1, or class indices; 0 where a raster has no data."""
    probability: np.ndarray
    """float32 H x W of change, or H x W x K of the classes, 0..1."""
    name: str = ""
    grid: Grid | None = None
    """Where the pair lies on the ground, if it says so."""
    valid: np.ndarray | None = None
    """bool H x W, False where either raster has no data; None: everything is valid."""
    confidence: float | None = None
    """0..1, of models that find the threshold in the pair itself: see `pair_threshold.PairScale`; None of others."""

    @property
    def change_probability(self) -> np.ndarray:
        """float32 H x W, whatever the number of classes."""
        return change_probability(self.probability, self.valid)


def change_probability(probability: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """That of any change, float32 n x W, of a Prediction's or of rows of it; 0 where nothing is valid."""
    if probability.ndim == 2:
        return probability
    change = 1.0 - probability[..., 0]
    return change if valid is None else np.where(valid, change, np.float32(0))


@dataclass(frozen=True)
class LoadedPair:
    """Two images in memory."""

    before: np.ndarray
    after: np.ndarray
    grid: Grid | None = None
    valid: np.ndarray | None = None
    confidence: float | None = None
    """That of its prediction, from models that tell one."""

    @property
    def height(self) -> int:
        """In pixels."""
        return self.before.shape[0]

    @property
    def width(self) -> int:
        """In pixels."""
        return self.before.shape[1]

    def valid_rows(self, y0: int, y1: int) -> np.ndarray | None:
        """Which pixels of rows y0 to y1 (excluded) hold data; None: all."""
        return None if self.valid is None else self.valid[y0:y1]

    def read_at(self, y0: int, y1: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Before, after and validity of rows y0 to y1 (excluded)."""
        return self.before[y0:y1], self.after[y0:y1], self.valid_rows(y0, y1)

    def tiles(self, plan: TilePlan) -> Iterator[Batch]:
        """Before and after of every tile in row-major order, of the images at the plan's size."""
        before, after, to = self.before, self.after, (plan.height, plan.width)
        if to != (self.height, self.width):
            before, after = resample(before, to), resample(after, to)
        size = (plan.tile_height, plan.tile_width)
        for _, _, y, x in plan.windows():
            yield read_tile(before, y, x, *size), read_tile(after, y, x, *size)


Rows = Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]]
"""(y, mask, probability, valid) of the rows from y on, top to bottom: uint8 n x W, float32 n x W or n x W x K, and bool
n x W, None where everything is valid; as in Prediction."""


class _Begun:
    """A pair whose tiles are being computed: how many were asked for and taken, and what went wrong in reading them."""

    def __init__(self, pair: Any, plan: TilePlan | None):
        self.pair, self.plan = pair, plan
        self.asked = self.taken = 0
        self.error: Exception | None = None


class Detector:
    """A change detector ready to predict; see ``load``.

    Several networks predict together: the mean of their probabilities counts, and the classes, threshold, tiles and
    ground resolution of the first. With a ``test_time_augmentation`` each sees every tile in several views; None: as
    the first network's model says. Masks are post-processed as that says, or as ``post_processing`` does. Raises
    ModelError on networks that do not take the same images or tell the same classes, work at ground
    resolutions that differ by more than a quarter, or cannot take a tile at another scale, ValueError on an unknown
    augmentation.
    """

    def __init__(
        self,
        *networks: Network,
        test_time_augmentation: Augmentation | None = None,
        post_processing: PostProcessing | None = None,
    ):
        first = networks[0]
        relative = [network.path for network in networks if network.settings.relative]
        if relative and len(networks) > 1:
            raise ModelError(
                f"{relative[0]}: finds a threshold in each pair, so its probabilities cannot be averaged with those of "
                "other models; leave the ensemble out"
            )
        for other in networks[1:]:
            if (other.bands, other.settings.classes) != (first.bands, first.settings.classes):
                raise ModelError(
                    f"{other.path}: takes {_takes(other)}, {first.path} {_takes(first)}: they cannot predict together"
                )
            one, two = first.settings.ground_resolution, other.settings.ground_resolution
            if one and two and any(differ(*ends) for ends in zip(one, two, strict=True)):
                raise ModelError(
                    f"{other.path}: works at {_trained(two)} m a pixel, {first.path} at {_trained(one)}: they "
                    "cannot predict together"
                )
        self.path = first.path
        self.test_time_augmentation = (
            first.settings.test_time_augmentation
            if test_time_augmentation is None
            else known_augmentation(test_time_augmentation)
        )
        if rescales(self.test_time_augmentation):
            for network in networks:
                if network.tile is not None:
                    raise ModelError(
                        f"{network.path}: takes tiles of {network.tile} pixels alone, not at other scales; take d4 or "
                        f"none instead of {self.test_time_augmentation} (--tta)"
                    )
        reaches = [self._reach(network.settings) for network in networks]
        self.settings = replace(
            first.settings,
            stride=math.lcm(*(network.settings.stride for network in networks)),
            reach=None if None in reaches else max(reach for reach in reaches if reach is not None),
        )
        self.bands: int | None = first.bands[0]
        """Of the image before; None: any number, both images having the same."""
        self.bands_after: int | None = first.bands[1]
        self.runtime = first.runtime
        self.post_processing = first.settings.post_processing if post_processing is None else post_processing
        self._tiles = {network.path: network.tile for network in networks if network.tile}
        """Networks that take tiles of one size only, and which."""
        runs = [network.run for network in networks]
        if self.settings.relative:
            self.bands = self.bands_after = None
            runs = [by_threes(run) for run in runs]
        # each by itself: its masks may lie displaced where those of others do not
        runs = [
            augmented(run, self.test_time_augmentation, network.settings.mask_offset, network.settings.stride)
            for run, network in zip(runs, networks, strict=True)
        ]
        self._run = mean_of(runs)

    def _reach(self, settings: Settings) -> int | None:
        """That of a network, in the view of a tile in which it is furthest."""
        if settings.reach is None:
            return None
        return augmented_reach(self.test_time_augmentation, settings.reach, settings.mask_offset)

    def predict(
        self,
        before: Any,
        after: Any,
        *,
        threshold: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        resolution: float | None = None,
    ) -> Prediction:
        """The change from ``before`` to ``after``, each a uint8 array H x W x C or H x W, a path or a rasterio dataset.

        The model's own threshold, tile and overlap hold where none is given. Images of any size are cut into
        overlapping tiles whose probabilities are blended. ``resolution`` is the metres per pixel of images that are
        not georeferenced: where theirs differ by more than a quarter from those of the model, they are resampled on the
        way in, and mask and probabilities are back on their own grid. Raises DataError on images that the model cannot
        take or that differ in size, or whose georeference says another resolution, ValueError on a threshold, tile,
        overlap or resolution out of range.
        """
        return self.predict_loaded(
            self.read(before, after),
            threshold=threshold,
            tile=tile,
            overlap=overlap,
            resolution=resolution,
            name=_name_of(after),
        )

    def read(self, before: Any, after: Any) -> LoadedPair:
        """Both images in the model's bands, the grid they share and which pixels hold data."""
        labels = _label(before, "before"), _label(after, "after")
        grids = _grid(before), _grid(after)
        if grids[0] and grids[1] and (difference := grid_difference(grids[0], grids[1])):
            raise DataError(
                f"{labels[1]}: not on the grid of {labels[0]}: {difference}; warp one onto the other's grid"
            )
        bands = self.bands_of(before, after, labels)
        images = _image(before, labels[0], bands[0]), _image(after, labels[1], bands[1])
        if images[0].shape[:2] != images[1].shape[:2]:
            sizes = [f"{image.shape[1]} x {image.shape[0]}" for image in images]
            raise DataError(
                f"{labels[1]}: is {sizes[1]} pixels (width x height), {labels[0]} is {sizes[0]}; crop or resample one"
            )
        invalid = [~valid for valid in (_valid(before), _valid(after)) if valid is not None]
        missing = np.logical_or.reduce(invalid) if invalid else None
        return LoadedPair(*images, grid=grids[1], valid=None if missing is None or not missing.any() else ~missing)

    def bands_of(self, before: Any, after: Any, labels: tuple[str, str]) -> tuple[int, int]:
        """How many bands are taken of the two images, which the labels name.

        Raises DataError where the model takes any number and theirs differ, grey and RGB apart.
        """
        if self.bands is not None and self.bands_after is not None:
            return self.bands, self.bands_after
        one, other = _stored_bands(before), _stored_bands(after)
        if one != other and {one, other} != {1, 3}:
            raise DataError(f"{labels[1]}: has {other} bands, {labels[0]} has {one}; take the same bands of both")
        return max(one, other), max(one, other)

    def predict_loaded(
        self,
        pair: LoadedPair,
        *,
        threshold: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        resolution: float | None = None,
        name: str = "",
    ) -> Prediction:
        """``predict`` on images that have been read already."""
        options = {"threshold": threshold, "tile": tile, "overlap": overlap, "resolution": resolution}
        for scaled, rows in self.predict_stream([pair], **options):  # type: ignore[arg-type]
            assert rows is not None
            prediction = self.gather(scaled, rows, name)
        return prediction

    def predict_stream(
        self,
        pairs: Iterable[Any],
        *,
        threshold: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        resolution: float | None = None,
    ) -> Iterator[tuple[Any, Rows | None]]:
        """``predict`` on one LoadedPair or RasterPair after the other: each with its rows.

        The rows are to be taken before the next pair is asked for, and raise DataError where a raster cannot be read.
        Whatever else is among the pairs comes back in its turn, with None. The tiles of several pairs are computed at
        once, so that some pairs are taken before the first result; by a relative model, which first looks at a whole
        pair, those of one.
        """
        self.check_options(threshold=threshold, tile=tile, overlap=overlap, resolution=resolution)
        threshold = self.settings.threshold if threshold is None else threshold
        options = {"threshold": threshold, "tile": tile, "overlap": overlap, "resolution": resolution}
        if not self.settings.relative:
            yield from self._predict_stream(pairs, None, **options)
            return
        for pair in pairs:
            if not isinstance(pair, LoadedPair | RasterPair):
                yield pair, None
                continue
            try:
                scale = measure_pair(pair, self._run, self.settings.stride)
            except (DataError, OSError) as error:
                yield pair, _failing(error)
                continue
            if isinstance(pair, RasterPair):
                pair.confidence = scale.confidence
            else:
                pair = replace(pair, confidence=scale.confidence)
            yield from self._predict_stream([pair], scale, **options)

    def _predict_stream(
        self,
        pairs: Iterable[Any],
        scale: PairScale | None,
        *,
        threshold: Any,
        tile: Any,
        overlap: Any,
        resolution: Any,
    ) -> Iterator[tuple[Any, Rows | None]]:
        """``predict_stream``; with a ``scale`` that of the one pair there is."""
        begun: deque[_Begun] = deque()

        def tiles() -> Iterator[Batch]:
            for pair in pairs:
                readable = isinstance(pair, LoadedPair | RasterPair)
                now = _Begun(pair, self.plan(pair, tile, overlap, resolution) if readable else None)
                begun.append(now)
                if now.plan is None:
                    continue
                try:
                    for one in pair.tiles(now.plan):
                        now.asked += 1
                        yield one if scale is None else scale.normalised(one)
                except (DataError, OSError) as error:
                    now.error = error

        computed = (tile for probabilities in self._run(_batches(tiles())) for tile in probabilities)
        ahead: deque[np.ndarray] = deque()

        def own(now: _Begun, plan: TilePlan) -> Iterator[tuple[int, int, np.ndarray]]:
            for row, column, *_ in plan.windows():
                following = ahead.popleft() if ahead else next(computed, None)
                if now.error is not None and now.taken >= now.asked:
                    if following is not None:
                        ahead.appendleft(following)  # it is the next pair's
                    now.taken = plan.count
                    raise now.error
                assert following is not None, "as many tiles are computed as are asked for"
                now.taken += 1
                yield row, column, following

        while True:
            if not begun:
                ahead.extend(islice(computed, 1))  # takes further pairs
            if not begun:
                return
            now = begun.popleft()
            if now.plan is None:
                yield now.pair, None
                continue
            mine = own(now, now.plan)
            blended = blend_rows(now.plan, mine, margin=self._margin(now.plan.overlap))
            if scale is not None:
                blended = ((y, scale.probability(rows)) for y, rows in blended)
            yield now.pair, _decided(now.pair, _on_own_grid(now.pair, now.plan, blended), threshold)
            if now.taken < now.plan.count:  # the consumer has left some
                with suppress(DataError, OSError):
                    deque(mine, maxlen=0)

    def _margin(self, overlap: int) -> int:
        """Pixels at a tile's edges that do not count, since the network saw padding there instead of the image.

        Where that reaches further than half the overlap, what is left out is what is worst: the more, the narrower the
        blend.
        """
        reach = self.settings.reach
        return reach if reach is not None and 2 * reach <= overlap else overlap * 3 // 8

    def gather(self, pair: LoadedPair, rows: Rows, name: str = "") -> Prediction:
        """The rows of a pair together, the mask post-processed."""
        masks, probabilities = zip(*((mask, probability) for _, mask, probability, _ in rows), strict=True)
        mask = np.concatenate(masks)
        if self.post_processing != PostProcessing():
            classes = len(self.settings.classes)
            mask = postprocess_mask(mask, self.post_processing, classes=classes, valid=pair.valid)
        return Prediction(
            mask,
            np.concatenate(probabilities),
            name=name,
            grid=pair.grid,
            valid=pair.valid,
            confidence=pair.confidence,
        )

    def check_options(
        self, *, threshold: float | None, tile: int | None, overlap: int | None, resolution: float | None = None
    ) -> None:
        """Raises ValueError, in one line, on options of ``predict`` that are out of range."""
        if resolution is not None and not 0 < resolution < math.inf:
            raise ValueError(f"resolution is {resolution}, it must be above 0 and finite: metres per pixel")
        if resolution is not None and self.settings.relative:
            raise ValueError(
                f"resolution is {resolution:g}, and {self.path} takes images of any resolution as they are: leave it "
                "out"
            )
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}, it must lie above 0 and below 1")
        tile = self.settings.tile if tile is None else tile
        overlap = self.settings.overlap if overlap is None else overlap
        plan_tiles(1, 1, tile=tile, overlap=overlap, stride=self.settings.stride)
        for path, fixed in self._tiles.items():
            if tile != fixed:
                raise ValueError(f"tile is {tile}, and {path.parent} was exported for tiles of {fixed} alone")

    def working_size(self, pair: LoadedPair | RasterPair, resolution: float | None = None) -> tuple[int, int]:
        """Height and width that a pair has where its pixels are as large as those that the model was trained on.

        Its own where they differ by a quarter at most, or one of the two is not known. Raises DataError where the
        pair's georeference contradicts the ``resolution`` given, and where the pair would be enlarged beyond sense or
        is too large.
        """
        own = own_resolution(pair.grid, resolution)
        target = target_resolution(own, self.settings.ground_resolution)
        height, width = pair.height, pair.width
        if own is not None and target is not None:
            height, width = size_at(height, width, own, target)
        if max(height, width) > _LONGEST_SIDE:
            raise DataError(
                f"{width} x {height} pixels (width x height) where {_LONGEST_SIDE} a side are allowed: restore it, or "
                "cut it into parts"
            )
        return height, width

    def plan(
        self,
        pair: LoadedPair | RasterPair,
        tile: int | None = None,
        overlap: int | None = None,
        resolution: float | None = None,
    ) -> TilePlan:
        """Where the tiles of a pair lie, at its ``working_size``."""
        return plan_tiles(
            *self.working_size(pair, resolution),
            tile=self.settings.tile if tile is None else tile,
            overlap=self.settings.overlap if overlap is None else overlap,
            stride=self.settings.stride,
            fixed=bool(self._tiles),
        )


def _takes(network: Network) -> str:
    before, after = network.bands
    return f"{before} and {after} bands and tells {', '.join(network.settings.classes)}"


def _trained(resolution: tuple[float, float]) -> str:
    return " to ".join(f"{end:g}" for end in dict.fromkeys(resolution))


def _failing(error: Exception) -> Rows:
    """The rows of a pair that could not be looked at: the error is raised where they are taken, as any other is."""
    raise error
    yield


def _batches(tiles: Iterable[Batch]) -> Iterator[Batch]:
    """Tiles of one size that follow each other, together as far as they fill a batch."""
    held: list[Batch] = []
    for tile in tiles:
        height, width = tile[0].shape[:2]
        full = len(held) >= max(_BATCH_PIXELS // (height * width), 1)
        if held and (full or held[0][0].shape != tile[0].shape):
            yield np.stack([before for before, _ in held]), np.stack([after for _, after in held])
            held = []
        held.append(tile)
    if held:
        yield np.stack([before for before, _ in held]), np.stack([after for _, after in held])


def _on_own_grid(
    pair: LoadedPair | RasterPair, plan: TilePlan, blended: Iterator[tuple[int, np.ndarray]]
) -> Iterator[tuple[int, np.ndarray]]:
    """The probabilities at the size of the pair's images, whatever that of the plan."""
    planned, own = (plan.height, plan.width), (pair.height, pair.width)
    if planned == own:
        yield from blended
        return
    y = 0
    for rows in resample_rows((slab for _, slab in blended), planned, own):
        yield y, rows
        y += len(rows)


def _decided(pair: LoadedPair | RasterPair, blended: Iterator[tuple[int, np.ndarray]], threshold: float) -> Rows:
    """The mask of the probabilities, slab by slab."""
    for y, probability in blended:
        if probability.shape[-1] == 1:
            probability = probability[..., 0]
            mask = (probability >= threshold).astype(np.uint8)
        else:
            kinds = (probability[..., 1:].argmax(axis=-1) + 1).astype(np.uint8)
            mask = np.where(1.0 - probability[..., 0] >= threshold, kinds, np.uint8(0))
        valid = pair.valid_rows(y, y + len(mask))
        if valid is not None:
            mask[~valid] = 0
            probability[~valid] = 0
        yield y, mask, probability, valid


def load(
    model: str | Path,
    *,
    runtime: RuntimeName = "auto",
    precision: Precision = "auto",
    ensemble: Sequence[str | Path] = (),
    test_time_augmentation: Augmentation | None = None,
    post_processing: PostProcessing | None = None,
    threads: int | None = None,
) -> Detector:
    """The detector that MODEL stands for: a shipped name, a .keras file, a run folder or an exported folder.

        detector = segdiff.load("runs/demo")
        result = detector.predict("before.png", "after.png")
        result.mask, result.probability

    ``runtime``, ``precision`` and ``threads`` are those of ``open_network``. The models of ``ensemble`` predict with
    it. ``test_time_augmentation`` is "none" or the mean that counts: "d4" over the eight turns and mirror images of
    every tile, eight times the work, "multiscale" over four of them, three at another scale, five times the work; None:
    as the (first) model says. Masks are post-processed as it says, or as ``post_processing`` does: ``PostProcessing()``
    leaves them alone. Raises ModelError where there is none, or none that can be trusted, ValueError on an unknown
    ``test_time_augmentation``.
    """
    networks = [open_network(one, runtime, precision, threads) for one in (model, *ensemble)]
    return Detector(
        *networks, test_time_augmentation=test_time_augmentation, post_processing=post_processing
    )  # fmt: skip


def predict_folder(
    detector: Detector,
    before: str | Path,
    after: str | Path,
    *,
    threshold: float | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    resolution: float | None = None,
    on_failure: Callable[[str, str], None] | None = None,
) -> Iterator[Prediction]:
    """Predictions of two folders of images, paired by stem, or of two files, one after the other.

    The options are those of ``Detector.predict``. However many pairs there are, a few are held at a time. A pair that
    cannot be predicted, for want of a partner too, does not keep the others: ``on_failure`` is told its name and what
    is wrong. Without it DataError is raised after the last result, and names the first of them.
    """
    problems: list[str] = []

    def keep(name: str, problem: str) -> None:
        if len(problems) <= _FAULTS_NAMED:
            problems.append(problem)

    tell = keep if on_failure is None else on_failure
    options = {"threshold": threshold, "tile": tile, "overlap": overlap, "resolution": resolution}
    with PairIndex(Path(before), Path(after)) as index:
        for unpaired in index.unpaired():
            tell(unpaired.name, unpaired.problem)
        for result in predict_pairs(detector, index.pairs(), **options):
            if isinstance(result, FailedPair):
                tell(result.pair.name, result.error)
            else:
                yield result.prediction
    if problems:
        more = ["and more"] if len(problems) > _FAULTS_NAMED else []
        raise DataError("; ".join([*problems[:_FAULTS_NAMED], *more]))


@dataclass(frozen=True)
class PredictedPair:
    """A pair, its images, what the model said, and how many seconds after the pair before."""

    pair: Pair
    images: LoadedPair
    prediction: Prediction
    seconds: float


@dataclass(frozen=True)
class PredictedRaster:
    """A pair of rasters and what the model says of them, row by row, to be taken before the next pair."""

    pair: Pair
    images: RasterPair
    rows: Rows
    """As the network says; their mask is still to be post-processed."""
    post_processing: PostProcessing


@dataclass(frozen=True)
class FailedPair:
    """A pair that could not be read, and why, in one line."""

    pair: Pair
    error: str


def predict_pairs(detector: Detector, pairs: Iterable[Pair], **options: Any) -> Iterator[PredictedPair | FailedPair]:
    """Predicts pair after pair while the next ones are read; ``options`` are those of ``Detector.predict``.

    A pair that cannot be read does not end the stream. However many pairs there are, a few are held at a time.
    """
    for result in _predict(detector, pairs, False, options):
        assert not isinstance(result, PredictedRaster)
        yield result


def stream_pairs(
    detector: Detector, pairs: Iterable[Pair], **options: Any
) -> Generator[PredictedPair | PredictedRaster | FailedPair, None, None]:
    """``predict_pairs``, but two GeoTIFFs are read and predicted row by row, whatever their size."""
    return _predict(detector, pairs, True, options)


def _predict(
    detector: Detector, pairs: Iterable[Pair], stream_rasters: bool, options: dict[str, Any]
) -> Generator[PredictedPair | PredictedRaster | FailedPair, None, None]:
    names: deque[Pair] = deque()

    def read(pair: Pair) -> LoadedPair | RasterPair | FailedPair:
        try:
            if stream_rasters and is_raster(pair.before) and is_raster(pair.after):
                source: LoadedPair | RasterPair
                bands = detector.bands_of(pair.before, pair.after, (str(pair.before), str(pair.after)))
                source = RasterPair(pair.before, pair.after, bands)
            else:
                source = detector.read(pair.before, pair.after)
            try:
                detector.working_size(source, options.get("resolution"))
            except DataError as error:
                if isinstance(source, RasterPair):
                    source.close()
                return FailedPair(pair, f"{pair.after}: {error}")
            return source
        except DataError as error:
            return FailedPair(pair, str(error))
        except OSError as error:
            return FailedPair(pair, f"{error.filename or pair.after}: cannot be read: {error.strerror or error}")

    def images() -> Iterator[LoadedPair | RasterPair | FailedPair]:
        with ThreadPoolExecutor(1) as reader:
            coming: deque[Future] = deque()
            for pair in pairs:
                names.append(pair)
                coming.append(reader.submit(read, pair))
                if len(coming) > _READ_AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    began = time.perf_counter()
    for source, rows in detector.predict_stream(images(), **options):
        pair = names.popleft()
        if rows is None:
            yield source
        elif isinstance(source, RasterPair):
            with closing(source):
                yield PredictedRaster(pair, source, rows, detector.post_processing)
        else:
            prediction = detector.gather(source, rows, pair.name)
            yield PredictedPair(pair, source, prediction, time.perf_counter() - began)
        began = time.perf_counter()


def _image(source: Any, label: str, bands: int) -> np.ndarray:
    if _is_path(source) and is_raster(Path(source)):
        with open_tiff(Path(source)) as dataset:
            return read_rows(dataset, 0, dataset.height, bands)
    if _is_path(source):
        return read_image(Path(source), bands)
    if isinstance(source, _DATASETS):
        return read_rows(source, 0, source.height, bands)
    return array_with_bands(label, np.asarray(source), bands)


def _stored_bands(source: Any) -> int:
    """Without alpha."""
    if _is_path(source) or isinstance(source, _DATASETS):
        info = read_info(Path(source)) if _is_path(source) else dataset_info(source)
        return info.bands - info.alpha
    shape = np.asarray(source).shape
    return shape[2] if len(shape) == 3 else 1


def _is_path(source: Any) -> bool:
    return isinstance(source, str | Path)


def _label(source: Any, role: str) -> str:
    if _is_path(source):
        return str(source)
    return source.name if isinstance(source, _DATASETS) else f"the image {role}"


def _name_of(source: Any) -> str:
    if _is_path(source):
        return Path(source).stem
    return Path(source.name).stem if isinstance(source, _DATASETS) else ""


def _grid(source: Any) -> Grid | None:
    if isinstance(source, _DATASETS):
        return dataset_info(source).grid
    return read_info(Path(source)).grid if _is_path(source) and is_raster(Path(source)) else None


def _valid(source: Any) -> np.ndarray | None:
    """Which pixels of a raster hold data; None for other images."""
    if isinstance(source, _DATASETS):
        return valid_rows(source, 0, source.height)
    if _is_path(source) and is_raster(Path(source)):
        with rasterio.open(gdal_name(Path(source))) as dataset:
            return valid_rows(dataset, 0, dataset.height)
    return None
