"""Overlays, by pixels worked out by hand on small masks, and by properties."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segdiff.visualization.display import display_rgb
from segdiff.visualization.drawing import (
    Size,
    compare,
    draw_change,
    draw_outcomes,
    draw_probability,
    probability_bar,
    resize_labels,
)
from segdiff.visualization.overlays import blink, mark_change, mark_outcomes, overlay, panel_size
from segdiff.visualization.palettes import (
    CLASS_COLORS,
    FALSE,
    IGNORE,
    MISSED,
    OUTCOME_COLORS,
    TRUE,
    UNCHANGED,
    WRONG_CLASS,
)
from segdiff.visualization.pictures import BLINK_MILLISECONDS, write_gif, write_image
from segdiff.visualization.sheets import sheet


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def labels(height: int, width: int, *blocks: tuple[slice, slice, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for rows, columns, value in blocks:
        mask[rows, columns] = value
    return mask


def geometry(width: int) -> tuple[int, int, int]:
    """Cell, strip and gutter of a sheet, as its docstring says."""
    cell = max(width, 160)
    return cell, min(64, max(24, round(0.06 * cell))), max(4, cell // 64)


def panel(page: np.ndarray, index: int, height: int, width: int) -> np.ndarray:
    cell, strip, gutter = geometry(width)
    left = gutter + index * (cell + gutter) + (cell - width) // 2
    return page[strip : strip + height, left : left + width]


def legend_colors(page: np.ndarray, height: int, width: int) -> set[tuple[int, ...]]:
    """The colours of the legend's swatches: those of many pixels, which the soft edges of letters have not."""
    _, strip, _ = geometry(width)
    colors, counts = np.unique(page[strip + height + 1 :].reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(color) for color in colors[counts >= 100].tolist()}


# Layout


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (200, 240, (200, 240)),
        (256, 256, (256, 256)),
        (64, 64, (192, 192)),
        (10, 159, (20, 318)),
        (1, 1, (160, 160)),
        (1600, 8, (1600, 8)),
        (700, 8, (1400, 16)),
        (1600, 1600, (1600, 1600)),
        (800, 3200, (400, 1600)),
        (3, 5000, (1, 1600)),
    ],
)
def test_sizes(height: int, width: int, shown: tuple[int, int], truth: bool) -> None:
    assert panel_size(height, width) == shown
    mask = labels(height, width)
    mask[0, 0] = 1
    page = overlay(noise(height, width), noise(height, width), mask, mask if truth else None)
    cell, strip, gutter = geometry(shown[1])
    assert page.dtype == np.uint8
    assert page.shape == (strip + shown[0] + strip + gutter, 3 * cell + 4 * gutter, 3)


