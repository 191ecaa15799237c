"""The mean over views of a tile, of networks that say where they were sure of what."""

import itertools
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_pipelines.mask_offset import displaced
from segdiff.augmented_prediction import VIEWS, augmented, augmented_reach
from segdiff.inference.predictor import Detector
from segdiff.inference.runtimes import Network
from segdiff.model_files import ModelError, Settings
from segdiff.resizing import resize

OFFSETS = st.tuples(st.integers(-4, 4), st.integers(-4, 4))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, (*shape, 3), np.uint8)


def displacing(offset: tuple[int, int], channels: int = 1):
    """A network whose probabilities are the image before, moved by the offset however that is turned.

    They are multiples of 1/256, so that sums of eight are exact.
    """

    def run(batches):
        for before, _ in batches:
            yield displaced(before[..., :channels].astype(np.float32) / 256, offset, axes=(1, 2))

    return run


def inside(probability: np.ndarray, margin: int) -> np.ndarray:
    """Without that many pixels at the edges of N x H x W x K."""
    height, width = probability.shape[1:3]
    return probability[:, margin : height - margin, margin : width - margin]


def test_the_eight_turns_are_turned_back():
    batches = [(noise(2, 8, 12), noise(2, 8, 12)), (noise(1, 4, 4), noise(1, 4, 4))]
    for (before, _), found in zip(batches, augmented(displacing((0, 0)), "d4")(batches), strict=True):
        np.testing.assert_array_equal(found, before[..., :1] / np.float32(256))
    seen = []

    def looking(batches):
        for before, after in batches:
            seen.append((before.copy(), after.copy()))
            # a network that is sure of the first row alone
            yield np.broadcast_to(np.arange(len(before[0]))[None, :, None, None] == 0, (*before.shape[:3], 1)) * 1.0

    (found,) = augmented(looking, "d4")([(noise(1, 3, 3), noise(1, 3, 3))])
    assert len({before.tobytes() for before, _ in seen}) == 8
    np.testing.assert_allclose(found[0, ..., 0] * 8, [[4, 2, 4], [2, 0, 2], [4, 2, 4]])


@given(OFFSETS, st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]))
def test_masks_that_lie_displaced_in_every_turn_lie_so_in_the_mean(offset, count, height, width, channels):
    network = displacing(offset, channels)
    batches = [(noise(count, height, width), noise(count, height, width))]
    (plain,), (mean,) = network(batches), augmented(network, "d4", offset)(batches)
    assert (mean.shape, mean.dtype) == (plain.shape, np.float32)
    made_up = augmented_reach("d4", 0, offset)
    np.testing.assert_array_equal(inside(mean, made_up), inside(plain, made_up))


@given(OFFSETS, OFFSETS)
def test_another_offset_than_that_of_the_masks_gives_another_mean(offset, told):
    assume(offset != told)
    network = displacing(offset)
    batches = [(noise(1, 33, 40), noise(1, 33, 40))]
    (plain,), (mean,) = network(batches), augmented(network, "d4", told)(batches)
    assert not np.array_equal(inside(mean, 8), inside(plain, 8))


def network_of(offset: tuple[int, int], **settings) -> Network:
    chosen = {"tile": 32, "overlap": 24, "mask_offset": offset, "reach": max(map(abs, offset)), **settings}
    return Network(displacing(offset), Settings(**chosen), (3, 3), Path("displacing.keras"), "a test's")


def probability_of(*networks: Network, image: np.ndarray, **options) -> np.ndarray:
    return Detector(*networks, **options).predict(image, image).probability


@pytest.mark.parametrize("offset", [(1, 1), (3, -1), (0, -4)])
def test_of_many_tiles_nothing_counts_that_was_made_up_at_their_edges(offset):
    image, margin = noise(90, 70), 3 * max(map(abs, offset))
    network = network_of(offset)
    plain, mean = (probability_of(network, image=image, test_time_augmentation=tta) for tta in ("none", "d4"))
    inner = slice(margin, -margin)
    np.testing.assert_allclose(mean[inner, inner], plain[inner, inner], atol=1e-6)
    np.testing.assert_allclose(plain[inner, inner], displaced(image[..., 0] / 256, offset)[inner, inner], atol=1e-6)


def test_the_reach_grows_by_the_way_off_and_back_where_predictions_are_turned():
    networks = network_of((2, -3), reach=5), network_of((0, 0), reach=9)
    assert Detector(networks[0]).settings.reach == 5
    assert Detector(networks[0], test_time_augmentation="d4").settings.reach == 11
    assert Detector(networks[1], test_time_augmentation="d4").settings.reach == 9
    assert Detector(*networks, test_time_augmentation="d4").settings.reach == 11
    unknown = network_of((2, -3), reach=None)
    assert Detector(unknown, test_time_augmentation="d4").settings.reach is None


