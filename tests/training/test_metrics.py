import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.training.metrics import (
    BINS,
    ChangeScores,
    change_of,
    class_scores,
    confusion_matrix,
    confusion_scores,
)

IGNORE = 255


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def plain(scores: dict) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}


def brute_force(truth, change, kind, classes) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """F1 (mean over the classes of change that are there) at every threshold k / BINS, and the confusion matrices."""
    known = truth != IGNORE
    f1, matrices = np.zeros(BINS), {}
    for k in range(1, BINS):
        predicted = np.where(change >= k / BINS, kind, 0)[known]
        matrix = np.zeros((classes, classes), np.int64)
        np.add.at(matrix, (truth[known], predicted), 1)
        matrices[k] = matrix
        sizes = matrix.sum(axis=0) + matrix.sum(axis=1)
        each = [2 * matrix[c, c] / sizes[c] for c in range(1, classes) if sizes[c]]
        f1[k] = np.mean(each) if each else 0
    return f1, matrices


# --------------------------------------------------------------------------------------------- confusion_scores


def test_binary_scores_are_those_computed_by_hand():
    # 50 true negatives, 10 false alarms, 5 missed, 35 hits
    got = plain(confusion_scores(np.array([[50, 10], [5, 35]])))
    chance = (60 * 55 + 40 * 45) / 100**2
    assert got == pytest.approx(
        {
            "precision": 35 / 45,
            "recall": 35 / 40,
            "f1": 70 / 85,
            "iou": 35 / 50,
            "kappa": (0.85 - chance) / (1 - chance),
            "accuracy": 0.85,
        }
    )


def test_scores_of_several_classes_are_those_computed_by_hand():
    matrix = np.array([[80, 2, 3], [4, 10, 1], [0, 5, 20]])
    got = plain(confusion_scores(matrix))
    chance = (85 * 84 + 15 * 17 + 25 * 24) / 125**2
    assert got == pytest.approx(
        {
            "precision": (10 / 17 + 20 / 24) / 2,
            "recall": (10 / 15 + 20 / 25) / 2,
            "f1": (20 / 32 + 40 / 49) / 2,
            "iou": (10 / 22 + 20 / 29) / 2,
            "change_f1": 2 * 36 / (40 + 41),
            "kappa": (110 / 125 - chance) / (1 - chance),
            "accuracy": 110 / 125,
        }
    )
    each = class_scores(matrix, ("none", "a", "b"))
    assert list(each) == ["none", "a", "b"]
    assert each["none"] == pytest.approx({"precision": 80 / 84, "recall": 80 / 85, "f1": 160 / 169, "iou": 80 / 89})
    assert each["b"]["f1"] == pytest.approx(40 / 49)


def test_a_class_that_is_not_there_has_no_part_in_the_means():
    matrix = np.array([[80, 0, 3], [0, 0, 0], [2, 0, 20]])
    got = plain(confusion_scores(matrix))
    assert got["f1"] == class_scores(matrix, ("none", "a", "b"))["b"]["f1"] == pytest.approx(40 / 45)
    false_alarm = matrix + np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert plain(confusion_scores(false_alarm))["f1"] == pytest.approx(40 / 45 / 2), "one that is predicted has"
    both = np.asarray(confusion_scores(np.stack([matrix, false_alarm]))["recall"])
    assert both == pytest.approx([20 / 22, 20 / 22 / 2]), "one a matrix"


@pytest.mark.parametrize("matrix", [[[0, 0], [0, 0]], [[9, 0], [0, 0]], [[0, 9], [0, 0]], [[0, 0], [9, 0]]])
def test_scores_without_a_denominator_are_0(matrix):
    got = plain(confusion_scores(np.array(matrix)))
    assert {got[name] for name in ("precision", "recall", "f1", "iou", "kappa")} == {0.0}


def test_numbers_of_pixels_that_float32_cannot_tell_apart_are_exact():
    big = 2**40
    got = plain(confusion_scores(np.array([[big, 0], [1, big + 1]], np.int64)))
    assert got["recall"] == (big + 1) / (big + 2) < 1.0


def test_confusion_matrix_counts_true_down_and_predicted_across():
    truth = np.array([[0, 1, 2], [2, IGNORE, 1]], np.uint8)
    predicted = np.array([[0, 2, 2], [1, 1, 1]], np.uint8)
    matrix = confusion_matrix(truth, predicted, 3)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 1, 1], [0, 1, 1]])


# ------------------------------------------------------------------------------------------------- ChangeScores


