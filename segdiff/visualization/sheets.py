"""Panels side by side on a white page, with captions and a legend."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from segdiff.visualization.palettes import INK, Color

SMALLEST_PANEL = 160  # narrower panels are centred in a cell of this width, so that a legend fits

_FRAME: Color = (160, 160, 160)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Scale(NamedTuple):
    """A colour bar in a legend: the words at its two ends, and its colours, uint8 1 x N x 3, from one to the other."""

    low: str
    high: str
    colors: np.ndarray


Legend = Sequence[tuple[str, Color | Scale | None]]
"""Words and what they explain; None: words without a colour of their own."""


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


def _text_scale(height: int) -> float:
    (_, ascent), descent = cv2.getTextSize("Ag", _FONT, 1.0, 1)
    return 0.62 * height / (ascent + descent)


def _text_width(text: str, scale: float) -> int:
    return cv2.getTextSize(text, _FONT, scale, 1)[0][0]


def _put_text(strip: np.ndarray, text: str, left: int, scale: float) -> None:
    (_, ascent), descent = cv2.getTextSize("Ag", _FONT, scale, 1)
    base = (len(strip) + ascent - descent + 1) // 2
    cv2.putText(strip, text, (left, base), _FONT, scale, INK, max(1, round(scale)), cv2.LINE_AA)


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
        swatch = _swatch(color, row_height, scale)
        gap = row_height // 3 if swatch.shape[1] else 0
        room = width - margin - (margin + swatch.shape[1] + gap)
        length = _text_width(text, scale)
        if length > room:
            scale, length = scale * room / length, room
        if left > margin and left + swatch.shape[1] + gap + length > width - margin:
            rows.append(np.full((row_height, width, 3), 255, np.uint8))
            left = margin
        rows[-1][:, left : left + swatch.shape[1]] = swatch
        left += swatch.shape[1] + gap
        _put_text(rows[-1], text, left, scale)
        left += length + row_height
    return np.concatenate(rows)


def _swatch(color: Color | Scale | None, row_height: int, scale: float) -> np.ndarray:
    """What stands before the words, on a white ground as high as the row; nothing where there is no colour."""
    side, gap = round(0.6 * row_height), row_height // 4
    if color is None:
        return np.empty((row_height, 0, 3), np.uint8)
    if not isinstance(color, Scale):
        return _framed(np.array(color, np.uint8)[None, None], side, row_height)
    bar = _framed(color.colors, 6 * side, row_height)
    ends = []
    for text in (color.low, color.high):
        ends.append(np.full((row_height, _text_width(text, scale), 3), 255, np.uint8))
        _put_text(ends[-1], text, 0, scale)
    space = np.full((row_height, gap, 3), 255, np.uint8)
    return np.concatenate([ends[0], space, bar, space, ends[1]], axis=1)


def _framed(colors: np.ndarray, width: int, row_height: int) -> np.ndarray:
    """The colours (1 x N x 3) from left to right, in a thin frame: pale ones end somewhere."""
    height = round(0.6 * row_height)
    top = (row_height - height) // 2
    strip = np.full((row_height, width, 3), 255, np.uint8)
    strip[top : top + height] = INK
    inside = width - 2, height - 2
    strip[top + 1 : top + height - 1, 1:-1] = cv2.resize(colors, inside, interpolation=cv2.INTER_LINEAR)
    return strip
