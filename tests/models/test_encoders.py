"""Every encoder: its maps and strides, its file, its freezing, its learning rates."""

import keras
import numpy as np
import pytest

from segdiff.config import EncoderConfig
from segdiff.models.backbones import BACKBONES
from segdiff.models.encoders import ENCODERS, build_encoder, convolve, encoder_strides, learning_rate_scales
from segdiff.models.mix_transformer import _block
from segdiff.models.normalization import FusedBatchNormalization
from segdiff.models.precision import with_precision
from segdiff.training.optimizers import LayerwiseAdamW

SMALL = ("unet", "efficientnet_lite_b0", "mobilenet_v3_small", "mit_b0")
OTHERS = tuple(name for name in ENCODERS if name not in SMALL)


def image(height: int, width: int, bands: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (2, height, width, bands)).astype("float32")


def arrays(features) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(keras.ops.cast(feature, "float32")) for feature in features]


def layers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(model._flatten_layers(include_self=False))


def check_maps(name: str, bands: int) -> None:
    encoder = build_encoder(name, bands=bands)
    last = encoder.strides[-1]
    assert list(encoder.strides) == sorted(encoder.strides)
    for height, width in ((last, 3 * last), (5 * last, 2 * last)):
        features = arrays(encoder.model(image(height, width, bands)))
        assert [f.shape[1:3] for f in features] == [(height // s, width // s) for s in encoder.strides]
        assert all(np.isfinite(f).all() and f.std() > 0 for f in features)
    assert not any(type(layer) is keras.layers.BatchNormalization for layer in layers(encoder.model))


@pytest.mark.parametrize("bands", [1, 3, 6])
@pytest.mark.parametrize("name", SMALL)
def test_maps_have_the_strides_that_are_claimed(name, bands):
    check_maps(name, bands)


@pytest.mark.slow
@pytest.mark.parametrize("bands", [1, 3, 6])
@pytest.mark.parametrize("name", OTHERS)
def test_maps_of_the_large_encoders_have_the_strides_that_are_claimed(name, bands):
    check_maps(name, bands)


@pytest.mark.parametrize("name", ["efficientnet_lite_b0", "mit_b0"])
def test_fewer_levels_are_the_first_maps_without_what_only_the_others_need(name):
    whole = build_encoder(name, bands=3)
    short = build_encoder(EncoderConfig(name=name, levels=3), bands=3)
    assert short.strides == whole.strides[:3]
    assert short.model.count_params() < whole.model.count_params() / 2
    x = image(64, 64, 3)
    short.model.set_weights(keras.Model(whole.model.inputs, whole.model.outputs[:3]).get_weights())
    for a, b in zip(arrays(short.model(x)), arrays(whole.model(x)), strict=False):
        np.testing.assert_allclose(a, b, atol=1e-4)


def check_file(name: str, folder) -> None:
    encoder = build_encoder(name, bands=3).model
    x = image(64, 32, 3)
    encoder.save(folder / "encoder.keras")
    loaded = keras.saving.load_model(folder / "encoder.keras", compile=False, safe_mode=True)
    for a, b in zip(arrays(encoder(x)), arrays(loaded(x)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_encoder_gives_the_same_maps(name, tmp_path):
    check_file(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_saved_large_encoder_gives_the_same_maps(name, tmp_path):
    check_file(name, tmp_path)


# KerasCV's own counts of whole networks on three bands
PARAMETERS = {
    "resnet18": 11186112,
    "resnet18_v2": 11183488,
    "mobilenet_v3_small": 939120,
    "efficientnet_v2_b0": 5919312,
    "csp_darknet_tiny": 2380416,
    "densenet121": 7037504,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_backbone_has_the_published_number_of_weights(name):
    from segdiff.models.backbones import build_pyramid

    assert build_pyramid(name, 3)[0].count_params() == PARAMETERS[name]


def frozen_detector(name: str) -> keras.Model:
    encoder = build_encoder(EncoderConfig(name=name, freeze=True), bands=3).model
    before = keras.Input((None, None, 3))
    return keras.Model(before, keras.layers.Conv2D(1, 1, name="head")(encoder(before)[-1]))


@pytest.mark.parametrize("name", ["unet", "mobilenet_v3_small"])
def test_training_leaves_a_frozen_encoder_as_it_was(name):
    model = frozen_detector(name)
    encoder = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    assert any(isinstance(layer, FusedBatchNormalization) for layer in layers(encoder))
    model = with_precision(model, "float32")  # what the trainer does first
    encoder = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    old, bias = encoder.get_weights(), model.get_layer("head").get_weights()[1]
    assert len(model.trainable_variables) == 2
    model.compile("sgd", "mse", jit_compile=False)
    x = image(64, 64, 3)
    model.fit(x, np.ones_like(model.predict(x, verbose=0)), epochs=2, verbose=0)
    for a, b in zip(old, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(bias, model.get_layer("head").get_weights()[1])


@pytest.mark.parametrize("name", ["unet", "mobilenet_v3_small"])
def test_a_frozen_encoder_is_frozen_when_it_is_read_again(name, tmp_path):
    encoder = build_encoder(EncoderConfig(name=name, freeze=True), bands=3).model
    encoder.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras", compile=False)
    assert encoder.trainable_variables == loaded.trainable_variables == []
    assert not any(layer.trainable for layer in layers(loaded) if layer.weights)


@pytest.mark.parametrize("name", ["unet", "mobilenet_v3_small", "mit_b0", "efficientnet_v2_b0"])
def test_mixed_precision_reaches_every_layer_but_the_rescaling(name):
    encoder = build_encoder(name, bands=3).model
    mixed = with_precision(encoder, "mixed_bfloat16")
    assert mixed.get_layer("rescale").compute_dtype == "float32"
    computing = {layer.compute_dtype for layer in layers(mixed) if layer.weights}
    assert computing == {"bfloat16"}
    x = image(64, 64, 3)
    features = mixed(x)
    assert {keras.backend.standardize_dtype(feature.dtype) for feature in features} == {"bfloat16"}
    for a, b in zip(arrays(encoder(x)), arrays(features), strict=True):
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
    assert keras.config.dtype_policy().name == "float32"


def test_fractions_of_a_grey_level_are_not_lost_in_mixed_precision():
    mixed = with_precision(build_encoder("unet", bands=1).model, "mixed_bfloat16")
    x = np.full((1, 16, 16, 1), 127.5, "float32")
    rescaled = mixed.get_layer("rescale")(x + 0.25)
    np.testing.assert_allclose(rescaled, 0.25 / 127.5, rtol=1e-3)


def test_the_levels_of_unet_are_as_configured():
    config = EncoderConfig(channels=(4, 8, 16), norm="group", dropout=0.1)
    encoder = build_encoder(config, bands=4)
    assert encoder.strides == encoder_strides(config) == (1, 2, 4)
    features = arrays(encoder.model(image(16, 24, 4)))
    assert [feature.shape[1:] for feature in features] == [(16, 24, 4), (8, 12, 8), (4, 6, 16)]
    kinds = [type(layer) for layer in encoder.model.layers]
    assert kinds.count(keras.layers.GroupNormalization) == 6
    assert [layer.rate for layer in encoder.model.layers if isinstance(layer, keras.layers.SpatialDropout2D)] == [
        0.1
    ] * 3


def test_stochastic_depth_works_in_training_alone_and_only_where_asked():
    x = image(32, 32, 3)
    for name in ("efficientnet_lite_b0", "mit_b0"):
        asked = build_encoder(EncoderConfig(name=name, dropout=0.5), bands=3).model
        np.testing.assert_array_equal(arrays(asked(x))[-1], arrays(asked(x))[-1])
        rates = [layer.rate for layer in layers(asked) if isinstance(layer, keras.layers.Dropout)]
        assert 0.4 < max(rates) <= 0.5
        assert not np.array_equal(arrays(asked(x, training=True))[-1], arrays(asked(x, training=True))[-1])
        plain = build_encoder(name, bands=3).model
        assert not any(layer.rate for layer in layers(plain) if isinstance(layer, keras.layers.Dropout))


def test_a_mix_transformer_block_computes_what_kerascv_does_where_that_is_right():
    import keras_cv

    theirs = keras_cv.layers.HierarchicalTransformerEncoder(project_dim=16, num_heads=2, sr_ratio=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 16)).astype("float32")
    theirs(x.reshape(2, 16, 16))
    picture = keras.Input((None, None, 16))
    ours = keras.Model(picture, _block(picture, heads=2, reduction=1, dropout=0.0, name="block"))

    def give(layer: keras.layers.Layer, *sources: keras.layers.Layer) -> None:
        given = [weight for source in sources for weight in source.get_weights()]
        layer.set_weights([g.reshape(w.shape) for g, w in zip(given, layer.get_weights(), strict=True)])

    for part in (theirs.attn.q, theirs.attn.k, theirs.attn.v, theirs.attn.proj, theirs.mlp.fc1, theirs.mlp.fc2):
        part.set_weights([rng.normal(size=w.shape) * 0.3 for w in part.get_weights()])
    give(ours.get_layer("block_attention"), theirs.attn.q, theirs.attn.k, theirs.attn.v, theirs.attn.proj)
    give(ours.get_layer("block_mlp_widen"), theirs.mlp.fc1)
    give(ours.get_layer("block_mlp_mix"), theirs.mlp.dwconv)
    give(ours.get_layer("block_mlp_narrow"), theirs.mlp.fc2)
    a, b = arrays([ours(x)])[0], arrays([theirs(x.reshape(2, 16, 16))])[0].reshape(2, 4, 4, 16)
    assert np.abs(a - x).max() > 0.5
    # KerasCV takes the approximate gelu
    np.testing.assert_allclose(a, b, atol=2e-3)


def scaled_model() -> keras.Model:
    encoder = build_encoder(EncoderConfig(channels=(2, 3, 4), norm="none"), bands=1).model
    picture = keras.Input((None, None, 1))
    return keras.Model(picture, keras.layers.Conv2D(1, 1, name="head")(encoder(picture)[-1]))


def test_rates_fall_level_by_level_from_the_head_to_the_stem():
    model = scaled_model()
    scales = learning_rate_scales(model, 0.5)
    by_name = dict(zip([variable.path for variable in model.trainable_variables], scales, strict=True))
    expected = {"level0_a": 0.125, "level0_b": 0.125, "level1_a": 0.25, "level2_b": 0.5, "head": 1.0}
    for name, scale in expected.items():
        assert {by_name[path] for path in by_name if path.startswith(name)} == {scale}


def test_every_variable_of_a_backbone_has_its_rate():
    encoder = build_encoder("efficientnet_lite_b0", bands=3).model
    picture = keras.Input((None, None, 3))
    model = keras.Model(picture, encoder(picture))
    scales = learning_rate_scales(model, 0.5)
    by_name = dict(zip([variable.path for variable in model.trainable_variables], scales, strict=True))
    assert by_name["stem_conv/kernel"] == by_name["block1a_dwconv/kernel"] == 0.5**5
    assert by_name["block2a_dwconv/kernel"] == 0.5**4
    assert by_name["block7a_project_conv/kernel"] == 0.5
    assert set(scales) == {0.5**k for k in range(1, 6)}


def test_the_optimizer_moves_and_decays_each_variable_at_its_rate():
    model = scaled_model()
    scales = learning_rate_scales(model, 0.5)
    plain = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    scaled = LayerwiseAdamW(0.01, scales, weight_decay=0.1)
    start = [np.array(variable) for variable in model.trainable_variables]
    gradients = [keras.ops.convert_to_tensor(np.full(value.shape, 0.3, "float32")) for value in start]
    moves = []
    for optimizer in (plain, scaled):
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        for variable, value in zip(model.trainable_variables, start, strict=True):
            variable.assign(value)
        optimizer.apply(gradients, model.trainable_variables)
        moves.append([np.array(v) - value for v, value in zip(model.trainable_variables, start, strict=True)])
    for full, move, scale in zip(*moves, scales, strict=True):
        assert np.abs(full).min() > 1e-3
        np.testing.assert_allclose(move, full * scale, rtol=1e-3, atol=1e-6)


def test_the_optimizer_is_read_back_and_refuses_another_number_of_variables():
    scaled = LayerwiseAdamW(0.01, [0.5, 1.0], weight_decay=0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(scaled))
    assert again.scales == (0.5, 1.0)
    with pytest.raises(ValueError, match="2 scales for 1 trainable variables"):
        again.build([keras.Variable(np.zeros(3, "float32"))])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "encoder 'resnet19' does not exist, allowed are unet, resnet18"),
        ("unet", {"bands": 0}, "bands is 0"),
        ("mit_b1", {"weights": "imagenet"}, "encoder mit_b1 has no ImageNet weights"),
        ("mit_b1", {"levels": 5}, "mit_b1 has 4 levels, levels is 5"),
        ("resnet18", {"dropout": 0.1}, "encoder resnet18 has no stochastic depth"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(name, options, message):
    options = dict(options)
    bands = options.pop("bands", 3)
    config = EncoderConfig(name=name, **options) if options else name
    with pytest.raises(ValueError, match=message) as caught:
        build_encoder(config, bands=bands)
    assert "\n" not in str(caught.value)


def test_a_convolution_without_normalization_has_a_bias():
    picture = keras.Input((8, 8, 1))
    counts = {
        norm: keras.Model(picture, convolve(picture, 4, norm=norm, name="c")).count_params()
        for norm in ("none", "batch")
    }
    assert counts == {"none": 9 * 4 + 4, "batch": 9 * 4 + 4 * 4}


def test_every_backbone_is_offered():
    assert set(BACKBONES) < set(ENCODERS)
    assert len(ENCODERS) == len(set(ENCODERS))
