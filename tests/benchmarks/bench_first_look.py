"""What first_look finds without training: `python -m tests.benchmarks.bench_first_look [--data DATA ...] [--pairs]`.

Against the magnitude of the change vector: each band standardised by its mean and deviation, the Euclidean length of
the difference, Otsu's threshold of each pair (Malila 1980; Otsu 1979). F1 is that of one confusion matrix over all
pixels with truth; its interval is from 1,000 draws of the pairs. The correlation is that of the confidence with the F1
of the single pairs. Needs the real pairs of SEGDIFF_SHARED, or any labelled data sets with --data.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import segdiff
from data_pipelines import IGNORE
from data_pipelines.layouts import DataError, Pair, find_pairs
from data_pipelines.validation import check
from segdiff.inference.bootstrap import drawn_pairs, interval
from segdiff.inference.evaluation import Truth
from segdiff.inference.predictor import Detector
from segdiff.model_files import UNSURE

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SEGDIFF_SHARED", ROOT.parent / "shared")) / "data"
SETS = ("levir_cd_native/val", "air_change", "landsat_taizhou")


@dataclass(frozen=True)
class Outcome:
    """Of one pair."""

    name: str
    counts: np.ndarray
    """True, false and missed pixels of change of first_look."""
    baseline: np.ndarray
    """Those of the change vector."""
    seconds: float
    baseline_seconds: float
    confidence: float


def change_vector_mask(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """bool H x W of two images uint8 H x W x bands."""
    one, other = (
        (image - image.mean(axis=(0, 1))) / np.maximum(image.std(axis=(0, 1)), 1e-6)
        for image in (before.astype(np.float32), after.astype(np.float32))
    )
    length = np.linalg.norm(one - other, axis=2)
    scaled = np.clip(np.rint(length / max(length.max(), 1e-6) * 255), 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return scaled > threshold


def count(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """True, false and missed pixels, where there is truth."""
    known, change = truth != IGNORE, truth == 1
    return np.array([(mask & change).sum(), (mask & known & ~change).sum(), (~mask & change).sum()])


def f1(counts: np.ndarray) -> np.ndarray:
    """Of counts ... x 3, 0 where nothing changed and nothing was found."""
    true, false, missed = np.moveaxis(counts, -1, 0)
    return 2 * true / np.maximum(2 * true + false + missed, 1)


def measure(detector: Detector, pair: Pair, truth: Truth) -> Outcome:
    """Both on one pair."""
    images, known = detector.read(pair.before, pair.after), truth.read(pair)
    began = time.perf_counter()
    vector = change_vector_mask(images.before, images.after)
    between = time.perf_counter()
    prediction = detector.predict_loaded(images)
    ended = time.perf_counter()
    assert prediction.confidence is not None
    return Outcome(
        pair.name, count(prediction.mask > 0, known), count(vector, known), ended - between, between - began,
        prediction.confidence,
    )  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", nargs="+", type=Path, default=[SHARED / name for name in SETS], help="labelled data sets"
    )
    parser.add_argument("--pairs", action="store_true", help="a line of each pair, too")
    arguments = parser.parse_args()
    detector = segdiff.load("first_look")
    print(detector.runtime)
    print("data                 pairs  change vector  first_look  (95 %)           gain   pairs/s of both")
    gains, everything = [], []
    for data in arguments.data:
        try:
            report = check(find_pairs(data))
        except DataError as error:
            parser.error(str(error))
        if report.coding is None:
            parser.error(f"segdiff check {data} finds faults")
        truth = Truth(report.coding, 2)
        outcomes = [measure(detector, pair, truth) for pair in report.data.pairs]
        counts = np.stack([one.counts for one in outcomes])
        found, baseline = (f1(each.sum(axis=0)) for each in (counts, np.stack([one.baseline for one in outcomes])))
        gains.append(found - baseline)
        everything += outcomes
        low, high = interval(f1(drawn_pairs(len(outcomes)) @ counts))
        rates = [
            len(outcomes) / sum(seconds)
            for seconds in ([one.baseline_seconds for one in outcomes], [one.seconds for one in outcomes])
        ]
        name = "/".join(data.parts[-2:]) if data.name in ("val", "train", "test") else data.name
        print(
            f"{name:<20} {len(outcomes):>5}  {baseline:>13.3f}  {found:>10.3f}  ({low:.3f} to {high:.3f}) "
            f"{gains[-1]:>+6.3f}  {rates[0]:>6.1f} {rates[1]:>6.2f}",
            flush=True,
        )
        if arguments.pairs:
            for one in outcomes:
                print(
                    f"    {one.name:<20} change vector {f1(one.baseline):.3f}  first_look {f1(one.counts):.3f}  "
                    f"confidence {one.confidence:.2f}",
                    flush=True,
                )
    print(f"mean gain {np.mean(gains):+.3f}")
    confidences, scores = [one.confidence for one in everything], [f1(one.counts) for one in everything]
    if np.std(confidences) > 0 and np.std(scores) > 0:
        correlation = np.corrcoef(confidences, scores)[0, 1]
        print(f"confidence and F1 of {len(everything)} pairs: correlation {correlation:.2f}")
    unsure = [score for confidence, score in zip(confidences, scores, strict=True) if confidence < UNSURE]
    best = f", the best F1 among these {max(unsure):.3f}" if unsure else ""
    print(f"{len(unsure)} of {len(everything)} pairs below a confidence of {UNSURE:g}{best}")


if __name__ == "__main__":
    main()
