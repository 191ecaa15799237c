import numpy as np
import pytest
import rasterio

from data_pipelines.decoding import read_image, read_mask
from data_pipelines.layouts import DataError
from data_pipelines.published.preparing import prepare
from tests.data_pipelines.published import downloads
from tests.data_pipelines.published.downloads import blob, picture, save_tiff


def test_tiles_are_cut_out_of_the_rasters_and_a_remainder_is_left_out(tmp_path):
    downloads.whu_cd(tmp_path / "src")
    prepare("whu_cd", tmp_path / "src", tmp_path / "out")
    base = tmp_path / "src/Building change detection dataset_add/1. The two-period image data"
    with rasterio.open(base / "2016/whole_image/train/image/2016_train.tif") as source:
        whole = source.read().transpose(1, 2, 0)
    names = sorted(path.name for path in (tmp_path / "out/train/label").iterdir())
    assert names == ["train_0_0.png", "train_0_256.png"]  # of 600 x 300 pixels
    np.testing.assert_array_equal(read_image(tmp_path / "out/train/B/train_0_256.png"), whole[:256, 256:512])
    with rasterio.open(base / "change_label/train/change_label.tif") as source:
        changed = source.read(1)
    np.testing.assert_array_equal(read_mask(tmp_path / "out/train/label/train_0_0.png"), changed[:256, :256] * 255)


def test_the_first_release_is_divided_as_the_second(tmp_path):
    """The parts of the second release have 21243 and 11265 columns: they share one of the 32507 of the first."""
    base = tmp_path / "src" / "1. The two-period image data"
    width = 1200
    images = {"before": picture(520, width, 1), "after": picture(520, width, 2)}
    for name, image in images.items():
        save_tiff(base / name / f"{name}.tif", image.transpose(2, 0, 1))
    save_tiff(base / "change label" / "change_label.tif", blob(520, width, 3)[None])
    outcome = prepare("whu_cd", tmp_path / "src", tmp_path / "out")
    assert outcome.pairs == {"train": 3 * 2, "test": 1 * 2}
    first = round(width * 21243 / 32507) - 1
    test = read_image(tmp_path / "out/test/B/test_256_0.png")
    np.testing.assert_array_equal(test, images["after"][256:512, first : first + 256])


@pytest.mark.parametrize("missing", ["2016/whole_image/test/image/2016_test.tif", "change_label/test/change_label.tif"])
def test_a_raster_that_a_split_lacks_is_named(tmp_path, missing):
    downloads.whu_cd(tmp_path / "src")
    base = tmp_path / "src/Building change detection dataset_add/1. The two-period image data"
    (base / missing).unlink()
    with pytest.raises(DataError, match=f"no {missing}; unpack the test rasters again"):
        prepare("whu_cd", tmp_path / "src", tmp_path / "out")


def test_a_split_that_is_not_there_at_all_is_left_out(tmp_path):
    downloads.whu_cd(tmp_path / "src")
    base = tmp_path / "src/Building change detection dataset_add/1. The two-period image data"
    for path in list(base.rglob("test")):
        path.rename(tmp_path / f"{path.parent.name}_{path.parent.parent.name}")
    outcome = prepare("whu_cd", tmp_path / "src", tmp_path / "out")
    assert outcome.pairs == {"train": 2}
