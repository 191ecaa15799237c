"""The page of a training run: one file that holds everything, whatever the names and numbers in it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from segdiff.training.conclusion import Outcome, ShownPair
from segdiff.training.metrics import class_scores, confusion_scores
from segdiff.visualization.run_report import show_outcome
from tests.visualization.test_report_page import CHROMIUM, DESKTOP, PHONE, browser  # noqa: F401  the fixture

ODD_NAME = "a <b>\"&amp;' pair"


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        self.text += "" if self._hidden else f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def outcome(
    run: Path, classes: tuple[str, ...] = ("background", "change"), pairs: list[ShownPair] | None = None, **changes
):
    """Of a run folder with its configuration and environment."""
    run.mkdir(exist_ok=True)
    config = "model: {architecture: unet_diff, encoder: {name: unet, channels: [4, 8]}}\n"
    config += "data: {root: [{path: /data/<here>, weight: null}], crop: 32}\n"
    config += "train: {epochs: 2, loss: {dice: 1.0}}\ninference: {tile: 64, post_processing: auto}\nseed: 0\n"
    (run / "config.yaml").write_text(config)
    (run / "environment.json").write_text(json.dumps({"python": "3.12.1", "packages": {"keras": "3.15.1"}}))
    confusion = np.full((len(classes), len(classes)), 5) + 1000 * np.eye(len(classes), dtype=int)
    scores = {name: float(value) for name, value in confusion_scores(confusion).items()}
    metrics = {
        "split": "val", "pairs": 7, "best_epoch": 2, "epochs": 2, "chosen_on": "epoch was chosen on these pairs",
        "seconds": 90.0, **scores, "threshold": 0.5, "post_processing": {"closing": 0, "minimum_area": 16},
        "without_post_processing": {**scores, "f1": 0.125}, "classes": class_scores(confusion, classes),
        "confusion": confusion.tolist(),
    }  # fmt: skip
    history = [
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "val_loss": 2.0,
            "val_f1": 0.25 * epoch,
            "learning_rate": 1e-5,
            "seconds": 45.0,
        }
        for epoch in (1, 2)
    ]
    values = np.linspace(1, 0, 1024)[None].repeat(len(classes) - 1, axis=0)
    return Outcome(
        run, history, metrics, classes, values, values, changes.get("unranked", 0), iter(pairs or [])
    )  # fmt: skip


def shown(rank, name: str, f1: float | None, classes: int = 2, size: tuple[int, int] = (48, 64)) -> ShownPair:
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(2))
    mask, truth = (rng.integers(0, classes, size, np.uint8) for _ in range(2))
    return ShownPair(rank, name, f1, before, after, mask, truth)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    pairs = [shown("best", "p1", 0.875), shown("worst", ODD_NAME, 0.0625), shown("worst", "p3", None)]
    run = tmp_path_factory.mktemp("report") / "a run <i>"
    show_outcome(outcome(run, pairs=pairs, unranked=3))
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(page):
    addresses = [
        tag[name] for _, tag in page.tags for name in ("src", "srcset", "href") if tag.get(name) is not None
    ]  # fmt: skip
    assert len(addresses) == 1 + 2 * 4 + 3 * 4  # no icon, a light and a dark picture a chart, four panels a pair
    assert all(address.startswith("data:") for address in addresses)
    assert not page.all("script")
    assert not page.all("link")[1:]


def test_the_page_tells_scores_curves_pairs_configuration_and_environment(page):
    for words in (
        "Training run a run <i>", "data /data/<here>", "Threshold 0.500", "Best epoch 2 of 2", "Validation pairs 7",
        "Time 1.5 min", "epoch was chosen on these pairs", "minimum area 16", "without post-processing 0.1250",
        "99.50% 1,005", "encoder.channels [4, 8]", "loss.dice 1.0", "packages.keras 3.15.1", "p1 F1 0.8750",
        f"{ODD_NAME} F1 0.0625", "p3 no change left", "3 pairs without change", "1e-05",
    ):  # fmt: skip
        assert words in page.text, words
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings == ["h1", "h2", "h2", "h2", "h3", "h3", "h2", "h3", "h2"]


def test_people_who_do_not_see_and_those_who_use_keys_are_served(page):
    assert page.all("html") == [{"lang": "en"}]
    images = page.all("img")
    assert all(image["alt"] for image in images)
    assert f"{ODD_NAME}: prediction" in [image["alt"] for image in images]
    assert all(image["width"] and image["height"] for image in images)
    labelled = [tag["aria-labelledby"] for tag in page.all("section") if "aria-labelledby" in tag]
    assert set(labelled) <= {tag["id"] for _, tag in page.tags if "id" in tag}
    # what may scroll sideways can be reached and has a name
    scrolled = [tag for tag in page.all("div") if tag.get("class") == "scroll"]
    assert scrolled
    assert all(tag["tabindex"] == "0" and tag["role"] == "region" and tag["aria-label"] for tag in scrolled)


def test_a_run_of_several_classes_without_ranked_pairs_has_its_page_and_pictures(tmp_path):
    classes = ("none", *(f"kind {k}" for k in range(1, 5)))
    pictures = show_outcome(outcome(tmp_path / "run", classes))
    assert set(pictures) == {"end/precision_recall", "end/confusion"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml", "environment.json", "curves.png", "confusion.png", "precision_recall.png", "report.html"
    }  # fmt: skip
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "F1, mean of classes" in page.text
    assert "kind 4 0." in page.text
    assert "The worst" not in page.text
    assert len(page.all("img")) == 4


def test_a_run_whose_scores_could_not_be_counted_has_a_page(tmp_path):
    """Of a first epoch without any change found, say, or of an older history with gaps."""
    empty = outcome(tmp_path / "run")
    empty.history[0].update(val_loss=float("nan"), val_f1=0.0)
    nothing = np.zeros((1, 1024))
    show_outcome(Outcome(empty.run, empty.history, empty.metrics, empty.classes, nothing, nothing, 0, iter([])))
    assert "1 1 - 0" in Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """The page of a run of many classes with long names."""
    classes = ("none", *(f"a kind of change with a long name {k}" for k in range(1, 8)))
    pairs = [shown("worst", "p" * 120, 0.5, classes=8), shown("best", ODD_NAME, 0.75, size=(400, 30))]
    run = tmp_path_factory.mktemp("wide") / "run"
    show_outcome(outcome(run, classes, pairs))
    return run / "report.html"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
@pytest.mark.parametrize(("device", "scheme"), [(DESKTOP, "dark"), (PHONE, "light")], ids=["desktop", "phone"])
def test_in_a_browser_nothing_is_asked_for_and_everything_is_in_sight(browser, wide, device, scheme):  # noqa: F811
    tab = browser.new_page(color_scheme=scheme, **device)
    asked, errors = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    address = wide.as_uri()
    tab.goto(address)
    assert errors == []
    assert {url for url in asked if not url.startswith("data:")} == {address}
    # not innerWidth: a telephone makes its window as wide as what is in it
    assert tab.evaluate("document.documentElement.scrollWidth") <= device["viewport"]["width"]
    for image in tab.locator("img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    chart = tab.locator(".chart img").first.evaluate(PIXEL)
    assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == (sum(chart) < 150) == (scheme == "dark")
    table = tab.get_by_role("region", name="Table of epochs")
    assert not table.is_visible()
    tab.locator("summary", has_text="All epochs").focus()
    tab.keyboard.press("Enter")
    assert table.is_visible()
    tab.close()


PIXEL = """async image => {
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [1, 1];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 1, 1, 0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
"""The colour of a picture's corner."""
