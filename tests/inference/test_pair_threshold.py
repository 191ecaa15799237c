"""Threshold, confidence and bands of a pair, with a score that needs no network."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from data_pipelines.layouts import DataError, match_pairs
from segdiff.inference import pair_threshold
from segdiff.inference.pair_threshold import PairScale, Unchanged, measure_pair
from segdiff.inference.predictor import Detector, FailedPair, LoadedPair, PredictedRaster, stream_pairs
from segdiff.inference.runtimes import Network, by_threes
from segdiff.model_files import BAND_DEVIATION, BAND_MEAN, UNSURE, ModelError, Settings
from segdiff.prediction import Batch


def difference(batches) -> Iterator[np.ndarray]:
    """The score is the mean difference over the bands, in deviations; the probability the score over 1 + score."""
    for before, after in batches:
        score = np.abs(before.astype(np.float32) - after).mean(axis=-1, keepdims=True) / BAND_DEVIATION
        yield score / (1 + score)


def around(batches) -> Iterator[np.ndarray]:
    """The same over 5 x 5 pixels: where a score is 0 by chance, its logarithm says nothing."""
    for probability in difference(batches):
        score = np.stack([cv2.blur(one, (5, 5)) for one in probability[..., 0] / (1 - probability[..., 0])]) + 0.02
        yield (score / (1 + score))[..., None]


def detector(**changes) -> Detector:
    settings = Settings(**{"tile": 64, "overlap": 16, "stride": 4, "relative": True, **changes})
    return Detector(Network(around, settings, (3, 3), Path(__file__), "a test's"))


def scene(height: int = 150, width: int = 200, bands: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth ground, the bands alike but not the same."""
    draw = np.random.default_rng(seed)
    coarse = draw.normal(0, 30, (height // 8 + 2, width // 8 + 2, bands)) + draw.normal(0, 30, (1, 1, bands))
    ground = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.clip(128 + ground, 0, 255).astype(np.uint8)


def later(image: np.ndarray, gain: float = 0.7, noise: float = 4.0) -> np.ndarray:
    """The same place in another light."""
    draw = np.random.default_rng(9)
    return np.clip(image * gain + 20 + draw.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def with_object(image: np.ndarray) -> np.ndarray:
    """30 x 40 pixels of it are something else."""
    changed = image.copy()
    changed[40:70, 100:140] = 255 - changed[90:120, 20:60]
    return changed


def test_the_threshold_lies_where_change_outnumbers_the_mirrored_rest():
    draw = np.random.default_rng(0)
    unchanged, change = draw.normal(0, 1, 90_000), draw.normal(5, 0.5, 10_000)
    model = Unchanged(np.concatenate([unchanged, change]))
    threshold = model.threshold()
    assert abs(model.usual) < 0.2
    assert 1.2 < threshold < 3
    false, true = (unchanged >= threshold).sum(), (change >= threshold).sum()
    assert false / (false + true) == pytest.approx(0.1, abs=0.02)  # the share that is asked for
    assert true > 0.99 * len(change)


def test_of_unchanged_pixels_alone_next_to_nothing_is_above():
    scores = np.random.default_rng(0).normal(0, 1, 100_000)
    assert (scores >= Unchanged(scores).threshold()).mean() < 1e-3


@pytest.mark.parametrize("scores", [np.zeros(1000), np.zeros(1), np.arange(4.0)])
def test_few_or_equal_scores_have_a_threshold(scores):
    assert scores.min() <= Unchanged(scores).threshold() <= scores.max()


def test_probability_is_a_half_at_the_threshold_and_rises_with_the_score():
    scale = PairScale(np.zeros((3, 256), np.uint8), np.zeros((3, 256), np.uint8), threshold=2.0, confidence=1.0)
    scores = np.array([0, 0.5, 1, 2, 4, 1e9], np.float32)
    found = scale.probability(scores / (1 + scores))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[2:5], [1 / 17, 0.5, 16 / 17], rtol=1e-4)
    assert (np.diff(found) > 0).all()
    assert 0 <= found.min() < 1e-9
    assert found.max() <= 1


def test_bands_are_brought_to_one_mean_and_deviation_over_the_whole_pair():
    before, after = scene(), later(scene(), gain=0.3, noise=0)
    scale = measure_pair(LoadedPair(before, after), around, 4)
    for image in scale.normalised((before, after)):
        assert image.dtype == np.uint8
        np.testing.assert_allclose(image.mean(axis=(0, 1)), BAND_MEAN, atol=2)
        np.testing.assert_allclose(image.std(axis=(0, 1)), BAND_DEVIATION, atol=2)


def test_another_light_is_no_change_and_an_object_is():
    before = scene()
    assert detector().predict(before, later(before)).mask.mean() < 0.002
    result = detector().predict(before, later(with_object(before)))
    assert result.mask[38:72, 98:142].sum() > 0.95 * result.mask.sum()  # two pixels around it are seen as it is
    assert result.mask[40:70, 100:140].mean() > 0.8  # some of its pixels are by chance as they were
    assert result.confidence > 0.8
    assert result.probability[result.mask == 1].min() >= 0.5 > result.probability[result.mask == 0].max()


@pytest.mark.parametrize(
    "after",
    [scene(), scene(seed=5), np.full((150, 200, 3), 90, np.uint8)],
    ids=["identical", "another place", "empty"],
)
def test_nothing_can_be_told_of_pairs_without_anything_in_common_or_without_any_difference(after):
    result = detector().predict(scene(), after)
    assert result.mask.mean() < 0.3
    assert result.confidence < UNSURE


def test_noise_alone_tells_nothing():
    noise = [np.random.default_rng(seed).integers(0, 256, (90, 70, 3), np.uint8) for seed in range(2)]
    result = detector().predict(*noise)
    assert result.mask.mean() < 0.01
    assert result.confidence < UNSURE


def test_what_stands_out_of_two_places_without_anything_in_common_is_not_to_be_trusted():
    before, after = (np.random.default_rng(seed).integers(0, 256, (90, 90, 3), np.uint8) for seed in range(2))
    after[20:40, 20:60] = np.where(before[20:40, 20:60] > 127, 0, 255)
    result = detector().predict(before, after)
    assert result.mask[22:38, 22:58].mean() > 0.9  # the threshold is not at fault
    assert result.mask.mean() < 0.15
    assert result.confidence < UNSURE


@pytest.mark.parametrize("apart", [8, 12, 24])
def test_of_a_pair_that_lies_far_apart_nothing_can_be_told(apart):
    """Its edges stand out as clearly as change does."""
    fields = np.random.default_rng(0).integers(60, 200, (6, 6, 3), np.uint8).repeat(64, axis=0).repeat(64, axis=1)
    before, after = fields[:256, :256], later(fields[apart : apart + 256, apart : apart + 256])
    result = detector().predict(before, after)
    assert result.mask.mean() > 0.01
    assert result.confidence == 0
    fitting = later(with_object(before))
    assert detector().predict(before, fitting).confidence > 0.8
    assert detector().predict(before[:-2, :-2], fitting[2:, 2:]).confidence > 0.5, "two pixels are forgiven"


def test_pixels_without_data_change_neither_bands_nor_threshold():
    before, after = scene(), later(with_object(scene()))
    alone = measure_pair(LoadedPair(before[:, 80:], after[:, 80:]), around, 4)
    before[:, :80], after[:, :80] = 0, scene(seed=7)[:, :80]
    valid = np.ones((150, 200), bool)
    valid[:, :80] = False
    among = measure_pair(LoadedPair(before, after, valid=valid), around, 4)
    np.testing.assert_array_equal(among.before, alone.before)
    np.testing.assert_array_equal(among.after, alone.after)
    assert among.threshold == pytest.approx(alone.threshold, rel=0.05)
    everything = measure_pair(LoadedPair(before, after), around, 4)
    assert everything.threshold > 1.2 * alone.threshold


def test_models_with_a_threshold_of_their_own_tell_no_confidence():
    assert detector(relative=False).predict(scene(), scene()).confidence is None


def test_a_threshold_moves_the_mask():
    pair = scene(), later(with_object(scene()))
    low, own, high = (detector().predict(*pair, threshold=value).mask.sum() for value in (0.3, 0.5, 0.9))
    assert low > own > high > 0


def test_tiles_do_not_show():
    pair = scene(), later(with_object(scene()))
    one, many = (detector(tile=tile).predict(*pair).probability for tile in (256, 32))
    inside = slice(4, -4)  # at the border the score sees what lies beyond it, which a tile mirrors
    np.testing.assert_allclose(one[inside, inside], many[inside, inside], atol=2e-3)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6, 13])
