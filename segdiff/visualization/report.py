"""The page of a prediction folder: report.html, and in report/ the pictures that it shows and what makes them move.

The page opens from disk and looks at nothing outside of its folder. The pictures are written with the masks, pair by
pair (`layers`); here the rest is made of summary.csv and prediction.json, as often as one likes.
"""

import csv
import heapq
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from segdiff.files import write_whole
from segdiff.model_files import UNSURE
from segdiff.visualization.layers import LAYERS, LONGEST, heat_gradient
from segdiff.visualization.pages import TEMPLATES, page_template
from segdiff.visualization.palettes import CLASS_COLORS, OUTCOME_COLORS, OUTCOME_NAMES, WRONG_CLASS, Color

LISTED = 20_000
"""The page lists so many predicted pairs at most: those that matter most."""
LISTED_FAILURES = 1000
"""So many failed pairs are named at most; all are counted."""

ASSETS = ("report.css", "viewer.js", "gallery.js")

_EDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Upper ends of the histogram's bins of changed fractions; the first holds what has no change at all."""


class ReportError(ValueError):
    """A folder that no report can be made of; the message is one line."""


@dataclass
class Tally:
    """What the rows of a summary add up to."""

    predicted: int = 0
    failed: int = 0
    changed: int = 0
    """Pairs with any change."""
    objects: int = 0
    fractions: float = 0.0
    """Sum of the changed fractions."""
    areas: dict[str, float] = field(default_factory=dict)
    """Sum of the changed area by unit: m2 or px."""
    bins: list[int] = field(default_factory=lambda: [0] * len(_EDGES))
    scored: int = 0
    """Pairs with an F1."""
    f1: float = 0.0
    """Sum of the F1 of pairs."""

    def add(self, pair: dict[str, Any]) -> None:
        """Counts a pair as ``_pair`` gives it."""
        if pair["status"] != "ok":
            self.failed += 1
            return
        self.predicted += 1
        self.changed += pair["changed"] > 0
        self.objects += pair["objects"]
        self.fractions += pair["changed"]
        self.areas[pair["unit"]] = self.areas.get(pair["unit"], 0.0) + pair["area"]
        self.bins[next(k for k, edge in enumerate(_EDGES) if pair["changed"] <= edge)] += 1
        if "f1" in pair:
            self.scored += 1
            self.f1 += pair["f1"]


def write_report(folder: Path) -> Path:
    """Writes report.html of a prediction folder and what belongs to it, each file whole, the page last; its path.

    Of more than LISTED pairs it shows those with the largest changed fraction, or where the truth is known with the
    lowest F1, and says so. Pairs whose pictures are missing, of folders older than the report, are shown by their
    overlays. Raises ReportError where the folder holds no predictions.
    """
    job = _read_job(folder)
    truth = job.get("truth") is not None
    tally, pairs = _read_pairs(folder / "summary.csv", truth)
    for pair in pairs:
        if pair["status"] == "ok":
            pair["layers"] = int((folder / "report" / "thumbnail" / f"{pair['name']}{LAYERS['thumbnail']}").exists())
    page = page_template("report.html").render(_content(folder, job, tally, pairs))
    data = {
        "pairs": pairs,
        "truth": truth,
        "unsure": UNSURE,
        "sort": "f1-worst" if truth else "changed-most",
        "legends": {
            "classes": _class_legend(job),
            "outcomes": _outcome_legend(job) if truth else [],
            "probability": heat_gradient(),
        },
    }
    (folder / "report").mkdir(exist_ok=True)
    for name in ASSETS:
        _write(folder / "report" / name, (TEMPLATES / name).read_text(encoding="utf-8"))
    _write(folder / "report" / "data.js", f"window.SEGDIFF_REPORT = {_script_json(data)};\n")
    _write(folder / "report.html", page)
    return folder / "report.html"


