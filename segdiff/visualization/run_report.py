"""The pictures and the page of a finished training: one HTML file that holds all that it shows."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from segdiff.files import write_whole
from segdiff.visualization.charts import DARK, LIGHT, Theme
from segdiff.visualization.curves import curve_charts, draw_curves
from segdiff.visualization.pages import page_template
from segdiff.visualization.pictures import encode_image, write_image
from segdiff.visualization.scores import average_precision, confusion_chart, precision_recall_chart
from segdiff.visualization.validation_pairs import pair_panels

if TYPE_CHECKING:
    from segdiff.training.conclusion import Outcome

PAIR_PIXELS = 384
"""The longest side of a picture of a pair on the page: 32 of them are about 2 MB."""

_HISTORY = {
    "epoch": "epoch", "loss": "loss", "val_loss": "loss, validation", "f1": "F1", "val_f1": "F1, validation",
    "val_iou": "IoU, validation", "val_precision": "precision, validation", "val_recall": "recall, validation",
    "val_threshold": "threshold", "learning_rate": "learning rate", "seconds": "seconds",
}  # fmt: skip


class _Chart(NamedTuple):
    """A chart for light and for dark pages, as addresses that hold the picture, and its size."""

    title: str
    light: str
    dark: str
    width: int
    height: int


def show_outcome(outcome: "Outcome") -> dict[str, np.ndarray]:
    """Writes curves.png, confusion.png, precision_recall.png and report.html into the run folder, each whole or not.

    Returns the last two pictures by name, uint8 RGB. The page needs no other file and no network. Its precision and
    recall by threshold are those before post-processing, everything else is after it.
    """
    run, metrics = outcome.run, outcome.metrics

    def precision_recall(theme: Theme) -> np.ndarray:
        return precision_recall_chart(
            outcome.precision, outcome.recall, outcome.classes, metrics["threshold"], theme
        )  # fmt: skip

    confusion = np.array(metrics["confusion"])
    pictures = {
        "precision_recall": precision_recall(LIGHT),
        "confusion": confusion_chart(confusion, outcome.classes, LIGHT),
    }
    draw_curves(outcome.history, run / "curves.png")
    for name, picture in pictures.items():
        write_image(run / f"{name}.png", picture)
    curves = [curve_charts(outcome.history, theme) for theme in (LIGHT, DARK)]
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    page = page_template("run_report.html").render(
        name=run.resolve().name,
        origin=_origin(config, outcome.classes),
        metrics=metrics,
        classes=outcome.classes,
        curves=[_chart(title, curves[0][title], curves[1][title]) for title in curves[0]],
        precision_recall=_chart("Precision and recall", pictures["precision_recall"], precision_recall(DARK)),
        average_precisions={
            name: average_precision(*rows)
            for name, *rows in zip(outcome.classes[1:], outcome.precision, outcome.recall, strict=True)
        },
        confusion=_confusion_rows(confusion, outcome.classes),
        pairs=list(_pairs(outcome)),
        unranked=outcome.unranked,
        settings={part: list(_flat(config[part])) for part in ("model", "train", "data", "inference")},
        environment=list(_flat(json.loads((run / "environment.json").read_text(encoding="utf-8")))),
        history_columns=[label for column, label in _HISTORY.items() if column in outcome.history[0]],
        history=[[_cell(column, row[column]) for column in _HISTORY if column in row] for row in outcome.history],
        minutes=metrics["seconds"] / 60,
    )
    with write_whole(run / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return {f"end/{name}": picture for name, picture in pictures.items()}


def _chart(title: str, light: np.ndarray, dark: np.ndarray) -> _Chart:
    height, width = light.shape[:2]
    return _Chart(title, _address(light, "png"), _address(dark, "png"), width, height)


def _address(rgb: np.ndarray, kind: str) -> str:
    """The picture itself as an address: png or jpeg."""
    encoded = encode_image(Path(f"picture.{kind}"), rgb, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _pairs(outcome: "Outcome") -> Iterator[dict[str, Any]]:
    for pair in outcome.pairs:
        shown = pair_panels(
            pair.before, pair.after, pair.mask, pair.truth, classes=outcome.classes, longest=PAIR_PIXELS
        )  # fmt: skip
        height, width = shown.panels["after"].shape[:2]
        yield {
            "rank": pair.rank,
            "name": pair.name,
            "f1": pair.f1,
            "panels": {caption: _address(picture, "jpeg") for caption, picture in shown.panels.items()},
            "legend": shown.legend,
            "width": width,
            "height": height,
        }


def _origin(config: Mapping[str, Any], classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """What was trained on what."""
    model = config["model"]
    return [
        ("model", f"{model['architecture']}, encoder {model['encoder']['name']}"),
        ("data", ", ".join(root["path"] for root in config["data"]["root"])),
        ("classes", ", ".join(classes)),
    ]


def _confusion_rows(confusion: np.ndarray, classes: tuple[str, ...]) -> list[tuple[str, list[tuple[float, int]]]]:
    """By true class its share of the pixels and their number, of each predicted class."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return [
        (name, list(zip(row.tolist(), counts.tolist(), strict=True)))
        for name, row, counts in zip(classes, shares, confusion, strict=True)
    ]


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys and what a person would write for their values."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _cell(column: str, value: float) -> str:
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    return f"{value:g}" if column in ("epoch", "seconds") else f"{value:.4g}"
