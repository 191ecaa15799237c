"""Comparisons of several classes and with post-processing, the shelf they are kept on, and the queue before them."""

import gzip
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import requests
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.layouts import DataError
from segdiff.inference.predictor import Detector
from segdiff.inference.rasters import write_png_mask
from segdiff.model_files import PostProcessing, Settings
from segdiff.serving import application
from segdiff.serving.application import PageModel, create_app
from segdiff.serving.comparisons import compare, thresholds_around
from segdiff.serving.server import address_of, is_loopback, open_port
from segdiff.serving.uploads import GoneError, Limits, Shelf, TooLargeError, Upload, open_upload


class Told:
    """A network that says the same of every pair: probabilities H x W x K."""

    def __init__(self, probability: np.ndarray, **more):
        classes = ("none", "house", "road")[: max(probability.shape[2], 2)]
        self.settings = Settings(classes=classes, tile=64, overlap=0, **more)
        self.path, self.tile, self.bands, self.runtime = Path("told.keras"), None, (1, 1), "told"
        self.probability = probability
        self.at_work, self.most, self.seconds = 0, 0, 0.0

    def run(self, batches):
        for before, _ in batches:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            time.sleep(self.seconds)
            self.at_work -= 1
            yield np.stack([self.probability[: before.shape[1], : before.shape[2]]] * len(before)).astype(np.float32)


def upload(folder: Path, name: str, height: int = 64, width: int = 64) -> Upload:
    path = folder / f"{name}.image"
    write_png_mask(path, np.zeros((height, width), np.uint8))
    return open_upload(path, f"{name}.png", 1, Limits())


def compared(folder: Path, network: Told, megapixels: float = 25, **options):
    own = folder / "comparison"
    own.mkdir(exist_ok=True)
    return compare(
        Detector(network), upload(folder, "one"), upload(folder, "two"), own, Limits(megapixels=megapixels), **options
    )


def three_classes(seed: int) -> np.ndarray:
    """Softmax probabilities 64 x 64 x 3."""
    logits = np.random.default_rng(seed).normal(0, 2, (64, 64, 3))
    odds = np.exp(logits)
    return (odds / odds.sum(axis=2, keepdims=True)).astype(np.float32)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(0, 198))
def test_of_several_classes_levels_and_kinds_tell_the_mask(tmp_path_factory, seed, index):
    probability = three_classes(seed)
    comparison = compared(tmp_path_factory.mktemp("pair"), Told(probability))
    threshold = comparison.thresholds[index]
    change = np.float32(1) - probability[..., 0]
    kinds = np.where(probability[..., 1] >= probability[..., 2], 1, 2)
    expected = np.where(change >= np.float32(threshold), kinds, 0)
    levels, kept = np.frombuffer(gzip.decompress(comparison.levels), np.uint8).reshape(2, 64, 64)
    assert np.array_equal(np.where(levels > index, kept, 0), expected)
    assert np.array_equal(comparison.decide(threshold).mask, expected)
    assert comparison.pixels[index] == np.count_nonzero(expected)
    told = comparison.describe_decision(threshold)
    assert sum(told["classes"].values()) == told["objects"]
    assert set(told["classes"]) <= {"house", "road"}
    name, content = comparison.mask_file(threshold)
    (comparison.folder / name).write_bytes(content)
    assert name == "two.png"
    assert np.array_equal(np.array(Image.open(comparison.folder / name)), expected), "class indices, not 0 and 255"


def test_post_processing_comes_with_the_decision_alone(tmp_path):
    probability = np.zeros((64, 64, 1), np.float32)
    probability[10:20, 10:20] = 0.8  # 100 pixels
    probability[40:42, 40:42] = 0.9  # 4 pixels
    comparison = compared(tmp_path, Told(probability, post_processing=PostProcessing(minimum_area=5)))
    assert comparison.pixels[comparison.thresholds.index(0.5)] == 104
    told = comparison.describe_decision(0.5)
    assert (told["changed_pixels"], told["objects"]) == (100, 1)
    assert told["largest"] == [{"class": 1, "score": pytest.approx(0.8), "area": 100, "box": [10, 10, 10, 10]}]
    assert comparison.decide(0.85).mask.sum() == 0
    assert comparison.decide(0.85) is comparison.decide(0.85), "the last one is kept"


