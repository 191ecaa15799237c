"""Every released checkpoint loads, is small, and has a card that speaks of this very file."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import segdiff
from segdiff import released
from segdiff.cli import app
from segdiff.config import load_config
from segdiff.inference.runtimes import open_network
from segdiff.model_files import ModelError, ObjectOptions, read_settings
from segdiff.resources import shipped

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


@pytest.mark.parametrize("model", released.released_models(), ids=lambda model: model.name)
def test_checkpoint_has_its_card_and_predicts(model: released.ReleasedModel):
    assert model.size == model.file.stat().st_size < 25e6
    detector = segdiff.load(model.name)
    assert detector.path == model.file
    assert detector.bands == (model.bands or detector.bands)
    assert detector.settings.classes == model.settings.classes
    image = np.full((96, 80, detector.bands or 3), 200, np.uint8)
    assert not detector.predict(image, image).mask.any()


def test_first_look_marks_the_same_whatever_the_processor():
    """Its threshold comes from the pair, and bfloat16, which some processors would take, moves it."""
    assert open_network("first_look", "openvino").runtime == "OpenVINO in float32"


def test_deeppcb_binary_finds_the_defects_of_a_real_board(shared: Path):
    data = shared / "data" / "deeppcb" / "train"
    detector = segdiff.load("deeppcb_binary")
    name = "00041000"
    result = detector.predict(data / "A" / f"{name}.jpg", data / "B" / f"{name}.jpg")
    boxes = [line.split(",")[:4] for line in (data / "boxes" / f"{name}.csv").read_text().splitlines()[1:]]
    for x1, y1, x2, y2 in (map(int, box) for box in boxes):
        assert result.mask[y1:y2, x1:x2].any()
    assert 0.0005 < result.mask.mean() < 0.02


def test_deeppcb_finds_each_defect_of_a_real_board_by_its_kind(shared: Path):
    data = shared / "data" / "deeppcb" / "train"
    detector = segdiff.load("deeppcb")
    name = "00041000"
    result = detector.predict(data / "A" / f"{name}.jpg", data / "B" / f"{name}.jpg")
    for line in (data / "boxes" / f"{name}.csv").read_text().splitlines()[1:]:
        *corners, kind = line.split(",")
        x1, y1, x2, y2 = map(int, corners)
        counts = np.bincount(result.mask[y1:y2, x1:x2].ravel(), minlength=7)[1:]
        assert detector.settings.classes[1 + int(counts.argmax())] == kind
        assert counts.max() > 0


def test_objects_of_boards_are_by_default_those_that_the_data_are_scored_by():
    for name, join, score in (("deeppcb", 7, 0.65), ("deeppcb_binary", 9, 0.0)):
        scored = ObjectOptions(iou=0.33, join=join, pad=8, minimum_area=12, minimum_score=score)
        recipe = load_config(shipped("configs") / f"{name}.yaml")
        assert read_settings(CHECKPOINTS / f"{name}.keras").objects == scored
        assert ObjectOptions(**recipe.inference.objects.model_dump()) == scored


def test_aerial_finds_the_new_buildings_of_a_real_tile_at_half_a_metre_a_fifth_and_a_whole(shared: Path):
    """Of which the others are the first, enlarged and shrunk: they are brought to what the model knows."""
    data, side = shared / "data" / "levir_cd_native" / "val", slice(0, 512)
    before, after = (cv2.imread(str(data / part / "val_001.jpg"))[side, side, ::-1] for part in ("A", "B"))
    truth = cv2.imread(str(data / "label" / "val_001.png"), 0)[side, side] > 127
    detector = segdiff.load("aerial")

    def f1(mask: np.ndarray) -> float:
        return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())

    assert f1(detector.predict(before, after, resolution=0.5).mask > 0) > 0.85
    enlarged = [cv2.resize(image, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC) for image in (before, after)]
    fine = detector.predict(*enlarged, resolution=0.2).mask
    assert f1(cv2.resize(fine, (512, 512), interpolation=cv2.INTER_NEAREST_EXACT) > 0) > 0.85
    shrunk = [cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA) for image in (before, after)]
    coarse = [detector.predict(*shrunk, resolution=metres).mask for metres in (1, None)]
    known, unknown = (f1(cv2.resize(mask, (512, 512), interpolation=cv2.INTER_NEAREST_EXACT) > 0) for mask in coarse)
    assert known > max(0.83, unknown)


def test_air_change_finds_fields_that_were_planted_where_aerial_sees_no_building(shared: Path):
    """On a strip that it was trained on, for there is no other."""
    data = shared / "data" / "air_change"
    before, after, label = (data / part / "tiszadob_3_right.png" for part in ("A", "B", "label"))
    truth = cv2.imread(str(label), 0) > 127
    found, buildings = (
        segdiff.load(name).predict(before, after, resolution=1.5).mask for name in ("air_change", "aerial")
    )
    assert 2 * (found.astype(bool) & truth).sum() / (found.sum() + truth.sum()) > 0.85
    assert (buildings.astype(bool) & truth).sum() < 0.2 * truth.sum()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a release with one model, and its card."""
    for file in CHECKPOINTS.glob("deeppcb_binary.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(released, "shipped", lambda folder: tmp_path)
    return tmp_path / "deeppcb_binary.md"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("7111c251", "7111c250", "speaks of another file than deeppcb_binary.keras, whose sha256 is 7111c251"),
        ("# deeppcb_binary: ", "# ", "its first line must be '# deeppcb_binary: '"),
        ("| in short |", "| short |", "lacks the row 'in short'"),
    ],
)
def test_a_card_that_does_not_fit_its_model_is_named(copied: Path, old, new, said):
    copied.write_text(copied.read_text().replace(old, new))
    with pytest.raises(ModelError, match=r"deeppcb_binary\.md: .*" + said):
        released.released_models()


def test_a_model_without_card_is_named(copied: Path):
    copied.unlink()
    with pytest.raises(ModelError, match=r"deeppcb_binary\.keras: has no card deeppcb_binary\.md"):
        released.released_models()


def test_models_lists_each_with_its_evidence():
    shown = CliRunner().invoke(app, ["models"]).output
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).output)["models"]
    assert [entry["name"] for entry in listed] == sorted(file.stem for file in CHECKPOINTS.glob("*.keras"))
    for entry in listed:
        assert f"{entry['name']}: {entry['summary']}" in shown
        assert entry["in_short"] in shown.replace("\n", " ")
        assert Path(entry["card"]).is_file()
        assert entry["sha256"][:12] in shown
