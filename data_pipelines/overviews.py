"""Images of any size, bands and data type made small enough to look at, without reading them whole into memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError

from data_pipelines.decoding import (
    TIFF_SUFFIXES,
    DecodeError,
    cause_of,
    dataset_info,
    open_tiff,
    read_image,
    read_info,
    tiff_palette,
    tiff_strips,
)
from data_pipelines.shards import gdal_name

_COLOURS = ColorInterp.red, ColorInterp.green, ColorInterp.blue


def bounded_cache() -> rasterio.Env:
    """Within it GDAL keeps 128 MiB of decoded blocks at most; by default it is 5 % of the machine's memory."""
    return rasterio.Env(GDAL_CACHEMAX=128 * 2**20)


@dataclass(frozen=True)
class Overview:
    """An image in another size: `pixels` H x W x C of the stored data type, C 1 or 3; `valid` bool H x W.

    `sensor`: the numbers are a sensor's own, to be stretched where they are shown, since the file has more than 8 bits
    or more than three bands beside an alpha; else they are grey or colours of 0..255.
    """

    pixels: np.ndarray
    valid: np.ndarray
    sensor: bool


def read_overview(path: Path, height: int, width: int, bands: Sequence[int] | None = None) -> Overview:
    """Read an image of any bands and data type at a smaller size: each pixel is the mean of those that it covers.

    `bands` are the one or three to show, counted from 1; by default those that the file itself calls red, green and
    blue, else the first three, or the first where there are fewer. Alpha, nodata values and masks make pixels invalid.
    A TIFF is read block by block, from its own overviews where it has them, so that memory does not grow with its size.
    DecodeError names the file and what is wrong: a band it lacks, complex numbers, an unreadable file.
    """
    path = Path(path)
    info = read_info(path)
    if path.suffix.lower() in TIFF_SUFFIXES:
        return _read_dataset(path, open_tiff(path), height, width, bands)
    if info.dtype != "uint8":  # Pillow makes 8 bits of the colour ones
        return _read_dataset(path, rasterio.open(gdal_name(path), driver="PNG"), height, width, bands)
    image = read_image(path)
    valid = np.ones(image.shape[:2], bool)
    if info.alpha:
        image, valid = image[..., :-1], image[..., -1] > 0
    chosen = _chosen(path, bands, image.shape[2])
    image = np.ascontiguousarray(image[..., [band - 1 for band in chosen]])
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)
        valid = cv2.resize(valid.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return Overview(image, valid, sensor=False)


def _read_dataset(path: Path, source: Any, height: int, width: int, bands: Sequence[int] | None) -> Overview:
    with source:
        info = dataset_info(source)
        if np.dtype(source.dtypes[0]).kind not in "uif":
            raise DecodeError(path, f"dtype {info.dtype}; only integers and floats can be shown")
        palette = tiff_palette(source)
        # many a file calls its fourth band alpha that is infrared: whoever asks for it knows better
        alpha = info.alpha and not (bands and info.bands in bands)
        stored = info.bands - alpha
        named = [source.colorinterp.index(colour) + 1 for colour in _COLOURS if colour in source.colorinterp]
        chosen = _chosen(path, bands, stored, named)
        indices = chosen if palette is None else [1]
        try:
            # of a palette GDAL takes the entry nearest to the mean colour
            pixels = source.read(indices, out_shape=(len(indices), height, width), resampling=Resampling.average)
            if MaskFlags.nodata in source.mask_flag_enums[indices[0] - 1]:
                # the mean is of those pixels alone that are not nodata
                valid = np.any(
                    [band != source.nodatavals[i - 1] for i, band in zip(indices, pixels, strict=True)], axis=0
                )
            elif info.alpha and not alpha:
                valid = np.ones((height, width), bool)
            else:
                valid = source.dataset_mask(out_shape=(height, width)) > 0
        except RasterioError as error:
            raise DecodeError(path, f"unreadable or cut short: {cause_of(error, source.name)}; restore it") from error
    pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
    if palette is not None:
        colours = palette[pixels[..., 0]]
        if alpha:
            valid &= colours[..., 3] > 0
        pixels = np.ascontiguousarray(colours[..., [band - 1 for band in chosen]])
    return Overview(pixels, valid, sensor=info.dtype != "uint8" or stored > 3)


def _chosen(path: Path, bands: Sequence[int] | None, stored: int, named: Sequence[int] = ()) -> list[int]:
    """The bands to show, counted from 1: as asked for, else red, green and blue, else the first."""
    if bands is None:
        return list(named) if len(named) == 3 else list(range(1, 4 if stored >= 3 else 2))
    if absent := [band for band in bands if not 1 <= band <= stored]:
        has = "one band" if stored == 1 else f"bands 1..{stored}"
        raise DecodeError(path, f"has no band {absent[0]}, it has {has}; choose among these")
    return list(bands)


def probability_strips(path: Path) -> Iterator[np.ndarray]:
    """The probability of change in horizontal strips from the top: rows x W, floats as stored or uint8 of 0..255.

    Of several bands, which are the probabilities of the classes, it is what the first, no change, leaves. DecodeError
    on a file that cannot be read, on other data types, and on several bands of 8 bits.
    """
    path = Path(path)
    info = read_info(path)
    stored = info.bands - info.alpha
    if info.dtype not in ("uint8", "float16", "float32", "float64") or (info.dtype == "uint8" and stored > 1):
        kind = f"{stored} band{'s' if stored > 1 else ''} of {info.dtype}"
        raise DecodeError(path, f"{kind} are no probabilities; allowed are floats of 0..1 and one band of 8 bits")
    if path.suffix.lower() not in TIFF_SUFFIXES:
        yield read_image(path)[..., 0]
        return
    with open_tiff(path) as source:
        for strip in tiff_strips(path, source):
            yield strip[..., 0] if stored == 1 else 1 - strip[..., 0]


def strips_together(*sources: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Strips of the same rows from several images of one height, whose own strips are of any heights."""
    waiting = [np.empty(0)] * len(sources)
    while True:
        for index, source in enumerate(sources):
            if not len(waiting[index]):
                strip = next(source, None)
                if strip is None:
                    return
                waiting[index] = strip
        rows = min(map(len, waiting))
        yield tuple(strip[:rows] for strip in waiting)
        waiting = [strip[rows:] for strip in waiting]
