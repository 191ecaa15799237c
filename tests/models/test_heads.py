import zipfile

import keras
import numpy as np
import pytest

from segdiff.models.decoders import fpn_decoder, unet_decoder
from segdiff.models.heads import DeepSupervision, change_head
from segdiff.models.padding import CropToImage, PadToMultiple
from segdiff.training.losses import ChangeLoss

RNG = np.random.default_rng(0)
# sizes that are no multiples of the stride, as whole validation images are
BEFORE, AFTER = RNG.normal(size=(2, 2, 13, 18, 2)).astype("float32")
TRUTH = RNG.choice(np.array([0, 1, 255], "uint8"), size=(2, 13, 18))


def small_detector(classes: int = 1, strides=(2, 4, 8), norm: str = "none") -> keras.Model:
    keras.utils.set_random_seed(0)
    before, after = keras.Input((None, None, 2), name="before"), keras.Input((None, None, 2), name="after")
    pad = PadToMultiple(strides[-1], dtype="float32")
    difference = keras.layers.Subtract()([pad(before), pad(after)])
    maps = [keras.layers.Conv2D(4, stride, strides=stride, activation="relu")(difference) for stride in strides]
    decoded = unet_decoder(maps, (4,) * (len(strides) - 1), strides, norm=norm)
    logits = change_head(decoded, classes, strides[0])
    return keras.Model([before, after], CropToImage(dtype="float32")(logits, before))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("stride", [1, 4])
def test_the_head_gives_float32_logits_at_full_size(stride, policy):
    x = keras.Input((None, None, 3))
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Model(x, change_head(x, 5, stride))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output_names == ["logits"]
    assert model.get_layer("logits_conv").compute_dtype == policy.removeprefix("mixed_")
    logits = model(RNG.normal(size=(2, 3, 2, 3)).astype("float32"))
    assert tuple(logits.shape) == (2, 3 * stride, 2 * stride, 5)
    assert logits.dtype == "float32"


def test_the_head_refuses_numbers_below_1():
    with pytest.raises(ValueError, match="classes is 0 and stride is 1"):
        change_head(keras.Input((4, 4, 1)), 0)


@pytest.mark.parametrize("classes", [1, 3])
def test_further_heads_have_the_detectors_size_and_weigh_less_the_coarser_they_are(classes):
    detector = small_detector(classes, strides=(1, 2, 4, 8))
    training = DeepSupervision(detector, decay=0.3)
    loss = ChangeLoss({"cross_entropy": 1.0, "dice": 1.0})
    logits = training([BEFORE, AFTER])
    assert [tuple(x.shape) for x in logits] == [(2, 13, 18, classes)] * 3
    np.testing.assert_array_equal(logits[0], detector([BEFORE, AFTER]))
    expected = sum(0.3**k * float(loss(TRUTH, x)) for k, x in enumerate(logits))

    training.compile(keras.optimizers.SGD(0.0), loss=loss)
    plain = float(loss(TRUTH, detector([BEFORE, AFTER])))
    assert training.test_on_batch([BEFORE, AFTER], TRUTH) == pytest.approx(plain, rel=1e-5)
    assert training.train_on_batch([BEFORE, AFTER], TRUTH) == pytest.approx(expected, rel=1e-5)
    assert expected > plain * 1.2


def test_training_moves_every_weight_once_and_the_saved_detector_has_no_further_head(tmp_path):
    detector = small_detector(norm="batch")
    training = DeepSupervision(detector)
    names = [weight.path for weight in training.trainable_weights]
    assert len({id(weight) for weight in training.trainable_weights}) == len(names)
    further = [weight for weight in training.trainable_weights if "auxiliary" in weight.path]
    assert len(further) == 2  # one head, for stride 4: kernel and bias
    assert len(names) == len(detector.trainable_weights) + len(further)
    old = [weight.numpy().copy() for weight in training.trainable_weights]
    training.compile(
        keras.optimizers.Adam(0.01),
        loss=ChangeLoss({"cross_entropy": 1.0}),
        metrics=[spread],
    )
    history = training.fit(
        [BEFORE, AFTER], TRUTH, epochs=4, verbose=0, validation_data=([BEFORE, AFTER], TRUTH), batch_size=2
    ).history
    assert sorted(history) == ["loss", "spread", "val_loss", "val_spread"]
    assert history["loss"][-1] < history["loss"][0]
    assert all(not np.array_equal(a, b.numpy()) for a, b in zip(old, training.trainable_weights, strict=True))

    detector.save(tmp_path / "detector.keras")
    assert b"auxiliary" not in zipfile.ZipFile(tmp_path / "detector.keras").read("config.json")
    loaded = keras.saving.load_model(tmp_path / "detector.keras", compile=False, safe_mode=True)
    assert len(loaded.outputs) == 1
    assert len(loaded.weights) == len(detector.weights)
    np.testing.assert_array_equal(loaded([BEFORE, AFTER]), training([BEFORE, AFTER])[0])


def spread(truth, logits):
    assert not isinstance(logits, list)
    return keras.ops.std(logits, axis=(1, 2, 3))


def test_a_training_goes_on_from_its_weights(tmp_path):
    data = [BEFORE, AFTER], TRUTH

    def new() -> tuple[keras.Model, DeepSupervision]:
        detector = small_detector()
        training = DeepSupervision(detector)
        training.compile(keras.optimizers.Adam(0.01), loss=ChangeLoss({"cross_entropy": 1.0}), run_eagerly=True)
        training.optimizer.build(training.trainable_variables)
        return detector, training

    detector, training = new()
    training.train_on_batch(*data)
    training.save_weights(tmp_path / "state.weights.h5")
    again, resumed = new()
    resumed.load_weights(tmp_path / "state.weights.h5")
    np.testing.assert_array_equal(again([BEFORE, AFTER]), detector([BEFORE, AFTER]))
    assert resumed.train_on_batch(*data) == training.train_on_batch(*data)
    for a, b in zip(training.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_trains_in_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        image = keras.Input((16, 16, 2))
        maps = [keras.layers.Conv2D(4, s, strides=s, activation="relu")(image) for s in (2, 4, 8)]
        detector = keras.Model(image, change_head(fpn_decoder(maps, 4, (2, 4, 8), upsampling="bilinear"), 1, 2))
        training = DeepSupervision(detector)
        training.compile(keras.optimizers.Adam(0.01), loss=ChangeLoss({"cross_entropy": 1.0}), run_eagerly=True)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = RNG.normal(size=(2, 16, 16, 2)).astype("float32"), RNG.integers(0, 2, size=(2, 16, 16))
    losses = [training.train_on_batch(x, y) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_a_model_without_coarser_levels_or_with_several_outputs_is_refused():
    with pytest.raises(ValueError, match="no coarser level"):
        DeepSupervision(small_detector(strides=(1, 2)))
    detector = small_detector()
    with pytest.raises(ValueError, match="has 2 outputs"):
        DeepSupervision(keras.Model(detector.inputs, [*detector.outputs, *detector.outputs]))
