"""Learning curves: what happened in a training, epoch by epoch, as one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from segdiff.visualization.pictures import write_image

# A panel's title and its columns; a column is drawn with its validation twin, `val_` and its name.
_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss", ("loss",)),
    ("F1 and IoU of the change", ("f1", "iou")),
    ("Precision and recall", ("precision", "recall")),
    ("Learning rate", ("learning_rate",)),
)
_LABELS = {"loss": "loss", "f1": "F1", "iou": "IoU", "precision": "precision", "recall": "recall"}
_COLORS = ("#0072B2", "#D55E00")  # Okabe and Ito: blue and vermillion
_GREY = "#606060"


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the rows of a history.csv, one dict an epoch, as small multiples into `path` (.png or .jpg), whole or not.

    Panels: loss; F1 and IoU; precision and recall; learning rate. Validation is a full line, training a dashed one. A
    panel none of whose columns has a finite value is left out, other columns are not drawn, and NaN and infinity leave
    a gap. `epoch` numbers the rows; without it they count from 1. The epoch of the best `val_f1` is marked with its
    value.
    Raises ValueError where there is nothing to draw, and for another suffix.
    """
    columns = {name: _column(history, name) for name in {name for row in history for name in row}}
    drawable = {name for name, values in columns.items() if np.isfinite(values).any()}
    panels = [(title, names) for title, names in _PANELS if drawable & {*names, *(f"val_{name}" for name in names)}]
    if not panels:
        raise ValueError(
            f"{path}: no curves to draw, no row of the history has a loss, f1, iou, precision, recall or learning_rate"
        )
    epochs = columns["epoch"] if "epoch" in drawable else np.arange(1, len(history) + 1, dtype=float)
    best = int(np.nanargmax(columns["val_f1"])) if "val_f1" in drawable else None

    rows, across = (1, len(panels)) if len(panels) < 4 else (2, 2)
    figure = Figure(figsize=(5.2 * across, 3.6 * rows), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    canvas = FigureCanvasAgg(figure)
    for index, (title, names) in enumerate(panels):
        axes = figure.add_subplot(rows, across, index + 1)
        axes.set_title(title, loc="left", fontsize=11)
        for name, color in zip(names, _COLORS, strict=False):
            _draw(axes, epochs, columns, name, color)
        if best is not None:
            axes.axvline(epochs[best], color=_GREY, linewidth=0.8, linestyle=":", zorder=1)
            if "f1" in names:
                _mark_best(axes, epochs, columns["val_f1"], best)
        _finish(axes, epochs, names)
    canvas.draw()
    write_image(path, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def _column(history: Sequence[dict[str, float]], name: str) -> np.ndarray:
    values = np.array([row.get(name, np.nan) for row in history], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _draw(axes: Axes, epochs: np.ndarray, columns: dict[str, np.ndarray], name: str, color: str) -> None:
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
            markerfacecolor=color if full else "white",
            label=f"{_LABELS[name]}, {role}" if name in _LABELS else None,
        )


def _mark_best(axes: Axes, epochs: np.ndarray, scores: np.ndarray, best: int) -> None:
    axes.plot(epochs[best], scores[best], "o", markersize=9, markerfacecolor="none", markeredgecolor="black")
    title = f"best validation F1 {scores[best]:.3f}, epoch {epochs[best]:g}"
    axes.set_title(title, loc="right", fontsize=9, color=_GREY)


def _finish(axes: Axes, epochs: np.ndarray, names: Sequence[str]) -> None:
    margin = max(0.5, 0.02 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.grid(color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if names[0] in ("f1", "precision"):
        axes.set_ylim(-0.02, 1.02)
    elif axes.dataLim.y0 >= 0 and axes.dataLim.y1 > 0:
        axes.set_ylim(0, 1.06 * axes.dataLim.y1)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, frameon=False)
