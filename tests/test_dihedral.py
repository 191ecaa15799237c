"""The mean over turns and mirror images, of networks that say where they were sure of what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_pipelines.mask_offset import displaced
from segdiff.dihedral import dihedral, offset_reach
from segdiff.inference.predictor import Detector
from segdiff.inference.runtimes import Network
from segdiff.model_files import Settings

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
    for (before, _), found in zip(batches, dihedral(displacing((0, 0)))(batches), strict=True):
        np.testing.assert_array_equal(found, before[..., :1] / np.float32(256))
    seen = []

    def looking(batches):
        for before, after in batches:
            seen.append((before.copy(), after.copy()))
            # a network that is sure of the first row alone
            yield np.broadcast_to(np.arange(len(before[0]))[None, :, None, None] == 0, (*before.shape[:3], 1)) * 1.0

    (found,) = dihedral(looking)([(noise(1, 3, 3), noise(1, 3, 3))])
    assert len({before.tobytes() for before, _ in seen}) == 8
    np.testing.assert_allclose(found[0, ..., 0] * 8, [[4, 2, 4], [2, 0, 2], [4, 2, 4]])


@given(OFFSETS, st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]))
def test_masks_that_lie_displaced_in_every_turn_lie_so_in_the_mean(offset, count, height, width, channels):
    network = displacing(offset, channels)
    batches = [(noise(count, height, width), noise(count, height, width))]
    (plain,), (mean,) = network(batches), dihedral(network, offset)(batches)
    assert (mean.shape, mean.dtype) == (plain.shape, np.float32)
    np.testing.assert_array_equal(inside(mean, offset_reach(offset)), inside(plain, offset_reach(offset)))


@given(OFFSETS, OFFSETS)
def test_another_offset_than_that_of_the_masks_gives_another_mean(offset, told):
    assume(offset != told)
    network = displacing(offset)
    batches = [(noise(1, 33, 40), noise(1, 33, 40))]
    (plain,), (mean,) = network(batches), dihedral(network, told)(batches)
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
    plain, mean = (probability_of(network, image=image, test_time_augmentation=tta) for tta in (False, True))
    inner = slice(margin, -margin)
    np.testing.assert_allclose(mean[inner, inner], plain[inner, inner], atol=1e-6)
    np.testing.assert_allclose(plain[inner, inner], displaced(image[..., 0] / 256, offset)[inner, inner], atol=1e-6)


def test_the_reach_grows_by_the_way_off_and_back_where_predictions_are_turned():
    networks = network_of((2, -3), reach=5), network_of((0, 0), reach=9)
    assert Detector(networks[0]).settings.reach == 5
    assert Detector(networks[0], test_time_augmentation=True).settings.reach == 11
    assert Detector(networks[1], test_time_augmentation=True).settings.reach == 9
    assert Detector(*networks, test_time_augmentation=True).settings.reach == 11
    unknown = network_of((2, -3), reach=None)
    assert Detector(unknown, test_time_augmentation=True).settings.reach is None


def test_of_an_ensemble_each_has_its_own_offset_and_the_first_says_whether_it_is_turned():
    turning, other = network_of((2, 1), test_time_augmentation=True), network_of((-3, 0))
    image = noise(32, 32)
    plain = probability_of(turning, other, image=image, test_time_augmentation=False)
    mean = probability_of(turning, other, image=image)
    np.testing.assert_allclose(mean[6:-6, 6:-6], plain[6:-6, 6:-6], atol=1e-6)
    assert not np.array_equal(mean, plain), "at the edges it shows that they were turned"
    np.testing.assert_array_equal(mean, probability_of(turning, other, image=image, test_time_augmentation=True))
    assert [Detector(*pair).test_time_augmentation for pair in ((turning, other), (other, turning))] == [True, False]


def test_what_the_model_does_of_itself_can_be_told_otherwise():
    calls = []

    def counting(batches):
        for before, _ in batches:
            calls.append(before.shape)
            yield np.zeros((*before.shape[:3], 1), np.float32)

    image = noise(32, 32)
    for own in (False, True):
        network = replace(network_of((0, 0), test_time_augmentation=own), run=counting)
        for asked, turns in ((None, 8 if own else 1), (True, 8), (False, 1)):
            calls.clear()
            probability_of(network, image=image, test_time_augmentation=asked)
            assert len(calls) == turns