@pytest.mark.parametrize("with_truth", [False, True])
def test_before_and_after_are_shown_unchanged(with_truth: bool) -> None:
    before, after = noise(200, 240, seed=1), noise(200, 240, seed=2)
    mask = labels(200, 240, (slice(20, 60), slice(30, 90), 1))
    kept = [array.copy() for array in (before, after, mask)]
    page = overlay(before, after, mask, mask.copy() if with_truth else None)
    np.testing.assert_array_equal(panel(page, 0, 200, 240), before)
    np.testing.assert_array_equal(panel(page, 1, 200, 240), after)
    for array, copy in zip((before, after, mask), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    before, after = noise(40, 64, seed=1), noise(40, 64, seed=2)
    page = overlay(before, after, labels(40, 64))
    for index, image in enumerate((before, after, after)):
        np.testing.assert_array_equal(panel(page, index, 120, 192), np.kron(image, np.ones((3, 3, 1), np.uint8)))


def test_large_images_are_averaged() -> None:
    before = np.full((1600, 3200, 3), 40, np.uint8)
    after = np.zeros((1600, 3200, 3), np.uint8)
    after[:, ::2] = 200
    page = overlay(before, after, labels(1600, 3200))
    assert np.all(panel(page, 0, 800, 1600) == 40)
    assert np.all(panel(page, 1, 800, 1600) == 100)


def test_before_takes_the_size_of_after() -> None:
    before = np.zeros((50, 80, 3), np.uint8)
    before[:, 40:] = 250
    shown = panel(overlay(before, noise(200, 320), labels(200, 320)), 0, 200, 320)
    assert np.all(shown[:, :150] == 0)
    assert np.all(shown[:, 170:] == 250)
    huge = np.repeat(np.repeat(before, 60, axis=0), 60, axis=1)
    shown = panel(overlay(huge, noise(60, 40), labels(60, 40)), 0, 240, 160)
    assert np.all(shown[:, :72] == 0)
    assert np.all(shown[:, 88:] == 250)


def test_captions_are_words_above_their_panels() -> None:
    page = overlay(noise(200, 240), noise(200, 240), labels(200, 240))
    cell, strip, gutter = geometry(240)
    strips = [page[: strip - 1, gutter + i * (cell + gutter) :][:, :cell] for i in range(3)]
    assert all((caption < 100).any() and (caption == 255).mean() > 0.8 for caption in strips)
    assert not np.array_equal(strips[0], strips[1])
    assert not np.array_equal(strips[1], strips[2])


def test_a_long_legend_is_wrapped_and_a_long_name_made_smaller() -> None:
    mask = labels(200, 200)
    mask[:155, 0] = np.arange(155) // 5 + 1  # all 31 classes
    page = overlay(noise(200, 200), noise(200, 200), mask)
    _, strip, gutter = geometry(200)
    rows, rest = divmod(len(page) - 200 - strip - gutter, strip)
    assert rows > 1
    assert rest == 0
    assert set(CLASS_COLORS) <= legend_colors(page, 200, 200)
    long = overlay(noise(200, 200), noise(200, 200), np.minimum(mask, 1), classes=["none", "a very long name " * 20])
    assert len(long) == strip + 200 + strip + gutter
    assert np.all(long[strip + 201 :, -gutter:] == 255)
    assert (long[strip + 201 :, :-gutter] < 100).any()


# Change


def test_change_is_filled_and_lined_outside() -> None:
    mask = labels(200, 200, (slice(60, 100), slice(80, 120), 1))
    shown = draw_change(np.full((200, 200, 3), 200, np.uint8), mask)
    # 0.3 of the class's orange over 200, and the line in that orange itself
    assert np.all(shown[60:100, 80:120] == (round(0.3 * 255 + 140), round(0.3 * 110 + 140), 140))
    assert np.all(shown[58:60, 82:118] == (255, 110, 0))
    assert np.all(shown[100:102, 82:118] == (255, 110, 0))
    assert np.all(shown[62:98, 78:80] == (255, 110, 0))
    assert np.all(shown[62:98, 120:122] == (255, 110, 0))
    assert np.all(shown[57, 82:118] == round(0.55 * 32 + 0.45 * 200))  # the dark rim
    far = np.ones((200, 200), bool)
    far[57:103, 77:123] = False
    assert np.all(shown[far] == 200)


def test_a_single_pixel_is_not_hidden_by_its_line() -> None:
    shown = draw_change(np.full((200, 200, 3), 100, np.uint8), labels(200, 200, (slice(50, 51), slice(70, 71), 6)))
    assert shown[50, 70].tolist() == [round(0.3 * 255 + 70), round(0.3 * 225 + 70), 70]
    for row, column in ((48, 70), (49, 70), (51, 70), (52, 70), (50, 68), (50, 72)):
        assert shown[row, column].tolist() == [255, 225, 0]


def test_lines_of_an_overview_are_wider() -> None:
    shown = draw_change(
        np.full((300, 1600, 3), 100, np.uint8), labels(300, 1600, (slice(100, 200), slice(300, 900), 1))
    )
    assert np.all(shown[97:100, 400:800] == CLASS_COLORS[0])
    assert not np.any(np.all(shown[96, 400:800] == CLASS_COLORS[0], axis=-1))


def test_ignored_pixels_are_grey_and_dim_in_the_change() -> None:
    after = np.zeros((200, 200, 3), np.uint8)
    after[:] = (200, 100, 50)
    mask = labels(200, 200, (slice(0, 100), slice(0, 200), 255))
    page = overlay(after, after, mask)
    shown = panel(page, 2, 200, 200)
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert np.all(shown[:100] == round(0.4 * luma))
    np.testing.assert_array_equal(shown[100:], after[100:])
    assert (64, 64, 64) in legend_colors(page, 200, 200)


def test_the_legend_names_the_classes_present_and_no_others() -> None:
    names = ["background", "open", "short", "mousebite"]
    image = noise(200, 200)
    mask = labels(200, 200, (slice(0, 9), slice(0, 9), 1), (slice(50, 60), slice(50, 60), 3))
    page = overlay(image, image, mask, classes=names)
    found = legend_colors(page, 200, 200)
    assert CLASS_COLORS[0] in found
    assert CLASS_COLORS[2] in found
    assert not found & {CLASS_COLORS[1], *CLASS_COLORS[3:]}
    renamed = overlay(image, image, mask, classes=[*names[:3], "spur"])
    _, strip, _ = geometry(200)
    np.testing.assert_array_equal(page[: strip + 200], renamed[: strip + 200])
    assert not np.array_equal(page, renamed)
    unnamed = overlay(image, image, mask)
    np.testing.assert_array_equal(unnamed, overlay(image, image, mask, classes=["", "class 1", "", "class 3"]))
    alone = np.minimum(mask, 1)
    np.testing.assert_array_equal(overlay(image, image, alone), overlay(image, image, alone, classes=["", "change"]))


def test_no_change_says_so() -> None:
    image = noise(200, 200)
    page = overlay(image, image, labels(200, 200))
    np.testing.assert_array_equal(panel(page, 2, 200, 200), image)
    assert not legend_colors(page, 200, 200) & set(CLASS_COLORS)
    assert (page[geometry(200)[1] + 201 :] < 100).any()  # words


def test_bool_masks_are_change() -> None:
    image = noise(200, 200)
    mask = labels(200, 200, (slice(5, 50), slice(5, 50), 1))
    np.testing.assert_array_equal(overlay(image, image, mask.astype(bool)), overlay(image, image, mask))
    np.testing.assert_array_equal(overlay(image, image, mask, mask.astype(bool)), overlay(image, image, mask, mask))


# Truth


def test_compare() -> None:
    mask = np.array([[0, 1, 0, 1, 2, 1, 0, 255]], np.uint8)
    truth = np.array([[0, 1, 1, 0, 1, 255, 255, 1]], np.uint8)
    expected = [UNCHANGED, TRUE, MISSED, FALSE, WRONG_CLASS, IGNORE, IGNORE, IGNORE]
    assert compare(mask, truth).tolist() == [expected]


def test_true_false_and_missed_pixels_have_their_colours() -> None:
    after = np.zeros((200, 200, 3), np.uint8)
    after[:] = (200, 100, 50)
    mask = labels(200, 200, (slice(0, 40), slice(0, 100), 1), (slice(80, 100), slice(0, 20), 2))
    truth = labels(200, 200, (slice(0, 40), slice(50, 150), 1), (slice(80, 100), slice(0, 20), 1))
    truth[160:] = IGNORE
    mask[180:] = 1
    page = overlay(after, after, mask, truth)
    shown = panel(page, 2, 200, 200).astype(int)
    ground = round(0.7 * round(0.299 * 200 + 0.587 * 100 + 0.114 * 50) + 51)

    def painted(*color: int) -> np.ndarray:
        return np.array([round(0.7 * value + 0.3 * ground) for value in color])

    assert np.abs(shown[:40, :50] - painted(214, 32, 10)).max() <= 1  # false
    assert np.abs(shown[:40, 50:100] - painted(30, 70, 250)).max() <= 1  # true
    assert np.abs(shown[:40, 100:150] - painted(255, 208, 0)).max() <= 1  # missed
    assert np.abs(shown[80:100, :20] - painted(220, 80, 200)).max() <= 1  # wrong class
    assert np.abs(shown[100:160] - ground).max() <= 1
    assert np.abs(shown[160:] - 0.4 * ground).max() <= 1  # ignored, found or not
    assert {*OUTCOME_COLORS.values(), (64, 64, 64)} <= legend_colors(page, 200, 200)


def test_the_image_shows_through_outcomes() -> None:
    after = np.zeros((160, 160, 3), np.uint8)
    after[:, 80:] = 255
    shown = draw_outcomes(after, np.full((160, 160), TRUE, np.uint8)).astype(int)
    assert np.abs(shown[:, 0] - shown[:, -1]).min() > 40


def test_the_legend_of_outcomes_names_wrong_class_and_ignored_where_they_occur() -> None:
    image = noise(200, 200)
    mask = labels(200, 200, (slice(0, 9), slice(0, 9), 1))
    found = legend_colors(overlay(image, image, mask, mask), 200, 200)
    assert {OUTCOME_COLORS[outcome] for outcome in (TRUE, FALSE, MISSED)} <= found
    assert OUTCOME_COLORS[WRONG_CLASS] not in found
    assert (64, 64, 64) not in found


# Styles


def test_styles_of_change() -> None:
    ground = np.full((200, 200, 3), 200, np.uint8)
    mask = labels(200, 200, (slice(60, 100), slice(80, 120), 1))
    contour, fill, both = (draw_change(ground, mask, style) for style in ("contour", "fill", "both"))
    np.testing.assert_array_equal(both, draw_change(ground, mask))
    assert np.all(contour[60:100, 80:120] == 200)
    outside = mask == 0
    np.testing.assert_array_equal(contour[outside], both[outside])
    assert np.all(contour[58:60, 82:118] == CLASS_COLORS[0])
    assert np.all(fill[60:100, 80:120] == [round((200 + value) / 2) for value in CLASS_COLORS[0]])
    assert np.all(fill[outside] == 200)
    page = overlay(ground, ground, mask, style="contour")
    np.testing.assert_array_equal(panel(page, 2, 200, 200), contour)


def test_styles_of_outcomes() -> None:
    ground = np.full((200, 200, 3), 100, np.uint8)
    outcomes = labels(200, 200, (slice(60, 100), slice(80, 120), MISSED))
    contour, fill, both = (draw_outcomes(ground, outcomes, style) for style in ("contour", "fill", "both"))
    np.testing.assert_array_equal(fill, draw_outcomes(ground, outcomes))
    assert np.all(contour[60:100, 80:120] == round(0.7 * 100 + 51))
    for lined in (contour, both):
        assert np.all(lined[58:60, 82:118] == OUTCOME_COLORS[MISSED])
    outside = outcomes == UNCHANGED
    assert np.all(fill[outside] == round(0.7 * 100 + 51))
    page = overlay(ground, ground, outcomes != 0, np.zeros((200, 200), bool), style="both")
    assert np.any(np.all(panel(page, 2, 200, 200) == OUTCOME_COLORS[FALSE], axis=-1))


# Probability


def test_a_heat_map_leaves_the_image_where_nothing_is_likely() -> None:
    image = noise(160, 200)
    probability = np.zeros((160, 200), np.float32)
    probability[:, 100:] = 1
    shown = draw_probability(image, probability).astype(int)
    grey = (0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]) * 0.4 + 20
    assert np.abs(shown[:, :100] - grey[:, :100, None]).max() <= 1.5
    assert np.abs(shown[:, 100:] - (0.95 * 255 + 0.05 * grey[:, 100:, None])).max() <= 1.5
    page = overlay(image, image, probability > 0.5, probability=probability)
    np.testing.assert_array_equal(panel(page, 3, 160, 200), shown)
    levels = np.rint(probability * 255).astype(np.uint8)
    np.testing.assert_array_equal(page, overlay(image, image, probability > 0.5, probability=levels))


