"""Marks on an image: contours and translucent fills of change and of outcomes, heat maps of probability."""

from typing import Literal, NamedTuple

import cv2
import numpy as np

from segdiff.visualization.palettes import (
    CLASS_TABLE,
    FALSE,
    IGNORE,
    INK,
    MISSED,
    OUTCOME_TABLE,
    PROBABILITY_TABLE,
    TRUE,
    UNCHANGED,
    WRONG_CLASS,
    color_table,
)

Style = Literal["contour", "fill", "both"]

_CHANGE_FILL: dict[Style, float] = {"contour": 0.0, "fill": 0.5, "both": 0.3}
_OUTCOME_FILL: dict[Style, float] = {"contour": 0.0, "fill": 0.7, "both": 0.5}
_RIM_TABLE = color_table({1: INK})
_RIM = 0.55
_GREY_SPAN, _GREY_FLOOR = 0.7, 51  # beneath outcomes black is 51 and white 230, so that a colour is one on both
_DIMMED = 0.4  # brightness of ignored pixels
# Beneath a heat map the image is darker than any colour from an even chance on, and then hardly shines through.
_HEAT_SPAN, _HEAT_FLOOR = 0.4, 20
_HEAT = np.interp(np.arange(256) / 255, [0, 0.5, 1], [0, 0.85, 0.95]).astype(np.float32)


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Labels (uint8 H x W, 255 = ignore) in another size, by nearest neighbour or, where it shrinks, maximum.

    Shrunk, a pixel has the largest label of those it covers, so that no small change is lost; 255 only where all are.
    """
    if labels.shape == size:
        return labels
    ranked = labels + np.uint8(1)  # wraps: ignore is 0, below no change
    return resize_largest(ranked, size) - np.uint8(1)


def resize_largest(values: np.ndarray, size: Size) -> np.ndarray:
    """Values (H x W) in another size: the nearest, or where it shrinks the largest of those that a pixel covers."""
    if values.shape == size:
        return values
    if values.shape[0] <= size.height and values.shape[1] <= size.width:
        return cv2.resize(values, (size.width, size.height), interpolation=cv2.INTER_NEAREST)
    for axis, (old, new) in enumerate(zip(values.shape, size, strict=True)):
        values = np.maximum.reduceat(values, np.arange(new) * old // new, axis=axis)
    return values


def compare(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What became of each pixel: UNCHANGED, FALSE, MISSED, WRONG_CLASS, TRUE, or 255 where either mask is 255.

    `mask` and `truth` are uint8 H x W of class indices in the same coding; so is the result's shape and type.
    """
    found, real = mask != 0, truth != 0
    outcomes = np.where(
        found & real, np.where(mask == truth, np.uint8(TRUE), np.uint8(WRONG_CLASS)), np.uint8(UNCHANGED)
    )
    outcomes[found & ~real] = FALSE
    outcomes[real & ~found] = MISSED
    outcomes[(mask == IGNORE) | (truth == IGNORE)] = IGNORE
    return outcomes


def draw_change(rgb: np.ndarray, mask: np.ndarray, style: Style = "both") -> np.ndarray:
    """Change on an image: each class filled with its colour, thinly, and a line around all change; or one of the two.

    `rgb` is uint8 H x W x 3, `mask` uint8 H x W of class indices 0..31; pixels of 255 are shown grey and dim. The line
    runs outside of the change, so that a change of a single pixel is not hidden by it: 2 pixels wide, 3 from a panel of
    1250 pixels on, and a thin dark rim sets it off from a light ground. Between classes and along the picture's edge it
    runs inside. Returns a new uint8 H x W x 3.
    """
    changed = np.where(mask == IGNORE, np.uint8(0), mask)
    return _mark(_dim(rgb, mask == IGNORE), changed, CLASS_TABLE, _CHANGE_FILL[style], line=style != "fill")


def draw_outcomes(rgb: np.ndarray, outcomes: np.ndarray, style: Style = "fill") -> np.ndarray:
    """True, false and missed change on an image, translucent, in colours that colour-blind people can tell apart.

    `rgb` is uint8 H x W x 3, `outcomes` uint8 H x W as `compare` gives them. The image is shown in grey of
    lower contrast, so that colour speaks of the outcome alone; pixels of 255 are dim. Lines run as `draw_change` has
    them. Returns a new uint8 H x W x 3.
    """
    ignored = outcomes == IGNORE
    picture = _dim(_grey(rgb, _GREY_SPAN, _GREY_FLOOR), ignored)
    marked = np.where(ignored, np.uint8(0), outcomes)
    return _mark(picture, marked, OUTCOME_TABLE, _OUTCOME_FILL[style], line=style != "fill")


