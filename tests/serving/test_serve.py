"""The served page: a real process, asked over HTTP with good and bad files, and looked at in a real browser."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from PIL import Image
from rasterio.transform import from_origin

import segdiff
from segdiff.inference.objects import feature, find_objects
from tests.serving.boards import draw_boards

MEGABYTES, MEGAPIXELS = 0.3, 0.1


@dataclass
class Visitor:
    """A running server, and what its process was told and writes."""

    url: str
    process: subprocess.Popen
    folder: Path
    """Where its temporary folders are."""

    def send(self, content: bytes, name: str = "board.png", role: str = "before", **options) -> requests.Response:
        return requests.post(
            f"{self.url}images", params={"role": role, "name": name}, data=content, timeout=60, **options
        )

    def compare(self, before: str, after: str) -> requests.Response:
        return requests.post(f"{self.url}comparisons", params={"before": before, "after": after}, timeout=60)

    def compare_files(self, before: bytes, after: bytes, *names: str) -> dict:
        """What the server says of a pair that it takes."""
        tokens = [
            self.send(content, name, role).json()["image"]
            for content, name, role in zip((before, after), names, ("before", "after"), strict=True)
        ]
        answer = self.compare(*tokens)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def ask(self, comparison: dict, what: str, threshold: float | None = None) -> requests.Response:
        query = {} if threshold is None else {"threshold": threshold}
        answer = requests.get(f"{self.url}comparisons/{comparison['comparison']}/{what}", params=query, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer

    def kept(self) -> list[Path]:
        """Folders of images and comparisons that are there."""
        return [folder for root in self.folder.glob("segdiff-serve-*") for folder in root.iterdir()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Where models are kept as the runtime takes them."""
    return tmp_path_factory.mktemp("serve-cache")


@pytest.fixture(scope="module")
def server(tmp_path_factory, cache) -> Iterator[Visitor]:
    """`segdiff serve` on a free port; when it is told to end, it leaves nothing behind and wrote nothing but a line."""
    folder = tmp_path_factory.mktemp("serve")
    environment = {**os.environ, "TMPDIR": str(folder), "SEGDIFF_CACHE": str(cache)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # else Python caches beside what TensorFlow generates in TMPDIR
    command = [str(Path(sys.executable).with_name("segdiff")), "serve", "deeppcb_binary", "--port", "0", "--json"]
    command += ["--max-megabytes", str(MEGABYTES), "--max-megapixels", str(MEGAPIXELS), "--precision", "float32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    started = "".join(iter(lambda: process.stdout.readline().rstrip("\n"), "}")) + "}"
    try:
        yield Visitor(json.loads(started)["url"], process, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, "", "segdiff: terminated\n")
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def boards() -> tuple[np.ndarray, np.ndarray]:
    return draw_boards()


@pytest.fixture(scope="module")
def detector(server, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGDIFF_CACHE", str(cache))
        return segdiff.load("deeppcb_binary", precision="float32")


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def tiff(image: np.ndarray, *, crs: str | None = "EPSG:32632", east: float = 400_000, **profile) -> bytes:
    """A GeoTIFF of one band, or of the bands of H x W x C, at half a metre a pixel."""
    bands = image[None] if image.ndim == 2 else np.moveaxis(image, 2, 0)
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=bands.shape[2], height=bands.shape[1], count=len(bands), dtype=bands.dtype, crs=crs,
            transform=from_origin(east, 5_000_000, 0.5, 0.5), compress="deflate", **profile,
        ) as dataset:  # fmt: skip
            dataset.write(bands)
        return memory.read()


# --------------------------------------------------------------------------------------------------- good files


