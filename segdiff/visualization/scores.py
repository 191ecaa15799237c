"""Scores as charts: precision over recall at every threshold, and the confusion matrix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from segdiff.visualization.charts import Theme, new_figure, pixels, plain_axes
from segdiff.visualization.palettes import CLASS_COLORS

_MOST_NUMBERS = 12  # classes of a confusion matrix whose cells have room for a number


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """The area beneath a curve of precision over recall as the sum of its steps; both by rising threshold."""
    return float(np.sum((recall - np.append(recall[1:], 0.0)) * precision))


def precision_recall_chart(
    precision: np.ndarray, recall: np.ndarray, classes: Sequence[str], threshold: float, theme: Theme
) -> np.ndarray:
    """Precision over recall at the thresholds k / T, a line a class of change, as uint8 RGB.

    `precision` and `recall` are (K - 1) x T, `classes` the K names, background first. A ring marks `threshold`. The
    legend has the average precision of each class. Points at which nothing is found are left out.
    """
    many = len(classes) > 4
    figure = new_figure(4.2, 3.6 + (0.18 * len(classes) if many else 0), theme, dots=200)
    axes = figure.add_subplot()
    chosen = round(threshold * precision.shape[1])
    colors = [theme.lines[0]] if len(classes) == 2 else [np.array(color) / 255 for color in CLASS_COLORS]
    for name, row, across, color in zip(classes[1:], precision, recall, colors, strict=False):
        found = across > 0
        label = f"{name}, AP {average_precision(row, across):.3f}"
        axes.plot(across[found], row[found], color=color, linewidth=1.8, label=label)
        axes.plot(across[chosen], row[chosen], "o", markersize=8, markerfacecolor="none", markeredgecolor=theme.ink)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_title("Precision and recall by threshold", loc="left", fontsize=11, color=theme.ink)
    axes.plot([], [], "o", markersize=8, markerfacecolor="none", markeredgecolor=theme.ink, label=f"at {threshold:.3f}")
    plain_axes(axes, theme, legend_below=many)
    return pixels(figure)


def confusion_chart(confusion: np.ndarray, classes: Sequence[str], theme: Theme) -> np.ndarray:
    """A confusion matrix K x K of pixels (true class down, predicted across) as uint8 RGB, each row by its own sum.

    Up to twelve classes each cell holds its share of the row and the number of pixels.
    """
    total = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(total, 1)
    side = max(3.6, 0.9 * len(classes)) if len(classes) <= _MOST_NUMBERS else max(6.0, 0.3 * len(classes))
    figure = new_figure(side + 1.2, side, theme, dots=200 if len(classes) <= 4 else 120)
    axes = figure.add_subplot()
    shades = LinearSegmentedColormap.from_list("shares", [theme.ground, theme.lines[0]])
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=30 if len(classes) > 3 else 0)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Pixels, by true class", loc="left", fontsize=11, color=theme.ink)
    plain_axes(axes, theme)
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(theme.faint)
    if len(classes) <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            text = f"{share:.2%}\n{int(confusion[row, column]):,}"
            color = theme.ground if share > 0.65 else theme.ink
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    return pixels(figure)
