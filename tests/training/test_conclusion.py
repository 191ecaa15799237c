"""Which pairs a training shows, and how the masks of its validation pairs are made."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.layouts import Pair
from data_pipelines.pipeline import LabelledPair, PairStore
from data_pipelines.synthetic.writing import write_scenes
from data_pipelines.validation import MaskCoding
from segdiff.resampling import resample
from segdiff.training.conclusion import Standing, Validation, best_and_worst, predict_by, standing
from segdiff.training.metrics import ChangeScores, confusion_matrix


def test_the_standing_of_a_pair_is_its_f1_and_how_much_is_right():
    # 3 found of 5 true pixels, 1 false alarm: F1 = 6 / (4 + 5)
    assert standing(np.array([[90, 1], [2, 3]])) == Standing(6 / 9, 3 - 3)
    # 4 of 6 change pixels found, 3 of them of the right class, 2 false alarms
    assert standing(np.array([[50, 2, 0], [1, 2, 1], [1, 0, 1]])) == Standing(6 / 12, 3 - 5)
    assert standing(np.array([[100, 0], [0, 0]])) is None
    assert standing(np.array([[99, 1], [0, 0]])) == Standing(0.0, -1)


def test_the_best_come_best_first_and_the_worst_worst_first():
    f1s = [0.5, 0.9, 0.1, 0.7, 0.3]
    standings = [None, *(Standing(f1, 0) for f1 in f1s)]
    assert best_and_worst(standings, most=2) == ([2, 4], [3, 5])
    # the one in the middle is among the worst
    assert best_and_worst(standings, most=4) == ([2, 4], [3, 5, 1])
    assert best_and_worst([Standing(0.2, 1)]) == ([], [0])
    assert best_and_worst([None]) == ([], [])


def test_of_equal_f1_size_decides():
    large_error, small_error = Standing(0.0, -500), Standing(0.0, -2)
    large, small = Standing(1.0, 900), Standing(1.0, 3)
    assert best_and_worst([small_error, small, large_error, large], most=1) == ([3], [2])
    assert best_and_worst([small_error, small, large_error, large]) == ([3, 1], [2, 0])


@given(st.lists(st.none() | st.tuples(st.floats(0, 1), st.integers(-9, 9)), max_size=12), st.integers(1, 5))
def test_no_pair_is_shown_twice_and_none_that_is_better_is_left_out(drawn, most):
    standings = [None if one is None else Standing(*one) for one in drawn]
    best, worst = best_and_worst(standings, most)
    ranked = [place for place, one in enumerate(standings) if one is not None]
    assert not set(best) & set(worst)
    assert set(best) | set(worst) <= set(ranked)
    assert (len(best), len(worst)) == (min(most, len(ranked) // 2), min(most, len(ranked) - len(best)))
    left = set(ranked) - set(best) - set(worst)
    assert all(standings[a] >= standings[b] for a in best for b in [*left, *worst])
    assert all(standings[a] >= standings[b] for a in left for b in worst)
    assert [standings[place] for place in best] == sorted((standings[place] for place in best), reverse=True)
    assert [standings[place] for place in worst] == sorted(standings[place] for place in worst)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> PairStore:
    folder = tmp_path_factory.mktemp("validation") / "data"
    write_scenes(folder, pairs=3, size=72, seed=4)
    pairs = [
        LabelledPair(
            Pair(file.stem, file, folder / "B" / file.name, folder / "label" / file.name, "val"),
            MaskCoding("0 and 255", (0, 255), 2),
        )
        for file in sorted((folder / "A").iterdir())
    ]
    return PairStore(pairs, bands=3, binary=False, cache="memory")


def brightness() -> keras.Model:
    """Logits that are the difference of the mean bands: change is what became brighter."""
    before, after = (keras.Input((None, None, 3)) for _ in range(2))
    difference = keras.layers.Subtract()([after, before])
    return keras.Model([before, after], keras.ops.mean(difference, axis=-1, keepdims=True) / 100.0)


def test_every_pair_comes_with_its_mask_while_the_pixels_are_counted(store):
    validation = Validation(store, (2, 0), ("c", "a"), multiple=32, batch_pixels=2 * 96 * 96)
    counts, total = ChangeScores(2, from_logits=False), np.zeros((2, 2), np.int64)
    found = list(validation.predicted(predict_by(brightness()), 0.625, counts))
    for (mask, truth), index in zip(found, (2, 0), strict=True):
        pair = store[index]
        mean = (pair.after.astype(np.float32) - pair.before.astype(np.float32)).mean(axis=-1) / 100
        np.testing.assert_array_equal(mask, 1 / (1 + np.exp(-mean)) >= 0.625)
        np.testing.assert_array_equal(truth, pair.mask)
        total += confusion_matrix(truth, mask, 2)
    assert total[1].sum() > 0
    assert total[:, 1].sum() > 0
    np.testing.assert_array_equal(counts.at(0.625), total)
    ((again, _),) = validation.only([1]).predicted(predict_by(brightness()), 0.625)
    np.testing.assert_array_equal(again, found[1][0])
    assert validation.only([1]).names == ("a",)


@pytest.mark.parametrize("size", [(111, 100), (30, 24), (72, 90)])
def test_pairs_that_the_model_sees_at_another_size_are_masked_and_counted_on_their_own_grid(store, size):
    """Beside one that it sees as it is, in batches of both."""
    validation = Validation(store, (2, 0), ("c", "a"), multiple=32, batch_pixels=2 * 96 * 96, sizes={0: size})
    counts = ChangeScores(2, from_logits=False)
    (same, _), (mask, truth) = validation.predicted(predict_by(brightness()), 0.625, counts)
    ((alone, _),) = Validation(store, (2,), ("c",), multiple=32, batch_pixels=96 * 96).predicted(
        predict_by(brightness()), 0.625
    )  # fmt: skip
    np.testing.assert_array_equal(same, alone)
    np.testing.assert_array_equal(truth, store[0].mask)
    seen = validation.seen[0]
    assert seen.before.shape == (*size, 3)
    mean = (seen.after.astype(np.float32) - seen.before.astype(np.float32)).mean(axis=-1, keepdims=True) / 100
    expected = resample(1 / (1 + np.exp(-mean)), truth.shape)[..., 0] >= 0.625
    assert np.mean(mask != expected) < 0.001  # but for roundings at the threshold
    total = confusion_matrix(truth, mask, 2) + confusion_matrix(store[2].mask, same, 2)
    np.testing.assert_array_equal(counts.at(0.625), total)
