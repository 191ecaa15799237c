"""Finding and reading models: a shipped name, a .keras file or a run folder; nothing that a file carries is run."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras

from segdiff.models.change_detector import ChangeDetector
from segdiff.resources import shipped


class ModelError(ValueError):
    """A model that cannot be found or used; the message is one line."""


def resolve_model(model: str | Path) -> Path:
    """The .keras file that MODEL stands for: the file itself, that of a run folder, or a shipped checkpoint.

    Raises ModelError, naming what was looked for and the shipped names.
    """
    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "model.keras").is_file():
            return path / "model.keras"
        raise ModelError(f"{path}: holds no model.keras, so it is no run folder (or its training has saved none yet)")
    released = shipped("checkpoints") / f"{model}.keras"
    if path.name == str(model) and released.is_file():
        return released
    names = sorted(file.stem for file in shipped("checkpoints").glob("*.keras"))
    offer = f"shipped are {', '.join(names)}" if names else "none is shipped"
    raise ModelError(f"{model}: there is no such file, run folder or shipped model ({offer})")


def load_model(model: str | Path) -> ChangeDetector:
    """The change detector that MODEL stands for, computing in float32 as it was saved, not compiled.

    Raises ModelError on a file that is no segdiff model, is broken, or names code from outside Keras and segdiff.
    """
    path = resolve_model(model)
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, ValueError, OSError) as error:
        raise ModelError(f"{path}: is not a .keras model file, or it is broken ({error})") from error
    if not isinstance(config, dict) or config.get("registered_name") != "segdiff>ChangeDetector":
        raise ModelError(f"{path}: is a Keras model, but no segdiff change detector")
    for module in _modules(config):
        if module.split(".")[0] not in {"keras", "segdiff"}:
            raise ModelError(f"{path}: names code of {module!r}; only Keras and segdiff layers are loaded")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, LookupError, AttributeError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _modules(config: Any) -> set[str]:
    """Every module that the configuration would import a class or function from."""
    if isinstance(config, dict):
        below = {module for value in config.values() for module in _modules(value)}
        named = config.get("module") if "class_name" in config else None
        return below | {named} if isinstance(named, str) else below
    if isinstance(config, list):
        return {module for value in config for module in _modules(value)}
    return set()
