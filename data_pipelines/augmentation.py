"""Random changes of a pair of crops: the same geometry for before, after and mask; photometry of each image its own."""

import os
import threading

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for its newest version
import albumentations as A  # noqa: N812
import cv2

from data_pipelines.mask_offset import displaced

_WHOLE_SHIFTS = 0.4
"""Fraction of the crops that ``whole_shift`` moves: pairs that lie as they are remain the most."""


class Augmentation:
    """Augments pairs, each from a seed of its own, so that a run is repeatable whatever thread does the work.

    The numbers are those of the configuration's ``data.augmentation``: ``flip``, ``swap``, ``scale`` (fraction),
    ``rotate`` (degrees), ``brightness``, ``contrast``, ``gamma``, ``band_gain``, ``hue``, ``saturation``, ``noise``
    (fractions), ``blur`` (pixels), ``jpeg`` (lowest quality or None), ``misregistration`` (pixels), ``whole_shift``
    (whole pixels). 0, None and False switch one off. ``swap`` leaves the mask as it is: it is for masks that say where
    something changed, not how. ``mask_offset`` is ``data.mask_offset``: whole pixels (right, down) by which masks lie
    away from what they mark, flipped or not.
    """

    def __init__(
        self,
        *,
        bands: int,
        flip: bool = False,
        swap: bool = False,
        scale: float = 0.0,
        rotate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        gamma: float = 0.0,
        band_gain: float = 0.0,
        hue: float = 0.0,
        saturation: float = 0.0,
        noise: float = 0.0,
        blur: float = 0.0,
        jpeg: int | None = None,
        misregistration: float = 0.0,
        whole_shift: int = 0,
        mask_offset: tuple[int, int] = (0, 0),
    ):
        if (hue or saturation) and bands != 3:
            raise ValueError(f"hue and saturation need 3 bands, the images have {bands}: set both to 0")
        if jpeg is not None and bands not in (1, 3):
            raise ValueError(f"jpeg needs 1 or 3 bands, the images have {bands}: set it to null")
        self._swap, self._misregistration, self._whole_shift = swap, misregistration, whole_shift
        self._mask_offset = mask_offset
        self._geometry = lambda: A.Compose(_geometry(flip, scale, rotate), additional_targets={"after": "image"})
        self._photometry = lambda: A.Compose(
            _photometry(brightness, contrast, gamma, band_gain, hue, saturation, noise, blur, jpeg), seed=0
        )
        # A Compose holds its random state: one for each thread
        self._of_thread = threading.local()

    def __call__(
        self, before: np.ndarray, after: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augmented uint8 H x W x C, H x W x C and H x W. Masks are never interpolated but by the nearest pixel."""
        if not hasattr(self._of_thread, "geometry"):
            self._of_thread.geometry, self._of_thread.photometry = self._geometry(), self._photometry()
        geometry, photometry = self._of_thread.geometry, self._of_thread.photometry
        geometry.set_random_seed(int(rng.integers(2**31)))
        # flips are of what the mask marks: the offset is taken off before them and put back after
        right, down = self._mask_offset
        moved = geometry(image=before, after=after, mask=displaced(mask, (-right, -down)))
        before, after, mask = moved["image"], moved["after"], displaced(moved["mask"], (right, down))
        if self._misregistration:
            before = _shift(before, rng.uniform(-self._misregistration, self._misregistration, 2))
        if self._whole_shift and rng.random() < _WHOLE_SHIFTS:
            before = _shift(before, rng.integers(-self._whole_shift, self._whole_shift, 2, endpoint=True))
        # last: masks are mostly of what is new in the image after, which stays where it is marked whatever it is called
        if self._swap and rng.random() < 0.5:
            before, after = after, before
        if photometry.transforms:
            photometry.set_random_seed(int(rng.integers(2**31)))
            before = photometry(image=before)["image"]
            photometry.set_random_seed(int(rng.integers(2**31)))
            after = photometry(image=after)["image"]
        return before, after, mask


def _geometry(flip: bool, scale: float, rotate: float) -> list[A.BasicTransform]:
    transforms: list[A.BasicTransform] = []
    if flip:
        transforms.append(A.D4(p=1.0))
    if scale or rotate:
        transforms.append(
            A.Affine(
                scale=(1 - scale, 1 + scale),
                keep_ratio=True,
                rotate=(-rotate, rotate),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_REFLECT_101,
                p=0.7,
            )
        )
    return transforms


def _photometry(
    brightness: float,
    contrast: float,
    gamma: float,
    band_gain: float,
    hue: float,
    saturation: float,
    noise: float,
    blur: float,
    jpeg: int | None,
) -> list[A.BasicTransform]:
    transforms: list[A.BasicTransform] = []
    if brightness or contrast:
        transforms.append(A.RandomBrightnessContrast((-brightness, brightness), (-contrast, contrast), p=0.8))
    if gamma:
        transforms.append(A.RandomGamma(gamma_limit=(100 / (1 + gamma), 100 * (1 + gamma)), p=0.5))
    if band_gain:
        gains = (1 - band_gain, 1 + band_gain)
        transforms.append(A.MultiplicativeNoise(multiplier=gains, per_channel=True, elementwise=False, p=0.5))
    if hue or saturation:
        shift, stretch = round(180 * hue), round(255 * saturation)
        transforms.append(A.HueSaturationValue((-shift, shift), (-stretch, stretch), (0, 0), p=0.5))
    if blur:
        transforms.append(A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, max(blur, 0.1)), p=0.3))
    if noise:
        transforms.append(A.GaussNoise(std_range=(0.0, noise), p=0.5))
    if jpeg is not None:
        transforms.append(A.ImageCompression(quality_range=(jpeg, 100), p=0.5))
    return transforms


def _shift(image: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The image moved by (x, y) pixels, the border mirrored."""
    height, width, bands = image.shape
    matrix = np.array([[1, 0, by[0]], [0, 1, by[1]]], np.float64)  # whole pixels come out as they are
    # OpenCV warps at most four bands at a time
    parts = [
        cv2.warpAffine(
            np.ascontiguousarray(image[..., k : k + 4]),
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(height, width, -1)
        for k in range(0, bands, 4)
    ]
    return np.concatenate(parts, axis=-1)
