"""Pairs as a training shows them."""

import numpy as np
import pytest

from segdiff.visualization.palettes import CLASS_COLORS, FALSE, MISSED, OUTCOME_COLORS, TRUE
from segdiff.visualization.validation_pairs import pair_panels, pair_sheet

NAMES = ("background", "new", "gone")


def pair(height: int = 60, width: int = 80) -> tuple[np.ndarray, ...]:
    """Before, after, a mask with a hit, a miss and a false alarm, and the truth."""
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(2))
    mask, truth = np.zeros((2, height, width), np.uint8)
    mask[5:15, 5:15] = truth[5:15, 5:15] = 1
    truth[30:40, 5:15] = 1
    mask[30:40, 60:70] = 1
    return before, after, mask, truth


def test_four_panels_show_the_pair_the_truth_and_what_became_of_it() -> None:
    before, after, mask, truth = pair()
    shown = pair_panels(before, after, mask, truth, classes=("background", "change"))
    assert list(shown.panels) == ["before", "after", "truth", "prediction"]
    np.testing.assert_array_equal(shown.panels["before"], before)
    np.testing.assert_array_equal(shown.panels["after"], after)
    # truth is marked where it is, and nowhere else; the contour lies 3 pixels around it
    touched = (shown.panels["truth"] != after).any(axis=-1)
    assert touched[5:15, 5:15].mean() > 0.9
    assert touched[30:40, 5:15].mean() > 0.9
    assert not touched[:, 20:].any()
    grey = shown.panels["prediction"].astype(int)
    colored = (grey.max(axis=-1) - grey.min(axis=-1)) > 20
    np.testing.assert_array_equal(colored, (mask != 0) | (truth != 0))
    assert [words for words, _ in shown.legend] == ["true change", "false alarm", "missed change"]
    for outcome, (y, x) in {TRUE: (10, 10), MISSED: (35, 10), FALSE: (35, 65)}.items():
        hue = np.array(OUTCOME_COLORS[outcome]) - np.mean(OUTCOME_COLORS[outcome])
        seen = grey[y, x] - grey[y, x].mean()
        assert hue @ seen / np.linalg.norm(hue) / np.linalg.norm(seen) > 0.99


def test_the_legend_names_the_classes_where_there_are_several_and_what_is_ignored_once() -> None:
    before, after, mask, truth = pair()
    truth[50:] = 255
    shown = pair_panels(before, after, mask, truth, classes=NAMES)
    assert [words for words, _ in shown.legend] == ["new", "ignored", "true change", "false alarm", "missed change"]
    assert dict(shown.legend)["new"] == CLASS_COLORS[0]
    assert dict(shown.legend)["true change"] in OUTCOME_COLORS.values()
    mask[5:15, 5:15] = 2
    words = [words for words, _ in pair_panels(before, after, mask, truth, classes=NAMES).legend]
    assert "wrong class" in words
    nothing = np.zeros_like(truth)
    words = [words for words, _ in pair_panels(before, after, mask, nothing, classes=NAMES).legend]
    assert words == ["true change", "false alarm", "missed change"]


@pytest.mark.parametrize(
    ("height", "width", "size"), [(600, 300, (128, 64)), (100, 128, (100, 128)), (1, 999, (1, 128))]
)
def test_what_is_long_is_shrunk_and_no_change_is_lost(height: int, width: int, size: tuple[int, int]) -> None:
    after = np.full((height, width, 1), 100, np.uint8)
    mask, truth = np.zeros((2, height, width), np.uint8)
    truth[-1, -1] = 1
    shown = pair_panels(after, after, mask, truth, classes=("background", "change"), longest=128)
    assert {panel.shape for panel in shown.panels.values()} == {(*size, 3)}
    red, _, blue = shown.panels["prediction"][-1, -1].astype(int)
    assert red - blue > 100, "the yellow of what was missed"


def test_the_sheet_sets_the_panels_side_by_side() -> None:
    before, after, mask, truth = pair(200, 200)
    page = pair_sheet(before, after, mask, truth, classes=("background", "change"))
    assert page.shape[1] > 4 * 200
    found = np.lib.stride_tricks.sliding_window_view(page[:, :, 0], (1, 200))[:, :, 0]
    for image in (before, after):
        assert (found == image[100, :, 0]).all(axis=-1).any()
