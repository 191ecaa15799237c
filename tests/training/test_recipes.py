"""The ready configuration of each published data set fits what `prepare` makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data_pipelines.decoding import read_mask
from data_pipelines.layouts import find_pairs
from data_pipelines.published.preparing import DATA_SETS, prepare
from segdiff.cli import app
from segdiff.config import Config, load_config
from segdiff.models.loading import load_model
from segdiff.resources import shipped
from segdiff.training.trainer import read_data
from tests.data_pipelines.published.downloads import DRAW
from tests.training.test_trainer import quiet_train

RECIPES = [name for name in DATA_SETS if name != "deeppcb"]
METRES = {"levir_cd": None, "whu_cd": 0.2, "dsifn": None, "clcd": None, "oscd": 10.0, "air_change": 1.5}


def configured(name: str, folder: Path, *overrides: str) -> Config:
    DRAW[name](folder / "src")
    prepare(name, folder / "src", folder / "data")
    root = f"data.root={json.dumps(str(folder / 'data'))}"
    return load_config(shipped("configs") / f"{name}.yaml", [root, *overrides])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_what_was_prepared(name, tmp_path):
    config = configured(name, tmp_path)
    data = read_data(config, lambda line: None)
    used = [index for groups in (data.train, data.val) for group in groups for index in group]
    assert {data.pairs[index].pair.split for index in used} <= {"train", "val"}
    assert min(len(data.train[0]), len(data.val[0])) >= 1
    assert len(data.classes) == 2
    assert data.ground_resolution == (METRES[name] and (METRES[name],) * 2)
    text = (shipped("configs") / f"{name}.yaml").read_text()
    for command in (
        f"segdiff prepare {name} SRC DATA",
        f"segdiff train {name} --set data.root=DATA" + " --set data.ground_resolution=0.5" * (name == "levir_cd"),
        f"segdiff evaluate runs/{name} DATA --split test",
    ):
        assert f"#   {command}\n" in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_is_evaluated_on_the_published_test_split(name, tmp_path):
    """With little of everything: a network of a few channels, where the recipe has one of its own."""
    small = ["inference.tta=none"] if name == "air_change" else ["model.encoder.channels=[4, 8]"]
    config = configured(
        name, tmp_path, *small, "train.epochs=1", "train.crops_per_epoch=4", "train.batch=2", "data.crop=32",
        "train.precision=float32",
    )  # fmt: skip
    quiet_train(config, tmp_path / "run")
    model = load_model(tmp_path / "run/model.keras")
    assert [tensor.shape[-1] for tensor in model.inputs] == [13 if name == "oscd" else 3] * 2
    assert model.settings.ground_resolution == (METRES[name] and (METRES[name],) * 2)
    ran = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "run"), str(tmp_path / "data"), "--split", "test", "--json"]
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    scores = json.loads(ran.stdout)
    listed = [pair for pair in find_pairs(tmp_path / "data").pairs if pair.split == "test"]
    assert scores["pairs"] == len(listed) > 0
    masks = [read_mask(pair.mask) for pair in listed]
    assert np.sum(scores["confusion"]) == sum(mask.size for mask in masks)
