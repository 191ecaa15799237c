"""The runtimes against the network's own logits."""

import errno
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import segdiff
from data_pipelines.cache import cache_folder
from segdiff.config import EncoderConfig, ModelConfig
from segdiff.inference.manifest import read_manifest
from segdiff.inference.predictor import Detector
from segdiff.inference.runtimes import Network, keras_network, mean_of, open_network, tensorflow_runtime
from segdiff.model_files import ModelError, Settings
from segdiff.models.architectures import build_change_detector


def make_model(classes: int):
    keras.utils.set_random_seed(3)
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8))), bands=3, classes=classes)
    model.get_layer("logits_conv").set_weights([4 * weight for weight in model.get_layer("logits_conv").get_weights()])
    return model


def tiles(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    return tuple(generator.integers(0, 256, (count, height, width, 3), np.uint8) for _ in range(2))


@pytest.fixture(scope="module", params=[1, 2, 3])
def saved(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    make_model(request.param).save(path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGDIFF_CACHE", str(tmp_path / "cache"))


SHAPES = [(2, 32, 32), (1, 32, 32), (3, 2, 46), (1, 64, 32), (2, 32, 32), (4, 16, 16), (1, 8, 8), (1, 32, 32)]


@pytest.mark.parametrize("runtime", ["tensorflow", "openvino"])
def test_probabilities_are_those_of_the_logits_in_the_order_of_the_batches(saved, runtime):
    from segdiff.models.loading import load_model

    model = load_model(saved)
    batches = [tiles(*shape) for shape in SHAPES]
    results = list(open_network(saved, runtime, "float32").run(iter(batches)))
    assert len(results) == len(batches)
    for (before, after), found in zip(batches, results, strict=True):
        logits = keras.ops.convert_to_numpy(model([before, after], training=False)).astype(np.float64)
        if logits.shape[-1] == 1:
            expected = 1 / (1 + np.exp(-logits))
        else:
            raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
            expected = raised / raised.sum(axis=-1, keepdims=True)
            expected = expected[..., 1:] if logits.shape[-1] == 2 else expected
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("runtime", ["tensorflow", "openvino"])
def test_half_precision_stays_close(saved, runtime):
    batch = tiles(2, 32, 32)
    (exact,), (fast,) = (open_network(saved, runtime, kind).run([batch]) for kind in ("float32", "bfloat16"))
    assert fast.dtype == np.float32
    assert np.abs(fast - exact).max() < 0.05


def test_half_precision_leaves_the_model_alone():
    model = make_model(1)
    run, said = tensorflow_runtime(model, "bfloat16")
    assert said == "TensorFlow in bfloat16"
    (fast,) = run([tiles(2, 32, 32)])
    assert fast.dtype == np.float32
    assert model.get_layer("logits_conv").compute_dtype == "float32"


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("runtime", ["tensorflow", "openvino"])
def test_tiles_of_many_sizes_one_after_the_other(encoder, runtime, tmp_path):
    """TensorFlow makes the graph for any size after the second; these networks enlarge their logits."""
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(name=encoder, levels=3)), bands=3)
    model.save(tmp_path / "model.keras")
    batches = [tiles(*shape) for shape in ((1, 32, 32), (1, 64, 32), (2, 32, 96), (1, 96, 64))]
    found = open_network(tmp_path / "model.keras", runtime, "float32").run(batches)
    for (before, after), probabilities in zip(batches, found, strict=True):
        expected = keras.ops.sigmoid(model([before, after], training=False))
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_a_consumer_may_stop_early(saved):
    network = open_network(saved, "openvino", "float32")
    first = next(iter(network.run(tiles(1, 32, 32) for _ in range(10))))
    (again,) = network.run([tiles(1, 32, 32)])
    np.testing.assert_array_equal(first, again)


def test_the_conversion_is_kept_under_the_content_of_the_file_and_needs_no_tensorflow(saved, tmp_path):
    first = open_network(saved, "openvino")
    (kept,) = (cache_folder() / "openvino").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["manifest.json", "model.bin", "model.xml"]
    assert list(saved.parent.iterdir()) == [saved]
    copy = tmp_path / "copy.keras"
    copy.write_bytes(saved.read_bytes())
    code = (
        "import sys; from segdiff.inference.runtimes import open_network\n"
        f"network = open_network({str(copy)!r}, 'openvino')\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'converted anew'\n"
        "print(network.settings, network.bands)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == f"{first.settings} {first.bands}"
    make_model(2).save(copy)
    open_network(copy, "openvino")
    assert len(list((cache_folder() / "openvino").iterdir())) == 2


@pytest.fixture
def small(tmp_path) -> Path:
    path = tmp_path / "small.keras"
    make_model(1).save(path)
    return path


def test_a_damaged_conversion_is_made_anew_with_one_line(small, caplog):
    (expected,) = open_network(small, "openvino", "float32").run([tiles(1, 32, 32)])
    (kept,) = (cache_folder() / "openvino").iterdir()
    damages = {"manifest.json": [0, 0.5], "model.xml": [0, 0.5], "model.bin": [0, 0.99, None]}
    for name, share in ((name, share) for name, shares in damages.items() for share in shares):
        whole = (kept / name).read_bytes()
        if share is None:
            (kept / name).unlink()
        else:
            (kept / name).write_bytes(whole[: int(share * len(whole))])
        (found,) = open_network(small, "openvino", "float32").run([tiles(1, 32, 32)])
        np.testing.assert_array_equal(found, expected)
        assert caplog.messages == [f"{kept}: this converted model is damaged or may not be read, it is made anew"]
        caplog.clear()
        open_network(small, "openvino", "float32")
        assert caplog.messages == [], "what was made anew is kept"
        assert list(kept.parent.iterdir()) == [kept]


def test_a_damaged_conversion_that_cannot_be_replaced_is_made_elsewhere(small, monkeypatch):
    open_network(small, "openvino")
    (kept,) = (cache_folder() / "openvino").iterdir()
    (kept / "model.xml").write_bytes(b"")

    rename = Path.rename

    def refuse(path, target):
        if path == kept:
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    (found,) = open_network(small, "openvino", "float32").run([tiles(1, 32, 32)])
    (expected,) = open_network(small, "tensorflow", "float32").run([tiles(1, 32, 32)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_cache_it_is_converted_each_time(saved, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SEGDIFF_CACHE", str(tmp_path / "file"))
    (found,) = open_network(saved, "openvino", "float32").run([tiles(1, 32, 32)])
    (expected,) = open_network(saved, "tensorflow", "float32").run([tiles(1, 32, 32)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_exported_folder_is_a_model(saved, tmp_path):
    expected = open_network(saved, "openvino", "float32")
    (kept,) = (cache_folder() / "openvino").iterdir()
    kept.rename(tmp_path / "exported")
    for model in (tmp_path / "exported", tmp_path / "exported" / "manifest.json"):
        network = open_network(model, precision="float32")
        assert network.settings == expected.settings == read_manifest(tmp_path / "exported" / "manifest.json").settings
        batch = tiles(1, 32, 32)
        np.testing.assert_array_equal(*(next(iter(one.run([batch]))) for one in (network, expected)))
    with pytest.raises(ModelError, match="is exported for openvino, --runtime is tensorflow; leave it out"):
        open_network(tmp_path / "exported", "tensorflow")
    (tmp_path / "exported" / "manifest.json").write_text("{}")
    with pytest.raises(ModelError, match="is no manifest of an exported model"):
        open_network(tmp_path / "exported")


def row_of(value: float):
    """A network whose probability is that everywhere, more to the right of the image before."""

    def run(batches):
        for before, _ in batches:
            yield (before[..., :1] / 255 * value).astype(np.float32)

    return run


def test_several_networks_give_their_mean():
    batches = [tiles(1, 8, 8), tiles(2, 8, 4), tiles(3, 4, 4)]
    found = list(mean_of([row_of(0.2), row_of(0.6), row_of(1.0)])(iter(batches)))
    for (before, _), mean in zip(batches, found, strict=True):
        np.testing.assert_allclose(mean, before[..., :1] / 255 * 0.6, rtol=1e-6)


def test_networks_that_differ_do_not_predict_together():
    ours = keras_network(make_model(1), Path("one.keras"), "float32")
    other = Network(ours.run, Settings(classes=("none", "a", "b")), (3, 3), Path("two.keras"), "")
    with pytest.raises(ModelError, match=r"two.keras: takes 3 and 3 bands and tells none, a, b, one.keras 3 and 3"):
        Detector(ours, other)


def test_an_ensemble_and_the_eight_turns_from_python(saved):
    before, after = (image[0] for image in tiles(1, 40, 24))
    alone = segdiff.load(saved, precision="float32").predict(before, after)
    twice = segdiff.load(saved, precision="float32", ensemble=[saved]).predict(before, after)
    np.testing.assert_allclose(alone.probability, twice.probability, atol=1e-6)
    turned = segdiff.load(saved, precision="float32", test_time_augmentation="d4")
    one, two = turned.predict(before, after), turned.predict(before[::-1], after[::-1])
    np.testing.assert_allclose(one.probability, two.probability[::-1], atol=1e-5)
    assert np.abs(one.probability - alone.probability).max() > 1e-3
