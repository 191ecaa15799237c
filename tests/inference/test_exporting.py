"""Exported models against the Keras model that they were made of."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import segdiff
from data_pipelines.layouts import find_pairs
from data_pipelines.synthetic.writing import write_scenes
from data_pipelines.validation import check
from segdiff.config import EncoderConfig, ModelConfig
from segdiff.inference import export_model as exporting
from segdiff.inference import exporting as writing
from segdiff.inference.comparing import (
    Comparison,
    ExportError,
    compare,
    drawn_pairs,
    require_close,
    spread,
)
from segdiff.inference.export_model import calibration_tiles, export_model
from segdiff.inference.formats import PRECISIONS, RUNTIMES, choose_export
from segdiff.inference.manifest import digest, read_manifest
from segdiff.inference.predictor import Detector
from segdiff.inference.runtimes import Network, open_network
from segdiff.inference.saved_model import OPERATIONS
from segdiff.model_files import ModelError, ObjectOptions, Settings
from segdiff.models.architectures import build_change_detector
from segdiff.models.encoders import ENCODERS
from segdiff.models.loading import load_model

PACKAGES = {"onnx": ("onnx", "tf2onnx"), "int8": ("nncf",)}
FLOATS = [(kind, precision) for kind, kinds in PRECISIONS.items() for precision in kinds if precision != "int8"]


def require_packages(kind: str) -> None:
    for package in PACKAGES.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install '.[export,int8]')")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Three classes, a threshold of its own, and probabilities that lie apart from it."""
    keras.utils.set_random_seed(3)
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8))), bands=3, classes=3)
    kernel, _ = model.get_layer("logits_conv").get_weights()
    model.get_layer("logits_conv").set_weights([kernel, np.array([0, 2, 0.5])])
    model.settings = Settings(("none", "new", "gone"), threshold=0.6, tile=64, overlap=16, stride=model.settings.stride)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("pairs") / "data"
    write_scenes(data, 3, 64, 5)
    return data


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(height)
    return tuple(generator.integers(0, 256, (height, width, 3), np.uint8) for _ in range(2))


@pytest.fixture(scope="module")
def original(saved) -> Detector:
    return segdiff.load(saved, runtime="tensorflow", precision="float32")


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """Exports once: exported(kind, precision) -> folder. Nothing but it may be left beside it."""
    made: dict[tuple[str, str], Path] = {}

    def export(kind: str, precision: str) -> Path:
        if (kind, precision) not in made:
            require_packages(kind)
            parent = tmp_path_factory.mktemp("exported")
            export_model(saved, parent / "out", kind, precision)
            assert [path.name for path in parent.iterdir()] == ["out"]
            made[kind, precision] = parent / "out"
        return made[kind, precision]

    return export


@pytest.mark.parametrize(("kind", "precision"), FLOATS)
def test_an_exported_model_predicts_what_the_model_predicts(saved, original, exported, kind, precision):
    folder = exported(kind, precision)
    manifest = read_manifest(folder / "manifest.json")
    assert (manifest.format, manifest.precision, manifest.model_sha256) == (kind, precision, digest(saved))
    assert manifest.settings == original.settings
    assert (manifest.bands, manifest.outputs) == ((3, 3), 3)
    assert manifest.checked is not None
    assert (manifest.checked["pairs"], manifest.checked["f1"]) == (8, None)
    assert manifest.checked["equal_masks"] >= 0.999
    assert "0..255" in json.loads((folder / "manifest.json").read_text())["input"]
    found = segdiff.load(folder, precision="float32" if RUNTIMES[kind] == "openvino" else "auto")
    for height, width in ((64, 64), (31, 70), (100, 70)):
        before, after = images(height, width)
        one, other = found.predict(before, after), original.predict(before, after)
        assert one.probability.shape == (height, width, 3)
        if manifest.tile is None or min(height, width) >= 64:
            atol = 1e-5 if precision == "float32" else 0.02
            np.testing.assert_allclose(one.probability, other.probability, atol=atol)


