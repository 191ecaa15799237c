"""Intervals against SciPy's bootstrap, and what must hold of any."""

import numpy as np
import pytest
from scipy import stats

from segdiff.inference.bootstrap import drawn_pairs, interval
from segdiff.inference.boxes import Boxes
from segdiff.inference.evaluation import Scoreboard
from segdiff.inference.object_scores import ObjectScoreboard
from segdiff.inference.predictor import Prediction
from segdiff.model_files import ObjectOptions

BINARY = ("background", "change")


def boards(pairs: int) -> tuple[Scoreboard, np.ndarray]:
    """A scoreboard of random pairs of very different quality, and right, found and true pixels of each."""
    random = np.random.default_rng(pairs)
    board, counts = Scoreboard(BINARY), []
    for _ in range(pairs):
        truth = (random.random((20, 20)) < random.uniform(0.01, 0.5)).astype(np.uint8)
        mask = np.where(random.random(truth.shape) < random.uniform(0, 0.4), 1 - truth, truth)
        board.add(Prediction(mask, mask.astype(np.float32)), truth)
        counts.append([(mask & truth).sum(), mask.sum(), truth.sum()])
    return board, np.array(counts)


def test_the_interval_of_f1_is_that_of_scipy():
    board, counts = boards(60)
    scores, intervals = board.scores(), board.intervals()

    def f1(index, axis):
        hit, found, true = np.moveaxis(counts[index].sum(axis=axis - 1), -1, 0)
        return 2 * hit / (found + true)

    expected = stats.bootstrap(
        (np.arange(60),), f1, vectorized=True, method="percentile", n_resamples=4000, batch=500,
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert intervals["f1"] == pytest.approx(list(expected), abs=0.004)
    assert intervals["f1"][0] < scores["f1"] < intervals["f1"][1]


def test_more_pairs_make_the_interval_narrower_and_one_pair_has_none():
    widths = [np.diff(boards(pairs)[0].intervals()["f1"])[0] for pairs in (10, 300)]
    assert 0 < widths[1] < widths[0] / 2
    assert boards(1)[0].intervals() == {}


def test_each_drawing_has_as_many_pairs_and_all_of_them_come_up():
    times = drawn_pairs(30)
    assert (times.sum(axis=1) == 30).all()
    assert times.any(axis=0).all()
    np.testing.assert_array_equal(times, drawn_pairs(30))
    assert interval(np.arange(1001.0)) == [25, 975]


def test_objects_are_drawn_with_their_pairs():
    """Pairs of which half are all right and half all wrong: F1 of a drawing is the share of right pairs in it."""
    board = ObjectScoreboard(BINARY, ObjectOptions())
    for number in range(40):
        mask = np.zeros((24, 24), np.uint8)
        mask[2:8, 2:8] = mask[12:20, 12:20] = 1
        there, elsewhere = [[2, 2, 8, 8], [12, 12, 20, 20]], [[10, 2, 12, 4], [2, 20, 8, 22]]
        true = Boxes(np.array(there if number % 2 else elsewhere, float), np.array([1, 1]), np.ones(2))
        board.add(Prediction(mask, mask * np.float32(0.9)), mask, true)
    intervals = board.intervals()
    shares = drawn_pairs(40)[:, 1::2].sum(axis=1) / 40
    assert board.scores()["f1"] == 0.5
    assert intervals["f1"] == pytest.approx(interval(shares))
    assert intervals["map"] == pytest.approx(interval(shares**2))


def test_without_true_objects_there_is_no_interval_of_map():
    board = ObjectScoreboard(BINARY, ObjectOptions())
    mask = np.zeros((8, 8), np.uint8)
    board.add(Prediction(mask, mask.astype(np.float32)), mask)
    assert board.intervals()["map"] is None
