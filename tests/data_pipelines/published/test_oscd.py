import json

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from data_pipelines.decoding import DecodeError, read_image, read_info, read_mask
from data_pipelines.layouts import DataError
from data_pipelines.published import oscd
from data_pipelines.published.preparing import prepare
from tests.data_pipelines.published import downloads
from tests.data_pipelines.published.downloads import save_tiff

IMAGES = "Onera Satellite Change Detection dataset - Images"
LABELS = "Onera Satellite Change Detection dataset - Train Labels"


@pytest.fixture
def src(tmp_path):
    downloads.oscd(tmp_path / "src")
    return tmp_path / "src"


def stored(src, city, date):
    bands = []
    for band in oscd.BANDS:
        with rasterio.open(src / IMAGES / city / f"imgs_{date}_rect" / f"{band}.tif") as source:
            bands.append(source.read(1))
    return np.stack(bands)


def test_the_stretch_is_that_of_the_training_cities_and_is_stored(src, tmp_path):
    prepare("oscd", src, tmp_path / "out")
    told = json.loads((tmp_path / "out" / oscd.STRETCH).read_text())
    assert told["cities"] == list(downloads.OSCD_CITIES["train"])
    train = [stored(src, city, date) for city in told["cities"] for date in (1, 2)]
    for index, band in enumerate(oscd.BANDS):
        seen = np.concatenate([image[index].ravel() for image in train])
        expected = np.percentile(seen[seen > 0], told["percentiles"], method="inverted_cdf")
        assert [told["bands"][band]["low"], told["bands"][band]["high"]] == pytest.approx(expected, abs=1)
    # the test city by the same limits, whatever its own values
    for role, date in (("A", 1), ("B", 2)):
        image = read_image(tmp_path / "out/test" / role / "dubai.tif")
        raw = stored(src, "dubai", date)
        for index, band in enumerate(oscd.BANDS):
            low, high = told["bands"][band]["low"], told["bands"][band]["high"]
            expected = np.clip(np.rint((raw[index] - float(low)) * 255 / (high - low)), 0, 255)
            np.testing.assert_array_equal(image[..., index], expected)
        with rasterio.open(tmp_path / "out/test" / role / "dubai.tif") as source:
            assert source.descriptions == oscd.BANDS
    with rasterio.open(src / LABELS / "beirut/cm/beirut-cm.tif") as source:
        np.testing.assert_array_equal(read_mask(tmp_path / "out/train/label/beirut.png"), (source.read(1) - 1) * 255)


def give_grid(src, city, date, left):
    path = src / IMAGES / city / f"imgs_{date}_rect" / "B01.tif"
    with rasterio.open(path) as source:
        bands = source.read()
    save_tiff(path, bands, crs="EPSG:32636", transform=from_origin(left, 4e6, 10, 10))


def test_a_grid_of_both_dates_is_kept_and_one_that_differs_is_told(src, tmp_path):
    for city, lefts in (("beirut", (5e5, 5e5)), ("bercy", (5e5, 5e5 + 3)), ("dubai", (5e5,))):
        for date, left in enumerate(lefts, 1):
            give_grid(src, city, date, left)
    outcome = prepare("oscd", src, tmp_path / "out")
    grids = [read_info(tmp_path / "out/train" / role / "beirut.tif").grid for role in "AB"]
    assert grids[0] == grids[1]
    assert grids[0].transform == (10, 0, 5e5, 0, -10, 4e6)
    assert [read_info(path).grid for path in sorted((tmp_path / "out").glob("*/*/[bd][eu][rb][ca]*.tif"))] == [None] * 4
    assert [note.split(":")[0] for note in outcome.notes[1:3]] == ["bercy", "dubai"]


def test_labels_of_one_split_are_enough_and_missing_bands_are_not(src, tmp_path):
    labels = src / LABELS.replace("Train", "Test")
    for path in sorted(labels.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    labels.rmdir()
    assert prepare("oscd", src, tmp_path / "out").pairs == {"train": 2}
    (src / IMAGES / "bercy" / "imgs_2_rect" / "B8A.tif").unlink()
    with pytest.raises(DataError, match=r"no bercy/imgs_2_rect/B8A\.tif"):
        prepare("oscd", src, tmp_path / "again")


def test_a_band_of_another_size_or_type_is_named(src, tmp_path):
    band = src / IMAGES / "beirut" / "imgs_1_rect" / "B05.tif"
    save_tiff(band, np.ones((1, 70, 89), np.uint16))
    with pytest.raises(DecodeError, match=r"B05\.tif: 89 x 70 pixels, and beirut-cm\.tif has 90 x 70"):
        prepare("oscd", src, tmp_path / "out")
    save_tiff(band, np.ones((1, 70, 90), np.float32))
    with pytest.raises(DecodeError, match=r"B05\.tif: 1 bands of float32"):
        prepare("oscd", src, tmp_path / "out")