def test_the_most_likely_pixel_is_kept_in_an_overview() -> None:
    image = np.full((2000, 4000, 1), 90, np.uint8)
    probability = np.zeros((2000, 4000), np.float32)
    probability[1001, 2503] = 1
    shown = panel(overlay(image, image, probability > 2, probability=probability), 3, 800, 1600).astype(int)
    rows, columns = np.nonzero(shown[..., 0] > 200)
    assert (rows.tolist(), columns.tolist()) == ([400], [1001])


def test_the_bar_is_in_the_legend() -> None:
    image = noise(160, 200)
    page = overlay(image, image, labels(160, 200), probability=np.zeros((160, 200), np.float32))
    _, strip, _ = geometry(200)
    key = page[strip + 161 :].astype(int)
    for color in probability_bar()[0, [64, 128, 192]].astype(int):
        assert np.abs(key - color).max(axis=-1).min() <= 8


@pytest.mark.parametrize("sight", ["normal", "protanopia", "deuteranopia", "tritanopia"])
def test_the_more_likely_the_lighter_for_every_sight(sight: str) -> None:
    grounds = [np.full((1, 256, 3), grey, np.uint8) for grey in (0, 64, 128, 192, 255)]
    levels = np.arange(256, dtype=np.uint8)[None]
    nothing = np.concatenate([seen(draw_probability(ground, levels * 0)[0, :1].tolist(), sight) for ground in grounds])
    for ground in grounds:
        likely = seen(draw_probability(ground, levels)[0, 128:].tolist(), sight)
        assert np.all(np.diff(likely[::8, 0]) > 0)
        assert np.linalg.norm(likely[:, None] - nothing, axis=-1).min() > 30  # no ground looks like a change


