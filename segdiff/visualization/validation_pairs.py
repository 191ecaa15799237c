"""Pairs whose truth is known, as a training shows them: before, after, truth and prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from segdiff.visualization.display import display_rgb
from segdiff.visualization.drawing import Size, compare, draw_change, draw_outcomes, resize_labels
from segdiff.visualization.overlays import mark_change, mark_outcomes
from segdiff.visualization.palettes import Color
from segdiff.visualization.sheets import sheet


@dataclass(frozen=True)
class PairPanels:
    """Pictures of one size, uint8 RGB by caption, and what their colours mean."""

    panels: dict[str, np.ndarray]
    legend: tuple[tuple[str, Color | None], ...]


def pair_panels(
    before: np.ndarray,
    after: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray,
    *,
    classes: Sequence[str],
    longest: int = 512,
) -> PairPanels:
    """Before, after, the truth in the colours of its classes, and the prediction as true, false and missed pixels.

    `before` and `after` are H x W x C of one size, as `display_rgb` takes them; `mask` and `truth` uint8 H x W of class
    indices (0 = no change, 255 = ignore). What is longer than `longest` is shrunk to it.
    """
    outcomes = compare(mask, truth)
    size = _size(after, longest)
    left, right = (_shrunk(display_rgb(image), size) for image in (before, after))
    panels = {
        "before": left,
        "after": right,
        "truth": draw_change(right, resize_labels(truth, size)),
        "prediction": draw_outcomes(right, resize_labels(outcomes, size)),
    }
    of_outcomes = mark_outcomes(outcomes).legend
    # of one kind of change the caption says enough
    of_classes = mark_change(truth, classes).legend if len(classes) > 2 and (truth % 255).any() else ()
    return PairPanels(panels, tuple(dict.fromkeys((*of_classes, *of_outcomes))))


def pair_sheet(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, truth: np.ndarray, *, classes: Sequence[str]
) -> np.ndarray:
    """The panels of `pair_panels` side by side, with captions and legend: uint8 RGB."""
    shown = pair_panels(before, after, mask, truth, classes=classes)
    return sheet(list(shown.panels.values()), list(shown.panels), shown.legend)


def _size(image: np.ndarray, longest: int) -> Size:
    height, width = image.shape[:2]
    scale = min(longest / max(height, width), 1.0)
    return Size(max(round(height * scale), 1), max(round(width * scale), 1))


def _shrunk(rgb: np.ndarray, size: Size) -> np.ndarray:
    return rgb if rgb.shape[:2] == size else cv2.resize(rgb, (size.width, size.height), interpolation=cv2.INTER_AREA)
