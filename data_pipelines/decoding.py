"""Decode images and masks: PNG, JPEG, BMP and WebP with Pillow, TIFF with rasterio. A file is read whole or refused.

Pillow rather than OpenCV: it gives a palette as its indices, and a truncated file as an error, not as a grey half.
"""

import errno
import io
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose, prod
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import ExifTags, Image, ImageOps
from rasterio._err import CPLE_BaseError  # no public name for it
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Compression
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from data_pipelines.layouts import DataError
from data_pipelines.shards import ShardError, gdal_name, is_packed, read_bytes, read_start, stamp

# Pillow's limit guards web services against tiny files that unfold to gigabytes; a mosaic of 400 million pixels is
# ordinary here.
Image.MAX_IMAGE_PIXELS = None
# Plain pictures stored as TIFF are welcome. A filter for the process, since filters set around a call race in threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

TRANSPARENT = "its alpha is not opaque: flatten it, or mark the band as no alpha where it is not one"
"""What is wrong with an image whose alpha hides something."""

TIFF_SUFFIXES = (".tif", ".tiff")
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_MODES_ALLOWED = "grey, RGB, either with alpha, palette, 1-bit"
_GDAL_ERRORS = (RasterioError, CPLE_BaseError, UnicodeDecodeError)
"""What rasterio raises of a damaged file; the last where GDAL's message quotes its bytes."""

_LARGE_BLOCK = 1 << 28
"""Bytes of a strip or tile that are more than any real one has, but for the strips of huge files."""

_STRIP_BYTES = 16 * 2**20


class DecodeError(DataError):
    """A file that cannot be decoded as asked: `path`, `problem`; the message is the two in one line."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class Grid:
    """The ground that a raster covers: CRS as text ("" where unnamed), affine transform a..f, size in pixels.

    The transform (a, b, c, d, e, f) takes column and row of a pixel's upper left corner to map units:
    x = a column + b row + c, y = d column + e row + f.
    """

    crs: str
    transform: tuple[float, ...]
    width: int
    height: int


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image says. `bands` and the size are those `read_image` gives when asked for no bands.

    `dtype` is numpy's name; `grid` is None where the file is not georeferenced; `alpha`: the last band is transparency;
    `jpeg`: stored with JPEG compression, so that pixel values are not those that were saved.
    """

    height: int
    width: int
    bands: int
    dtype: str
    grid: Grid | None
    alpha: bool = False
    jpeg: bool = False


def read_info(path: Path) -> ImageInfo:
    """Read the header of an image or mask, not its pixels. DecodeError where it is not a supported image."""
    path = Path(path)
    if _is_tiff(path):
        with open_tiff(path) as source:
            return _tiff_info(path, source)
    with _open_pillow(path) as image:
        return _pillow_info(path, image)


def read_image(path: Path, bands: int | None = None) -> np.ndarray:
    """Decode an image to H x W x C uint8, 0..255, upright by its EXIF orientation, a palette as its colours.

    `bands` asks for that many channels, given where nothing is lost: grey becomes RGB with equal channels and back,
    alpha is dropped where it is opaque. DecodeError names the file and what it holds where that cannot be done, where
    the dtype is not uint8, and where the file is unreadable or only partly there.
    """
    path = Path(path)
    strips = list(image_strips(path))
    image = strips[0] if len(strips) == 1 else np.concatenate(strips)
    if bands is None or bands == image.shape[2]:
        return image
    return _with_bands(path, image, bands, alpha=read_info(path).alpha)