def _write(path: Path, text: str) -> None:
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _script_json(data: Any) -> str:
    """JSON in ASCII that may stand in a script, whatever the names in it are."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read_job(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder; name a prediction folder, the --out of predict")
    described = folder / "prediction.json"
    for path in (described, folder / "summary.csv"):
        if not path.is_file():
            raise ReportError(f"{folder}: is no prediction folder, it lacks {path.name}; name the --out of predict")
    try:
        job = json.loads(described.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{described}: is broken ({error}); predict into the folder again") from error
    if not isinstance(job, dict):
        raise ReportError(f"{described}: is broken, it holds no JSON object; predict into the folder again")
    return job


def _read_pairs(summary: Path, truth: bool) -> tuple[Tally, list[dict[str, Any]]]:
    """What all rows add up to, and the pairs that the page lists."""
    tally = Tally()
    failures: list[dict[str, Any]] = []

    def predicted(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, Any]]:
        for line, row in enumerate(rows, start=2):
            if None in row.values() or None in row:
                continue  # half written by a run that is at work or was killed
            try:
                pair = _pair(row)
            except (KeyError, ValueError) as error:
                raise ReportError(
                    f"{summary}: row {line} is broken ({error}); predict into the folder again"
                ) from error
            tally.add(pair)
            if pair["status"] == "ok":
                yield pair
            elif len(failures) < LISTED_FAILURES:
                failures.append(pair)

    with summary.open(newline="", encoding="utf-8") as stream:
        rank = _by_f1 if truth else _by_change
        return tally, heapq.nlargest(LISTED, predicted(csv.DictReader(stream)), key=rank) + failures


def _by_change(pair: dict[str, Any]) -> float:
    return pair["changed"]


def _by_f1(pair: dict[str, Any]) -> float:
    return -pair.get("f1", math.inf)


def _pair(row: dict[str, str]) -> dict[str, Any]:
    """What the page knows of a pair; without what does not apply to it."""
    if row["status"] != "ok":
        return {"name": row["name"], "status": "failed", "error": row["error"]}
    pair: dict[str, Any] = {
        "name": row["name"],
        "status": "ok",
        "changed": float(row["changed_fraction"]),
        "pixels": int(row["changed_pixels"]),
        "area": float(row["area"]),
        "unit": row["area_unit"],
        "objects": int(row["objects"]),
    }
    if row.get("classes"):
        pair["classes"] = json.loads(row["classes"])
    for score in ("f1", "precision", "recall", "confidence"):
        if row.get(score):
            pair[score] = float(row[score])
    return pair


def _content(folder: Path, job: dict[str, Any], tally: Tally, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the template fills in."""
    truth = job.get("truth") is not None
    classes = _class_legend(job)
    failures = [pair for pair in pairs if pair["status"] != "ok"]
    sorts = [
        ("changed-most", "most changed first"),
        ("changed-least", "least changed first"),
        ("name", "name"),
        ("objects-most", "most objects first"),
    ]
    if truth:
        sorts = [("f1-worst", "F1, worst first"), ("f1-best", "F1, best first"), *sorts]
    return {
        "title": folder.resolve().name,
        "origin": _origin(folder, job),
        "figures": _figures(folder, tally, truth),
        "histogram": _histogram(tally.bins) if tally.predicted else [],
        "failed": f"{tally.failed:,}",
        "failures": failures,
        "unnamed": f"{tally.failed - len(failures):,}" if tally.failed > len(failures) else "",
        "notes": _notes(tally, pairs, truth),
        "sorts": sorts,
        "classes": classes,
        # of the thumbnails: there colour tells either outcomes or classes
        "legend": _outcome_legend(job) if truth else classes,
        "truth": truth,
        "longest": LONGEST,
    }


def _class_legend(job: dict[str, Any]) -> list[dict[str, str]]:
    """The classes of change and their colours; of folders that do not name them, one."""
    names = job.get("classes", ["no change", "change"])[1:]
    return [{"name": name, "color": _css(color)} for name, color in zip(names, CLASS_COLORS, strict=False)]


def _outcome_legend(job: dict[str, Any]) -> list[dict[str, str]]:
    kinds = [kind for kind in OUTCOME_NAMES if kind != WRONG_CLASS or len(_class_legend(job)) > 1]
    return [{"name": OUTCOME_NAMES[kind], "color": _css(OUTCOME_COLORS[kind])} for kind in kinds]