def draw_probability(rgb: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """A heat map on an image: the more likely the change, the lighter the colour and the less shines through.

    `rgb` is uint8 H x W x 3, shown in a dark grey; `probability` is H x W, floats of 0..1 or uint8 of 0..255. Returns a
    new uint8 H x W x 3. Raises ValueError for probabilities outside of 0..1 or that are no numbers.
    """
    levels = probability_levels(probability)
    heat = cv2.LUT(cv2.merge([levels] * 3), PROBABILITY_TABLE[None])
    opacity = cv2.LUT(levels, _HEAT)
    return cv2.blendLinear(heat, _grey(rgb, _HEAT_SPAN, _HEAT_FLOOR), opacity, 1 - opacity)


def probability_levels(probability: np.ndarray) -> np.ndarray:
    """Probabilities, H x W, as uint8 of 0..255; what is uint8 counts as such already. Raises as `draw_probability`."""
    if probability.dtype == np.uint8:
        return np.ascontiguousarray(probability)
    if probability.dtype.kind != "f":
        raise ValueError(f"probability is {probability.dtype}; it must be floats of 0..1 or uint8 of 0..255")
    low, high = float(probability.min()), float(probability.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"probability reaches from {low:.6g} to {high:.6g}; it must lie in 0..1")
    return np.rint(probability * 255).astype(np.uint8)


def probability_bar() -> np.ndarray:
    """The colours of the probabilities 0..1 on a middle grey, uint8 1 x 256 x 3: what explains a heat map."""
    return draw_probability(np.full((1, 256, 3), 128, np.uint8), np.arange(256, dtype=np.uint8)[None])


def _mark(rgb: np.ndarray, labels: np.ndarray, table: np.ndarray, fill: float, *, line: bool) -> np.ndarray:
    """The labels filled with that opacity, and where wanted a line around them, on a picture that stays as it is."""
    picture = _blend(rgb, labels, table, fill)
    if not line:
        return picture
    width = max(2, round(max(labels.shape) / 500))
    lines = cv2.dilate(labels, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1)))
    rim = (cv2.dilate(lines, cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))) != 0) & (lines == 0)
    picture = _blend(picture, rim.view(np.uint8), _RIM_TABLE, _RIM)
    lines = np.where(labels == 0, lines, labels * inner_lines(labels, width))
    return _blend(picture, lines, table, 1.0)


def inner_lines(labels: np.ndarray, width: int) -> np.ndarray:
    """Where a line cannot run outside of a label: a pixel along each side of a border between two labels, and `width`
    pixels along the edge of the picture. `labels` is uint8 H x W, 0 is none; returns bool H x W."""
    square = np.ones((3, 3), np.uint8)
    above = cv2.dilate(labels, square) != labels
    below = cv2.erode(np.where(labels == 0, np.uint8(255), labels), square) != labels
    inner = above | below
    inner[:width] = inner[-width:] = inner[:, :width] = inner[:, -width:] = True
    return inner & (labels != 0)


def _grey(rgb: np.ndarray, span: float, floor: float) -> np.ndarray:
    grey = cv2.convertScaleAbs(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), alpha=span, beta=floor)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def _blend(rgb: np.ndarray, labels: np.ndarray, table: np.ndarray, opacity: float) -> np.ndarray:
    """The image with each labelled pixel painted in its label's colour."""
    picture = rgb.copy()
    if opacity == 0:
        return picture
    rows, columns = np.nonzero(labels)
    colors = table[labels[rows, columns]].astype(np.float32)
    picture[rows, columns] = np.rint(opacity * colors + (1 - opacity) * rgb[rows, columns]).astype(np.uint8)
    return picture


def _dim(rgb: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    if not ignored.any():
        return rgb
    grey = cv2.cvtColor(cv2.convertScaleAbs(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), alpha=_DIMMED), cv2.COLOR_GRAY2RGB)
    return np.where(ignored[..., None], grey, rgb)
