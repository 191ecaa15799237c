"""The post-processing that is chosen is the one that raises F1, counted here by processing every mask anew."""

import numpy as np
import pytest

from segdiff.inference.postprocessing import postprocess_mask
from segdiff.model_files import PostProcessing
from segdiff.training.metrics import confusion_matrix
from segdiff.training.post_processing import choose_post_processing, keep_trials

CANDIDATES = [
    PostProcessing(),
    PostProcessing(minimum_area=8),
    PostProcessing(fill_holes=8, closing=1),
    PostProcessing(closing=2, minimum_area=32, vote=True),
]


def squares(*, specks: int = 0, holes: int = 0, gaps: int = 0, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A mask of four squares of 40 x 40 with faults, and the true one."""
    truth = np.zeros((side, side), np.uint8)
    for y, x in ((8, 8), (8, 72), (72, 8), (72, 72)):
        truth[y : y + 40, x : x + 40] = 1
    mask = truth.copy()
    for k in range(specks):
        mask[2, 4 * k : 4 * k + 2] = 1
    for k in range(holes):
        mask[20 + 4 * (k // 8) : 22 + 4 * (k // 8), 12 + 4 * (k % 8) : 14 + 4 * (k % 8)] = 0
    for k in range(gaps):
        mask[72 : 72 + 40, 12 + 4 * k] = 0
    return mask, truth


def chosen(*pairs: tuple[np.ndarray, np.ndarray], classes: int = 2) -> tuple[PostProcessing, np.ndarray]:
    with keep_trials(pairs, classes=classes, post_process=postprocess_mask) as trials:
        return choose_post_processing(trials)


@pytest.mark.parametrize("classes", [2, 4])
def test_confusion_matrices_are_those_of_the_processed_masks(classes, monkeypatch, tmp_path):
    monkeypatch.setattr("segdiff.training.post_processing._IN_MEMORY", 1000)  # most of them wait on disk
    rng = np.random.default_rng(classes)
    pairs = []
    for height, width in ((40, 50), (1, 7), (64, 33)):
        small = rng.integers(0, classes, (-(-height // 4), -(-width // 4)), np.uint8)
        truth = small.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
        mask = np.where(rng.random(truth.shape) < 0.1, rng.integers(0, classes, truth.shape), truth).astype(np.uint8)
        pairs.append((mask, np.where(rng.random(truth.shape) < 0.1, np.uint8(255), truth)))
    pairs.append((np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8)))
    with keep_trials(iter(pairs), classes=classes, post_process=postprocess_mask, workdir=tmp_path) as trials:
        for candidate, confusion in zip(CANDIDATES, trials.confusions(CANDIDATES), strict=True):
            processed = [(postprocess_mask(mask, candidate, classes=classes), truth) for mask, truth in pairs]
            expected = sum(confusion_matrix(truth, mask, classes) for mask, truth in processed)
            np.testing.assert_array_equal(confusion, expected)
        np.testing.assert_array_equal(trials.plain, trials.confusions(CANDIDATES[:1])[0])
    assert not list(tmp_path.iterdir())


def test_each_step_is_taken_where_it_helps_and_no_further():
    assert chosen(squares(specks=30))[0] == PostProcessing(minimum_area=8)
    assert chosen(squares(holes=40))[0] == PostProcessing(fill_holes=8)
    assert chosen(squares(gaps=6))[0] == PostProcessing(closing=1)
    both, confusion = chosen(squares(specks=30), squares(holes=40))
    assert both == PostProcessing(minimum_area=8, fill_holes=8)
    assert (confusion[0, 1], confusion[1, 0]) == (0, 0)  # every fault is mended


def test_what_gains_next_to_nothing_is_not_taken():
    """Beside 6400 true pixels n specks of two pixels cost 2 n / (12800 + 2 n) of F1: seven of them above 0.001."""
    assert chosen(squares(), squares())[0] == PostProcessing()
    assert chosen(squares(specks=6))[0] == PostProcessing()
    assert chosen(squares(specks=7))[0] == PostProcessing(minimum_area=8)


def test_classes_vote_where_there_are_several():
    mask, truth = squares()
    wrong = mask.copy()
    wrong[8:20, 8:48] = 2  # a part of one square, told to be of another class
    truth[72:, 72:] *= 2
    wrong[72:, 72:] = truth[72:, 72:]
    found, confusion = chosen((wrong, truth), classes=3)
    assert found == PostProcessing(vote=True)
    assert np.count_nonzero(confusion - np.diag(np.diag(confusion))) == 0


def test_no_pairs_choose_nothing():
    assert chosen()[0] == PostProcessing()
