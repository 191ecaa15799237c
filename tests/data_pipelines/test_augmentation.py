from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipelines import IGNORE
from data_pipelines.augmentation import Augmentation

SIZE = 64
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
EVERYTHING = {
    "flip": True,
    "swap": True,
    "scale": 0.2,
    "rotate": 20,
    "brightness": 0.2,
    "contrast": 0.2,
    "gamma": 0.5,
    "band_gain": 0.2,
    "noise": 0.1,
    "blur": 2,
    "misregistration": 2,
    "whole_shift": 3,
}


def coordinates() -> np.ndarray:
    """An image whose bands are the row, the column (in quarters of a pixel) and a constant."""
    return np.dstack([ROWS * 4, COLUMNS * 4, np.full_like(ROWS, 100)]).astype(np.uint8)


def noise(bands: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, bands), dtype=np.uint8)


def results(augmentation: Augmentation, before, after, mask, count: int = 40) -> list[tuple[np.ndarray, ...]]:
    return [augmentation(before, after, mask, np.random.default_rng(seed)) for seed in range(count)]


def options(bands: int) -> dict:
    colour = {"hue": 0.1, "saturation": 0.2} if bands == 3 else {}
    return {**EVERYTHING, **colour, **({"jpeg": 40} if bands in (1, 3) else {})}


def test_flips_move_before_after_and_mask_alike_and_reach_all_eight_positions():
    before, mask = coordinates(), (ROWS * 3 + COLUMNS).astype(np.uint8)
    seen = set()
    for moved_before, moved_after, moved_mask in results(
        Augmentation(bands=3, flip=True), before, 255 - before, mask, 80
    ):
        np.testing.assert_array_equal(moved_after, 255 - moved_before)
        rows, columns = moved_before[..., 0] // 4, moved_before[..., 1] // 4
        np.testing.assert_array_equal(moved_mask, mask[rows, columns])
        seen.add((rows[0, 0], columns[0, 0], rows[0, -1], columns[0, -1]))
    assert len(seen) == 8


def test_a_mask_that_lies_two_right_and_one_up_of_what_it_marks_does_so_after_every_flip():
    before = noise(3)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    marked = before[..., 0] > 250
    mask[:-1, 2:] = marked[1:, :-2]
    augmentation = Augmentation(bands=3, flip=True, mask_offset=(2, -1))
    moved = results(augmentation, before, before, mask, 80)
    assert len({image.tobytes() for image, _, _ in moved}) == 8
    inside = slice(4, -4)
    for image, _, moved_mask in moved:
        found = np.roll(image[..., 0] > 250, (-1, 2), axis=(0, 1))
        np.testing.assert_array_equal(moved_mask[inside, inside], found[inside, inside])


@pytest.mark.parametrize("turn", [{"scale": 0.3}, {"rotate": 40}, {"scale": 0.2, "rotate": 180, "flip": True}])
def test_zoom_and_turn_move_before_after_and_mask_alike(turn):
    before = coordinates()
    moved = results(Augmentation(bands=3, **turn), before, before, ROWS.astype(np.uint8), 20)
    assert sum(not np.array_equal(b, before) for b, _, _ in moved) > 8
    for moved_before, moved_after, mask in moved:
        np.testing.assert_array_equal(moved_after, moved_before)
        assert np.abs(moved_before[..., 0] / 4 - mask).max() <= 1.0


def test_zoom_keeps_the_aspect_and_stays_within_its_fraction():
    scales = []
    for before, _, _ in results(Augmentation(bands=3, scale=0.3), coordinates(), coordinates(), ROWS.astype(np.uint8)):
        step = before.astype(float)
        down, right = (step[40, 32, 0] - step[24, 32, 0]) / 64, (step[32, 40, 1] - step[32, 24, 1]) / 64
        assert down == pytest.approx(right, abs=0.04)
        scales.append(1 / down)
    assert 0.66 < min(scales) < 0.9 < 1.1 < max(scales) < 1.36