def read_rows(source: Any, y0: int, y1: int, bands: int) -> np.ndarray:
    """The rows y0 to y1 (excluded) of a dataset that rasterio has open: (y1 - y0) x W x bands, as `read_image` does.

    That may be a file of any driver, one in memory or a warped view, larger than memory. Alpha is dropped: it says
    which pixels are valid, and so does the dataset's own mask. DecodeError also where it is neither 0 nor 255 in most
    pixels of the rows: near infrared that was called alpha, as GDAL does with a fourth band of which nothing is said.
    """
    path, info = Path(source.name), dataset_info(source)
    _require_uint8(path, info.dtype)
    rows = _tiff_window(path, source, Window(0, y0, source.width, y1 - y0))
    colours = tiff_palette(source)
    rows = rows if colours is None else colours[rows[..., 0]]
    if info.alpha and rows.shape[2] != bands:
        alpha = rows[..., -1]
        if 2 * np.count_nonzero((alpha > 0) & (alpha < 255)) > alpha.size:
            raise _not_opaque(path, rows.shape[2], bands)
        rows = rows[..., :-1]
    return rows if rows.shape[2] == bands else _with_bands(path, rows, bands, alpha=False)


def dataset_info(source: Any) -> ImageInfo:
    """`read_info` of a dataset that rasterio has open."""
    return _tiff_info(Path(source.name), source)


def array_with_bands(label: str, image: np.ndarray, bands: int) -> np.ndarray:
    """`read_image` of an image in memory, uint8 H x W or H x W x C; DecodeError calls it by the label."""
    if image.ndim not in (2, 3) or 0 in image.shape:
        wanted = f"height x width x {bands or 'bands'}"
        raise DecodeError(Path(label), f"has the shape {image.shape}; it must be {wanted}, each 1 or more")
    _require_uint8(Path(label), image.dtype.name)
    return _with_bands(Path(label), image.reshape(*image.shape[:2], -1), bands, alpha=False)


def _not_opaque(path: Path, stored: int, bands: int) -> DecodeError:
    return DecodeError(path, f"{stored} bands where {bands} are wanted, and {TRANSPARENT}")


def _with_bands(path: Path, image: np.ndarray, bands: int, *, alpha: bool) -> np.ndarray:
    """H x W x C with as many channels as wanted, where nothing is lost by it, else DecodeError."""
    stored = image.shape[2]
    if alpha:
        if not is_opaque(image):
            raise _not_opaque(path, stored, bands)
        image = image[..., :-1]
    if bands == 3 and image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    elif bands == 1 and image.shape[2] == 3 and has_equal_channels(image):
        image = image[..., :1]
    if image.shape[2] != bands:
        colours = " whose channels differ" if (stored, bands) == (3, 1) else ""
        raise DecodeError(path, f"{stored} bands{colours} where {bands} are wanted; convert the file or leave it out")
    return np.ascontiguousarray(image)


def read_mask(path: Path) -> np.ndarray:
    """Decode a mask to H x W uint8 of the values as stored: palette indices, 0/1 of 1-bit files, else the one channel.

    Three equal channels are one, with opaque alpha or none. Integers of 16 or 32 bits are taken where all of them lie
    in 0..255. DecodeError on anything else: differing channels, floats, larger or negative values, an unreadable file.
    """
    strips = list(mask_strips(Path(path)))
    return strips[0] if len(strips) == 1 else np.concatenate(strips)


def require_same_grid(before: Path, after: Path) -> None:
    """Raise DecodeError, naming both files, where two georeferenced rasters cover different ground or pixels."""
    one, other = read_info(before).grid, read_info(after).grid
    if one and other and (difference := grid_difference(one, other)):
        raise DecodeError(Path(after), f"not on the grid of {before}: {difference}; warp one onto the other's grid")


def grid_difference(one: Grid, other: Grid) -> str:
    """Say in words how two grids differ, "" where they are the same: corners within a hundredth of a pixel, one CRS."""
    if (one.width, one.height) != (other.width, other.height):
        return f"{other.width} x {other.height} pixels, not {one.width} x {one.height}"
    if one.crs != other.crs and not _same_crs(one.crs, other.crs):
        return f"CRS {_short(other.crs)}, not {_short(one.crs)}"
    tolerance = 0.01 * max(abs(one.transform[index]) for index in (0, 1, 3, 4))
    corners = [(column, row) for column in (0, one.width) for row in (0, one.height)]
    for corner in corners:
        here, there = _to_map(one, *corner), _to_map(other, *corner)
        if not all(isclose(a, b, rel_tol=0, abs_tol=tolerance) for a, b in zip(here, there, strict=True)):
            return f"corner {corner} at {there[0]:.10g}, {there[1]:.10g}, not {here[0]:.10g}, {here[1]:.10g}"
    return ""


