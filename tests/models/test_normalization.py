import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.config import EncoderConfig
from segdiff.models.encoders import build_encoder
from segdiff.models.normalization import FusedBatchNormalization, normalize

SHAPE = (3, 5, 4, 6)
LARGE = (4, 16, 16, 8)
RESULTS = ("output", "input gradient", "gamma gradient", "beta gradient", "moving mean", "moving variance")


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


def results_of(layer, x: np.ndarray, training: bool) -> list[np.ndarray]:
    """The output, the gradients of a loss of it and the moving statistics, in float32."""
    with tf.GradientTape() as tape:
        image = tf.constant(x)
        tape.watch(image)
        y = tf.cast(layer(image, training=training), tf.float32)
        loss = tf.reduce_sum(y * tf.cast(noise(x.shape, 2), y.dtype))
    gradients = tape.gradient(loss, [image, layer.gamma.value, layer.beta.value])
    return [np.array(value, np.float32) for value in (y, *gradients, layer.moving_mean, layer.moving_variance)]


def unit_in_the_last_place(values: np.ndarray, bits: int) -> np.ndarray:
    return np.exp2(np.floor(np.log2(np.maximum(np.abs(values), 1e-6))) - bits)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("policy", "bits"), [("mixed_bfloat16", 7), ("mixed_float16", 10)])
def test_half_precision_is_as_close_to_float32_as_keras_own(policy, bits, training):
    exact = twins(LARGE, momentum=0.9)[1]
    x = tf.cast(noise(LARGE), keras.DTypePolicy(policy).compute_dtype)  # what the layer is given has been rounded
    expected = results_of(exact, np.array(tf.cast(x, tf.float32)), training)
    halves = []
    for kind in (FusedBatchNormalization, keras.layers.BatchNormalization):
        layer = kind(momentum=0.9, dtype=policy)
        layer.build(LARGE)
        layer.set_weights(twins(LARGE)[1].get_weights())
        halves.append(results_of(layer, np.array(x), training))
        assert {weight.dtype for weight in layer.weights} == {"float32"}
    for name, true, ours, theirs in zip(RESULTS, expected, *halves, strict=True):
        allowed = np.abs(theirs - true) + unit_in_the_last_place(true, bits) + 1e-4
        assert np.all(np.abs(ours - true) <= allowed), (name, np.max(np.abs(ours - true) / allowed))


def test_the_output_has_the_dtype_that_is_computed_in():
    for policy in ("mixed_bfloat16", "mixed_float16"):
        layer = FusedBatchNormalization(dtype=policy)
        assert keras.backend.standardize_dtype(layer(noise()).dtype) == layer.compute_dtype


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_v2_b0", "csp_darknet_tiny", "mobilenet_v3_small"])
def test_kerascvs_backbones_compute_what_they_do_with_keras_own_normalization(name):
    """Forward, backward and the moving statistics of every layer, a whole backbone deep."""
    keras.utils.set_random_seed(0)
    fused, plain = (build_encoder(name, bands=3).model for _ in range(2))
    swapped = [layer for layer in plain._flatten_layers() if type(layer) is FusedBatchNormalization]
    assert len(swapped) > 10
    for layer in swapped:
        layer.__class__ = keras.layers.BatchNormalization
    plain.set_weights(fused.get_weights())
    image = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype(np.float32)
    results = []
    for model in (fused, plain):
        with tf.GradientTape() as tape:
            maps = model(image, training=True)
            # not their squares: the mean of those is what normalization fixes, and its gradient is all rounding
            loss = tf.add_n([tf.reduce_mean(one * noise(one.shape, 3)) for one in maps])
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        results.append([*maps, *gradients, *model.non_trainable_variables, *model(image, training=False)])
    used = {"FusedBatchNormV3"} & {
        operation.type
        for operation in tf.function(lambda x: fused(x, training=True))
        .get_concrete_function(tf.TensorSpec((4, 64, 64, 3)))
        .graph.get_operations()
    }
    assert used, "the fused kernel is not in the graph"
    for ours, theirs in zip(*results, strict=True):
        scale = max(float(np.max(np.abs(theirs))), 1.0)
        np.testing.assert_allclose(np.array(ours) / scale, np.array(theirs) / scale, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "local"])
def test_kerascvs_backbones_keep_the_kernel_on_each_device_where_asked(norm):
    model = build_encoder(EncoderConfig(name="resnet18", norm=norm), bands=3).model
    again = type(model).from_config(model.get_config())
    for one in (model, again):
        layers = [layer for layer in one._flatten_layers() if isinstance(layer, FusedBatchNormalization)]
        assert len(layers) == 20
        assert {layer.local for layer in layers} == {norm == "local"}


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
