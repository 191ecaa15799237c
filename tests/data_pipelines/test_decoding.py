"""Decoding: what is stored comes out, and what cannot be decoded whole is refused by name."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines import decoding
from data_pipelines.decoding import (
    DecodeError,
    Grid,
    grid_difference,
    image_strips,
    read_image,
    read_info,
    read_mask,
    require_same_grid,
)

H, W = 6, 9
GROUND = Affine(30, 0, 400000, 0, -30, 3600000)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def save_tiff(path: Path, array: np.ndarray, crs: str | None = None, transform: Affine = GROUND, **options) -> Path:
    """`array` is bands x H x W."""
    count, height, width = array.shape
    where = {"crs": crs, "transform": transform} if crs else {}
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype.name}
    with rasterio.open(path, "w", **profile, **where, **options) as target:
        target.write(array)
    return path


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".webp", ".tif", ".TIFF"])
@pytest.mark.parametrize("bands", [1, 3])
def test_pixels_come_back_as_stored(tmp_path: Path, suffix: str, bands: int):
    array = noise(H, W, bands)
    path = tmp_path / f"x{suffix}"
    if suffix.lower().startswith(".tif"):
        save_tiff(path, np.moveaxis(array, 2, 0))
    elif suffix == ".webp":
        array = np.repeat(array[..., :1], 3, axis=2) if bands == 1 else array
        save(path, array, lossless=True)
    else:
        save(path, array.squeeze())
    image = read_image(path)
    np.testing.assert_array_equal(image, array)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    info = read_info(path)
    assert (info.height, info.width, info.bands, info.dtype, info.grid) == (H, W, array.shape[2], "uint8", None)


def test_jpeg_is_upright_by_its_exif_orientation(tmp_path: Path):
    array = np.zeros((16, 32, 3), np.uint8)
    array[:, :16] = 255  # left half white: upright after a quarter turn, the white half is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.jpg", array, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (32, 16, 3)
    assert image[:14].min() > 240
    assert image[18:].max() < 15
    info = read_info(path)
    assert (info.height, info.width, info.jpeg) == (32, 16, True)


def test_palette_is_colours_in_an_image_and_indices_in_a_mask(tmp_path: Path):
    indices = noise(H, W) % 3
    palette = [10, 20, 30, 40, 50, 60, 200, 100, 50]
    picture = Image.fromarray(indices)
    picture.putpalette(palette)
    picture.save(tmp_path / "x.png")
    save_tiff(tmp_path / "x.tif", indices[None])
    with rasterio.open(tmp_path / "x.tif", "r+") as target:
        target.write_colormap(1, {i: (*palette[3 * i : 3 * i + 3], 255) for i in range(3)})
    colours = np.array(palette, np.uint8).reshape(3, 3)[indices]
    for name in ("x.png", "x.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), colours)
        np.testing.assert_array_equal(read_mask(tmp_path / name), indices)
        assert read_info(tmp_path / name).bands == 3


def test_transparent_palette_entries_are_alpha_not_lost(tmp_path: Path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture.putpalette([9, 9, 9, 8, 8, 8])
    picture.save(tmp_path / "x.png", transparency=1)
    assert read_image(tmp_path / "x.png").tolist() == [[[9, 9, 9, 255], [8, 8, 8, 0]]]
    with pytest.raises(DecodeError, match="alpha is not opaque"):
        read_image(tmp_path / "x.png", bands=3)
    assert read_mask(tmp_path / "x.png").tolist() == [[0, 1]]


@pytest.mark.parametrize(("mode", "stored"), [("1", [0, 1, 0]), ("L", [0, 255, 0])])
def test_one_bit_and_grey_masks(tmp_path: Path, mode: str, stored: list[int]):
    path = save(tmp_path / "x.png", np.array([[0, 255, 0]], np.uint8), mode)
    assert read_mask(path).tolist() == [stored]
    assert read_mask(path).dtype == np.uint8
    assert read_image(path).shape == (1, 3, 1)
    assert read_image(path).max() == 255


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_png_of_few_bits_gives_its_numbers_as_a_mask(tmp_path: Path, bits: int):
    """Decoders spread 2 and 4 bits over 0..255, which would turn class 1 into 85 or 17."""
    classes = np.arange(2**bits, dtype=np.uint8)[None]
    path = tmp_path / "x.png"
    path.write_bytes(_grey_png(classes, bits))
    np.testing.assert_array_equal(read_mask(path), classes)
    np.testing.assert_array_equal(read_image(path)[..., 0], classes * (255 // (2**bits - 1)))


def _grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of `bits` bits a pixel, put together by hand since no encoder here writes one."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape
    unpacked = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(unpacked, axis=1))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_colour_masks_only_with_equal_channels(tmp_path: Path):
    grey = noise(H, W)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.dstack([rgb, np.full((H, W), 255, np.uint8)])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "rgb.png", rgb)), grey)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "rgba.png", opaque)), grey)
    np.testing.assert_array_equal(read_mask(save_tiff(tmp_path / "rgb.tif", np.moveaxis(rgb, 2, 0))), grey)
    with pytest.raises(DecodeError, match=r"x\.png: a mask of 3 bands that differ; store one band"):
        read_mask(save(tmp_path / "x.png", noise(H, W, 3)))
    opaque[0, 0, 3] = 0
    with pytest.raises(DecodeError, match="transparency"):
        read_mask(save(tmp_path / "x.png", opaque))


def test_wide_integer_masks_are_taken_where_they_fit(tmp_path: Path):
    values = np.array([[0, 1, 255]])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "x.png", values.astype(np.uint16))), values)
    for dtype in (np.uint16, np.int16, np.int32):
        np.testing.assert_array_equal(read_mask(save_tiff(tmp_path / "x.tif", values[None].astype(dtype))), values)
    with pytest.raises(DecodeError, match=r"mask values 0\.\.256; allowed are 0\.\.255"):
        read_mask(save_tiff(tmp_path / "x.tif", np.array([[[0, 1, 256]]], np.uint16)))
    with pytest.raises(DecodeError, match=r"mask values -1\.\.255"):
        read_mask(save_tiff(tmp_path / "x.tif", np.array([[[-1, 1, 255]]], np.int16)))
    with pytest.raises(DecodeError, match="a mask of float32"):
        read_mask(save_tiff(tmp_path / "x.tif", values[None].astype(np.float32)))


def test_bands_change_where_nothing_is_lost(tmp_path: Path):
    grey = noise(H, W)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.full((H, W), 255, np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "l.png", grey), bands=3), rgb)
    np.testing.assert_array_equal(read_image(save(tmp_path / "rgb.png", rgb), bands=1)[..., 0], grey)
    rgba = save(tmp_path / "rgba.png", np.dstack([rgb, opaque]))
    assert read_image(rgba).shape == (H, W, 4)
    np.testing.assert_array_equal(read_image(rgba, bands=4)[..., 3], opaque)
    np.testing.assert_array_equal(read_image(rgba, bands=3), rgb)
    np.testing.assert_array_equal(read_image(rgba, bands=1)[..., 0], grey)
    tiff = save_tiff(tmp_path / "x.tif", np.stack([*np.moveaxis(rgb, 2, 0), opaque]), photometric="RGB", alpha="yes")
    np.testing.assert_array_equal(read_image(tiff, bands=3), rgb)


def test_bands_that_would_lose_something_are_refused_with_both_counts(tmp_path: Path):
    rgb = save(tmp_path / "rgb.png", noise(H, W, 3))
    with pytest.raises(DecodeError, match=r"rgb\.png: 3 bands whose channels differ where 1 are wanted"):
        read_image(rgb, bands=1)
    with pytest.raises(DecodeError, match="4 bands where 3 are wanted, and its alpha is not opaque"):
        read_image(save(tmp_path / "rgba.png", noise(H, W, 4)), bands=3)
    six = save_tiff(tmp_path / "six.tif", noise(6, H, W))
    assert read_image(six).shape == (H, W, 6)
    with pytest.raises(DecodeError, match=r"six\.tif: 6 bands where 3 are wanted"):
        read_image(six, bands=3)
    # Red, green, blue, infrared: the fourth band is data even where it is 255 throughout.
    bands = noise(4, H, W)
    bands[3] = 255
    with pytest.raises(DecodeError, match="4 bands where 3 are wanted"):
        read_image(save_tiff(tmp_path / "nir.tif", bands, photometric="MINISBLACK", alpha="unspecified"), bands=3)


def test_other_dtypes_and_colour_kinds_are_refused_by_name(tmp_path: Path):
    with pytest.raises(DecodeError, match=r"x\.png: dtype uint16; images must be uint8"):
        read_image(save(tmp_path / "x.png", noise(H, W).astype(np.uint16)))
    # Pillow alone would read this one as 8 bits, dropping half of every number.
    cv2.imwrite(str(tmp_path / "rgb16.png"), noise(H, W, 3).astype(np.uint16) * 257)
    assert read_info(tmp_path / "rgb16.png").dtype == "uint16"
    with pytest.raises(DecodeError, match=r"rgb16\.png: dtype uint16"):
        read_image(tmp_path / "rgb16.png")
    with pytest.raises(DecodeError, match=r"x\.tif: dtype float32"):
        read_image(save_tiff(tmp_path / "x.tif", noise(1, H, W).astype(np.float32)))
    with pytest.raises(DecodeError, match="kind CMYK"):
        read_image(save(tmp_path / "x.jpg", noise(H, W, 3), "CMYK"))
    for interleave in ("PIXEL", "BAND"):
        path = save_tiff(tmp_path / f"{interleave}.tif", noise(4, H, W), photometric="CMYK", interleave=interleave)
        with pytest.raises(DecodeError, match="kind CMYK"):
            read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_a_file_cut_short_is_refused_never_half_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"x{suffix}"
    if suffix == ".tif":
        save_tiff(path, noise(3, 64, 64))
    else:
        save(path, noise(64, 64, 3))
    whole = path.read_bytes()
    for share in (0, 0.01, 0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        for read in (read_image, read_mask):
            with pytest.raises(DecodeError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)
            assert "buffer" not in str(caught.value)  # what Python calls the bytes that are not there


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data(), suffix=st.sampled_from(["png", "jpeg", "bmp", "webp", "tiff"]))
def test_damaged_bytes_give_an_image_or_a_decode_error(tmp_path: Path, data, suffix: str):
    buffer = io.BytesIO()
    Image.fromarray(noise(16, 16, 3)).save(buffer, suffix)
    content = bytearray(buffer.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(bytes(content))
    try:
        image = read_image(path)
    except DecodeError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_a_header_of_more_pixels_than_the_file_holds_is_an_error_of_the_file(tmp_path: Path):
    content = bytearray(tiff_bytes())
    width = content.index(struct.pack("<HHII", 256, 4, 1, 16)) + 8
    content[width : width + 4] = struct.pack("<I", 2**31 - 17)
    path = tmp_path / "wide.tif"
    path.write_bytes(bytes(content))
    with pytest.raises(DecodeError, match=r"wide\.tif: says that it has 2147483631 x 16 .*more than the file holds"):
        read_image(path)


@pytest.mark.parametrize("tag", [256, 257])
@pytest.mark.parametrize("tiled", [False, True])
def test_a_damaged_size_is_an_error_of_the_file(tmp_path: Path, tag: int, tiled: bool):
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    path = save_tiff(tmp_path / "large.tif", np.zeros((3, 16, 16), np.uint8), **tiles)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HHI", tag, 3, 1)) + 2
    content[at : at + 10] = struct.pack("<HII", 4, 1, 2**31 - 17)
    path.write_bytes(bytes(content))
    with pytest.raises(DecodeError, match=r"large\.tif: ") as error:
        read_image(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_info, read_image, read_mask])
def test_a_damaged_georeference_is_an_error_of_the_file(tmp_path: Path, read):
    path = save_tiff(tmp_path / "place.tif", np.zeros((1, H, W), np.uint8), "EPSG:32631")
    content = path.read_bytes()
    zone, name = struct.pack("<HHHH", 3072, 0, 1, 32631), b"WGS 84 / UTM zone 31N"  # the CRS, and its name in words
    assert zone in content
    assert name in content
    content = content.replace(zone, struct.pack("<HHHH", 3072, 0, 1, 32564))  # which is none: GDAL quotes the name
    path.write_bytes(content.replace(name, b"WGS 84 / UTM \xdeone 31N"))
    with pytest.raises(DecodeError, match=r"place\.tif: .*damaged: .*restore it"):
        read(path)


def tiff_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(16, 16, 3)).save(buffer, "tiff")
    return buffer.getvalue()


def test_what_is_no_image_says_so(tmp_path: Path):
    for suffix in (".png", ".tif"):
        with pytest.raises(DecodeError, match="no such file"):
            read_image(tmp_path / f"absent{suffix}")
        path = tmp_path / f"page{suffix}"
        path.write_text("<html>404</html>")
        with pytest.raises(DecodeError, match="damaged"):
            read_info(path)


def test_frames_and_pages_are_refused(tmp_path: Path):
    first, second = (Image.fromarray(noise(H, W, 3, seed=seed)) for seed in (1, 2))
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second])
    with pytest.raises(DecodeError, match="animation"):
        read_image(tmp_path / "x.webp")
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    with pytest.raises(DecodeError, match="2 pages"):
        read_image(tmp_path / "x.tif")


def test_tiff_strips_are_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    array = noise(100, 40, 3)
    path = save_tiff(tmp_path / "x.tif", np.moveaxis(array, 2, 0), blockysize=16)
    monkeypatch.setattr(decoding, "_STRIP_BYTES", 40 * 3 * 40)  # two blocks of 16 rows
    strips = list(image_strips(path))
    assert [strip.shape[0] for strip in strips] == [32, 32, 32, 4]
    np.testing.assert_array_equal(np.concatenate(strips), array)
    np.testing.assert_array_equal(read_image(path), array)


def test_the_grid_of_a_geotiff(tmp_path: Path):
    info = read_info(save_tiff(tmp_path / "x.tif", noise(2, H, W), crs="EPSG:32651"))
    assert info.grid == Grid("EPSG:32651", tuple(GROUND)[:6], W, H)


@pytest.mark.parametrize(
    ("crs", "transform", "said"),
    [
        ("EPSG:32651", GROUND, ""),
        ("EPSG:32651", GROUND @ Affine.translation(0.004, 0), ""),
        ("EPSG:32651", GROUND @ Affine.translation(0.5, 0), "corner"),
        ("EPSG:32651", GROUND @ Affine.scale(1.01), "corner"),
        ("EPSG:32650", GROUND, "CRS EPSG:32650, not EPSG:32651"),
    ],
)
def test_rasters_on_different_grids_are_refused_naming_both(tmp_path: Path, crs: str, transform: Affine, said: str):
    before = save_tiff(tmp_path / "before.tif", noise(1, H, W), crs="EPSG:32651")
    after = save_tiff(tmp_path / "after.tif", noise(1, H, W), crs=crs, transform=transform)
    if not said:
        require_same_grid(before, after)
        return
    with pytest.raises(DecodeError, match=said) as caught:
        require_same_grid(before, after)
    assert str(before) in str(caught.value)
    assert str(after) in str(caught.value)


def test_grids_of_other_sizes_differ_and_one_crs_has_many_texts():
    grid = Grid("EPSG:32651", tuple(GROUND)[:6], W, H)
    assert grid_difference(grid, Grid(grid.crs, grid.transform, W + 1, H)) == "10 x 6 pixels, not 9 x 6"
    wkt = rasterio.crs.CRS.from_epsg(32651).to_wkt()
    assert grid_difference(grid, Grid(wkt, grid.transform, W, H)) == ""


def test_plain_pictures_have_no_grid_to_differ(tmp_path: Path):
    plain = save(tmp_path / "x.png", noise(H, W))
    require_same_grid(plain, save_tiff(tmp_path / "x.tif", noise(1, H, W), crs="EPSG:32651"))


def test_plain_tiffs_are_read_without_a_warning(tmp_path: Path):
    path = save_tiff(tmp_path / "x.tif", noise(1, H, W))
    code = f"from data_pipelines.decoding import read_image; print(read_image({str(path)!r}).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"({H}, {W}, 1)\n", "")
