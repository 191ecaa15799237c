"""The manifest of an exported model: how the network beside it is fed; read without Keras."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from segdiff.model_files import MANIFEST, ModelError, Settings


@dataclass(frozen=True)
class Manifest:
    """What a program needs to know to run an exported network, besides its file."""

    format: str
    file: str
    """Of the network, in the manifest's folder."""
    bands: tuple[int, int]
    """Of the image before and of the image after: uint8 N x H x W x bands each, 0..255, RGB."""
    outputs: int
    """K of the float32 N x H x W x K probabilities: 1, of change; else one a class."""
    settings: Settings
    model_sha256: str
    """Of the .keras file that it was made of."""


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes it into the folder of the network."""
    values = {**asdict(manifest), "input": "uint8 N x H x W x bands, 0..255, RGB, before and after, of equal size"}
    values["input_multiple"] = manifest.settings.stride
    values["output"] = "float32 N x H x W x outputs, probability 0..1"
    (folder / MANIFEST).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> Manifest:
    """The manifest of an exported model. Raises ModelError on a file that is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            format=str(values["format"]),
            file=str(values["file"]),
            bands=(int(values["bands"][0]), int(values["bands"][1])),
            outputs=int(values["outputs"]),
            settings=Settings.from_json(values["settings"]),
            model_sha256=str(values["model_sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{path}: is no manifest of an exported model ({error}); export the model again") from error


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
