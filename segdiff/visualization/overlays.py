"""Overlays: before, after and the change side by side, with captions and a legend, as one RGB picture.

A picture is made in three steps that can be used apart: `display_rgb` makes any image a colour image, `draw_change` or
`draw_outcomes` paints on it, and `sheet` sets panels side by side. Colours were chosen by their smallest CIE 1976
distance from each other and from every grey, for normal sight and for the full protanopia, deuteranopia and tritanopia
of Machado, Oliveira and Fernandes (2009).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

IGNORE = 255
MAX_CLASS = 31
SMALLEST_PANEL = 160  # narrower images are enlarged, narrower panels centred, so that a legend fits
LARGEST_PANEL = 1600  # longer images become an overview

# What became of a pixel, compared with the truth. The order is the rank when an overview merges pixels: a found object
# counts as found although its rim is not, and an error on its own stays visible.
UNCHANGED, FALSE, MISSED, WRONG_CLASS, TRUE = range(5)

Color = tuple[int, int, int]
Legend = Sequence[tuple[str, Color | None]]  # None: words without a colour of their own

OUTCOME_COLORS: dict[int, Color] = {
    TRUE: (30, 70, 250),
    FALSE: (214, 32, 10),
    MISSED: (255, 208, 0),
    WRONG_CLASS: (220, 80, 200),
}
_OUTCOME_NAMES = {TRUE: "true change", FALSE: "false alarm", MISSED: "missed change", WRONG_CLASS: "wrong class"}
# Class 1 first. The first six lie furthest apart; each later one is the colour then furthest from all before it.
CLASS_COLORS: tuple[Color, ...] = (
    (255, 110, 0), (180, 15, 240), (90, 255, 150), (255, 165, 255), (0, 130, 160), (255, 225, 0), (150, 75, 45),
    (75, 90, 165), (105, 180, 120), (255, 75, 255), (180, 120, 180), (180, 240, 105), (225, 30, 0), (240, 135, 75),
    (45, 135, 90), (15, 210, 105), (75, 135, 225), (150, 240, 180), (210, 15, 195), (150, 75, 135), (240, 195, 60),
    (195, 105, 60), (75, 120, 0), (255, 150, 210), (255, 90, 150), (165, 0, 195), (60, 210, 255), (120, 15, 255),
    (240, 60, 90), (180, 135, 210), (120, 210, 150),
)  # fmt: skip
_IGNORED_COLOR: Color = (64, 64, 64)

_FILL = 0.3  # of a class's colour within its contour
_RIM = 0.55
_OUTCOME_FILL = 0.7
_GREY_SPAN, _GREY_FLOOR = 0.7, 51  # beneath outcomes black is 51 and white 230, so that a colour is one on both
_DIMMED = 0.4  # brightness of ignored pixels
_FRAME: Color = (160, 160, 160)
_INK: Color = (32, 32, 32)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


def overlay(
    before: np.ndarray,
    after: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> np.ndarray:
    """Before, after and the change on after, side by side with captions above and a legend beneath.

    `before` and `after` are uint8 H x W x C of any number of bands each; `before` is resized to `after`'s size where it
    differs. `mask` and `truth` are H x W in `after`'s size, uint8 class indices 0..31 (0 = no change, 255 = ignore) or
    bool, both in the same coding. Without `truth` the third panel is `draw_change`, with it `draw_outcomes`; there a
    change found under the name of another class is "wrong class". `classes` are the class names, background first.

    Returns uint8 RGB, H' x W' x 3. Panels have the size `panel_size` gives; `sheet` sets them on the page.
    Raises ValueError naming both shapes where they do not fit, and for other data types and mask values.
    """
    _require_image("before", before)
    _require_image("after", after)
    mask, present = _labels("mask", mask, after)
    size = panel_size(after.shape[0], after.shape[1])
    left, right = _panel(before, after.shape[:2], size), _panel(after, after.shape[:2], size)
    if truth is None:
        change = draw_change(right, resize_labels(mask, size))
        legend = _change_legend(present, classes)
    else:
        truth, _ = _labels("truth", truth, after)
        outcomes = compare(mask, truth)
        change = draw_outcomes(right, resize_labels(outcomes, size))
        legend = _outcome_legend(_values(outcomes))
    return sheet([left, right, change], ["before", "after", "change"], legend)


def display_rgb(image: np.ndarray) -> np.ndarray:
    """An image as people see it: uint8 H x W x C, C >= 1, to uint8 H x W x 3.

    One band is shown grey, of two the first; three are RGB as they are. Of more than three the first three are shown,
    each stretched from its 2nd..98th percentile to 0..255, because their order and range are the sensor's own.
    Raises ValueError for other shapes and data types.
    """
    _require_image("image", image)
    return _colored(_shown_bands(image), stretched=image.shape[2] > 3)


def panel_size(height: int, width: int) -> Size:
    """The size in which an image of `height` x `width` pixels is shown.

    Its own, save that an image narrower than 160 is enlarged by a whole factor until it is not, and one longer than
    1600 on a side is shrunk to 1600 on that side; enlarging never goes beyond 1600 either.
    """
    longest = max(height, width)
    if longest > LARGEST_PANEL:
        return Size(*(max(1, round(side * LARGEST_PANEL / longest)) for side in (height, width)))
    factor = max(1, min(-(-SMALLEST_PANEL // width), LARGEST_PANEL // longest))
    return Size(height * factor, width * factor)


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Labels (uint8 H x W, 255 = ignore) in another size, by nearest neighbour or, where it shrinks, maximum.

    Shrunk, a pixel has the largest label of those it covers, so that no small change is lost; 255 only where all are.
    """
    if labels.shape == size:
        return labels
    if labels.shape[0] <= size.height and labels.shape[1] <= size.width:
        return cv2.resize(labels, (size.width, size.height), interpolation=cv2.INTER_NEAREST)
    ranked = labels + np.uint8(1)  # wraps: ignore is 0, below no change
    for axis, (old, new) in enumerate(zip(labels.shape, size, strict=True)):
        ranked = np.maximum.reduceat(ranked, np.arange(new) * old // new, axis=axis)
    return ranked - np.uint8(1)


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


def draw_change(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Change on an image: each class filled with its colour, thinly, and a line around all change.

    `rgb` is uint8 H x W x 3, `mask` uint8 H x W of class indices 0..31; pixels of 255 are shown grey and dim. The line
    runs outside of the change, so that a change of a single pixel is not hidden by it: 2 pixels wide, 3 from a panel of
    1250 pixels on, and a thin dark rim sets it off from a light ground. Returns a new uint8 H x W x 3.
    """
    changed = np.where(mask == IGNORE, np.uint8(0), mask)
    picture = _dim(rgb, mask == IGNORE)
    picture = _blend(picture, changed, _CLASS_TABLE, _FILL)
    width = max(2, round(max(mask.shape) / 500))
    line = cv2.dilate(changed, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1)))
    rim = (cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))) != 0) & (line == 0)
    picture = _blend(picture, rim.view(np.uint8), _RIM_TABLE, _RIM)
    return _blend(picture, np.where(changed == 0, line, np.uint8(0)), _CLASS_TABLE, 1.0)


def draw_outcomes(rgb: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """True, false and missed change on an image, translucent, in colours that colour-blind people can tell apart.

    `rgb` is uint8 H x W x 3, `outcomes` uint8 H x W as `compare` gives them. The image is shown in grey of
    lower contrast, so that colour speaks of the outcome alone; pixels of 255 are dim. Returns a new uint8 H x W x 3.
    """
    grey = cv2.convertScaleAbs(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), alpha=_GREY_SPAN, beta=_GREY_FLOOR)
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    ignored = outcomes == IGNORE
    return _blend(_dim(picture, ignored), np.where(ignored, np.uint8(0), outcomes), _OUTCOME_TABLE, _OUTCOME_FILL)


def sheet(panels: Sequence[np.ndarray], captions: Sequence[str], legend: Legend) -> np.ndarray:
    """Panels of one size (uint8 H x W x 3) side by side on white, a caption above each, a legend beneath.

    With c = max(W, 160), the strip of captions and each row of the legend are s = 0.06 c high, between 24 and 64;
    margins and gutters are g = c / 64, at least 4. The sheet is s + H + r s + g high, of r legend rows, and
    n c + (n + 1) g wide, of n panels. Panel i begins at row s, column g + i (c + g) + (c - W) // 2; a grey frame of one
    pixel lies around it.
    """
    height, width = panels[0].shape[:2]
    cell = max(width, SMALLEST_PANEL)
    strip, gutter = min(64, max(24, round(0.06 * cell))), max(4, cell // 64)
    key = _legend_strip(legend, len(panels) * (cell + gutter) + gutter, strip, gutter)
    page = np.empty((strip + height + len(key) + gutter, key.shape[1], 3), np.uint8)
    page[:] = 255
    for index, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = gutter + index * (cell + gutter)
        page[:strip, left : left + cell] = _caption_strip(caption, cell, strip)
        start = left + (cell - width) // 2
        page[strip - 1 : strip + height + 1, start - 1 : start + width + 1] = _FRAME
        page[strip : strip + height, start : start + width] = panel
    page[strip + height + gutter // 2 :][: len(key)] = key
    return page


def write_image(path: Path | str, rgb: np.ndarray, quality: int = 92) -> None:
    """Write uint8 RGB H x W x 3 as JPEG (`quality` 1..100, colour at full resolution) or PNG, by the suffix of `path`.

    The file appears whole or not at all. Raises ValueError for another suffix or quality, OSError where it cannot be
    written.
    """
    path = Path(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        # Halved colour resolution, the encoder's default, smears thin coloured lines.
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    elif path.suffix.lower() == ".png":
        options = []
    else:
        raise ValueError(f"{path}: cannot write a picture with suffix {path.suffix!r}; use .jpg, .jpeg or .png")
    if not 1 <= quality <= 100:
        raise ValueError(f"{path}: JPEG quality {quality} is outside of 1..100")
    encodable, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not encodable:
        raise ValueError(f"{path}: a picture of shape {rgb.shape} does not fit the format {path.suffix}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(encoded.tobytes())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _require_image(name: str, image: np.ndarray) -> None:
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; an image is H x W x C, none of them 0")
    if image.dtype != np.uint8:
        raise ValueError(f"{name} is {image.dtype}; an image to show is uint8")


def _labels(name: str, labels: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, set[int]]:
    """The labels as uint8, and the values in them."""
    if labels.shape != after.shape[:2]:
        raise ValueError(
            f"{name} has shape {labels.shape} but after has {after.shape}; they must cover the same pixels"
        )
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    elif labels.dtype != np.uint8:
        raise ValueError(f"{name} is {labels.dtype}; it must be uint8 or bool")
    labels = np.ascontiguousarray(labels)
    present = _values(labels)
    if odd := sorted(value for value in present if MAX_CLASS < value < IGNORE):
        raise ValueError(f"{name} holds {odd[0]}; class indices are 0..{MAX_CLASS}, and {IGNORE} is ignore")
    return labels, present


def _values(labels: np.ndarray) -> set[int]:
    return set(np.flatnonzero(cv2.calcHist([labels], [0], None, [256], [0, 256])).tolist())


def _panel(image: np.ndarray, grid: tuple[int, ...], size: Size) -> np.ndarray:
    """The image as RGB in panel size, where `grid` is the size of `after`; enlarged pixels stay square and sharp."""
    bands = _shown_bands(image)
    unenlarged = Size(min(grid[0], size.height), min(grid[1], size.width))
    if bands.shape[:2] != unenlarged:
        shrinks = bands.shape[0] > unenlarged.height or bands.shape[1] > unenlarged.width
        bands = _resized(bands, unenlarged, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if unenlarged != size:
        bands = _resized(bands, size, cv2.INTER_NEAREST)
    return _colored(bands, stretched=image.shape[2] > 3)


def _resized(bands: np.ndarray, size: Size, interpolation: int) -> np.ndarray:
    return cv2.resize(bands, (size.width, size.height), interpolation=interpolation).reshape(*size, bands.shape[2])


def _shown_bands(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., : 3 if image.shape[2] >= 3 else 1])


def _colored(bands: np.ndarray, stretched: bool) -> np.ndarray:
    if stretched:
        bands = np.dstack([_stretch(band) for band in cv2.split(bands)])
    return bands if bands.shape[2] == 3 else cv2.cvtColor(bands, cv2.COLOR_GRAY2RGB)


def _stretch(band: np.ndarray) -> np.ndarray:
    low, high = np.percentile(band, (2, 98))
    if low == high:
        return band
    table = (np.arange(256) - low) * (255 / (high - low))
    return cv2.LUT(band, np.clip(np.rint(table), 0, 255).astype(np.uint8))


def _color_table(colors: dict[int, Color]) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[list(colors)] = list(colors.values())
    return table


_CLASS_TABLE = _color_table(dict(enumerate(CLASS_COLORS, start=1)))
_OUTCOME_TABLE = _color_table(OUTCOME_COLORS)
_RIM_TABLE = _color_table({1: _INK})


def _blend(rgb: np.ndarray, labels: np.ndarray, table: np.ndarray, opacity: float) -> np.ndarray:
    """The image with each labelled pixel painted in its label's colour."""
    picture = rgb.copy()
    rows, columns = np.nonzero(labels)
    colors = table[labels[rows, columns]].astype(np.float32)
    picture[rows, columns] = np.rint(opacity * colors + (1 - opacity) * rgb[rows, columns]).astype(np.uint8)
    return picture


def _dim(rgb: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    if not ignored.any():
        return rgb
    grey = cv2.cvtColor(cv2.convertScaleAbs(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), alpha=_DIMMED), cv2.COLOR_GRAY2RGB)
    return np.where(ignored[..., None], grey, rgb)


def _change_legend(present: set[int], classes: Sequence[str] | None) -> list[tuple[str, Color | None]]:
    found = sorted(present - {0, IGNORE})
    if classes is None:
        names = {index: "change" if found == [1] else f"class {index}" for index in found}
    elif found and found[-1] >= len(classes):
        raise ValueError(f"mask holds class {found[-1]} but classes names 0..{len(classes) - 1} ({', '.join(classes)})")
    else:
        names = {index: classes[index] for index in found}
    legend: list[tuple[str, Color | None]] = [(names[index], CLASS_COLORS[index - 1]) for index in found]
    return (legend or [("no change", None)]) + _ignored_legend(present)


def _outcome_legend(present: set[int]) -> list[tuple[str, Color | None]]:
    shown = [TRUE, FALSE, MISSED] + ([WRONG_CLASS] if WRONG_CLASS in present else [])
    return [(_OUTCOME_NAMES[outcome], OUTCOME_COLORS[outcome]) for outcome in shown] + _ignored_legend(present)


def _ignored_legend(present: set[int]) -> list[tuple[str, Color | None]]:
    return [("ignored", _IGNORED_COLOR)] if IGNORE in present else []


def _text_scale(height: int) -> float:
    (_, ascent), descent = cv2.getTextSize("Ag", _FONT, 1.0, 1)
    return 0.62 * height / (ascent + descent)


def _put_text(strip: np.ndarray, text: str, left: int, scale: float) -> None:
    (_, ascent), descent = cv2.getTextSize("Ag", _FONT, scale, 1)
    base = (len(strip) + ascent - descent + 1) // 2
    cv2.putText(strip, text, (left, base), _FONT, scale, _INK, max(1, round(scale)), cv2.LINE_AA)


def _caption_strip(caption: str, width: int, height: int) -> np.ndarray:
    strip = np.full((height, width, 3), 255, np.uint8)
    _put_text(strip, caption, 0, _text_scale(height))
    return strip


def _legend_strip(legend: Legend, width: int, row_height: int, margin: int) -> np.ndarray:
    """The legend in rows that fit the width; text too long for a row of its own is set smaller."""
    rows = [np.full((row_height, width, 3), 255, np.uint8)]
    left = margin
    for text, color in legend:
        scale = _text_scale(row_height)
        swatch, gap = (0, 0) if color is None else (round(0.6 * row_height), row_height // 3)
        room = width - margin - (margin + swatch + gap)
        length = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
        if length > room:
            scale, length = scale * room / length, room
        if left > margin and left + swatch + gap + length > width - margin:
            rows.append(np.full((row_height, width, 3), 255, np.uint8))
            left = margin
        if color is not None:
            top = (row_height - swatch) // 2
            rows[-1][top : top + swatch, left : left + swatch] = _INK  # a frame: pale colours end somewhere
            rows[-1][top + 1 : top + swatch - 1, left + 1 : left + swatch - 1] = color
        _put_text(rows[-1], text, left + swatch + gap, scale)
        left += swatch + gap + length + row_height
    return np.concatenate(rows)