def test_probabilities_that_are_none_are_refused() -> None:
    image, mask = noise(20, 30), labels(20, 30)
    for wrong, words in (
        (np.full((20, 30), 1.5), r"probability reaches from 1\.5 to 1\.5; it must lie in 0\.\.1"),
        (np.full((20, 30), np.nan), "probability reaches from nan"),
        (np.zeros((20, 30), np.int16), "probability is int16"),
        (np.zeros((20, 31)), r"probability has shape \(20, 31\)"),
    ):
        with pytest.raises(ValueError, match=words):
            overlay(image, image, mask, probability=wrong)


# Blinking


def test_before_and_after_blink_with_the_same_outline() -> None:
    before, after = noise(200, 240, seed=1), noise(200, 240, seed=2)
    mask = labels(200, 240, (slice(60, 100), slice(80, 120), 3))
    pages = blink(before, after, mark_change(mask, ["", "a", "b", "c"]))
    assert pages[0].shape == pages[1].shape
    for page, image in zip(pages, (before, after), strict=True):
        np.testing.assert_array_equal(panel(page, 0, 200, 240), draw_change(image, mask, "contour"))
        assert CLASS_COLORS[2] in legend_colors(page, 200, 240)
    outcomes = np.where(mask != 0, np.uint8(TRUE), np.uint8(UNCHANGED))
    page = blink(before, after, mark_outcomes(outcomes))[0]
    np.testing.assert_array_equal(panel(page, 0, 200, 240), draw_outcomes(before, outcomes, "contour"))


