"""ImageNet weights: the numbers of the PyTorch original, and a file that tries to run something."""

import os
import struct
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest

from segdiff.config import EncoderConfig
from segdiff.models import pretrained
from segdiff.models.backbones import BackboneEncoder, build_pyramid
from segdiff.models.encoders import Encoder, build_encoder
from segdiff.models.pretrained import WeightsError, adapt_bands, load_imagenet, read_torch_file


def imagenet(name: str, bands: int = 3) -> Encoder:
    return build_encoder(EncoderConfig(name=name, weights="imagenet"), bands=bands)


def needs_package(name: str) -> None:
    package = pretrained.PACKAGES[name]
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed (pip install 'segdiff[imagenet]')")


def image(height: int, width: int, bands: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (1, height, width, bands)).astype("float32")


def difference(a, b) -> float:
    return float(np.abs(keras.ops.convert_to_numpy(a) - keras.ops.convert_to_numpy(b)).max())


def test_lite_b0_gives_the_features_of_the_pytorch_original(shared):
    needs_package("efficientnet_lite_b0")
    golden = np.load(shared / "golden" / "efficientnet_lite0_features.npz")
    encoder = imagenet("efficientnet_lite_b0")
    features = encoder.model(golden["image_uint8"].astype("float32"))
    for name, feature in zip(("P1", "P2", "P3", "P4", "P5_block"), features, strict=True):
        assert difference(feature, golden[name]) < 1e-4, name


def test_the_classifier_layer_that_the_encoder_leaves_out_matches_too(shared):
    needs_package("efficientnet_lite_b0")
    golden = np.load(shared / "golden" / "efficientnet_lite0_features.npz")
    whole, picture, _ = build_pyramid("efficientnet_lite_b0", 3)
    model = keras.Model(picture, whole.get_layer("top_activation")._inbound_nodes[0].output_tensors[0])
    state = read_torch_file(pretrained._installed_weights("efficientnet_lite_b0"))
    model.set_weights(pretrained.lite_weights(model, state))
    assert difference(model(golden["image_uint8"].astype("float32")), golden["P5_top"]) < 1e-4


@pytest.mark.parametrize("bands", [1, 2, 6])
def test_an_image_of_equal_bands_gives_the_same_pretrained_features_for_every_number_of_bands(bands):
    needs_package("efficientnet_lite_b0")
    grey = image(64, 32, 1)
    three = imagenet("efficientnet_lite_b0").model(grey.repeat(3, axis=-1))
    other = imagenet("efficientnet_lite_b0", bands).model(grey.repeat(bands, axis=-1))
    for a, b in zip(three, other, strict=True):
        assert difference(a, b) < 2e-4
        assert float(np.abs(a).max()) > 1


def test_more_bands_keep_the_kernels_of_red_green_and_blue():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype("float32")
    np.testing.assert_allclose(adapt_bands(kernel, 6)[:, :, :3], kernel / 2, rtol=1e-6)
    assert adapt_bands(kernel, 3).tobytes() == kernel.tobytes()


def test_a_stem_on_stacked_pixels_is_adapted_pixel_by_pixel():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 12, 8)).astype("float32")
    one = adapt_bands(kernel, 1)
    np.testing.assert_allclose(one, kernel.reshape(3, 3, 4, 3, 8).sum(axis=3), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite_b1", "efficientnet_lite_b2"])
def test_the_larger_packages_fit_their_networks(name):
    needs_package(name)
    encoder = imagenet(name)
    features = encoder.model(image(64, 64, 3))
    assert all(np.isfinite(feature).all() and 0.1 < np.std(feature) < 100 for feature in features)


def test_kerascv_presets_give_kerascv_features(tmp_path):
    import keras_cv
    from keras_cv.src.utils.preset_utils import save_to_preset

    numbers = pretrained.BACKBONES["mobilenet_v3_small"].numbers
    original = keras_cv.models.MobileNetV3Backbone(**numbers, include_rescaling=True)
    rng = np.random.default_rng(1)
    original.set_weights([w + np.abs(rng.normal(0, 0.02, w.shape)) for w in original.get_weights()])
    save_to_preset(original, str(tmp_path / "preset"))
    encoder = BackboneEncoder("mobilenet_v3_small", 3)
    load_imagenet(encoder, str(tmp_path / "preset"))
    levels = keras.Model(original.input, [original.get_layer(n).output for n in original.pyramid_level_inputs.values()])
    x = image(64, 32, 3)
    for ours, theirs in zip(encoder(x), levels(x), strict=True):
        assert float(np.std(theirs)) > 0
        assert difference(ours, theirs) < 1e-4 * max(1.0, float(np.abs(theirs).max()))


def test_without_a_network_a_preset_is_refused_in_one_line(tmp_path, monkeypatch):
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="mobilenet_v3_small_imagenet cannot be had") as caught:
        imagenet("mobilenet_v3_small")
    assert "\n" not in str(caught.value)
    assert "efficientnet_lite_b0" in str(caught.value)


