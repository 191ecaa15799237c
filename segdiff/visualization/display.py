"""Images of any bands and data type as people see them."""

import cv2
import numpy as np

PERCENTILES = 2, 98
"""Of a band's pixels: what is shown as black and as white where an image is stretched."""


def display_rgb(image: np.ndarray, valid: np.ndarray | None = None, *, stretch: bool | None = None) -> np.ndarray:
    """An image as people see it: H x W x C, C >= 1, of integers or floats, to uint8 H x W x 3.

    One band is shown grey, of two the first; three are red, green, blue, of more the first three. Unless `stretch` says
    otherwise, 8-bit images of up to three bands are shown as they are, and all others are stretched, since their order
    and range are the sensor's own: each band by itself from the 2nd..98th percentile of its pixels to 0..255, from the
    smallest to the largest where these are equal. A band of one value has nothing to stretch: it stays as it is where
    it is of 8 bits, else it is a middle grey. Pixels outside of `valid` (bool H x W) and those that are no numbers
    count for nothing and are black.
    Raises ValueError for other shapes and data types, and for 16 bits and floats that are not to be stretched.
    """
    require_image("image", image)
    if valid is not None and valid.shape != image.shape[:2]:
        raise ValueError(f"valid has shape {valid.shape}, the image {image.shape}: they must cover the same pixels")
    if stretch is None:
        stretch = image.shape[2] > 3 or image.dtype != np.uint8
    if not stretch and image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype}; only uint8 can be shown without stretching it")
    bands = np.ascontiguousarray(image[..., : 3 if image.shape[2] >= 3 else 1])
    if stretch:
        bands = np.dstack([_stretch(bands[..., index], valid) for index in range(bands.shape[2])])
    if valid is not None and not valid.all():
        bands = np.where(valid[..., None], bands, np.uint8(0))
    return bands if bands.shape[2] == 3 else cv2.cvtColor(bands, cv2.COLOR_GRAY2RGB)


def require_image(name: str, image: np.ndarray) -> None:
    """Raise ValueError, with the name, where `image` is not H x W x C of integers or floats."""
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; an image is H x W x C, none of them 0")
    if image.dtype.kind not in "uif":
        raise ValueError(f"{name} is {image.dtype}; an image to show is of integers or floats")


def _stretch(band: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    counted = valid
    if band.dtype.kind == "f":
        finite = np.isfinite(band)
        if not finite.all():
            band = np.where(finite, band, 0)
            counted = finite if valid is None else finite & valid
    shown = _stretched(band, band if counted is None else band[counted])
    return shown if counted is None else np.where(counted, shown, np.uint8(0))


def _stretched(band: np.ndarray, counted: np.ndarray) -> np.ndarray:
    if counted.size == 0:
        return np.zeros(band.shape, np.uint8)
    low, high = np.percentile(counted, PERCENTILES)
    if low == high:
        low, high = float(counted.min()), float(counted.max())
    if low == high:
        return band if band.dtype == np.uint8 else np.full(band.shape, 128, np.uint8)
    if band.dtype == np.uint8:
        return cv2.LUT(np.ascontiguousarray(band), _scaled(np.arange(256), low, high))
    return _scaled(band, low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
