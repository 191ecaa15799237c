"""The pool of actors: on a real cluster whose nodes die, and on one that is written here, for what is rare."""

import csv
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from data_pipelines.pair_index import PairIndex
from segdiff.config import EncoderConfig, ModelConfig
from segdiff.inference.folder import Job, PredictionFolder
from segdiff.inference.folder_run import DetectorPlan, LocalEngine, Tally, fill_folder
from segdiff.models.architectures import build_change_detector
from segdiff.training.callbacks import save_detector
from segdiff.visualization.overlays import overlay, write_image


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    keras.utils.set_random_seed(5)
    config = ModelConfig(encoder=EncoderConfig(channels=(4, 8), norm="none"))
    detector = build_change_detector(config, bands=3, classes=1)
    detector.settings = replace(detector.settings, tile=64, overlap=16)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_detector(detector, path)
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for folder in ("vor", "nach"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            small = random.integers(0, 256, (6, 8, 3), np.uint8)
            image = small.repeat(8, axis=0).repeat(8, axis=1)
            Image.fromarray(image).save(tmp_path / folder / f"tile {number:02d}.png")
    (tmp_path / "nach" / "tile 07.png").write_bytes(b"broken")
    (tmp_path / "vor" / "tile 08.png").unlink()
    return tmp_path


def predict_here(model: Path, images: Path, out: Path) -> Tally:
    """By the engine of this process."""
    options = {"threshold": None, "tile": None, "overlap": None, "resolution": None}
    engine = LocalEngine(DetectorPlan(str(model), "openvino", options=options).load(), options)
    with PairIndex(images / "vor", images / "nach") as index:
        folder = PredictionFolder(
            out, Job(model, {}, {}), classes=engine.settings.classes, draw=overlay, write_image=write_image
        )
        with folder:
            return fill_folder(
                folder, index, engine, on_progress=lambda done, of: None, on_failure=lambda problem: None
            )


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    by_name = {row.pop("name"): row for row in rows}
    assert len(by_name) == len(rows), "each pair once"
    for row in rows:
        row.pop("seconds")
    return by_name


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'segdiff[ray]'")
def test_a_node_that_dies_in_mid_run_loses_and_doubles_nothing(model, images, tmp_path):
    here, there, signals = tmp_path / "here", tmp_path / "there", tmp_path / "signals"
    signals.mkdir()
    alone = predict_here(model, images, here)
    call = ("predict", model, images / "vor", images / "nach", "--out", there, "--runtime", "openvino", "--json")
    command = [sys.executable, Path(__file__).with_name("ray_job.py"), signals, *call]
    together = subprocess.run(
        [*map(str, command), "--engine", "ray", "--cpus-per-actor", "1"], capture_output=True, text=True, timeout=300
    )
    assert together.returncode == 3, together.stderr
    assert "a worker died" in together.stderr
    assert "state-dump" not in together.stderr, "what Ray prints is for developers"
    assert len(list(signals.iterdir())) == 3, "the node died while both actors were in the middle of a pair"
    told = json.loads(together.stdout)
    assert (told["predicted"], told["failed"]) == (alone.predicted, alone.errors)
    assert (alone.predicted, set(alone.errors)) == (38, {"tile 07", "tile 08"})
    assert rows_of(there) == rows_of(here)
    for folder in ("masks", "overlays"):
        files = {path.name: path.read_bytes() for path in (here / folder).iterdir()}
        assert len(files) == 38
        assert {path.name: path.read_bytes() for path in (there / folder).iterdir()} == files
    features = [json.loads((out / "objects.geojson").read_text())["features"] for out in (here, there)]
    assert len(features[0]) == sum(int(row["objects"] or 0) for row in rows_of(here).values()) > 100
    ordered = [sorted(map(json.dumps, some)) for some in features]
    assert ordered[0] == ordered[1]
    assert {path.name for path in there.iterdir()} == {
        "masks", "overlays", "objects.geojson", "summary.csv", "prediction.json"
    }  # fmt: skip
