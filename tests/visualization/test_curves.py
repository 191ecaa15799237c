"""Learning curves: drawn from what a history has, whatever that is."""

import threading
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from segdiff.visualization.charts import DARK, LIGHT
from segdiff.visualization.curves import curve_charts, draw_curves


def history(epochs: int) -> list[dict[str, float]]:
    rows = []
    for epoch in range(1, epochs + 1):
        f1 = epoch / (epoch + 2)
        row = {"epoch": float(epoch), "loss": 1 / epoch, "f1": f1, "iou": f1 / (2 - f1), "precision": f1, "recall": f1}
        row |= {f"val_{name}": 0.9 * value for name, value in row.items() if name != "epoch"}
        rows.append(row | {"learning_rate": 1e-3 / epoch, "seconds": 3.0})
    return rows


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The panels that the code under test adds to its figure, by title, once drawn."""
    added: list[Axes] = []
    titled: dict[str, Axes] = {}
    add_subplot, draw = Figure.add_subplot, Figure.draw

    def watched_add(figure: Figure, *args: int) -> Axes:
        added.append(add_subplot(figure, *args))
        return added[-1]

    def watched_draw(figure: Figure, renderer: RendererBase) -> None:
        titled.update({axes.get_title("left"): axes for axes in added})
        draw(figure, renderer)

    monkeypatch.setattr(Figure, "add_subplot", watched_add)
    monkeypatch.setattr(Figure, "draw", watched_draw)
    return titled


def points(line: Line2D) -> np.ndarray:
    """Epochs and values of a line, N x 2."""
    return np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])


def lines(axes: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): points(line) for line in axes.get_lines()}


def test_the_picture_is_a_file_and_nothing_else(tmp_path: Path) -> None:
    draw_curves(history(12), tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[2] == 3
    assert pixels.shape[1] >= 1000
    assert (pixels == 255).mean() > 0.8  # on white
    blue = np.all(pixels == (0x00, 0x72, 0xB2), axis=-1)
    assert blue[: len(blue) // 2].any()
    assert blue[len(blue) // 2 :].any()
    assert matplotlib.pyplot.get_fignums() == []


def test_every_value_is_drawn_where_it_belongs(tmp_path: Path, panels: dict[str, Axes]) -> None:
    rows = history(9)
    draw_curves(rows, tmp_path / "curves.png")
    assert list(panels) == ["Loss", "F1 and IoU of the change", "Precision and recall", "Learning rate"]
    scores = lines(panels["F1 and IoU of the change"])
    for label, column in {
        "F1, training": "f1",
        "F1, validation": "val_f1",
        "IoU, training": "iou",
        "IoU, validation": "val_iou",
    }.items():
        np.testing.assert_allclose(scores[label], np.array([(row["epoch"], row[column]) for row in rows]))
    rates = next(points(line) for line in panels["Learning rate"].get_lines())
    np.testing.assert_allclose(rates[:, 1], np.array([row["learning_rate"] for row in rows]))
    assert panels["Loss"].get_ylim()[1] > 1  # the first loss is not cut off


def test_the_best_epoch_is_marked_with_its_value(tmp_path: Path, panels: dict[str, Axes]) -> None:
    rows = history(9)
    rows[5]["val_f1"] = 0.8765
    rows[8]["val_f1"] = float("nan")
    draw_curves(rows, tmp_path / "curves.png")
    axes = panels["F1 and IoU of the change"]
    assert axes.get_title("right") == "best validation F1 0.876, epoch 6"
    assert any(points(line).tolist() == [[6, 0.8765]] for line in axes.get_lines())
    for other in panels.values():
        assert any(points(line)[:, 0].tolist() == [6, 6] for line in other.get_lines())


def test_one_epoch(tmp_path: Path, panels: dict[str, Axes]) -> None:
    draw_curves(history(1), tmp_path / "curves.png")
    assert len(panels) == 4
    for line in panels["Loss"].get_lines():
        if str(line.get_label()).startswith("loss"):
            assert line.get_marker() == "o"  # a line of one point would not be seen


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (("loss",), ["Loss"]),
        (("loss", "learning_rate"), ["Loss", "Learning rate"]),
        (("epoch", "val_iou"), ["F1 and IoU of the change"]),
        (("val_loss", "val_recall", "learning_rate"), ["Loss", "Precision and recall", "Learning rate"]),
    ],
)
def test_missing_columns(tmp_path: Path, panels: dict[str, Axes], columns: tuple[str, ...], titles: list[str]) -> None:
    draw_curves([{name: row[name] for name in columns} for row in history(4)], tmp_path / "curves.png")
    assert list(panels) == titles
    assert points(panels[titles[0]].get_lines()[0])[:, 0].tolist() == [1, 2, 3, 4]


def test_gaps(tmp_path: Path, panels: dict[str, Axes]) -> None:
    rows = history(6)
    rows[2]["loss"] = float("nan")
    rows[3]["val_loss"] = float("inf")
    del rows[4]["val_loss"]
    for row in rows:
        row["precision"] = row["recall"] = row["val_precision"] = row["val_recall"] = float("nan")
    draw_curves(rows, tmp_path / "curves.png")
    assert list(panels) == ["Loss", "F1 and IoU of the change", "Learning rate"]
    drawn = lines(panels["Loss"])
    assert np.isnan(drawn["loss, training"][:, 1]).tolist() == [False, False, True, False, False, False]
    assert np.isnan(drawn["loss, validation"][:, 1]).tolist() == [False, False, False, True, True, False]


@pytest.mark.parametrize("rows", [[], [{"epoch": 1.0, "seconds": 3.0}], [{"loss": float("nan")}]])
def test_nothing_to_draw_is_refused(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    with pytest.raises(ValueError, match=r"curves\.png: no curves to draw"):
        draw_curves(rows, tmp_path / "curves.png")
    assert not any(tmp_path.iterdir())


def test_an_older_picture_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    draw_curves(history(2), path)
    stop = threading.Event()
    broken: list[str] = []

    def read() -> None:
        while not stop.is_set():
            try:
                with Image.open(path) as picture:
                    picture.load()
            except OSError as error:
                broken.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    draw_curves(history(3), path)
    stop.set()
    reader.join()
    assert broken == []


def test_a_loss_that_falls_to_less_than_a_tenth_is_drawn_on_a_logarithmic_scale(
    tmp_path: Path, panels: dict[str, Axes]
) -> None:
    for last, scale in ((0.1, "linear"), (0.09, "log"), (-1.0, "linear")):
        draw_curves(
            [{"loss": 1.0, "learning_rate": 1.0}, {"loss": last, "learning_rate": 1e-6}], tmp_path / "curves.png"
        )
        assert (panels["Loss"].get_yscale(), panels["Learning rate"].get_yscale()) == (scale, "linear")


def test_panels_of_their_own_are_pictures_for_light_and_dark_pages() -> None:
    charts = [curve_charts(history(3), theme) for theme in (LIGHT, DARK)]
    assert list(charts[0]) == ["Loss", "F1 and IoU of the change", "Precision and recall", "Learning rate"]
    for title, light in charts[0].items():
        dark = charts[1][title]
        assert light.shape == dark.shape
        assert (np.median(light), np.median(dark)) == (255, 30)
