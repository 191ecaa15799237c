"""Rasters read row by row against the same read whole."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import MaskFlags
from rasterio.transform import from_origin

from data_pipelines.layouts import DataError, Pair, match_pairs
from segdiff.inference.folder import Job, PredictionFolder
from segdiff.inference.objects import find_objects
from segdiff.inference.postprocessing import postprocess_mask
from segdiff.inference.predictor import (
    Detector,
    FailedPair,
    PredictedPair,
    PredictedRaster,
    predict_pairs,
    stream_pairs,
)
from segdiff.inference.raster_pairs import RasterPair
from segdiff.inference.runtimes import Network
from segdiff.inference.tiling import plan_tiles, read_tile
from segdiff.model_files import PostProcessing, Settings
from segdiff.visualization.overlays import overlay
from segdiff.visualization.pictures import write_image

ROOT = Path(__file__).resolve().parents[2]
GRID = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 0.5, 0.5)}


def detector(stride: int = 4, classes: int = 1, **changes) -> Detector:
    """Without a network: the probability is how much the mean of the bands differs, so that it sees nothing around."""

    def run(batches) -> Iterator[np.ndarray]:
        for before, after in batches:
            change = np.abs(before.astype(np.float32) - after).mean(axis=-1, keepdims=True) / 255
            if classes == 1:
                yield change
            else:
                yield np.concatenate([1 - change, change * 0.25, change * 0.75], axis=-1)

    names = ("background", "change") if classes == 1 else ("none", "a", "b")
    chosen = Settings(names, **{"threshold": 0.3, "tile": 32, "overlap": 8, "stride": stride, **changes})
    return Detector(Network(run, chosen, (3, 3), Path(__file__), "a test's"))


def write(path: Path, image: np.ndarray, **profile) -> Path:
    height, width, bands = image.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=image.dtype, **{**GRID, **profile}
    ) as target:
        target.write(np.moveaxis(image, 2, 0))
    return path


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def pair_of(folder: Path, before: np.ndarray, after: np.ndarray, name: str = "here", **profile) -> Pair:
    for part, image in (("A", before), ("B", after)):
        (folder / part).mkdir(exist_ok=True)
        write(folder / part / f"{name}.tif", image, **profile)
    return Pair(name, folder / "A" / f"{name}.tif", folder / "B" / f"{name}.tif", None, None)


@settings(max_examples=40)
@given(st.integers(1, 90), st.integers(1, 50), st.sampled_from([(16, 0), (16, 8), (32, 24), (48, 16)]), st.booleans())
def test_the_tiles_are_those_of_the_images_in_memory(tmp_path_factory, height, width, tiles, tiled):
    folder = tmp_path_factory.mktemp("rasters")
    images = blobs(height, width, 1), blobs(height, width, 2)
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    paths = [write(folder / f"{k}.tif", image, **layout) for k, image in enumerate(images)]
    plan = plan_tiles(height, width, tile=tiles[0], overlap=tiles[1], stride=8)
    pair = RasterPair(*paths, (3, 3))
    try:
        found = list(pair.tiles(plan))
        assert len(found) == plan.count
        size = (plan.tile_height, plan.tile_width)
        for (*_, y, x), tile in zip(plan.windows(), found, strict=True):
            for image, part in zip(images, tile, strict=True):
                np.testing.assert_array_equal(part, read_tile(image, y, x, *size))
        assert pair.valid_rows(0, height).all()
        for image, preview in zip(images, pair.previews(), strict=True):
            np.testing.assert_array_equal(preview, image)
    finally:
        pair.close()


def predict_into(out: Path, one: Detector, pairs: list[Pair], **options) -> dict[str, dict]:
    folder = PredictionFolder(
        out,
        Job(one.path, options, {}),
        classes=one.settings.classes,
        draw=overlay,
        write_image=write_image,
        probabilities=True,
    )
    rows = {}
    with folder:
        for result in stream_pairs(one, pairs, **options):
            if isinstance(result, PredictedRaster):
                try:
                    rows[result.pair.name] = folder.add_raster(result, lambda done, of: None)
                except DataError as error:
                    folder.fail(result.pair.name, str(error))
                    rows[result.pair.name] = {"error": str(error)}
            elif isinstance(result, PredictedPair):
                rows[result.pair.name] = folder.add(result.pair, result.images, result.prediction, result.seconds)
            else:
                rows[result.pair.name] = {"error": result.error}
    return rows


EVERYTHING = PostProcessing(closing=1, fill_holes=64, vote=True, minimum_area=80)


@pytest.mark.parametrize(("classes", "steps"), [(1, PostProcessing()), (1, EVERYTHING), (3, EVERYTHING)])
def test_a_streamed_raster_leaves_what_one_in_memory_does(tmp_path, classes, steps):
    before, after = np.maximum(blobs(90, 71, 3), 1), np.maximum(blobs(90, 71, 4), 1)
    before[20:50, :30] = 0
    after[:10, 60:] = 0
    pair = pair_of(tmp_path, before, after, nodata=0)
    one = detector(classes=classes, threshold=0.45, post_processing=steps)
    row = predict_into(tmp_path / "out", one, [pair])["here"]
    (whole,) = predict_pairs(one, [pair])
    assert isinstance(whole, PredictedPair)
    expected = whole.prediction
    plain = detector(classes=classes, threshold=0.45).predict(pair.before, pair.after)
    processed = postprocess_mask(plain.mask, steps, classes=max(classes, 2), valid=plain.valid)
    np.testing.assert_array_equal(expected.mask, processed)
    assert np.array_equal(processed, plain.mask) == (steps == PostProcessing())
    with rasterio.open(tmp_path / "out" / "masks" / "here.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), expected.mask * (255 if classes == 1 else 1))
        assert (mask.crs, mask.transform, mask.nodata) == ("EPSG:32633", GRID["transform"], None)
        assert mask.mask_flag_enums == ([MaskFlags.per_dataset],)
        np.testing.assert_array_equal(mask.dataset_mask() > 0, expected.valid)
    with rasterio.open(tmp_path / "out" / "probabilities" / "here.tif") as probabilities:
        found = np.moveaxis(probabilities.read(), 0, 2)
        np.testing.assert_array_equal(found[..., 0] if classes == 1 else found, expected.probability)
    assert int(row["changed_pixels"]) == np.count_nonzero(expected.mask)
    assert float(row["changed_fraction"]) == pytest.approx(
        expected.mask.astype(bool).sum() / expected.valid.sum(), abs=1e-6
    )
    features = json.loads((tmp_path / "out" / "objects.geojson").read_text())["features"]
    assert len(features) == row["objects"] > 1
    assert sum(item["properties"]["area"] for item in features) == pytest.approx(int(row["changed_pixels"]) / 4)
    assert row["area_unit"] == "m2"
    # what a region says of itself is of the pixels that it has in the end
    regions = find_objects(expected.mask, expected.change_probability)
    told = sorted((item["properties"]["class"], item["properties"]["score"]) for item in features)
    assert np.ravel(told) == pytest.approx(np.ravel(sorted((r.class_index, r.score) for r in regions)), abs=1e-4)
    with Image.open(tmp_path / "out" / "overlays" / "here.jpg") as picture:
        assert picture.size[0] == 4 * 213 + 5 * 4, "before, after, change and probability, three times as large"


def test_a_raster_that_breaks_off_is_one_failed_pair_and_the_next_ones_go_on(tmp_path):
    images = [blobs(200, 64, seed) for seed in (5, 6)]
    pairs = [pair_of(tmp_path, *images, name=name, tiled=False, blockysize=1) for name in ("a", "b", "c")]
    broken = pairs[1].after
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    rows = predict_into(tmp_path / "out", detector(), pairs)
    assert list(rows) == ["a", "b", "c"]
    assert str(broken) in rows["b"]["error"]
    assert rows["a"]["changed_pixels"] == rows["c"]["changed_pixels"] > 0
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.tif", "c.tif"]
    features = json.loads((tmp_path / "out" / "objects.geojson").read_text())["features"]
    assert {item["properties"]["pair"] for item in features} == {"a", "c"}


def test_rasters_and_pictures_may_stand_in_one_folder(tmp_path):
    before, after = blobs(40, 33, 7), blobs(40, 33, 8)
    pair_of(tmp_path, before, after, name="raster")
    for part, image in (("A", before), ("B", after)):
        Image.fromarray(image).save(tmp_path / part / "picture.png")
    results = list(stream_of(tmp_path))
    assert [type(result) for result in results] == [PredictedPair, PredictedRaster]


def stream_of(folder: Path) -> Iterator:
    for result in stream_pairs(detector(), match_pairs(folder / "A", folder / "B").pairs):
        if isinstance(result, PredictedRaster):
            list(result.rows)
        yield result


def test_rows_that_nobody_takes_do_not_shift_the_next_pair(tmp_path):
    first = pair_of(tmp_path, blobs(100, 40, 9), blobs(100, 40, 10), name="first")
    second = pair_of(tmp_path, blobs(100, 40, 11), blobs(100, 40, 12), name="second")
    (_, expected) = predict_pairs(detector(), [first, second])
    results = stream_pairs(detector(), [first, second])
    next(next(results).rows)
    rows = list(next(results).rows)
    np.testing.assert_array_equal(np.concatenate([mask for _, mask, *_ in rows]), expected.prediction.mask)


def test_rasters_that_do_not_fit_each_other_are_failed_pairs(tmp_path):
    image = blobs(40, 30, 13)
    pair = pair_of(tmp_path, image, image)
    write(pair.after, image, transform=from_origin(500010, 5000000, 0.5, 0.5))
    wide = pair_of(tmp_path, image, blobs(40, 31, 14), name="wide", crs=None, transform=None)
    gone = Pair("gone", tmp_path / "A" / "gone.tif", pair.after, None, None)
    results = list(stream_pairs(detector(), [pair, wide, gone]))
    assert all(isinstance(result, FailedPair) for result in results)
    for result, words in zip(results, ("not on the grid of", "31 x 40 pixels", "no such file"), strict=True):
        assert words in result.error


def test_pixels_that_alpha_hides_are_no_data(tmp_path):
    images = [blobs(40, 30, seed) for seed in (15, 16)]
    alpha = np.full((40, 30, 1), 255, np.uint8)
    alpha[:, 20:] = 0
    pair = pair_of(tmp_path, images[0], np.dstack([images[1], alpha]), photometric="RGB")
    with rasterio.open(pair.after, "r+") as raster:
        raster.colorinterp = [*raster.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    write(pair.before, images[0])
    stream = stream_pairs(detector(), [pair])
    result = next(stream)
    rows = list(result.rows)
    valid = np.concatenate([valid for *_, valid in rows])
    assert valid[:, :20].all()
    assert not valid[:, 20:].any()
    mask = np.concatenate([mask for _, mask, *_ in rows])
    assert not mask[:, 20:].any()
    assert mask[:, :20].any()
    in_memory = detector().predict(pair.before, pair.after)
    with rasterio.open(pair.after) as raster:
        opened = detector().predict(pair.before, raster)
    for whole in (in_memory, opened):
        np.testing.assert_array_equal(whole.mask, mask)
        np.testing.assert_array_equal(whole.valid, valid)


def test_infrared_that_is_called_alpha_is_refused_but_soft_edges_are_not(tmp_path):
    images = [blobs(40, 30, seed) for seed in (17, 18)]
    fourth = {"infrared": blobs(40, 30, 19)[..., :1] // 2 + 40, "soft": np.full((40, 30, 1), 255, np.uint8)}
    fourth["soft"][:, 10:12] = 128  # as resampling leaves it
    fourth["soft"][:, :10] = 0
    for name, band in fourth.items():
        pair = pair_of(tmp_path, images[0], np.dstack([images[1], band]), name=name, photometric="RGB", alpha="yes")
        write(pair.before, images[0])
        (result,) = predict_pairs(detector(), [pair])
        streamed = stream_pairs(detector(), [pair])
        stream = next(streamed)
        if name == "soft":
            assert isinstance(result, PredictedPair)
            assert sum(len(mask) for _, mask, *_ in stream.rows) == 40
            continue
        wrong = f"{pair.after}: 4 bands where 3 are wanted, and its alpha is not opaque"
        assert isinstance(result, FailedPair)
        assert result.error.startswith(wrong)
        with pytest.raises(DataError, match=wrong):
            list(stream.rows)


GIVEN_UP = """
import gc, sys
from pathlib import Path
from data_pipelines.layouts import Pair
from segdiff.inference.predictor import stream_pairs
from tests.inference.test_raster_pairs import detector

gc.disable()
before, after = map(Path, sys.argv[1:])
stream = stream_pairs(detector(), [Pair("here", before, after, None, None)])
result = next(stream)
if GARBAGE:
    cycle = [stream]  # as an exception makes one of what its frames hold
    cycle.append(cycle)
    del stream, result, cycle
    gc.collect()
print("went on")
"""


@pytest.mark.parametrize("held", [False, True])
def test_a_stream_that_was_given_up_is_closed_also_as_garbage_or_at_the_end(tmp_path, held):
    image = blobs(40, 30, 20)
    pair = pair_of(tmp_path, image, image)
    code = GIVEN_UP.replace("GARBAGE", str(not held))
    command = [sys.executable, "-c", code, str(pair.before), str(pair.after)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert "Exception ignored" not in done.stderr
