"""A prediction folder filled: the pairs that are left go through an engine, and what becomes of each is kept."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.layouts import DataError, Pair
from data_pipelines.pair_index import PairIndex
from segdiff.inference.folder import PredictionFolder
from segdiff.inference.pair_writer import PairWriter, WrittenPair
from segdiff.inference.predictor import Detector, FailedPair, PredictedRaster, load, stream_pairs
from segdiff.inference.rasters import is_raster
from segdiff.inference.runtimes import Precision, RuntimeName
from segdiff.model_files import UNSURE, Augmentation, PostProcessing, Settings

OnRows = Callable[[int, int], None]
"""Told, of a pair of rasters at work, how many rows are done and how many there are."""

NAMED_FAILURES = 1000
"""So many failed pairs are named in the result of a run; summary.csv names them all."""


@dataclass(frozen=True)
class DetectorPlan:
    """A detector to be loaded, here or elsewhere, as ``load`` does, and the options of ``Detector.predict``."""

    model: str
    runtime: RuntimeName = "auto"
    precision: Precision = "auto"
    ensemble: tuple[str, ...] = ()
    test_time_augmentation: Augmentation | None = None
    post_processing: PostProcessing | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def absolute(self) -> "DetectorPlan":
        """With paths that mean the same in any folder."""

        def anywhere(model: str) -> str:
            return str(Path(model).absolute()) if Path(model).exists() else model

        return replace(self, model=anywhere(self.model), ensemble=tuple(map(anywhere, self.ensemble)))

    def load(self, threads: int | None = None) -> Detector:
        """The detector. Raises what ``load`` does, and ValueError on options out of range."""
        detector = load(
            self.model,
            runtime=self.runtime,
            precision=self.precision,
            ensemble=self.ensemble,
            test_time_augmentation=self.test_time_augmentation,
            post_processing=self.post_processing,
            threads=threads,
        )
        detector.check_options(**self.options)
        return detector


class Engine(Protocol):
    """What predicts pairs and writes their files, here or on other machines."""

    @property
    def path(self) -> Path:
        """The file of the model."""

    @property
    def settings(self) -> Settings:
        """Those of the model."""

    @property
    def runtime(self) -> str:
        """What computes, for a person."""

    @property
    def post_processing(self) -> PostProcessing:
        """What is done to the masks."""

    @property
    def test_time_augmentation(self) -> Augmentation:
        """What it predicts the mean of."""

    def predict(self, writer: PairWriter, pairs: Iterable[Pair], on_rows: OnRows) -> Iterator[WrittenPair | FailedPair]:
        """Each pair once, in any order, drawn as they are needed."""


@dataclass(frozen=True)
class LocalEngine:
    """Predicts in this process."""

    detector: Detector
    options: dict[str, Any]
    """Those of ``Detector.predict``."""

    @property
    def path(self) -> Path:
        """The file of the model."""
        return self.detector.path

    @property
    def settings(self) -> Settings:
        """Those of the model."""
        return self.detector.settings

    @property
    def runtime(self) -> str:
        """What computes, for a person."""
        return self.detector.runtime

    @property
    def post_processing(self) -> PostProcessing:
        """What is done to the masks."""
        return self.detector.post_processing

    @property
    def test_time_augmentation(self) -> Augmentation:
        """What it predicts the mean of."""
        return self.detector.test_time_augmentation

    def predict(self, writer: PairWriter, pairs: Iterable[Pair], on_rows: OnRows) -> Iterator[WrittenPair | FailedPair]:
        """Each pair once, in order; rasters row by row."""
        with closing(stream_pairs(self.detector, pairs, **self.options)) as results:
            for result in results:
                if isinstance(result, FailedPair):
                    yield result
                    continue
                try:
                    if isinstance(result, PredictedRaster):
                        written = writer.add_raster(result, on_rows)
                    else:
                        written = writer.add(result.pair, result.images, result.prediction, result.seconds)
                except DataError as error:
                    yield FailedPair(result.pair, str(error))
                else:
                    yield written


@dataclass
class Unsure:
    """The pairs of which nothing can be told: their confidence is below UNSURE, of models that tell one."""

    count: int = 0
    names: list[str] = field(default_factory=list)
    """Of the first of them."""

    def look_at(self, name: str, confidence: str) -> None:
        """Counts a predicted pair if it is one; ``confidence`` is that of its row, or empty."""
        if confidence and float(confidence) < UNSURE:
            self.count += 1
            if len(self.names) < NAMED_FAILURES:
                self.names.append(name)


@dataclass
class Tally:
    """What became of the pairs, those of earlier runs among them."""

    predicted: int = 0
    changed: Decimal = field(default_factory=Decimal)
    """Sum of the changed fractions of the predicted."""
    failed: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    """Of the first failed pairs, by name."""
    unsure: Unsure = field(default_factory=Unsure)
    """Of the predicted."""

    def fail(self, name: str, error: str) -> None:
        """Counts a failed pair."""
        self.failed += 1
        if len(self.errors) < NAMED_FAILURES:
            self.errors[name] = error

    @property
    def mean_changed_fraction(self) -> float:
        """Over the predicted pairs; 0 where there is none."""
        return float(self.changed / max(self.predicted, 1))


def left_to_do(index: PairIndex, folder: PredictionFolder) -> Iterator[Pair]:
    """The pairs that are not done, in the order of their names."""
    return (pair for pair in index.pairs() if pair.name not in folder.done)


def is_one_raster(index: PairIndex, folder: PredictionFolder) -> bool:
    """Whether one pair is left, of two rasters: then its rows are counted, else the pairs."""
    first = list(islice(left_to_do(index, folder), 2))
    return len(first) == 1 and is_raster(first[0].before) and is_raster(first[0].after)


def fill_folder(
    folder: PredictionFolder,
    index: PairIndex,
    engine: Engine,
    *,
    on_progress: Callable[[float, int], None],
    on_failure: Callable[[str], None],
) -> Tally:
    """Predicts what is left into the folder, which has been entered; a pair that fails is a row, and the run goes on.

    ``on_progress`` is told how many pairs are done and how many there are to do, or how many rows where that is one
    pair of rasters. Memory stays as it is however many pairs there are.
    """
    total = len(index) - len(folder.done)
    tally = Tally(predicted=len(folder.done), changed=folder.done.changed())
    for row in folder.done.rows():
        tally.unsure.look_at(row["name"], row.get("confidence", ""))
    by_rows = is_one_raster(index, folder)
    done = 0

    def on_rows(rows: int, of: int) -> None:
        if by_rows:
            on_progress(rows, of)
        else:
            on_progress(done + rows / of, total)

    def fail(name: str, error: str) -> None:
        tally.fail(name, error)
        folder.fail(name, error)
        on_failure(error)

    for unpaired in index.unpaired():
        fail(unpaired.name, unpaired.problem)
        done += 1
    for outcome in engine.predict(folder.writer, left_to_do(index, folder), on_rows):
        if isinstance(outcome, FailedPair):
            fail(outcome.pair.name, outcome.error)
        else:
            row = folder.keep(outcome)
            tally.predicted += 1
            tally.changed += Decimal(row["changed_fraction"])
            tally.unsure.look_at(row["name"], row["confidence"])
        done += 1
        if not by_rows:
            on_progress(done, total)
    return tally