def is_opaque(image: np.ndarray) -> bool:
    """Whether the last channel of H x W x C is 255 everywhere."""
    return bool((image[..., -1] == 255).all())


def has_equal_channels(image: np.ndarray) -> bool:
    """Whether all channels of H x W x C are equal: grey stored as RGB."""
    return bool((image[..., 1:] == image[..., :1]).all())


def image_strips(path: Path) -> Iterator[np.ndarray]:
    """Decode an image in horizontal strips from the top, rows x W x C uint8; only a TIFF has more than one.

    For rasters larger than memory. The strips together are `read_image(path)`; raises as it does.
    """
    path = Path(path)
    if not _is_tiff(path):
        with _open_pillow(path) as picture:
            info = _pillow_info(path, picture)
            _require_uint8(path, info.dtype)
            _load(path, picture)
            pixels = np.array(picture.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[info.bands]))
            yield pixels.reshape(*pixels.shape[:2], info.bands)
        return
    with open_tiff(path) as source:
        _require_uint8(path, _tiff_info(path, source).dtype)
        colours = tiff_palette(source)
        for strip in tiff_strips(path, source):
            yield strip if colours is None else colours[strip[..., 0]]


def mask_strips(path: Path) -> Iterator[np.ndarray]:
    """Decode a mask in horizontal strips from the top, rows x W uint8.

    The strips together are `read_mask(path)`; raises as it does.
    """
    path = Path(path)
    if not _is_tiff(path):
        with _open_pillow(path) as picture:
            values = _pillow_stored(path, picture)
            yield _one_channel(path, values, alpha=picture.mode in ("LA", "RGBA"))
        return
    with open_tiff(path) as source:
        alpha = _tiff_info(path, source).alpha and source.count > 1
        for strip in tiff_strips(path, source):
            yield _one_channel(path, strip, alpha)


def _one_channel(path: Path, values: np.ndarray, alpha: bool) -> np.ndarray:
    if values.dtype.kind not in "biu":
        raise DecodeError(path, f"a mask of {values.dtype}; masks are whole numbers 0..255, store it as 8 bits")
    bands = values.shape[2]
    if alpha:
        if not is_opaque(values):
            raise DecodeError(path, f"a mask with transparency, {TRANSPARENT}")
        values = values[..., :-1]
    if values.shape[2] not in (1, 3) or not has_equal_channels(values):
        raise DecodeError(path, f"a mask of {bands} bands that differ; store one band of class values, not colours")
    values = values[..., 0]
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        raise DecodeError(path, f"mask values {low}..{high}; allowed are 0..255, store it as 8 bits")
    return values.astype(np.uint8)


def _require_uint8(path: Path, dtype: str) -> None:
    if dtype != "uint8":
        raise DecodeError(path, f"dtype {dtype}; images must be uint8, convert it to 8 bits")


# ----------------------------------------------------------------------------------------------------- Pillow


def _open_pillow(path: Path) -> Image.Image:
    try:
        # Opened by what it holds, not by its ending: a PNG named .jpg is common and harmless.
        image = Image.open(io.BytesIO(read_bytes(path)) if is_packed(path) else path, formats=_PILLOW_FORMATS)
    except FileNotFoundError:
        raise DecodeError(path, "no such file") from None
    except ShardError as error:
        raise DecodeError(path, str(error)) from error
    except Image.UnidentifiedImageError:
        empty = stamp(path)[0] == 0
        problem = (
            "an empty file" if empty else f"not an image, or damaged ({', '.join(_PILLOW_FORMATS)} or TIFF expected)"
        )
        raise DecodeError(path, f"{problem}; restore it") from None
    except MemoryError:
        raise
    except Exception as error:  # a parser fed with damaged bytes raises nearly anything
        raise DecodeError(path, f"unreadable: {cause_of(error)}; {mend_of(error)}") from error
    if image.format == "WEBP" and getattr(image, "n_frames", 1) > 1:
        raise DecodeError(path, "an animation; store one frame")
    return image


