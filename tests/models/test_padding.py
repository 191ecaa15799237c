import keras
import numpy as np
import pytest

from segdiff.models.padding import CropToImage, PadToMultiple


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("size", "multiple"), [((1, 1), 8), ((3, 5), 16), ((7, 13), 4), ((8, 4), 4), ((4, 9), 1)])
def test_padding_mirrors_at_the_bottom_and_the_right(size, multiple, known):
    image = numbers(2, *size, 3)
    sides = size if known else (None, None)
    inputs = keras.Input((*sides, 3))
    layer = PadToMultiple(multiple)
    got = keras.ops.convert_to_numpy(keras.Model(inputs, layer(inputs))(image))
    missing = [(0, -side % multiple) for side in size]
    np.testing.assert_array_equal(got, np.pad(image, ((0, 0), *missing, (0, 0)), mode="symmetric"))
    assert layer.compute_output_shape(image.shape) == got.shape


def test_unknown_sizes_stay_unknown_and_the_multiple_survives_saving():
    layer = PadToMultiple.from_config(PadToMultiple(4).get_config())
    assert layer.multiple == 4
    assert layer.compute_output_shape((None, None, 6, 3)) == (None, None, 8, 3)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [(5, 7), (8, 8), (1, 1)])
def test_cropping_undoes_padding(size, known):
    image = numbers(2, *size, 3)
    sides = size if known else (None, None)
    inputs = keras.Input((*sides, 3))
    padded = PadToMultiple(8)(inputs)
    model = keras.Model(inputs, CropToImage()(keras.ops.concatenate([padded, padded], axis=-1), inputs))
    got = keras.ops.convert_to_numpy(model(image))
    np.testing.assert_array_equal(got, np.concatenate([image, image], axis=-1))
    assert CropToImage().compute_output_shape((2, 8, 8, 6), image.shape) == got.shape
