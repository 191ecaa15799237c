import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.models.upsampling import BilinearUpsampling, upsample


def test_bilinear_interpolates_between_pixel_centres():
    row = np.array([0.0, 1.0, 3.0], "float32").reshape(1, 1, 3, 1)
    enlarged = keras.ops.convert_to_numpy(BilinearUpsampling(2)(row))
    assert enlarged.shape == (1, 2, 6, 1)
    np.testing.assert_allclose(enlarged[0, :, :, 0], [[0, 0.25, 0.75, 1.5, 2.5, 3]] * 2, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_maps_of_unknown_size_are_enlarged(interpolation, factor):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, upsample(image, factor, interpolation, name="up"))
    assert model.output_shape == (None, None, None, 3)
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 3)).astype("float32")
    enlarged = keras.ops.convert_to_numpy(model(x))
    assert enlarged.shape == (2, 5 * factor, 3 * factor, 3)
    if interpolation == "nearest" or factor == 1:
        np.testing.assert_array_equal(enlarged, np.repeat(np.repeat(x, factor, 1), factor, 2))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_gradient_behind_a_relu_compiles_in_half_precision(policy):
    layer = BilinearUpsampling(2, dtype=policy)

    @tf.function(jit_compile=True)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(tf.nn.relu(tf.cast(x, layer.compute_dtype)))
            total = tf.reduce_sum(tf.cast(y, "float32"))
        assert y.dtype == layer.compute_dtype
        return tape.gradient(total, x)

    # each positive pixel spreads over 2 x 2 pixels of the enlarged map
    np.testing.assert_allclose(gradient(tf.constant([[[[1.0], [-1.0], [2.0]]]]))[0, 0, :, 0], [4, 0, 4], atol=0.05)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="'cubic', allowed are 'nearest' and 'bilinear'"):
        upsample(keras.Input((4, 4, 1)), 2, "cubic", name="up")
    with pytest.raises(ValueError, match="factor is 0"):
        BilinearUpsampling(0)