def _pillow_info(path: Path, image: Image.Image) -> ImageInfo:
    jpeg = image.format in ("JPEG", "MPO")
    width, height = image.size
    # The base class's getexif: that of PNG decodes the whole image to look for a chunk at its end.
    if Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):  # a quarter turn
        width, height = height, width
    depth, colour = _png_header(path) if image.format == "PNG" else (8, None)
    if depth == 16:  # Pillow shows the colour ones as 8 bits, silently
        bands = {0: 1, 2: 3, 4: 2, 6: 4}[colour or 0]
        return ImageInfo(height, width, bands, "uint16", None, alpha=bands in (2, 4))
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DecodeError(path, f"colours of the kind {image.mode}; allowed: {_MODES_ALLOWED}; convert it to RGB")
    alpha = image.has_transparency_data
    bands = (1 if image.mode in ("1", "L", "LA") else 3) + alpha
    return ImageInfo(height, width, bands, "uint8", None, alpha, jpeg)


def _pillow_stored(path: Path, image: Image.Image) -> np.ndarray:
    """H x W x C of the stored numbers: palettes as indices, 1-bit as 0 and 1, no low bit depth spread to 0..255."""
    info = _pillow_info(path, image)
    if info.dtype == "uint16" and info.bands != 1:
        raise DecodeError(path, f"a mask of {info.bands} bands of 16 bits; store one band of class values")
    depth, colour = _png_header(path) if image.format == "PNG" else (8, None)
    _load(path, image)
    values = np.array(image)
    if image.mode == "1":
        values = values.astype(np.uint8)
    elif colour == 0 and depth in (2, 4):
        values = values // (255 // (2**depth - 1))
    return values[..., None] if values.ndim == 2 else values


def _load(path: Path, image: Image.Image) -> None:
    """Decode in place and turn upright."""
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed with damaged bytes raises nearly anything
        raise DecodeError(path, f"unreadable or cut short: {cause_of(error)}; {mend_of(error)}") from error


def _png_header(path: Path) -> tuple[int, int]:
    """Bit depth and colour type of a PNG, which Pillow keeps to itself: bytes 24 and 25, after signature and size."""
    header = read_start(path, 26)
    return header[24], header[25]


# ------------------------------------------------------------------------------------------------------- TIFF


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in TIFF_SUFFIXES


def open_tiff(path: Path) -> Any:
    """Open a TIFF with rasterio. DecodeError where it is none, is damaged, or has several pages."""
    try:
        name = gdal_name(path)
    except FileNotFoundError:
        raise DecodeError(path, "no such file") from None
    except ShardError as error:
        raise DecodeError(path, str(error)) from error
    if not is_packed(path) and not path.is_file():
        raise DecodeError(path, "no such file")
    try:
        source = rasterio.open(name, driver="GTiff")
    except _GDAL_ERRORS as error:
        problem = "unreadable" if _denied(error) else "not a TIFF, or damaged"
        raise DecodeError(path, f"{problem}: {cause_of(error, name)}; {mend_of(error)}") from error
    if source.subdatasets:
        pages = len(source.subdatasets)
        source.close()
        raise DecodeError(path, f"{pages} pages; store each page as a file of its own")
    # A damaged width of an uncompressed file: GDAL would make room for rows of so many pixels before it misses them.
    block = prod(source.block_shapes[0]) * source.count * np.dtype(source.dtypes[0]).itemsize
    if source.compression is None and block > _LARGE_BLOCK and not is_packed(path) and block > path.stat().st_size:
        size = f"{source.width} x {source.height} pixels (width x height)"
        source.close()
        raise DecodeError(path, f"says that it has {size}, more than the file holds; restore it")
    return source