def test_any_number_of_bands(bands):
    before = scene(bands=bands)
    changed = later(before)
    changed[40:70, 100:140] = np.where(before[40:70, 100:140] > 128, 20, 240)
    result = detector().predict(before, changed)
    assert result.mask[40:70, 100:140].mean() > 0.9
    assert result.mask.mean() < 0.06


def test_neighbouring_bands_go_through_the_network_in_threes_and_their_odds_are_averaged():
    seen = []

    def remembering(batches: Iterator[Batch]) -> Iterator[np.ndarray]:
        for batch in batches:
            seen.append(batch[0][0, 0, 0].tolist())
            yield from difference([batch])

    image = np.arange(7, dtype=np.uint8).reshape(1, 1, 1, 7)
    batches = [(image[..., :bands], image[..., :bands] + np.uint8(50)) for bands in (1, 2, 3, 7)]
    results = list(by_threes(remembering)(iter(batches)))
    assert seen == [[0, 0, 0], [0, 1, 1], [0, 1, 2], [0, 1, 2], [3, 4, 5], [4, 5, 6]]
    np.testing.assert_allclose(np.concatenate(results).ravel(), 0.5, rtol=1e-6)  # a deviation of 1 everywhere
    uneven = image.copy()
    uneven[..., :3] += 50  # scores 1, 0, 0
    (mean,) = by_threes(difference)(iter([(image, uneven)]))
    assert mean.item() == pytest.approx(0.25)  # odds of a third


