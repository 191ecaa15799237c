"""Overlays: before, after and the change side by side, or before and after in turns, with captions and a legend.

A picture is made in steps that can be used apart: `display_rgb` makes any image a colour image, `draw_change`,
`draw_outcomes` or `draw_probability` paints on it, and `sheet` sets panels side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from segdiff.visualization.display import display_rgb, require_image
from segdiff.visualization.drawing import (
    Size,
    Style,
    compare,
    draw_change,
    draw_outcomes,
    draw_probability,
    probability_bar,
    probability_levels,
    resize_labels,
    resize_largest,
)
from segdiff.visualization.palettes import (
    CLASS_COLORS,
    FALSE,
    IGNORE,
    IGNORED_COLOR,
    MAX_CLASS,
    MISSED,
    OUTCOME_COLORS,
    OUTCOME_NAMES,
    TRUE,
    WRONG_CLASS,
    Color,
)
from segdiff.visualization.sheets import SMALLEST_PANEL, Scale, sheet

LARGEST_PANEL = 1600  # longer images become an overview


@dataclass(frozen=True)
class Marks:
    """What is drawn on an image: labels (uint8 H x W, 255 = ignore), either classes or outcomes, and their legend."""

    labels: np.ndarray
    are_outcomes: bool
    legend: tuple[tuple[str, Color | None], ...]


def mark_change(mask: np.ndarray, classes: Sequence[str] | None = None) -> Marks:
    """The change of a mask, H x W of class indices 0..31 (255 = ignore, uint8) or bool, in the colours of its classes.

    `classes` are the class names, background first; the legend names those that are there. Raises ValueError for other
    data types and values, and where a class has no name.
    """
    labels, present = _labels("mask", mask)
    return Marks(labels, False, tuple(_change_legend(present, classes)))


def mark_outcomes(outcomes: np.ndarray) -> Marks:
    """True, false and missed pixels: uint8 H x W as `compare` gives them."""
    return Marks(outcomes, True, tuple(_outcome_legend(_values(outcomes))))


def overlay(
    before: np.ndarray,
    after: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray | None = None,
    *,
    classes: Sequence[str] | None = None,
    probability: np.ndarray | None = None,
    style: Style | None = None,
) -> np.ndarray:
    """Before, after and the change on after, side by side with captions above and a legend beneath.

    `before` and `after` are H x W x C of any number of bands each, as `display_rgb` takes them; `before` is resized to
    `after`'s size where it differs. `mask` and `truth` are H x W in `after`'s size, uint8 class indices 0..31 (0 = no
    change, 255 = ignore) or bool, both in the same coding. Without `truth` the third panel is `draw_change`, with it
    `draw_outcomes`; there a change found under the name of another class is "wrong class". `classes` are the class
    names, background first. `probability` (of change, H x W, floats of 0..1 or uint8 of 0..255) adds a fourth panel,
    `draw_probability`. `style`: contour, fill or both; by default both for change, fill for outcomes.

    Returns uint8 RGB, H' x W' x 3. Panels have the size `panel_size` gives; `sheet` sets them on the page.
    Raises ValueError naming both shapes where they do not fit, and for other data types and mask values.
    """
    marks = mark_change(mask, classes)
    if truth is not None:
        true, _ = _labels("truth", truth)
        _require_shape("mask", marks.labels, after)
        _require_shape("truth", true, after)
        marks = mark_outcomes(compare(marks.labels, true))
    return side_by_side(before, after, marks, probability=probability, style=style)


def side_by_side(
    before: np.ndarray,
    after: np.ndarray,
    marks: Marks,
    *,
    probability: np.ndarray | None = None,
    style: Style | None = None,
) -> np.ndarray:
    """`overlay` of a change that is marked already."""
    size, left, right, labels = _panels(before, after, marks)
    panels, captions = [left, right, _draw(right, labels, marks, style)], ["before", "after", "change"]
    legend: list[tuple[str, Color | Scale | None]] = list(marks.legend)
    if probability is not None:
        _require_shape("probability", probability, after)
        panels.append(draw_probability(right, resize_largest(probability_levels(probability), size)))
        captions.append("probability")
        legend.append(("probability of change", Scale("0", "1", probability_bar())))
    return sheet(panels, captions, legend)


def blink(before: np.ndarray, after: np.ndarray, marks: Marks, *, style: Style = "contour") -> list[np.ndarray]:
    """Before and after, each with the marks, to be shown in turns: two pages as `sheet` makes them of one panel.

    Arguments and errors are those of `overlay`. Only the outline is drawn unless `style` says otherwise: what changes
    within is to be seen.
    """
    _, left, right, labels = _panels(before, after, marks)
    shown = {"before": left, "after": right}
    return [sheet([_draw(image, labels, marks, style)], [name], marks.legend) for name, image in shown.items()]


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


def _panels(before: np.ndarray, after: np.ndarray, marks: Marks) -> tuple[Size, np.ndarray, np.ndarray, np.ndarray]:
    """The size of the panels, both images as RGB in it, and the labels."""
    require_image("before", before)
    require_image("after", after)
    _require_shape("mask", marks.labels, after)
    size = panel_size(after.shape[0], after.shape[1])
    left, right = (_panel(image, after.shape[:2], size) for image in (before, after))
    return size, left, right, resize_labels(marks.labels, size)


def _draw(rgb: np.ndarray, labels: np.ndarray, marks: Marks, style: Style | None) -> np.ndarray:
    if marks.are_outcomes:
        return draw_outcomes(rgb, labels, style or "fill")
    return draw_change(rgb, labels, style or "both")


def _require_shape(name: str, array: np.ndarray, after: np.ndarray) -> None:
    if array.shape != after.shape[:2]:
        raise ValueError(f"{name} has shape {array.shape} but after has {after.shape}; they must cover the same pixels")


def _labels(name: str, labels: np.ndarray) -> tuple[np.ndarray, set[int]]:
    """The labels as uint8, and the values in them."""
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
    rgb = display_rgb(image)
    unenlarged = Size(min(grid[0], size.height), min(grid[1], size.width))
    if rgb.shape[:2] != unenlarged:
        shrinks = rgb.shape[0] > unenlarged.height or rgb.shape[1] > unenlarged.width
        rgb = _resized(rgb, unenlarged, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return rgb if unenlarged == size else _resized(rgb, size, cv2.INTER_NEAREST)


def _resized(rgb: np.ndarray, size: Size, interpolation: int) -> np.ndarray:
    return cv2.resize(rgb, (size.width, size.height), interpolation=interpolation)


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
    return [(OUTCOME_NAMES[outcome], OUTCOME_COLORS[outcome]) for outcome in shown] + _ignored_legend(present)


def _ignored_legend(present: set[int]) -> list[tuple[str, Color | None]]:
    return [("ignored", IGNORED_COLOR)] if IGNORE in present else []
