"""The manifest of an exported model: how the network beside it is fed; read without Keras."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segdiff.files import write_whole
from segdiff.inference.formats import RUNTIMES, Format
from segdiff.model_files import MANIFEST, ModelError, Settings


@dataclass(frozen=True)
class Manifest:
    """What a program needs to know to run an exported network, besides its file."""

    format: Format
    file: str
    """Of the network, in the manifest's folder."""
    bands: tuple[int, int]
    """Of the image before and of the image after: uint8 N x H x W x bands each, 0..255, RGB."""
    outputs: int
    """K of the float32 N x H x W x K probabilities: 1, of change; else one a class."""
    settings: Settings
    model_sha256: str
    """Of the .keras file that it was made of."""
    precision: str = "float32"
    """Of the weights; int8 is of the activations too."""
    tile: int | None = None
    """Side of the one tile that it takes at a time; None: any number of images, of any sizes."""
    checked: dict[str, Any] | None = None
    """How it compares with the Keras model that it was made of; None: it has not been compared."""


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes it into the folder of the network."""
    side = manifest.tile
    count, size = ("N", "H x W") if side is None else ("1", f"{side} x {side}")
    values = asdict(manifest)
    values["input"] = f"uint8 {count} x {size} x bands, 0..255, RGB, before and after, of equal size"
    values["input_multiple"] = manifest.settings.stride
    values["output"] = f"float32 {count} x {size} x outputs, probability 0..1"
    with write_whole(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> Manifest:
    """The manifest of an exported model. Raises ModelError on a file that is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] not in RUNTIMES or Path(values["file"]).name != values["file"]:
            raise ValueError(f"format {values['format']!r}, file {values['file']!r}")
        return Manifest(
            format=values["format"],
            file=values["file"],
            bands=(int(values["bands"][0]), int(values["bands"][1])),
            outputs=int(values["outputs"]),
            settings=Settings.from_json(values["settings"]),
            model_sha256=str(values["model_sha256"]),
            precision=str(values.get("precision", "float32")),
            tile=None if values.get("tile") is None else int(values["tile"]),
            checked=values.get("checked"),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{path}: is no manifest of an exported model ({error}); export the model again") from error


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
