"""Tiles cover every pixel, their weights sum to 1, and blending them gives back the field they were cut from."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdiff.inference.tiling import TilePlan, blend_rows, plan_tiles, read_tile, tile_weights


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    stride = draw(st.sampled_from([1, 2, 4, 5]))
    tile = draw(st.integers(1, 6))
    overlap = draw(st.integers(0, tile - 1))
    sides = st.integers(1, 70)
    return plan_tiles(draw(sides), draw(sides), tile=tile * stride, overlap=overlap * stride, stride=stride)


def cut(plan: TilePlan, field: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    for row, column, y, x in plan.windows():
        yield row, column, read_tile(field, y, x, plan.tile_height, plan.tile_width)


@given(plans())
def test_tiles_lie_on_the_grid_of_the_stride_and_cover_every_pixel(plan: TilePlan):
    covered = np.zeros((plan.height, plan.width), int)
    for _, _, y, x in plan.windows():
        assert y % plan.stride == 0
        assert x % plan.stride == 0
        assert y < plan.height, "a tile wholly past the image"
        assert x < plan.width, "a tile wholly past the image"
        covered[y : y + plan.tile_height, x : x + plan.tile_width] += 1
    assert covered.min() >= 1
    assert plan.tile_height % plan.stride == plan.tile_width % plan.stride == 0
    assert plan.count == len(list(plan.windows()))


def test_an_image_within_one_tile_shrinks_it_to_the_stride():
    plan = plan_tiles(100, 168, tile=512, overlap=64, stride=16)
    assert (plan.tile_height, plan.tile_width, plan.count) == (112, 176, 1)


def test_the_last_tile_keeps_its_place_and_reaches_past_the_image():
    plan = plan_tiles(64, 130, tile=64, overlap=16, stride=16)
    assert plan.origins_y == (0,)
    assert plan.origins_x == (0, 48, 96)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tile": 500, "overlap": 64, "stride": 16}, "tile 500 .* stride 16: take 496 or 512"),
        ({"tile": 10, "overlap": 0, "stride": 16}, "tile 10 .* take 16"),
        ({"tile": 512, "overlap": 50, "stride": 16}, "overlap 50 .* stride 16: take 48 or 64"),
        ({"tile": 64, "overlap": 60, "stride": 16}, "overlap 60 .* take 48$"),
        ({"tile": 64, "overlap": 64, "stride": 16}, "overlap 64 does not fit tile 64: take 0 to 48"),
        ({"tile": 64, "overlap": -16, "stride": 16}, "overlap -16"),
        ({"tile": 64, "overlap": 0, "stride": 0}, "stride is 0"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_nearest_that_do(arguments: dict[str, int], words: str):
    with pytest.raises(ValueError, match=words):
        plan_tiles(1000, 1000, **arguments)


@given(plans(), st.data())
def test_weights_sum_to_one_and_leave_out_the_margin_of_inner_edges(plan: TilePlan, data: st.DataObject):
    margin = data.draw(st.integers(0, plan.overlap // 2))
    down, across = tile_weights(plan, margin=margin)
    total = np.zeros((plan.origins_y[-1] + plan.tile_height, plan.origins_x[-1] + plan.tile_width))
    for row, column, y, x in plan.windows():
        total[y : y + plan.tile_height, x : x + plan.tile_width] += np.outer(down[row], across[column])
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for weights in (down, across):
        assert weights.dtype == np.float32
        assert weights.min() >= 0
        assert (weights[1:, :margin] == 0).all()
        assert (weights[:-1, weights.shape[1] - margin :] == 0).all()
        assert (weights[0, 0], weights[-1, -1]) == (1, 1)


def test_weights_are_a_raised_cosine_in_the_overlap_and_one_elsewhere():
    plan = plan_tiles(64, 112, tile=64, overlap=16, stride=16)
    down, across = tile_weights(plan, margin=2)
    assert (down == 1).all()
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(12) + 0.5) / 12)
    np.testing.assert_allclose(across[1], [0, 0, *rise, 1, 1, *[1] * 48], atol=1e-7)
    np.testing.assert_allclose(across[0], across[1][::-1], atol=1e-7)


def test_margins_beyond_the_overlap_are_refused_where_tiles_meet():
    with pytest.raises(ValueError, match=r"margin 9 .* overlap 16: take an overlap >= 18"):
        tile_weights(plan_tiles(64, 200, tile=64, overlap=16, stride=16), margin=9)
    tile_weights(plan_tiles(64, 64, tile=64, overlap=16, stride=16), margin=9)
    with pytest.raises(ValueError, match="margin is -1"):
        tile_weights(plan_tiles(64, 64, tile=64, overlap=16, stride=16), margin=-1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 25))
def test_reading_mirrors_past_the_border_from_arrays_and_readers_alike(height: int, width: int, y: int, x: int, n: int):
    image = np.arange(height * width * 2, dtype=np.uint8).reshape(height, width, 2)
    padded = np.pad(image, ((60, 60), (60, 60), (0, 0)), mode="symmetric")
    expected = padded[60 + y : 60 + y + n, 60 + x : 60 + x + n]

    def reader(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        assert 0 <= y0 < y1 <= height, "a window outside the image"
        assert 0 <= x0 < x1 <= width, "a window outside the image"
        return image[y0:y1, x0:x1]

    for tile in (read_tile(image, y, x, n, n), read_tile(reader, y, x, n, n, size=(height, width))):
        np.testing.assert_array_equal(tile, expected)
        assert tile.dtype == np.uint8


def test_a_reader_has_to_say_its_size_and_return_its_window():
    with pytest.raises(ValueError, match="size"):
        read_tile(lambda y0, y1, x0, x1: np.zeros((4, 4, 3)), 0, 0, 4, 4)
    with pytest.raises(ValueError, match=r"3 x 4 pixels for rows 0\.\.4"):
        read_tile(lambda y0, y1, x0, x1: np.zeros((3, 4, 3)), 0, 0, 4, 4, size=(8, 8))


@given(plans(), st.integers(1, 3), st.data())
def test_blending_gives_back_the_field_in_rows_in_order(plan: TilePlan, channels: int, data: st.DataObject):
    seed = data.draw(st.integers(0, 2**16))
    margin = data.draw(st.integers(0, plan.overlap // 2))
    field = np.random.default_rng(seed).random((plan.height, plan.width, channels), np.float32)
    following = 0
    for y, rows in blend_rows(plan, cut(plan, field), margin=margin):
        assert y == following
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, field[y : y + len(rows)], atol=1e-6)
        following += len(rows)
    assert following == plan.height


def test_pixels_in_the_margin_do_not_reach_the_result():
    plan = plan_tiles(100, 90, tile=32, overlap=16, stride=8)

    def spoiled() -> Iterator[tuple[int, int, np.ndarray]]:
        for row, column, y, x in plan.windows():
            tile = np.full((32, 32, 1), 1e6, np.float32)
            top, left = (0 if y == 0 else 4), (0 if x == 0 else 4)
            bottom = 32 if row == len(plan.origins_y) - 1 else 28
            right = 32 if column == len(plan.origins_x) - 1 else 28
            tile[top:bottom, left:right] = 0.5
            yield row, column, tile

    for _, rows in blend_rows(plan, spoiled(), margin=4):
        np.testing.assert_allclose(rows, 0.5, atol=1e-6)


def test_a_convolution_by_tiles_equals_the_whole_image_away_from_the_border():
    """The receptive field reaches 3 pixels, the margin is 3: zero padding at the tiles' edges must leave no trace."""
    image = np.random.default_rng(0).random((90, 121, 1), np.float32)

    def blur(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, ((3, 3), (3, 3), (0, 0)))
        return np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(0, 1)).mean((3, 4), dtype=np.float32)

    plan = plan_tiles(90, 121, tile=32, overlap=8, stride=4)
    tiles = ((row, column, blur(tile)) for row, column, tile in cut(plan, image))
    blended = np.concatenate([rows for _, rows in blend_rows(plan, tiles, margin=3)])
    np.testing.assert_allclose(blended[3:-3, 3:-3], blur(image)[3:-3, 3:-3], atol=1e-5)


