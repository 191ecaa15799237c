"""The ready configuration of each published data set fits what `prepare` makes of it."""

import json
from pathlib import Path

import pytest

from data_pipelines.published.preparing import DATA_SETS, prepare
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


def test_thirteen_bands_train(tmp_path):
    config = configured(
        "oscd", tmp_path, "train.epochs=1", "train.crops_per_epoch=4", "train.batch=2", "model.encoder.channels=[4, 8]",
        "data.crop=32", "train.precision=float32", "inference.tile=32", "inference.overlap=8",
    )  # fmt: skip
    quiet_train(config, tmp_path / "run")
    model = load_model(tmp_path / "run/model.keras")
    assert [tensor.shape[-1] for tensor in model.inputs] == [13, 13]
    assert model.settings.ground_resolution == (10, 10)
