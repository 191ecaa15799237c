"""The prediction folder: masks, overlays, objects, a row for each pair, and what made them."""

import csv
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.decoding import Grid
from data_pipelines.layouts import DataError, Pair
from segdiff.files import write_whole
from segdiff.inference.background import ahead
from segdiff.inference.objects import Region, RegionTracer, feature, find_objects, open_geojson
from segdiff.inference.places import find_place
from segdiff.inference.predictor import LoadedPair, PredictedRaster, Prediction
from segdiff.inference.previews import Preview
from segdiff.inference.rasters import (
    RowWriter,
    is_raster,
    open_mask_writer,
    open_probability_writer,
    write_png_mask,
)
from segdiff.inference.runs import Slab, encode_slab

DrawPair = Callable[..., np.ndarray]
"""(before, after, mask, truth, classes=names) -> RGB picture."""
WriteImage = Callable[[Path, np.ndarray], None]

COLUMNS = (
    "name", "status", "changed_pixels", "changed_fraction", "area", "objects", "seconds", "error", "area_unit",
)  # fmt: skip
"""Columns of every summary.csv, in order; those of an evaluation follow."""


class FolderError(ValueError):
    """A prediction folder that may not be written to; the message is one line."""


@dataclass(frozen=True)
class Job:
    """What makes a prediction folder what it is: the same again may go on in it."""

    model: Path
    options: dict[str, Any]
    inputs: dict[str, str]
    truth: dict[str, str] | None = None
    """True masks by the name of their pair, where known."""

    def describe(self) -> dict[str, Any]:
        """The job as prediction.json holds it."""
        digest = hashlib.sha256(self.model.read_bytes()).hexdigest()
        return {
            "model": str(self.model.resolve()),
            "model_sha256": digest,
            "options": self.options,
            "inputs": self.inputs,
            "truth": self.truth,
        }


