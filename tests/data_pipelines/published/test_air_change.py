import numpy as np
import pytest
from PIL import Image

from data_pipelines.decoding import read_image, read_mask
from data_pipelines.layouts import DataError
from data_pipelines.published.preparing import prepare
from tests.data_pipelines.published import downloads


def test_two_upper_left_parts_are_tested_and_their_rest_is_trained_on(tmp_path):
    downloads.air_change(tmp_path / "src")
    outcome = prepare("air_change", tmp_path / "src", tmp_path / "out")
    assert outcome.notes[1] == "Archive is left out, as in the literature"
    names = {split: sorted(path.stem for path in (tmp_path / "out" / split / "A").iterdir()) for split in outcome.pairs}
    assert names == {
        "train": ["szada_1_bottom", "szada_1_right", "szada_2", "tiszadob_3_bottom", "tiszadob_3_right"],
        "test": ["szada_1", "tiszadob_3"],
    }
    base = tmp_path / "src/SZTAKI_AirChange_Benchmark"
    whole = {"A": read_image(base / "Szada/1/im1.BMP"), "B": read_image(base / "Szada/1/im2.bmp")}
    for role, image in whole.items():
        put = np.zeros_like(image)
        put[:448, :784] = read_image(tmp_path / "out/test" / role / "szada_1.png")
        put[:448, 784:] = read_image(tmp_path / "out/train" / role / "szada_1_right.png")
        put[448:] = read_image(tmp_path / "out/train" / role / "szada_1_bottom.png")
        np.testing.assert_array_equal(put, image)


def test_a_pair_too_small_for_the_test_part_or_without_its_truth_is_named(tmp_path):
    downloads.air_change(tmp_path / "src", ("Szada/1",))
    folder = tmp_path / "src/SZTAKI_AirChange_Benchmark/Szada/1"
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.crop((0, 0, 784, 640)).save(path)
    with pytest.raises(DataError, match=r"im1\.BMP: 784 x 640 pixels"):
        prepare("air_change", tmp_path / "src", tmp_path / "out")
    (folder / "gt.BMP").unlink()
    with pytest.raises(DataError, match=r"Szada/1: no gt\.bmp"):
        prepare("air_change", tmp_path / "src", tmp_path / "out")


def test_the_training_part_is_that_of_the_shared_files(shared, tmp_path):
    """The real pairs laid out as they were downloaded; the tested parts are not among them and stay black."""
    real = shared / "data/air_change"
    for source in sorted((real / "label").glob("*_[2-6].png"))[::4]:
        place, number = source.stem.split("_")
        for role, stem in (("A", "im1"), ("B", "im2"), ("label", "gt")):
            with Image.open(real / role / source.name) as image:
                path = tmp_path / "src" / place.title() / number / f"{stem}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    for role, stem in (("A", "im1"), ("B", "im2"), ("label", "gt")):
        with (
            Image.open(real / role / "szada_1_bottom.png") as bottom,
            Image.open(real / role / "szada_1_right.png") as right,
        ):
            whole = Image.new(bottom.mode, (952, 640))
            whole.paste(bottom, (0, 448))
            whole.paste(right, (784, 0))
            (tmp_path / "src/Szada/1").mkdir(parents=True, exist_ok=True)
            whole.save(tmp_path / "src/Szada/1" / f"{stem}.BMP")
    prepare("air_change", tmp_path / "src", tmp_path / "out")
    written = sorted((tmp_path / "out/train").rglob("*.png"))
    assert len(written) >= 12
    for path in written:
        role = path.parent.name
        read = read_mask if role == "label" else read_image
        np.testing.assert_array_equal(read(path), read(real / role / path.name), err_msg=path.name)
