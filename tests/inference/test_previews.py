import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdiff.inference import previews
from segdiff.inference.previews import Preview, preview_factor


@pytest.fixture(autouse=True)
def small_previews(monkeypatch):
    monkeypatch.setattr(previews, "LONGEST", 8)


def shrunk(image: np.ndarray, cuts: list[int], by: str) -> np.ndarray:
    preview = Preview(*image.shape[:2], by)
    for first, past in zip([0, *cuts], [*cuts, len(image)], strict=True):
        preview.add(image[first:past])
    return preview.image()


sizes = st.integers(1, 40)


@given(sizes, sizes, st.lists(st.integers(0, 40)), st.integers(0, 99))
def test_however_the_rows_come_every_change_is_seen(height, width, cuts, seed):
    mask = np.random.default_rng(seed).integers(0, 30, (height, width)).astype(np.uint8)
    mask = np.where(mask < 27, 0, mask - 26).astype(np.uint8)
    factor = preview_factor(height, width)
    cuts = sorted(cut for cut in cuts if cut <= height)
    expected = [
        [mask[y : y + factor, x : x + factor].max() for x in range(0, width, factor)] for y in range(0, height, factor)
    ]
    np.testing.assert_array_equal(shrunk(mask, cuts, "largest"), expected)
    assert max(len(expected), len(expected[0])) <= previews.LONGEST


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("cuts", [[], [5], [1, 2, 3, 17, 30]])
def test_an_image_becomes_the_means_of_its_blocks(bands, cuts):
    image = np.random.default_rng(0).integers(0, 256, (32, 24, bands)).astype(np.uint8)
    expected = image.reshape(8, 4, 6, 4, bands).mean(axis=(1, 3))
    np.testing.assert_allclose(shrunk(image, cuts, "area"), expected, atol=0.51)


def test_a_small_image_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (7, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(shrunk(image, [3], "area"), image)


def test_an_image_of_many_bands_and_an_odd_size_is_shrunk_band_by_band():
    image = np.random.default_rng(0).integers(0, 256, (33, 25, 6)).astype(np.uint8)
    bands = [shrunk(image[..., band : band + 1], [20], "area") for band in range(6)]
    np.testing.assert_array_equal(shrunk(image, [20], "area"), np.concatenate(bands, axis=2))
