"""The pictures of the report page: small, whole, and every change in them."""

import numpy as np
import pytest
from PIL import Image

from segdiff.visualization.layers import LAYERS, LONGEST, THUMBNAIL, heat_gradient, write_layers
from segdiff.visualization.palettes import CLASS_COLORS, FALSE, IGNORE, MISSED, OUTCOME_COLORS, TRUE, UNCHANGED


def written(folder, name, layer):
    with Image.open(folder / layer / f"{name}{LAYERS[layer]}") as picture:
        picture.load()
        return picture


@pytest.fixture
def pair():
    """40 x 30 pixels, a square of class 1 and one of class 3, whose truth is one pixel further right."""
    rng = np.random.default_rng(0)
    before, after = (np.full((30, 40, 3), value, np.uint8) for value in ((200, 30, 60), (30, 90, 200)))
    mask = np.zeros((30, 40), np.uint8)
    mask[5:11, 6:14], mask[20:26, 20:30] = 1, 3
    probability = rng.integers(0, 256, mask.shape, np.uint8)
    return before, after, mask, probability, np.roll(mask, 1, axis=1)


def test_without_shrinking_the_indices_are_what_was_given(tmp_path, pair):
    before, after, mask, probability, truth = pair
    truth[0, 0] = IGNORE
    write_layers(tmp_path, "größe 1 # % ?", before, after, mask, probability, truth)
    expected = np.full(mask.shape, UNCHANGED, np.uint8)
    expected[(mask != 0) & (truth != 0)] = TRUE
    expected[(mask != 0) & (truth == 0)] = FALSE
    expected[(mask == 0) & (truth != 0)] = MISSED
    expected[0, 0] = IGNORE
    for layer, values in (("mask", mask), ("probability", probability), ("outcome", expected)):
        picture = written(tmp_path, "größe 1 # % ?", layer)
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), values)
    for layer, color in (("before", (200, 30, 60)), ("after", (30, 90, 200))):
        picture = np.array(written(tmp_path, "größe 1 # % ?", layer)).astype(int)
        assert picture.shape == (30, 40, 3)
        assert np.abs(picture - color).max() <= 3
    assert {path.name for path in tmp_path.iterdir()} == set(LAYERS)
    assert not list(tmp_path.rglob(".*"))


def test_colours_are_those_of_the_overlays_and_nothing_hides_what_is_unchanged(tmp_path, pair):
    before, after, mask, probability, truth = pair
    probability[mask == 0] = 0
    write_layers(tmp_path, "a", before, after, mask, probability, truth)
    fill = np.array(written(tmp_path, "a", "mask").convert("RGBA"))
    outcome = np.array(written(tmp_path, "a", "outcome").convert("RGBA"))
    heat = np.array(written(tmp_path, "a", "probability").convert("RGBA"))
    for index in (1, 3):
        assert (fill[mask == index][:, :3] == CLASS_COLORS[index - 1]).all()
    assert (outcome[(mask != 0) & (truth != 0)][:, :3] == OUTCOME_COLORS[TRUE]).all()
    assert (outcome[(mask != 0) & (truth == 0)][:, :3] == OUTCOME_COLORS[FALSE]).all()
    for picture, changed in ((fill, mask != 0), (outcome, (mask != 0) | (truth != 0)), (heat, mask != 0)):
        assert (picture[~changed][:, 3] == 0).all()
    assert (fill[mask != 0][:, 3] > 60).all()


def test_the_contour_lies_around_the_change_in_its_class_and_not_on_it(tmp_path, pair):
    before, after, mask, probability, _ = pair
    write_layers(tmp_path, "a", before, after, mask, probability)
    contour = np.array(written(tmp_path, "a", "contour").convert("RGBA"))
    assert (contour[mask != 0][:, 3] == 0).all()
    for (y, x), index in (((4, 9), 1), ((11, 9), 1), ((19, 25), 3), ((23, 30), 3)):
        assert tuple(contour[y, x]) == (*CLASS_COLORS[index - 1], 255)
    assert (contour[0:2, 36:, 3] == 0).all(), "far from any change"
    assert not (tmp_path / "outcome").exists(), "nothing is known of the truth"