def test_rows_appear_as_soon_as_their_tiles_are_there():
    plan = plan_tiles(96, 96, tile=32, overlap=0, stride=32)
    taken = []

    def tiles() -> Iterator[tuple[int, int, np.ndarray]]:
        for row, column, _, _ in plan.windows():
            taken.append((row, column))
            yield row, column, np.zeros((32, 32, 1), np.float32)

    y, rows = next(blend_rows(plan, tiles()))
    assert (y, rows.shape) == (0, (32, 96, 1))
    assert taken == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("tiles", "words"),
    [
        ([(0, 0), (1, 0)], r"tile \(1, 0\) came where \(0, 1\)"),
        ([(0, 0)], r"end before tile \(0, 1\): the plan has 2"),
        ([(0, 0), (0, 1), (0, 2)], r"tile \(0, 2\) comes after the last"),
    ],
)
def test_missing_swapped_and_surplus_tiles_are_refused(tiles: list[tuple[int, int]], words: str):
    plan = plan_tiles(16, 32, tile=16, overlap=0, stride=16)
    with pytest.raises(ValueError, match=words):
        list(blend_rows(plan, ((row, column, np.zeros((16, 16, 1), np.float32)) for row, column in tiles)))


def test_predictions_of_another_shape_are_refused():
    plan = plan_tiles(16, 32, tile=16, overlap=0, stride=16)
    with pytest.raises(ValueError, match=r"\(8, 16, 1\): it must be 16 x 16 x K"):
        list(blend_rows(plan, [(0, 0, np.zeros((8, 16, 1), np.float32))]))
    with pytest.raises(ValueError, match="2 channels"):
        list(blend_rows(plan, [(0, column, np.zeros((16, 16, 1 + column), np.float32)) for column in range(2)]))


def blending_peak(height: int, width: int, tile: int) -> int:
    plan = plan_tiles(height, width, tile=tile, overlap=tile // 4, stride=16)
    prediction = np.ones((plan.tile_height, plan.tile_width, 1), np.float32)
    tracemalloc.start()
    for _ in blend_rows(plan, ((row, column, prediction) for row, column, _, _ in plan.windows())):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_bounded_by_the_width_times_the_tile():
    low, high = blending_peak(256, 2048, 64), blending_peak(4096, 2048, 64)
    assert high < 1.1 * low
    assert high < 3.5 * 64 * 2048 * 4
