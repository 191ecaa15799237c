"""Learning curves: what happened in a training, epoch by epoch, as one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from segdiff.visualization.charts import LIGHT, Theme, new_figure, pixels, plain_axes
from segdiff.visualization.pictures import write_image

# A panel's title and its columns; a column is drawn with its validation twin, `val_` and its name.
_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss", ("loss",)),
    ("F1 and IoU of the change", ("f1", "iou")),
    ("Precision and recall", ("precision", "recall")),
    ("Learning rate", ("learning_rate",)),
)
_SPAN = 10  # a loss that falls further is drawn on a logarithmic scale
_LABELS = {"loss": "loss", "f1": "F1", "iou": "IoU", "precision": "precision", "recall": "recall"}


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the rows of a history.csv, one dict an epoch, as small multiples into `path` (.png or .jpg), whole or not.

    Panels: loss; F1 and IoU; precision and recall; learning rate. Validation is a full line, training a dashed one. A
    panel none of whose columns has a finite value is left out, other columns are not drawn, and NaN and infinity leave
    a gap. A loss that falls to less than a tenth is drawn on a logarithmic scale. `epoch` numbers the rows; without it
    they count from 1. The epoch of the best `val_f1` is marked with its value.
    Raises ValueError where there is nothing to draw, and for another suffix.
    """
    curves = _Curves(history)
    if not curves.panels:
        raise ValueError(
            f"{path}: no curves to draw, no row of the history has a loss, f1, iou, precision, recall or learning_rate"
        )
    rows, across = (1, len(curves.panels)) if len(curves.panels) < 4 else (2, 2)
    figure = new_figure(5.2 * across, 3.6 * rows, LIGHT)
    for index, title in enumerate(curves.panels):
        curves.draw(figure.add_subplot(rows, across, index + 1), title, LIGHT)
    write_image(path, pixels(figure))


def curve_charts(history: Sequence[dict[str, float]], theme: Theme) -> dict[str, np.ndarray]:
    """The panels of `draw_curves` as pictures of their own by title, for a narrow page: uint8 RGB."""
    curves, charts = _Curves(history), {}
    for title in curves.panels:
        figure = new_figure(4.2, 3.0, theme, dots=200)
        curves.draw(figure.add_subplot(), title, theme, narrow=True)
        charts[title] = pixels(figure)
    return charts


class _Curves:
    """The columns of a history, and the panels that there is something to draw in."""

    def __init__(self, history: Sequence[dict[str, float]]):
        self.columns = {name: _column(history, name) for name in {name for row in history for name in row}}
        drawable = {name for name, values in self.columns.items() if np.isfinite(values).any()}
        self.panels = {
            title: names for title, names in _PANELS if drawable & {*names, *(f"val_{name}" for name in names)}
        }
        self.epochs = self.columns["epoch"] if "epoch" in drawable else np.arange(1, len(history) + 1, dtype=float)
        self.best = int(np.nanargmax(self.columns["val_f1"])) if "val_f1" in drawable else None

    def draw(self, axes: Axes, title: str, theme: Theme, *, narrow: bool = False) -> None:
        """Draws one panel; a narrow one has no room for the best epoch in words."""
        names = self.panels[title]
        for name, color in zip(names, theme.lines, strict=False):
            _draw(axes, self.epochs, self.columns, name, color, theme.ground)
        _finish(axes, self.epochs, names)
        if self.best is not None:
            axes.axvline(self.epochs[self.best], color=theme.faint, linewidth=0.8, linestyle=":", zorder=1)
            if "f1" in names:
                _mark_best(axes, self.epochs, self.columns["val_f1"], self.best, theme)
                if narrow:
                    axes.set_title("", loc="right")
        axes.set_title(title, loc="left", fontsize=11, color=theme.ink)
        plain_axes(axes, theme)


def _column(history: Sequence[dict[str, float]], name: str) -> np.ndarray:
    values = np.array([row.get(name, np.nan) for row in history], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _draw(axes: Axes, epochs: np.ndarray, columns: dict[str, np.ndarray], name: str, color: str, ground: str) -> None:
    """A column dashed with hollow markers and its validation twin full; one without a twin (learning rate) is full."""
    twin = f"val_{name}"
    for column, role in ((name, "training"), (twin, "validation")):
        if column not in columns:
            continue
        full = column == twin or twin not in columns
        # Markers show an epoch that stands alone, between gaps or as the only one.
        marker = "o" if len(epochs) <= 30 or np.isnan(columns[column]).any() else None
        axes.plot(
            epochs,
            columns[column],
            linestyle="-" if full else "--",
            linewidth=1.8 if full else 1.2,
            color=color,
            marker=marker,
            markersize=4,
            markerfacecolor=color if full else ground,
            label=f"{_LABELS[name]}, {role}" if name in _LABELS else None,
        )


def _mark_best(axes: Axes, epochs: np.ndarray, scores: np.ndarray, best: int, theme: Theme) -> None:
    axes.plot(epochs[best], scores[best], "o", markersize=9, markerfacecolor="none", markeredgecolor=theme.ink)
    title = f"best validation F1 {scores[best]:.3f}, epoch {epochs[best]:g}"
    axes.set_title(title, loc="right", fontsize=9, color=theme.faint)


def _finish(axes: Axes, epochs: np.ndarray, names: Sequence[str]) -> None:
    margin = max(0.5, 0.02 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    if names[0] in ("f1", "precision"):
        axes.set_ylim(-0.02, 1.02)
    elif names[0] == "loss" and 0 < _SPAN * axes.dataLim.y0 < axes.dataLim.y1:
        # the first epochs would press all others flat
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif axes.dataLim.y0 >= 0 and axes.dataLim.y1 > 0:
        axes.set_ylim(0, 1.06 * axes.dataLim.y1)
