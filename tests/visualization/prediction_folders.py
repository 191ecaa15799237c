"""Prediction folders drawn for the tests of the report: rows as one likes, a few small pictures shared by all pairs."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segdiff.visualization.layers import LAYERS, write_layers

COLUMNS = (
    "name", "status", "changed_pixels", "changed_fraction", "area", "objects", "seconds", "error", "area_unit",
    "classes", "confidence", "f1", "precision", "recall", "iou",
)  # fmt: skip
SIZE = 64


def row_of(name: str, fraction: float, **more: Any) -> dict[str, Any]:
    """The row of a pair of 1000 pixels of which that fraction is changed."""
    pixels = round(1000 * fraction)
    row = {"name": name, "status": "ok", "changed_pixels": pixels, "changed_fraction": f"{fraction:.6f}"}
    return {**row, "area": pixels, "objects": 1 + pixels // 100, "seconds": "0.010", "area_unit": "px", **more}


def failed_row(name: str, error: str) -> dict[str, Any]:
    return {"name": name, "status": "failed", "error": error}


def write_folder(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    *,
    classes: Sequence[str] = ("no change", "change"),
    truth: bool = False,
    layers: Sequence[str] | None = None,
) -> Path:
    """A folder of these rows; ``layers`` are the pairs whose pictures are there, all unless named."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "model": "/models/boards/model.keras",
        "options": {"threshold": 0.5},
        "inputs": {"before": "/data/A", "after": "/data/B"},
        "truth": {} if truth else None,
        "classes": list(classes),
    }
    (folder / "prediction.json").write_text(json.dumps(job))
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    names = [row["name"] for row in rows if row["status"] == "ok"] if layers is None else layers
    if names:
        before, after, mask, probability = draw_pair(len(classes))
        first = names[0]
        known = np.roll(mask, 5, axis=1) if truth else None
        write_layers(folder / "report", first, before, after, mask, probability, known)
        for layer, suffix in LAYERS.items():
            source = folder / "report" / layer / f"{first}{suffix}"
            for name in names[1:] if source.exists() else ():
                os.link(source, source.with_name(f"{name}{suffix}"))
    return folder


def draw_pair(classes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Before (dark), after (light), a mask of one square a class, and the probability of it."""
    before = np.full((SIZE, SIZE, 3), 40, np.uint8)
    after = np.full((SIZE, SIZE, 3), 200, np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for index in range(1, classes):
        mask[8 * index : 8 * index + 6, 20:44] = index
    return before, after, mask, np.where(mask != 0, np.uint8(230), np.uint8(10))
