"""GeoTIFFs written by rows read back as they were given, with grid, internal mask and overviews; files appear whole."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import MaskFlags

from data_pipelines.decoding import Grid, read_info
from segdiff.inference.rasters import is_raster, open_mask_writer, open_probability_writer, valid_rows, write_png_mask


def grid(height: int, width: int) -> Grid:
    return Grid("EPSG:32633", (0.5, 0.0, 500000.0, 0.0, -0.5, 5200000.0), width, height)


def write(path: Path, mask: np.ndarray, valid: np.ndarray | None = None, slab: int = 100) -> None:
    height, width = mask.shape
    with open_mask_writer(path, width=width, height=height, grid=grid(height, width)) as writer:
        for y in range(0, height, slab):
            writer.write_rows(y, mask[y : y + slab], None if valid is None else valid[y : y + slab])


def random_mask(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 7, (height, width), np.uint8)


def test_the_suffix_tells_a_raster():
    assert is_raster(Path("a.tif"))
    assert is_raster(Path("A.TIFF"))
    assert not is_raster(Path("a.png"))


@pytest.mark.parametrize("slab", [1, 100, 256, 700])
@pytest.mark.parametrize("size", [(10, 7), (513, 300)])
def test_a_mask_reads_back_with_its_grid_whatever_the_slabs(tmp_path: Path, size: tuple[int, int], slab: int):
    path, mask = tmp_path / "mask.tif", random_mask(*size)
    write(path, mask, slab=slab)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), mask)
        assert dataset.crs.to_epsg() == 32633
        assert tuple(dataset.transform)[:6] == grid(*size).transform
        assert dataset.compression.value == "DEFLATE"
        assert dataset.block_shapes == [(256, 256)]
        assert (dataset.count, dataset.dtypes, dataset.nodata) == (1, ("uint8",), None)
        assert dataset.colorinterp[0].name == "gray"
        assert dataset.overviews(1) == []
        assert dataset.mask_flag_enums == ([MaskFlags.all_valid],)
    assert [file.name for file in tmp_path.iterdir()] == ["mask.tif"]


def test_a_grid_with_an_unnamed_crs_keeps_its_transform(tmp_path: Path):
    path, place = tmp_path / "mask.tif", Grid("", (2.0, 0.0, 7.0, 0.0, -2.0, 9.0), 20, 10)
    with open_mask_writer(path, width=20, height=10, grid=place) as writer:
        writer.write_rows(0, np.ones((10, 20), np.uint8))
    info = read_info(path)
    assert info.grid == place


@pytest.mark.parametrize("first_invalid", [0, 300, 600])
def test_invalid_pixels_are_zero_and_in_the_internal_mask(tmp_path: Path, first_invalid: int):
    path, mask = tmp_path / "mask.tif", random_mask(640, 300)
    valid = np.ones(mask.shape, bool)
    valid[first_invalid : first_invalid + 20, 50:90] = False
    write(path, mask, valid, slab=77)
    assert [file.name for file in tmp_path.iterdir()] == ["mask.tif"], "the mask lies beside the file, not in it"
    with rasterio.open(path) as dataset:
        assert dataset.mask_flag_enums == ([MaskFlags.per_dataset],)
        np.testing.assert_array_equal(dataset.read_masks(1) != 0, valid)
        np.testing.assert_array_equal(dataset.read(1), np.where(valid, mask, 0))
        assert dataset.nodata is None


def test_large_rasters_get_overviews_of_mask_and_validity(tmp_path: Path):
    path = tmp_path / "mask.tif"
    mask = np.repeat(np.repeat(random_mask(75, 320), 8, 0), 8, 1)
    valid = np.ones(mask.shape, bool)
    valid[:, 1600:] = False
    write(path, mask, valid)
    assert [file.name for file in tmp_path.iterdir()] == ["mask.tif"]
    with rasterio.open(path) as dataset:
        assert dataset.overviews(1) == [2, 4]
    with rasterio.open(path, overview_level=1) as overview:
        assert overview.shape == (150, 640)
        np.testing.assert_array_equal(overview.read(1), np.where(valid, mask, 0)[::4, ::4])
        np.testing.assert_array_equal(overview.read_masks(1) != 0, valid[::4, ::4])


def test_scattered_change_keeps_its_proportion_in_overviews(tmp_path: Path):
    path = tmp_path / "mask.tif"
    write(path, (np.random.default_rng(0).random((300, 1100)) < 0.1).astype(np.uint8))
    with rasterio.open(path, overview_level=0) as overview:
        assert overview.read(1).mean() == pytest.approx(0.1, abs=0.01)


def test_probabilities_read_back_to_the_bit_with_named_bands(tmp_path: Path):
    path = tmp_path / "probability.tif"
    field = np.random.default_rng(0).random((300, 1100, 2), np.float32)
    valid = np.ones((300, 1100), bool)
    valid[7, 9] = False
    with open_probability_writer(
        path, width=1100, height=300, grid=None, band_names=["background", "building"]
    ) as writer:
        writer.write_rows(0, field[:260], valid[:260])
        writer.write_rows(260, field[260:])
    with rasterio.open(path) as dataset:
        expected = np.where(valid[:, :, None], field, 0)
        np.testing.assert_array_equal(np.moveaxis(dataset.read(), 0, 2), expected)
        assert dataset.dtypes == ("float32", "float32")
        assert dataset.descriptions == ("background", "building")
        assert dataset.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "3"
        assert dataset.crs is None
        np.testing.assert_array_equal(dataset.read_masks(1) != 0, valid)
        assert dataset.overviews(1) == [2]
        halved = dataset.read(2, out_shape=(150, 550))
    np.testing.assert_allclose(halved[50:, 50:], expected[:, :, 1].reshape(150, 2, 550, 2).mean((1, 3))[50:, 50:], 1e-5)


def test_an_error_leaves_neither_the_file_nor_its_temporary_name(tmp_path: Path):
    path = tmp_path / "mask.tif"
    write(path, np.full((20, 20), 3, np.uint8))

    def write_and_stop() -> None:
        with open_mask_writer(path, width=20, height=20, grid=None) as writer:
            writer.write_rows(0, np.zeros((20, 20), np.uint8))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_and_stop()
    assert [file.name for file in tmp_path.iterdir()] == ["mask.tif"]
    with rasterio.open(path) as dataset:
        assert (dataset.read(1) == 3).all(), "the file from before is gone"


def test_rows_that_do_not_fit_are_refused(tmp_path: Path):
    rows = np.zeros((20, 20), np.uint8)
    with open_mask_writer(tmp_path / "mask.tif", width=20, height=20, grid=None) as writer:
        writer.write_rows(0, rows[:4])
        with pytest.raises(ValueError, match=r"rows 3\.\.8 of 20 came where row 4"):
            writer.write_rows(3, rows[:5])
        with pytest.raises(ValueError, match=r"rows 4\.\.24 of 20"):
            writer.write_rows(4, rows)
        with pytest.raises(ValueError, match="dtype float32"):
            writer.write_rows(4, rows[4:].astype(np.float32))
        with pytest.raises(ValueError, match=r"shape \(16, 19, 1\)"):
            writer.write_rows(4, rows[4:, :19])
        with pytest.raises(ValueError, match=r"valid of shape .* dtype uint8; it takes bool"):
            writer.write_rows(4, rows[4:], rows[4:])
        with pytest.raises(ValueError, match=r"valid of shape \(15, 20\)"):
            writer.write_rows(4, rows[4:], rows[5:] == 0)
        writer.write_rows(4, rows[4:])


def test_a_raster_that_is_not_filled_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="rows end at 100 of 150"):
        write_part(tmp_path / "mask.tif")
    assert list(tmp_path.iterdir()) == []


def write_part(path: Path) -> None:
    with open_mask_writer(path, width=20, height=150, grid=None) as writer:
        writer.write_rows(0, np.zeros((100, 20), np.uint8))


def test_a_grid_of_another_size_is_refused(tmp_path: Path):
    opening = open_mask_writer(tmp_path / "mask.tif", width=20, height=20, grid=grid(10, 9))
    with pytest.raises(ValueError, match="grid is 9 x 10"):
        opening.__enter__()
    assert list(tmp_path.iterdir()) == []


def read_valid(path: Path, y0: int, y1: int) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return valid_rows(dataset, y0, y1)


def save(path: Path, bands: np.ndarray, **profile: object) -> None:
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as dataset:
        dataset.write(bands)


def test_valid_pixels_come_from_mask_alpha_or_nodata(tmp_path: Path):
    valid = np.random.default_rng(0).random((30, 20)) < 0.5
    bands = np.full((3, 30, 20), 9, np.uint8)

    save(tmp_path / "plain.tif", bands)
    assert read_valid(tmp_path / "plain.tif", 5, 12).all()
    assert read_valid(tmp_path / "plain.tif", 5, 12).shape == (7, 20)

    bands[0] = 0  # in one band only: no reason to call a pixel invalid
    save(tmp_path / "nodata.tif", np.where(valid, bands, 0).astype(np.uint8), nodata=0)
    np.testing.assert_array_equal(read_valid(tmp_path / "nodata.tif", 5, 12), valid[5:12])

    alpha = np.concatenate([bands, np.where(valid, 255, 0).astype(np.uint8)[None]])
    save(tmp_path / "alpha.tif", alpha, photometric="RGB", alpha="YES")
    np.testing.assert_array_equal(read_valid(tmp_path / "alpha.tif", 5, 12), valid[5:12])

    write(tmp_path / "mask.tif", bands[1], valid)
    result = read_valid(tmp_path / "mask.tif", 5, 12)
    np.testing.assert_array_equal(result, valid[5:12])
    assert result.dtype == bool


def test_a_png_mask_keeps_its_values_in_one_channel_of_8_bits(tmp_path: Path):
    for values in ([0, 1], [0, 255], range(7)):
        mask = np.random.default_rng(0).choice(np.array(values, np.uint8), (33, 21))
        write_png_mask(tmp_path / "mask.png", mask)
        with Image.open(tmp_path / "mask.png") as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), mask)
        header = (tmp_path / "mask.png").read_bytes()[24:26]
        assert header == bytes([8, 0]), "bit depth 8, colour type grey"
    assert [file.name for file in tmp_path.iterdir()] == ["mask.png"]
    with pytest.raises(ValueError, match=r"uint8 H x W, not int64 of shape \(3, 3\)"):
        write_png_mask(tmp_path / "mask.png", np.zeros((3, 3), np.int64))
