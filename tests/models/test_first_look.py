"""The model that ships: what it marks on pairs of which the change is known, and what it is made of."""

import csv
import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import segdiff
from data_pipelines.decoding import read_mask
from data_pipelines.synthetic.drawing import draw_scene
from segdiff.cli import app
from segdiff.inference.export_model import export_model
from segdiff.inference.predictor import Detector
from segdiff.inference.runtimes import by_threes
from segdiff.model_files import UNSURE, ModelError, Settings, resolve_model
from segdiff.models.backbones import BackboneEncoder
from segdiff.models.loading import load_model
from segdiff.models.pretrained import load_imagenet

SIZE = 192


@pytest.fixture(scope="module")
def model():
    return load_model("first_look")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def detector(cache) -> Detector:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGDIFF_CACHE", str(cache))
        return segdiff.load("first_look")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """An aerial-like picture with room around it."""
    before, _, _ = draw_scene(SIZE + 8, np.random.default_rng((0, 3)))
    return before


def cut(image: np.ndarray, dy: int = 0, dx: int = 0) -> np.ndarray:
    return np.ascontiguousarray(image[4 + dy : 4 + dy + SIZE, 4 + dx : 4 + dx + SIZE])


def in_another_light(image: np.ndarray, gamma: float = 0.7, gain: float = 0.8, noise: float = 3.0) -> np.ndarray:
    lit = 255 * gain * (image / 255.0) ** gamma + np.random.default_rng(1).normal(0, noise, image.shape)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def with_building(image: np.ndarray) -> np.ndarray:
    changed = image.copy()
    cv2.rectangle(changed, (80, 60), (119, 89), (205, 190, 180), -1)
    cv2.rectangle(changed, (80, 60), (119, 74), (160, 90, 70), -1)
    return changed


def test_the_score_is_the_geometric_mean_of_six_differences(model):
    draw = np.random.default_rng(0)
    pair = [
        cv2.resize(draw.integers(0, 256, (12, 16, 3)).astype(np.float32), (64, 48))[None].astype(np.float32)
        for _ in range(2)
    ]
    found = keras.ops.convert_to_numpy(model(pair, training=False))[0, ..., 0]
    encoder = BackboneEncoder("efficientnet_lite_b0", 3, levels=4)
    load_imagenet(encoder)
    maps = [[keras.ops.convert_to_numpy(level)[0] for level in encoder(image, training=False)] for image in pair]

    def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.sqrt(((one - other) ** 2).mean(axis=-1))

    pixels = apart(pair[0][0], pair[1][0]) / 50
    terms = [mean_around(pixels, side) for side in (5, 17)]
    for level, typical in ((1, 8.5), (2, 7.3), (3, 6.0), (3, 6.0)):
        small = apart(maps[0][level], maps[1][level]).astype(np.float32) / typical
        terms.append(cv2.resize(small, (64, 48), interpolation=cv2.INTER_LINEAR))
    expected = np.mean([np.log(term + 0.02) for term in terms], axis=0)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def mean_around(image: np.ndarray, side: int) -> np.ndarray:
    """Over those of side x side pixels that there are."""
    filtered = [cv2.blur(one, (side, side), borderType=cv2.BORDER_CONSTANT) for one in (image, np.ones_like(image))]
    return filtered[0] / filtered[1]


def test_what_ships_says_that_its_score_is_relative_and_is_small(model):
    assert model.settings == Settings(tile=512, overlap=128, stride=16, relative=True)
    assert resolve_model("first_look").stat().st_size < 5e6


def test_the_same_image_has_no_change(detector, scene):
    result = detector.predict(cut(scene), cut(scene))
    assert not result.mask.any()
    assert result.confidence == 0


@pytest.mark.parametrize(("dy", "dx", "most"), [(0, 0, 0.001), (1, 1, 0.005), (2, -1, 0.04)])
def test_light_noise_and_a_pixel_or_two_of_misregistration_are_next_to_nothing(detector, scene, dy, dx, most):
    result = detector.predict(cut(scene), in_another_light(cut(scene, dy, dx)))
    assert result.mask.mean() <= most


def test_a_new_building_is_found_in_another_light_and_a_pixel_aside(detector, scene):
    result = detector.predict(cut(scene), in_another_light(with_building(cut(scene, 1, 0))))
    assert result.mask[60:90, 80:120].mean() > 0.9
    assert result.mask.sum() < 3 * 30 * 40
    assert result.confidence > 0.5


