"""The runtime against the network's own logits."""

import keras
import numpy as np
import pytest

from segdiff.config import EncoderConfig, ModelConfig
from segdiff.inference.runtimes import tensorflow_runtime
from segdiff.models.architectures import build_change_detector


def make_model(classes: int):
    keras.utils.set_random_seed(3)
    return build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8))), bands=3, classes=classes)


def tiles(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    return tuple(generator.integers(0, 256, (count, height, width, 3), np.uint8) for _ in range(2))


@pytest.mark.parametrize(("classes", "channels"), [(1, 1), (2, 1), (3, 3)])
def test_probabilities_are_those_of_the_logits(classes, channels):
    model = make_model(classes)
    runtime = tensorflow_runtime(model, "float32")
    for shape in ((2, 32, 32), (1, 32, 32), (3, 2, 46)):
        before, after = tiles(*shape)
        logits = keras.ops.convert_to_numpy(model([before, after], training=False)).astype(np.float64)
        found = runtime(before, after)
        assert found.shape == (*shape, channels)
        assert found.dtype == np.float32
        if classes == 1:
            expected = 1 / (1 + np.exp(-logits))
        else:
            raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
            expected = (raised / raised.sum(axis=-1, keepdims=True))[..., 1:] if classes == 2 else None
            expected = raised / raised.sum(axis=-1, keepdims=True) if expected is None else expected
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_precision_stays_close_and_leaves_the_model_alone():
    model = make_model(1)
    before, after = tiles(2, 32, 32)
    exact = tensorflow_runtime(model, "float32")(before, after)
    fast = tensorflow_runtime(model, "mixed_bfloat16")(before, after)
    assert fast.dtype == np.float32
    assert 0 < np.abs(fast - exact).max() < 0.05
    assert model.get_layer("logits_conv").compute_dtype == "float32"


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v3_small"])
def test_tiles_of_many_sizes_one_after_the_other(encoder):
    """TensorFlow makes the graph for any size after the second; these networks enlarge their logits."""
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(name=encoder, levels=3)), bands=3)
    runtime = tensorflow_runtime(model, "float32")
    for shape in ((1, 32, 32), (1, 64, 32), (2, 32, 96), (1, 96, 64)):
        before, after = tiles(*shape)
        expected = keras.ops.sigmoid(model([before, after], training=False))
        np.testing.assert_allclose(runtime(before, after), expected, atol=1e-5)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'int4', allowed are auto, float32"):
        tensorflow_runtime(make_model(1), "int4")
