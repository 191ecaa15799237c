"""The pictures of one pair that the report page lays over each other: both images, the change, its probability.

A page that is opened from disk may not look into the pixels of a picture, so everything is drawn here in its colours;
what lies on the images is transparent where it has nothing to say.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segdiff.files import write_whole
from segdiff.visualization.display import display_rgb
from segdiff.visualization.drawing import Size, compare, draw_outcomes, inner_lines, resize_labels
from segdiff.visualization.palettes import CLASS_COLORS, IGNORE, INK, OUTCOME_COLORS, PROBABILITY_TABLE, Color
from segdiff.visualization.pictures import write_image

LONGEST = 1024
"""Longest side of a layer, in pixels."""
THUMBNAIL = 192
"""Longest side of a thumbnail, in pixels."""

LAYERS = {
    "before": ".jpg",
    "after": ".jpg",
    "thumbnail": ".jpg",
    "mask": ".png",
    "contour": ".png",
    "probability": ".png",
    "outcome": ".png",
}
"""Folders of the layers and the suffix of their files; ``outcome`` where the truth is known."""

_FILL, _OUTCOME_FILL, _RIM_OPACITY, _MARK = 0.35, 0.8, 0.55, 0.8
_RIM = len(CLASS_COLORS) + 1
_QUALITY, _THUMBNAIL_QUALITY = 88, 80


def write_layers(
    folder: Path,
    name: str,
    before: np.ndarray,
    after: np.ndarray,
    mask: np.ndarray,
    probability: np.ndarray,
    truth: np.ndarray | None = None,
) -> None:
    """Writes the layers of a pair as ``folder``/LAYER/``name`` with the suffix of LAYERS, each file whole.

    ``before`` and ``after`` are uint8 H x W x C of any bands, ``mask`` and ``truth`` uint8 H x W of class indices (255:
    no truth), ``probability`` uint8 H x W, of change, 0..255 for 0..1; all of one size. What is longer than LONGEST is
    shrunk to it, images to means, labels so that every change stays to be seen. Images become JPEGs as people see them,
    the others PNGs of 8 bits whose palette holds the colours: the index is still the class, the outcome (those of
    ``palettes``) or the probability.
    """
    size = _bounded(after.shape[:2], LONGEST)
    images = {"before": _shown(before, size), "after": _shown(after, size)}
    labels = resize_labels(mask, size)
    indexed = {
        "mask": (labels, _FILL_PALETTE),
        "contour": (_contour(labels), _CONTOUR_PALETTE),
        "probability": (_resized(probability, size), HEAT_PALETTE),
    }
    small = _bounded(after.shape[:2], THUMBNAIL)
    thumbnail = _resized(images["after"], small)
    if truth is None:
        thumbnail = _mark_change(thumbnail, resize_labels(labels, small))
    else:
        outcomes = resize_labels(compare(mask, truth), size)
        indexed["outcome"] = (outcomes, _OUTCOME_PALETTE)
        thumbnail = draw_outcomes(thumbnail, resize_labels(outcomes, small))
    for layer in (*images, *indexed, "thumbnail"):
        (folder / layer).mkdir(parents=True, exist_ok=True)
    for layer, image in images.items():
        write_image(_path(folder, layer, name), image, _QUALITY)
    for layer, (values, palette) in indexed.items():
        _write_indexed(_path(folder, layer, name), values, palette)
    write_image(_path(folder, "thumbnail", name), thumbnail, _THUMBNAIL_QUALITY)


def _mark_change(rgb: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each class in its colour, a pixel larger than it is: contours would fill so small a picture."""
    marked = cv2.dilate(np.where(labels == IGNORE, np.uint8(0), labels), np.ones((3, 3), np.uint8))
    opacity = (_MARK * (marked != 0))[..., None]
    return np.rint(opacity * _CLASS_PALETTE[marked] + (1 - opacity) * rgb).astype(np.uint8)


def _path(folder: Path, layer: str, name: str) -> Path:
    return folder / layer / f"{name}{LAYERS[layer]}"


def _bounded(size: tuple[int, ...], longest: int) -> Size:
    scale = min(longest / max(size), 1)
    return Size(*(max(round(side * scale), 1) for side in size))


def _shown(image: np.ndarray, size: Size) -> np.ndarray:
    return display_rgb(_resized(image, size))


def _resized(image: np.ndarray, size: Size) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    small = cv2.resize(np.ascontiguousarray(image), (size.width, size.height), interpolation=cv2.INTER_AREA)
    return small.reshape(*size, *image.shape[2:])


def _contour(labels: np.ndarray) -> np.ndarray:
    """A line around all change, outside of it where that can be, of each class's index, and _RIM around that."""
    changed = np.where(labels == IGNORE, np.uint8(0), labels)
    width = max(2, round(max(labels.shape) / 400))
    line = cv2.dilate(changed, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1)))
    rim = cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))) != 0
    contour = np.where(line != 0, line, rim * np.uint8(_RIM))
    return np.where(changed != 0, changed * inner_lines(changed, width), contour)


def _palette(colors: dict[int, Color], opacity: dict[int, float] | float) -> np.ndarray:
    """uint8 256 x 4, transparent where no colour is named."""
    palette = np.zeros((256, 4), np.uint8)
    for index, color in colors.items():
        share = opacity if isinstance(opacity, float) else opacity[index]
        palette[index] = (*color, round(255 * share))
    return palette


def _heat_palette() -> np.ndarray:
    """Of probabilities: ever lighter and ever less transparent, so that what is surely no change shows the image."""
    share = np.interp(np.arange(256), [0, 127, 255], [0, 0.85, 0.95])
    return np.concatenate([PROBABILITY_TABLE, np.rint(255 * share)[:, None].astype(np.uint8)], axis=1)


def heat_gradient() -> str:
    """The colours of the probabilities from 0 to 1, as a background of CSS."""
    return f"linear-gradient(90deg, {', '.join('rgb({}, {}, {})'.format(*HEAT_PALETTE[k]) for k in range(0, 256, 51))})"


_CLASSES = dict(enumerate(CLASS_COLORS, start=1))
_CLASS_PALETTE = _palette(_CLASSES, 1.0)[:, :3]
_FILL_PALETTE = _palette(_CLASSES, _FILL)
_CONTOUR_PALETTE = _palette({**_CLASSES, _RIM: INK}, {**dict.fromkeys(_CLASSES, 1.0), _RIM: _RIM_OPACITY})
_OUTCOME_PALETTE = _palette(
    {**OUTCOME_COLORS, IGNORE: INK}, {**dict.fromkeys(OUTCOME_COLORS, _OUTCOME_FILL), IGNORE: 0.6}
)
HEAT_PALETTE = _heat_palette()
"""The colour of a probability of i / 255 and how far it hides the image, uint8 256 x 4."""


def _write_indexed(path: Path, indices: np.ndarray, palette: np.ndarray) -> None:
    image = Image.fromarray(indices)
    image.putpalette(palette[:, :3].tobytes())
    with write_whole(path) as temporary:
        image.save(temporary, "PNG", transparency=palette[:, 3].tobytes(), compress_level=4)