def test_mask_and_objects_are_those_of_predict_at_every_threshold(server, detector, boards):
    before, after = boards
    comparison = server.compare_files(png(boards[0]), png(boards[1]), "template.png", "board 1.png")
    assert (comparison["name"], comparison["height"], comparison["width"]) == ("board 1", 200, 264)
    assert detector.settings.threshold in comparison["thresholds"]
    found = set()
    for threshold in (0.05, detector.settings.threshold, 0.9):
        expected = detector.predict(before, after, threshold=threshold)
        answer = server.ask(comparison, "mask-file", threshold)
        assert 'filename="board 1.png"' in answer.headers["content-disposition"]
        assert np.array_equal(np.array(Image.open(io.BytesIO(answer.content))), expected.mask * 255)
        regions = find_objects(expected.mask, expected.probability)
        objects = server.ask(comparison, "objects-file", threshold).json()
        wanted = [feature(region, pair="board 1", class_name="change") for region in regions]
        assert objects == {"type": "FeatureCollection", "features": json.loads(json.dumps(wanted))}
        decision = server.ask(comparison, "decision", threshold).json()
        assert decision["changed_pixels"] == int(expected.mask.sum())
        assert decision["changed_fraction"] == pytest.approx(expected.mask.mean())
        assert decision["objects"] == len(regions)
        largest = max(regions, key=lambda region: region.area_pixels)
        ring = np.array(largest.geometry["coordinates"][0])
        low, high = ring.min(axis=0), ring.max(axis=0)
        assert decision["largest"][0]["box"] == [*low, *(high - low)]
        shown = np.frombuffer(server.ask(comparison, "mask", threshold).content, np.uint8)
        assert np.array_equal(shown.reshape(expected.mask.shape), expected.mask)
        found.add(decision["changed_pixels"])
    assert len(found) == 3, "the threshold matters"


def test_the_levels_tell_the_mask_at_every_threshold(server, detector, boards):
    before, after = boards
    comparison = server.compare_files(png(before), png(np.repeat(after[..., None], 3, axis=2)), "a.png", "b.png")
    probability = detector.predict(before, after).probability
    answer = server.ask(comparison, "levels")
    assert answer.headers["content-encoding"] == "gzip"
    levels = np.frombuffer(answer.content, np.uint8).reshape(probability.shape)
    assert len(comparison["thresholds"]) == 200
    for index, threshold in enumerate(comparison["thresholds"]):
        assert np.array_equal(levels > index, probability >= threshold), threshold
        assert comparison["pixels"][index] == int((probability >= threshold).sum())
    assert (comparison["valid"], comparison["pixel_area"], comparison["unit"]) == (levels.size, 1.0, "px")


def test_a_geotiff_gives_a_mask_on_its_grid_and_objects_on_the_ground(server, detector, boards):
    after = np.where(boards[1] == 0, np.uint8(1), boards[1])
    after[:40, :60] = 0  # nothing is known there
    comparison = server.compare_files(tiff(boards[0]), tiff(after, nodata=0), "t1.tif", "t2.tiff")
    assert (comparison["name"], comparison["raster"], comparison["unit"]) == ("t2", True, "m2")
    assert (comparison["valid"], comparison["pixel_area"]) == (200 * 264 - 40 * 60, 0.25)
    threshold = comparison["thresholds"][30]
    answer = server.ask(comparison, "mask-file", threshold)
    assert 'filename="t2.tif"' in answer.headers["content-disposition"]
    with rasterio.MemoryFile(answer.content) as memory, memory.open() as mask:
        assert (mask.crs, mask.transform[:6]) == ("EPSG:32632", (0.5, 0, 400_000, 0, -0.5, 5_000_000))
        assert np.array_equal(mask.dataset_mask() == 0, np.pad(np.ones((40, 60), bool), ((0, 160), (0, 204))))
        changed = int((mask.read(1) == 255).sum())
    objects = server.ask(comparison, "objects-file", threshold).json()["features"]
    assert sum(item["properties"]["area"] for item in objects) == pytest.approx(changed / 4, abs=0.01)
    assert {item["properties"]["area_unit"] for item in objects} == {"m2"}
    longitude, latitude = objects[0]["geometry"]["coordinates"][0][0]
    assert 7.7 < longitude < 7.8
    assert 45.1 < latitude < 45.2
    decision = server.ask(comparison, "decision", threshold).json()
    shown = np.frombuffer(server.ask(comparison, "mask", threshold).content, np.uint8).reshape(200, 264)
    x, y, width, height = decision["largest"][0]["box"]
    assert shown[y : y + height, x].any()
    assert shown[y, x : x + width].any()
    assert shown[y : y + height, x : x + width].sum() * 0.25 >= decision["largest"][0]["area"]