def test_masks_hold_only_the_values_they_held():
    mask = np.random.default_rng(0).choice(np.array([0, 1, 6, IGNORE], np.uint8), (SIZE, SIZE))
    for _, _, moved in results(Augmentation(bands=3, **options(3)), noise(3), noise(3), mask):
        assert moved.dtype == np.uint8
        assert set(np.unique(moved)) <= {0, 1, 6, IGNORE}


@pytest.mark.parametrize(
    "only",
    [
        {"brightness": 0.3},
        {"contrast": 0.5},
        {"gamma": 1.0},
        {"band_gain": 0.3},
        {"noise": 0.2},
        {"blur": 3},
        {"jpeg": 10},
        {"hue": 0.2, "saturation": 0.3},
    ],
)
def test_photometry_is_drawn_for_each_image_alone_and_leaves_the_mask(only):
    image, mask = noise(3), ROWS.astype(np.uint8)
    differing = 0
    for before, after, same in results(Augmentation(bands=3, **only), image, image, mask):
        np.testing.assert_array_equal(same, mask)
        differing += not np.array_equal(before, after)
    assert differing > 10


def test_brightness_stays_within_its_fraction_of_the_full_range():
    flat = np.full((SIZE, SIZE, 3), 128, np.uint8)
    moved = results(Augmentation(bands=3, brightness=0.2), flat, flat, ROWS.astype(np.uint8), 60)
    shifts = np.array([image.astype(int).mean() - 128 for before, after, _ in moved for image in (before, after)])
    assert -52 < shifts.min() < -30
    assert 30 < shifts.max() < 52


def test_gamma_bends_the_grey_values_within_its_factor():
    flat = np.full((SIZE, SIZE, 3), 64, np.uint8)
    moved = results(Augmentation(bands=3, gamma=1.0), flat, flat, ROWS.astype(np.uint8), 60)
    exponents = [np.log(image.mean() / 255) / np.log(64 / 255) for pair in moved for image in pair[:2]]
    assert 0.48 < min(exponents) < 0.7
    assert 1.5 < max(exponents) < 2.05


def test_band_gain_changes_each_band_by_itself_within_its_fraction():
    flat = np.full((SIZE, SIZE, 6), 100, np.uint8)
    moved = results(Augmentation(bands=6, band_gain=0.3), flat, flat, ROWS.astype(np.uint8), 60)
    gains = np.array([image.mean(axis=(0, 1)) / 100 for before, after, _ in moved for image in (before, after)])
    assert 0.69 < gains.min() < 0.8
    assert 1.2 < gains.max() < 1.31
    assert np.median(np.ptp(gains, axis=1)[gains.std(axis=1) > 0]) > 0.2


def test_swap_exchanges_before_and_after_in_half_of_the_crops_and_leaves_the_mask():
    before, after, mask = noise(3), noise(3, 1), ROWS.astype(np.uint8)
    swapped = 0
    for moved_before, moved_after, same in results(Augmentation(bands=3, swap=True), before, after, mask, 100):
        np.testing.assert_array_equal(same, mask)
        exchanged = np.array_equal(moved_before, after) and np.array_equal(moved_after, before)
        assert exchanged or (np.array_equal(moved_before, before) and np.array_equal(moved_after, after))
        swapped += exchanged
    assert 30 < swapped < 70


def test_misregistration_moves_before_alone_and_by_no_more_than_asked():
    image, mask = coordinates(), ROWS.astype(np.uint8)
    shifts = []
    for before, after, same in results(Augmentation(bands=3, misregistration=2.0), image, image, mask):
        np.testing.assert_array_equal(after, image)
        np.testing.assert_array_equal(same, mask)
        inner = before[8:-8, 8:-8, :2].astype(float) - image[8:-8, 8:-8, :2]
        assert inner.std(axis=(0, 1)).max() < 0.6
        shifts.append(inner.mean(axis=(0, 1)) / 4)
    assert 1.5 < np.abs(shifts).max() < 2.2
    assert np.std(shifts, axis=0).min() > 0.7


