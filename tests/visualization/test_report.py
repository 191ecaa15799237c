"""What the report says: sums, bounds, and names that mean harm. How it moves stands in test_report_page.py."""

import json
import math
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdiff.model_files import UNSURE
from segdiff.visualization import report
from segdiff.visualization.report import ReportError, write_report
from tests.visualization.prediction_folders import failed_row, row_of, write_folder

HOSTILE = "a\"b'<img src=x onerror=alert(1)> & ünï 東 %41 #1 ?q"


def data_of(folder) -> dict:
    text = (folder / "report" / "data.js").read_text(encoding="ascii")
    return json.loads(text.removeprefix("window.SEGDIFF_REPORT = ").removesuffix(";\n"))


def figures_of(folder) -> dict[str, str]:
    """Label -> value of the summary, without markup."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    pairs = [part.split("</dd>")[0].split("</dt><dd>") for part in page.split("<dt>")[1:]]
    return {label: value.replace("<small>", "").replace("</small>", "") for label, value in pairs}


def test_the_summary_adds_up_what_the_rows_say(tmp_path):
    rows = [row_of("a", 0.0), row_of("b", 0.25), row_of("c", 0.002), failed_row("d", "d.png: damaged; restore it")]
    for row in rows[:3]:
        row |= {"area_unit": "m2", "area": "0"}
    rows[1] |= {"area": "2500000", "objects": 1234}
    write_report(write_folder(tmp_path / "out", rows))
    assert figures_of(tmp_path / "out") == {
        "pairs": "4 1 failed",
        "with change": "2 67%",
        "mean change": "8.40%",
        "changed area": "2.50 km²",
        "objects": "1,236",
    }
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "d.png: damaged; restore it" in page
    assert 'before <b title="/data/A">data/A</b>' in page
    assert 'model <b title="/models/boards/model.keras">boards</b>' in page
    assert data_of(tmp_path / "out")["pairs"] == [
        {"name": "b", "status": "ok", "changed": 0.25, "pixels": 250, "area": 2500000.0, "unit": "m2", "objects": 1234,
         "layers": 1},
        {"name": "c", "status": "ok", "changed": 0.002, "pixels": 2, "area": 0.0, "unit": "m2", "objects": 1,
         "layers": 1},
        {"name": "a", "status": "ok", "changed": 0.0, "pixels": 0, "area": 0.0, "unit": "m2", "objects": 1,
         "layers": 1},
        {"name": "d", "status": "failed", "error": "d.png: damaged; restore it"},
    ]  # fmt: skip


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_every_pair_is_in_the_bin_of_its_changed_fraction(millionths):
    tally = report.Tally()
    for count in millionths:
        tally.add({"status": "ok", "changed": count / 10**6, "objects": 0, "unit": "px", "area": 0.0})
    bars = report._histogram(tally.bins)
    for k, bar in enumerate(bars):
        # as the page filters: both ends belong to it
        here = [x for x in millionths if float(bar["start"]) <= x / 10**4 <= float(bar["stop"])]
        assert len(here) == tally.bins[k], bar
    assert sum(tally.bins) == len(millionths)
    assert max(float(bar["share"]) for bar in bars) == 1


@given(st.text(), st.text())
def test_no_name_breaks_out_of_the_script(name, error):
    data = {"pairs": [{"name": name, "error": error}]}
    text = report._script_json(data)
    assert text.isascii()
    assert not set("<>&\n\r") & set(text)
    assert json.loads(text) == data


def test_names_are_words_on_the_page_and_nothing_else(tmp_path):
    folder = write_folder(tmp_path / "out", [row_of(HOSTILE, 0.1), failed_row("<script>x", "<b>broken</b>")])
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<script>x" not in page
    assert "<b>broken" not in page
    assert "&lt;script&gt;x</b> &lt;b&gt;broken" in page
    assert [pair["name"] for pair in data_of(folder)["pairs"]] == [HOSTILE, "<script>x"]


def test_of_too_many_pairs_those_that_matter_are_listed_and_all_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LISTED", 3)
    monkeypatch.setattr(report, "LISTED_FAILURES", 2)
    fractions = np.random.default_rng(0).permutation(10) / 100
    f1 = [0.5, "", 0.9, 0.1, 1.0, 0.7, 0.2, 0.8, 0.6, 0.3]
    rows = [row_of(f"p{k}", fractions[k], f1=f1[k]) for k in range(10)]
    rows += [failed_row(f"f{k}", "no") for k in range(4)]
    folder = write_folder(tmp_path / "changed", rows, layers=[])
    page = write_report(folder).read_text(encoding="utf-8")
    most = [f"p{k}" for k in sorted(range(10), key=lambda k: -fractions[k])[:3]]
    assert [pair["name"] for pair in data_of(folder)["pairs"]] == [*most, "f0", "f1"]
    assert "Listed are the 3 pairs of 10 with the largest changed area" in page
    assert "and 2 more, in summary.csv" in page
    assert figures_of(folder)["pairs"] == "14 4 failed"
    folder = write_folder(tmp_path / "scored", rows, layers=[], truth=True)
    page = write_report(folder).read_text(encoding="utf-8")
    assert [pair["name"] for pair in data_of(folder)["pairs"]][:3] == ["p3", "p6", "p9"]
    assert "with the lowest F1" in page
    known = [score for score in f1 if score != ""]
    assert figures_of(folder)["mean F1 of pairs"] == f"{math.fsum(known) / len(known):.3f}"


def test_scores_over_all_pixels_stand_before_the_mean_over_pairs(tmp_path):
    folder = write_folder(tmp_path / "out", [row_of("a", 0.1, f1=0.5)], truth=True)
    (folder / "metrics.json").write_text(json.dumps({"f1": 0.8123, "precision": 0.7, "recall": 0.9}))
    write_report(folder)
    figures = figures_of(folder)
    assert (figures["F1"], figures["precision"], figures["recall"]) == ("0.812", "0.700", "0.900")
    assert "mean F1 of pairs" not in figures


def test_pairs_of_several_classes_say_which(tmp_path):
    classes = ("none", "house", "road & <path>")
    rows = [row_of("a", 0.1, classes=json.dumps({"house": 2, "road & <path>": 1})), row_of("b", 0.1, classes="{}")]
    folder = write_folder(tmp_path / "out", rows, classes=classes)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<option>house</option><option>road &amp; &lt;path&gt;</option>" in page
    assert [key["name"] for key in data_of(folder)["legends"]["classes"]] == ["house", "road & <path>"]
    assert [pair.get("classes") for pair in data_of(folder)["pairs"]] == [{"house": 2, "road & <path>": 1}, {}]


def test_the_confidence_of_a_pair_reaches_the_page(tmp_path):
    folder = write_folder(tmp_path, [row_of("one", 0.1, confidence="0.120"), row_of("two", 0.2)])
    write_report(folder)
    data = data_of(folder)
    assert {pair["name"]: pair.get("confidence") for pair in data["pairs"]} == {"one": 0.12, "two": None}
    assert data["unsure"] == UNSURE


def test_a_folder_of_before_the_report_is_shown_by_its_overlays(tmp_path):
    folder = write_folder(tmp_path / "out", [row_of("a", 0.1), row_of("b", 0.2)], layers=["b"])
    job = json.loads((folder / "prediction.json").read_text())
    del job["classes"]
    (folder / "prediction.json").write_text(json.dumps(job))
    page = write_report(folder).read_text(encoding="utf-8")
    assert "1 pair was predicted before pictures were kept" in page
    assert {pair["name"]: pair["layers"] for pair in data_of(folder)["pairs"]} == {"a": 0, "b": 1}
    assert data_of(folder)["legends"]["classes"][0]["name"] == "change"


def test_written_again_it_is_the_same_and_nothing_is_left_behind(tmp_path):
    folder = write_folder(tmp_path / "out", [row_of("a", 0.1)])
    write_report(folder)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_report(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    assert not list(folder.rglob(".*"))


def test_a_report_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "out", [row_of("a", 0.1)])
    page = write_report(folder).read_bytes()
    write_folder(folder, [row_of("b", 0.2)], layers=[])
    whole = report.write_whole

    def full(path):
        if path.name == "report.html":
            raise OSError(28, "No space left on device")
        return whole(path)

    monkeypatch.setattr(report, "write_whole", full)
    with pytest.raises(OSError, match="No space"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == page
    assert not list(folder.rglob(".*"))


def test_a_row_that_a_run_is_still_writing_is_left_out(tmp_path):
    folder = write_folder(tmp_path / "out", [row_of("a", 0.1)])
    with (folder / "summary.csv").open("a") as stream:
        stream.write("b,ok,12")
    write_report(folder)
    assert [pair["name"] for pair in data_of(folder)["pairs"]] == ["a"]


BROKEN = {
    "no folder": (lambda folder: None, "there is no such folder"),
    "an empty folder": (lambda folder: folder.mkdir(), "is no prediction folder, it lacks prediction.json"),
    "no summary": (lambda folder: (write_folder(folder, []) / "summary.csv").unlink(), "it lacks summary.csv"),
    "half a job": (lambda folder: (write_folder(folder, []) / "prediction.json").write_text("{"), "json: is broken"),
    "a list": (lambda folder: (write_folder(folder, []) / "prediction.json").write_text("[]"), "no JSON object"),
    "words for numbers": (
        lambda folder: write_folder(folder, [row_of("a", 0.1) | {"changed_pixels": "many"}], layers=[]),
        "summary.csv: row 2 is broken (invalid literal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_prediction_folder_is_named_in_one_line(tmp_path, kind):
    make, words = BROKEN[kind]
    make(tmp_path / "out")
    with pytest.raises(ReportError) as raised:
        write_report(tmp_path / "out")
    assert str(raised.value).startswith(str(tmp_path / "out"))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_page_names_nothing_outside_of_its_folder(tmp_path):
    folder = write_folder(tmp_path / "out", [row_of(string.ascii_letters, 0.1)])
    write_report(folder)
    for path in (folder / "report.html", *(folder / "report").glob("*.*")):
        text = path.read_text(encoding="utf-8")
        for word in ("http:", "https:", "fetch(", "XMLHttpRequest", "import("):
            assert word not in text, (path.name, word)
