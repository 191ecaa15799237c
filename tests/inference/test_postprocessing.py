"""Post-processing is what a loop over the pixels makes of a mask, in whatever slabs the mask comes."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segdiff.inference import postprocessing
from segdiff.inference.postprocessing import parse_post_processing, postprocess, postprocess_mask
from segdiff.inference.runs import Slab
from segdiff.model_files import PostProcessing
from tests.inference.regions import cuts, masks, processed, slabs

kinds = st.builds(
    PostProcessing,
    closing=st.integers(0, 2),
    fill_holes=st.sampled_from([0, 0, 1, 2, 5, 100]),
    vote=st.booleans(),
    minimum_area=st.sampled_from([0, 0, 1, 2, 3, 8]),
)


@st.composite
def streams(draw):
    mask = draw(masks)
    valid = draw(st.none() | arrays(bool, mask.shape, elements=st.sampled_from([True, True, True, False])))
    return mask, valid, draw(cuts)


@given(streams(), kinds)
def test_any_cutting_gives_what_the_pixels_give(stream, kind):
    mask, valid, cut = stream
    expected = processed(mask, kind, valid)
    assert np.array_equal(postprocess_mask(mask, kind, classes=4, valid=valid), expected)
    y = 0
    for runs in postprocess(slabs(mask, cut, valid=valid), kind, classes=4):
        rows = runs.mask()
        assert runs.y == y
        assert np.array_equal(rows, expected[y : y + len(rows)])
        assert (
            runs.valid_rows() is None if valid is None else np.array_equal(runs.valid_rows(), valid[y : y + len(rows)])
        )
        y += len(rows)
    assert y == len(mask)


@given(streams(), kinds, st.integers(0, 2**32 - 1))
def test_probabilities_go_with_their_pixels(stream, kind, seed):
    mask, valid, cut = stream
    probability = np.random.default_rng(seed).random((*mask.shape, 3), np.float32)
    y = 0
    for runs in postprocess(slabs(mask, cut, probability, valid), kind, classes=4):
        whole = (1 - probability[y : y + runs.height, :, 0]).ravel()
        parts = [float(part.sum()) for part in np.split(whole, runs.begin[1:])]
        assert runs.total == pytest.approx(parts, rel=1e-5)
        y += runs.height


def rows(*lines: str) -> np.ndarray:
    return np.array([[0 if pixel == "." else int(pixel) for pixel in line] for line in lines], np.uint8)


def check(before: np.ndarray, after: np.ndarray, **settings) -> None:
    assert postprocess_mask(before, PostProcessing(**settings), classes=4).tolist() == after.tolist()


def test_nothing_is_done_by_default():
    mask = rows("1.2", ".3.", "111")
    check(mask, mask)
    assert PostProcessing() == PostProcessing(closing=0, fill_holes=0, vote=False, minimum_area=0)


def test_closing_bridges_gaps_of_twice_its_radius_and_leaves_the_border_alone():
    check(rows(".1..1.", ".1..1.", ".1..1."), rows(".1111.", ".1111.", ".1111."), closing=1)
    check(rows(".1...1", ".1...1", ".1...1"), rows(".1...1", ".1...1", ".1...1"), closing=1)
    check(rows(".1...1", ".1...1", ".1...1"), rows(".11111", ".11111", ".11111"), closing=2)


def test_a_closed_gap_takes_the_class_that_is_most_frequent_around_it():
    check(rows("1.2", "1.2", "2.2"), rows("112", "122", "222"), closing=1)


def test_holes_are_filled_up_to_their_size_with_the_class_around_them():
    mask = rows("11122", "1.1.2", "11..2", "11222")
    check(mask, rows("11122", "111.2", "11..2", "11222"), fill_holes=2)
    check(mask, rows("11122", "11122", "11222", "11222"), fill_holes=3)  # 5 of 8 edges are of class 2
    check(mask[:3], rows("11122", "111.2", "11..2"), fill_holes=3)  # the other one reaches the border
    check(mask[:, :4], rows("1112", "111.", "11..", "1122"), fill_holes=3)
    mask[0, 3] = 1  # now 4 of 8: the lower class
    check(mask, rows("11112", "11112", "11112", "11222"), fill_holes=3)


def test_a_hole_that_lies_in_two_slabs_counts_every_edge_once():
    upper = rows("212", "3.3", "2.2", "323")  # 3 edges of class 2, 2 of class 3, 1 of class 1
    for mask in (upper, upper[::-1]):
        for cut in ([], [2], [1, 2, 3]):
            stream = postprocess(slabs(mask, cut), PostProcessing(fill_holes=2), classes=4)
            filled = np.concatenate([runs.mask() for runs in stream])
            assert filled[1:3, 1].tolist() == [2, 2]


@pytest.mark.parametrize("cut", [[k] for k in range(1, 10)] + [list(range(1, 10))])
def test_closing_reaches_across_slabs(cut):
    mask = np.zeros((10, 12), np.uint8)
    mask[[0, 1, 2, 8, 9]] = 1  # a gap of 5 rows takes a radius of 3
    for radius, gap in ((2, 0), (3, 1)):
        stream = postprocess(slabs(mask, cut), PostProcessing(closing=radius), classes=2)
        closed = np.concatenate([runs.mask() for runs in stream])
        assert (closed[3:8, radius:-radius] == gap).all()


def test_background_that_touches_by_corners_is_not_one_hole():
    mask = rows("1111", "1.11", "11.1", "1111")
    check(mask, rows("1111", "1111", "1111", "1111"), fill_holes=1)


def test_what_lies_in_a_hole_is_no_part_of_its_size_and_joins_the_region_when_it_is_filled():
    mask = rows("11111", "1...1", "1.2.1", "1...1", "11111")
    check(mask, mask, fill_holes=7)
    check(mask, rows("11111", "11111", "11211", "11111", "11111"), fill_holes=8, minimum_area=2)
    check(mask, rows("11111", "1...1", "1...1", "1...1", "11111"), minimum_area=2)
    check(mask, np.ones((5, 5), np.uint8), fill_holes=8, vote=True)


def test_a_region_of_several_classes_votes_and_ties_go_to_the_lower_class():
    check(rows("33..1", "..3.2", "2....", "22.33"), rows("33..1", "..3.1", "2....", "22.33"), vote=True)
    check(rows("1.", ".2"), rows("1.", ".1"), vote=True)
    check(rows("12", "2."), rows("22", "2."), vote=True)


def test_small_regions_go_whatever_their_classes():
    check(rows("12..3", "....3", "1...3"), rows("....3", "....3", "....3"), minimum_area=3)
    check(rows("12..3", "....3", "1...3"), rows("12..3", "....3", "....3"), minimum_area=2)


def test_pixels_without_data_stay_empty():
    mask = np.ones((5, 5), np.uint8)
    valid = np.ones((5, 5), bool)
    mask[2, 2] = 0
    valid[2, 2:4] = False
    after = postprocess_mask(mask, PostProcessing(closing=2, fill_holes=9), classes=2, valid=valid)
    assert np.array_equal(after > 0, valid)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"closing": -1}, "closing is -1: it must be a whole number of pixels, 0 or more"),
        ({"fill_holes": 2.5}, "fill_holes is 2.5"),
        ({"minimum_area": True}, "minimum_area is True"),
        ({"vote": 1}, "vote is 1: it must be true or false"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PostProcessing(**values)


def test_steps_are_read_from_a_text():
    every = PostProcessing(closing=2, fill_holes=64, vote=True, minimum_area=16)
    assert parse_post_processing("minimum_area=16, closing=2,vote,fill_holes=64") == every
    assert parse_post_processing("none") == PostProcessing()
    for text in ("", "closing", "closing=-1", "closing=1.5", "vote=1", "area=3", "none,vote"):
        with pytest.raises(ValueError, match="is no step; allowed are none, or closing=N") as caught:
            parse_post_processing(text)
        assert "\n" not in str(caught.value)


def test_settings_go_through_json():
    chosen = PostProcessing(closing=2, fill_holes=30, vote=True, minimum_area=12)
    assert PostProcessing(**json.loads(json.dumps(dataclasses.asdict(chosen)))) == chosen


def slab(y: int, height: int = 2, width: int = 3, **arrays) -> Slab:
    return Slab(y, np.zeros((height, width), np.uint8), **arrays)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([slab(0), slab(3)], "row 3 of width 3 .* came where row 2 of width 3 .* is next"),
        ([slab(1)], "row 1 .* came where row 0"),
        ([slab(0), slab(2, width=4)], "row 2 of width 4 .* came where row 2 of width 3"),
        ([slab(0), slab(2, valid=np.ones((2, 3), bool))], "with valid came where row 2 .* without valid is next"),
        ([slab(0, probability=np.zeros((2, 4)))], r"the probability has shape \(2, 4\) and the mask \(2, 3\)"),
        ([slab(0, valid=np.ones((2, 3), np.uint8))], r"valid is uint8 of shape \(2, 3\): it must be bool"),
        ([Slab(0, np.zeros((2, 3)))], "uint8 H x W, not float64"),
        ([Slab(0, np.full((2, 3), 5, np.uint8))], "the mask holds class 5 where there are 2 classes, 0 to 1"),
    ],
)
def test_slabs_that_do_not_follow_each_other_are_refused(stream, message):
    with pytest.raises(ValueError, match=message):
        list(postprocess(stream, PostProcessing(), classes=2))


def test_slabs_without_rows_are_passed_over():
    stream = [slab(0, height=0), slab(0), slab(2, height=0), slab(2)]
    assert [runs.y for runs in postprocess(stream, PostProcessing(minimum_area=2), classes=2)] == [0, 2]
    assert list(postprocess([], PostProcessing(closing=1, minimum_area=2), classes=2)) == []
    assert postprocess_mask(np.zeros((0, 3), np.uint8), PostProcessing(closing=1), classes=2).shape == (0, 3)


def test_runs_that_wait_on_disk_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(postprocessing, "_SPOOL_MEMORY", 1)
    mask = (np.random.default_rng(0).random((40, 50)) < 0.4).astype(np.uint8)
    chosen = PostProcessing(fill_holes=3, minimum_area=4)
    stream = postprocess(slabs(mask, list(range(0, 40, 7))), chosen, classes=2, workdir=tmp_path)
    whole = np.concatenate([runs.mask() for runs in stream])
    assert np.array_equal(whole, processed(mask, chosen))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        list(postprocess(slabs(mask, []), chosen, classes=2, workdir=tmp_path / "missing"))
