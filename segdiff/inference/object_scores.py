"""How well the objects of a model agree with the true ones: precision, recall, F1 and average precision of boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import IGNORE
from segdiff.inference.bootstrap import drawn_pairs, interval
from segdiff.inference.boxes import Boxes, find_boxes
from segdiff.inference.predictor import Prediction
from segdiff.model_files import ObjectOptions


class ObjectScoreboard:
    """Counts the objects of pair after pair; `classes` are the model's names, 0 first."""

    def __init__(self, classes: Sequence[str], options: ObjectOptions):
        self.classes, self.options = tuple(classes), options
        self._supports: list[np.ndarray] = []
        """True objects of each class in each pair."""
        self._found: list[_Matched] = []
        """The objects of each pair whose score is high enough."""
        self._ranked: list[_Matched] = []
        """All objects of each pair, each once for every class, by its score as one of that class."""

    def add(self, prediction: Prediction, truth: np.ndarray, boxes: Boxes | None = None) -> dict[str, float]:
        """Counts a pair; returns the scores of this pair alone, over all classes.

        `truth` is its true mask, uint8 H x W of class indices with 255 where there is no truth. The true objects are
        `boxes`; where those are None they are found in the mask in the way that those of the prediction are. What lies
        mostly (by more than half) where there is no truth or the images have no data is not counted, a region by its
        own pixels and one of `boxes` by its area: nobody can say whether it is right.
        """
        unknown = truth == IGNORE
        if prediction.valid is not None:
            unknown |= ~prediction.valid
        options = self.options
        way: dict[str, Any] = {"join": options.join, "pad": options.pad, "minimum_area": options.minimum_area}
        found = find_boxes(prediction.mask, prediction.probability, unknown=unknown, **way)
        if boxes is None:
            true = find_boxes(np.where(unknown, np.uint8(0), truth), **way)
        else:
            true = boxes.take(np.array([not _mostly(unknown, corners) for corners in boxes.corners], bool))
        ranked, found = found.as_every_class(), found.take(found.scores >= options.minimum_score)
        right = match_boxes(found, true, options.iou)
        self._supports.append(np.bincount(true.classes, minlength=len(self.classes)))
        self._found.append((found.classes, found.scores, right))
        self._ranked.append((ranked.classes, ranked.scores, match_boxes(ranked, true, options.iou)))
        return {f"object_{name}": value for name, value in _rates(len(true), len(found), int(right.sum())).items()}

    def scores(self) -> dict[str, Any]:
        """The scores of everything counted so far.

        `precision`, `recall` and `f1` are over the objects of all classes together, `map` is the mean of the AP of the
        classes that have true objects; `classes` holds the same by class, with `ap`. `support` counts the true objects,
        `found` those of the model and `right` the right ones among these. A rate whose denominator is 0 is 0; `ap` and
        `map` are None where there are no true objects.

        For the AP of a class every region is one of it, with the mean probability of that class over its pixels: one
        that is called open, 0.6, and may be a mousebite, 0.4, stands in the curves of both. So it is with detectors,
        which give each box a score of every class, and whose published mAPs are found so. The other rates are of what
        the mask says, down to the `minimum_score` of the options.
        """
        supports = np.array(self._supports, np.int64).reshape(-1, len(self.classes)).sum(axis=0)
        return _scores(self.classes, supports, _together(self._found), _together(self._ranked))

    def intervals(self) -> dict[str, list[float] | None]:
        """The intervals of `precision`, `recall`, `f1` and `map` over the pairs, see `interval`; None: it has none."""
        supports = np.array(self._supports, np.int64).reshape(-1, len(self.classes))
        found, ranked = _together(self._found), _together(self._ranked)
        of_found, of_ranked = _pair_of(self._found), _pair_of(self._ranked)
        drawn = [
            _scores(
                self.classes, times @ supports, _repeated(found, times[of_found]), _repeated(ranked, times[of_ranked])
            )
            for times in (drawn_pairs(len(supports)) if len(supports) > 1 else ())
        ]
        known = {name: [one[name] for one in drawn if one[name] is not None] for name in _WITH_INTERVALS}
        return {name: interval(np.array(values)) if values else None for name, values in known.items()}


