from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.models.decoders import (
    LevelOutput,
    attention_gate,
    fpn_decoder,
    mlp_decoder,
    squeeze_and_excite,
    unet_decoder,
)
from segdiff.models.heads import change_head

STRIDES = [(1, 2, 4, 8), (2, 4, 8, 16, 32), (4, 8, 16, 32)]
DECODERS = {
    "unet": lambda maps, strides, **options: unet_decoder(
        maps, (4, 6, 8, 8)[: len(maps) - 1], strides, attention=True, squeeze_excite=True, **options
    ),
    "fpn": lambda maps, strides, **options: fpn_decoder(maps, 4, strides, **options),
    "mlp": lambda maps, strides, **options: mlp_decoder(maps, 4, strides, **options),
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def pyramid(strides) -> tuple[keras.KerasTensor, list[keras.KerasTensor]]:
    image = keras.Input((None, None, 2))
    maps = [
        keras.layers.Conv2D(3 + level, stride, strides=stride, activation="relu")(image)
        for level, stride in enumerate(strides)
    ]
    return image, maps


def levels_of(model: keras.Model) -> dict[int, keras.KerasTensor]:
    return {layer.stride: layer.output for layer in model.layers if isinstance(layer, LevelOutput)}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("strides", STRIDES, ids=str)
@pytest.mark.parametrize("decoder", DECODERS)
def test_sizes_and_a_training_step_and_the_saved_file(decoder, strides, policy, tmp_path):
    keras.utils.set_random_seed(1)
    image, maps = pyramid(strides)
    # bilinear enlarging is the one that half precision breaks
    upsampling = "nearest" if policy == "float32" else "bilinear"
    decoded = DECODERS[decoder](maps, strides, upsampling=upsampling, name="mine")
    model = keras.Model(image, change_head(decoded, 1, strides[0]))
    height, width = strides[-1] * 2, strides[-1]
    x = noise(2, height, width, 2)

    inside = keras.Model(image, levels_of(model))(x)
    expected = strides[:-1] if decoder == "unet" else strides
    assert sorted(inside) == list(expected)
    assert {stride: level.shape[1:3] for stride, level in inside.items()} == {
        stride: (height // stride, width // stride) for stride in expected
    }
    assert {keras.backend.standardize_dtype(level.dtype) for level in inside.values()} == {
        keras.config.dtype_policy().compute_dtype
    }
    assert decoded is model.get_layer("mine_level0_output").output

    before = [weight.copy() for weight in model.get_weights()]
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    loss = model.train_on_batch(x, noise(2, height, width, 1, seed=1))
    assert np.isfinite(loss)
    still = [
        variable.path
        for variable, old in zip(model.weights, before, strict=True)
        if variable.trainable and np.array_equal(old, variable.numpy())
    ]
    assert still == []

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    logits = model(x)
    assert (tuple(logits.shape), logits.dtype) == ((2, height, width, 1), tf.float32)
    np.testing.assert_array_equal(loaded(x), logits)
    assert sorted(levels_of(loaded)) == list(expected)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_level_reaches_the_map(decoder):
    strides = (2, 4, 8)
    inputs = [keras.Input((None, None, 3)) for _ in strides]
    model = keras.Model(inputs, DECODERS[decoder](inputs, strides, norm="group"))
    maps = [tf.constant(noise(1, 16 // stride, 16 // stride, 3, seed=stride)) for stride in strides]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        total = tf.reduce_sum(tf.square(model(maps)))
    assert all(np.abs(gradient).max() > 1e-6 for gradient in tape.gradient(total, maps))


@pytest.mark.parametrize("option", ["attention", "squeeze_excite"])
def test_an_option_adds_weights_that_learn_and_the_plain_weights_stay(option):
    strides = (1, 2, 4)

    def build(**options) -> keras.Model:
        image, maps = pyramid(strides)
        return keras.Model(image, unet_decoder(maps, (4, 8), strides, **options))

    def count(model: keras.Model) -> int:
        return sum(int(np.prod(weight.shape)) for weight in model.weights)

    plain, more = build(), build(**{option: True})
    added = [weight for weight in more.weights if option in weight.path]
    assert count(more) - count(plain) == sum(int(np.prod(weight.shape)) for weight in added) > 0
    before = [weight.numpy().copy() for weight in added]
    more.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    x, y = noise(2, 8, 8, 2), noise(2, 8, 8, 4, seed=1)
    losses = [more.train_on_batch(x, y) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert all(not np.array_equal(old, weight.numpy()) for old, weight in zip(before, added, strict=True))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_attention_gate_is_the_published_one():
    skip, gate = keras.Input((4, 4, 4)), keras.Input((2, 2, 3))
    model = keras.Model([skip, gate], attention_gate(skip, gate, 2, name="a"))
    seen, asked, asked_bias, weight, weight_bias = (
        noise(2, 2, 4, 2),
        noise(1, 1, 3, 2, seed=1),
        noise(2, seed=2),
        noise(1, 1, 2, 1, seed=3),
        noise(1, seed=4),
    )
    model.get_layer("a_skip").set_weights([seen])
    model.get_layer("a_gate").set_weights([asked, asked_bias])
    model.get_layer("a_weight").set_weights([weight, weight_bias])
    x, g = noise(1, 4, 4, 4, seed=5), noise(1, 2, 2, 3, seed=6)

    hidden = np.zeros((2, 2, 2))
    for i in range(2):
        for j in range(2):
            block = x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            hidden[i, j] = np.tensordot(block, seen, 3) + g[0, i, j] @ asked[0, 0] + asked_bias
    small = sigmoid(np.maximum(hidden, 0) @ weight[0, 0] + weight_bias)[..., 0]
    between = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    large = between @ small @ between.T
    np.testing.assert_allclose(model([x, g])[0], x[0] * large[..., None], atol=1e-5)


def test_squeeze_and_excite_is_the_published_one():
    image = keras.Input((3, 5, 6))
    model = keras.Model(image, squeeze_and_excite(image, name="s"))
    reduce, reduce_bias = noise(1, 1, 6, 4), noise(4, seed=1)
    excite, excite_bias = noise(1, 1, 4, 6, seed=2), noise(6, seed=3)
    model.get_layer("s_reduce").set_weights([reduce, reduce_bias])
    model.get_layer("s_excite").set_weights([excite, excite_bias])
    x = noise(2, 3, 5, 6, seed=4)
    hidden = np.maximum(x.mean(axis=(1, 2)) @ reduce[0, 0] + reduce_bias, 0)
    weights = sigmoid(hidden @ excite[0, 0] + excite_bias)
    np.testing.assert_allclose(model(x), x * weights[:, None, None, :], atol=1e-5)


def test_squeeze_and_excite_reduces_by_16():
    image = keras.Input((2, 2, 128))
    model = keras.Model(image, squeeze_and_excite(image, name="s"))
    assert model.get_layer("s_reduce").filters == 8


def test_the_mlp_decoder_equals_the_published_concatenation():
    """SegFormer's head: a linear map a level, enlarged, concatenated coarsest first, one linear map, ReLU."""
    maps = [noise(1, 8, 8, 3), noise(1, 4, 4, 5, seed=1)]
    level = [noise(3, 4, seed=2), noise(5, 4, seed=3)]
    fuse = noise(8, 4, seed=4)
    coarse = keras.ops.convert_to_numpy(keras.ops.image.resize(maps[1] @ level[1], (8, 8), interpolation="bilinear"))
    published = np.maximum(np.concatenate([coarse, maps[0] @ level[0]], axis=-1) @ fuse, 0)

    inputs = [keras.Input((None, None, x.shape[-1])) for x in maps]
    model = keras.Model(inputs, mlp_decoder(inputs, 4, norm="none"))
    for k, part in enumerate((fuse[4:], fuse[:4])):
        model.get_layer(f"decoder_level{k}_linear").set_weights([(level[k] @ part)[None, None], np.zeros(4)])
    np.testing.assert_allclose(model(maps), published, atol=1e-4)


def test_the_pyramid_adds_the_coarser_levels_before_and_after_smoothing():
    maps = [noise(1, 4, 4, 1), noise(1, 2, 2, 1, seed=1)]
    inputs = [keras.Input((None, None, 1)) for _ in maps]
    model = keras.Model(inputs, fpn_decoder(inputs, 1, norm="none"))
    identity = np.zeros((3, 3, 1, 1), "float32")
    identity[1, 1] = 1
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = identity if layer.kernel_size == (3, 3) else identity[1:2, 1:2]
            layer.set_weights([kernel, np.zeros(1, "float32")])
    coarse = np.repeat(np.repeat(maps[1], 2, 1), 2, 2)
    np.testing.assert_allclose(model(maps), np.maximum(maps[0] + coarse, 0) + np.maximum(coarse, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (partial(unet_decoder, channels=(4,)), "channels has 1 entries, 3 differences need 2"),
        (partial(fpn_decoder, channels=4, strides=(1, 2)), "strides has 2 entries, there are 3 differences"),
        (partial(mlp_decoder, channels=4, strides=(2, 3, 6)), r"\(2, 3, 6\), each must be a larger, whole multiple"),
        (partial(mlp_decoder, channels=4, strides=(2, 2, 4)), r"\(2, 2, 4\), each must be a larger"),
        (partial(unet_decoder, channels=(4, 4), upsampling="cubic"), "'cubic', allowed are"),
        (partial(fpn_decoder, channels=4, norm="layer"), "norm is 'layer'"),
    ],
)
def test_what_does_not_fit_is_refused(decode, message):
    with pytest.raises(ValueError, match=message):
        decode([keras.Input((None, None, 3)) for _ in range(3)])
