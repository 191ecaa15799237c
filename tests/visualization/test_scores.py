"""Precision over recall, and confusion matrices, as pictures."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segdiff.visualization import scores
from segdiff.visualization.charts import DARK, LIGHT
from segdiff.visualization.scores import average_precision, confusion_chart, precision_recall_chart


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """What the code under test draws on."""
    added: list[Axes] = []
    add_subplot = Figure.add_subplot

    def watched(figure: Figure, *args: int) -> Axes:
        added.append(add_subplot(figure, *args))
        return added[-1]

    monkeypatch.setattr(Figure, "add_subplot", watched)
    return added


def test_average_precision_is_the_sum_of_the_steps() -> None:
    # thresholds 0, 1/4, 1/2, 3/4: the recall falls from 1 to 0 where nothing is found any more
    precision, recall = np.array([0.25, 0.5, 0.8, 0.0]), np.array([1.0, 0.75, 0.5, 0.0])
    assert average_precision(precision, recall) == pytest.approx(0.25 * 0.25 + 0.25 * 0.5 + 0.5 * 0.8)
    assert average_precision(np.ones(4), np.ones(4)) == 1.0
    assert average_precision(np.zeros(4), np.zeros(4)) == 0.0


def test_the_curve_has_every_threshold_at_which_something_is_found_and_a_ring_at_the_chosen(axes: list[Axes]) -> None:
    precision, recall = np.array([[0.25, 0.5, 0.8, 0.0]]), np.array([[1.0, 0.75, 0.5, 0.0]])
    picture = precision_recall_chart(precision, recall, ["background", "change"], 0.5, LIGHT)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    curve, ring = axes[0].get_lines()[:2]
    np.testing.assert_array_equal(curve.get_xydata(), [[1.0, 0.25], [0.75, 0.5], [0.5, 0.8]])
    np.testing.assert_array_equal(ring.get_xydata(), [[0.5, 0.8]])
    texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert texts == ["change, AP 0.588", "at 0.500"]


def test_several_classes_are_lines_in_the_colours_that_they_have_everywhere(axes: list[Axes]) -> None:
    values = np.linspace(1, 0, 8)[None].repeat(2, axis=0)
    precision_recall_chart(values, values, ["none", "new", "gone"], 0.25, LIGHT)
    lines = axes[0].get_lines()
    assert [line.get_label().split(",")[0] for line in (lines[0], lines[2])] == ["new", "gone"]
    for line, color in zip((lines[0], lines[2]), scores.CLASS_COLORS, strict=False):
        np.testing.assert_allclose(line.get_color(), np.array(color) / 255)


def test_cells_hold_their_share_of_the_row_and_their_pixels(axes: list[Axes]) -> None:
    confusion_chart(np.array([[9_000, 1_000], [0, 0]]), ["background", "change"], LIGHT)
    cells = {text.get_position(): text.get_text() for text in axes[0].texts}
    assert cells == {(0, 0): "90.00%\n9,000", (1, 0): "10.00%\n1,000", (0, 1): "0.00%\n0", (1, 1): "0.00%\n0"}
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["background", "change"]
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("predicted", "true")


@pytest.mark.parametrize("classes", [2, 12, 32])
def test_a_matrix_of_any_number_of_classes_is_a_picture_of_a_size_that_can_be_shown(classes: int) -> None:
    names = [f"class of many words {k}" for k in range(classes)]
    picture = confusion_chart(np.arange(classes**2).reshape(classes, classes), names, LIGHT)
    assert min(picture.shape[:2]) > 400
    assert max(picture.shape[:2]) < 2000


def test_on_dark_pages_the_ground_is_dark_and_the_ink_light() -> None:
    values = np.linspace(1, 0, 8)[None]
    for theme, darkest in ((LIGHT, 200), (DARK, 0)):
        picture = precision_recall_chart(values, values, ["none", "change"], 0.5, theme)
        ground = picture[0, 0].tolist()
        assert ground == [int(theme.ground[k : k + 2], 16) for k in (1, 3, 5)]
        assert np.median(picture) >= darkest
    assert picture.max() > 200, "titles and labels"
    # nothing is left in black, which nobody would see there
    assert picture.min() >= min(ground) - 6