def test_pictures_of_what_was_sent(server, boards):
    token = server.send(tiff(boards[0]), "whatever.png").json()["image"]
    picture = requests.get(f"{server.url}images/{token}/picture.jpg", timeout=60)
    assert picture.headers["content-type"] == "image/jpeg"
    shown = np.array(Image.open(io.BytesIO(picture.content)).convert("L"))
    assert np.abs(shown.astype(int) - boards[0]).mean() < 3


# ---------------------------------------------------------------------------------------------------- bad files


def require_line(answer: requests.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    line = answer.json()["error"]
    assert "\n" not in line
    for word in words:
        assert word in line, line
    assert "/" not in line.replace("0/255", ""), f"no path of the server: {line}"
    assert "Traceback" not in line


GREY = np.full((32, 48), 90, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (300, 300, 4), dtype=np.uint8)
BAD = {
    "empty": (b"", 422, ("an empty file",)),
    "text": (b"hello", 422, ("not an image",)),
    "cut PNG": (png(NOISE[..., :3])[:20_000], 422, ("cut short",)),
    "cut TIFF": (tiff(NOISE[..., 0])[:30_000], 422, ("restore it",)),
    "TIFF by its first bytes alone": (b"II*\x00" + bytes(60), 422, ("not a TIFF, or damaged",)),
    "16 bits": (png(np.full((8, 8), 60_000, np.uint16)), 422, ("dtype uint16", "convert it to 8 bits")),
    "16 bits TIFF": (tiff(np.full((8, 8), 60_000, np.uint16)), 422, ("dtype uint16", "convert it to 8 bits")),
    "transparent": (png(NOISE[:8, :8]), 422, ("alpha is not opaque",)),
    "colours": (png(NOISE[:8, :8, :3]), 422, ("3 bands whose channels differ where 1 are wanted",)),
    "seven bands": (tiff(np.zeros((8, 8, 7), np.uint8)), 422, ("7 bands where 1 are wanted",)),
    "too many bytes": (png(NOISE), 413, ("has 0.4 MB", "takes 0.3 MB")),
    "too many pixels": (png(np.zeros((200, 600), np.uint8)), 413, ("600 x 200 pixels", "0.1 million")),
    "too many pixels TIFF": (tiff(np.zeros((200, 600), np.uint8)), 413, ("600 x 200 pixels", "0.1 million")),
}


@pytest.mark.parametrize(("content", "status", "words"), BAD.values(), ids=BAD)
def test_a_bad_file_gets_a_line_and_leaves_nothing(server, content, status, words):
    kept = len(server.kept())
    require_line(server.send(content, "bad board.png"), status, "bad board.png: ", *words)
    assert len(server.kept()) == kept


def test_too_many_bytes_without_a_length_are_counted_as_they_come(server):
    chunks = iter([bytes(100_000)] * 40)
    require_line(server.send(chunks, "endless.png"), 413, "endless.png: has 4.0 MB")


def test_pairs_that_do_not_fit_get_a_line_with_the_names_that_were_given(server, boards):
    def tokens(before: bytes, after: bytes, *names: str) -> list[str]:
        both = zip((before, after), names, ("before", "after"), strict=True)
        return [server.send(content, name, role).json()["image"] for content, name, role in both]

    answer = server.compare(*tokens(png(GREY), png(GREY.T), "one.png", "two.png"))
    require_line(answer, 422, "two.png: is 32 x 48 pixels (width x height), one.png is 48 x 32")
    answer = server.compare(*tokens(png(GREY), png(GREY.T), "x.png", "x.png"))
    require_line(answer, 422, "x.png (after): is 32 x 48", "x.png (before) is 48 x 32")
    answer = server.compare(*tokens(tiff(GREY), tiff(GREY, east=400_100), "one.tif", "two.tif"))
    require_line(answer, 422, "two.tif: not on the grid of one.tif", "warp one onto the other")
    good = server.send(png(GREY)).json()["image"]
    for pair in ((good, "guess"), ("", good)):
        require_line(server.compare(*pair), 404, "no longer kept", "drop both again")


@pytest.mark.parametrize("threshold", ["0", "1", "-0.5", "nan", "inf", "half", ""])
def test_thresholds_out_of_range_get_a_line(server, boards, threshold):
    image = server.send(png(GREY)).json()["image"]
    comparison = server.compare(image, image).json()["comparison"]
    for what in ("decision", "mask", "mask-file", "objects-file"):
        answer = requests.get(f"{server.url}comparisons/{comparison}/{what}?threshold={threshold}", timeout=60)
        require_line(answer, 400, "must lie above 0 and below 1")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd: "), ("C:\\photos\\x.png", "x.png: "), ("", "unnamed: "), ("..", "..: "),
        ("a\nb\x1b[31m.png", "a?b?[31m.png: "), ("x" * 1000, "x" * 120 + ": "), ("東.png", "東.png: "),
    ],
)  # fmt: skip
def test_names_are_words_never_paths(server, name, shown):
    answer = server.send(b"hello", name)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(shown)


