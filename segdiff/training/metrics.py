"""Scores of the change class from one confusion matrix over all pixels, counted exactly."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

BINS = 1024
"""Thresholds are told apart in steps of 1 / BINS: a power of two, so that probability x BINS is exact."""


def confusion_scores(confusion) -> dict[str, Any]:
    """Scores of a confusion matrix K x K (true class down, predicted across; class 0 is no change), or ... x K x K.

    ``precision``, ``recall``, ``f1`` and ``iou`` are of the change: every class but 0 against 0 where K = 2; the means
    over the classes of change where K > 2, in which case ``change_f1`` is change against none. A class that is neither
    true nor predicted anywhere has no part in the means, as in scikit-learn. ``kappa`` is Cohen's, ``accuracy`` the
    overall accuracy. A score whose denominator is 0 is 0. Float64, one a matrix; works on arrays and inside graphs.
    """
    matrix = ops.cast(confusion, "float64")
    classes = matrix.shape[-1]
    true, predicted = ops.sum(matrix, axis=-1), ops.sum(matrix, axis=-2)
    hit = ops.diagonal(matrix, axis1=-2, axis2=-1)
    total = ops.sum(true, axis=-1)
    agreed = _divide(ops.sum(hit, axis=-1), total)
    chance = _divide(ops.sum(true * predicted, axis=-1), total * total)
    each = _class_scores(true, predicted, hit)
    present = (true + predicted)[..., 1:] > 0
    scores = {name: _mean_of(values[..., 1:], present, axis=-1) for name, values in each.items()}
    if classes > 2:
        none = true[..., 0] + predicted[..., 0]
        scores["change_f1"] = _divide(2 * (total - none + matrix[..., 0, 0]), 2 * total - none)
    scores["kappa"] = _divide(agreed - chance, 1.0 - chance)
    scores["accuracy"] = agreed
    return scores


def class_scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and IoU of every class by its name."""
    matrix = np.asarray(confusion, "float64")
    each = _class_scores(matrix.sum(axis=1), matrix.sum(axis=0), np.diagonal(matrix))
    return {name: {score: float(values[k]) for score, values in each.items()} for k, name in enumerate(names)}


def _class_scores(true, predicted, hit) -> dict[str, Any]:
    return {
        "precision": _divide(hit, predicted),
        "recall": _divide(hit, true),
        "f1": _divide(2 * hit, true + predicted),
        "iou": _divide(hit, true + predicted - hit),
    }


def _mean_of(values, present, axis: int):
    """The mean of the values that are present; 0 where none is."""
    present = ops.cast(present, values.dtype)
    return _divide(ops.sum(values * present, axis=axis), ops.sum(present, axis=axis))


