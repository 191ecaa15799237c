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

from segdiff.config import EncoderConfig, ModelConfig
from segdiff.models.architectures import build_change_detector
from segdiff.training.callbacks import save_detector


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


def predict(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300)


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
    call = ("predict", model, images / "vor", images / "nach", "--runtime", "openvino", "--json")
    alone = predict("-m", "segdiff", *call, "--out", here)
    assert alone.returncode == 3, alone.stderr
    ray = ("--engine", "ray", "--cpus-per-actor", 1)
    together = predict(Path(__file__).with_name("ray_job.py"), signals, *call, "--out", there, *ray)
    assert together.returncode == 3, together.stderr
    assert "a worker died" in together.stderr
    assert len(list(signals.iterdir())) == 3, "the node died while both actors were in the middle of a pair"
    told = json.loads(together.stdout)
    assert {**told, "out": None} == {**json.loads(alone.stdout), "out": None}
    assert (told["predicted"], set(told["failed"])) == (38, {"tile 07", "tile 08"})
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
