"""How far padding reaches: networks whose reach is known by counting their kernels."""

import keras
import pytest

from segdiff.models import ChangeDetector
from segdiff.models.receptive_field import FARTHEST, measure_reach


def detector(*kernels: int, spread=None) -> ChangeDetector:
    """Convolutions of the difference, one after the other."""
    keras.utils.set_random_seed(0)
    images = [keras.Input((None, None, 3), name=name) for name in ("before", "after")]
    x = keras.layers.Rescaling(1 / 255)(keras.layers.Subtract()(images))
    for kernel in kernels:
        x = keras.layers.Conv2D(4, kernel, padding="same")(x)
    if spread is not None:
        x = spread(x)
    return ChangeDetector(images, keras.layers.Conv2D(1, 1)(x))


@pytest.mark.parametrize(("kernels", "reach"), [((1,), 0), ((3,), 1), ((5, 5), 4), ((3, 7, 9), 8), ((31, 31, 31), 45)])
def test_half_the_kernels_add_up(kernels, reach):
    assert measure_reach(detector(*kernels)) == reach


def test_what_looks_at_the_whole_image_reaches_farthest():
    def centred(x):
        return keras.layers.Add()([x, keras.layers.GlobalAveragePooling2D(keepdims=True)(x)])

    assert measure_reach(detector(3, spread=centred)) == FARTHEST
