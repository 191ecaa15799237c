"""Prediction of arrays, files and rasters of any size, against the network itself."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

import segdiff
from data_pipelines.layouts import DataError, match_pairs
from segdiff.config import EncoderConfig, ModelConfig
from segdiff.inference.predictor import Detector, FailedPair, PredictedPair, predict_pairs
from segdiff.inference.runtimes import keras_network
from segdiff.model_files import ModelError, PostProcessing
from segdiff.models.architectures import build_change_detector

GRID = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 0.5, 0.5)}


def make_detector(classes: int = 1, **settings) -> Detector:
    """Random weights; a pixel of the output sees 9 pixels around it and no further."""
    keras.utils.set_random_seed(classes)
    config = ModelConfig(encoder=EncoderConfig(channels=(4, 8), norm="none"))
    model = build_change_detector(config, bands=3, classes=classes)
    model.get_layer("logits_conv").set_weights([4 * weight for weight in model.get_layer("logits_conv").get_weights()])
    model.settings = replace(model.settings, **{"tile": 96, "overlap": 48, **settings})
    return Detector(keras_network(model, Path("random.keras"), "float32"))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return make_detector()


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Random blocks of 4 x 4 pixels: local contrast that the network answers to."""
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    return small.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]


def write_tiff(path: Path, image: np.ndarray, **profile) -> Path:
    height, width, bands = image.shape
    profile = {**GRID, **profile}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=image.dtype, **profile
    ) as target:
        target.write(np.moveaxis(image, 2, 0))
    return path


def test_arrays_paths_and_open_rasters_give_the_same(detector, tmp_path):
    before, after = noise(70, 51, 1), noise(70, 51, 2)
    expected = detector.predict(before, after)
    assert expected.name == ""
    assert expected.grid is None
    for name, image in (("t1", before), ("t2", after)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        write_tiff(tmp_path / f"{name}.tif", image)
    results = {
        "Path": detector.predict(tmp_path / "t1.png", tmp_path / "t2.png"),
        "str": detector.predict(str(tmp_path / "t1.png"), str(tmp_path / "t2.png")),
        "TIFF": detector.predict(tmp_path / "t1.tif", tmp_path / "t2.tif"),
        "array and path": detector.predict(before, tmp_path / "t2.tif"),
    }
    with rasterio.open(tmp_path / "t1.tif") as t1, rasterio.open(tmp_path / "t2.tif") as t2:
        results["open"] = detector.predict(t1, t2)
        results["open and path"] = detector.predict(t1, tmp_path / "t2.tif")
        with MemoryFile((tmp_path / "t2.tif").read_bytes()) as memory, memory.open() as inside:
            results["in memory"] = detector.predict(t1, inside)
        with WarpedVRT(t2, crs=GRID["crs"]) as warped:
            results["warped view"] = detector.predict(t1, warped)
    for source, result in results.items():
        np.testing.assert_array_equal(result.mask, expected.mask, err_msg=source)
        np.testing.assert_array_equal(result.probability, expected.probability, err_msg=source)
    assert results["Path"].name == results["open"].name == "t2"
    for source in ("TIFF", "open", "in memory", "warped view"):
        assert results[source].grid.crs == "EPSG:32633"
        assert results[source].grid.transform[:6] == (0.5, 0, 500000, 0, -0.5, 5000000)
        assert results[source].valid is None


def test_a_grey_image_is_brought_to_the_bands_of_the_model(detector, tmp_path):
    grey = noise(40, 40, 3)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    with rasterio.open(tmp_path / "grey.png") as opened:
        results = [detector.predict(noise(40, 40, 4), source) for source in (tmp_path / "grey.png", opened)]
    expected = detector.predict(noise(40, 40, 4), np.dstack([grey] * 3))
    for result in results:
        np.testing.assert_array_equal(result.probability, expected.probability)


@pytest.mark.parametrize("size", [(1, 37), (33, 1), (1, 1), (7, 5), (96, 96), (97, 131), (40, 300)])
def test_any_size(detector, size):
    result = detector.predict(noise(*size, 5), noise(*size, 6))
    assert result.mask.shape == result.probability.shape == size
    assert result.mask.dtype == np.uint8
    assert result.probability.dtype == np.float32
    assert np.isfinite(result.probability).all()
    assert 0 <= result.probability.min() <= result.probability.max() <= 1


def test_tiles_show_no_seam(detector):
    before, after = noise(300, 250, 7), noise(300, 250, 8)
    whole = detector.predict(before, after, tile=512, overlap=48).probability
    tiled = detector.predict(before, after).probability
    assert whole.std() > 0.05, "a flat answer would hide seams"
    inner = (slice(12, -12), slice(12, -12))
    assert np.abs(tiled - whole)[inner].max() < 1e-3
    without_overlap = detector.predict(before, after, overlap=0).probability
    assert np.abs(without_overlap - whole)[inner].max() > 1e-2, "the tiles' edges are not felt: the test says nothing"


@pytest.mark.parametrize("overlap", [48, 96])
def test_tiles_equal_the_whole_image_where_the_receptive_field_fits_the_overlap(overlap):
    # two convolutions a level: 2 + 4 + 8 + 4 + 2 pixels, and what resizing adds, at three levels
    keras.utils.set_random_seed(1)
    network = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(8, 16, 32))), bands=3, classes=1)
    for weight in network.weights:
        if "kernel" in weight.path:
            weight.assign(weight * 1.5)  # so that what is far away counts
    network.settings = replace(network.settings, tile=128, overlap=overlap)
    own = Detector(keras_network(network, Path("model.keras"), "float32"))
    assert 20 <= own.settings.reach <= 24
    before, after = noise(300, 260, 7), noise(300, 260, 8)
    whole = own.predict(before, after, tile=384, overlap=0).probability
    assert whole.std() > 0.05, "a flat answer would hide seams"
    inner = (slice(24, -24), slice(24, -24))
    assert np.abs(own.predict(before, after).probability - whole)[inner].max() < 1e-5
    too_little = own.predict(before, after, overlap=24).probability
    assert np.abs(too_little - whole)[inner].max() > 1e-3, "the tiles' edges are not felt: the test says nothing"