def test_a_gif_keeps_the_colours_that_speak(tmp_path: Path) -> None:
    before, after = noise(200, 240, seed=1), noise(200, 240, seed=2)
    small = [(slice(40 * index, 40 * index + 3), slice(80, 83), index) for index in (1, 2, 4)]  # rare, so soon lost
    marks = mark_change(labels(200, 240, *small))
    pages = blink(before, after, marks)
    colors = [CLASS_COLORS[index - 1] for index in (1, 2, 4)]
    write_gif(tmp_path / "x.gif", pages, colors)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gif"]
    with Image.open(tmp_path / "x.gif") as stored:
        assert (stored.n_frames, stored.info["duration"], stored.info["loop"]) == (2, BLINK_MILLISECONDS, 0)
        for index, page in enumerate(pages):
            stored.seek(index)
            shown = np.asarray(stored.convert("RGB"))
            for color in colors:
                legend = np.all(page == color, axis=-1)
                legend[:225] = False
                assert np.mean(np.all(shown[legend] == color, axis=-1)) > 0.9
            assert np.all(shown[-2:] == 255)
            assert np.abs(shown.astype(int).mean() - page.mean()) < 3
    with pytest.raises(ValueError, match=r"x\.gif: pictures of shapes .* those of a GIF have one size"):
        write_gif(tmp_path / "x.gif", [pages[0], pages[1][1:]])


