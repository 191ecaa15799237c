"""Rows brought to another size against OpenCV's whole image, and predictions at the ground resolution of the model."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import Affine, from_origin

from data_pipelines.decoding import Grid
from data_pipelines.layouts import DataError, Pair
from segdiff import cli, resampling
from segdiff.ground_resolution import ground_resolution, own_resolution, resolution_line, target_resolution
from segdiff.inference import folder_run, predictor
from segdiff.inference.folder import Job, PredictionFolder
from segdiff.inference.predictor import (
    Detector,
    FailedPair,
    PredictedPair,
    PredictedRaster,
    predict_pairs,
    stream_pairs,
)
from segdiff.inference.runtimes import Network
from segdiff.model_files import ModelError, Settings
from segdiff.resampling import RowResampler, resample, resample_rows
from segdiff.visualization.overlays import overlay
from segdiff.visualization.pictures import write_image

# ------------------------------------------------------------------------------------------------------- the rows


def by_opencv(image: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """The whole image, in float32, an axis after the other: OpenCV takes no mean where one of them grows."""
    image = image.astype(np.float32)
    for axis in (0, 1):
        size = [image.shape[1], image.shape[0]]
        method = cv2.INTER_AREA if to[axis] < image.shape[axis] else cv2.INTER_LINEAR
        size[1 - axis] = to[axis]
        bands = [cv2.resize(image[..., band].copy(), size, interpolation=method) for band in range(image.shape[2])]
        image = np.stack([band.reshape(size[::-1]) for band in bands], axis=-1)
    return image


@settings(max_examples=200)
@given(st.data(), st.tuples(*[st.integers(1, 70)] * 4), st.sampled_from([1, 3, 6]), st.booleans())
def test_slabs_of_any_heights_give_what_opencv_makes_of_the_whole(data, sizes, bands, counted):
    height, width, *to = sizes
    random = np.random.default_rng(sizes)
    image = random.integers(0, 256, (height, width, bands), np.uint8)
    image = image if counted else image.astype(np.float32) / 255
    cuts = sorted(data.draw(st.lists(st.integers(0, height), max_size=6)))
    slabs = np.split(image, cuts)
    resampler = RowResampler((height, width), (to[0], to[1]))
    made, seen, total = [], 0, 0
    for slab in slabs:
        made.append(resampler.add(slab))
        seen, total = seen + len(slab), total + len(made[-1])
        # nothing waits that could be done: the row `total` needs one that has not come
        if total < to[0]:
            last = (total + 1) * height / to[0] if to[0] <= height else (total + 0.5) * height / to[0] + 0.5
            assert math.ceil(last - 1e-9) > seen
    found = np.concatenate(made)
    assert found.dtype == image.dtype
    expected = by_opencv(image, (to[0], to[1]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.51 if counted else 3e-5)
    # OpenCV counts places in float32 and not in the same order in every row: the slabs may be seen in the last bits
    whole_at_once = resample(image, (to[0], to[1])).astype(float)
    np.testing.assert_allclose(found.astype(float), whole_at_once, rtol=0, atol=1 if counted else 3e-5)
    if to[0] < height and to[1] < width:
        method = cv2.INTER_AREA
    elif to[0] > height and to[1] > width:
        method = cv2.INTER_LINEAR
    else:
        return
    for band in range(bands):
        whole = cv2.resize(image[..., band].copy(), (to[1], to[0]), interpolation=method).reshape(to)
        np.testing.assert_allclose(found[..., band].astype(float), whole, rtol=0, atol=1 if counted else 3e-5)


def test_a_pixel_is_the_mean_of_what_it_covers_and_linear_between_centres():
    column = np.array([0, 90, 30], np.uint8).reshape(3, 1, 1)
    assert resample(column, (2, 1)).ravel().tolist() == [30, 50]  # (0 + 45) / 1.5 and (45 + 30) / 1.5
    assert resample(column, (1, 1)).ravel().tolist() == [40]
    pair = np.array([0, 100], np.float32).reshape(1, 2, 1)
    assert resample(pair, (1, 4)).ravel().tolist() == [0, 25, 75, 100]
    assert resample(pair, (2, 4))[1].ravel().tolist() == [0, 25, 75, 100]


def test_a_wide_image_is_worked_on_a_few_rows_at_a_time():
    size, to = (600, 4000), (1800, 12000)
    slabs = list(resample_rows([np.zeros((*size, 1), np.uint8)], size, to))
    assert sum(map(len, slabs)) == to[0]
    assert max(map(len, slabs)) * to[1] < 2**21


# ---------------------------------------------------------------------------------------------- metres per pixel

LOCAL = 'LOCAL_CS["a site",UNIT["metre",1]]'


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        # on a meridian beside the central one a metre of UTM is 0.9996 m
        ("EPSG:32614", from_origin(500000, 3350000, 0.25, 0.25), (0.2501, 0.2501)),
        ("EPSG:32614", from_origin(500000, 3350000, 0.25, 0.5), (0.2501, 0.5002)),
        (
            "EPSG:32614",
            Affine.translation(500000, 3350000) @ Affine.rotation(30) @ Affine.scale(0.25),
            (0.2501, 0.2501),
        ),
        # the equator's 40,075,017 m in 360 degrees, and at 60 degrees half of that and a little more on the ellipsoid
        ("EPSG:4326", from_origin(10, 0.0005, 1e-5, 1e-5), (1.1132, 1.1057)),
        ("EPSG:4326", from_origin(10, 60.0005, 1e-5, 1e-5), (0.5580, 1.1141)),
        ("EPSG:3857", from_origin(1113194.9, 8399737.9, 1, 1), (0.5013, 0.5004)),  # 10 degrees east, 60 north
        ("EPSG:2263", from_origin(985000, 200000, 1, 1), (0.3048, 0.3048)),  # feet, around New York
        ("EPSG:3413", from_origin(-50, 50, 1, 1), (1.0309, 1.0309)),  # the north pole itself; its scale is 0.97 there
        ("EPSG:32601", from_origin(214000, 2000, 10, 10), (10.0, 10.0)),  # over the antimeridian
        ("", from_origin(0, 100, 1, 1), None),
        (LOCAL, from_origin(0, 100, 1, 1), None),
        ("EPSG:32614", from_origin(9e9, 9e9, 1, 1), None),  # nowhere on the earth
    ],
)
def test_what_a_raster_says_of_its_pixels(crs, transform, expected):
    found = ground_resolution(Grid(crs, tuple(transform)[:6], 100, 100))
    assert found == (None if expected is None else pytest.approx(expected, rel=2e-3))


def test_a_plain_image_says_nothing_but_what_is_said_of_it():
    raster = Grid("EPSG:32614", tuple(from_origin(500000, 3350000, 0.25, 0.25))[:6], 100, 100)
    assert own_resolution(None, None) is None
    assert own_resolution(None, 0.2) == (0.2, 0.2)
    assert own_resolution(raster, 0.31) == own_resolution(raster, None) == pytest.approx((0.25, 0.25), rel=1e-3)
    with pytest.raises(DataError, match=r"its georeference says 0.25 m a pixel, and the resolution given is 0.32"):
        own_resolution(raster, 0.32)


@pytest.mark.parametrize(
    ("own", "trained", "target"),
    [
        (None, (0.5, 0.5), None),
        ((0.2, 0.2), None, None),
        ((0.41, 0.41), (0.5, 0.5), None),
        ((0.39, 0.39), (0.5, 0.5), 0.5),
        ((0.62, 0.62), (0.5, 0.5), None),
        ((0.63, 0.63), (0.5, 0.5), 0.5),
        ((0.2, 0.2), (0.5, 1.0), 0.5),
        ((0.7, 0.7), (0.5, 1.0), None),  # between what it was trained at
        ((3.0, 3.0), (0.5, 1.0), 1.0),
        ((0.33, 0.5), (0.5, 0.5), 0.5),  # narrow pixels: each axis by its own factor
        ((0.5, 1.1), (0.5, 1.0), math.sqrt(0.55)),
    ],
)
def test_to_which_an_image_is_brought(own, trained, target):
    assert target_resolution(own, trained) == (None if target is None else pytest.approx(target))


def test_what_a_person_is_told():
    def line(own, trained):
        return resolution_line(own, trained, target_resolution(own, trained)) or ""

    assert line((0.2, 0.2), (0.5, 0.5)).startswith("resampled from 0.2 to 0.5 m a pixel")
    assert line((0.33, 0.5), (0.5, 1.0)).startswith("resampled from 0.33 x 0.5 to 0.5 m a pixel, as the model works at")
    assert line((0.5, 0.5), (0.5, 0.5)) == ""
    assert line((16.0, 16.0), (0.5, 0.5)).startswith("resampled from 16 to 0.5 m a pixel")
    assert line((40.0, 40.0), (0.5, 0.5)) == ""  # is refused, and told so with the pair
    assert "works at 0.5 to 1 m a pixel and the images do not say theirs" in line(None, (0.5, 1.0))
    assert "images have 0.2 m a pixel and the model does not say" in line((0.2, 0.2), None)
    assert line(None, None).startswith("neither the model (data.ground_resolution) nor the images (--resolution M)")


# ---------------------------------------------------------------------------------------------------- detectors


def detector(
    trained: tuple[float, float] | None = (0.5, 0.5), *, reach: float | None = None, classes: int = 1, **changes
) -> Detector:
    """Without a trained network: the probability is how much two images differ.

    With ``reach`` in changes of about that many pixels alone (a difference of Gaussians), as a network that was trained
    at one ground resolution knows buildings of one size in pixels.
    """

    def run(batches) -> Iterator[np.ndarray]:
        for before, after in batches:
            change = np.abs(before.astype(np.float32).mean(axis=-1) - after.astype(np.float32).mean(axis=-1)) / 255
            if reach is not None:
                of_size = [cv2.GaussianBlur(one, (0, 0), reach) - cv2.GaussianBlur(one, (0, 0), 2 * reach)
                           for one in change]  # fmt: skip
                change = np.clip(0.5 + 10 * (np.stack(of_size) - 0.03), 0, 1)
            change = change[..., None]
            yield change if classes == 1 else np.concatenate([1 - change, change * 0.25, change * 0.75], axis=-1)

    names = ("background", "change") if classes == 1 else ("none", "a", "b")
    values = {"threshold": 0.3, "tile": 32, "overlap": 8, "stride": 4, **changes}
    return Detector(
        Network(run, Settings(names, ground_resolution=trained, **values), (3, 3), Path(__file__), "a test's")
    )


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def write(path: Path, image: np.ndarray, transform: Affine, **profile) -> Path:
    height, width, bands = image.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": "uint8", "crs": "EPSG:32614"}
    with rasterio.open(path, "w", **{**form, "transform": transform, **profile}) as target:
        target.write(np.moveaxis(image, 2, 0))
    return path


def raster_pair(folder: Path, images: tuple[np.ndarray, np.ndarray], pixel: tuple[float, float], **profile) -> Pair:
    transform = from_origin(500000, 3350000, *pixel)
    before, after = (
        write(folder / part / "here.tif", image, transform, **profile) for part, image in zip("AB", images, strict=True)
    )
    return Pair("here", before, after, None, None)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    ("pixel", "working"),
    [((0.2, 0.2), (54, 80)), ((1.3, 1.3), (351, 518)), ((0.2, 0.9), (243, 80)), ((0.5, 0.5), (135, 199))],
)
def test_a_streamed_raster_gives_what_one_in_memory_does_on_its_own_grid(tmp_path, pixel, working, classes):
    images = np.maximum(blobs(135, 199, 1), 1), np.maximum(blobs(135, 199, 2), 1)
    images[0][40:70, :50] = 0
    images[1][:10, 160:] = 0
    pair = raster_pair(tmp_path, images, pixel, nodata=0)
    one = detector(classes=classes)
    (whole,) = predict_pairs(one, [pair])
    assert isinstance(whole, PredictedPair)
    plan = one.plan(whole.images)
    assert (plan.height, plan.width) == working
    (streamed,) = stream_and_take(one, [pair])
    prediction = whole.prediction
    mask, probability, valid, previews = streamed
    np.testing.assert_array_equal(mask, prediction.mask)
    np.testing.assert_array_equal(probability, prediction.probability)
    np.testing.assert_array_equal(valid, prediction.valid)
    assert not mask[~valid].any()
    assert np.count_nonzero(~valid) == 30 * 50 + 10 * 39
    for preview, image in zip(previews, images, strict=True):
        np.testing.assert_array_equal(preview, image)
    # the network sees nothing around a pixel: away from steps the change is what it is without resampling
    plain, _ = predict_pairs(detector(None, classes=classes), [pair, pair])
    assert (plain.prediction.mask == mask).mean() > 0.9


def stream_and_take(one: Detector, pairs: list[Pair], **options) -> list:
    taken = []
    for result in stream_pairs(one, pairs, **options):
        assert isinstance(result, PredictedRaster)
        rows = list(result.rows)
        assert [y for y, *_ in rows] == np.cumsum([0, *(len(mask) for _, mask, *_ in rows)])[:-1].tolist()
        taken.append(
            [*(np.concatenate(parts) for parts in list(zip(*rows, strict=True))[1:]), result.images.previews()]
        )
    return taken


def test_the_rows_that_wait_do_not_grow_with_the_raster(tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "_BATCH_PIXELS", 32 * 32)
    monkeypatch.setattr(resampling, "_PIXELS_AT_ONCE", 60 * 10)
    most = []
    for height in (400, 1600):
        image = blobs(height, 60, height)
        pair = raster_pair(tmp_path / str(height), (image, image), (0.1, 0.1))
        waiting = 0
        for result in stream_pairs(detector(), [pair]):
            assert isinstance(result, PredictedRaster)
            for y, mask, *_ in result.rows:
                waiting = max(waiting, result.images._taken - y)
                assert len(mask) <= 5 * 33
        most.append(waiting)
    # fewer rows than four rows of tiles cover: each of 32, each of which is five of the raster
    assert most[1] <= 4 * 32 * 5


def test_a_raster_that_contradicts_the_resolution_given_is_one_failed_pair(tmp_path):
    images = blobs(40, 40, 3), blobs(40, 40, 4)
    pair = raster_pair(tmp_path, images, (0.25, 0.25))
    for path, image in zip((tmp_path / "A/plain.png", tmp_path / "B/plain.png"), images, strict=True):
        Image.fromarray(image).save(path)
    plain = Pair("plain", tmp_path / "A/plain.png", tmp_path / "B/plain.png", None, None)
    for function in (predict_pairs, stream_pairs):
        failed, done = function(detector(), [pair, plain], resolution=0.5)
        assert isinstance(failed, FailedPair)
        assert failed.error.startswith(f"{pair.after}: its georeference says 0.25 m a pixel")
        assert isinstance(done, PredictedPair)
    with pytest.raises(DataError, match=r"its georeference says 0\.25"):
        detector().predict(pair.before, pair.after, resolution=0.5)
    with pytest.raises(ValueError, match="resolution is 0, it must be above 0"):
        detector().predict(*images, resolution=0)


def test_pairs_that_would_be_enlarged_beyond_sense_shrunk_to_nothing_or_are_larger_than_any_are_failed_pairs(tmp_path):
    images = blobs(40, 40, 3), blobs(40, 40, 4)
    pair = raster_pair(tmp_path, images, (0.5, 0.5))
    coarse = raster_pair(tmp_path / "coarse", images, (40.0, 40.0))
    fine = raster_pair(tmp_path / "fine", images, (0.01, 0.01))
    long = raster_pair(tmp_path / "long", images, (0.5, 0.5))
    for path in (long.before, long.after):  # of which no pixel is stored
        profile = {"count": 3, "dtype": "uint8", "compress": "deflate", "SPARSE_OK": True}
        with rasterio.open(path, "w", "GTiff", 16, 2**21 + 1, **profile) as file:
            file.crs, file.transform = "EPSG:32633", from_origin(500000, 3350000, 0.5, 0.5)
    for function in (predict_pairs, stream_pairs):
        too_coarse, too_fine, too_long, done = function(detector(), [coarse, fine, long, pair])
        assert isinstance(too_fine, FailedPair)
        assert "40 x 40 pixels of 0.01 m would be 1 x 1 for a model of 0.5 m, where nothing can be" in too_fine.error
        assert isinstance(too_coarse, FailedPair)
        assert "40 m a pixel would be enlarged 80 times for a model of 0.5 m, allowed are 32 times" in too_coarse.error
        assert isinstance(too_long, FailedPair)
        assert "16 x 2097153 pixels (width x height) where 2097152 a side are allowed" in too_long.error
        assert not isinstance(done, FailedPair)


def test_networks_of_other_ground_resolutions_do_not_predict_together():
    def network(trained):
        return Network(lambda batches: batches, Settings(ground_resolution=trained), (3, 3), Path("a.keras"), "")

    Detector(network((0.5, 0.5)), network((0.6, 0.6)), network(None))
    with pytest.raises(ModelError, match=r"works at 1 m a pixel, a\.keras at 0\.5 to 1"):
        Detector(network((0.5, 1.0)), network((1.0, 1.0)))


def test_settings_of_models_that_knew_no_ground_resolution_still_load():
    assert Settings.from_json({"classes": ["none", "new"], "threshold": 0.4}).ground_resolution is None
    stored = json.loads(json.dumps({"classes": ["none", "new"], "ground_resolution": (0.5, 1.0)}))
    assert Settings.from_json(stored).ground_resolution == (0.5, 1.0)


# -------------------------------------------------------------------------------------------------- real tiles


def real_tile(shared: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    folder = shared / "data/levir_cd_native/val"
    before, after = (np.asarray(Image.open(folder / part / f"{name}.jpg"))[:512, :512] for part in "AB")
    return before, after


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of the changes of two masks of one scene, at the size of the first."""
    other = cv2.resize(other, one.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


@pytest.mark.parametrize(("factor", "at_least"), [(2, 0.85), (0.5, 0.7)])
def test_a_real_tile_enlarged_or_shrunk_gives_the_changes_of_the_original(shared, factor, at_least):
    one = detector(reach=4, threshold=0.5, tile=512, overlap=128, stride=16)
    images = real_tile(shared, "val_003")
    method = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    scaled = [cv2.resize(image, None, fx=factor, fy=factor, interpolation=method) for image in images]
    original = one.predict(*images)
    assert 0.05 < original.mask.mean() < 0.3
    right, wrong = one.predict(*scaled, resolution=0.5 / factor), one.predict(*scaled)
    assert right.mask.shape == right.probability.shape == scaled[0].shape[:2]
    assert agreement(original.mask, right.mask) > at_least
    assert agreement(original.mask, wrong.mask) < 0.5


def test_a_georeferenced_tile_comes_back_on_its_own_grid(shared, tmp_path):
    one = detector(reach=4, threshold=0.5, tile=256, overlap=64, stride=16)
    images = real_tile(shared, "val_003")
    fine = tuple(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for image in images)
    original = one.predict(*images)
    pair = raster_pair(tmp_path, fine, (0.25, 0.25))
    folder = PredictionFolder(
        tmp_path / "out", Job(one.path, {}, {}), classes=one.settings.classes, draw=overlay, write_image=write_image,
        probabilities=True,
    )  # fmt: skip
    with folder:
        for result in stream_pairs(one, [pair]):
            assert isinstance(result, PredictedRaster)
            row = folder.add_raster(result, lambda done, of: None)
    whole = one.predict(pair.before, pair.after)
    for name, expected in (("masks", whole.mask * 255), ("probabilities", whole.probability)):
        with rasterio.open(tmp_path / "out" / name / "here.tif") as written, rasterio.open(pair.after) as given:
            assert (written.crs, written.transform, written.shape) == (given.crs, given.transform, given.shape)
            np.testing.assert_array_equal(written.read(1), expected)
    assert agreement(original.mask, whole.mask) > 0.85
    features = json.loads((tmp_path / "out/objects.geojson").read_text())["features"]
    areas = sum(feature["properties"]["area"] for feature in features)
    assert areas == pytest.approx(int(row["changed_pixels"]) * 0.25**2)
    assert areas == pytest.approx(original.mask.sum() * 0.5**2, rel=0.1)


# --------------------------------------------------------------------------------------------- the command line


def test_the_command_says_once_what_it_does_and_keeps_another_resolution_apart(tmp_path, monkeypatch, capsys):
    for part, seed in (("A", 5), ("B", 6)):
        (tmp_path / part).mkdir()
        for name in ("one", "two"):
            Image.fromarray(blobs(64, 48, seed)).save(tmp_path / part / f"{name}.png")

    def run(trained, *options) -> tuple[int, str, str]:
        monkeypatch.setattr(folder_run, "load", lambda model, **_: detector(trained))
        arguments = ["predict", "model", tmp_path / "A", tmp_path / "B", "--out", tmp_path / "out", *options]
        monkeypatch.setattr("sys.argv", ["segdiff", *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    status, out, err = run((0.5, 0.5))
    assert (status, out.count("--resolution M does it"), err) == (0, 1, "")
    before = (tmp_path / "out/masks/one.png").read_bytes()
    status, _, err = run((0.5, 0.5), "--resolution", "0.2")
    assert (status, "options differ" in err) == (2, True)
    status, out, err = run((0.5, 0.5), "--resolution", "0.2", "--overwrite")
    assert (status, out.count("resampled from 0.2 to 0.5 m a pixel"), err) == (0, 1, "")
    assert (tmp_path / "out/masks/one.png").read_bytes() != before
    assert Image.open(tmp_path / "out/masks/one.png").size == (48, 64)
    assert json.loads((tmp_path / "out/prediction.json").read_text())["options"] | {
        "resolution": 0.2, "ground_resolution": [0.5, 0.5],
    } == json.loads((tmp_path / "out/prediction.json").read_text())["options"]  # fmt: skip
    status, out, err = run((0.5, 0.5), "--resolution", "0.2", "--json")
    assert (status, json.loads(out)["predicted"], "resampled" in err) == (0, 2, False)  # nothing was left to do
    status, out, err = run(None, "--overwrite", "--json")
    assert (json.loads(out)["predicted"], err.count("nothing is resampled")) == (2, 1)
    status, out, _ = run(None, "--overwrite", "--quiet")
    assert "resampled" not in out
    status, _, err = run((0.5, 0.5), "--resolution", "-1", "--overwrite")
    assert (status, "resolution is -1.0, it must be above 0" in err) == (2, True)