def test_the_mask_is_where_the_probability_reaches_the_threshold(detector):
    before, after = noise(64, 64, 9), noise(64, 64, 10)
    result = detector.predict(before, after)
    np.testing.assert_array_equal(result.mask, result.probability >= 0.5)
    middle = float(np.median(result.probability))
    chosen = detector.predict(before, after, threshold=middle)
    np.testing.assert_array_equal(chosen.probability, result.probability)
    np.testing.assert_array_equal(chosen.mask, result.probability >= middle)
    assert 0.4 < chosen.mask.mean() < 0.6
    own = make_detector(threshold=middle).predict(before, after)
    np.testing.assert_array_equal(own.mask, chosen.mask)


def test_several_classes():
    result = make_detector(classes=4, threshold=0.7).predict(noise(50, 60, 11), noise(50, 60, 12))
    assert result.probability.shape == (50, 60, 4)
    np.testing.assert_allclose(result.probability.sum(axis=-1), 1, atol=1e-5)
    change = 1 - result.probability[..., 0]
    np.testing.assert_array_equal(result.change_probability, change)
    for mask, change_here, classes in zip(
        result.mask.ravel(), change.ravel(), result.probability.reshape(-1, 4), strict=True
    ):
        assert mask == (1 + classes[1:].argmax() if change_here >= 0.7 else 0)
    assert len(np.unique(result.mask)) > 2


def test_two_logits_are_binary():
    detector = make_detector(classes=2)
    result = detector.predict(noise(20, 30, 13), noise(20, 30, 14))
    assert result.probability.shape == (20, 30)
    np.testing.assert_array_equal(result.mask, result.probability >= 0.5)


@pytest.mark.parametrize("classes", [1, 4])
def test_pixels_without_data_in_either_raster_are_no_change(tmp_path, classes):
    detector = make_detector(classes)
    before, after = np.maximum(noise(60, 80, 15), 1), np.maximum(noise(60, 80, 16), 1)
    before[:20, :30] = 0
    after[40:, 60:] = 0
    after[0, 79] = (0, 5, 5)  # one band alone is data
    paths = write_tiff(tmp_path / "a.tif", before, nodata=0), write_tiff(tmp_path / "b.tif", after, nodata=0)
    valid = np.ones((60, 80), bool)
    valid[:20, :30] = valid[40:, 60:] = False
    plain = detector.predict(before, after, threshold=1e-6)
    assert plain.mask.all()
    with rasterio.open(paths[0]) as one, rasterio.open(paths[1]) as other:
        opened = detector.predict(one, other, threshold=1e-6)
    for result in (detector.predict(*paths, threshold=1e-6), opened):
        np.testing.assert_array_equal(result.valid, valid)
        np.testing.assert_array_equal(result.mask != 0, valid)
        np.testing.assert_array_equal(result.probability[valid], plain.probability[valid])
        assert (result.probability[~valid] == 0).all()
        assert (result.change_probability[~valid] == 0).all()


