"""Where the two images of a pair lie apart: found by phase correlation of their edges."""

from collections.abc import Iterable

import cv2
import numpy as np

Window = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Before and after, uint8 h x w x bands, and which pixels hold data, bool h x w."""

_EDGE_WIDTH = 1.5
"""Pixels, the deviation of the blur before edges are looked for."""
_PEAK_WIDTH = 2.0
"""Pixels, the deviation of what counts as one displacement: misregistration is not the same everywhere."""


def displacement(windows: Iterable[Window]) -> tuple[int, int]:
    """Pixels (down, right) by which what both images show lies further on in the image after, at most half a window.

    Phase correlation (Kuglin and Hines 1975) of how steep the mean over the bands is, which light and season change
    less than grey values; summed over all windows of the size of the first. Of images that have nothing in common it is
    any, and 0, 0 where there are none or they hold no data.
    """
    total, size = np.zeros(()), None
    for before, after, valid in windows:
        size = size or valid.shape
        if valid.shape == size and valid.any():
            one, other = (np.fft.rfft2(_edges(image, valid)) for image in (before, after))
            both = np.conj(one) * other
            strength = np.abs(both)
            total = total + np.divide(both, strength, out=np.zeros_like(both), where=strength > 0)
    if size is None or not total.any():
        return 0, 0
    down, right = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])
    near = np.exp(-2 * (np.pi * _PEAK_WIDTH) ** 2 * (down**2 + right**2))
    found = np.fft.irfft2(total * near, s=size)
    peak = np.unravel_index(found.argmax(), size)
    y, x = ((int(at) + side // 2) % side - side // 2 for at, side in zip(peak, size, strict=True))
    return y, x


def moved(window: Window, down: int, right: int) -> Window:
    """What both images of a window show once the image after is moved back by that many pixels."""
    before, after, valid = window
    height, width = valid.shape
    here = np.s_[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    there = np.s_[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    return before[here], after[there], valid[here] & valid[there]


def _edges(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """float32 h x w, of mean 0, and falling to 0 at the border: it is to tell nothing of where the window ends."""
    grey = cv2.GaussianBlur(image.mean(axis=2, dtype=np.float32), (0, 0), _EDGE_WIDTH)
    steep = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    fading = cv2.createHanningWindow(valid.shape[::-1], cv2.CV_32F)
    return (steep - steep[valid].mean()) * valid * fading
