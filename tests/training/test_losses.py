from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.training.losses import ChangeLoss

IGNORE = 255
NAMES = ("cross_entropy", "focal", "dice", "tversky", "lovasz")
SHAPE = (2, 6, 5)


def batch(channels: int, seed: int = 0, ignored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Truth uint8 with pixels to be ignored, and logits."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, max(channels, 2), SHAPE).astype(np.uint8)
    if ignored:
        truth[rng.random(SHAPE) < 0.3] = IGNORE
    return truth, rng.normal(0, 3, (*SHAPE, channels)).astype(np.float32)


# ------------------------------------------------ the definitions, pixel by pixel or set by set, in float64


def memberships(truth: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted probability of every class, pixels with truth x classes."""
    known = truth != IGNORE
    z = logits[known].astype(np.float64)
    if z.shape[-1] == 1:
        change = 1 / (1 + np.exp(-z[:, 0]))
        p = np.stack([1 - change, change], axis=-1)
    else:
        p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    return np.eye(p.shape[-1])[truth[known]], p


def jaccard_loss(wrong: set[int], true: set[int]) -> float:
    """1 - IoU of the class where exactly the pixels of ``wrong`` are predicted wrongly."""
    return len(wrong) / len(true | wrong) if true | wrong else 0.0


def lovasz_by_level_sets(errors: np.ndarray, true: np.ndarray) -> float:
    """The Lovasz extension of ``jaccard_loss`` as the Choquet integral over the level sets of the errors."""
    levels = [0.0, *sorted(set(errors.tolist()))]
    members = set(np.flatnonzero(true).tolist())
    return sum(
        (high - low) * jaccard_loss(set(np.flatnonzero(errors >= high).tolist()), members)
        for low, high in pairwise(levels)
    )


def by_definition(name: str, truth: np.ndarray, logits: np.ndarray) -> float:
    t, p = memberships(truth, logits)
    of_truth = (t * p).sum(axis=-1)
    if name == "cross_entropy":
        return float(np.mean(-np.log(of_truth)))
    if name == "focal":
        return float(np.mean(-((1 - of_truth) ** 2) * np.log(of_truth)))
    values = []
    for k in range(1, t.shape[-1]):
        if name == "lovasz":
            if t[:, k].any():
                values.append(lovasz_by_level_sets(np.abs(t[:, k] - p[:, k]), t[:, k] > 0))
            continue
        hit = (t[:, k] * p[:, k]).sum()
        false, missed = ((1 - t[:, k]) * p[:, k]).sum(), (t[:, k] * (1 - p[:, k])).sum()
        a, b = (0.5, 0.5) if name == "dice" else (0.3, 0.7)
        values.append(1 - (hit + 1e-6) / (hit + a * false + b * missed + 1e-6))
    return float(np.mean(values)) if values else 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("ignored", [True, False])
def test_every_loss_is_its_definition(name, channels, ignored):
    for seed in range(3):
        truth, logits = batch(channels, seed, ignored)
        assert float(ChangeLoss({name: 1.0})(truth, logits)) == pytest.approx(
            by_definition(name, truth, logits), rel=2e-5
        )


@pytest.mark.parametrize("pixels", range(1, 5))
def test_lovasz_is_the_extension_of_the_jaccard_loss_for_every_truth_of_a_few_pixels(pixels):
    rng = np.random.default_rng(pixels)
    for code in range(2**pixels):
        truth = np.array([code >> k & 1 for k in range(pixels)], np.uint8).reshape(1, 1, -1)
        logits = rng.choice([-2.0, 0.0, 0.5, 3.0], (1, 1, pixels, 1)).astype(np.float32)  # ties included
        expected = by_definition("lovasz", truth, logits)
        assert float(ChangeLoss({"lovasz": 1.0})(truth, logits)) == pytest.approx(expected, abs=1e-6)
        # at certain predictions the extension is the Jaccard loss itself
        certain = np.where(logits > 0.25, 50.0, -50.0).astype(np.float32)
        wrong = set(np.flatnonzero((certain[..., 0] > 0) != (truth > 0)).tolist())
        true = set(np.flatnonzero(truth).tolist())
        got = float(ChangeLoss({"lovasz": 1.0})(truth, certain))
        assert got == pytest.approx(jaccard_loss(wrong, true) if true else 0.0, abs=1e-6)


def test_a_class_of_several_or_one_logit_and_the_background_as_two_give_the_same():
    truth, one = batch(1)
    two = np.concatenate([np.zeros_like(one), one], axis=-1)
    for name in NAMES:
        loss = ChangeLoss({name: 1.0})
        assert float(loss(truth, one)) == pytest.approx(float(loss(truth, two)), rel=1e-5)


def test_one_logit_takes_every_class_but_0_for_the_change():
    truth, logits = batch(1)
    classes = np.where(truth == 1, np.uint8(3), truth)
    for name in NAMES:
        loss = ChangeLoss({name: 1.0})
        assert float(loss(classes, logits)) == float(loss(truth, logits))


def test_terms_are_summed_by_their_weights():
    truth, logits = batch(3)
    together = float(ChangeLoss({"cross_entropy": 0.5, "dice": 2.0, "lovasz": 1.0})(truth, logits))
    alone = {name: by_definition(name, truth, logits) for name in NAMES}
    assert together == pytest.approx(0.5 * alone["cross_entropy"] + 2 * alone["dice"] + alone["lovasz"], rel=1e-5)


def loss_and_gradient(name: str, truth, logits, dtype="float32") -> tuple[float, np.ndarray]:
    logits = tf.cast(tf.constant(logits), dtype)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = ChangeLoss({name: 1.0})(truth, logits)
    return float(loss), tf.cast(tape.gradient(loss, logits), "float32").numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_without_a_pixel_of_truth_the_loss_is_0_and_its_gradient_too(name, channels):
    truth, logits = batch(channels)
    loss, gradient = loss_and_gradient(name, np.full_like(truth, IGNORE), logits)
    assert loss == pytest.approx(0.0, abs=1e-7)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_without_truth_have_no_gradient_and_others_have(name, channels):
    truth, logits = batch(channels)
    _, gradient = loss_and_gradient(name, truth, logits)
    assert np.isfinite(gradient).all()
    assert (gradient[truth == IGNORE] == 0).all()
    assert np.abs(gradient[truth != IGNORE]).max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_extreme_logits_stay_finite(name, channels, dtype):
    truth, logits = batch(channels)
    for huge in (np.sign(logits) * 3e4, -np.sign(logits) * 3e4, np.zeros_like(logits)):
        loss, gradient = loss_and_gradient(name, truth, huge, dtype)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_half_precision_logits_are_computed_in_float32(name, channels):
    truth, logits = batch(channels)
    rounded = tf.cast(logits, "bfloat16")
    loss = ChangeLoss({name: 1.0})(truth, rounded)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(by_definition(name, truth, tf.cast(rounded, "float32").numpy()), rel=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_down_the_gradient_lowers_the_loss(name):
    truth, logits = batch(3)
    loss, gradient = loss_and_gradient(name, truth, logits)
    assert loss_and_gradient(name, truth, logits - 0.01 * gradient / np.abs(gradient).max())[0] < loss


def test_the_loss_survives_serialization():
    loss = ChangeLoss({"focal": 1.5, "tversky": 0.5}, ignore=9)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    truth, logits = batch(3)
    truth[truth == IGNORE] = 9
    assert isinstance(copy, ChangeLoss)
    assert copy.get_config() == loss.get_config()
    assert float(copy(truth, logits)) == float(loss(truth, logits))


@pytest.mark.parametrize("terms", [{"dyce": 1.0}, {}])
def test_unknown_terms_are_refused(terms):
    with pytest.raises(ValueError, match=r"loss terms are \[.*\], allowed are \['cross_entropy', 'dice', 'focal'"):
        ChangeLoss(terms)
