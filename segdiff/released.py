"""The models that travel with segdiff, and what their cards say of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdiff.model_files import ModelError, Settings, read_model_config, read_settings
from segdiff.resources import shipped

HASH_SHOWN = 12
"""Hexadecimal digits of a file's hash that tell it from others well enough for a table."""


@dataclass(frozen=True)
class ReleasedModel:
    """A checkpoint and its card."""

    name: str
    """What MODEL is called in every command."""
    summary: str
    """What it finds, in one line: the rest of the card's title."""
    evidence: str
    """How good it is, in one line: the card's row ``in short``."""
    file: Path
    card: Path
    size: int
    """Of the file, in bytes."""
    sha256: str
    bands: int | None
    """Of its images; None: any number."""
    settings: Settings


def released_models() -> list[ReleasedModel]:
    """All of them, by name. Raises ModelError on a file without card, or whose card speaks of another file."""
    return [_read(file) for file in sorted(shipped("checkpoints").glob("*.keras"))]


def _read(file: Path) -> ReleasedModel:
    card = file.with_suffix(".md")
    if not card.is_file():
        raise ModelError(f"{file}: has no card {card.name} beside it")
    text = card.read_text(encoding="utf-8")
    name, _, summary = text.partition("\n")[0].removeprefix("# ").partition(": ")
    if name != file.stem or not summary:
        raise ModelError(f"{card}: its first line must be '# {file.stem}: ' and what the model finds")
    evidence = next((line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| in short |")), "")
    if not evidence:
        raise ModelError(f"{card}: its table lacks the row 'in short', how good the model is")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in text:
        raise ModelError(f"{card}: speaks of another file than {file.name}, whose sha256 is {digest}")
    settings = read_settings(file)
    bands = (
        None if settings.relative else _bands(read_model_config(file)["config"])
    )  # the network's three are any number in turn
    return ReleasedModel(name, summary, evidence, file, card, len(content), digest, bands, settings)


def _bands(config: dict[str, Any]) -> int | None:
    """Bands of the image before, by the configuration of a functional model."""
    first = config["input_layers"]
    while isinstance(first[0], list):
        first = first[0]
    (layer,) = (layer for layer in config["layers"] if layer["name"] == first[0])
    return layer["config"]["batch_shape"][-1]