# ------------------------------------------------------------------------------------------------- other people


def test_only_loopbacks_names_are_answered(server):
    port = server.url.rstrip("/").rsplit(":", 1)[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert requests.get(server.url, headers={"Host": host}, timeout=60).status_code == 200, host
    for host in (f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example", ""):
        for path in ("", "assets/serve.js", "images/x/picture.jpg"):
            answer = requests.get(server.url + path, headers={"Host": host}, timeout=60)
            assert answer.status_code == 400, (host, path)
            assert "segdiff" not in answer.text


def test_other_sites_cannot_send(server):
    before = len(server.kept())
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        require_line(server.send(png(GREY), headers={"Origin": origin}), 403, "other sites")
    assert len(server.kept()) == before
    assert server.send(png(GREY), headers={"Origin": server.url.rstrip("/")}).status_code == 201


def test_what_is_sent_has_a_long_token_of_its_own_and_goes_when_told(server):
    tokens = {server.send(png(GREY)).json()["image"] for _ in range(3)}
    assert len(tokens) == 3
    assert all(len(token) >= 32 for token in tokens)
    token = tokens.pop()
    comparison = server.compare(token, token).json()["comparison"]
    kept = len(server.kept())
    for address in (f"images/{token}", f"comparisons/{comparison}"):
        assert requests.delete(server.url + address, timeout=60).status_code == 204
        assert requests.delete(server.url + address, timeout=60).status_code == 204, "gone is gone"
    assert len(server.kept()) == kept - 2
    for address in (f"images/{token}/picture.jpg", f"comparisons/{comparison}/levels"):
        require_line(requests.get(server.url + address, timeout=60), 404, "no longer kept")


def test_nothing_but_the_pages_own_files_is_served(server):
    for path in (
        "assets/serve.html",
        "assets/..%2fserver.py",
        "assets/%2fetc%2fpasswd",
        "docs",
        "images",
        "openapi.json",
    ):
        answer = requests.get(server.url + path, timeout=60)
        assert answer.status_code in (404, 405), path
        assert answer.json()["error"]
    require_line(server.send(png(GREY), role="beside"), 400, "it must be before or after")


def test_every_answer_tells_the_browser_to_ask_nobody_else(server):
    for path in ("", "assets/viewer.js", "nowhere"):
        headers = requests.get(server.url + path, timeout=60).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    page = requests.get(server.url, timeout=60).text
    assert "up to\n    0.3 MB and 0.1 million pixels each" in page
    assert "http" not in page.replace("http-equiv", "")


# ------------------------------------------------------------------------------------------------- the command


def run_without(package: str, *arguments: str) -> subprocess.CompletedProcess:
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv[0] = 'segdiff'\nfrom segdiff.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_without_the_extra_a_line_says_what_to_install():
    done = run_without("starlette", "serve", "deeppcb_binary")
    line = "segdiff: serve: the package starlette is not installed: pip install 'segdiff[serve]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("nosuchmodel",), "there is no such file, run folder, exported folder or shipped model"),
        (("deeppcb_binary", "--host", "nowhere.invalid"), "nowhere.invalid:0: "),
    ],
)
def test_wrong_calls_are_one_line(segdiff_command, options, words):
    done = segdiff_command("serve", *options, "--port", 0)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_a_wrong_call(segdiff_command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = segdiff_command("serve", "deeppcb_binary", "--port", port)
    assert done.returncode == 2
    assert done.stderr.startswith(f"segdiff: 127.0.0.1:{port}: Address already in use; name another")
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, headless=True)
        yield started
        started.close()