class PredictionFolder:
    """Writes one pair after the other, each file whole or not at all, so that a run that was killed can go on.

    As a context manager: objects.geojson is put together at the end. ``done`` holds the rows that an earlier run of
    the same job left, unless ``resume`` is False; their pairs need not be predicted again.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        *,
        classes: Sequence[str],
        draw: DrawPair,
        write_image: WriteImage,
        columns: Sequence[str] = (),
        probabilities: bool = False,
        overwrite: bool = False,
        resume: bool = True,
    ):
        self.folder, self.classes = folder, classes
        self._draw, self._write_image = draw, write_image
        self._columns = (*COLUMNS, *columns)
        self._probabilities = probabilities
        finished = self._open(job.describe(), overwrite)
        self.done = finished if resume else {}
        self._features = folder / ".objects.jsonl"

    def _open(self, job: dict[str, Any], overwrite: bool) -> dict[str, dict[str, str]]:
        """Makes the folder or takes it up; the rows of pairs that are done."""
        folder, described = self.folder, self.folder / "prediction.json"
        rows: dict[str, dict[str, str]] = {}
        if folder.exists() and not folder.is_dir():
            raise FolderError(f"{folder}: is a file, predictions go into a folder; name another with --out")
        if described.exists() and overwrite:
            self._remove_predictions()
        elif described.exists():
            try:
                before = json.loads(described.read_text(encoding="utf-8"))
            except ValueError as error:
                raise FolderError(f"{described}: is broken; replace these predictions with --overwrite") from error
            differing = [key for key in ("model_sha256", "options", "inputs", "truth") if before.get(key) != job[key]]
            if differing:
                raise FolderError(
                    f"{folder}: holds the predictions of another job ({', '.join(differing)} differ); "
                    "name another folder with --out, or replace them with --overwrite"
                )
            rows = self._finished_rows()
        elif folder.exists() and any(folder.iterdir()) and not overwrite:
            raise FolderError(f"{folder}: is not empty and holds no predictions; name another folder, or --overwrite")
        for name in ("masks", "overlays", *(["probabilities"] if self._probabilities else [])):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for unfinished in (folder / name).glob(".*"):  # of a run that was killed
                unfinished.unlink()
        self._write_json(job)
        return rows

    def _remove_predictions(self) -> None:
        """Removes what an earlier job left, prediction.json last: until then the folder is seen to be of that job."""
        for name in ("summary.csv", "objects.geojson", ".objects.jsonl", "metrics.json"):
            (self.folder / name).unlink(missing_ok=True)
        for name in ("masks", "overlays", "probabilities"):
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)
        (self.folder / "prediction.json").unlink()

    def _write_json(self, content: dict[str, Any]) -> None:
        with write_whole(self.folder / "prediction.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def _finished_rows(self) -> dict[str, dict[str, str]]:
        summary = self.folder / "summary.csv"
        if not summary.exists():
            return {}
        rows = [row for row in csv.DictReader(_whole_lines(summary)) if None not in row.values()]
        masks = {path.stem for path in (self.folder / "masks").iterdir()}
        return {row["name"]: row for row in rows if row["status"] == "ok" and row["name"] in masks}

    def keep_current(self, pairs: Sequence[Pair]) -> None:
        """Drops from ``done`` what is not among the pairs any more, and what was predicted before an image changed."""
        current = {pair.name: pair for pair in pairs}
        masks = {path.stem: path for path in (self.folder / "masks").iterdir()}

        def newest(path: Path) -> int:
            state = path.stat()  # the time of change too: a copy that keeps its times is new all the same
            return max(state.st_mtime_ns, state.st_ctime_ns)

        self.done = {
            name: row
            for name, row in self.done.items()
            if name in current
            and masks[name].stat().st_mtime_ns > max(newest(current[name].before), newest(current[name].after))
        }

    def __enter__(self) -> "PredictionFolder":
        kept = self._kept_features()
        with write_whole(self._features) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(kept)
        summary = self.folder / "summary.csv"
        with write_whole(summary) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=self._columns, restval="")
            writer.writeheader()
            writer.writerows({key: row.get(key, "") for key in self._columns} for row in self.done.values())
        self._summary = summary.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._summary, fieldnames=self._columns, restval="")
        return self

    def _kept_features(self) -> list[str]:
        """The lines of objects that belong to pairs which are done, from a killed run or a finished one."""
        if not self.done:
            return []
        finished = self.folder / "objects.geojson"
        if self._features.exists():
            found = [json.loads(line) for line in _whole_lines(self._features)]
        elif finished.exists():
            found = json.loads(finished.read_text(encoding="utf-8"))["features"]
        else:
            found = []
        return [json.dumps(item) + "\n" for item in found if item["properties"]["pair"] in self.done]

    def add(
        self,
        pair: Pair,
        images: LoadedPair,
        prediction: Prediction,
        seconds: float,
        truth: np.ndarray | None = None,
        scores: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Writes everything of one pair; the row comes last, so that what it names exists. Returns the row.

        Raises DataError on a raster whose reference system gives no place on the ground.
        """
        name, mask = pair.name, prediction.mask
        grid = prediction.grid
        place: dict[str, Any] = {} if grid is None else {"transform": grid.transform, "crs": grid.crs}
        try:
            regions = find_objects(mask, prediction.change_probability, **place)
        except ValueError as error:
            raise DataError(f"{pair.after}: {error}") from error
        with self._features.open("a", encoding="utf-8") as stream:
            for region in regions:
                item = feature(region, pair=name, class_name=self.classes[region.class_index])
                stream.write(json.dumps(item) + "\n")
        self._write_masks(pair, prediction)
        picture = self._draw(images.before, images.after, mask, truth, classes=self.classes)
        self._write_image(self.folder / "overlays" / f"{name}.jpg", picture)
        counted = mask.size if prediction.valid is None else int(prediction.valid.sum())
        changed = int(np.count_nonzero(mask))
        unit = regions[0].area_unit if regions else ("px" if grid is None or not grid.crs else "m2")
        area = sum(region.area for region in regions)
        return self._finish(name, changed, counted, len(regions), area, unit, seconds, **(scores or {}))

    def add_raster(self, result: PredictedRaster, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Writes everything of two rasters as their rows come, while the next ones are computed; returns the row.

        ``progress`` is told the rows that are done and how many there are. Raises DataError as ``add`` does, and where
        a raster cannot be read further.
        """
        began = time.perf_counter()
        pair, images = result.pair, result.images
        name, grid, size = pair.name, images.grid, {"width": images.width, "height": images.height}
        try:
            place = None if grid is None else find_place(grid.transform, grid.crs)
        except ValueError as error:
            raise DataError(f"{pair.after}: {error}") from error
        tracer, small = RegionTracer(place), Preview(images.height, images.width, "largest")
        changed = counted = objects = 0
        area = 0.0
        with ExitStack() as stack:
            masks = stack.enter_context(open_mask_writer(self.folder / "masks" / f"{name}.tif", grid=grid, **size))
            probabilities = stack.enter_context(self._probability_writer(name, grid, **size))
            features = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", dir=self.folder))

            def write(regions: Iterable[Region]) -> None:
                nonlocal objects, area
                for region in regions:
                    objects, area = objects + 1, area + region.area
                    item = feature(region, pair=name, class_name=self.classes[region.class_index])
                    features.write(json.dumps(item) + "\n")

            for y, mask, probability, valid in stack.enter_context(ahead(result.rows, 2)):
                masks.write_rows(y, mask * np.uint8(255) if len(self.classes) == 2 else mask, valid)
                if probabilities is not None:
                    probabilities.write_rows(y, probability, valid)
                write(tracer.add(encode_slab(Slab(y, mask, probability, valid))))
                small.add(mask)
                changed += int(np.count_nonzero(mask))
                counted += mask.size if valid is None else int(np.count_nonzero(valid))
                progress(y + len(mask), images.height)
            write(tracer.finish())
            features.seek(0)
            with self._features.open("a", encoding="utf-8") as stream:
                shutil.copyfileobj(features, stream)
        picture = self._draw(*images.previews(), small.image(), None, classes=self.classes)
        self._write_image(self.folder / "overlays" / f"{name}.jpg", picture)
        return self._finish(
            name, changed, counted, objects, area, "px" if place is None else "m2", time.perf_counter() - began
        )

    def _finish(
        self,
        name: str,
        changed: int,
        counted: int,
        objects: int,
        area: float,
        unit: str,
        seconds: float,
        **scores: float,
    ) -> dict[str, Any]:
        """The row of a pair, when everything that it names exists."""
        row = {
            "name": name,
            "status": "ok",
            "changed_pixels": changed,
            "changed_fraction": f"{changed / max(counted, 1):.6f}",
            "area": f"{area:.10g}",
            "objects": objects,
            "seconds": f"{seconds:.3f}",
            "error": "",
            "area_unit": unit,
            **{key: f"{value:.6f}" for key, value in scores.items()},
        }
        self._row(row)
        return row

    def _write_masks(self, pair: Pair, prediction: Prediction) -> None:
        name, mask = pair.name, prediction.mask
        stored = mask * np.uint8(255) if len(self.classes) == 2 else mask
        height, width = mask.shape
        if is_raster(pair.after):
            with open_mask_writer(
                self.folder / "masks" / f"{name}.tif", width=width, height=height, grid=prediction.grid
            ) as out:
                out.write_rows(0, stored, prediction.valid)
        else:
            write_png_mask(self.folder / "masks" / f"{name}.png", stored)
        with self._probability_writer(name, prediction.grid, width=width, height=height) as probabilities:
            if probabilities is not None:
                probabilities.write_rows(0, prediction.probability, prediction.valid)

    @contextmanager
    def _probability_writer(
        self, name: str, grid: Grid | None, *, width: int, height: int
    ) -> Iterator[RowWriter | None]:
        """None where probabilities were not asked for."""
        if not self._probabilities:
            yield None
            return
        names = ["change"] if len(self.classes) == 2 else list(self.classes)
        path = self.folder / "probabilities" / f"{name}.tif"
        with open_probability_writer(path, width=width, height=height, grid=grid, band_names=names) as writer:
            yield writer

    def fail(self, name: str, error: str) -> None:
        """A row for a pair that could not be predicted."""
        self._row({"name": name, "status": "failed", "error": error})

    def _row(self, row: dict[str, Any]) -> None:
        self._writer.writerow(row)
        self._summary.flush()
        os.fsync(self._summary.fileno())

    def __exit__(self, exception_type, exception, traceback) -> None:
        self._summary.close()
        if exception_type is None:
            with open_geojson(self.folder / "objects.geojson") as add:
                for item in self._read_features():
                    add(item)
            self._features.unlink()

    def _read_features(self) -> Iterator[dict[str, Any]]:
        with self._features.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that end as lines do: a run that was killed may have left the last one half written."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [line for line in stream if line.endswith("\n")]
