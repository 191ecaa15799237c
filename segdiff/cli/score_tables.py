"""The scores of a model as tables."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def render_scores(console: Console, scores: dict[str, Any]) -> None:
    """The scores of pixels, by class where there are several of change; "-" of one neither true nor predicted."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class" if len(scores["classes"]) > 2 else "")
    columns = ("f1", "iou", "precision", "recall")
    for column in (*columns, "kappa", "accuracy"):
        table.add_column({"f1": "F1", "iou": "IoU"}.get(column, column), justify="right")
    if len(scores["classes"]) > 2:
        for index, (name, values) in enumerate(list(scores["classes"].items())[1:], start=1):
            pixels = sum(scores["confusion"][index]) + sum(row[index] for row in scores["confusion"])
            table.add_row(Text(name), *(f"{values[column]:.4f}" if pixels else "-" for column in columns), "", "")
    label = "mean" if len(scores["classes"]) > 2 else "change"
    table.add_row(label, *(f"{scores[column]:.4f}" for column in (*columns, "kappa", "accuracy")), style="bold")
    console.print(table)
    span = scores.get("intervals", {}).get("f1")  # a training's own scores have none, nor has a single pair
    sure = f"; F1 {span[0]:.3f} to {span[1]:.3f} in 95 % of drawings of as many" if span else ""
    console.print(f"over {scores['pairs']} pairs of split {scores['split']}{sure}", markup=False)


def render_objects(console: Console, objects: dict[str, Any]) -> None:
    """The scores of objects, by class where there are several of change."""
    several = len(objects["classes"]) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class" if several else "")
    rates, counts = ("f1", "precision", "recall"), ("support", "found", "right")
    for column in ("F1", "precision", "recall", "AP", "true", "found", "right"):
        table.add_column(column, justify="right")

    def row(label: str, values: dict[str, Any], area: float | None, style: str | None = None) -> None:
        shown = [f"{values[rate]:.4f}" for rate in rates] + ["-" if area is None else f"{area:.4f}"]
        table.add_row(Text(label), *shown, *(f"{values[count]:,}" for count in counts), style=style)

    if several:
        for name, values in objects["classes"].items():
            row(name, values, values["ap"])
    row("all, mAP" if several else "change", objects, objects["map"], style="bold")
    console.print()
    console.print(table)
    console.print(
        f"objects right above an IoU of {objects['iou']:g} with those of the true {objects['truth']}; "
        f"join {objects['join']}, pad {objects['pad']}, minimum area {objects['minimum_area']} pixels"
        + (f"; found from a score of {objects['minimum_score']:g} on" if objects["minimum_score"] else ""),
        markup=False,
    )
    spans = {name: objects["intervals"][key] for name, key in (("F1", "f1"), ("mAP", "map"))}
    shown = ", ".join(f"{name} {span[0]:.3f} to {span[1]:.3f}" for name, span in spans.items() if span)
    if shown:
        console.print(f"over pairs drawn anew, 95 %: {shown}", markup=False)