def test_images_of_other_bands_are_refused_and_grey_is_taken_as_rgb():
    with pytest.raises(DataError, match="the image after: has 4 bands, the image before has 3; take the same bands"):
        detector().predict(scene(), scene(bands=4))
    grey = scene(bands=1)
    assert not detector().predict(grey[..., 0], grey.repeat(3, axis=2)).mask.any()


@pytest.mark.parametrize(("shape", "bands"), [((0, 5, 4), 4), ((5, 0), 1), ((5, 5, 0), "bands")])
def test_arrays_without_a_pixel_are_refused(shape, bands):
    empty = np.zeros(shape, np.uint8)
    with pytest.raises(DataError) as caught:
        detector().predict(empty, empty)
    wanted = f"height x width x {bands}, each 1 or more"
    assert str(caught.value) == f"the image before: has the shape {shape}; it must be {wanted}"


def test_a_ground_resolution_is_refused():
    said = r"resolution is 0\.5, and .* takes images of any resolution as they are: leave it out"
    with pytest.raises(ValueError, match=said):
        detector().predict(scene(), scene(), resolution=0.5)


def test_it_predicts_with_no_other_model():
    other = Network(difference, Settings(), (3, 3), Path("other"), "")
    mine = Network(difference, Settings(relative=True), (3, 3), Path("mine"), "")
    for networks in ((mine, other), (other, mine)):
        with pytest.raises(ModelError, match=r"mine: finds a threshold in each pair, .* leave the ensemble out"):
            Detector(*networks)


def write(path: Path, image: np.ndarray, **profile) -> Path:
    path.parent.mkdir(exist_ok=True)
    height, width, bands = image.shape
    grid = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 0.5, 0.5)}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=bands,
        dtype=image.dtype,
        photometric="minisblack",
        **grid,
        **profile,
    ) as target:
        target.write(np.moveaxis(image, 2, 0))
    return path


def test_rasters_are_predicted_as_arrays_are_and_their_missing_pixels_count_for_nothing(tmp_path):
    before, after = scene(bands=4), later(with_object(scene(bands=4)))
    after[:, :60] = 0  # no data; nearly a third of the raster, and nothing like the image before
    files = write(tmp_path / "A" / "one.tif", before), write(tmp_path / "B" / "one.tif", after, nodata=0)
    results = stream_pairs(detector(), match_pairs(*files).pairs)
    result = next(results)
    assert isinstance(result, PredictedRaster)
    mask = np.concatenate([rows for _, rows, *_ in result.rows])
    assert next(results, None) is None
    valid = (after != 0).any(axis=-1)
    images = LoadedPair(before, after, valid=valid)
    expected = detector().predict_loaded(images)
    np.testing.assert_array_equal(mask, expected.mask)
    assert result.images.confidence == expected.confidence
    assert expected.confidence > 0.5
    assert not mask[:, :60].any()
    assert mask[45:65, 105:135].mean() > 0.5