def test_an_encoder_without_published_weights_names_those_that_have_some():
    with pytest.raises(WeightsError, match=r"resnet18: nobody offers ImageNet weights.*efficientnet_lite_b0.*resnet50"):
        imagenet("resnet18")


def test_a_missing_package_is_named_with_its_mend(monkeypatch):
    monkeypatch.setitem(pretrained.PACKAGES, "efficientnet_lite_b0", "efficientnet-lite-nowhere")
    with pytest.raises(WeightsError, match=r'efficientnet-lite-nowhere: pip install "segdiff\[imagenet\]"'):
        imagenet("efficientnet_lite_b0")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def tensor(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, elements: int = 6) -> bytes:
    """The opcodes with which PyTorch writes a float tensor on the storage "7"."""
    storage = (
        tuple_of(text("storage"), b"ctorch\nFloatStorage\n", text("7"), text("cpu"), number(elements), b"N") + b"Q"
    )
    arguments = tuple_of(
        storage,
        number(offset),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, stride)),
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def write(path: Path, value: bytes, numbers: bytes | None = None) -> Path:
    """A PyTorch file of before 1.6: {"w": value} in an OrderedDict, then the storage "7" with 0..5."""
    header = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    state = b"\x80\x02ccollections\nOrderedDict\n)R(" + text("w") + value + b"u."
    keys = b"\x80\x02](" + text("7") + b"e."
    data = np.arange(6, dtype="<f4").tobytes() if numbers is None else numbers
    path.write_bytes(header + system + state + keys + struct.pack("<q", 6) + data)
    return path


def test_a_tensor_is_read_with_its_strides_and_offset(tmp_path):
    rows = read_torch_file(write(tmp_path / "a.pth", tensor((2, 3), (3, 1))))["w"]
    turned = read_torch_file(write(tmp_path / "b.pth", tensor((3, 2), (1, 3))))["w"]
    tail = read_torch_file(write(tmp_path / "c.pth", tensor((2,), (1,), offset=4)))["w"]
    np.testing.assert_array_equal(rows, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(turned, np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(tail, [4, 5])
    assert rows.dtype == np.float32


@pytest.mark.parametrize("name", ["posix\nsystem", "builtins\neval", "builtins\nexec", "torch\nload", "os\nsystem"])
def test_a_file_that_names_code_is_refused_by_name_and_runs_nothing(tmp_path, name):
    victim = tmp_path / "victim"
    command = f"touch {victim}" if "system" in name else f"open({str(victim)!r}, 'w')"
    attack = b"c" + name.encode() + b"\n" + tuple_of(text(command)) + b"R"
    module, function = name.split("\n")
    with pytest.raises(WeightsError, match=f"it names {module}.{function}, only tensors are read"):
        read_torch_file(write(tmp_path / "evil.pth", attack))
    assert not victim.exists()


def test_the_attack_would_run_in_an_unrestricted_reader(tmp_path):
    import pickle

    victim = tmp_path / "victim"
    attack = b"\x80\x02cposix\nsystem\n" + tuple_of(text(f"touch {victim}")) + b"R."
    if os.name != "posix":
        pytest.skip("the attack is one on POSIX")
    pickle.loads(attack)
    assert victim.exists()


@pytest.mark.parametrize(
    "value",
    [
        tensor((2, 4), (3, 1)),
        tensor((2, 3), (3, 1), offset=1),
        tensor((2, 3), (3, 1), offset=-1),
        tensor((2, 3), (-3, 1)),
        tensor((2, 3), (3,)),
        text("no tensor"),
    ],
    ids=["beyond", "shifted", "before", "backwards", "ranks", "text"],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, value):
    with pytest.raises(WeightsError, match="cannot be read"):
        read_torch_file(write(tmp_path / "a.pth", value))


def test_a_cut_file_and_another_format_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="3 bytes too early"):
        read_torch_file(write(tmp_path / "a.pth", tensor((2, 3), (3, 1)), b"\0" * 21))
    (tmp_path / "zip.pth").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(WeightsError, match=r"zip\.pth: cannot be read"):
        read_torch_file(tmp_path / "zip.pth")