@pytest.mark.parametrize("kind", ["d4", "multiscale"])
def test_an_exported_model_turns_of_itself_what_the_model_turns(saved, tmp_path, kind):
    model = load_model(saved)
    objects = ObjectOptions(join=9, pad=8)
    model.settings = replace(model.settings, mask_offset=(2, -1), test_time_augmentation=kind, objects=objects)
    model.save(tmp_path / "turning.keras")
    export_model(tmp_path / "turning.keras", tmp_path / "out", "openvino", "float32")
    file = tmp_path / "out" / "manifest.json"
    manifest = read_manifest(file)
    assert manifest.settings == replace(model.settings, reach=manifest.settings.reach)
    own, exported = (
        segdiff.load(model, precision="float32").predict(*images(40, 56)).probability
        for model in (tmp_path / "turning.keras", tmp_path / "out")
    )
    np.testing.assert_allclose(exported, own, atol=1e-5)
    plain = segdiff.load(saved, precision="float32").predict(*images(40, 56)).probability
    assert np.abs(exported - plain).max() > 1e-3

    if kind == "multiscale":  # of which TFLite, with tiles of one size, has no other scales
        export_model(tmp_path / "turning.keras", tmp_path / "tflite", "tflite", "float32")
        assert segdiff.load(tmp_path / "tflite").test_time_augmentation == "d4"
    older = json.loads(file.read_text())
    for name in ("mask_offset", "test_time_augmentation", "objects"):
        del older["settings"][name]
    file.write_text(json.dumps(older))
    found = segdiff.load(tmp_path / "out", precision="float32")
    assert (found.settings.mask_offset, found.test_time_augmentation) == ((0, 0), "none")
    np.testing.assert_allclose(found.predict(*images(40, 56)).probability, plain, atol=1e-5)


def test_an_image_smaller_than_a_fixed_tile_is_mirrored(saved, original, exported):
    folder = exported("tflite", "float32")
    found = segdiff.load(folder)
    before, after = images(10, 33)
    filled = [np.pad(image, ((0, 54), (0, 31), (0, 0)), "symmetric") for image in (before, after)]
    small = found.predict(before, after)
    expected = original.predict(*filled).probability[:10, :33]
    np.testing.assert_allclose(small.probability, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"tile is 128, and .*out was exported for tiles of 64 alone"):
        found.predict(before, after, tile=128)
    both = segdiff.load(saved, precision="float32", ensemble=[folder])
    np.testing.assert_allclose(both.predict(before, after).probability, expected, atol=1e-5)


@pytest.mark.filterwarnings("error:.*Interpreter is deprecated")
@pytest.mark.parametrize("kind", ["openvino", "tflite"])
def test_int8_is_calibrated_on_the_data_and_says_its_price(saved, pairs, tmp_path, kind):
    require_packages("int8" if kind == "openvino" else kind)
    binary, progress = build_binary(tmp_path / "binary.keras"), []
    manifest = export_model(
        binary, tmp_path / "out", kind, "int8", data=check(find_pairs(pairs)), on_progress=lambda *x: progress.append(x)
    )
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert manifest.checked is not None
    assert manifest.checked["pairs"] == 3
    assert 0 < manifest.checked["f1_model"] <= manifest.checked["f1"] + 0.005
    assert 1e-4 < manifest.checked["largest_difference"] < 0.2, "of floats it would be less"
    assert read_manifest(tmp_path / "out" / "manifest.json") == manifest
    found = segdiff.load(tmp_path / "out").predict(*images(64, 64)).probability
    assert found.shape == (64, 64)
    again = segdiff.load(tmp_path / "out", precision="int8").predict(*images(64, 64)).probability
    np.testing.assert_array_equal(again, found)
    with pytest.raises(ModelError, match=r"int8 has to be calibrated .*segdiff export .*--precision int8 --data"):
        segdiff.load(binary, precision="int8")
    with pytest.raises(ValueError, match="int8 is calibrated on data"):
        export_model(binary, tmp_path / "none", kind, "int8")


def build_binary(path: Path) -> Path:
    """One logit of change, so far above the threshold that 8 bits do not reach it."""
    keras.utils.set_random_seed(5)
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8))), bands=3, classes=1)
    kernel, bias = model.get_layer("logits_conv").get_weights()
    model.get_layer("logits_conv").set_weights([kernel, bias + 3])
    model.settings = Settings(threshold=0.5, tile=32, overlap=8, stride=model.settings.stride)
    model.save(path)
    return path


def test_what_differs_too_much_leaves_nothing(saved, tmp_path, monkeypatch):
    written = exporting.write_network

    def other_weights(network, *arguments):
        other = keras.models.clone_model(network)
        other.settings = network.settings
        return written(other, *arguments)

    monkeypatch.setattr(exporting, "write_network", other_weights)
    with pytest.raises(ExportError, match=r"not written: in float32 its masks agree with the model's on \d\d?\.\d+%"):
        export_model(saved, tmp_path / "out", "openvino", "float32")
    assert list(tmp_path.iterdir()) == []


def result(**changed) -> Comparison:
    return Comparison(**{"on": "9 pairs", "pairs": 9, "largest_difference": 0.1, "equal_masks": 1.0, **changed})