@pytest.fixture
def visit(browser, server) -> Iterator[Callable]:
    """Opens the page; at the end nothing may have gone wrong, but for refusals, nor left the server."""
    tabs = []
    errors: list[str] = []
    asked: list[str] = []

    def open_page(**device):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **device})
        context.set_default_timeout(15_000)
        tab = context.new_page()
        tabs.append(tab)
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(server.url)
        return tab

    yield open_page
    for tab in tabs:
        tab.context.close()
    # a refused file is an answer of 4xx, which a browser counts as an error
    assert [error for error in errors if "status of 4" not in error] == []
    assert asked
    assert all(url.startswith((server.url, "data:")) for url in asked), asked


def choose(tab, role: str, name: str, content: bytes) -> None:
    tab.get_by_label(f"Image {role}", exact=True).set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )


def settled(tab) -> None:
    tab.locator("#result[data-settled]:not([data-settled=''])").wait_for()


def painted(tab, layer: str) -> np.ndarray:
    """Which pixels of a layer are painted, bool H x W."""
    width, opaque = tab.evaluate(
        """(layer) => {
            const canvas = document.querySelector(`.sd-layers [data-layer="${layer}"]`);
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.width, Array.from({ length: data.length / 4 }, (_, k) => data[4 * k + 3] > 0)];
        }""",
        layer,
    )
    return np.array(opaque).reshape(-1, width)


def shown_figures(tab) -> tuple[str, str, str]:
    return tuple(tab.locator(f"#{name}").text_content() for name in ("fraction", "area", "count"))


