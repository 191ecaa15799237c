"""The report page in a real browser, opened from disk: it does what it says, without an error and without a network."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
import pytest

from segdiff.visualization.report import write_report
from tests.visualization.prediction_folders import SIZE, failed_row, row_of, write_folder

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = "a\"b'<img src=x onerror=alert(1)> & ünï 東 %41 #1 ?q"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, headless=True)
        yield started
        started.close()


Open = Callable[..., "Page"]


class Page:
    """A report in a tab of its own, and what it has asked for."""

    def __init__(self, tab, folder: Path):
        self.tab, self.folder = tab, folder
        self.errors: list[str] = []
        self.asked: list[str] = []
        tab.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("dialog", lambda dialog: self.errors.append(dialog.message))
        tab.on("request", lambda request: self.asked.append(request.url))

    def __getattr__(self, name: str):
        return getattr(self.tab, name)

    @property
    def names(self) -> list[str]:
        """Of the cells that are there, in order."""
        return self.tab.locator(".cell .name").all_text_contents()

    @property
    def shown(self) -> str:
        return self.tab.locator("#shown").text_content()

    def field(self, name: str):
        """Of the filters."""
        return self.tab.locator(f'#filters [name="{name}"]')

    def open_pair(self, name: str) -> None:
        self.tab.locator("#gallery").evaluate("e => e.scrollIntoView()")
        self.tab.locator(".cell a", has=self.tab.get_by_text(name, exact=True)).click()
        self.tab.locator(".sd-viewport:not(.sd-loading)").wait_for()

    @property
    def slider(self):
        return self.tab.get_by_role("slider")

    @property
    def position(self) -> int:
        """Of the slider, in per cent."""
        return int(self.slider.get_attribute("aria-valuenow"))

    @property
    def title(self) -> str:
        return self.tab.locator("#viewer-name").text_content()

    def pressed(self, label: str) -> str:
        return self.tab.get_by_role("button", name=label, exact=True).get_attribute("aria-pressed")


@pytest.fixture
def open_report(browser) -> Iterator[Open]:
    """Opens a folder's report; at the end nothing may have gone wrong and nothing may have left the folder."""
    pages: list[Page] = []

    def open_page(folder: Path, device: dict = DESKTOP, **options) -> Page:
        context = browser.new_context(**device, **options)
        context.set_default_timeout(10_000)
        page = Page(context.new_page(), folder)
        pages.append(page)
        page.tab.goto((folder / "report.html").as_uri())
        return page

    yield open_page
    for page in pages:
        page.context.close()
        assert page.errors == []
        assert page.asked
        for url in page.asked:
            if url.startswith("data:"):
                continue
            parts = urlsplit(url)
            assert parts.scheme == "file", url
            assert Path(unquote(parts.path)).is_relative_to(page.folder), url
            assert Path(unquote(parts.path)).is_file(), url


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Four pairs and a failed one, of two classes."""
    classes = ("none", "house", "road")
    rows = [
        row_of("b", 0.002, classes=json.dumps({"house": 1})),
        row_of(HOSTILE, 0.25, classes=json.dumps({"house": 2, "road": 1})),
        row_of("c", 0.0, classes="{}", objects=0),
        row_of("a", 0.05, classes=json.dumps({"road": 3}), objects=3),
        failed_row("z", "B/z.png: damaged; restore it"),
    ]
    folder = write_folder(tmp_path_factory.mktemp("small") / "out # 1", rows, classes=classes)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    rows = [
        row_of("fair", 0.1, f1=0.6, precision=0.5, recall=0.75),
        row_of("none", 0.0, objects=0),
        row_of("bad", 0.1, f1=0.1, precision=0.1, recall=0.1),
        row_of("good", 0.1, f1=0.9, precision=0.9, recall=0.9),
    ]
    folder = write_folder(tmp_path_factory.mktemp("scored") / "out", rows, truth=True)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """5,000 pairs."""
    fractions = np.random.default_rng(0).uniform(0, 0.3, 5000)
    rows = [row_of(f"pair_{k:04d}", fraction) for k, fraction in enumerate(fractions)]
    folder = write_folder(tmp_path_factory.mktemp("large") / "out", rows)
    write_report(folder)
    return folder


# ---------------------------------------------------------------------------------------------------- the gallery


def test_filters_filter(open_report, small):
    page = open_report(small)
    assert page.names == [HOSTILE, "a", "b", "c", "z"]
    assert page.shown == "5 pairs"
    page.field("name").fill("Ünï")
    assert (page.names, page.shown) == ([HOSTILE], "1 of 5 pairs")
    page.get_by_role("button", name="Clear").click()
    page.locator("#shown", has_text=re.compile(r"^5 pairs$")).wait_for()
    assert page.names == [HOSTILE, "a", "b", "c", "z"]
    page.field("from").fill("0.2")
    page.field("to").fill("5")
    assert page.names == ["a", "b"]
    page.field("from").fill("")
    page.field("to").fill("")
    page.field("class").select_option("road")
    assert page.names == [HOSTILE, "a"]
    page.field("class").select_option("all")
    page.field("status").select_option("failed")
    assert page.names == ["z"]
    assert "damaged; restore it" in page.locator(".cell").text_content()


def test_a_bar_of_the_histogram_shows_its_pairs(open_report, small):
    page = open_report(small)
    bar = page.get_by_role("button", name="more than 3 % to 10 % changed: 1 pair;")
    bar.click()
    assert (page.names, bar.get_attribute("aria-pressed")) == (["a"], "true")
    bar.click()
    assert (len(page.names), bar.get_attribute("aria-pressed")) == (5, "false")
    page.get_by_role("button", name="no change: 1 pair;").click()
    assert page.names == ["c"]
    assert page.get_by_role("button", name="more than 30 % to 100 % changed").is_disabled()


def test_one_pair_is_one_pair(open_report, tmp_path):
    folder = write_folder(tmp_path / "out", [row_of("a", 0.05)])
    write_report(folder)
    assert open_report(folder).shown == "1 pair"


def test_sorting_sorts(open_report, small, scored):
    page = open_report(small)
    orders = {
        "least changed first": ["c", "b", "a", HOSTILE, "z"],
        "name": ["a", HOSTILE, "b", "c", "z"],
        "most objects first": ["a", HOSTILE, "b", "c", "z"],
        "most changed first": [HOSTILE, "a", "b", "c", "z"],
    }
    for order, names in orders.items():
        page.field("sort").select_option(order)
        assert page.names == names, order
    page = open_report(scored)
    assert page.field("sort").locator("option:checked").text_content() == "F1, worst first"
    assert page.names == ["bad", "fair", "good", "none"]
    assert page.locator(".figures-line b").all_text_contents() == ["F1 0.100", "F1 0.600", "F1 0.900", "no change"]
    page.field("sort").select_option("F1, best first")
    assert page.names == ["good", "fair", "bad", "none"]


def test_five_thousand_pairs_cost_no_more_than_what_is_in_sight(open_report, large):
    page = open_report(large)
    assert page.shown == "5,000 pairs"

    def loaded() -> int:
        return len([url for url in page.asked if "/thumbnail/" in url])

    page.wait_for_function("[...document.querySelectorAll('.cell img')].every(image => image.complete)")
    assert 6 <= page.locator(".cell").count() <= 60
    assert 6 <= loaded() <= 60
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    least = json.loads((large / "report" / "data.js").read_text().split(" = ", 1)[1].rstrip(";\n"))["pairs"][-1]["name"]
    page.get_by_text(least, exact=True).wait_for()
    assert page.locator(".cell").count() <= 60
    assert loaded() <= 150
    page.field("name").fill("pair_4321")
    assert page.names == ["pair_4321"]
    assert page.get_by_role("listitem").filter(has_text="pair_4321").get_attribute("aria-setsize") == "1"


def test_the_keys_go_through_the_gallery_and_it_scrolls_along(open_report, large):
    page = open_report(large)
    page.field("sort").select_option("name")
    page.locator(".cell a").first.focus()
    focused = "document.activeElement.dataset.index"
    columns = len({round(box["x"]) for box in (cell.bounding_box() for cell in page.locator(".cell").all())})
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "1"
    for _ in range(30):
        page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == str(1 + 30 * columns)
    box = page.locator(".cell a:focus").bounding_box()
    assert 0 <= box["y"] <= box["y"] + box["height"] <= 900
    page.keyboard.press("Enter")
    page.locator(".sd-viewport:not(.sd-loading)").wait_for()
    assert page.title == f"pair_{1 + 30 * columns:04d}"


# ----------------------------------------------------------------------------------------------------- the viewer


def clip(page) -> float:
    """How many pixels of the viewport are cut off the image before, from the right."""
    inset = page.locator(".sd-clipped").evaluate("e => e.style.clipPath").removeprefix("inset(").removesuffix(")")
    return float(inset.split()[1].removesuffix("px")) if " " in inset else 0.0


def test_the_slider_moves_by_mouse_and_keys(open_report, small):
    page = open_report(small)
    page.open_pair("a")
    assert page.position == 50
    box = page.locator(".sd-viewport").bounding_box()
    assert clip(page) == pytest.approx(box["width"] / 2, abs=1)
    side = SIZE * 4  # small pictures are enlarged fourfold, in the middle
    left = box["x"] + (box["width"] - side) / 2
    handle = page.slider.bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(left + 0.8 * side, handle["y"] + 10, steps=4)
    page.mouse.up()
    assert page.position == 80
    assert clip(page) == pytest.approx((box["width"] - side) / 2 + 0.2 * side, abs=2)
    page.mouse.click(left + 0.25 * side, box["y"] + 100)
    assert page.position == 25
    for key, position in {"ArrowRight": 27, "ArrowLeft": 25, "Shift+ArrowRight": 35, "End": 100, "Home": 0}.items():
        page.keyboard.press(key)
        assert page.position == position, key
    page.keyboard.press("ArrowLeft")
    assert page.position == 0, "no further than the edge"
    assert page.slider.get_attribute("aria-valuetext") == "0 % before, 100 % after"


def test_what_is_left_of_the_slider_is_before_and_what_is_right_of_it_after(open_report, small, tmp_path):
    page = open_report(small)
    page.open_pair("a")
    for name in ("Contour",):
        page.get_by_role("button", name=name, exact=True).click()
    shot = cv2.imdecode(np.frombuffer(page.locator(".sd-viewport").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    middle, row = shot.shape[1] // 2, shot.shape[0] // 2 + 60
    assert np.abs(shot[row, middle - 60].astype(int) - 40).max() <= 3
    assert np.abs(shot[row, middle + 60].astype(int) - 200).max() <= 3


def test_layers_are_switched_by_buttons_and_keys(open_report, small):
    page = open_report(small)
    page.open_pair("a")
    visible = ".sd-layers img:not([hidden])"
    assert [page.pressed(name) for name in ("Contour", "Mask", "Probability")] == ["true", "false", "false"]
    page.keyboard.press("m")
    page.get_by_role("button", name="Probability", exact=True).click()
    page.keyboard.press("c")
    assert [page.pressed(name) for name in ("Contour", "Mask", "Probability")] == ["false", "true", "true"]
    layers = page.locator(visible)
    assert [layer.get_attribute("data-layer") for layer in layers.all()] == ["mask", "probability"]
    page.wait_for_function(f"[...document.querySelectorAll('{visible}')].every(image => image.naturalWidth === {SIZE})")
    assert page.locator(".sd-legend li").all_text_contents() == ["house", "road", "probability 0 to 1"]
    page.keyboard.press("ArrowDown")
    page.locator(".sd-viewport:not(.sd-loading)").wait_for()
    assert [page.pressed(name) for name in ("Contour", "Mask", "Probability")] == ["false", "true", "true"], "kept"


def test_the_truth_is_shown_first_where_it_is_known(open_report, scored):
    page = open_report(scored)
    page.open_pair("bad")
    assert [page.pressed(name) for name in ("Truth", "Contour", "Mask")] == ["true", "false", "false"]
    assert page.locator(".sd-legend li").all_text_contents() == ["true change", "false alarm", "missed change"]
    assert "F1 0.100" in page.locator("#viewer-figures").text_content()
    page.keyboard.press("t")
    assert page.pressed("Truth") == "false"
    assert page.locator(".sd-legend li").count() == 0


def test_the_keys_go_from_pair_to_pair_and_out_again(open_report, small):
    page = open_report(small)
    page.open_pair(HOSTILE)
    assert page.title == HOSTILE
    assert page.get_by_role("button", name="Previous pair").is_disabled()
    for key, title in (("ArrowUp", HOSTILE), ("ArrowDown", "a"), ("ArrowDown", "b"), ("ArrowUp", "a")):
        page.keyboard.press(key)
        page.get_by_role("heading", name=title, exact=True).wait_for()
    page.get_by_role("button", name="Next pair").click()
    page.get_by_role("heading", name="b", exact=True).wait_for()
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == "b", "where one has been"
    page.go_back()
    page.go_forward()
    assert not page.locator("#viewer").is_visible()


def test_a_failed_pair_opens_with_its_error_and_the_keys_go_on(open_report, small):
    page = open_report(small)
    page.locator(".cell a.is-failed").click()
    page.locator(".plain p").wait_for()
    assert page.locator(".plain").text_content() == "B/z.png: damaged; restore it"
    page.keyboard.press("ArrowUp")
    page.locator(".sd-viewport:not(.sd-loading)").wait_for()
    assert page.title == "c"


def test_space_blinks_and_stops(open_report, small):
    page = open_report(small)
    page.open_pair("a")
    viewport = page.locator(".sd-viewport")
    page.clock.install(time=datetime(2026, 1, 1, tzinfo=UTC))
    page.clock.pause_at(datetime(2026, 1, 1, 1, tzinfo=UTC))  # installed alone, it goes on by itself
    page.keyboard.press(" ")
    width = viewport.bounding_box()["width"]
    for side, cut in (("before", 0), ("after", width), ("before", 0)):
        assert viewport.get_attribute("data-alone") == side
        assert clip(page) == cut
        page.clock.run_for(700)
    page.keyboard.press(" ")
    assert viewport.get_attribute("data-alone") == ""
    assert page.pressed("Blink") == "false"


def test_where_motion_is_unwanted_space_turns_over_once(open_report, small):
    page = open_report(small, reduced_motion="reduce")
    page.open_pair("a")
    page.clock.install()
    sides = []
    for _ in range(3):
        page.keyboard.press(" ")
        page.clock.run_for(5000)
        sides.append(page.locator(".sd-viewport").get_attribute("data-alone"))
    assert sides == ["before", "after", "before"]
    page.keyboard.press("ArrowLeft")
    assert (page.locator(".sd-viewport").get_attribute("data-alone"), page.position) == ("", 48)


def scene(page) -> tuple[float, float, float]:
    """x, y and scale of the images in the viewport."""
    return tuple(
        page.locator(".sd-layers").evaluate(
            "e => { const m = new DOMMatrix(e.style.transform); return [m.e, m.f, m.a]; }"
        )
    )


def test_zoom_keeps_the_place_under_the_pointer_and_a_drag_pans(open_report, small):
    page = open_report(small, {"viewport": {"width": 400, "height": 540}})
    page.open_pair("a")
    box = page.locator(".sd-viewport").bounding_box()
    x, y, scale = scene(page)
    assert scale == 4
    at = (x + 100, y + 150)  # in the viewport
    spot = ((at[0] - x) / scale, (at[1] - y) / scale)  # in the images
    page.mouse.move(box["x"] + at[0], box["y"] + at[1])
    for _ in range(4):
        page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('.sd-zoomed')")
    x, y, zoomed = scene(page)
    assert zoomed > 8
    assert ((at[0] - x) / zoomed, (at[1] - y) / zoomed) == pytest.approx(spot, abs=0.2)
    position = page.position
    page.mouse.down()
    page.mouse.move(box["x"] + at[0] - 30, box["y"] + at[1] + 20, steps=3)
    page.mouse.up()
    assert scene(page) == pytest.approx((x - 30, y + 20, zoomed), abs=1)
    assert page.position == position, "a drag pans, the slider stays"
    page.keyboard.press("0")
    assert scene(page)[2] == 4
    page.keyboard.press("+")
    assert scene(page)[2] == 6
    page.get_by_role("button", name="Zoom out").click()
    assert scene(page)[2] == 4


# ------------------------------------------------------------------------------------------- devices and people


def touch(session, kind: str, *points: tuple[float, float]) -> None:
    touches = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})


def test_on_a_phone_a_finger_slides_and_two_zoom(open_report, small):
    page = open_report(small, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 390, "nothing lies beside the page"
    page.open_pair("a")
    assert page.evaluate("document.querySelector('#viewer').scrollWidth") == 390
    box = page.locator(".sd-viewport").bounding_box()
    x, _, scale = scene(page)
    middle = box["y"] + box["height"] / 2
    fingers = page.context.new_cdp_session(page.tab)
    touch(fingers, "touchStart", (box["x"] + x + 0.5 * SIZE * scale, middle))
    touch(fingers, "touchMove", (box["x"] + x + 0.7 * SIZE * scale, middle))
    touch(fingers, "touchEnd")
    assert page.position == 70
    touch(fingers, "touchStart", (150, middle), (240, middle))
    touch(fingers, "touchMove", (100, middle), (290, middle))
    touch(fingers, "touchEnd")
    assert scene(page)[2] == pytest.approx(scale * 190 / 90, rel=0.1)
    assert page.position == 70
    for button in page.locator("#viewer button:visible").all():
        assert button.bounding_box()["height"] >= 38, "large enough for a finger"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(open_report, small, scheme):
    page = open_report(small, color_scheme=scheme)
    page.open_pair("a")
    ratios = page.evaluate("""() => {
        const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
        const ground = (e) => { // the nearest that is not transparent
            const color = numbers(getComputedStyle(e).backgroundColor);
            return color.length === 4 && color[3] === 0 ? ground(e.parentElement) : color;
        };
        const checked = "h1, .origin, dt, dd, small, figcaption, .tick, label span, legend, #shown, .legend li, .name,"
            + ".figures-line *, .error, .failures summary, .page-foot p, #viewer h2, #viewer p, .sd-bar *";
        return [...document.querySelectorAll(checked)].filter((e) => e.checkVisibility()).map((e) => {
            const [one, other] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
            return [(one + 0.05) / (other + 0.05), e.className || e.tagName];
        });
    }""")
    assert len(ratios) > 40
    assert min(ratios)[0] >= 4.5, min(ratios)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 23)"
    assert dark == (scheme == "dark")


def test_everything_has_a_name_and_the_tab_key_comes_by(open_report, small):
    page = open_report(small)
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, select, a, [role=slider]")]
        .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.closest("label"))).map((e) => e.outerHTML)""")
    assert nameless == []
    page.open_pair("a")
    reached = []
    for _ in range(12):
        reached.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
        page.keyboard.press("Tab")
    for name in (
        "Boundary between before and after",
        "Contour",
        "Mask",
        "Probability",
        "Blink",
        "Zoom in",
        "Fit",
        "Close",
    ):
        assert name in reached, (name, reached)
    page.get_by_role("button", name="Mask", exact=True).focus()
    page.keyboard.press(" ")
    assert (page.pressed("Mask"), page.pressed("Blink")) == ("true", "false"), "space presses the button in focus"


def test_a_folder_without_pictures_shows_its_overlays(open_report, tmp_path, small):
    folder = write_folder(tmp_path / "old", [row_of("a", 0.1)], layers=[])
    (folder / "overlays").mkdir()
    shutil.copy(next((small / "report" / "after").iterdir()), folder / "overlays" / "a.jpg")
    write_report(folder)
    page = open_report(folder)
    page.locator(".cell a").click()
    page.wait_for_function("document.querySelector('.plain img')?.naturalWidth > 0")
    assert not page.locator(".sd-viewport").is_visible()


def test_an_address_opens_its_pair(open_report, small):
    page = open_report(small)
    page.open_pair(HOSTILE)
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.locator(".sd-viewport:not(.sd-loading)").wait_for()
    assert page.title == HOSTILE
