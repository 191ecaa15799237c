import csv

import numpy as np
import pytest

from data_pipelines.decoding import DecodeError, read_image, read_mask
from data_pipelines.layouts import DataError
from data_pipelines.published.deeppcb import CLASSES, defect_mask, read_boxes
from data_pipelines.published.preparing import prepare
from tests.data_pipelines.published import downloads


@pytest.fixture
def base(tmp_path):
    downloads.deeppcb(tmp_path / "src")
    return tmp_path / "src/DeepPCB/PCBData"


def test_boards_keep_their_files_and_get_masks_and_boxes(base, tmp_path):
    prepare("deeppcb", tmp_path / "src", tmp_path / "out")
    train = tmp_path / "out/train"
    for role, kind in (("A", "temp"), ("B", "test")):
        source = base / f"group20085/20085/20085000_{kind}.jpg"
        assert (train / role / "20085000.jpg").read_bytes() == source.read_bytes()
    mask = read_mask(train / "label/20085000.png")
    expected = np.zeros((96, 96), np.uint8)
    expected[33:41, 41:49] = CLASSES.index("mousebite")  # drawn at 32, 40: see defect_mask
    expected[49:57, 65:73] = CLASSES.index("spur")
    np.testing.assert_array_equal(mask, expected)
    assert (train / "boxes/20085000.csv").read_text() == ("x1,y1,x2,y2,type\n36,28,52,44,mousebite\n60,44,76,60,spur\n")
    assert (tmp_path / "out/test/boxes/12000001.csv").is_file()


def test_the_masks_of_real_boards_come_out_to_the_pixel(shared):
    """All of them agree (run with a step of 1); here every tenth."""
    folder = shared / "data/deeppcb/train"
    names = sorted(path.stem for path in (folder / "A").iterdir())[::10]
    for name in names:
        before, after = (read_image(folder / role / f"{name}.jpg", 1)[..., 0] for role in "AB")
        with (folder / "boxes" / f"{name}.csv").open() as lines:
            boxes = [
                (*(int(row[corner]) for corner in ("x1", "y1", "x2", "y2")), CLASSES.index(row["type"]))
                for row in csv.DictReader(lines)
            ]
        np.testing.assert_array_equal(defect_mask(before, after, boxes), read_mask(folder / "label" / f"{name}.png"))
    assert len(names) == 100


def test_boxes_are_parted_by_spaces_or_commas_and_others_are_named(tmp_path):
    path = tmp_path / "1.txt"
    path.write_text("1 2 30 40 6\n\n1,2,30,40,1\n")
    assert read_boxes(path, 64, 64) == [(1, 2, 30, 40, 6), (1, 2, 30, 40, 1)]
    for line in ("1 2 30 40", "1 2 30 40 7", "30 2 1 40 1", "1 2 65 40 1", "1 2 3x 40 1"):
        path.write_text(f"1 2 30 40 6\n{line}\n")
        with pytest.raises(DecodeError, match=r"1\.txt: line 2: "):
            read_boxes(path, 64, 64)


def test_a_listed_file_that_is_not_there_is_named(base, tmp_path):
    (base / "group20085/20085/20085000_temp.jpg").unlink()
    with pytest.raises(DataError, match=r"20085000_temp\.jpg: no such file, and line 1 of .*trainval\.txt lists it"):
        prepare("deeppcb", tmp_path / "src", tmp_path / "out")
