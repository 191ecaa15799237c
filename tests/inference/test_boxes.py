"""Boxes against regions that are grown pixel by pixel, and files of true objects, right and wrong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data_pipelines.layouts import DataError, Pair, find_pairs
from segdiff.inference.boxes import Boxes, find_boxes, read_boxes, read_true_boxes

BOARD = ("background", "open", "short", "pin-hole")
BINARY = ("background", "change")


def listed(boxes: Boxes) -> list[tuple]:
    rows = zip(boxes.corners.tolist(), boxes.classes.tolist(), boxes.scores.tolist(), strict=True)
    return sorted((tuple(corners), kind, score) for corners, kind, score in rows)


# ------------------------------------------------------------------------------------------------------ in masks


def grown(mask: np.ndarray, join: int) -> list[list[tuple[int, int]]]:
    """Regions of pixels of one class whose squares of 2 join + 1 overlap or touch, by growing one pixel at a time."""
    left = [(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)]
    regions = []
    while left:
        region = [left.pop()]
        for r, c in region:
            near = [p for p in left if mask[p] == mask[r, c] and max(abs(p[0] - r), abs(p[1] - c)) <= 2 * join + 1]
            left = [p for p in left if p not in near]
            region += near
        regions.append(region)
    return regions


@given(st.data())
def test_boxes_are_those_of_regions_grown_pixel_by_pixel(data):
    shape = data.draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    mask = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 0, 1, 2])))
    probability = data.draw(arrays(np.float32, (*shape, 3), elements=st.floats(0, 1, width=32)))
    unknown = data.draw(arrays(bool, shape))
    join, pad, minimum = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)))
    expected = []
    for region in grown(mask, join):
        if len(region) < minimum or sum(unknown[p] for p in region) > len(region) / 2:
            continue
        rows, columns = [r for r, _ in region], [c for _, c in region]
        left, top = max(min(columns) - pad, 0), max(min(rows) - pad, 0)
        right, bottom = min(max(columns) + 1 + pad, shape[1]), min(max(rows) + 1 + pad, shape[0])
        kind = int(mask[region[0]])
        score = float(np.mean([probability[p][kind] for p in region], dtype=np.float64))
        expected.append(((left, top, right, bottom), kind, pytest.approx(score)))
    found = find_boxes(mask, probability, join=join, pad=pad, minimum_area=minimum, unknown=unknown)
    # within a class no two regions have one box and different scores near enough to be mixed up by sorting
    for box, other in zip(listed(found), sorted(expected, key=lambda item: (item[0], item[1])), strict=True):
        assert box[:2] == other[:2]
        assert box[2] in [score for corners, kind, score in expected if (corners, kind) == box[:2]]
    assert (found.corners.dtype, found.classes.dtype, found.scores.dtype) == (np.float64, np.int64, np.float64)


def test_a_box_by_hand():
    mask = np.zeros((40, 60), np.uint8)
    mask[3, 5] = mask[3, 24] = 2  # 19 columns apart: their squares of 19 x 19 touch
    mask[30, 5] = mask[30, 25] = 2  # 20 columns apart: they do not
    probability = np.full((40, 60), 0.25, np.float32)
    probability[3, 5] = 0.75
    found = find_boxes(mask, probability, join=9, pad=4)
    assert listed(found) == [
        ((1, 0, 29, 8), 2, 0.5),
        ((1, 26, 10, 35), 2, 0.25),
        ((21, 26, 30, 35), 2, 0.25),
    ]
    assert len(find_boxes(mask, join=9, minimum_area=2)) == 1, "the dilation adds no pixels to a region"
    assert len(find_boxes(mask)) == 4
    assert set(find_boxes(mask).scores) == {1.0}
    assert len(find_boxes(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.float32))) == 0


def test_options_out_of_range_are_refused():
    mask = np.zeros((4, 5), np.uint8)
    for options, words in (
        ({"join": -1}, "join is -1"),
        ({"pad": -1}, "pad is -1"),
        ({"minimum_area": 0}, "minimum_area is 0"),
        ({"unknown": np.zeros((5, 4), bool)}, r"unknown has shape \(5, 4\)"),
        ({"probability": np.zeros((4, 4), np.float32)}, r"probability has shape \(4, 4\)"),
    ):
        with pytest.raises(ValueError, match=words):
            find_boxes(mask, **options)


# ------------------------------------------------------------------------------------------------------ in files


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "x.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_file_of_true_objects(tmp_path):
    text = "\ufefftype, X1 ,y1,x2,y2,note\r\nopen,0,0,60,40,all of it\r\n\r\n pin-hole , 1.5, 2,3 ,4,\r\n2,5,6,7,8,\r\n"
    boxes = read_boxes(write(tmp_path, text), BOARD, 40, 60)
    assert listed(boxes) == [((0, 0, 60, 40), 1, 1), ((1.5, 2, 3, 4), 3, 1), ((5, 6, 7, 8), 2, 1)]
    assert read_boxes(tmp_path / "x.csv", BINARY, 40, 60).classes.tolist() == [1, 1, 1], "any type is the change"
    none = read_boxes(write(tmp_path, "x1,y1,x2,y2,type\n"), BOARD, 40, 60)
    assert (len(none), none.corners.shape) == (0, (0, 4))


WRONG = {
    "": "line 1: no column x1, y1, x2, y2, type among none; the first line names the columns: x1,y1,x2,y2,type",
    "x1,y1,w,h,type\n1,1,2,2,open\n": "line 1: no column x2, y2 among x1, y1, w, h, type",
    "1,1,2,2,open\n": "line 1: no column x1",
    "x1,y1,x2,y2,type\n1,1,9,9,open\n1,1,9,nine,open\n": "line 3: y2 is 'nine', it must be a number, in pixels",
    "x1,y1,x2,y2,type\n1,1,nan,9,open\n": "line 2: x2 is 'nan', it must be a number",
    "x1,y1,x2,y2,type\n1,1,9\n": "line 2: y2 is '', it must be a number",
    "x1,y1,x2,y2,type\n1,1,9,9,open,4\n": "line 2: more values than the 5 columns",
    "x1,y1,x2,y2,type\n9,1,9,9,open\n": "line 2: x1 9 is not below x2 9; a box is left, top, right, bottom",
    "x1,y1,x2,y2,type\n1,9,9,2.5,open\n": "line 2: y1 9 is not below y2 2.5",
    "x1,y1,x2,y2,type\n-1,1,9,9,open\n": "line 2: x1 -1 to x2 9 reaches out of the image, whose width is 60 pixels",
    "x1,y1,x2,y2,type\n1,1,9,41,open\n": "line 2: y1 1 to y2 41 reaches out of the image, whose height is 40 pixels",
    "x1,y1,x2,y2,type\n1,1,9,9,opne\n": "line 2: type 'opne' is no class of the model; it knows open, short, pin-hole",
    "x1,y1,x2,y2,type\n1,1,9,9,background\n": "line 2: type 'background' is no class",
    "x1,y1,x2,y2,type\n1,1,9,9,0\n": r"line 2: type '0' is no class .* indices 1 to 3",
    "x1,y1,x2,y2,type\n1,1,9,9,4\n": "line 2: type '4' is no class",
    b"x1,y1,x2,y2,type\n1,1,9,9,L\xf6cher\n": "not UTF-8 text",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_one_line_that_names_file_and_line(tmp_path, text):
    file = write(tmp_path, text)
    with pytest.raises(DataError, match=rf"x\.csv: {WRONG[text]}") as caught:
        read_boxes(file, BOARD, 40, 60)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def put_pairs(root: Path, *names: str) -> None:
    for name in names:
        for folder in ("A", "B", "label"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((40, 60), np.uint8)).save(root / folder / f"{name}.png")


def test_the_true_objects_of_all_pairs_or_of_none(tmp_path):
    put_pairs(tmp_path, "one", "two")
    assert read_true_boxes(find_pairs(tmp_path).pairs, BOARD) == {}
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "two.csv").write_text("x1,y1,x2,y2,type\n1,2,60,40,short\n")
    with pytest.raises(DataError, match=r"one\.png: has no boxes/one\.csv, .* where there are no objects"):
        read_true_boxes(find_pairs(tmp_path).pairs, BOARD)
    (tmp_path / "boxes" / "one.csv").write_text("x1,y1,x2,y2,type\n")
    found = read_true_boxes(find_pairs(tmp_path).pairs, BOARD)
    assert {name: listed(boxes) for name, boxes in found.items()} == {"one": [], "two": [((1, 2, 60, 40), 2, 1)]}
    (tmp_path / "boxes" / "two.csv").write_text("x1,y1,x2,y2,type\n1,2,61,40,short\n")
    with pytest.raises(DataError, match=r"two\.csv: line 2: x1 1 to x2 61 reaches out of the image"):
        read_true_boxes(find_pairs(tmp_path).pairs, BOARD)


def test_pairs_that_go_by_another_name_keep_their_objects(tmp_path):
    put_pairs(tmp_path, "one")
    (tmp_path / "one.csv").write_text("x1,y1,x2,y2,type\n1,2,3,4,open\n")
    after = tmp_path / "B" / "one.png"
    pair = Pair(
        "val_one", tmp_path / "A" / "one.png", after, tmp_path / "label" / "one.png", "val", tmp_path / "one.csv"
    )
    assert list(read_true_boxes([pair], BOARD)) == ["val_one"]
