import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from segdiff.models.difference import MODES, Difference

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def expected(mode: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    return {
        "signed": lambda: a - b,
        "absolute": lambda: abs(a - b),
        "squared": lambda: (a - b) ** 2,
        "normalized": lambda: unit(a) - unit(b),
        "concatenated": lambda: np.concatenate([a, b, a - b], -1),
    }[mode]()


@settings(max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.sampled_from(MODES), st.sampled_from(POLICIES))
def test_every_mode_is_its_formula_in_every_precision(shape, mode, policy):
    a, b = noise(tuple(shape)), noise(tuple(shape), 1)
    layer = Difference(mode, dtype=policy)
    got = layer([a, b])
    assert keras.backend.standardize_dtype(got.dtype) == layer.compute_dtype
    assert tuple(got.shape) == layer.compute_output_shape([a.shape, b.shape])
    tolerance = {"float32": 1e-5, "mixed_bfloat16": 0.1, "mixed_float16": 0.02}[policy]
    np.testing.assert_allclose(keras.ops.cast(got, "float32"), expected(mode, a, b), atol=tolerance, rtol=tolerance)


def test_the_signed_difference_is_before_minus_after():
    assert Difference()([np.array([[5.0]]), np.array([[3.0]])]).numpy() == 2.0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, 1e-6, 2.0])
def test_gradients_are_finite_at_zero_vectors_and_where_both_are_equal(mode, policy, value):
    layer = Difference(mode, dtype=policy)
    a = tf.fill((2, 3, 4), tf.cast(value, layer.compute_dtype))
    with tf.GradientTape() as tape:
        tape.watch(a)
        result = layer([a, tf.zeros_like(a)]) if value else layer([a, a * 0])
        loss = tf.reduce_sum(tf.cast(result, "float32"))
    assert np.isfinite(tf.cast(result, "float32")).all()
    assert np.isfinite(tf.cast(tape.gradient(loss, a), "float32")).all()


def test_the_gradient_of_the_absolute_difference_of_equal_maps_is_zero():
    a = tf.constant([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(a)
        result = Difference("absolute")([a, tf.constant([[1.0, 5.0]])])
    np.testing.assert_array_equal(tape.gradient(result, a), [[0.0, -1.0]])


def test_a_zero_vector_counts_as_zero_when_normalized():
    got = Difference("normalized")([np.zeros((1, 2)), np.array([[3.0, 4.0]])])
    np.testing.assert_allclose(got, [[-0.6, -0.8]], atol=1e-6)


def test_normalized_is_computed_in_float32():
    # The squares of these overflow float16.
    got = Difference("normalized", dtype="mixed_float16")([np.full((1, 4), 6e4), np.zeros((1, 4))])
    np.testing.assert_allclose(got, np.full((1, 4), 0.5), atol=1e-3)


def test_integers_are_cast_before_they_are_subtracted():
    got = Difference()([np.array([[3]], "uint8"), np.array([[5]], "uint8")])
    np.testing.assert_array_equal(got, [[-2.0]])


@pytest.mark.parametrize("mode", MODES)
def test_config_and_file_bring_the_layer_back(mode, tmp_path):
    layer = Difference(mode, name="changed", dtype="mixed_bfloat16")
    assert Difference.from_config(layer.get_config()).get_config() == layer.get_config()
    inputs = [keras.Input((None, None, 3)), keras.Input((8, None, 3))]
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 8, None, 9 if mode == "concatenated" else 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = [noise((1, 8, 8, 3)), noise((1, 8, 8, 3), 1)]
    np.testing.assert_array_equal(keras.ops.cast(loaded(x), "float32"), keras.ops.cast(model(x), "float32"))


def test_what_cannot_be_subtracted_is_refused():
    with pytest.raises(ValueError, match="'ratio' is not known"):
        Difference("ratio")
    with pytest.raises(ValueError, match=r"\(None, 8, 3\) and \(None, 8, 1\) differ"):
        Difference()([keras.Input((8, 3)), keras.Input((8, 1))])
    with pytest.raises(ValueError, match="differ"):
        Difference()([keras.Input((8, 3)), keras.Input((3,))])
