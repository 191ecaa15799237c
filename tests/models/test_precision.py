import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff import processor
from segdiff.config import EncoderConfig, ModelConfig
from segdiff.model_files import Settings
from segdiff.models.architectures import build_change_detector
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.encoders import build_encoder
from segdiff.models.precision import FIXED, POLICIES, choose_precision, choose_xla, with_precision


def detector(shared: bool = True) -> ChangeDetector:
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8)), shared_encoder=shared), classes=3)
    model.settings = Settings(classes=("none", "a", "b"), threshold=0.3, tile=64, overlap=8, stride=2)
    return model


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (1, 9, 6, 3)).astype(np.float32)


def layers(model: keras.Model) -> list[keras.layers.Layer]:
    flat = model._flatten_layers(recursive=True, include_self=False)
    return [layer for layer in flat if not isinstance(layer, keras.Model | keras.layers.InputLayer)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shared", [True, False])
def test_every_layer_computes_as_asked_but_the_fixed_ones_and_logits_are_float32(policy, shared):
    model = detector(shared)
    other = with_precision(model, policy)
    assert other.settings == model.settings
    for layer in layers(other):
        assert layer.dtype_policy.name == ("float32" if layer.name in FIXED else policy), layer.name
    for old, new in zip(model.weights, other.weights, strict=True):
        assert new.dtype == "float32"
        np.testing.assert_array_equal(new, old)
    expected, got = model([image(0), image(1)]), other([image(0), image(1)])
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    np.testing.assert_allclose(got, expected, atol=1e-6 if policy == "float32" else 0.1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_fractions_of_a_grey_value_reach_the_network_in_half_precision(policy):
    model = with_precision(detector(), policy)
    encoder = model.get_layer("encoder")
    seen = keras.Model(encoder.inputs, encoder.get_layer("rescale").output)  # nested as in the detector
    before = keras.Input((None, None, 3))
    got = keras.Model(before, seen(model.get_layer("pad")(before)))(image(0))
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    np.testing.assert_allclose(got[:, :9], image(0) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_there_and_back_is_the_same_configuration_and_the_original_is_left_alone(policy):
    model = detector()
    before = model.get_config()
    back = with_precision(with_precision(model, policy), "float32")
    assert back.get_config() == before
    assert model.get_config() == before
    np.testing.assert_array_equal(back([image(0), image(1)]), model([image(0), image(1)]))


def test_a_name_is_taken_as_asked_and_no_other():
    for name in POLICIES:
        assert choose_precision(name) == (name, "as asked")
    with pytest.raises(ValueError, match="precision is 'bfloat16', allowed are auto, float32, mixed_bfloat16"):
        choose_precision("bfloat16")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "amx_bf16", "avx512_bf16"}, ("mixed_bfloat16", "this processor has amx_bf16")),
        ({"avx512_bf16"}, ("mixed_bfloat16", "this processor has avx512_bf16")),
        ({"avx2"}, ("float32", "this processor has no bfloat16")),
        (set(), ("float32", "this processor has no bfloat16")),
    ],
)
def test_auto_goes_by_the_processor(monkeypatch, flags, expected):
    if tf.config.list_physical_devices("GPU"):
        assert choose_precision() == ("mixed_float16", "a GPU does the work")
        return
    monkeypatch.setattr(processor, "cpu_flags", lambda: flags)  # one machine has one processor
    assert choose_precision() == expected


@pytest.mark.parametrize(
    ("name", "policy"), [("resnet18", "mixed_bfloat16"), ("mobilenet_v3_small", "float32"), ("mit_b0", "float32")]
)
def test_auto_leaves_depthwise_convolutions_in_float32(monkeypatch, name, policy):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("of machines without a GPU")
    monkeypatch.setattr(processor, "cpu_flags", lambda: {"avx512_bf16"})
    model = build_encoder(EncoderConfig(name=name, levels=2), bands=3).model
    assert choose_precision("auto", model)[0] == policy
    assert choose_precision("mixed_bfloat16", model) == ("mixed_bfloat16", "as asked")


def test_xla_is_chosen_by_the_device_and_the_precision():
    if tf.config.list_physical_devices("GPU"):
        assert choose_xla("auto", "mixed_float16")[0] == (len(tf.config.list_physical_devices("GPU")) == 1)
    else:
        assert [choose_xla("auto", policy)[0] for policy in POLICIES] == [False, False, True]
    assert choose_xla(True, "float32") == (True, "as asked")
    assert choose_xla(False, "mixed_float16") == (False, "as asked")


def test_the_flags_of_this_processor_are_read_where_the_system_tells_them():
    flags = processor.cpu_flags()
    assert all(flag and not flag.isspace() for flag in flags)
    assert choose_precision()[0] in POLICIES