def _css(color: Color) -> str:
    return "rgb({}, {}, {})".format(*color)


def _origin(folder: Path, job: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was compared by which model: label, short value, whole value."""
    model = Path(job.get("model", ""))
    # of a run folder and an exported one the file has always the same name
    name = model.parent.name if model.stem in ("model", "manifest") else model.stem
    origin = [
        (role, "/".join(Path(path).parts[-2:]), path)
        for role, path in job.get("inputs", {}).items()
        if role in ("before", "after", "data")
    ]
    options = job.get("options", {})
    origin += [("model", name, str(model))] if name else []
    for key in ("split", "threshold", "tta"):
        if options.get(key) is not None:
            origin.append((key, str(options[key]), str(options[key])))
    written = datetime.fromtimestamp((folder / "summary.csv").stat().st_mtime)
    return [*origin, ("on", f"{written:%Y-%m-%d}", f"{written:%Y-%m-%d %H:%M}")]


def _figures(folder: Path, tally: Tally, truth: bool) -> list[dict[str, str]]:
    def figure(label: str, value: str, unit: str = "") -> dict[str, str]:
        return {"label": label, "value": value, "unit": unit}

    predicted = max(tally.predicted, 1)
    scores = _scores(folder, tally) if truth and tally.scored else []
    return [
        figure("pairs", f"{tally.predicted + tally.failed:,}", f"{tally.failed:,} failed" if tally.failed else ""),
        figure("with change", f"{tally.changed:,}", f"{tally.changed / predicted:.0%}"),
        figure("mean change", f"{tally.fractions / predicted:.2%}"),
        *(figure("changed area", *_area(area, unit)) for unit, area in tally.areas.items()),
        figure("objects", f"{tally.objects:,}"),
        *(figure(*one) for one in scores),
    ]


def _scores(folder: Path, tally: Tally) -> list[tuple[str, str]]:
    """Those over all pixels where the evaluation left them, else the mean over pairs."""
    metrics = folder / "metrics.json"
    pooled = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    names = {"f1": "F1", "precision": "precision", "recall": "recall"}
    scores = [(label, f"{pooled[key]:.3f}") for key, label in names.items() if key in pooled]
    return scores or [("mean F1 of pairs", f"{tally.f1 / tally.scored:.3f}")]


def _area(area: float, unit: str) -> tuple[str, str]:
    if unit == "m2":
        return (f"{area / 1e6:,.2f}", "km²") if area >= 1e6 else (f"{area:,.0f}", "m²")
    return (f"{area / 1e6:,.1f}", "Mpx") if area >= 1e6 else (f"{area:,.0f}", "px")


def _histogram(bins: list[int]) -> list[dict[str, Any]]:
    """The bars: their range in per cent, and their height as a share of the highest."""
    bars = []
    for k, (count, edge) in enumerate(zip(bins, _EDGES, strict=True)):
        start, stop = (0.0 if k == 0 else 100 * _EDGES[k - 1]), 100 * edge
        bars.append(
            {
                # the page shows from and to, both included; summary.csv has six digits
                "start": f"{start + 0.0001:g}" if k else "0",
                "stop": f"{stop:g}",
                "label": f"{stop:g}",
                "description": "no change" if k == 0 else f"more than {start:g} % to {stop:g} % changed",
                "count": f"{count:,}",
                "share": f"{count / max(bins):.3f}",
            }
        )
    return bars


def _notes(tally: Tally, pairs: list[dict[str, Any]], truth: bool) -> list[str]:
    notes = []
    listed = [pair for pair in pairs if pair["status"] == "ok"]
    if tally.predicted > len(listed):
        which = "lowest F1" if truth else "largest changed area"
        notes.append(f"Listed are the {len(listed):,} pairs of {tally.predicted:,} with the {which}; see summary.csv.")
    if bare := sum(not pair["layers"] for pair in listed):
        were = "pairs were" if bare > 1 else "pair was"
        notes.append(
            f"{bare:,} {were} predicted before pictures were kept for this page: overlays stand for them; "
            "predict with --overwrite for the slider."
        )
    return notes
