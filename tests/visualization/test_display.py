"""How images of any data type are shown."""

import numpy as np
import pytest

from segdiff.visualization.display import display_rgb


def ramp(dtype: str, low: float = 0, step: float = 1) -> np.ndarray:
    """0..100 as 101 x 1 x 1, in steps from a low value on."""
    return (low + step * np.arange(101)).astype(dtype)[:, None, None]


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_from_the_2nd_to_the_98th_percentile(dtype: str) -> None:
    shown = display_rgb(ramp(dtype, low=100, step=7))
    expected = np.clip(np.rint((np.arange(101) - 2) * 255 / 96), 0, 255)
    assert shown.shape == (101, 1, 3)
    for band in range(3):
        np.testing.assert_array_equal(shown[:, 0, band], expected)


def test_each_band_by_itself() -> None:
    image = np.concatenate([ramp("uint16"), ramp("uint16", 5000, 90), ramp("uint16", 60000, 1)], axis=2)
    shown = display_rgb(image)
    np.testing.assert_array_equal(shown[..., 0], shown[..., 1])
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


@pytest.mark.parametrize("hole", [np.nan, np.inf, -9999])
def test_what_holds_no_data_counts_for_nothing_and_is_black(hole: float) -> None:
    image = np.concatenate([ramp("float32", 3), np.full((40, 1, 1), hole, np.float32)])
    valid = np.ones((141, 1), bool)
    valid[101:] = np.isnan(hole) or np.isinf(hole)  # those are no data whatever it says
    shown = display_rgb(image, valid)
    np.testing.assert_array_equal(shown[:101], display_rgb(ramp("float32", 3)))
    assert np.all(shown[101:] == 0)
    assert np.all(display_rgb(image, np.zeros((141, 1), bool)) == 0)


def test_eight_bits_hide_what_is_not_valid_too() -> None:
    valid = np.zeros((101, 1), bool)
    valid[50:] = True
    shown = display_rgb(ramp("uint8", 100), valid)
    assert np.all(shown[:50] == 0)
    np.testing.assert_array_equal(shown[50:, 0, 0], np.arange(150, 201))


def test_few_bright_pixels_are_seen_on_an_even_ground() -> None:
    image = np.full((100, 100, 1), 500, np.uint16)
    image[3, 4:7, 0] = 780, 1100, 1300
    shown = display_rgb(image)[..., 0]
    assert shown[3, 4:7].tolist() == [round(280 * 255 / 800), round(600 * 255 / 800), 255]
    assert np.count_nonzero(shown) == 3


def test_one_value_has_nothing_to_stretch() -> None:
    assert np.all(display_rgb(np.full((9, 9, 1), 3000, np.uint16)) == 128)
    assert np.all(display_rgb(np.full((9, 9, 4), 77, np.uint8)) == 77)


def test_stretching_can_be_asked_for() -> None:
    np.testing.assert_array_equal(display_rgb(ramp("uint8", 20), stretch=True), display_rgb(ramp("uint16")))
    six = np.random.default_rng(0).integers(90, 110, (20, 20, 6), dtype=np.uint8)
    np.testing.assert_array_equal(display_rgb(six, stretch=False), six[..., :3])
    with pytest.raises(ValueError, match="image is int16; only uint8 can be shown without stretching"):
        display_rgb(ramp("int16"), stretch=False)
    with pytest.raises(ValueError, match=r"valid has shape \(2, 2\), the image \(101, 1, 1\)"):
        display_rgb(ramp("uint8"), np.ones((2, 2), bool))