def test_a_whole_shift_moves_before_alone_by_whole_pixels_and_most_crops_not_at_all():
    image, mask = noise(3), ROWS.astype(np.uint8)
    steps = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    inner = slice(8, -8), slice(8, -8)
    found = []
    for before, after, same in results(Augmentation(bands=3, whole_shift=2), image, image, mask, 600):
        np.testing.assert_array_equal(after, image)
        np.testing.assert_array_equal(same, mask)
        of = [step for step in steps if np.array_equal(before[inner], np.roll(image, step, (0, 1))[inner])]
        assert len(of) == 1
        found += of
    assert set(found) == set(steps)
    assert 340 < found.count((0, 0)) < 420


@pytest.mark.parametrize("moved", [{"misregistration": 2.0}, {"whole_shift": 2}])
def test_the_image_that_a_mask_was_drawn_on_is_never_moved_swapped_or_not(moved):
    before, after, mask = noise(3), noise(3, 1), ROWS.astype(np.uint8)
    swapped = 0
    for first, second, _ in results(Augmentation(bands=3, swap=True, **moved), before, after, mask, 100):
        swapped += np.array_equal(first, after)
        assert np.array_equal(first, after) or np.array_equal(second, after)
    assert 30 < swapped < 70


def test_misregistration_of_nine_bands_moves_all_of_them_alike():
    image = np.repeat(noise(1), 9, axis=2)
    before, _, _ = Augmentation(bands=9, misregistration=3)(image, image, image[..., 0], np.random.default_rng(1))
    assert not np.array_equal(before, image)
    np.testing.assert_array_equal(before, np.repeat(before[..., :1], 9, axis=2))


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_every_option_keeps_shape_and_dtype_and_never_writes_into_what_it_was_given(bands):
    before, after, mask = noise(bands), noise(bands, 1), ROWS.astype(np.uint8)
    for array in (before, after, mask):
        array.flags.writeable = False
    moved = results(Augmentation(bands=bands, **options(bands)), before, after, mask)
    for images in moved:
        assert [image.shape for image in images] == [before.shape, after.shape, mask.shape]
        assert {image.dtype for image in images} == {np.dtype(np.uint8)}


def test_nothing_asked_for_changes_nothing():
    image, mask = noise(3), ROWS.astype(np.uint8)
    before, after, same = Augmentation(bands=3)(image, image, mask, np.random.default_rng(0))
    assert np.array_equal(before, image)
    assert np.array_equal(after, image)
    assert np.array_equal(same, mask)


def test_the_same_rng_gives_the_same_result_whatever_was_drawn_before_and_in_every_thread():
    augmentation = Augmentation(bands=3, **options(3))
    before, after, mask = noise(3), noise(3, 1), ROWS.astype(np.uint8)

    def one(seed: int) -> bytes:
        return b"".join(part.tobytes() for part in augmentation(before, after, mask, np.random.default_rng(seed)))

    alone = [one(seed) for seed in range(48)]
    assert len(set(alone)) == 48
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(one, reversed(range(48))))
    assert together[::-1] == alone


@pytest.mark.parametrize(
    ("bands", "option", "words"),
    [
        (1, {"hue": 0.1}, "hue and saturation need 3 bands, the images have 1: set both to 0"),
        (6, {"saturation": 0.1}, "hue and saturation need 3 bands, the images have 6"),
        (6, {"jpeg": 50}, "jpeg needs 1 or 3 bands, the images have 6: set it to null"),
    ],
)
def test_options_that_the_bands_cannot_take_are_refused(bands, option, words):
    with pytest.raises(ValueError, match=words):
        Augmentation(bands=bands, **option)
