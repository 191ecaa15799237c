"""Matching and average precision against definitions written out, by hand, and on real boards."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_pipelines import IGNORE
from data_pipelines.decoding import read_mask
from data_pipelines.layouts import find_pairs
from segdiff.inference.boxes import Boxes, find_boxes, read_true_boxes
from segdiff.inference.object_scores import (
    ObjectOptions,
    ObjectScoreboard,
    average_precision,
    box_iou,
    match_boxes,
)
from segdiff.inference.predictor import Prediction

BINARY = ("background", "change")


def boxes_of(*rows: tuple) -> Boxes:
    """Boxes of (corners, class, score)."""
    corners = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    return Boxes(corners, np.array([row[1] for row in rows], np.int64), np.array([row[2] for row in rows], np.float64))


@st.composite
def some_boxes(draw, most: int, distinct_scores: bool) -> Boxes:
    count = draw(st.integers(0, most))
    scores = draw(st.lists(st.integers(0, 1000 if distinct_scores else 2), min_size=count, max_size=count,
                           unique=distinct_scores))  # fmt: skip
    rows = []
    for score in scores:
        x, y, width, height = (draw(st.integers(low, 6)) for low in (0, 0, 1, 1))
        rows.append(((x, y, x + width, y + height), draw(st.integers(1, 2)), score / 1000))
    return boxes_of(*rows)


def pixels(corners: np.ndarray) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = map(int, corners)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def counted_iou(one: np.ndarray, other: np.ndarray) -> float:
    """By counting pixels."""
    return len(pixels(one) & pixels(other)) / len(pixels(one) | pixels(other))


THRESHOLDS = st.sampled_from([0.0, 0.2, 0.25, 1 / 3, 0.5, 0.75])


@given(some_boxes(7, True), some_boxes(5, True))
def test_iou_is_that_of_counted_pixels(found, true):
    for corners in found.corners:
        expected = [counted_iou(corners, other) for other in true.corners]
        assert box_iou(corners, true.corners).tolist() == expected, "to the last bit: it is compared with a threshold"


@given(some_boxes(7, True), some_boxes(5, True), THRESHOLDS)
def test_matching_is_that_of_one_box_after_the_other(found, true, iou):
    free, expected = set(range(len(true))), np.zeros(len(found), bool)
    for index in np.argsort(-found.scores):
        overlaps = {
            other: counted_iou(found.corners[index], true.corners[other])
            for other in free
            if true.classes[other] == found.classes[index]
        }
        best = max(overlaps, key=lambda other: (overlaps[other], -other), default=None)
        if best is not None and overlaps[best] > iou:
            expected[index] = True
            free.remove(best)
    assert match_boxes(found, true, iou).tolist() == expected.tolist()


@given(st.data(), some_boxes(7, False), some_boxes(5, False), THRESHOLDS)
def test_the_order_of_boxes_of_equal_score_makes_no_difference(data, found, true, iou):
    overlaps = [counted_iou(a, b) for a in found.corners for b in true.corners]
    enough = [overlap for overlap in overlaps if overlap > iou]
    assume(len(set(enough)) == len(enough))
    mixed = np.array(data.draw(st.permutations(range(len(found)))), int)
    others = np.array(data.draw(st.permutations(range(len(true)))), int)
    hits = match_boxes(found.take(mixed), true.take(others), iou)
    np.testing.assert_array_equal(hits, match_boxes(found, true, iou)[mixed])


def test_an_iou_of_exactly_the_threshold_is_not_enough():
    true = boxes_of(((0, 0, 4, 1), 1, 1))
    assert not match_boxes(boxes_of(((0, 0, 2, 1), 1, 1)), true, 0.5)[0]
    assert match_boxes(boxes_of(((0, 0, 2, 1), 1, 1)), true, 0.49)[0]
    assert not match_boxes(boxes_of(((0, 0, 4, 1), 2, 1)), true, 0.49)[0], "of another class"
    assert not match_boxes(boxes_of(((4, 0, 8, 1), 1, 1)), true, 0.0)[0], "that touch share nothing"


def test_each_true_box_is_taken_once_and_the_best_of_equals_takes_it():
    true = boxes_of(((0, 0, 10, 10), 1, 1))
    twice = boxes_of(((0, 0, 10, 9), 1, 0.5), ((0, 0, 10, 10), 1, 0.5))
    assert match_boxes(twice, true, 0.3).tolist() == [False, True]
    later = boxes_of(((0, 0, 10, 9), 1, 0.6), ((0, 0, 10, 10), 1, 0.5))
    assert match_boxes(later, true, 0.3).tolist() == [True, False]


def test_a_box_whose_best_is_taken_gets_the_next():
    true = boxes_of(((0, 0, 10, 10), 1, 1), ((0, 4, 10, 14), 1, 1))
    found = boxes_of(((0, 0, 10, 10), 1, 0.9), ((0, 1, 10, 11), 1, 0.8))
    assert match_boxes(found, true, 0.3).tolist() == [True, True]


# ------------------------------------------------------------------------------------------------ average precision


def test_average_precision_by_hand():
    """Right, wrong, right, wrong, right of 4: precisions 1, 1/2, 2/3, 1/2, 3/5 at recalls 1/4, 1/4, 1/2, 1/2, 3/4."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, False, True, False, True])
    assert average_precision(scores, right, 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    order = [3, 0, 4, 2, 1]
    assert average_precision(scores[order], right[order], 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    # a better precision at a greater recall lifts the ones before: 0, 1/2, 2/3 are 2/3 throughout
    assert average_precision(scores[:3], np.array([False, True, True]), 2) == pytest.approx(2 / 3)
    # of equal score: the one point of precision 3/5 at recall 3/4
    assert average_precision(np.ones(5), right, 4) == pytest.approx(3 / 4 * 3 / 5)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 4) == 0
    assert average_precision(np.ones(4), np.ones(4, bool), 4) == 1


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=12), st.integers(0, 4))
def test_average_precision_is_the_mean_over_the_true_objects_of_the_best_precision_that_finds_so_many(found, missed):
    scores, right = np.array([score / 8 for score, _ in found]), np.array([hit for _, hit in found], bool)
    support = max(int(right.sum()) + missed, 1)
    total = 0.0
    for wanted in range(1, support + 1):
        precisions = []
        for threshold in set(scores):
            above = right[scores >= threshold]
            if above.sum() >= wanted:
                precisions.append(above.sum() / len(above))
        total += max(precisions, default=0.0)
    assert average_precision(scores, right, support) == pytest.approx(total / support)