_Matched = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of N objects their classes, their scores and whether they are right."""
_WITH_INTERVALS = ("precision", "recall", "f1", "map")


def _together(pairs: Sequence[_Matched]) -> _Matched:
    """The objects of all pairs."""
    nothing = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    kinds, scores, right = (np.concatenate(parts) for parts in zip(nothing, *pairs, strict=True))
    return kinds, scores, right


def _pair_of(pairs: Sequence[_Matched]) -> np.ndarray:
    """The number of the pair of each of the objects of all pairs, int64."""
    return np.repeat(np.arange(len(pairs)), [len(right) for *_, right in pairs]).astype(np.int64)


def _repeated(objects: _Matched, times: np.ndarray) -> _Matched:
    """Each of the objects so many times."""
    kinds, scores, right = (np.repeat(values, times) for values in objects)
    return kinds, scores, right


def match_boxes(found: Boxes, true: Boxes, iou: float) -> np.ndarray:
    """Which of the boxes that were found are right: bool N.

    One after the other, in the order of descending scores, takes the true box of its class with which its IoU is
    highest, of those that exceed `iou` and that none has taken before. Of equal scores the one of higher IoU comes
    first, then the one that stands first.
    """
    candidates = []
    for index, (corners, kind, score) in enumerate(zip(found.corners, found.classes, found.scores, strict=True)):
        overlaps = box_iou(corners, true.corners)
        for other in np.flatnonzero((overlaps > iou) & (true.classes == kind)):
            candidates.append((-score, -overlaps[other], index, other))
    right, taken = np.zeros(len(found), bool), np.zeros(len(true), bool)
    for _, _, index, other in sorted(candidates):
        if not right[index] and not taken[other]:
            right[index] = taken[other] = True
    return right


def box_iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box, 4, with others, M x 4 (corners as in `Boxes`): float64 M, 0..1."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared)


def average_precision(scores: np.ndarray, right: np.ndarray, support: int) -> float:
    """The area under the precision-recall curve of objects, 0..1.

    `scores`, float N, and `right`, bool N, are of the objects found in all pairs; `support`, 1 or more, counts the true
    ones. All points count: the precision at a recall is the highest at this recall or a greater one, and the area
    under these steps is taken whole, as PASCAL VOC does from 2010 on (Everingham and Winn, The PASCAL Visual Object
    Classes Challenge 2010 Development Kit, section 3.4.1); COCO samples the same curve at 101 recalls instead. Objects
    of equal score are one point of the curve: no threshold tells them apart, and their order must make no difference.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.diff(-scores[order], append=np.inf) > 0
    hits = np.cumsum(right[order])[last]
    precision, recall = hits / (np.flatnonzero(last) + 1), hits / support
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * highest))


def _scores(names: Sequence[str], supports: np.ndarray, found: _Matched, ranked: _Matched) -> dict[str, Any]:
    """`found` as the mask says, for the rates, and `ranked` as one of every class, for the AP."""
    kinds, _, right = found
    ranked_kinds, scores, ranked_right = ranked
    classes = {}
    for index, name in enumerate(names[1:], start=1):
        own, support = ranked_kinds == index, int(supports[index])
        classes[name] = {
            **_counts(support, right[kinds == index]),
            "ap": average_precision(scores[own], ranked_right[own], support) if support else None,
        }
    precisions = [entry["ap"] for entry in classes.values() if entry["ap"] is not None]
    mean = float(np.mean(precisions)) if precisions else None
    return {**_counts(int(supports.sum()), right), "map": mean, "classes": classes}


def _counts(support: int, right: np.ndarray) -> dict[str, Any]:
    found, hits = len(right), int(right.sum())
    return {**_rates(support, found, hits), "support": support, "found": found, "right": hits}


def _rates(support: int, found: int, right: int) -> dict[str, float]:
    return {
        "precision": right / found if found else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (found + support) if found + support else 0.0,
    }


def _mostly(unknown: np.ndarray, corners: np.ndarray) -> bool:
    """Whether more than half of the pixels that a box touches are unknown."""
    x1, y1 = np.floor(corners[:2]).astype(int)
    x2, y2 = np.ceil(corners[2:]).astype(int)
    return bool(unknown[y1:y2, x1:x2].mean() > 0.5)