def test_how_much_is_too_much():
    require_close(result(equal_masks=0.999), "float16")
    with pytest.raises(ExportError, match=r"99.890% of the pixels of 9 pairs, 99.9% are needed"):
        require_close(result(equal_masks=0.9989), "float16")
    require_close(result(equal_masks=0.99), "int8")
    with pytest.raises(ExportError, match=r"99.0% are needed"):
        require_close(result(equal_masks=0.989), "int8")
    require_close(result(f1_model=0.9, f1=0.8951), "int8")
    require_close(result(f1_model=0.9, f1=0.95), "int8")
    with pytest.raises(ExportError, match=r"F1 on 9 pairs falls from 0.9000 to 0.8949 in int8, 0.005 is allowed"):
        require_close(result(f1_model=0.9, f1=0.8949), "int8")


def constant(value: float, first_row: float) -> Detector:
    def run(batches):
        for before, _ in batches:
            probability = np.full((*before.shape[:3], 1), value, np.float32)
            probability[:, 0] = first_row
            yield probability

    return Detector(Network(run, Settings(tile=8, overlap=0), (3, 3), Path("m.keras"), ""))


def test_a_comparison_counts_pixels():
    """Of 4 x 8 pixels the first row of 8 is above the threshold in one network alone, and half of it is true."""
    (pair, *_) = drawn_pairs((3, 3))
    pair = type(pair)(pair.before[:4, :8], pair.after[:4, :8])
    truth = np.zeros((4, 8), np.uint8)
    truth[0, :4] = 1
    seen: list[int] = []
    found = compare(constant(0.4, 0.7), constant(0.4, 0.45), [(pair, truth), (pair, None)], "two", seen.append)
    assert (found.pairs, seen) == (2, [1, 2])
    assert found.largest_difference == pytest.approx(0.25)
    assert found.equal_masks == 0.75
    assert found.f1_model == pytest.approx(2 * 4 / (8 + 4))
    assert found.f1 == 0
    assert compare(constant(0.4, 0.7), constant(0.4, np.nan), [(pair, None)], "nan").largest_difference == 1.0


def test_pairs_are_drawn_in_the_bands_of_the_model():
    first, again = (next(drawn_pairs(bands)) for bands in ((1, 5), (3, 3)))
    assert (first.before.shape, first.after.shape) == ((256, 256, 1), (256, 256, 5))
    np.testing.assert_array_equal(first.after[..., 3:], again.after[..., :2])


def test_items_are_spread():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread([], 4) == []


def test_tiles_for_calibration_are_those_of_the_prediction(pairs):
    seen: list[bytes] = []

    def run(batches):
        for before, after in batches:
            seen.extend(one.tobytes() + other.tobytes() for one, other in zip(before, after, strict=True))
            yield np.zeros((*before.shape[:3], 1), np.float32)

    detector = Detector(Network(run, Settings(tile=32, overlap=8, stride=4), (3, 3), Path("m.keras"), ""))
    listed = find_pairs(pairs).pairs
    for pair in listed:
        detector.predict(pair.before, pair.after)
    every = [before.tobytes() + after.tobytes() for before, after in calibration_tiles(detector, listed)]
    assert every == seen
    assert len(every) == 27
    few = [before.tobytes() + after.tobytes() for before, after in calibration_tiles(detector, listed, 7)]
    assert len(few) == 7
    assert set(few) <= set(seen)


def test_precisions_are_those_that_a_format_has():
    assert choose_export("tflite", None) == "float16"
    assert choose_export("openvino", None) == "float32"
    with pytest.raises(ModelError, match="--precision int8: savedmodel is written in float32"):
        choose_export("savedmodel", "int8")


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="--format onnx in float32 needs onnx and tf2onnx: pip install onnx tf2onnx"):
        choose_export("onnx", None)
    with pytest.raises(ModelError, match="--format openvino in int8 needs nncf: pip install nncf"):
        choose_export("openvino", "int8")


# ---------------------------------------------------------------------------------------- what a file may not do


@pytest.fixture
def manifest_for(saved, tmp_path):
    """Makes tmp_path an exported folder of a network file that is there already."""

    def write(kind: str, file: str) -> None:
        values = {
            "format": kind, "file": file, "bands": [3, 3], "outputs": 1, "model_sha256": "",
            "settings": {"classes": ["background", "change"], "threshold": 0.5, "tile": 32, "overlap": 8, "stride": 4},
        }  # fmt: skip
        (tmp_path / "manifest.json").write_text(json.dumps(values))

    return write


