"""Which post-processing of its masks a model should carry, by their F1 on the validation pairs."""

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from segdiff.model_files import PostProcessing
from segdiff.training.metrics import confusion_matrix, confusion_scores

MARGIN = 0.001
"""What a step has to add to F1: less may be chance, and each step costs time and detail."""

STEPS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("minimum_area", (8, 16, 32, 64, 128, 256)),
    ("fill_holes", (8, 32, 128, 512)),
    ("closing", (1, 2, 3)),
    ("vote", (True,)),
)
"""What is tried, one step upon the other."""

PostProcess = Callable[..., np.ndarray]
"""(mask, settings, classes=number) -> the mask after post-processing; uint8 H x W both."""

_IN_MEMORY = 1 << 26
"""Bytes of compressed masks that are kept in memory; more of them wait on disk."""


class Trials:
    """Masks that a model predicts and their truth, to be post-processed in one way after the other: `keep_trials`."""

    def __init__(
        self, pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int, post_process: PostProcess, file: IO[bytes]
    ):
        self.classes, self._post_process, self._file = classes, post_process, file
        self._kept: list[tuple[tuple[int, ...], list[int]]] = []
        self.plain = np.zeros((classes, classes), np.int64)
        """The confusion matrix of the masks as they are."""
        for mask, truth in pairs:
            self.plain += confusion_matrix(truth, mask, classes)
            packed = [zlib.compress(image.tobytes(), level=1) for image in (mask, truth)]
            file.writelines(packed)
            self._kept.append((mask.shape, [len(image) for image in packed]))

    def confusions(self, candidates: Sequence[PostProcessing]) -> list[np.ndarray]:
        """The confusion matrix of the masks after each of the candidates."""
        confusions = [self.plain.copy() for _ in candidates]
        self._file.seek(0)
        for shape, sizes in self._kept:
            mask, truth = (
                np.frombuffer(zlib.decompress(self._file.read(size)), np.uint8).reshape(shape) for size in sizes
            )
            if not mask.any():  # nothing is made of nothing
                continue
            for confusion, candidate in zip(confusions, candidates, strict=True):
                processed = self._post_process(mask, candidate, classes=self.classes)
                changed = processed != mask
                confusion += confusion_matrix(truth[changed], processed[changed], self.classes)
                confusion -= confusion_matrix(truth[changed], mask[changed], self.classes)
        return confusions


@contextmanager
def keep_trials(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    classes: int,
    post_process: PostProcess,
    workdir: Path | None = None,
) -> Iterator[Trials]:
    """Keeps `pairs` of (mask, truth), uint8 H x W each: class indices, 255 where there is no truth.

    They are drawn once and kept compressed in a file without a name in `workdir`; memory holds one of them at a time.
    """
    folder = None if workdir is None else str(workdir)
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=folder) as file:
        yield Trials(pairs, classes, post_process, file)


def choose_post_processing(trials: Trials) -> tuple[PostProcessing, np.ndarray]:
    """The post-processing that raises F1, and the confusion matrix with it.

    F1 is that of the change, and with several classes the mean of the classes of change. Coordinate search: the best
    value of each of `STEPS` is taken, upon what has been taken before, where it gains more than `MARGIN`; of equal
    values the smallest.
    """
    chosen, confusion = PostProcessing(), trials.plain
    for name, values in STEPS:
        if name == "vote" and trials.classes == 2:
            continue
        candidates = [replace(chosen, **{name: value}) for value in values]
        confusions = trials.confusions(candidates)
        best = int(np.argmax([_f1(one) for one in confusions]))
        if _f1(confusions[best]) - _f1(confusion) > MARGIN:
            chosen, confusion = candidates[best], confusions[best]
    return chosen, confusion


def _f1(confusion: np.ndarray) -> float:
    return float(confusion_scores(confusion)["f1"])