# Overviews


@settings(max_examples=40)
@given(st.data())
def test_no_changed_pixel_is_lost_in_an_overview(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    size = Size(data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    value = data.draw(st.integers(1, 31))
    mask = np.full((height, width), data.draw(st.sampled_from([0, IGNORE])), np.uint8)
    mask[row, column] = value
    small = resize_labels(mask, size)
    assert small.shape == size
    assert np.count_nonzero(small == value) == 1
    at = np.argwhere(small == value)[0]
    assert abs((at[0] + 0.5) / size.height - (row + 0.5) / height) < 1 / size.height
    assert abs((at[1] + 0.5) / size.width - (column + 0.5) / width) < 1 / size.width


def test_overviews_keep_errors_and_found_objects() -> None:
    outcomes = np.array([[TRUE, MISSED, UNCHANGED, FALSE, IGNORE, IGNORE, IGNORE, UNCHANGED]], np.uint8)
    assert resize_labels(outcomes, Size(1, 4)).tolist() == [[TRUE, FALSE, IGNORE, UNCHANGED]]


def test_enlarged_labels_keep_their_values() -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 1, 30, 255], np.uint8), (7, 9))
    np.testing.assert_array_equal(resize_labels(mask, Size(28, 36)), np.kron(mask, np.ones((4, 4), np.uint8)))


def test_one_pixel_of_a_large_raster_is_seen() -> None:
    image = np.full((2000, 4000, 1), 90, np.uint8)
    mask = labels(2000, 4000, (slice(1001, 1002), slice(2503, 2504), 1))
    shown = panel(overlay(image, image, mask), 2, 800, 1600)
    rows, columns = np.nonzero(np.all(shown == CLASS_COLORS[0], axis=-1))
    assert abs(rows.mean() - 400) < 1
    assert abs(columns.mean() - 1001) < 1


# Bands


