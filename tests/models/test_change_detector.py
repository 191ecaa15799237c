from dataclasses import asdict

import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.config import DecoderConfig, EncoderConfig, ModelConfig
from segdiff.model_files import ObjectOptions, PostProcessing, Settings
from segdiff.models.architectures import build_change_detector
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.difference import MODES


def config(*channels: int, encoder: dict | None = None, **changes) -> ModelConfig:
    return ModelConfig(encoder=EncoderConfig(channels=channels or (4, 8), **(encoder or {})), **changes)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def logits(model, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model([before, after], training=False))


def without_padding(model: ChangeDetector) -> ChangeDetector:
    """The same network and weights whose padding does nothing."""
    plain = model.get_config()
    for layer in plain["layers"]:
        if layer["class_name"] == "PadToMultiple":
            layer["config"]["multiple"] = 1
    copy = ChangeDetector.from_config(plain)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize(
    ("difference", "shared"), [*((mode, True) for mode in MODES), ("signed", False), ("concatenated", False)]
)
def test_every_difference_and_sharing_learns_a_step_and_survives_saving(tmp_path, difference, shared):
    keras.utils.set_random_seed(0)
    model = build_change_detector(config(difference=difference, shared_encoder=shared))
    before, after = images(2, 10, 12, 3), images(2, 10, 12, 3, seed=1)
    target = tf.constant(np.random.default_rng(2).integers(0, 2, (2, 10, 12, 1)), tf.float32)

    def loss():
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(target, model([before, after], training=True)))

    with tf.GradientTape() as tape:
        first = loss()
    gradients = tape.gradient(first, [weight.value for weight in model.trainable_variables])
    for gradient, weight in zip(gradients, model.trainable_variables, strict=True):
        assert np.isfinite(gradient).all(), weight.path
        # under batch normalization the gradient of a bias before a mode that cancels it may be 0, kernels never are
        assert weight.name != "kernel" or np.abs(gradient).max() > 0, weight.path
    keras.optimizers.SGD(0.01).apply(gradients, model.trainable_variables)
    assert loss() < first

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert isinstance(loaded, ChangeDetector)
    assert sum("encoder" in layer.name for layer in loaded.layers) == (1 if shared else 2)
    np.testing.assert_allclose(logits(loaded, before, after), logits(model, before, after), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (13, 31), (17, 8)])
def test_logits_have_the_size_of_the_image_and_are_those_of_the_mirrored_image(size):
    model = build_change_detector(config(4, 4, 8), classes=2)
    assert model.settings.stride == 4
    before, after = images(2, *size, 3), images(2, *size, 3, seed=1)
    got = logits(model, before, after)
    assert got.shape == (2, *size, 2)
    edges = ((0, 0), *((0, -side % 4) for side in size), (0, 0))
    mirrored = [np.pad(image, edges, mode="symmetric") for image in (before, after)]
    expected = logits(without_padding(model), *mirrored)[:, : size[0], : size[1]]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_padding_does_nothing_where_the_size_divides():
    model = build_change_detector(config())
    before, after = images(1, 8, 12, 3), images(1, 8, 12, 3, seed=1)
    np.testing.assert_array_equal(logits(model, before, after), logits(without_padding(model), before, after))


def test_bytes_and_floats_of_0_to_255_agree():
    model = build_change_detector(config())
    before, after = images(1, 9, 9, 3), images(1, 9, 9, 3, seed=1)
    floats = logits(model, before.astype(np.float32), after.astype(np.float32))
    np.testing.assert_array_equal(logits(model, before, after), floats)


def test_before_and_after_are_told_apart_and_equal_images_leave_no_difference():
    model = build_change_detector(config(difference="signed"))
    before, after = images(1, 8, 8, 3), images(1, 8, 8, 3, seed=1)
    assert np.abs(logits(model, before, after) - logits(model, after, before)).max() > 1e-3
    np.testing.assert_allclose(logits(model, before, before), logits(model, after, after), atol=1e-6)


@pytest.mark.parametrize("bands", [1, 6])
@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (1, ("background", "change")),
        (2, ("background", "change")),
        (4, ("background", "class 1", "class 2", "class 3")),
    ],
)
def test_bands_and_classes_are_those_asked_for(bands, classes, names):
    model = build_change_detector(config(), bands=bands, classes=classes)
    assert model.bands == bands
    assert model.settings.classes == names
    assert logits(model, images(1, 4, 4, bands), images(1, 4, 4, bands)).shape == (1, 4, 4, classes)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"encoder": {"norm": "group"}}, {"GroupNormalization"}),
        ({"encoder": {"norm": "none"}}, set()),
        ({"encoder": {"dropout": 0.5}}, {"FusedBatchNormalization", "SpatialDropout2D"}),
        ({"decoder": DecoderConfig(channels=(5,))}, {"FusedBatchNormalization"}),
    ],
)
def test_the_configuration_chooses_the_layers(changes, kinds):
    model = build_change_detector(config(**changes))
    layers = list(model._flatten_layers(recursive=True, include_self=False))
    optional = {"GroupNormalization", "FusedBatchNormalization", "SpatialDropout2D"}
    assert {type(layer).__name__ for layer in layers} & optional == kinds
    width = 5 if "decoder" in changes else 4
    assert model.get_layer("logits_conv").kernel.shape == (1, 1, width, 1)
    before, after = images(1, 6, 6, 3), images(1, 6, 6, 3, seed=1)
    noisy = [keras.ops.convert_to_numpy(model([before, after], training=True)) for _ in range(2)]
    if "SpatialDropout2D" in kinds:
        assert not np.array_equal(*noisy)
    np.testing.assert_array_equal(logits(model, before, after), logits(model, before, after))


def test_settings_survive_saving_and_keras_serialization(tmp_path):
    model = build_change_detector(config())
    assert model.settings == Settings(stride=2)
    names, trained = ("none", "new roof"), (0.5, 1.0)
    steps = PostProcessing(closing=2, fill_holes=30, vote=True, minimum_area=12)
    model.settings = Settings(
        names, threshold=0.25, tile=96, overlap=16, stride=2, post_processing=steps, ground_resolution=trained,
        mask_offset=(2, -1), test_time_augmentation="multiscale",
        objects=ObjectOptions(0.5, join=9, pad=8, minimum_area=12, minimum_score=0.65),
    )  # fmt: skip
    model.save(tmp_path / "model.keras")
    copies = [
        keras.saving.load_model(tmp_path / "model.keras", compile=False),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model)),
    ]
    for copy in copies:
        assert isinstance(copy, ChangeDetector)
        assert copy.settings == model.settings
    older = asdict(model.settings)
    for name in ("post_processing", "mask_offset", "test_time_augmentation", "objects"):
        del older[name]
    assert Settings.from_json(older) == Settings(
        names, threshold=0.25, tile=96, overlap=16, stride=2, ground_resolution=trained
    )


def test_numbers_and_names_that_make_no_model_are_refused():
    with pytest.raises(ValueError, match="'unet_dif' does not exist"):
        build_change_detector("unet_dif")
    for numbers in ({"bands": 0}, {"classes": 0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            build_change_detector(config(), **numbers)


def test_the_name_alone_builds_the_default_configuration():
    default = build_change_detector(ModelConfig(), bands=1)
    named = build_change_detector("unet_diff", bands=1)
    assert [w.shape for w in named.weights] == [w.shape for w in default.weights]
