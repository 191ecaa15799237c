"""How well a model does on pairs whose truth is known."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import IGNORE
from data_pipelines.decoding import read_mask
from data_pipelines.layouts import DataError, DataSet, Pair
from data_pipelines.validation import MaskCoding
from segdiff.config import load_config
from segdiff.inference.bootstrap import drawn_pairs, interval
from segdiff.inference.predictor import Prediction
from segdiff.training.metrics import class_scores, confusion_matrix, confusion_scores


@dataclass(frozen=True)
class Truth:
    """Reads the true masks of a data set as class indices of a model."""

    coding: MaskCoding
    classes: int
    """Of the model. For a binary model every class but 0 is the change."""

    def __post_init__(self) -> None:
        if self.classes > 2 and self.coding.values == (0, 255):
            raise DataError(
                f"the masks hold 0 and 255, change or none, and the model tells {self.classes} classes apart; "
                "take masks of class indices, or a binary model"
            )
        if self.classes > 2 and self.coding.classes > self.classes:
            raise DataError(
                f"the masks hold {self.coding.classes} classes and the model knows {self.classes}; "
                "take a model of these classes, or a binary one"
            )

    def read(self, pair: Pair) -> np.ndarray:
        """uint8 H x W, 255 where there is no truth."""
        assert pair.mask is not None, "pairs of a checked data set have masks"
        mask = self.coding.decode(read_mask(pair.mask))
        return np.where((mask > 0) & (mask != IGNORE), np.uint8(1), mask) if self.classes == 2 else mask


class Scoreboard:
    """One confusion matrix over all pixels of all pairs."""

    def __init__(self, classes: tuple[str, ...]):
        self.classes = classes
        self._confusions: list[np.ndarray] = []
        """Of each pair."""

    @property
    def pairs(self) -> int:
        """How many were counted."""
        return len(self._confusions)

    def add(self, prediction: Prediction, truth: np.ndarray) -> dict[str, float]:
        """Counts a pair; returns the scores of this pair alone. Pixels without data or truth are left out.

        A pair in which nothing has changed and nothing was found has none: all would be 0 / 0.
        """
        if prediction.valid is not None:
            truth = np.where(prediction.valid, truth, np.uint8(IGNORE))
        confusion = confusion_matrix(truth, prediction.mask, len(self.classes))
        self._confusions.append(confusion)
        if confusion.sum() == confusion[0, 0]:
            return {}
        scores = confusion_scores(confusion)
        return {name: float(scores[name]) for name in ("f1", "precision", "recall", "iou")}

    def scores(self) -> dict[str, Any]:
        """The scores of everything counted so far."""
        confusion = np.sum(self._confusions, axis=0)
        return {
            "pairs": self.pairs,
            **{name: float(value) for name, value in confusion_scores(confusion).items()},
            "classes": class_scores(confusion, self.classes),
            "confusion": confusion.tolist(),
        }

    def intervals(self) -> dict[str, list[float]]:
        """The intervals of the scores over the pairs, see `interval`; none of a single pair."""
        if self.pairs < 2:
            return {}
        drawn = np.tensordot(drawn_pairs(self.pairs), np.stack(self._confusions), axes=1)
        return {name: interval(np.asarray(values)) for name, values in confusion_scores(drawn).items()}


class SplitError(ValueError):
    """A split that the data do not have; the message is one line."""


def split_pairs(data: DataSet, split: str | None, model: Path) -> tuple[str, list[Pair]]:
    """The pairs of a split and its name; without one asked for, ``test`` where the data have it, else all pairs.

    Where ``model`` is a run folder, ``train`` and ``val`` are the pairs of the run's own lists. Raises SplitError
    where the split is not there or the run's lists name pairs that the data do not have.
    """
    splits = data.splits
    if split is None:
        split = "test" if "test" in splits else "all"
    lists = model / "list" / f"{split}.txt"
    if split in ("train", "val") and lists.is_file():
        return split, _listed(data, lists)
    if split == "all":
        names = {pair.name for pair in data.pairs}
        if len(names) == len(data.pairs):
            return split, list(data.pairs)
        # tiles numbered anew in each split: told apart by it
        return split, [replace(pair, name=f"{pair.split}_{pair.name}") for pair in data.pairs]
    if split not in splits:
        raise SplitError(f"{data.root}: has no split {split!r}, it has {', '.join(splits)}; or take --split all")
    return split, list(splits[split])


def _listed(data: DataSet, file: Path) -> list[Pair]:
    """The pairs of DATA in a run's list, in which several data roots are told apart by their number."""
    lines = file.read_text().splitlines()
    roots = load_config(file.parent.parent / "config.yaml").data.root
    if len(roots) > 1:
        numbers = [str(k) for k, root in enumerate(roots) if Path(root.path).resolve() == data.root.resolve()]
        if not numbers:  # the data have been moved: the one root of which DATA has every pair
            names = {pair.name for pair in data.pairs}
            candidates = {line.partition("/")[0] for line in lines}
            numbers = [k for k in candidates if {n for r, _, n in (x.partition("/") for x in lines) if r == k} <= names]
        if len(numbers) != 1:
            raise SplitError(f"{data.root}: is none of the data roots of the run {file.parent.parent}")
        lines = [line.partition("/")[2] for line in lines if line.partition("/")[0] == numbers[0]]
    # a name may stand in several splits: that of the list comes first, and no training takes the test pairs
    ranked = sorted(data.pairs, key=lambda pair: (pair.split != "test", pair.split == file.stem))
    by_name = {pair.name: pair for pair in ranked}
    missing = [line for line in lines if line not in by_name]
    if missing:
        raise SplitError(
            f"{data.root}: lacks {len(missing)} of the {len(lines)} pairs in {file}, {missing[0]} first; "
            "take the data of the run, or --split all"
        )
    return [by_name[line] for line in lines]