# ------------------------------------------------------------------------------------------------------ the scoreboard


def prediction(mask: np.ndarray, probability: np.ndarray | None = None, valid: np.ndarray | None = None) -> Prediction:
    return Prediction(mask, np.ones(mask.shape, np.float32) if probability is None else probability, valid=valid)


def squares(*places: tuple[int, int, int], shape: tuple[int, int] = (20, 60)) -> np.ndarray:
    """A mask of squares of 4 x 4: (row, column, class)."""
    mask = np.zeros(shape, np.uint8)
    for row, column, kind in places:
        mask[row : row + 4, column : column + 4] = kind
    return mask


def test_two_pairs_by_hand():
    """Class 1: .9 right and .6 wrong, then .8 wrong and .7 right, of 3; 2: .5 right, of 1; 3: .4 wrong, of none;
    4: none, of 1.

    The curve of class 1 is over both pairs: right, wrong, right, wrong, so AP = (1 + 2/3) / 3, where the mean of the
    two pairs' own would be (1/2 + 1/2) / 2.
    """
    board = ObjectScoreboard(("none", "one", "two", "three", "four"), ObjectOptions(iou=0.5))
    first = squares((0, 0, 1), (0, 30, 1), (10, 0, 2), (10, 30, 3))
    second = squares((0, 0, 1), (0, 30, 1))
    scores = {(0, 0, 1): 0.9, (0, 30, 1): 0.6, (10, 0, 2): 0.5, (10, 30, 3): 0.4}
    probability = np.zeros((20, 60, 5), np.float32)
    for (row, column, kind), score in scores.items():
        probability[row : row + 4, column : column + 4, kind] = score
    own = board.add(prediction(first, probability), squares((0, 0, 1), (0, 10, 1), (10, 0, 2)))
    assert own == {"object_precision": 2 / 4, "object_recall": 2 / 3, "object_f1": 4 / 7}
    probability = np.zeros((20, 60, 5), np.float32)
    probability[:, :20, 1], probability[:, 20:, 1] = 0.8, 0.7
    own = board.add(prediction(second, probability), squares((0, 30, 1), (10, 30, 4)))
    assert own == {"object_precision": 1 / 2, "object_recall": 1 / 2, "object_f1": 1 / 2}
    found = board.scores()
    assert [found[key] for key in ("support", "found", "right")] == [5, 6, 3]
    assert [found[key] for key in ("precision", "recall", "f1")] == [3 / 6, 3 / 5, 6 / 11]
    classes = found["classes"]
    assert list(classes) == ["one", "two", "three", "four"]
    assert classes["one"] == {
        "precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3, "found": 4, "right": 2,
        "ap": pytest.approx((1 + 2 / 3) / 3),
    }  # fmt: skip
    assert (classes["two"]["ap"], classes["two"]["f1"]) == (1, 1)
    assert (classes["three"]["ap"], classes["three"]["found"], classes["three"]["f1"]) == (None, 1, 0)
    assert (classes["four"]["ap"], classes["four"]["found"], classes["four"]["precision"]) == (0, 0, 0)
    assert found["map"] == pytest.approx(((1 + 2 / 3) / 3 + 1 + 0) / 3), "over the classes that have true objects"


