"""OpenCV's resizing of images with any number of bands."""

import cv2
import numpy as np

_BANDS_AT_ONCE = 4
"""The most that OpenCV takes the means of."""


def resize(image: np.ndarray, to: tuple[int, int], method: int) -> np.ndarray:
    """``cv2.resize`` of H x W x C to (height, width), whatever the number of bands."""
    resized = []
    for band in range(0, image.shape[2], _BANDS_AT_ONCE):
        bands = np.ascontiguousarray(image[..., band : band + _BANDS_AT_ONCE])
        resized.append(cv2.resize(bands, to[::-1], interpolation=method).reshape(*to, -1))
    return resized[0] if len(resized) == 1 else np.concatenate(resized, axis=2)