def _tiff_info(path: Path, source: Any) -> ImageInfo:
    try:
        return _header(path, source)
    except _GDAL_ERRORS as error:  # of a header that GDAL reads no sooner than it is asked for a part of it
        raise DecodeError(path, f"damaged: {cause_of(error, source.name)}; restore it") from error


def _header(path: Path, source: Any) -> ImageInfo:
    # GDAL turns CMYK into RGBA of its own making, and says so only in this tag.
    if source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK":
        raise DecodeError(path, f"colours of the kind CMYK; allowed: {_MODES_ALLOWED}; convert it to RGB")
    dtypes = sorted(set(source.dtypes))
    grid = None
    if source.crs or not source.transform.is_identity:
        crs = source.crs.to_string() if source.crs else ""
        grid = Grid(crs, tuple(source.transform)[:6], source.width, source.height)
    palette = tiff_palette(source)
    return ImageInfo(
        height=source.height,
        width=source.width,
        bands=source.count if palette is None else palette.shape[1],
        dtype="+".join(dtypes),
        grid=grid,
        alpha=source.colorinterp[-1] == ColorInterp.alpha if palette is None else palette.shape[1] == 4,
        jpeg=source.compression == Compression.jpeg,
    )


def tiff_palette(source: Any) -> np.ndarray | None:
    """The colours of a palette TIFF as 256 x 3 uint8, 256 x 4 where some are transparent; None without a palette."""
    if source.count != 1 or source.dtypes[0] != "uint8" or source.colorinterp[0] != ColorInterp.palette:
        return None
    colours = np.zeros((256, 4), np.uint8)
    for index, colour in source.colormap(1).items():
        colours[index] = colour
    listed = list(source.colormap(1))
    return colours if (colours[listed, 3] != 255).any() else np.ascontiguousarray(colours[:, :3])


def tiff_strips(path: Path, source: Any) -> Iterator[np.ndarray]:
    """rows x W x C as stored, in strips of about 16 MiB that end where the file's own blocks do."""
    block = source.block_shapes[0][0]
    row_bytes = source.width * sum(np.dtype(dtype).itemsize for dtype in source.dtypes)
    rows = max(1, _STRIP_BYTES // (row_bytes * block)) * block
    for top in range(0, source.height, rows):
        yield _tiff_window(path, source, Window(0, top, source.width, min(rows, source.height - top)))


def _tiff_window(path: Path, source: Any, window: Window) -> np.ndarray:
    """rows x columns x C as stored."""
    try:
        stored = source.read(window=window)
    except _GDAL_ERRORS as error:
        raise DecodeError(path, f"unreadable or cut short: {cause_of(error, source.name)}; restore it") from error
    except MemoryError as error:  # of a damaged header, mostly
        size = f"{source.width} x {source.height} pixels (width x height)"
        raise DecodeError(path, f"says that it has {size}, more than fits into memory; restore it") from error
    return np.ascontiguousarray(np.moveaxis(stored, 0, 2))


def _to_map(grid: Grid, column: float, row: float) -> tuple[float, float]:
    a, b, c, d, e, f = grid.transform
    return a * column + b * row + c, d * column + e * row + f


def _same_crs(one: str, other: str) -> bool:
    """Whether two texts name one CRS. A raster that names none is judged by its transform alone."""
    return not one or not other or CRS.from_string(one) == CRS.from_string(other)


def _short(crs: str) -> str:
    return crs if len(crs) <= 60 else f"{crs[:57]}..."


def mend_of(error: BaseException) -> str:
    """What to do about a file that cannot be read."""
    return "allow it to be read" if _denied(error) else "restore it"


def _denied(error: BaseException) -> bool:
    return os.strerror(errno.EACCES) in cause_of(error)  # of GDAL's errors nothing but the text tells


def cause_of(error: BaseException, name: str = "") -> str:
    """The innermost cause in one line, without the name of the file, which stands before it already."""
    while error.__cause__:
        error = error.__cause__
    if isinstance(error, struct.error):  # how Pillow meets the end of a file
        return "it ends too early"
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return (text.replace(f"{name}: ", "").replace(f"{name}, ", "") if name else text).rstrip(".")