def test_two_images_are_compared_and_the_threshold_moves(visit, detector, boards, tmp_path):
    def expected(threshold: float):
        prediction = detector.predict(*boards, threshold=threshold)
        return prediction.mask, find_objects(prediction.mask, prediction.probability)

    def figures_of(mask, regions) -> tuple[str, str, str]:
        share = 100 * mask.mean()
        return f"{share:.{2 if share < 10 else 1}f} %", f"{mask.sum():,} px", str(len(regions))

    tab = visit()
    choose(tab, "before", "template.png", png(boards[0]))
    choose(tab, "after", "board.png", png(boards[1]))
    settled(tab)
    own = detector.settings.threshold
    mask, regions = expected(own)
    assert shown_figures(tab) == figures_of(mask, regions)
    assert np.array_equal(painted(tab, "mask"), mask == 1)
    assert not (painted(tab, "contour") & (mask == 1)).any(), "the line runs around the change"
    assert tab.locator("#objects li").count() == len(regions)
    assert tab.locator("#threshold-shown").text_content() == f"{own:.3f}"
    assert tab.get_by_role("slider", name="Boundary between before and after").is_visible()

    # while it moves, the page alone draws; the browser is not even connected
    tab.context.set_offline(True)
    tab.evaluate(
        """() => { const slider = document.getElementById("threshold"); slider.value = 3;
                   slider.dispatchEvent(new Event("input")); }"""
    )
    tab.wait_for_function("document.getElementById('threshold-shown').textContent === '0.020'")
    low, regions = expected(0.02)
    assert low.sum() > mask.sum()
    assert shown_figures(tab) == figures_of(low, regions)
    assert np.array_equal(painted(tab, "mask"), low == 1)
    assert tab.locator("#result").get_attribute("data-settled") == ""
    tab.context.set_offline(False)

    # it rests: the server's word, and the files
    tab.locator("#threshold").press("ArrowRight")
    settled(tab)
    chosen, regions = expected(0.025)
    assert shown_figures(tab) == figures_of(chosen, regions)
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Mask, PNG").click()
    assert download.value.suggested_filename == "board.png"
    download.value.save_as(tmp_path / "mask.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "mask.png")), chosen * 255)
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Objects, GeoJSON").click()
    assert download.value.suggested_filename == "board.geojson"
    download.value.save_as(tmp_path / "objects.geojson")
    features = json.loads((tmp_path / "objects.geojson").read_text())["features"]
    wanted = [feature(region, pair="board", class_name="change") for region in regions]
    assert features == json.loads(json.dumps(wanted))

    # an object is framed where it is, and the model's threshold comes back
    tab.locator("#objects button").first.click()
    frame, stage = tab.locator(".sd-frame").bounding_box(), tab.locator(".sd-viewport").bounding_box()
    assert frame["x"] + frame["width"] / 2 == pytest.approx(stage["x"] + stage["width"] / 2, abs=stage["width"] / 2)
    assert tab.locator("#objects button").first.get_attribute("aria-pressed") == "true"
    tab.get_by_role("button", name="the model's").click()
    settled(tab)
    assert np.array_equal(painted(tab, "mask"), mask == 1)


def test_a_bad_file_is_told_and_the_page_goes_on(visit, boards):
    tab = visit(viewport={"width": 390, "height": 844}, color_scheme="dark")
    choose(tab, "before", "notes.png", b"these are no pixels")
    tab.get_by_role("alert").filter(has_text="notes.png: not an image, or damaged").wait_for()
    choose(tab, "before", "huge.png", bytes(400_000))
    tab.get_by_role("alert").filter(has_text="huge.png: has 0.4 MB; this page takes 0.3 MB").wait_for()
    tab.evaluate(
        """async ([one, two]) => {
            const files = new DataTransfer();
            for (const [name, bytes] of [["one.png", one], ["two.png", two]]) {
                files.items.add(new File([new Uint8Array(bytes)], name));
            }
            const options = { dataTransfer: files, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
        [list(png(boards[0])), list(png(boards[1][:-8]))],
    )
    tab.get_by_role("alert").filter(has_text="two.png: is 264 x 192 pixels").wait_for()
    assert tab.locator("#result").is_hidden()
    choose(tab, "after", "two.png", png(boards[1]))
    settled(tab)
    assert tab.locator("#alert").is_hidden()
    assert tab.locator(".drop .what").all_text_contents() == ["one.png, 264 \u00d7 200", "two.png, 264 \u00d7 200"]
    tab.get_by_role("button", name="Swap before and after").click()
    tab.locator("#result:not([inert])").wait_for()
    assert tab.locator(".drop .what").all_text_contents() == ["two.png, 264 \u00d7 200", "one.png, 264 \u00d7 200"]
    assert tab.evaluate("document.documentElement.scrollWidth") == 390, "nothing lies beside the page"


def test_a_visitor_who_leaves_takes_the_images_along(visit, server, boards):
    tab = visit()
    before = set(server.kept())
    choose(tab, "before", "one.png", png(boards[0]))
    choose(tab, "after", "two.png", png(boards[1]))
    settled(tab)
    assert len(set(server.kept()) - before) == 3
    tab.goto("about:blank")
    end = time.monotonic() + 10
    while set(server.kept()) - before and time.monotonic() < end:
        time.sleep(0.05)
    assert set(server.kept()) <= before
