"""A pair at any threshold: its probability is computed once, and mask, objects and files follow from it."""

import gzip
import heapq
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.transform import Affine

from data_pipelines.decoding import Grid
from data_pipelines.layouts import DataError
from segdiff.inference.objects import Region, feature, find_objects, open_geojson
from segdiff.inference.places import Place, find_place
from segdiff.inference.postprocessing import postprocess_mask
from segdiff.inference.predictor import Detector
from segdiff.inference.previews import Preview, preview_factor
from segdiff.inference.rasters import is_raster, open_mask_writer, write_png_mask
from segdiff.model_files import UNSURE, PostProcessing
from segdiff.serving.uploads import Limits, Upload

LISTED = 100
"""The page lists so many objects at most, the largest; all are counted and in the download."""

_STEPS = 200
"""The threshold moves in steps of one of so many."""


def thresholds_around(own: float) -> list[float]:
    """The thresholds that can be chosen, ascending: an even scale, and the model's own."""
    return sorted({*(k / _STEPS for k in range(1, _STEPS)), own})


@dataclass(frozen=True)
class Decision:
    """What is change at one threshold."""

    threshold: float
    mask: np.ndarray
    """uint8 H x W, post-processed: 0 and 1, or class indices."""
    regions: list[Region]


class Comparison:
    """The probability of change of a pair, kept in its ``folder``, and what is change from any threshold on.

    ``change`` is float32 H x W, ``kinds`` the class that each pixel has where it is change, uint8 H x W, or None where
    there is but one. One decision is kept, that asked for last.
    """

    def __init__(
        self,
        folder: Path,
        after: Upload,
        classes: tuple[str, ...],
        post_processing: PostProcessing,
        thresholds: list[float],
        change: np.ndarray,
        kinds: np.ndarray | None,
        valid: np.ndarray | None,
        grid: Grid | None,
        place: Place | None,
        confidence: float | None,
    ):
        self.folder, self.classes, self.thresholds = folder, classes, thresholds
        self.name, self.confidence = Path(after.name).stem, confidence
        self.change, self.kinds, self.valid, self.grid, self.place = change, kinds, valid, grid, place
        self._post_processing, self._raster = post_processing, is_raster(after.path)
        self._decision: Decision | None = None
        self._deciding = threading.Lock()
        self.height, self.width = change.shape
        # a pixel is change at thresholds[k] where more than k of them are reached: one byte tells all masks
        levels = np.searchsorted(np.array(thresholds, np.float32), change, side="right").astype(np.uint8)
        counts = np.bincount(levels.ravel(), minlength=len(thresholds) + 1)
        self.pixels = counts[::-1].cumsum()[::-1][1:]
        """Changed pixels at each of ``thresholds``, before post-processing."""
        small = [_shrunk(levels)] if kinds is None else [_shrunk(levels), _shrunk(np.where(levels > 0, kinds, 0))]
        self.levels = _packed(*small)
        """gzip of uint8: how many of ``thresholds`` each pixel reaches, then its kind where there are several; both
        shrunk like a Preview, the largest pixel counting."""

    def describe(self) -> dict[str, Any]:
        """What a page needs to draw the mask at every threshold."""
        rows = np.arange(self.height)
        areas = (
            1.0 if self.place is None else self.place.areas(rows, 0 * rows, 0 * rows + self.width).mean() / self.width
        )
        return {
            "name": self.name,
            "height": self.height,
            "width": self.width,
            "factor": preview_factor(self.height, self.width),
            "valid": self._valid_pixels,
            "thresholds": self.thresholds,
            "pixels": self.pixels.tolist(),
            "pixel_area": float(areas),
            "unit": self._unit,
            "raster": self._raster,
            "confidence": self.confidence,
            "unsure": self.confidence is not None and self.confidence < UNSURE,
        }

    def decide(self, threshold: float) -> Decision:
        """Mask and objects as ``segdiff predict --threshold`` gives them.

        Raises ValueError on a threshold that is not above 0 and below 1.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}, it must lie above 0 and below 1")
        with self._deciding:
            if self._decision is None or self._decision.threshold != threshold:
                self._decision = self._decide(threshold)
            return self._decision

    def _decide(self, threshold: float) -> Decision:
        changed = self.change >= threshold
        mask = changed.astype(np.uint8) if self.kinds is None else np.where(changed, self.kinds, np.uint8(0))
        if self._post_processing != PostProcessing():
            mask = postprocess_mask(mask, self._post_processing, classes=len(self.classes), valid=self.valid)
        on_ground: dict[str, Any] = (
            {} if self.grid is None else {"transform": self.grid.transform, "crs": self.grid.crs}
        )
        return Decision(threshold, mask, find_objects(mask, self.change, **on_ground))

    def describe_decision(self, threshold: float) -> dict[str, Any]:
        """Figures and the largest objects, each with its box (x, y, width, height) in pixels."""
        decision = self.decide(threshold)
        regions = decision.regions
        changed = int(np.count_nonzero(decision.mask))
        kinds = Counter(region.class_index for region in regions)
        return {
            "threshold": threshold,
            "changed_pixels": changed,
            "changed_fraction": changed / max(self._valid_pixels, 1),
            "area": sum(region.area for region in regions),
            "area_unit": self._unit,
            "objects": len(regions),
            "classes": {self.classes[index]: kinds[index] for index in sorted(kinds)},
            "largest": [
                {
                    "class": region.class_index,
                    "score": region.score,
                    "area": region.area,
                    "box": self._box(region),
                }
                for region in heapq.nlargest(LISTED, regions, key=lambda region: region.area_pixels)
            ],
        }

    def packed_mask(self, threshold: float) -> bytes:
        """gzip of the mask, uint8, shrunk like a Preview, the largest class counting."""
        return _packed(_shrunk(self.decide(threshold).mask))

    def mask_file(self, threshold: float) -> tuple[str, bytes]:
        """Name and content of the mask as ``segdiff predict`` writes it: GeoTIFF where AFTER is a TIFF, else PNG."""
        mask = self.decide(threshold).mask
        stored = mask * np.uint8(255) if len(self.classes) == 2 else mask
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder, "mask.tif" if self._raster else "mask.png")
            if self._raster:
                with open_mask_writer(path, width=self.width, height=self.height, grid=self.grid) as out:
                    out.write_rows(0, stored, self.valid)
            else:
                write_png_mask(path, stored)
            return f"{self.name}{path.suffix}", path.read_bytes()

    def objects_file(self, threshold: float) -> tuple[str, bytes]:
        """Name and content of the objects as ``segdiff predict`` writes them, GeoJSON."""
        regions = self.decide(threshold).regions
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = Path(folder, "objects.geojson")
            with open_geojson(path) as add:
                for region in regions:
                    add(feature(region, pair=self.name, class_name=self.classes[region.class_index]))
            return f"{self.name}.geojson", path.read_bytes()

    @property
    def _unit(self) -> str:
        return "px" if self.place is None else "m2"

    @property
    def _valid_pixels(self) -> int:
        return self.change.size if self.valid is None else int(np.count_nonzero(self.valid))

    def _box(self, region: Region) -> list[int]:
        points = np.concatenate([rings[0] for rings in region.polygons])
        if self.place is not None and self.grid is not None:
            a, b, c, d, e, f = (~Affine(*self.grid.transform[:6]))[:6]
            points = np.stack(
                [a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f], axis=1
            )
        low, high = np.rint(points.min(axis=0)), np.rint(points.max(axis=0))
        return [int(value) for value in (*low, *(high - low))]


def compare(
    detector: Detector,
    before: Upload,
    after: Upload,
    folder: Path,
    limits: Limits,
    *,
    threshold: float | None = None,
    resolution: float | None = None,
) -> Comparison:
    """Predicts a pair; large arrays lie in ``folder``, which the comparison owns.

    ``threshold`` and ``resolution`` are those of ``Detector.predict``. Raises DataError in the words of the command
    line, with the names that the visitor knows, and TooLargeError where the model would see too large an image.
    """
    own = detector.settings.threshold if threshold is None else threshold
    try:
        pair = detector.read(before.path, after.path)
        size = detector.working_size(pair, resolution)
    except DataError as error:
        raise DataError(_in_their_words(str(error), before, after)) from error
    limits.require_pixels(*size, f"{after.name}: at the model's ground resolution it has")
    try:
        place = None if pair.grid is None else find_place(pair.grid.transform, pair.grid.crs)
    except ValueError as error:
        raise DataError(f"{after.name}: {error}") from error
    prediction = detector.predict_loaded(pair, threshold=own, resolution=resolution)
    kinds = None
    if len(detector.settings.classes) > 2:
        kinds = (prediction.probability[..., 1:].argmax(axis=-1) + 1).astype(np.uint8)
    stored = folder / "change.npy"
    np.save(stored, prediction.change_probability)
    return Comparison(
        folder, after, detector.settings.classes, detector.post_processing, thresholds_around(own),
        np.load(stored, mmap_mode="r"), kinds, prediction.valid, prediction.grid, place,
        prediction.confidence,
    )  # fmt: skip


def _in_their_words(message: str, before: Upload, after: Upload) -> str:
    same = before.name == after.name
    for role, upload in (("before", before), ("after", after)):
        message = message.replace(str(upload.path), f"{upload.name} ({role})" if same else upload.name)
    return message


def _shrunk(values: np.ndarray) -> np.ndarray:
    small = Preview(values.shape[0], values.shape[1], "largest")
    small.add(values)
    return small.image()


def _packed(*arrays: np.ndarray) -> bytes:
    return gzip.compress(b"".join(array.tobytes() for array in arrays), compresslevel=3)