def test_a_saved_model_that_would_write_a_file_is_not_run(manifest_for, tmp_path):
    import tensorflow as tf

    victim = tmp_path / "victim.txt"

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name=n) for n in ("before", "after")])
    def evil(before, after):
        tf.io.write_file(str(victim), "here")
        return {"probability": tf.cast(before[..., :1], tf.float32) / 255}

    tf.saved_model.save(tf.Module(), str(tmp_path), signatures=evil.get_concrete_function())
    manifest_for("savedmodel", "saved_model.pb")
    with pytest.raises(ModelError, match=r"saved_model.pb: holds the operation WriteFile"):
        open_network(tmp_path)
    assert not victim.exists()


SMALL = {"channels": (4, 8, 8)}
FULL = {"decoder": {"attention": True, "squeeze_excite": True}, "shared_encoder": False}
NETWORKS: list[dict] = [
    {"encoder": {**SMALL, "norm": "group", "dropout": 0.2}, "align": "crop_resize", "difference": "normalized", **FULL},
    {"architecture": "fc_ef"},
    {"encoder": {"name": "mit_b0", "levels": 2}},
]
MORE_NETWORKS = [
    {"encoder": SMALL, "difference": "absolute", "decoder": {"name": "mlp"}},
    {"encoder": SMALL, "difference": "squared", "decoder": {"name": "fpn", "upsampling": "bilinear"}},
    *({"encoder": {"name": name}, "decoder": {"name": "mlp"}} for name in ENCODERS),
    *({"encoder": {**SMALL, "norm": norm}, "difference": "signed"} for norm in ("batch", "local", "none")),
    *({"encoder": SMALL, "align": mode, "shared_encoder": False} for mode in ("crop", "resize")),
    {"encoder": SMALL, "decoder": {"upsampling": "bilinear"}},
    {"architecture": "fc_siam_conc"},
    {"architecture": "fc_siam_diff"},
]


def operations_of(config: dict) -> set[str]:
    """Of the graph that is exported."""
    keras.backend.clear_session()
    model = build_change_detector(ModelConfig.model_validate(config), classes=2)
    graph = writing._frozen(model).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}


@pytest.mark.parametrize("config", NETWORKS)
def test_a_saved_model_of_every_kind_of_network_may_run(config):
    assert operations_of(config) <= OPERATIONS


@pytest.mark.slow
def test_no_operation_is_allowed_that_no_network_needs():
    needed = set().union(*(operations_of(config) for config in [*NETWORKS, *MORE_NETWORKS]))
    assert needed == OPERATIONS - {"PartitionedCall", "StatefulPartitionedCall"}


def test_what_the_probability_does_not_depend_on_is_not_even_read(exported):
    """A SavedModel always holds operations that write and read checkpoints."""
    folder = exported("savedmodel", "float32")
    assert b"SaveV2" in (folder / "saved_model.pb").read_bytes()
    first, second = (open_network(folder) for _ in range(2))
    batch = tuple(image[None] for image in images(64, 64))
    np.testing.assert_array_equal(*(next(iter(network.run([batch]))) for network in (first, second)))


def test_a_tflite_network_of_tensorflow_operations_is_not_run(manifest_for, tmp_path):
    import tensorflow as tf

    victim = tmp_path / "victim.txt"

    @tf.function(input_signature=[tf.TensorSpec([1, 32, 32, 3], tf.uint8, name=name) for name in ("before", "after")])
    def evil(before, after):
        tf.io.write_file(str(victim), "here")
        return {"probability": tf.cast(before[..., :1], tf.float32) / 255}

    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), signatures=evil.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    manifest_for("tflite", "model.tflite")
    with pytest.raises(ModelError, match=r"model.tflite: holds the operation 'FlexWriteFile'"):
        open_network(tmp_path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("kind", "file"),
    [("savedmodel", "saved_model.pb"), ("tflite", "model.tflite"), ("openvino", "model.xml"), ("onnx", "model.onnx")],
)
@pytest.mark.parametrize("content", [None, b"", b"this is no network at all"])
def test_a_broken_network_is_one_line(manifest_for, tmp_path, kind, file, content):
    manifest_for(kind, file)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=rf"^.*{file}: is no [^\n]*$"):
        open_network(tmp_path)


@pytest.mark.parametrize(("kind", "file"), [("pickle", "model.pkl"), ("openvino", "../model.xml")])
def test_a_manifest_names_a_known_format_and_a_file_beside_it(manifest_for, tmp_path, kind, file):
    manifest_for(kind, file)
    with pytest.raises(ModelError, match="is no manifest of an exported model"):
        open_network(tmp_path)


def test_a_precision_that_was_not_exported_is_refused(exported):
    folder = exported("savedmodel", "float32")
    with pytest.raises(ModelError, match="is exported in float32, --precision is bfloat16; leave it out"):
        open_network(folder, precision="bfloat16")
    with pytest.raises(ModelError, match="is exported for savedmodel, --runtime is openvino; leave it out"):
        open_network(folder, "openvino")