@pytest.mark.parametrize(("channels", "absent"), [(1, None), (2, None), (4, None), (4, 3)])
@pytest.mark.parametrize("from_logits", [True, False])
def test_the_best_threshold_is_that_of_brute_force(channels, absent, from_logits):
    """`absent` is a class that is nowhere true, and predicted only up to some threshold."""
    rng = np.random.default_rng(channels)
    classes = max(channels, 2)
    truth = rng.integers(0, classes, (4, 20, 15)).astype(np.uint8)
    truth[truth == absent] = 0
    logits = rng.normal(0, 2, (*truth.shape, channels)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.6] = 0
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    for k in range(channels if channels > 1 else 0):
        logits[..., k] += 1.5 * (truth == k)
    if channels == 1:
        logits[..., 0] += 2 * (truth == 1)
        change, kind = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64))), np.ones(truth.shape, int)
        scores = change[..., None].astype(np.float32)
    else:
        p = softmax(logits)
        change, kind, scores = 1 - p[..., 0], p[..., 1:].argmax(axis=-1) + 1, p.astype(np.float32)

    metric = ChangeScores(classes, from_logits=from_logits)
    for index in range(4):  # batch after batch
        metric.update_state(truth[index : index + 1], (logits if from_logits else scores)[index : index + 1])
    got = plain(metric.result())
    f1, matrices = brute_force(truth, change, kind, classes)
    assert got["f1"] == pytest.approx(f1.max(), abs=1e-12)
    best = round(got["threshold"] * BINS)
    assert got["threshold"] == best / BINS
    assert f1[best] == f1.max()
    np.testing.assert_array_equal(metric.at(got["threshold"]), matrices[best])
    np.testing.assert_array_equal(metric.at(0.25), matrices[BINS // 4])
    assert got == pytest.approx({**plain(confusion_scores(matrices[best])), "threshold": best / BINS})
    metric.reset_state()
    assert metric.at(0.5).sum() == 0


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_precision_and_recall_at_every_threshold_are_those_of_brute_force(channels):
    rng = np.random.default_rng(channels)
    classes = max(channels, 2)
    probabilities = rng.random((2, 6, 5, channels)).astype(np.float32)
    probabilities /= 1.0 if channels == 1 else probabilities.sum(axis=-1, keepdims=True)
    truth = rng.integers(0, classes, (2, 6, 5), np.uint8)
    truth[0, 0] = 255
    metric = ChangeScores(classes, from_logits=False)
    metric.update_state(truth, probabilities)
    precision, recall = metric.precision_recall()
    assert precision.shape == recall.shape == (classes - 1, 1024)
    change = probabilities[..., 0] if channels == 1 else 1 - probabilities[..., 0]
    change = probabilities[..., 1] if channels == 2 else change
    kind = np.ones(truth.shape, int) if channels <= 2 else probabilities[..., 1:].argmax(axis=-1) + 1
    for step in (0, 1, 300, 512, 900, 1023):
        found = np.where(change >= np.float32(step / 1024), kind, 0)
        for k in range(1, classes):
            hits = np.sum((found == k) & (truth == k))
            assert precision[k - 1, step] == pytest.approx(hits / max(np.sum((found == k) & (truth != 255)), 1))
            assert recall[k - 1, step] == pytest.approx(hits / np.sum(truth == k))


def test_change_is_where_it_is_likelier_than_the_threshold_and_its_class_the_largest_of_the_others():
    # class 0 is the likeliest at both pixels; at 0.45 both are change all the same
    p = np.array([[0.5, 0.2, 0.3], [0.52, 0.3, 0.18]], np.float32).reshape(1, 1, 2, 3)
    change, kind = change_of(p, from_logits=False)
    np.testing.assert_allclose(np.ravel(change), [0.5, 0.48], atol=1e-6)
    np.testing.assert_array_equal(np.ravel(kind) + 1, [2, 1])
    metric = ChangeScores(3, from_logits=False)
    metric.update_state(np.array([[[2, 1]]], np.uint8), p)
    np.testing.assert_array_equal(metric.at(0.4375), [[0, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(metric.at(0.5), [[0, 0, 0], [1, 0, 0], [0, 0, 1]])  # reaches: 0.5 is change
    np.testing.assert_array_equal(metric.at(0.5625), [[0, 0, 0], [1, 0, 0], [1, 0, 0]])


def test_a_probability_of_no_change_that_is_above_1_by_a_rounding_is_no_change():
    """As a mean of ones may be: of the weights of a resampling the sum is 1 to a rounding."""
    p = np.zeros((1, 1, 2, 3), np.float32)
    p[..., 0] = np.nextafter(np.float32(1), np.float32(2), dtype=np.float32)
    metric = ChangeScores(3, from_logits=False)
    metric.update_state(np.array([[[0, 2]]], np.uint8), p)
    np.testing.assert_array_equal(metric.at(0.5), [[1, 0, 0], [0, 0, 0], [1, 0, 0]])


def test_two_softmax_channels_are_binary_with_the_probability_of_class_1():
    logits = np.random.default_rng(0).normal(0, 2, (1, 8, 8, 2)).astype(np.float32)
    change, kind = change_of(logits, from_logits=True)
    np.testing.assert_allclose(change, softmax(logits)[..., 1], atol=1e-6)
    assert not np.any(kind)
    truth = (logits[..., 1] > logits[..., 0]).astype(np.uint8)
    one, two = ChangeScores(2), ChangeScores(2)
    one.update_state(truth, (logits[..., 1:] - logits[..., :1]))
    two.update_state(truth, logits)
    assert plain(two.result())["f1"] == plain(one.result())["f1"] == 1.0


def test_among_equal_thresholds_the_one_nearest_to_a_half_is_taken():
    truth = np.array([[[0, 0, 1, 1]]], np.uint8)
    for probabilities, expected in (
        ([0.1, 0.2, 0.8, 0.9], 0.5),
        ([0.0, 0.0, 1.0, 1.0], 0.5),
        ([0.1, 0.625, 0.8, 0.9], 0.625 + 1 / BINS),
        ([0.1, 0.2, 0.25, 0.9], 0.25),
    ):
        metric = ChangeScores(2, from_logits=False)
        metric.update_state(truth, np.array(probabilities, np.float32).reshape(1, 1, 4, 1))
        got = plain(metric.result())
        assert (got["f1"], got["threshold"]) == (1.0, expected)


@pytest.mark.parametrize("truth", [0, IGNORE])
def test_where_no_threshold_finds_change_it_is_a_half_and_not_0(truth):
    metric = ChangeScores(2)
    metric.update_state(np.full((1, 4, 4), truth, np.uint8), np.full((1, 4, 4, 1), -3, np.float32))
    got = plain(metric.result())
    assert (got["f1"], got["threshold"]) == (0.0, 0.5)
    assert got["accuracy"] == (1.0 if truth == 0 else 0.0)


@pytest.mark.parametrize("start", [2**24, 2**31 - 1, 2**40])
def test_pixels_are_counted_exactly_beyond_what_float32_and_int32_hold(start):
    metric = ChangeScores(2, from_logits=False)
    metric.update_state(np.array([[[0, 1]]], np.uint8), np.array([0.25, 0.75], np.float32).reshape(1, 1, 2, 1))
    metric.counts.assign(keras.ops.convert_to_numpy(metric.counts) * start)
    metric.update_state(np.array([[[0, 1, 1]]], np.uint8), np.array([0.25, 0.75, 0.25], np.float32).reshape(1, 1, 3, 1))
    np.testing.assert_array_equal(metric.at(0.5), [[start + 1, 0], [1, start + 1]])
    assert float(metric.result()["recall"]) == (start + 1) / (start + 2)


def test_certain_and_impossible_change_fall_into_the_outer_bins():
    metric = ChangeScores(2)
    metric.update_state(np.array([[[1, 0]]], np.uint8), np.array([100, -100], np.float32).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(metric.at((BINS - 1) / BINS), np.eye(2))
    np.testing.assert_array_equal(metric.at(1 / BINS), np.eye(2))
    np.testing.assert_array_equal(metric.at(0.0), [[0, 1], [0, 1]])


def test_logits_that_are_no_numbers_do_not_stop_the_count():
    metric = ChangeScores(2)
    metric.update_state(np.ones((1, 2, 2), np.uint8), np.full((1, 2, 2, 1), np.nan, np.float32))
    np.testing.assert_array_equal(metric.at(0.5), [[0, 0], [4, 0]])


def test_counting_works_inside_a_graph_and_in_half_precision():
    metric = ChangeScores(3)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (1, 6, 6)).astype(np.uint8)
    logits = tf.constant(rng.normal(0, 2, (1, 6, 6, 3)), tf.bfloat16)

    @tf.function
    def step():
        metric.update_state(truth, logits)
        return metric.result()

    inside = plain(step())
    other = ChangeScores(3)
    other.update_state(truth, tf.cast(logits, tf.float32))
    assert inside == pytest.approx(plain(other.result()))


def test_weights_and_thresholds_between_the_steps_are_refused():
    metric = ChangeScores(2)
    with pytest.raises(ValueError, match="sample_weight is not taken"):
        metric.update_state(np.zeros((1, 1, 1)), np.zeros((1, 1, 1, 1)), sample_weight=np.ones((1, 1, 1)))
    with pytest.raises(ValueError, match=r"threshold is 0\.3, it must be a multiple of 1/1024"):
        metric.at(0.3)


def test_the_metric_survives_serialization():
    metric = ChangeScores(4, ignore=9, from_logits=False, name="val")
    copy = ChangeScores.from_config(metric.get_config())
    assert copy.get_config() == metric.get_config()
    assert (copy.classes, copy.ignore, copy.from_logits, copy.name) == (4, 9, False, "val")