def test_a_region_of_the_wrong_class_stands_in_the_curve_of_the_right_one():
    """Two of three regions are called what they are not, with half the probability, and their own class is next."""
    board = ObjectScoreboard(("none", "one", "two"), ObjectOptions(iou=0.5))
    probability = np.zeros((20, 60, 3), np.float32)
    probability[0:4, 0:4], probability[0:4, 30:34] = (0.0, 0.9, 0.1), (0.1, 0.4, 0.5)
    probability[10:14, 0:4] = (0.2, 0.5, 0.3)
    found = squares((0, 0, 1), (0, 30, 2), (10, 0, 1))
    own = board.add(prediction(found, probability), squares((0, 0, 1), (0, 30, 1), (10, 0, 2)))
    assert own == {"object_precision": 1 / 3, "object_recall": 1 / 3, "object_f1": 1 / 3}, "what the mask says"
    scores = board.scores()
    assert (scores["found"], scores["right"]) == (3, 1)
    assert scores["classes"]["one"]["ap"] == pytest.approx((1 + 2 / 3) / 2), ".9 right, .5 wrong, .4 right"
    assert scores["classes"]["two"]["ap"] == pytest.approx(1 / 2), ".5 wrong, .3 right, .1 wrong"


def test_what_scores_too_low_is_not_found_but_stays_in_the_curve():
    """.75 right, .5 right, .25 wrong."""
    found = squares((0, 0, 1), (0, 30, 1), (10, 0, 1))
    probability = np.zeros((20, 60), np.float32)
    probability[0:4, 0:4], probability[0:4, 30:34], probability[10:14, 0:4] = 0.75, 0.5, 0.25
    boards = []
    for score in (0.0, 0.5, 0.51):
        boards.append(ObjectScoreboard(BINARY, ObjectOptions(iou=0.5, minimum_score=score)))
        own = boards[-1].add(prediction(found, probability), squares((0, 0, 1), (0, 30, 1)))
        assert own["object_f1"] == boards[-1].scores()["f1"]
    counts = [[board.scores()[key] for key in ("support", "found", "right")] for board in boards]
    assert counts == [[2, 3, 2], [2, 2, 2], [2, 1, 1]]
    assert [board.scores()["map"] for board in boards] == [1, 1, 1]


def test_nothing_counted_has_no_curve():
    board = ObjectScoreboard(BINARY, ObjectOptions())
    assert board.scores()["map"] is None
    nothing = np.zeros((5, 5), np.uint8)
    assert board.add(prediction(nothing), nothing) == {"object_precision": 0, "object_recall": 0, "object_f1": 0}
    assert (board.scores()["map"], board.scores()["f1"]) == (None, 0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(0, 4), st.integers(1, 4))