def _divide(a, b):
    return ops.where(ops.equal(b, 0), ops.zeros_like(b), a / ops.where(ops.equal(b, 0), ops.ones_like(b), b))


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Counts K x K int64 of true (down) and predicted (across) class indices, pixels without truth left out."""
    counted = truth != ignore
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@keras.saving.register_keras_serializable(package="segdiff")
class ChangeScores(keras.metrics.Metric):
    """The scores of ``confusion_scores`` at the threshold with the best F1, which is ``threshold`` among them.

    Takes truth N x H x W and logits N x H x W x C (``from_logits=False``: probabilities). Pixels are counted by true
    class, by the likeliest class of change and by probability of change, in whole numbers: from that the confusion
    matrix at every threshold follows without a second pass over the pixels.
    """

    def __init__(self, classes: int, ignore: int = 255, from_logits: bool = True, name: str = "scores", **kwargs):
        super().__init__(name=name, **kwargs)
        self.classes, self.ignore, self.from_logits = classes, ignore, from_logits
        self.counts = self.add_variable((classes, classes - 1, BINS), "zeros", dtype="int64", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts the pixels of a batch."""
        if sample_weight is not None:
            raise ValueError(
                "sample_weight is not taken: pixels count once each, those marked to be ignored not at all"
            )
        truth = ops.cast(y_true, "int32")
        probability, kind = change_of(y_pred, self.from_logits)
        # a probability that is no number has no place in the counts and would stop the step before the loss can tell
        probability = ops.where(ops.isnan(probability), 0.0, probability)
        # 1 - p of no change may lie below 0 by a rounding, where p is a mean
        level = ops.clip(ops.cast(ops.floor(probability * BINS), "int32"), 0, BINS - 1)
        size = self.classes * (self.classes - 1) * BINS
        index = (truth * (self.classes - 1) + kind) * BINS + level
        index = ops.where(ops.equal(truth, self.ignore), size, index)
        index = ops.reshape(index, (-1,))
        # not bincount: XLA cannot compile it
        counts = ops.segment_sum(ops.ones_like(index), index, num_segments=size + 1)[:size]
        self.counts.assign(self.counts + ops.cast(ops.reshape(counts, self.counts.shape), "int64"))

    def result(self):
        """The scores at the best threshold; multi-class: the best for the mean F1 of the classes of change."""
        f1 = self._f1_by_threshold()
        # thresholds between which no probability lies tie: the one nearest to 1/2 leaves room on both sides
        away = ops.abs(ops.arange(BINS) - BINS // 2)
        best = ops.argmin(ops.where(ops.equal(f1, ops.max(f1)), away, BINS))
        scores = confusion_scores(self._confusion(best))
        return {**scores, "threshold": ops.cast(best, "float64") / BINS}

    def at(self, threshold: float) -> np.ndarray:
        """The confusion matrix K x K at a threshold, which is a multiple of 1 / BINS."""
        step = threshold * BINS
        if step != int(step):
            raise ValueError(f"threshold is {threshold}, it must be a multiple of 1/{BINS}")
        return ops.convert_to_numpy(self._confusion(int(step)))

    def _confusion(self, step):
        changed = ops.arange(BINS) >= step
        change = ops.sum(ops.where(changed, self.counts, 0), axis=-1)
        none = ops.sum(ops.where(changed, 0, self.counts), axis=(1, 2))
        return ops.concatenate([none[:, None], change], axis=1)

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall of every class of change at the thresholds 0, 1 / BINS, ...: (K - 1) x BINS each."""
        hit, predicted, true = self._by_threshold()
        precision, recall = _divide(hit, predicted), _divide(hit, true)
        return ops.convert_to_numpy(precision), ops.convert_to_numpy(recall)

    def _by_threshold(self):
        """Pixels that are right, predicted and true, by class of change and threshold."""
        counts = ops.cast(self.counts, "float64")
        above = ops.flip(ops.cumsum(ops.flip(counts, axis=-1), axis=-1), axis=-1)
        hit = ops.stack([above[k + 1, k] for k in range(self.classes - 1)])
        return hit, ops.sum(above, axis=0), ops.sum(counts, axis=(1, 2))[1:, None]

    def _f1_by_threshold(self):
        hit, predicted, true = self._by_threshold()
        # at threshold 0 everything is change: never the choice of anybody, though its F1 may tie
        usable = ops.cast(ops.arange(BINS) > 0, "float64")
        return _mean_of(_divide(2 * hit, true + predicted), true + predicted > 0, axis=0) * usable

    def get_config(self):
        """The constructor's arguments."""
        own = {"classes": self.classes, "ignore": self.ignore, "from_logits": self.from_logits}
        return {**super().get_config(), **own}


def change_of(scores, from_logits: bool):
    """Probability of change and index of the likeliest class of change less one, N x H x W each."""
    scores = ops.cast(scores, "float32")
    channels = scores.shape[-1]
    if channels == 1:
        probability = scores[..., 0]
        probability = ops.sigmoid(probability) if from_logits else probability
        return probability, ops.zeros_like(probability, dtype="int32")
    probabilities = ops.softmax(scores) if from_logits else scores
    kind = ops.argmax(probabilities[..., 1:], axis=-1)
    change = probabilities[..., 1] if channels == 2 else 1.0 - probabilities[..., 0]
    return change, ops.cast(kind, "int32")
