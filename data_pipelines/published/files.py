"""Write the files of a pair: lossless, masks 0 and 255, JPEGs as they are."""

import shutil
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.decoding import DecodeError, read_image, read_mask
from data_pipelines.layouts import Pair

_KEPT = (".png", ".jpg", ".jpeg")


def read_binary_mask(path: Path) -> np.ndarray:
    """H x W uint8 of 0 and 255, of a mask that holds 0/1 or 0/255; DecodeError on any other value."""
    return to_binary(path, read_mask(path))


def to_binary(path: Path, stored: np.ndarray) -> np.ndarray:
    """Stored values 0/1 or 0/255 of the file at `path`, uint8 of any shape, as 0 and 255; DecodeError on others."""
    values = np.unique(stored).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        listed = ", ".join(map(str, values[:6])) + ("" if len(values) <= 6 else " and more")
        raise DecodeError(path, f"mask values {listed}; this data set has 0/1 or 0/255: download the file again")
    return np.where(stored > 0, np.uint8(255), np.uint8(0))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write H x W x 3 (RGB) or H x W uint8 as PNG; the folder is made where it is missing."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    write_bytes(path, cv2.imencode(".png", pixels)[1].tobytes())


def write_bytes(path: Path, content: bytes) -> None:
    """The folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def keep_image(source: Path, folder: Path, name: str) -> None:
    """Bring an image to `folder` whole: a PNG or JPEG byte for byte, anything else as PNG."""
    suffix = source.suffix.lower()
    if suffix in _KEPT:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / f"{name}{suffix}")
    else:
        write_image(folder / f"{name}.png", read_image(source, 3))


def keep_pair(pair: Pair, folder: Path) -> None:
    """Bring a pair to `folder`/{A,B,label} uncut, its mask as PNG of 0 and 255; DecodeError where sizes differ."""
    assert pair.mask is not None, "labelled pairs alone are prepared"
    mask = read_binary_mask(pair.mask)
    for path in (pair.before, pair.after):  # decoded, as a file that is cut short shows in its pixels alone
        require_size(path, read_image(path).shape[:2], pair.mask, mask.shape[:2])
    keep_image(pair.before, folder / "A", pair.name)
    keep_image(pair.after, folder / "B", pair.name)
    write_image(folder / "label" / f"{pair.name}.png", mask)


def require_size(path: Path, size: tuple[int, ...], other: Path, wanted: tuple[int, ...]) -> None:
    """DecodeError where an image of height x width `size` does not lie on another."""
    if size != wanted:
        said, of = (f"{width} x {height} pixels" for height, width in (size, wanted))
        raise DecodeError(path, f"{said}, and {other.name} has {of}; download the two again")
