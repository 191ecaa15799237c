"""The Python of the README runs as it stands there."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from segdiff.config import Config

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
LIBRARY = [block for block in BLOCKS if "segdiff.models" in block or "model_a" in block or "branch_a" in block]


def test_the_blocks_on_models_are_found():
    assert len(LIBRARY) == 6


def test_the_blocks_on_models_run_one_after_the_other():
    image = np.zeros((1, 32, 48, 3), "uint8")
    names: dict = {"before": image, "after": image}
    shapes = []
    for block in LIBRARY:
        exec(block, names)
        shapes.append(keras.tree.map_structure(lambda x: x.shape, names["model"].output))
    assert names["logits"].shape == (1, 32, 48, 1)
    assert shapes[:5] == [(None, None, None, 1)] * 2 + [(None, 10)] * 2 + [(None, 3)]
    assert {name: shape[-1] for name, shape in shapes[5].items()} == {"before": 6, "after": 6, "change": 1}


def test_the_reshape_that_the_readme_warns_of_fails():
    block = next(block for block in LIBRARY if "layers.Flatten()" in block)
    names: dict = {}
    setup = next(block for block in LIBRARY if "softmax" in block)
    exec(setup, names)
    with pytest.raises(ValueError, match='padding="valid"'):
        exec(block.replace("layers.Flatten()", "layers.Reshape((64 * 64 * 3,))"), names)


def test_the_table_of_the_configuration_has_every_key_and_its_default():
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", README, flags=re.MULTILINE))
    left = Config().model_dump(mode="json")
    for key, default in rows.items():
        *sections, name = key.split(".")
        section = left
        for part in sections:
            section = section[part]
        assert json.loads(default) == section.pop(name), key
    assert not any(_leaves(left)), f"not in the table: {left}"


def _leaves(section: dict) -> list[str]:
    """The keys that are left in a section and in those below."""
    return [key for key, value in section.items() if not isinstance(value, dict) or _leaves(value)]
