"""Images that lie apart, by how much is known here."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdiff.inference.misregistration import displacement, moved


def ground(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 height x width x 3 of patches with edges between them."""
    draw = np.random.default_rng(seed)
    patches = draw.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    return cv2.GaussianBlur(patches.repeat(12, axis=0).repeat(12, axis=1)[:height, :width], (0, 0), 1)


@settings(max_examples=20)
@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(100, 140), st.integers(100, 140), st.integers(0, 99))
def test_it_is_found_in_another_light_and_taken_back(down, right, height, width, seed):
    place = ground(height + 60, width + 60, seed)
    before = place[30 : 30 + height, 30 : 30 + width]
    after = place[30 - down : 30 - down + height, 30 - right : 30 - right + width]
    lit = (255 * (after / 255) ** 0.6).astype(np.uint8)
    valid = np.ones((height, width), bool)
    found = displacement([(before, lit, valid)])
    assert np.abs(np.subtract(found, (down, right))).max() <= 1
    one, other, both = moved((before, after, valid), down, right)
    np.testing.assert_array_equal(one, other)
    assert both.shape == (height - abs(down), width - abs(right)) == one.shape[:2]


def test_pixels_without_data_and_windows_of_another_size_count_for_nothing():
    place = ground(160, 180)
    valid = np.ones((120, 140), bool)
    valid[:50, 60:] = False
    before, after = place[20:140, 20:160].copy(), place[8:128, 29:169].copy()  # 12 down, 9 left
    before[~valid], after[~valid] = 0, 255
    other = ground(90, 90, seed=1)
    apart = displacement([(before, after, valid), (other, other, np.ones((90, 90), bool))])
    assert np.abs(np.subtract(apart, (12, -9))).max() <= 1
    _, _, both = moved((before, after, valid), 12, -9)
    np.testing.assert_array_equal(both, valid[:108, 9:] & valid[12:, :131])


@pytest.mark.parametrize("windows", [[], [(np.zeros((20, 30, 1), np.uint8),) * 2 + (np.ones((20, 30), bool),)]])
def test_where_nothing_is_to_be_seen_nothing_lies_apart(windows):
    assert displacement(windows) == (0, 0)
    assert displacement([(ground(20, 30), ground(20, 30), np.zeros((20, 30), bool))]) == (0, 0)
