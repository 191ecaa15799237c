"""Pictures in files: JPEG, PNG, and GIFs that blink. Each appears whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segdiff.files import write_whole
from segdiff.visualization.palettes import Color

BLINK_MILLISECONDS = 700
"""How long each picture of a GIF is seen: long enough to look, short enough that the eye keeps the one before."""


def write_image(path: Path | str, rgb: np.ndarray, quality: int = 92) -> None:
    """Write uint8 RGB H x W x 3 as JPEG (`quality` 1..100, colour at full resolution) or PNG, by the suffix of `path`.

    The file appears whole or not at all. Raises ValueError for another suffix or quality, OSError where it cannot be
    written.
    """
    path = Path(path)
    encoded = encode_image(path, rgb, quality)
    with write_whole(path) as temporary:
        temporary.write_bytes(encoded)


def encode_image(path: Path, rgb: np.ndarray, quality: int = 92) -> bytes:
    """What `write_image` writes; raises as it does."""
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg"):
        # Halved colour resolution, the encoder's default, smears thin coloured lines.
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    elif suffix == ".png":
        options = []
    else:
        raise ValueError(f"{path}: cannot write a picture with suffix {path.suffix!r}; use .jpg, .jpeg or .png")
    if not 1 <= quality <= 100:
        raise ValueError(f"{path}: JPEG quality {quality} is outside of 1..100")
    encodable, encoded = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not encodable:
        raise ValueError(f"{path}: a picture of shape {rgb.shape} does not fit the format {path.suffix}")
    return encoded.tobytes()


def write_gif(path: Path | str, frames: Sequence[np.ndarray], exact: Sequence[Color] = ()) -> None:
    """Write pictures (uint8 RGB of one size) as a GIF that shows one after the other for ever.

    A GIF has 256 colours a picture: those of `exact` and the white of a page are kept as they are, the others are
    chosen by median cut. Raises ValueError where pictures differ in size, OSError where the file cannot be written.
    """
    path = Path(path)
    if sizes := sorted({frame.shape for frame in frames[1:]} - {frames[0].shape}):
        raise ValueError(f"{path}: pictures of shapes {frames[0].shape} and {sizes[0]}; those of a GIF have one size")
    first, *others = [_with_palette(frame, [*exact, (255, 255, 255)]) for frame in frames]
    with write_whole(path) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=others, duration=BLINK_MILLISECONDS, loop=0,
            optimize=False, disposal=1,
        )  # fmt: skip


def _with_palette(rgb: np.ndarray, exact: Sequence[Color]) -> Image.Image:
    picture = Image.fromarray(rgb)
    chosen = picture.quantize(256 - len(exact), Image.Quantize.MEDIANCUT)
    palette = chosen.getpalette() or []
    table = Image.new("P", (1, 1))
    table.putpalette([*palette, *(value for color in exact for value in color)])
    return picture.quantize(palette=table, dither=Image.Dither.FLOYDSTEINBERG)