def test_bands() -> None:
    grey, two, rgb = noise(20, 30, 1), noise(20, 30, 2), noise(20, 30, 3)
    np.testing.assert_array_equal(display_rgb(grey), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(display_rgb(two), np.repeat(two[..., :1], 3, axis=2))
    np.testing.assert_array_equal(display_rgb(rgb), rgb)


@pytest.mark.parametrize("bands", [4, 6, 13])
def test_more_bands_are_stretched(bands: int) -> None:
    image = np.random.default_rng(3).normal(60, 9, (50, 70, bands)).clip(0, 255).astype(np.uint8)
    image[..., 1] = 77  # constant: nothing to stretch
    shown = display_rgb(image)
    assert shown.shape == (50, 70, 3)
    assert np.all(shown[..., 1] == 77)
    for band in (0, 2):
        low, high = np.percentile(image[..., band], (2, 98))
        expected = np.clip((image[..., band] - low) / (high - low) * 255, 0, 255)
        assert np.abs(shown[..., band] - expected).max() <= 0.5
        assert shown[..., band].min() == 0
        assert shown[..., band].max() == 255


@pytest.mark.parametrize(("before", "after"), [(1, 3), (6, 1), (2, 13)])
@pytest.mark.parametrize("side", [40, 200, 1700])
def test_any_bands_in_any_size(before: int, after: int, side: int) -> None:
    mask = labels(side, side)
    page = overlay(noise(side, side, before), noise(side, side, after), mask, mask)
    assert page.shape[1] == 3 * min(side * (4 if side == 40 else 1), 1600) + 4 * max(
        4, min(page.shape[1] // 3, 1600) // 64
    )


# Colours

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
SIGHT: dict[str, list[list[float]]] = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colors: Sequence[Sequence[int]] | Sequence[int], sight: str) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB colours 0..255, as eyes of that sight see them."""
    scaled = np.asarray(colors, float) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(SIGHT[sight]), 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.transpose(to_xyz) / (0.95047, 1.0, 1.08883)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def smallest_distance(colors: Sequence[Sequence[int]], sight: str) -> float:
    lab = seen(colors, sight)
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(lab, 2))


def test_the_simulation_confuses_what_deuteranopes_confuse() -> None:
    pair = [(160, 110, 60), (110, 125, 60)]
    assert smallest_distance(pair, "normal") > 25
    assert smallest_distance(pair, "deuteranopia") < 10


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("grey", [0, 64, 128, 192, 255])
def test_outcomes_differ_for_every_sight_on_every_ground(sight: str, grey: int) -> None:
    after = np.full((160, 160, 3), grey, np.uint8)
    codes = [UNCHANGED, TRUE, FALSE, MISSED, WRONG_CLASS]
    painted = [draw_outcomes(after, np.full((160, 160), code, np.uint8))[0, 0].tolist() for code in codes]
    assert smallest_distance(painted, sight) > 20  # from each other and from the ground; 2 can just be told apart
    assert smallest_distance(painted[1:4], sight) > 30


@pytest.mark.parametrize("sight", SIGHT)
def test_class_colours_differ(sight: str) -> None:
    assert len(set(CLASS_COLORS)) == 31
    assert smallest_distance(list(CLASS_COLORS[:6]), sight) > 20
    assert smallest_distance(list(CLASS_COLORS), sight) > 4
    greys = [(grey, grey, grey) for grey in range(0, 256, 8)]
    assert all(np.linalg.norm(seen(greys, sight) - seen(color, sight), axis=1).min() > 20 for color in CLASS_COLORS[:6])


# Refusals


def test_shapes_that_do_not_fit_are_named() -> None:
    image = noise(20, 30)
    with pytest.raises(ValueError, match=r"mask has shape \(30, 20\) but after has \(20, 30, 3\)"):
        overlay(image, image, labels(30, 20))
    with pytest.raises(ValueError, match=r"truth has shape \(20, 31\) but after has \(20, 30, 3\)"):
        overlay(image, image, labels(20, 30), labels(20, 31))
    with pytest.raises(ValueError, match=r"mask has shape \(20, 30, 1\)"):
        overlay(image, image, labels(20, 30)[..., None])
    with pytest.raises(ValueError, match=r"before has shape \(20, 30\)"):
        overlay(image[..., 0], image, labels(20, 30))
    with pytest.raises(ValueError, match=r"after has shape \(0, 30, 3\)"):
        overlay(image, image[:0], labels(0, 30))


def test_other_types_and_values_are_refused() -> None:
    image, mask = noise(20, 30), labels(20, 30)
    with pytest.raises(ValueError, match="after is complex64"):
        overlay(image, image.astype(np.complex64), mask)
    with pytest.raises(ValueError, match="image is bool"):
        display_rgb(image > 3)
    with pytest.raises(ValueError, match="truth is int64"):
        overlay(image, image, mask, mask.astype(np.int64))
    mask[3, 4] = 32
    with pytest.raises(ValueError, match=r"mask holds 32; class indices are 0\.\.31, and 255 is ignore"):
        overlay(image, image, mask)
    mask[3, 4] = 2
    with pytest.raises(ValueError, match=r"mask holds class 2 but classes names 0\.\.1 \(none, change\)"):
        overlay(image, image, mask, classes=["none", "change"])


def test_a_sheet_wants_a_caption_for_each_panel() -> None:
    with pytest.raises(ValueError, match="shorter"):
        sheet([noise(160, 160), noise(160, 160)], ["before"], [])


# Files


def test_png_is_exact(tmp_path: Path) -> None:
    image = noise(20, 30)
    write_image(tmp_path / "a.PNG", image)
    with Image.open(tmp_path / "a.PNG") as stored:
        np.testing.assert_array_equal(np.asarray(stored), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.PNG"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_keeps_thin_coloured_lines(tmp_path: Path, suffix: str) -> None:
    image = np.full((64, 64, 3), 255, np.uint8)
    image[:, 31:33] = (255, 110, 0)
    write_image(tmp_path / f"a{suffix}", image)
    with Image.open(tmp_path / f"a{suffix}") as stored:
        assert stored.format == "JPEG"
        assert np.abs(np.asarray(stored).astype(int) - image).max() < 40
    write_image(tmp_path / "small.jpg", noise(64, 64), quality=30)
    write_image(tmp_path / "large.jpg", noise(64, 64), quality=95)
    assert (tmp_path / "small.jpg").stat().st_size < (tmp_path / "large.jpg").stat().st_size


def test_write_image_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.tif: cannot write .* '\.tif'; use \.jpg, \.jpeg or \.png"):
        write_image(tmp_path / "a.tif", noise(5, 5))
    with pytest.raises(ValueError, match=r"quality 101 is outside of 1\.\.100"):
        write_image(tmp_path / "a.jpg", noise(5, 5), quality=101)
    with pytest.raises(FileNotFoundError):
        write_image(tmp_path / "absent" / "a.png", noise(5, 5))
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError, match=r"taken\.png"):
        write_image(tmp_path / "taken.png", noise(5, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]  # nothing half-written is left


# Real data


def test_real_boards(shared: Path) -> None:
    folder = shared / "data" / "deeppcb" / "train"
    if not folder.is_dir():
        pytest.skip(f"no real boards at {folder}")
    label = sorted((folder / "label").glob("*.png"))[5]
    before, after = (
        np.asarray(Image.open(next((folder / side).glob(f"{label.stem}.*"))).convert("L"))[..., None] for side in "AB"
    )
    mask = np.asarray(Image.open(label))
    names = ["background", "open", "short", "mousebite", "spur", "copper", "pin-hole"]
    page = overlay(before, after, mask, classes=names)
    np.testing.assert_array_equal(panel(page, 1, 640, 640), np.repeat(after, 3, axis=2))
    present = set(np.unique(mask).tolist()) - {0}
    assert len(present) > 2
    assert legend_colors(page, 640, 640) & set(CLASS_COLORS) == {CLASS_COLORS[index - 1] for index in present}
    for index in present:
        assert np.any(np.all(panel(page, 2, 640, 640) == CLASS_COLORS[index - 1], axis=-1))


def test_real_satellite_bands_and_unknown_pixels(shared: Path) -> None:
    folder = shared / "data" / "landsat_taizhou"
    if not folder.is_dir():
        pytest.skip(f"no Landsat pair at {folder}")
    images = []
    for side in "AB":
        with rasterio.open(folder / side / "taizhou.tif") as raster:
            images.append(np.moveaxis(raster.read(), 0, -1))
    truth = np.asarray(Image.open(folder / "label" / "taizhou.png"))
    found = np.ones(truth.shape, np.uint8)
    shown = panel(overlay(images[0], images[1], found, truth), 2, 400, 400)
    colored = np.ptp(shown.astype(int), axis=-1) > 0
    np.testing.assert_array_equal(colored, truth != IGNORE)  # no unknown pixel counts as false


def test_a_line_parts_classes_that_touch_and_runs_along_the_edge_of_the_picture():
    mask = np.full((40, 40), 1, np.uint8)
    mask[:, 20:] = 2
    grey = np.full((40, 40, 3), 128, np.uint8)
    drawn = draw_change(grey, mask, "contour")
    colored = (drawn != grey).any(axis=2)
    assert np.flatnonzero(colored[20]).tolist() == [0, 1, 19, 20, 38, 39]
    assert drawn[20, 19:21].tolist() == [list(CLASS_COLORS[0]), list(CLASS_COLORS[1])]