def test_of_two_places_and_of_noise_nothing_can_be_told(detector, scene):
    other, _, _ = draw_scene(SIZE, np.random.default_rng((0, 8)))
    noise = [np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8) for seed in range(2)]
    for pair in ((cut(scene), other), noise):
        assert detector.predict(*pair).confidence < UNSURE


@pytest.mark.parametrize("bands", [1, 4])
def test_any_number_of_bands_is_taken(detector, scene, bands):
    before, after = (
        np.concatenate([image] * 5, axis=2)[..., :bands]
        for image in (cut(scene), in_another_light(with_building(cut(scene))))
    )
    result = detector.predict(before, after)
    assert result.mask.shape == (SIZE, SIZE)
    assert result.mask[60:90, 80:120].mean() > 0.9
    assert result.confidence > 0.5


def test_bands_in_threes_give_what_three_bands_give(model):
    def network(batches):
        for before, after in batches:
            yield keras.ops.convert_to_numpy(keras.ops.sigmoid(model([before, after], training=False)))

    pair = [np.random.default_rng(seed).integers(0, 256, (1, 32, 32, 3), np.uint8) for seed in range(2)]
    (three,), (six,) = (
        list(by_threes(network)(iter([tuple(np.concatenate([image] * times, axis=-1) for image in pair)])))
        for times in (1, 2)
    )
    np.testing.assert_allclose(three, six, atol=1e-5)


def test_predict_writes_the_confidence_and_names_the_pairs_of_which_nothing_can_be_told(
    detector, cache, scene, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("SEGDIFF_CACHE", str(cache))  # where the detector has left the converted network
    for folder, image in (("A", cut(scene)), ("B", with_building(cut(scene)))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "built.png"), image)
        cv2.imwrite(str(tmp_path / folder / "same.png"), cut(scene))

    def predict(out: str, *more: str):
        files = [str(tmp_path / name) for name in ("A", "B")]
        return CliRunner().invoke(app, ["predict", "first_look", *files, "--out", str(tmp_path / out), *more])

    done = predict("out")
    assert done.exit_code == 0, done.output
    assert "of 1 pair nothing can be told, confidence below 0.25: same" in done.stdout
    with (tmp_path / "out" / "summary.csv").open() as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert float(rows["same"]["confidence"]) == 0
    assert float(rows["built"]["confidence"]) > 0.5
    assert float(rows["built"]["changed_fraction"]) > 0.02
    assert json.loads(predict("out", "--json").stdout)["unsure"] == ["same"]  # of pairs that are done already, too


def test_evaluate_names_the_pairs_of_which_nothing_can_be_told(detector, cache, scene, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SEGDIFF_CACHE", str(cache))
    truth = np.zeros((SIZE, SIZE), np.uint8)
    truth[60:90, 80:120] = 255
    for name, after, mask in (("built", with_building(cut(scene)), truth), ("same", cut(scene), np.zeros_like(truth))):
        for folder, image in (("A", cut(scene)), ("B", after), ("label", mask)):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "data" / folder / f"{name}.png"), image)
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["evaluate", "first_look", str(tmp_path / "data"), "--out", str(out), "--quiet"])
    assert said.exit_code == 0, said.output
    assert said.stdout.endswith("of 1 pair nothing can be told, confidence below 0.25: same\n")
    figures = json.loads((out / "metrics.json").read_text())
    assert (figures["unsure"], figures["unsure_count"]) == (["same"], 1)


def test_a_real_pair_of_six_bands(detector, shared: Path):
    data = shared / "data" / "landsat_taizhou"
    result = detector.predict(data / "A" / "taizhou.tif", data / "B" / "taizhou.tif")
    truth = read_mask(data / "label" / "taizhou.png")
    found, known = result.mask == 1, truth != 255
    right = (found & (truth == 1)).sum()
    assert 2 * right / ((found & known).sum() + (truth == 1).sum()) > 0.92  # 0.910 has the change vector
    assert result.confidence > 0.5


def test_it_is_not_exported(tmp_path: Path):
    with pytest.raises(ModelError, match=r"first_look\.keras: finds a threshold in each pair, which no other format"):
        export_model("first_look", tmp_path / "out", "onnx", "float32")
    assert not (tmp_path / "out").exists()