def test_arrays_are_brought_to_the_models_bands_as_files_are(detector, tmp_path):
    grey = noise(40, 30, 21)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = detector.predict(tmp_path / "grey.png", tmp_path / "grey.png").probability
    for image in (grey, grey[..., None], np.dstack([grey] * 3)):
        np.testing.assert_array_equal(detector.predict(image, image).probability, expected)


def test_what_it_cannot_take_is_refused_by_name(detector, tmp_path):
    image = noise(40, 30, 17)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(noise(40, 31, 18)).save(tmp_path / "wide.png")
    Image.fromarray(np.dstack([image, image[..., :1]]), "RGBA").save(tmp_path / "clear.png")
    write_tiff(tmp_path / "six.tif", np.dstack([image, image]))
    write_tiff(tmp_path / "deep.tif", image.astype(np.uint16))

    def refused(before, after, *words: object) -> None:
        with pytest.raises(DataError) as caught:
            detector.predict(before, after)
        for word in words:
            assert str(word) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "a.png", tmp_path / "wide.png", tmp_path / "a.png", tmp_path / "wide.png", "30 x 40", "31 x 40")
    refused(image, noise(40, 31, 18), "the image after", "30 x 40", "31 x 40")
    refused(tmp_path / "a.png", tmp_path / "clear.png", tmp_path / "clear.png", "alpha")
    refused(tmp_path / "a.png", tmp_path / "six.tif", tmp_path / "six.tif", "6 bands")
    refused(tmp_path / "deep.tif", tmp_path / "a.png", tmp_path / "deep.tif", "uint16")
    refused(tmp_path / "a.png", tmp_path / "none.png", tmp_path / "none.png", "no such file")
    refused(image, image.astype(np.float32), "the image after", "float32", "uint8")
    refused(image[..., :2], image, "the image before", "2 bands where 3 are wanted")
    refused(image.ravel(), image, "the image before", "(3600,)")
    for empty in (image[:0], image[:, :0], image[..., :0], image[:0, :0, 0], np.zeros((0, 0, 3))):
        wanted = f"the shape {empty.shape}; it must be height x width x 3, each 1 or more"
        refused(empty, empty, "the image before: has", wanted)
        refused(image, empty, "the image after: has", wanted)
    with rasterio.open(tmp_path / "deep.tif") as deep:
        refused(image, deep, tmp_path / "deep.tif", "uint16")


def test_rasters_on_different_grids_are_refused_naming_both(detector, tmp_path):
    image = noise(40, 30, 19)
    here = write_tiff(tmp_path / "here.tif", image)
    there = write_tiff(tmp_path / "there.tif", image, transform=from_origin(500010, 5000000, 0.5, 0.5))
    other = write_tiff(tmp_path / "other.tif", image, crs="EPSG:32634")
    for moved in (there, other):
        with rasterio.open(here) as one, rasterio.open(moved) as two:
            for pair in ((here, moved), (one, two), (here, two), (one, moved)):
                with pytest.raises(DataError) as caught:
                    detector.predict(*pair)
                assert str(here) in str(caught.value)
                assert str(moved) in str(caught.value)


def test_options_out_of_range_are_refused(detector):
    image = noise(40, 30, 20)
    for options in ({"threshold": 0}, {"threshold": 1.0}, {"threshold": 1.5}, {"threshold": -0.1}):
        with pytest.raises(ValueError, match=f"threshold is {options['threshold']}.*above 0 and below 1"):
            detector.predict(image, image, **options)
    for options, words in (
        ({"tile": 95}, "tile 95 .* multiple of the model's stride 2: take 94 or 96"),
        ({"tile": 32, "overlap": 32}, "overlap 32 does not fit tile 32"),
        ({"overlap": -2}, "overlap -2"),
    ):
        with pytest.raises(ValueError, match=words):
            detector.predict(image, image, **options)