def test_of_an_ensemble_each_has_its_own_offset_and_the_first_says_whether_it_is_turned():
    turning, other = network_of((2, 1), test_time_augmentation="d4"), network_of((-3, 0))
    image = noise(32, 32)
    plain = probability_of(turning, other, image=image, test_time_augmentation="none")
    mean = probability_of(turning, other, image=image)
    np.testing.assert_allclose(mean[6:-6, 6:-6], plain[6:-6, 6:-6], atol=1e-6)
    assert not np.array_equal(mean, plain), "at the edges it shows that they were turned"
    np.testing.assert_array_equal(mean, probability_of(turning, other, image=image, test_time_augmentation="d4"))
    assert [Detector(*pair).test_time_augmentation for pair in ((turning, other), (other, turning))] == ["d4", "none"]


def test_what_the_model_does_of_itself_can_be_told_otherwise():
    calls = []

    def counting(batches):
        for before, _ in batches:
            calls.append(before.shape)
            yield np.zeros((*before.shape[:3], 1), np.float32)

    image, counts = noise(32, 32), {"none": 1, "d4": 8, "multiscale": 4}
    for own, asked in itertools.product(counts, (None, *counts)):
        network = replace(network_of((0, 0), test_time_augmentation=own), run=counting)
        calls.clear()
        probability_of(network, image=image, test_time_augmentation=asked)
        assert len(calls) == counts[asked or own]


def test_an_augmentation_that_there_is_none_of_is_refused():
    with pytest.raises(ValueError, match="test_time_augmentation is 'd8', it must be one of none, d4, multiscale"):
        Detector(network_of((0, 0)), test_time_augmentation="d8")


def smooth(height: int, width: int, bands: int = 3) -> np.ndarray:
    """An image that shrinking and enlarging hardly change."""
    coarse = np.random.default_rng(bands).integers(0, 256, (4, 5, bands), np.uint8)
    return resize(coarse, (height, width), cv2.INTER_CUBIC)


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_views_at_other_scales_have_sides_of_whole_strides_and_come_back(bands):
    shapes = []

    def network(batches):
        for before, after in batches:
            assert before.shape == after.shape
            shapes.append(before.shape[1:3])
            yield before[..., :1].astype(np.float32) / 256

    image = smooth(96, 144, bands)[None]
    batches = [(image, image), (image[:, :64, :32], image[:, :64, :32])]
    found = list(augmented(network, "multiscale", stride=16)(batches))
    assert shapes == [(96, 144), (112, 80), (128, 176), (224, 144), (64, 32), (32, 48), (80, 32), (48, 96)]
    for (before, _), mean in zip(batches, found, strict=True):
        assert (mean.shape, mean.dtype) == ((*before.shape[:3], 1), np.float32)
        np.testing.assert_allclose(inside(mean, 8), inside(before[..., :1] / np.float32(256), 8), atol=0.02)


def test_masks_that_lie_displaced_at_every_scale_lie_so_in_the_mean():
    image, offset = smooth(128, 128)[None], (3, -2)
    batches = [(image, image)]
    plain, mean = (next(augmented(displacing(offset), kind, offset)(batches)) for kind in ("none", "multiscale"))
    margin = augmented_reach("multiscale", 0, offset)
    np.testing.assert_allclose(inside(mean, margin), inside(plain, margin), atol=0.02)
    unmoved = next(augmented(displacing(offset), "multiscale")(batches))
    assert np.abs(inside(unmoved, margin) - inside(plain, margin)).max() > 0.05


@pytest.mark.parametrize("reach", [0, 7, 30])
@pytest.mark.parametrize("kind", list(VIEWS))
def test_what_a_network_makes_of_padding_is_felt_as_far_as_is_said(kind, reach):
    """Of a network that says where padding came within its reach."""

    def network(batches):
        for before, _ in batches:
            felt = np.ones((*before.shape[:3], 1), np.float32)
            felt[:, reach : before.shape[1] - reach, reach : before.shape[2] - reach] = 0
            yield felt

    image = noise(1, 192, 160)
    (felt,) = augmented(network, kind, stride=16)([(image, image)])
    said = augmented_reach(kind, reach, (0, 0))
    assert not inside(felt, said).any()
    assert reach == 0 or inside(felt, reach - 1).any()
    assert said <= reach / 0.8 + 3


def test_networks_of_one_tile_size_take_no_view_at_another_scale():
    fixed = replace(network_of((0, 0)), tile=32)
    Detector(fixed, test_time_augmentation="d4")
    with pytest.raises(ModelError, match=r"displacing.keras: takes tiles of 32 pixels alone.*take d4 or none"):
        Detector(network_of((0, 0)), fixed, test_time_augmentation="multiscale")
    with pytest.raises(ModelError, match="alone"):
        Detector(replace(network_of((0, 0), test_time_augmentation="multiscale"), tile=32))


@pytest.mark.parametrize(("stored", "read"), [(True, "d4"), (False, "none"), ("multiscale", "multiscale")])
def test_models_of_before_there_was_more_than_one_augmentation_are_read(stored, read):
    values = {**asdict(Settings()), "test_time_augmentation": stored}
    assert Settings.from_json(values).test_time_augmentation == read
    with pytest.raises(ValueError, match="must be one of"):
        Settings.from_json({**values, "test_time_augmentation": "all"})
