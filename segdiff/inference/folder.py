"""The prediction folder: masks, overlays, objects, a row for each pair, and what made them."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from data_pipelines.layouts import Pair
from data_pipelines.pair_index import Part
from segdiff.files import UNFINISHED, write_whole
from segdiff.inference.books import (
    PARTS,
    Books,
    Ledger,
    begun_parts,
    books_to_resume,
    finished_mark,
    part_books,
    whole_books,
)
from segdiff.inference.objects import open_geojson
from segdiff.inference.pair_writer import (
    MASK_SUFFIXES,
    REPORT,
    DrawPair,
    PairWriter,
    WriteImage,
    WriteLayers,
    WrittenPair,
)
from segdiff.inference.predictor import PredictedRaster

COLUMNS = (
    "name", "status", "changed_pixels", "changed_fraction", "area", "objects", "seconds", "error", "area_unit",
    "classes", "confidence",
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
    """Keeps the rows and objects of one pair after the other, so that a run that was killed can go on.

    As a context manager: objects.geojson is put together at the end. ``done`` holds the pairs that an earlier run of
    the same job left, unless ``resume`` is False; they need not be predicted again. Of several ``part``s that are at
    work at the same time, in one folder, each has books of its own; the last to finish puts them together.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        *,
        classes: Sequence[str],
        draw: DrawPair,
        write_image: WriteImage,
        write_layers: WriteLayers | None = None,
        columns: Sequence[str] = (),
        probabilities: bool = False,
        geopackage: bool = False,
        overwrite: bool = False,
        resume: bool = True,
        part: Part | None = None,
    ):
        self.folder, self.part = folder, part or Part()
        self._books = whole_books(folder) if self.part.count == 1 else part_books(folder, self.part)
        self.writer = PairWriter(
            folder, tuple(classes), draw, write_image, self._books.loose, probabilities, geopackage, write_layers
        )
        self._columns = (*COLUMNS, *columns)
        goes_on = self._open({**job.describe(), "classes": list(classes)}, overwrite)
        self._sources = books_to_resume(folder, self.part)
        self.done = Ledger()
        if goes_on and resume:
            for books, covers in self._sources:
                self.done.take((row for row in books.rows() if self._stands(row) and covers(row["name"])), books)

    def _open(self, job: dict[str, Any], overwrite: bool) -> bool:
        """Makes the folder, or takes it up; whether it holds predictions of the job."""
        folder, described = self.folder, self.folder / "prediction.json"
        if folder.exists() and not folder.is_dir():
            raise FolderError(f"{folder}: is a file, predictions go into a folder; name another with --out")
        # looked at before the description: another part writes that before all else
        holds = folder.exists() and any(UNFINISHED not in path.name for path in folder.iterdir())
        there = described.exists()
        if there and overwrite:
            self._remove_predictions()
        elif there:
            self._require_same(described, job)
        elif holds and not overwrite:
            raise FolderError(f"{folder}: is not empty and holds no predictions; name another folder, or --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        with write_whole(described) as temporary:
            temporary.write_text(json.dumps(job, indent=2) + "\n")
        if self.part.count == 1:
            self._remove_unfinished()
        if self._books.loose.exists():
            shutil.rmtree(self._books.loose)
        self.writer.make_folders()
        return there and not overwrite

    def _require_same(self, described: Path, job: dict[str, Any]) -> None:
        try:
            before = json.loads(described.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FolderError(f"{described}: is broken; replace these predictions with --overwrite") from error
        differing = [key for key in ("model_sha256", "options", "inputs", "truth") if before.get(key) != job[key]]
        if differing:
            raise FolderError(
                f"{self.folder}: holds the predictions of another job ({', '.join(differing)} differ); "
                "name another folder with --out, or replace them with --overwrite"
            )
        others = {part.count for part in begun_parts(self.folder)} - {self.part.count}
        if self.part.count > 1 and others:
            raise FolderError(
                f"{self.folder}: is at work in {min(others)} shards, not {self.part.count}; "
                f"use --shard i/{min(others)}, or run once without --shard, which takes over what they have done"
            )

    def _remove_unfinished(self) -> None:
        """Removes the files that a run which was killed left half written."""
        layers = [f"{REPORT}/{layer.name}" for layer in (self.folder / REPORT).glob("*/")]
        for name in ("masks", "overlays", "probabilities", "geopackages", *layers):
            if (self.folder / name).exists():
                with os.scandir(self.folder / name) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            Path(entry.path).unlink(missing_ok=True)

    def _remove_predictions(self) -> None:
        """Removes what an earlier job left, prediction.json last: until then the folder is seen to be of that job."""
        for name in ("summary.csv", "objects.geojson", ".objects.jsonl", "metrics.json", "report.html"):
            (self.folder / name).unlink(missing_ok=True)
        for name in ("masks", "overlays", "probabilities", "geopackages", REPORT, PARTS):
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)
        (self.folder / "prediction.json").unlink()

    def _stands(self, row: dict[str, str]) -> bool:
        """Whether a pair was predicted and its mask is there."""
        masks = (self.folder / "masks" / f"{row['name']}{suffix}" for suffix in MASK_SUFFIXES)
        return row["status"] == "ok" and any(mask.exists() for mask in masks)

    def keep_current(self, pairs: Iterable[Pair]) -> None:
        """Drops from ``done`` what is not among the pairs any more, and what was predicted before an image changed.

        Their files go, too: what the folder holds is what its summary names.
        """

        def newest(path: Path) -> int:
            state = path.stat()  # the time of change too: a copy that keeps its times is new all the same
            return max(state.st_mtime_ns, state.st_ctime_ns)

        def current(pair: Pair) -> bool:
            try:
                predicted = self.writer.mask_path(pair).stat().st_mtime_ns
                return predicted > max(newest(pair.before), newest(pair.after))
            except OSError:  # predicted anew, which says what is wrong
                return False

        still = (pair.name for pair in pairs if pair.name in self.done and current(pair))
        self.done.keep(still, self.writer.remove)

    def __enter__(self) -> "PredictionFolder":
        books = self._books
        if self.part.count > 1:
            finished_mark(self.folder, self.part).unlink(missing_ok=True)
        with write_whole(books.features) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for source, _ in self._sources:
                stream.writelines(json.dumps(item) + "\n" for item in self.done.objects(source))
        self._write_summary(books.summary, self.done.rows())
        if self.part.count == 1:
            self._drop_parts()
        self._summary = books.summary.open("a", newline="", encoding="utf-8", errors="backslashreplace")
        self._writer = csv.DictWriter(self._summary, fieldnames=self._columns, restval="")
        return self

    def _write_summary(self, path: Path, rows: Iterable[dict[str, str]]) -> None:
        with write_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=self._columns, restval="")
            writer.writeheader()
            writer.writerows({key: row.get(key, "") for key in self._columns} for row in rows)

    def _drop_parts(self) -> None:
        """Removes the books of parts, which have been taken over; without their rows first of all they do not count."""
        for part in begun_parts(self.folder):
            part_books(self.folder, part).summary.unlink()
        if (self.folder / PARTS).exists():
            shutil.rmtree(self.folder / PARTS)

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
        with (
            written.features.open(encoding="utf-8") as found,
            self._books.features.open("a", encoding="utf-8") as stream,
        ):
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
        self.done.close()
        if exception_type is not None:
            return
        shutil.rmtree(self._books.loose)
        if self.part.count == 1:
            self._publish_objects([self._books])
            self._books.features.unlink()
            return
        finished_mark(self.folder, self.part).touch()
        if not self.unfinished_parts():
            self._put_together()

    def unfinished_parts(self) -> list[Part]:
        """The parts that are at work or to be run yet, or are to be run again."""
        parts = [Part(number, self.part.count) for number in range(1, self.part.count + 1)]
        return [part for part in parts if not finished_mark(self.folder, part).exists()]

    def _put_together(self) -> None:
        """Writes summary.csv and objects.geojson from the books of all parts; two may do so at the same time."""
        books = [part_books(self.folder, Part(number, self.part.count)) for number in range(1, self.part.count + 1)]
        self._publish_objects(books)
        earlier = whole_books(self.folder)  # of a run that was killed, which the parts have taken over
        earlier.features.unlink(missing_ok=True)
        shutil.rmtree(earlier.loose, ignore_errors=True)  # another part may be at the same
        self._write_summary(self.folder / "summary.csv", chain.from_iterable(part.rows() for part in books))
        self._remove_unfinished()

    def _publish_objects(self, books: Sequence[Books]) -> None:
        with open_geojson(self.folder / "objects.geojson") as add:
            for item in chain.from_iterable(part.objects() for part in books):
                add(item)
