import keras
import numpy as np
import pytest

from segdiff.config import EncoderConfig
from segdiff.models.encoders import Encoder, build_encoder
from segdiff.models.semantic_change import build_semantic_change_detector
from segdiff.training.semantic_loss import SemanticChangeLoss

CLASSES = 3


def unet(channels: tuple[int, ...], norm: str = "batch") -> Encoder:
    return build_encoder(EncoderConfig(channels=channels, norm=norm), bands=2)


def small_model(norm: str = "none") -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_semantic_change_detector(unet((4, 8, 8), norm), classes=CLASSES, channels=(4, 8), norm=norm)


def scene(height: int = 10, width: int = 14, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Fields of flat colour, one colour a class; in the right half some have another class afterwards."""
    rng = np.random.default_rng(seed)
    colours = np.array([[-0.8, 0.1], [0.7, 0.7], [0.2, -0.9]], "float32")
    classes = np.repeat(np.repeat(rng.integers(0, CLASSES, size=(2, 2, 2, 4)), height // 2, 2), 4, 3)[..., :width]
    before, after = classes
    after[..., : width // 2] = before[..., : width // 2]
    images = [colours[x] + rng.normal(scale=0.1, size=(*x.shape, 2)).astype("float32") for x in (before, after)]
    images = [(image + 1) * 127.5 for image in images]
    return images, {"before": before, "after": after, "change": (before != after).astype("int64")}


def test_three_logits_at_the_size_of_images_that_no_stride_divides():
    images, _ = scene()
    logits = small_model()(images)
    assert {key: (tuple(x.shape), keras.backend.standardize_dtype(x.dtype)) for key, x in logits.items()} == {
        "before": ((2, 10, 14, CLASSES), "float32"),
        "after": ((2, 10, 14, CLASSES), "float32"),
        "change": ((2, 10, 14, 1), "float32"),
    }


def test_both_images_go_through_the_same_weights():
    model, (images, _) = small_model(), scene()
    forth, back = model(images), model(images[::-1])
    np.testing.assert_array_equal(forth["before"], back["after"])
    np.testing.assert_array_equal(forth["after"], back["before"])
    # the absolute difference has no direction either
    np.testing.assert_allclose(forth["change"], back["change"], atol=1e-6)
    assert np.abs(forth["before"] - forth["after"]).max() > 1e-3


def test_training_brings_classes_change_and_consistency_down_and_the_file_gives_the_same(tmp_path):
    model, (images, truth) = small_model(norm="batch"), scene()
    model.compile(keras.optimizers.Adam(0.02), loss=SemanticChangeLoss())
    history = model.fit(
        images, truth, epochs=60, batch_size=2, verbose=0, validation_data=(images, truth), validation_freq=60
    ).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    logits = {key: np.asarray(x) for key, x in model(images, training=True).items()}
    assert (logits["before"].argmax(-1) == truth["before"]).mean() > 0.9
    assert (logits["after"].argmax(-1) == truth["after"]).mean() > 0.9
    assert ((logits["change"][..., 0] > 0) == truth["change"]).mean() > 0.8
    assert np.isfinite(history["val_loss"]).all()

    model.save(tmp_path / "semantic.keras")
    loaded = keras.saving.load_model(tmp_path / "semantic.keras", compile=False, safe_mode=True)
    assert type(loaded) is type(model)
    for key, x in loaded(images).items():
        np.testing.assert_array_equal(x, model(images)[key])


def test_it_trains_in_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_model(norm="batch")
    finally:
        keras.config.set_dtype_policy("float32")
    images, truth = scene()
    assert {keras.backend.standardize_dtype(x.dtype) for x in model(images).values()} == {"float32"}
    model.compile(keras.optimizers.Adam(0.02), loss=SemanticChangeLoss(), run_eagerly=True)
    losses = [model.train_on_batch(images, truth) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_the_loss_of_layers_is_added():
    images, truth = scene()
    model = small_model()
    model.compile("sgd", loss=SemanticChangeLoss(), run_eagerly=True)
    plain = model.test_on_batch(images, truth)
    model.get_layer("change_decoder_level0_a_conv").kernel_regularizer = keras.regularizers.L2(1.0)
    kernel = model.get_layer("change_decoder_level0_a_conv").kernel
    kernel.regularizer = keras.regularizers.L2(1.0)
    assert model.test_on_batch(images, truth) == pytest.approx(plain + float(np.square(kernel).sum()), rel=1e-4)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="classes is 1"):
        build_semantic_change_detector(unet((4, 8)), classes=1, channels=(4,))