def test_a_pair_that_fails_does_not_end_the_stream(detector, tmp_path):
    for folder, seed in (("A", 30), ("B", 40)):
        (tmp_path / folder).mkdir()
        for number in range(4):
            Image.fromarray(noise(24, 24, seed + number)).save(tmp_path / folder / f"p{number}.png")
    (tmp_path / "B" / "p1.png").write_bytes(b"broken")
    (tmp_path / "A" / "p3.png").write_bytes((tmp_path / "A" / "p3.png").read_bytes()[:60])
    results = list(predict_pairs(detector, match_pairs(tmp_path / "A", tmp_path / "B").pairs))
    assert [type(result) for result in results] == [PredictedPair, FailedPair, PredictedPair, FailedPair]
    assert [result.pair.name for result in results] == ["p0", "p1", "p2", "p3"]
    assert results[1].error.startswith(f"{tmp_path / 'B' / 'p1.png'}: ")
    assert results[3].error.startswith(f"{tmp_path / 'A' / 'p3.png'}: ")
    expected = detector.predict(noise(24, 24, 32), noise(24, 24, 42))
    np.testing.assert_array_equal(results[2].prediction.probability, expected.probability)
    assert results[2].seconds > 0
    assert list(predict_pairs(detector, [])) == []


def test_the_python_contract(tiny_run):
    for model in (tiny_run.run, str(tiny_run.run), tiny_run.run / "model.keras", str(tiny_run.run / "model.keras")):
        detector = segdiff.load(model)
        assert detector.path == tiny_run.run / "model.keras"
        assert detector.settings.classes == ("background", "change")
        assert (detector.settings.tile, detector.settings.overlap, detector.settings.stride) == (32, 16, 2)
        assert 0 < detector.settings.threshold < 1
    before, after = tiny_run.data / "A", tiny_run.data / "B"
    results = list(segdiff.predict_folder(detector, str(before), after))
    assert [result.name for result in results] == sorted(path.stem for path in after.iterdir())
    alone = detector.predict(before / "scene_0003.png", after / "scene_0003.png")
    assert alone.mask.shape == alone.probability.shape == (64, 64)
    np.testing.assert_array_equal(results[3].probability, alone.probability)
    np.testing.assert_array_equal(alone.mask, alone.probability >= detector.settings.threshold)
    (single,) = segdiff.predict_folder(detector, before / "scene_0003.png", after / "scene_0004.png", threshold=0.9)
    assert single.name == "scene_0004"
    np.testing.assert_array_equal(single.mask, single.probability >= 0.9)
    nothing_so_large = segdiff.load(tiny_run.run, post_processing=PostProcessing(minimum_area=64 * 64 + 1))
    assert alone.mask.any()
    assert not nothing_so_large.predict(before / "scene_0003.png", after / "scene_0003.png").mask.any()


def test_faulty_pairs_of_a_folder_keep_no_others(detector, tmp_path):
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        for name in ("b", "d"):
            Image.fromarray(noise(24, 24, 50)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "A" / "a.png").write_bytes((tmp_path / "A" / "b.png").read_bytes())
    (tmp_path / "B" / "a.png").write_bytes(b"broken")
    (tmp_path / "B" / "c.png").write_bytes((tmp_path / "A" / "b.png").read_bytes())
    failures: dict[str, str] = {}
    results = segdiff.predict_folder(detector, tmp_path / "A", tmp_path / "B", on_failure=failures.__setitem__)
    assert [result.name for result in results] == ["b", "d"]
    assert sorted(failures) == ["a", "c"]
    assert "missing partner" in failures["c"]
    stream = segdiff.predict_folder(detector, tmp_path / "A", tmp_path / "B", tile=64, overlap=32)
    assert [next(stream).name, next(stream).name] == ["b", "d"]
    with pytest.raises(DataError, match=r"B/c\.png.*missing partner.*B/a\.png"):
        next(stream)


def test_what_is_no_model_is_refused_by_name(tmp_path):
    def refused(model, *words: str) -> None:
        with pytest.raises(ModelError) as caught:
            segdiff.load(model)
        for word in (str(model), *words):
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none.keras", "no such file")
    refused("no_such_name", "no such file, run folder, exported folder or shipped model")
    refused(tmp_path, "no model.keras")
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    refused(tmp_path / "broken.keras", "not a .keras model file")
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    refused(tmp_path / "other.keras", "no segdiff change detector")