@pytest.mark.parametrize(("height", "width"), [(1500, 3000), (2600, 700)])
def test_large_pairs_are_shrunk_and_keep_a_change_of_one_pixel(tmp_path, height, width):
    image, mask = np.zeros((height, width, 1), np.uint8), np.zeros((height, width), np.uint8)
    mask[1001, 555] = 2
    probability = np.zeros((height, width), np.uint8)
    probability[: height // 2] = 255
    write_layers(tmp_path, "a", image, image, mask, probability, np.zeros_like(mask))
    scale = LONGEST / max(height, width)
    size = (round(width * scale), round(height * scale))
    for layer in ("before", "after", "mask", "contour", "probability", "outcome"):
        assert written(tmp_path, "a", layer).size == size, layer
    assert max(written(tmp_path, "a", "thumbnail").size) == THUMBNAIL
    found = np.argwhere(np.array(written(tmp_path, "a", "mask")) == 2)
    assert len(found) == 1
    assert np.abs(found[0] - [1001 * scale, 555 * scale]).max() <= 1
    assert (np.array(written(tmp_path, "a", "outcome")) == FALSE).sum() == 1
    shrunk = np.array(written(tmp_path, "a", "probability"))
    assert (shrunk[: size[1] // 2 - 2] == 255).all()
    assert (shrunk[size[1] // 2 + 2 :] == 0).all()


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_images_of_any_bands_are_shown_in_colour(tmp_path, bands):
    image = np.random.default_rng(1).integers(0, 256, (20, 24, bands), np.uint8)
    write_layers(tmp_path, "a", image, image, np.zeros((20, 24), np.uint8), np.zeros((20, 24), np.uint8))
    assert written(tmp_path, "a", "before").mode == "RGB"
    assert written(tmp_path, "a", "thumbnail").size == (24, 20)


def test_a_thumbnail_shows_where_the_change_is(tmp_path):
    image, mask = np.full((640, 640, 3), 255, np.uint8), np.zeros((640, 640), np.uint8)
    mask[300, 100] = 1
    write_layers(tmp_path, "a", image, image, mask, np.zeros_like(mask))
    thumbnail = np.array(written(tmp_path, "a", "thumbnail")).astype(int)
    y, x = 300 * THUMBNAIL // 640, 100 * THUMBNAIL // 640
    red, _, blue = thumbnail[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))
    assert red - blue > 60, "orange"
    assert thumbnail[100:, 100:].min() > 240


def test_the_legend_of_the_probability_is_what_the_layer_has(tmp_path):
    image, ramp = np.zeros((1, 256, 3), np.uint8), np.arange(256, dtype=np.uint8)[None]
    write_layers(tmp_path, "a", image, image, np.zeros_like(ramp), ramp)
    colors = np.array(written(tmp_path, "a", "probability").convert("RGBA"))[0]
    stops = heat_gradient().removeprefix("linear-gradient(90deg, rgb(").removesuffix("))").split("), rgb(")
    assert [tuple(map(int, stop.split(", "))) for stop in stops] == [tuple(colors[k, :3]) for k in range(0, 256, 51)]
    assert (np.diff(colors[:, 3].astype(int)) >= 0).all(), "the likelier, the less shines through"


def test_change_everywhere_still_has_a_contour(tmp_path):
    image, mask = np.full((40, 40, 3), 128, np.uint8), np.full((40, 40), 1, np.uint8)
    mask[:, 20:] = 2
    write_layers(tmp_path, "x", image, image, mask, mask)
    (contour,) = (tmp_path / "contour").iterdir()
    drawn = np.array(Image.open(contour))
    assert np.flatnonzero(drawn[20]).tolist() == [0, 1, 19, 20, 38, 39]
    assert drawn[20, 19:21].tolist() == [1, 2]
