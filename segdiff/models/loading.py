"""Reading models: nothing that a file carries is run."""

import zipfile
import zlib
from pathlib import Path

import keras

from segdiff.model_files import MANIFEST, ModelError, read_model_config, resolve_model
from segdiff.models.change_detector import ChangeDetector


def load_model(model: str | Path) -> ChangeDetector:
    """The change detector that MODEL stands for, computing in float32 as it was saved, not compiled.

    Raises ModelError on a file that is no segdiff model, is broken, or names code from outside Keras and segdiff.
    """
    path = resolve_model(model)
    if path.name == MANIFEST:
        raise ModelError(f"{path.parent}: is an exported model, that only predicts; name a .keras file or run folder")
    read_model_config(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, LookupError, AttributeError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
