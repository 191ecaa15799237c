"""Charts without a window: colours for light and dark pages, figures, and their pixels."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine


@dataclass(frozen=True)
class Theme:
    """Colours of a chart: its ground, text, what is less than text, grid, and the lines."""

    ground: str
    ink: str
    faint: str
    grid: str
    lines: tuple[str, ...]


# Okabe and Ito's blue and vermillion, and on a dark ground their lighter kin, sky blue and orange.
LIGHT = Theme("#ffffff", "#000000", "#606060", "#e0e0e0", ("#0072B2", "#D55E00"))
DARK = Theme("#1c1e21", "#e9e9e7", "#a3a7ae", "#3a3d42", ("#56B4E9", "#E69F00"))


def new_figure(width: float, height: float, theme: Theme, dots: int = 150) -> Figure:
    """An empty figure of that size in inches; ``dots`` are pixels per inch."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), dpi=dots, layout=layout, facecolor=theme.ground)
    FigureCanvasAgg(figure)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """The figure as drawn, uint8 RGB H x W x 3."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def plain_axes(axes: Axes, theme: Theme, *, legend_below: bool = False) -> None:
    """Axes in the colours of the theme: a grid behind, no frame above and to the right, a legend where it fits."""
    axes.set_facecolor(theme.ground)
    axes.grid(color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.ink)
    axes.tick_params(colors=theme.ink, which="both")
    for text in (axes.xaxis.label, axes.yaxis.label, axes.xaxis.offsetText, axes.yaxis.offsetText):
        text.set_color(theme.ink)
    if axes.get_legend_handles_labels()[1]:
        place = {"loc": "upper left", "bbox_to_anchor": (0, -0.17)} if legend_below else {}
        axes.legend(fontsize=8, frameon=False, labelcolor=theme.ink, **place)