def test_a_large_image_is_shown_small_and_every_change_stays_to_be_seen(tmp_path):
    before, after = upload(tmp_path, "one", 8, 5000), upload(tmp_path, "two", 8, 5000)
    probability = np.zeros((64, 64, 1), np.float32)
    probability[5, 7] = 0.9
    comparison = compare(Detector(Told(probability)), before, after, tmp_path, Limits())
    described = comparison.describe()
    assert (described["confidence"], described["unsure"]) == (None, False)
    assert (described["factor"], described["width"]) == (3, 5000)
    levels = np.frombuffer(gzip.decompress(comparison.levels), np.uint8).reshape(3, 1667)
    mask = np.frombuffer(gzip.decompress(comparison.packed_mask(0.5)), np.uint8).reshape(3, 1667)
    assert np.array_equal(levels > comparison.thresholds.index(0.5), mask)
    assert mask.sum() == comparison.pixels[comparison.thresholds.index(0.5)] == 79  # tiles of 64 pixels
    assert mask[1, 7 // 3] == 1


def test_a_probability_that_is_a_threshold_reaches_it(tmp_path):
    probability = np.zeros((64, 64, 1), np.float32)
    thresholds = thresholds_around(0.5)
    probability.flat[: len(thresholds)] = thresholds
    comparison = compared(tmp_path, Told(probability))
    assert comparison.pixels.tolist() == [199 - index for index in range(199)]
    assert [int(comparison.decide(threshold).mask.sum()) for threshold in thresholds] == comparison.pixels.tolist()


def test_the_scale_has_the_models_own_threshold():
    assert thresholds_around(0.5) == [k / 200 for k in range(1, 200)]
    around = thresholds_around(0.4326171875)
    assert len(around) == 200
    assert around == sorted(around)
    assert 0.4326171875 in around


def test_what_the_model_would_see_is_limited_too(tmp_path, monkeypatch):
    with pytest.raises(
        TooLargeError, match=r"two.png: at the model's ground resolution it has 1280 x 1280 pixels; .* 0.5"
    ):
        compared(tmp_path, Told(three_classes(0), ground_resolution=(0.05, 0.05)), 0.5, resolution=1)


def test_errors_of_a_pair_say_the_visitors_names(tmp_path):
    before, after = upload(tmp_path, "one"), upload(tmp_path, "two", 32, 64)
    with pytest.raises(DataError) as raised:
        compare(Detector(Told(three_classes(0))), before, after, tmp_path, Limits())
    assert str(raised.value).startswith("two.png: is 64 x 32 pixels (width x height), one.png is 64 x 64;")


# --------------------------------------------------------------------------------------------------- the shelf


@dataclass
class Thing:
    folder: Path


def test_a_shelf_keeps_what_was_asked_for_last(tmp_path):
    now = 0.0
    shelf = Shelf(3, 100, clock=lambda: now)
    things = [Thing(tmp_path / str(k)) for k in range(5)]
    for thing in things:
        thing.folder.mkdir()
    one, two, three = (shelf.put(thing) for thing in things[:3])
    now = 10
    assert shelf.get(one) is things[0]
    four = shelf.put(things[3])
    assert [thing.folder.exists() for thing in things[:4]] == [True, False, True, True], "two was asked for longest ago"
    with pytest.raises(GoneError, match="no longer kept"):
        shelf.get(two)
    now = 99
    assert shelf.get(three) is things[2]
    now = 110
    shelf.tidy()
    assert [thing.folder.exists() for thing in things[:4]] == [False, False, True, False]
    for token in (one, four, "", "guess"):
        with pytest.raises(GoneError):
            shelf.get(token)
    now = 200
    with pytest.raises(GoneError):
        shelf.get(three)
    assert len(shelf) == 0


# --------------------------------------------------------------------------------------------------- the queue


@pytest.fixture
def serve_told(tmp_path):
    """Serves a told network from a thread: serve(network) -> address."""
    stops = []
    complaints: list[Exception] = []

    def serve(network: Told) -> SimpleNamespace:
        app = create_app(
            PageModel(Detector(network), "told"), limits=Limits(), hosts=["*"], folder=tmp_path,
            complain=complaints.append,
        )  # fmt: skip
        listening = open_port("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", http="h11"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        stops.append((server, thread))
        return SimpleNamespace(url=address_of(listening, "127.0.0.1"), complaints=complaints)

    yield serve
    for server, thread in stops:
        server.should_exit = True
        thread.join(timeout=10)


def compare_over_http(url: str) -> requests.Response:
    content = cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes()
    tokens = [
        requests.post(f"{url}images?role={role}&name=x.png", data=content, timeout=30).json()["image"]
        for role in ("before", "after")
    ]
    return requests.post(f"{url}comparisons?before={tokens[0]}&after={tokens[1]}", timeout=30)


@pytest.mark.parametrize(("turning", "times"), [("none", ""), ("d4", "eight"), ("multiscale", "five")])
def test_the_page_says_where_the_model_takes_several_times_the_work(serve_told, turning, times):
    served = serve_told(Told(three_classes(1), test_time_augmentation=turning))
    page = requests.get(served.url, timeout=30).text
    assert re.findall(r"(\w+) times the work", page) == ([times] if times else [])


def test_one_pair_is_predicted_at_a_time(serve_told):
    network = Told(three_classes(1))
    network.seconds = 0.03
    served = serve_told(network)
    with ThreadPoolExecutor(5) as visitors:
        answers = list(visitors.map(lambda _: compare_over_http(served.url), range(5)))
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.json()["comparison"] for answer in answers}) == 5
    assert network.most == 1


def test_who_would_wait_too_long_is_told(serve_told, monkeypatch):
    monkeypatch.setattr(application, "WAITING", 0)
    answer = compare_over_http(serve_told(Told(three_classes(1))).url)
    assert answer.status_code == 503
    assert answer.json() == {"error": "0 visitors are waiting already; try again in a minute"}


def test_what_nobody_foresaw_is_a_line_and_the_page_goes_on(serve_told, tmp_path):
    network = Told(three_classes(1))
    served = serve_told(network)
    good, network.probability = network.probability, None
    answer = compare_over_http(served.url)
    assert answer.status_code == 500
    assert answer.json() == {"error": "this went wrong here, see the window in which segdiff serve runs"}
    assert [type(error) for error in served.complaints] == [TypeError]
    network.probability = good
    assert compare_over_http(served.url).status_code == 201
    assert len(list(tmp_path.iterdir())) == 5, "four images and a comparison; what failed is gone"


def test_addresses():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "example.org")] == [False] * 4
    with open_port("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert address_of(listening, "0.0.0.0") == f"http://127.0.0.1:{port}/"
        assert address_of(listening, "::1") == f"http://[::1]:{port}/"
