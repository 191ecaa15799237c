"""Writes what a prediction folder holds of one pair: masks, probabilities, overlay, objects and the row of figures."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.decoding import Grid
from data_pipelines.layouts import DataError, Pair
from segdiff.files import write_whole
from segdiff.inference.background import ahead
from segdiff.inference.geopackage import open_geopackage
from segdiff.inference.objects import Region, RegionTracer, feature, find_objects
from segdiff.inference.places import Place, find_place
from segdiff.inference.postprocessing import postprocess
from segdiff.inference.predictor import LoadedPair, PredictedRaster, Prediction, change_probability
from segdiff.inference.previews import Preview
from segdiff.inference.rasters import (
    RowWriter,
    is_raster,
    open_mask_writer,
    open_probability_writer,
    write_png_mask,
)
from segdiff.inference.runs import Slab

DrawPair = Callable[..., np.ndarray]
"""(before, after, mask, truth, classes=names, probability=that of change or None) -> RGB picture."""
WriteImage = Callable[[Path, np.ndarray], None]
WriteLayers = Callable[..., None]
"""(folder, name, before, after, mask, probability, truth): what a page shows of a pair, probability as uint8."""

REPORT = "report"
"""Folder in a prediction folder for what belongs to its report.html."""

MASK_SUFFIXES = (".png", ".tif")


@dataclass(frozen=True)
class WrittenPair:
    """A pair whose files are written: its row of summary.csv, and its objects, that is all left to be kept."""

    row: dict[str, Any]
    features: Path
    """A file of one GeoJSON feature a line; whoever keeps the row takes them and removes it."""


@dataclass(frozen=True)
class PairWriter:
    """Writes the files of single pairs into a prediction folder, each whole or not at all.

    It keeps no books, and can be sent to other processes: several may write into one folder, each pair by one of them.
    A pair that is written again replaces what it left before.
    """

    folder: Path
    classes: tuple[str, ...]
    draw: DrawPair
    write_image: WriteImage
    loose: Path
    """Folder for the objects of single pairs, until they are taken."""
    probabilities: bool = False
    geopackage: bool = False
    """Whether the objects of a pair also go to geopackages/NAME.gpkg, in the reference system of its images."""
    write_layers: WriteLayers | None = None
    """Writes what the report shows of a pair; None: there will be no report."""

    def make_folders(self) -> None:
        """Makes the folders that the files go to."""
        asked = {"probabilities": self.probabilities, "geopackages": self.geopackage}
        for name in ("masks", "overlays", *(name for name, wanted in asked.items() if wanted)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.loose.mkdir(parents=True, exist_ok=True)

    def mask_path(self, pair: Pair) -> Path:
        """Where the mask of a pair is written: a GeoTIFF of a TIFF, else a PNG."""
        image, raster = MASK_SUFFIXES
        return self.folder / "masks" / f"{pair.name}{raster if is_raster(pair.after) else image}"

    def remove(self, name: str) -> None:
        """Removes the files of a pair."""
        homes = [self.folder / home for home in ("masks", "overlays", "probabilities", "geopackages")]
        homes += (self.folder / REPORT).glob("*/")
        for home, suffix in product(homes, (*MASK_SUFFIXES, ".jpg", ".gpkg")):
            (home / f"{name}{suffix}").unlink(missing_ok=True)

    def add(
        self,
        pair: Pair,
        images: LoadedPair,
        prediction: Prediction,
        seconds: float,
        truth: np.ndarray | None = None,
        scores: dict[str, float] | None = None,
    ) -> WrittenPair:
        """Writes everything of one pair.

        Raises DataError on a raster whose reference system gives no place on the ground.
        """
        name, mask = pair.name, prediction.mask
        grid = prediction.grid
        place = _place(pair, grid)
        on_ground: dict[str, Any] = {} if grid is None else {"transform": grid.transform, "crs": grid.crs}
        regions = find_objects(mask, prediction.change_probability, **on_ground)
        with self._open_features(name, place) as write:
            write(regions)
        self._write_masks(pair, prediction)
        change = _bytes(prediction.change_probability)
        self._write_overlay(name, images.before, images.after, mask, change, truth)
        if self.write_layers:
            self.write_layers(self.folder / REPORT, name, images.before, images.after, mask, change, truth)
        counted = mask.size if prediction.valid is None else int(prediction.valid.sum())
        changed = int(np.count_nonzero(mask))
        area = sum(region.area for region in regions)
        unit = "px" if place is None else "m2"
        kinds = Counter(region.class_index for region in regions)
        return self._written(
            name, changed, counted, kinds, area, unit, seconds, prediction.confidence, **(scores or {})
        )  # fmt: skip

    def add_raster(self, result: PredictedRaster, progress: Callable[[int, int], None]) -> WrittenPair:
        """Writes everything of two rasters as their rows come, while the next ones are computed.

        ``progress`` is told the rows that are done and how many there are. Raises DataError as ``add`` does, and where
        a raster cannot be read further.
        """
        began = time.perf_counter()
        pair, images = result.pair, result.images
        name, grid, size = pair.name, images.grid, {"width": images.width, "height": images.height}
        place = _place(pair, grid)
        tracer, small = RegionTracer(place), Preview(images.height, images.width, "largest")
        likely = Preview(images.height, images.width, "area")
        changed = counted = 0
        kinds: Counter[int] = Counter()
        area = 0.0
        with ExitStack() as stack:
            masks = stack.enter_context(open_mask_writer(self.mask_path(pair), grid=grid, **size))
            probabilities = stack.enter_context(self._probability_writer(name, grid, **size))
            write = stack.enter_context(self._open_features(name, place))

            def counting(regions: Iterable[Region]) -> Iterator[Region]:
                nonlocal area
                for region in regions:
                    area += region.area
                    kinds[region.class_index] += 1
                    yield region

            coming = stack.enter_context(ahead(result.rows, 2))

            def slabs() -> Iterator[Slab]:
                nonlocal counted
                for y, mask, probability, valid in coming:
                    if probabilities is not None:
                        probabilities.write_rows(y, probability, valid)
                    likely.add(_bytes(change_probability(probability, valid)))
                    counted += mask.size if valid is None else int(np.count_nonzero(valid))
                    yield Slab(y, mask, probability, valid)
                    progress(y + len(mask), images.height)

            # where something is done to the mask, all slabs are drawn before its first rows come
            steps = result.post_processing
            for runs in postprocess(slabs(), steps, classes=len(self.classes), workdir=self.folder):
                mask = runs.mask()
                masks.write_rows(runs.y, mask * np.uint8(255) if len(self.classes) == 2 else mask, runs.valid_rows())
                write(counting(tracer.add(runs)))
                small.add(mask)
                changed += int(np.count_nonzero(mask))
            write(counting(tracer.finish()))
        before, after = images.previews()
        self._write_overlay(name, before, after, small.image(), likely.image())
        if self.write_layers:
            self.write_layers(self.folder / REPORT, name, before, after, small.image(), likely.image())
        unit, seconds = "px" if place is None else "m2", time.perf_counter() - began
        return self._written(name, changed, counted, kinds, area, unit, seconds, images.confidence)

    def _write_overlay(
        self,
        name: str,
        before: np.ndarray,
        after: np.ndarray,
        mask: np.ndarray,
        probability: np.ndarray,
        truth: np.ndarray | None = None,
    ) -> None:
        """With a heat map where probabilities were asked for."""
        heat = probability if self.probabilities else None
        picture = self.draw(before, after, mask, truth, classes=self.classes, probability=heat)
        self.write_image(self.folder / "overlays" / f"{name}.jpg", picture)

    def _written(
        self,
        name: str,
        changed: int,
        counted: int,
        kinds: Counter[int],
        area: float,
        unit: str,
        seconds: float,
        confidence: float | None,
        **scores: float,
    ) -> WrittenPair:
        row = {
            "name": name,
            "status": "ok",
            "changed_pixels": changed,
            "changed_fraction": f"{changed / max(counted, 1):.6f}",
            "area": f"{area:.10g}",
            "objects": kinds.total(),
            "seconds": f"{seconds:.3f}",
            "error": "",
            "area_unit": unit,
            "classes": self._objects_by_class(kinds) if len(self.classes) > 2 else "",
            "confidence": confidence_text(confidence),
            **{key: f"{value:.6f}" for key, value in scores.items()},
        }
        return WrittenPair(row, self._features(name))

    def _objects_by_class(self, kinds: Counter[int]) -> str:
        return json.dumps({self.classes[index]: kinds[index] for index in sorted(kinds)}, ensure_ascii=False)

    def _features(self, name: str) -> Path:
        return self.loose / f"{name}.jsonl"

    @contextmanager
    def _open_features(self, name: str, place: Place | None) -> Iterator[Callable[[Iterable[Region]], None]]:
        """Gives the function that writes regions of a pair that lies at `place`."""
        with ExitStack() as stack:
            temporary = stack.enter_context(write_whole(self._features(name)))
            stream = stack.enter_context(temporary.open("w", encoding="utf-8"))
            add = None
            if self.geopackage:
                package = stack.enter_context(open_geopackage(self.folder / "geopackages" / f"{name}.gpkg"))
                add = package.layer(place)

            def write(regions: Iterable[Region]) -> None:
                for region in regions:
                    class_name = self.classes[region.class_index]
                    stream.write(json.dumps(feature(region, pair=name, class_name=class_name)) + "\n")
                    if add is not None:
                        add(region, pair=name, class_name=class_name)

            yield write

    def _write_masks(self, pair: Pair, prediction: Prediction) -> None:
        name, mask, path = pair.name, prediction.mask, self.mask_path(pair)
        stored = mask * np.uint8(255) if len(self.classes) == 2 else mask
        height, width = mask.shape
        if is_raster(pair.after):
            with open_mask_writer(path, width=width, height=height, grid=prediction.grid) as out:
                out.write_rows(0, stored, prediction.valid)
        else:
            write_png_mask(path, stored)
        with self._probability_writer(name, prediction.grid, width=width, height=height) as probabilities:
            if probabilities is not None:
                probabilities.write_rows(0, prediction.probability, prediction.valid)

    @contextmanager
    def _probability_writer(
        self, name: str, grid: Grid | None, *, width: int, height: int
    ) -> Iterator[RowWriter | None]:
        """None where probabilities were not asked for."""
        if not self.probabilities:
            yield None
            return
        names = ["change"] if len(self.classes) == 2 else list(self.classes)
        path = self.folder / "probabilities" / f"{name}.tif"
        with open_probability_writer(path, width=width, height=height, grid=grid, band_names=names) as writer:
            yield writer


def confidence_text(confidence: float | None) -> str:
    """As it stands in the row of a pair, and is judged: to three decimals, empty of models that tell none."""
    return "" if confidence is None else f"{confidence:.3f}"


def _bytes(probability: np.ndarray) -> np.ndarray:
    """uint8, 0..255 for 0..1."""
    return np.rint(probability * np.float32(255)).astype(np.uint8)


def _place(pair: Pair, grid: Grid | None) -> Place | None:
    """Where the pair lies on the ground; None where it says nothing of it."""
    try:
        return None if grid is None else find_place(grid.transform, grid.crs)
    except ValueError as error:
        raise DataError(f"{pair.after}: {error}") from error