def test_a_raster_that_cannot_be_read_is_a_failed_pair_and_the_next_goes_on(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "A" / f"{name}.tif", scene(), compress="deflate")
        write(tmp_path / "B" / f"{name}.tif", later(with_object(scene())), compress="deflate")
    torn = tmp_path / "B" / "a.tif"
    torn.write_bytes(torn.read_bytes()[:30_000])
    outcomes = []
    for result in stream_pairs(detector(), match_pairs(tmp_path / "A", tmp_path / "B").pairs):
        if isinstance(result, FailedPair):
            outcomes.append("failed")
            continue
        try:
            outcomes.append(sum(int(rows.sum()) for _, rows, *_ in result.rows))
        except DataError as error:
            outcomes.append("torn" if "a.tif" in str(error) else str(error))
    assert outcomes[0] in ("failed", "torn")
    assert outcomes[1] > 500


def test_windows_are_bounded_and_reach_the_corners(monkeypatch):
    monkeypatch.setattr(pair_threshold, "SIDE", 20)
    monkeypatch.setattr(pair_threshold, "PART", 40)

    class Large:
        height, width = 300, 70

        def read_at(self, y0, y1):
            rows = np.arange(y0, y1)[:, None, None].repeat(self.width, axis=1).astype(np.uint16)
            return rows, np.arange(self.width)[None, :, None].repeat(y1 - y0, axis=0), None

    windows = list(pair_threshold._windows(Large()))
    assert 12 <= len(windows) <= pair_threshold.WINDOWS
    ends = np.array([(before.min(), after.min()) for before, after, _ in windows])
    assert len(np.unique(ends, axis=0)) == len(windows)
    assert {before.shape for before, *_ in windows} == {(20, 20, 1)}
    tops, lefts = {int(before.min()) for before, *_ in windows}, {int(after.min()) for _, after, _ in windows}
    assert {min(tops), max(tops), min(lefts), max(lefts)} == {0, 280, 50}


def test_small_pairs_are_looked_at_as_a_whole(monkeypatch):
    monkeypatch.setattr(pair_threshold, "PART", 90)
    image = np.arange(150 * 100).reshape(150, 100, 1)
    seen = [before for before, *_ in pair_threshold._windows(LoadedPair(image, image))]
    assert [one.shape for one in seen] == [(75, 50, 1)] * 4
    np.testing.assert_array_equal(np.sort(np.concatenate([one.ravel() for one in seen])), image.ravel())


def test_a_pair_without_a_valid_pixel_has_no_change():
    pair = LoadedPair(scene(), later(scene()), valid=np.zeros((150, 200), bool))
    result = detector().predict_loaded(pair)
    assert not result.mask.any()
    assert result.confidence == 0


@pytest.mark.parametrize(
    ("height", "width", "sure"),
    [(12, 12, False), (12, 16, True), (4, 36, False), (1, 300, False), (3, 300, False), (4, 300, True)],
)
def test_of_fewer_than_ten_whole_cells_nothing_can_be_told(height, width, sure):
    before = scene(height, width)
    changed = later(before, noise=2)
    changed[:, 4:8] = 255 - changed[:, 4:8]
    result = detector(stride=4).predict(before, changed)
    assert result.mask[:, 4:8].any()
    assert result.confidence > 0.5 if sure else result.confidence == 0
    around_it = [np.pad(image, ((8, 40), (8, 40), (0, 0))) for image in (before, changed)]
    valid = np.pad(np.ones((height, width), bool), ((8, 40), (8, 40)))
    among = detector(stride=4).predict_loaded(LoadedPair(*around_it, valid=valid))
    assert (among.confidence > 0) == (sure or height == 3), "of a cell more than half is enough"


def test_settings_of_older_files_are_not_relative():
    assert not Settings.from_json({"classes": ["background", "change"]}).relative
    assert replace(Settings(), relative=True).relative
