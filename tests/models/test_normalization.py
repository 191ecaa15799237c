import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.models.normalization import FusedBatchNormalization, normalize

SHAPE = (3, 5, 4, 6)


def noise(shape=SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(np.float32)


def twins(shape=SHAPE, **arguments) -> tuple[FusedBatchNormalization, keras.layers.BatchNormalization]:
    """Keras' layer and ours with the same random weights."""
    layers = FusedBatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    for layer in layers:
        layer.build(shape)
    rng = np.random.default_rng(1)
    weights = [rng.uniform(0.5, 2.0, weight.shape).astype(np.float32) for weight in layers[0].weights]
    for layer in layers:
        layer.set_weights(weights)
    return layers


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1, 6), (1, 1, 2, 6)])
def test_outputs_gradients_and_moving_statistics_are_those_of_keras(training, trainable, shape):
    results = []
    for layer in twins(shape, momentum=0.9, epsilon=1e-2):
        layer.trainable = trainable
        x = tf.constant(noise(shape))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * noise(shape, 2))
        gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        results.append([y, *gradients, layer.moving_mean, layer.moving_variance])
    for ours, theirs in zip(*results, strict=True):
        if ours is None or theirs is None:
            assert ours is theirs
            continue
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_fused_kernel_does_the_work_and_moving_statistics_move():
    layer, _ = twins()
    before = [np.array(w) for w in (layer.moving_mean, layer.moving_variance)]
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(tf.TensorSpec(SHAPE)).graph
    assert "FusedBatchNormV3" in {operation.type for operation in graph.get_operations()}
    layer(noise(), training=True)
    assert all(
        not np.allclose(old, new) for old, new in zip(before, (layer.moving_mean, layer.moving_variance), strict=True)
    )


@pytest.mark.parametrize(
    ("shape", "arguments", "mask"),
    [
        ((3, 6), {}, None),
        (SHAPE, {"axis": 1}, None),
        (SHAPE, {"scale": False}, None),
        (SHAPE, {"center": False}, None),
        (SHAPE, {"renorm": True}, None),
        (SHAPE, {}, np.arange(60).reshape(3, 5, 4) % 3 > 0),
    ],
)
def test_what_the_kernel_cannot_do_is_done_by_keras(shape, arguments, mask):
    ours, theirs = twins(shape, **arguments)
    for training in (True, False):
        got = ours(noise(shape), training=training, mask=mask)
        np.testing.assert_allclose(got, theirs(noise(shape), training=training, mask=mask), atol=1e-4)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)])
def test_half_precision_computes_halves_and_keeps_float32_statistics(policy, tolerance):
    layer, reference = twins()[0], twins()[1]
    half = FusedBatchNormalization(dtype=policy)
    half.build(SHAPE)
    half.set_weights(layer.get_weights())
    got = half(noise(), training=True)
    assert keras.backend.standardize_dtype(got.dtype) == half.compute_dtype
    np.testing.assert_allclose(keras.ops.cast(got, "float32"), reference(noise(), training=True), atol=tolerance * 4)
    np.testing.assert_allclose(half.moving_mean, reference.moving_mean, atol=tolerance)
    assert {weight.dtype for weight in half.weights} == {"float32"}


def test_the_variables_are_those_of_keras_own_layer_and_load_from_it():
    ours, theirs = twins()
    stored: dict = {}
    theirs.save_own_variables(stored)
    fresh = FusedBatchNormalization()
    fresh.build(SHAPE)
    fresh.load_own_variables(stored)
    np.testing.assert_array_equal(fresh(noise()), ours(noise()))
    assert [weight.name for weight in fresh.weights] == [weight.name for weight in theirs.weights]
    np.testing.assert_allclose(fresh(noise()), theirs(noise()), atol=1e-5)


def test_normalize_knows_three_kinds():
    x = keras.Input((4, 4, 12))
    assert isinstance(normalize(x, "batch", name="n")._keras_history.operation, FusedBatchNormalization)
    assert not normalize(x, "batch", name="n")._keras_history.operation.local
    assert normalize(x, "local", name="n")._keras_history.operation.local
    group = normalize(x, "group", name="n")._keras_history.operation
    assert (type(group), group.groups) == (keras.layers.GroupNormalization, 4)
    assert normalize(x, "none", name="n") is x
    with pytest.raises(ValueError, match="norm is 'layer', allowed are 'batch', 'local', 'group' and 'none'"):
        normalize(x, "layer", name="n")
