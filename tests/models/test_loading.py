import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from segdiff.config import EncoderConfig, ModelConfig
from segdiff.model_files import ModelError, Settings, read_settings, resolve_model
from segdiff.models.architectures import build_change_detector
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.loading import load_model
from segdiff.resources import shipped


@pytest.fixture(scope="module")
def model() -> ChangeDetector:
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8))), bands=1)
    model.settings = Settings(threshold=0.75, stride=2)
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path


def forged(saved: Path, target: Path, change) -> Path:
    """A copy of the file whose configuration went through ``change``."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            copy.writestr(name, content)
    return target


def layer_named(config: dict, name: str) -> dict:
    return next(layer for layer in config["config"]["layers"] if layer["name"] == name)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_files_and_run_folders_are_found(saved):
    assert resolve_model(saved) == saved
    assert resolve_model(str(saved)) == saved
    assert resolve_model(saved.parent) == saved


def test_shipped_models_are_found_by_name():
    for file in shipped("checkpoints").glob("*.keras"):
        assert resolve_model(file.stem) == file


def test_what_is_nowhere_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(
        ModelError, match=r"deepcb: there is no such file, run folder.* or shipped model \(.*shipped.*mean deeppcb\?"
    ):
        resolve_model("deepcb")
    with pytest.raises(ModelError, match=r"holds no model\.keras, so it is no run folder"):
        resolve_model(tmp_path)
    with pytest.raises(ModelError, match="there is no such file"):
        resolve_model(tmp_path / "gone.keras")
    with pytest.raises(ModelError, match="there is no such file"):
        resolve_model("../checkpoints/x")


def test_a_model_comes_back_with_its_weights_and_settings(model, saved):
    loaded = load_model(saved.parent)
    assert isinstance(loaded, ChangeDetector)
    assert loaded.settings == model.settings
    pair = [np.random.default_rng(seed).uniform(0, 255, (1, 5, 7, 1)).astype(np.float32) for seed in (0, 1)]
    np.testing.assert_allclose(loaded(pair), model(pair), atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a zip at all", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_zip_is_refused(tmp_path, content):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert "is not a .keras model file" in refusal(path)


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe\x00broken", b"[1]", b"null"])
def test_a_zip_without_a_configuration_is_refused(tmp_path, content):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "x")
        if content is not None:
            archive.writestr("config.json", content)
    refusal(path)


def test_a_file_cut_off_or_damaged_is_refused(tmp_path, saved):
    whole = saved.read_bytes()
    cut = tmp_path / "cut.keras"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "broken" in refusal(cut)
    with zipfile.ZipFile(saved) as archive:
        start = archive.getinfo("config.json").header_offset
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(whole[: start + 200] + bytes(100) + whole[start + 300 :])
    assert "broken" in refusal(damaged)


def test_a_file_without_its_weights_is_refused(tmp_path, saved):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            if not name.endswith(".h5"):
                copy.writestr(name, source.read(name))
    assert "cannot be loaded" in refusal(path)


def test_a_plain_keras_model_is_refused(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save(tmp_path / "plain.keras")
    assert "is a Keras model, but no segdiff change detector" in refusal(tmp_path / "plain.keras")


def test_a_configuration_that_names_foreign_code_is_refused_before_it_is_imported(tmp_path, saved, monkeypatch):
    (tmp_path / "evil_segdiff_test.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def change(config):
        layer_named(config, "logits_conv").update(
            {"module": "evil_segdiff_test", "class_name": "Layer", "registered_name": "evil>Layer"}
        )

    message = refusal(forged(saved, tmp_path / "evil.keras", change))
    assert "names code of 'evil_segdiff_test'; only Keras and segdiff layers are loaded" in message


@pytest.mark.parametrize("module", ["os", "builtins", "kerasx.layers", "tensorflow"])
def test_foreign_code_deep_inside_is_found(tmp_path, saved, module):
    def change(config):
        encoder = layer_named(config, "encoder")["config"]["layers"]
        initializer = next(layer for layer in encoder if layer["class_name"] == "Conv2D")["config"]
        initializer["kernel_initializer"] = {"module": module, "class_name": "function", "config": "system"}

    assert f"names code of '{module}'" in refusal(forged(saved, tmp_path / "deep.keras", change))


def test_a_lambda_layer_is_refused_with_its_code_unread(tmp_path, model):
    before, after = keras.Input((None, None, 1)), keras.Input((None, None, 1))
    difference = keras.layers.Lambda(lambda pair: pair[0] - pair[1], output_shape=(None, None, 1))([before, after])
    ChangeDetector([before, after], difference).save(tmp_path / "lambda.keras")
    assert "cannot be loaded" in refusal(tmp_path / "lambda.keras")


@pytest.mark.parametrize(
    ("name", "value"), [("colour", "red"), ("threshold", "abc"), ("threshold", 1.5), ("tile", -5), ("overlap", "64")]
)
def test_settings_that_do_not_fit_are_refused(tmp_path, saved, name, value):
    def change(config):
        config["config"]["settings"][name] = value

    path = forged(saved, tmp_path / "odd.keras", change)
    assert "cannot be loaded" in refusal(path)
    with pytest.raises(ModelError, match=rf"odd\.keras: its settings are broken .*{name}.*; save it again"):
        read_settings(path)


def test_an_untouched_copy_loads(tmp_path, saved):
    assert load_model(forged(saved, tmp_path / "copy.keras", lambda config: None)).settings.threshold == 0.75
