"""The prediction folder: masks, overlays, objects, a row for each pair, and what made them."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.layouts import Pair
from segdiff.files import write_whole
from segdiff.inference.objects import open_geojson
from segdiff.inference.pair_writer import OBJECTS, DrawPair, PairWriter, WriteImage, WrittenPair
from segdiff.inference.predictor import PredictedRaster

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
        geopackage: bool = False,
        overwrite: bool = False,
        resume: bool = True,
    ):
        self.folder = folder
        self.writer = PairWriter(folder, tuple(classes), draw, write_image, probabilities, geopackage)
        self._columns = (*COLUMNS, *columns)
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
        self._remove_unfinished()
        self.writer.make_folders()
        self._write_json(job)
        return rows

    def _remove_unfinished(self) -> None:
        """Removes what a run that was killed left behind of pairs without a row."""
        if (self.folder / OBJECTS).exists():
            shutil.rmtree(self.folder / OBJECTS)
        for name in ("masks", "overlays", "probabilities", "geopackages"):
            for unfinished in (self.folder / name).glob(".*"):
                unfinished.unlink()

    def _remove_predictions(self) -> None:
        """Removes what an earlier job left, prediction.json last: until then the folder is seen to be of that job."""
        for name in ("summary.csv", "objects.geojson", ".objects.jsonl", "metrics.json"):
            (self.folder / name).unlink(missing_ok=True)
        for name in ("masks", "overlays", "probabilities", "geopackages"):
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

    def add(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Writes everything of one pair, as `PairWriter.add` does, and keeps its row, which is returned."""
        return self.keep(self.writer.add(*arguments, **options))

    def add_raster(self, result: PredictedRaster, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Writes everything of two rasters, as `PairWriter.add_raster` does, and keeps their row, which is returned."""
        return self.keep(self.writer.add_raster(result, progress))

    def keep(self, written: WrittenPair) -> dict[str, Any]:
        """Takes the objects and the row of a pair, which is done with that; returns the row.

        The row comes last: objects without one belong to a pair that is done anew, and are dropped by the next run.
        """
        with written.features.open(encoding="utf-8") as found, self._features.open("a", encoding="utf-8") as stream:
            shutil.copyfileobj(found, stream)
        self._row(written.row)
        written.features.unlink()
        return written.row

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
            shutil.rmtree(self.folder / OBJECTS)

    def _read_features(self) -> Iterator[dict[str, Any]]:
        with self._features.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that end as lines do: a run that was killed may have left the last one half written."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [line for line in stream if line.endswith("\n")]
