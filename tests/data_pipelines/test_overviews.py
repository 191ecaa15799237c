"""Overviews against means over blocks, worked out in the test."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import ColorInterp

from data_pipelines.decoding import DecodeError
from data_pipelines.overviews import probability_strips, read_overview, strips_together


def numbers(*shape: int, high: int = 60000, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(1, high, shape).astype(dtype)


def save_tiff(path: Path, array: np.ndarray, **options) -> Path:
    """`array` is bands x H x W."""
    profile = {"driver": "GTiff", "count": array.shape[0], "height": array.shape[1], "width": array.shape[2]}
    with rasterio.open(path, "w", dtype=array.dtype.name, **profile, **options) as target:
        target.write(array)
    return path


def means(array: np.ndarray, factor: int) -> np.ndarray:
    """bands x H x W to h x w x bands, the mean of every block."""
    bands, height, width = array.shape
    blocks = array.reshape(bands, height // factor, factor, width // factor, factor).astype(float)
    return np.moveaxis(blocks.mean(axis=(2, 4)), 0, 2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("tiles", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_every_pixel_is_the_mean_of_those_it_covers(tmp_path: Path, dtype: str, tiles: dict):
    array = numbers(5, 60, 90, high=250 if dtype == "uint8" else 30000, dtype=dtype)
    shown = read_overview(save_tiff(tmp_path / "x.tif", array, **tiles), 20, 30)
    assert (shown.pixels.shape, shown.pixels.dtype, shown.sensor) == ((20, 30, 3), np.dtype(dtype), True)
    assert np.abs(shown.pixels - means(array[:3], 3)).max() <= 0.6
    assert shown.valid.all()


def test_bands_are_chosen(tmp_path: Path):
    array = numbers(6, 8, 10)
    path = save_tiff(tmp_path / "x.tif", array)
    np.testing.assert_array_equal(read_overview(path, 8, 10, [4, 3, 2]).pixels, np.moveaxis(array[[3, 2, 1]], 0, 2))
    np.testing.assert_array_equal(read_overview(path, 8, 10, [6]).pixels, array[5][..., None])
    with pytest.raises(DecodeError, match=r"x\.tif: has no band 7, it has bands 1\.\.6; choose among these"):
        read_overview(path, 8, 10, [7, 3, 2])
    two = save_tiff(tmp_path / "two.tif", array[:2])
    np.testing.assert_array_equal(read_overview(two, 8, 10).pixels, array[0][..., None])


def test_the_colours_that_the_file_names_are_shown(tmp_path: Path):
    array = numbers(4, 8, 10)
    path = save_tiff(tmp_path / "x.tif", array)
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    np.testing.assert_array_equal(read_overview(path, 8, 10).pixels, np.moveaxis(array[[2, 1, 0]], 0, 2))


@pytest.mark.parametrize(("bands", "dtype", "sensor"), [(1, "uint8", False), (3, "uint8", False), (4, "uint8", True),
                                                        (1, "uint16", True), (3, "float32", True)])  # fmt: skip
def test_what_is_a_sensors_own(tmp_path: Path, bands: int, dtype: str, sensor: bool):
    path = save_tiff(tmp_path / "x.tif", numbers(bands, 8, 10, high=200, dtype=dtype))
    assert read_overview(path, 8, 10, [bands]).sensor == sensor


def test_a_band_that_is_called_alpha_can_be_asked_for(tmp_path: Path):
    image = numbers(4, 8, 10, high=200, dtype="uint8")
    image[3, 0] = 0
    path = save_tiff(tmp_path / "x.tif", image)  # of four bands GDAL makes the last one alpha
    plain = read_overview(path, 8, 10)
    assert (plain.sensor, plain.valid[0].any(), plain.valid[1:].all()) == (False, False, True)
    infrared = read_overview(path, 8, 10, [4, 3, 2])
    assert infrared.sensor
    assert infrared.valid.all()
    np.testing.assert_array_equal(infrared.pixels, np.moveaxis(image[[3, 2, 1]], 0, 2))


def test_nodata_is_not_valid_and_not_in_the_means(tmp_path: Path):
    array = numbers(3, 6, 6)
    array[:, :2, :2] = 0
    array[:, 2, 2] = 0
    array[0, 4:, 4:] = 0  # one band alone: a dark colour
    shown = read_overview(save_tiff(tmp_path / "x.tif", array, nodata=0), 3, 3)
    assert shown.valid.tolist() == [[False, True, True], [True, True, True], [True, True, True]]
    rest = array[:, 2:4, 2:4].reshape(3, 4)[:, 1:].mean(axis=1)
    assert np.abs(shown.pixels[1, 1] - rest).max() <= 1


def test_alpha_and_masks_say_what_is_valid(tmp_path: Path):
    image = numbers(4, 4, 6, high=200, dtype="uint8")
    image[3] = 255
    image[3, :2] = 0
    expected = np.repeat([[False], [False], [True], [True]], 6, axis=1)
    path = save_tiff(tmp_path / "x.tif", image, photometric="RGB", alpha="YES")
    Image.fromarray(np.moveaxis(image, 0, 2)).save(tmp_path / "x.png")
    for shown in (read_overview(path, 4, 6), read_overview(tmp_path / "x.png", 4, 6)):
        np.testing.assert_array_equal(shown.pixels, np.moveaxis(image[:3], 0, 2))
        np.testing.assert_array_equal(shown.valid, expected)
        assert not shown.sensor
    masked = save_tiff(tmp_path / "m.tif", image[:3])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as target:
        target.write_mask(expected)
    np.testing.assert_array_equal(read_overview(masked, 4, 6).valid, expected)


def test_a_palette_is_colours_and_none_is_mixed(tmp_path: Path):
    indices = numbers(1, 12, 12, high=3, dtype="uint8")
    path = save_tiff(tmp_path / "x.tif", indices)
    colours = {0: (0, 0, 0, 255), 1: (250, 10, 20, 255), 2: (5, 200, 100, 255)}
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, colours)
    whole = read_overview(path, 12, 12)
    np.testing.assert_array_equal(whole.pixels, np.array([colours[i][:3] for i in range(3)], np.uint8)[indices[0]])
    small = read_overview(path, 4, 4).pixels.reshape(-1, 3)
    assert {tuple(colour) for colour in small.tolist()} <= {colour[:3] for colour in colours.values()}


@pytest.mark.parametrize("bands", [1, 3])
def test_png_of_16_bits_keeps_them(tmp_path: Path, bands: int):
    array = numbers(8, 10, bands)
    cv2.imwrite(str(tmp_path / "x.png"), array[..., ::-1] if bands == 3 else array)
    shown = read_overview(tmp_path / "x.png", 4, 5)
    assert shown.sensor
    assert np.abs(shown.pixels - means(np.moveaxis(array, 2, 0), 2)).max() <= 0.6


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_plain_pictures(tmp_path: Path, suffix: str):
    array = np.full((40, 60, 3), 200, np.uint8)
    array[::2] = 100
    Image.fromarray(array).save(tmp_path / f"x{suffix}", quality=100)
    shown = read_overview(tmp_path / f"x{suffix}", 20, 30)
    assert (shown.pixels.shape, shown.sensor, shown.valid.all()) == ((20, 30, 3), False, True)
    assert np.abs(shown.pixels.astype(int) - 150).max() <= 3


def test_what_cannot_be_shown_is_named(tmp_path: Path):
    waves = save_tiff(tmp_path / "x.tif", np.ones((1, 8, 8), np.complex64))
    with pytest.raises(DecodeError, match=r"x\.tif: dtype complex64; only integers and floats can be shown"):
        read_overview(waves, 4, 4)
    cut = save_tiff(tmp_path / "cut.tif", numbers(3, 300, 300), compress="deflate")
    cut.write_bytes(cut.read_bytes()[:-9000])
    with pytest.raises(DecodeError, match=r"cut\.tif: (unreadable or cut short|not a TIFF, or damaged).*restore it"):
        read_overview(cut, 30, 30)


def test_probabilities(tmp_path: Path):
    likely = np.random.default_rng(0).random((4, 9, 7)).astype(np.float32)
    alone = save_tiff(tmp_path / "one.tif", likely[:1])
    classes = save_tiff(tmp_path / "four.tif", likely)
    Image.fromarray(numbers(9, 7, high=255, dtype="uint8")).save(tmp_path / "x.png")
    np.testing.assert_array_equal(np.concatenate(list(probability_strips(alone))), likely[0])
    np.testing.assert_array_equal(np.concatenate(list(probability_strips(classes))), 1 - likely[0])
    (picture,) = probability_strips(tmp_path / "x.png")
    np.testing.assert_array_equal(picture, numbers(9, 7, high=255, dtype="uint8"))
    for wrong in (numbers(1, 9, 7), numbers(3, 9, 7, high=255, dtype="uint8")):
        save_tiff(tmp_path / "wrong.tif", wrong)
        with pytest.raises(DecodeError, match=r"wrong\.tif: .* no probabilities; allowed are floats of 0\.\.1"):
            list(probability_strips(tmp_path / "wrong.tif"))


@given(st.lists(st.lists(st.integers(1, 5), min_size=1), min_size=1, max_size=3), st.integers(1, 20))
def test_strips_come_together(heights: list[list[int]], rows: int):
    images = [np.arange(rows * 2).reshape(rows, 2) + 100 * index for index in range(len(heights))]

    def strips(image: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
        top = index = 0
        while top < rows:
            yield image[top : top + sizes[index % len(sizes)]]
            top += sizes[index % len(sizes)]
            index += 1

    together = list(strips_together(*(strips(image, sizes) for image, sizes in zip(images, heights, strict=True))))
    assert all(len({len(strip) for strip in strips}) == 1 for strips in together)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(np.concatenate([strips[index] for strips in together]), image)