def test_equal_masks_are_perfect_whatever_makes_the_boxes(seed, join, pad, minimum_area):
    mask = np.random.default_rng(seed).choice([0, 0, 0, 0, 0, 1, 2], (24, 32)).astype(np.uint8)
    options = ObjectOptions(iou=0.99, join=join, pad=pad, minimum_area=minimum_area)
    board = ObjectScoreboard(("none", "one", "two"), options)
    board.add(prediction(mask, np.eye(3, dtype=np.float32)[mask]), mask)
    scores = board.scores()
    count = len(find_boxes(mask, join=join, pad=pad, minimum_area=minimum_area))
    assert scores["support"] == scores["found"] == scores["right"] == count
    assert scores["map"] == (1 if count else None)


def test_what_lies_mostly_without_truth_or_data_is_not_counted():
    def counts(mask, truth, boxes=None, valid=None) -> tuple[int, int, int]:
        board = ObjectScoreboard(BINARY, ObjectOptions())
        board.add(prediction(mask, valid=valid), truth, boxes)
        scores = board.scores()
        return scores["support"], scores["found"], scores["right"]

    mask = squares((0, 0, 1), (0, 30, 1))
    truth = squares((0, 0, 1))
    assert counts(mask, truth) == (1, 2, 1)
    half, more = truth.copy(), truth.copy()
    half[:2], more[:3] = np.where(half[:2] > 0, 1, IGNORE), np.where(more[:3] > 0, 1, IGNORE)
    assert counts(mask, half) == (1, 2, 1), "half of its pixels have no truth: it counts"
    assert counts(mask, more) == (1, 1, 1)
    listed = boxes_of(((0, 0, 4, 4), 1, 1), ((30, 0, 34, 4), 1, 1), ((50, 10, 54, 14), 1, 1))
    assert counts(mask, np.zeros_like(truth), listed) == (3, 2, 2)
    assert counts(mask, np.where(half == IGNORE, half, 0), listed) == (3, 2, 2)
    assert counts(mask, np.where(more == IGNORE, more, 0), listed) == (2, 1, 1), "so it is with true boxes"
    valid = np.ones(mask.shape, bool)
    valid[:, 28:] = False
    assert counts(np.where(valid, mask, 0), truth, listed, valid) == (1, 1, 1), "and where the images have no data"
    hidden = squares((0, 0, 1), (0, 30, 1))
    assert counts(np.where(valid, mask, 0), hidden, None, valid) == (1, 1, 1)


@pytest.mark.parametrize(
    "option",
    [{"iou": 1.0}, {"iou": -0.1}, {"join": -1}, {"pad": -1}, {"minimum_area": 0},
     {"minimum_score": -0.1}, {"minimum_score": 1.1}],
)  # fmt: skip
def test_options_out_of_range_are_refused(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"^{name} is {value}"):
        ObjectOptions(**option)


def test_the_true_masks_of_real_boards_find_their_true_boxes(shared: Path):
    """769 true boxes on 100 boards; counted by a loop of its own, 767 of the masks' 768 boxes are right."""
    names = ("background", "open", "short", "mousebite", "spur", "copper", "pin-hole")
    pairs = find_pairs(shared / "data" / "deeppcb").pairs[:100]
    boxes = read_true_boxes(pairs, names)
    several = ObjectScoreboard(names, ObjectOptions(iou=0.33, join=9, pad=8, minimum_area=12))
    binary = ObjectScoreboard(BINARY, several.options)
    as_change = read_true_boxes(pairs, BINARY)
    for pair in pairs:
        assert pair.mask is not None
        mask = read_mask(pair.mask)
        several.add(prediction(mask, np.eye(7, dtype=np.float32)[mask]), mask, boxes[pair.name])
        change = (mask > 0).astype(np.uint8)
        binary.add(prediction(change), change, as_change[pair.name])
    scores = several.scores()
    assert (scores["support"], scores["found"], scores["right"]) == (769, 768, 767)
    assert scores["f1"] >= 0.998
    assert scores["classes"]["open"]["f1"] == 1
    assert binary.scores()["support"] == 769
    assert binary.scores()["f1"] >= 0.98
