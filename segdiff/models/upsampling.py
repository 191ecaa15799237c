"""Maps enlarged by a whole factor, in every precision."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

Interpolation = Literal["nearest", "bilinear"]


def upsample(x: keras.KerasTensor, factor: int, interpolation: Interpolation, *, name: str) -> keras.KerasTensor:
    """N x H x W x C enlarged to N x factor H x factor W x C; ``x`` itself where ``factor`` is 1.

    Raises ValueError on an interpolation that does not exist.
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"upsampling is {interpolation!r}, allowed are 'nearest' and 'bilinear'")
    if factor == 1:
        return x
    if interpolation == "nearest":
        return keras.layers.UpSampling2D(factor, interpolation="nearest", name=name)(x)
    return BilinearUpsampling(factor, name=name)(x)


@keras.saving.register_keras_serializable(package="segdiff")
class BilinearUpsampling(keras.layers.Layer):
    """Enlarges N x H x W x C by ``factor``, pixel centres at half-integers, computed in float32.

    Keras' UpSampling2D hands TensorFlow's kernel the half-precision map, and that kernel's gradient is float32 all the
    same, which XLA refuses behind a ReLU. Here the casts have gradients of their own. The result is in the layer's
    compute dtype.
    """

    def __init__(self, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if factor < 1:
            raise ValueError(f"factor is {factor}, it must be 1 or more")
        self.factor = factor

    def call(self, inputs):
        """The enlarged map."""
        _, height, width, _ = ops.shape(inputs)
        enlarged = resize_linear(ops.cast(inputs, "float32"), (height * self.factor, width * self.factor))
        return ops.cast(enlarged, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Height and width times the factor, where they are known."""
        n, *sizes, channels = input_shape
        return (n, *(None if size is None else size * self.factor for size in sizes), channels)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "factor": self.factor}


def resize_linear(x: Any, target: Sequence[Any]) -> Any:
    """N x ... x C of any number of dimensions interpolated linearly to the sizes of ``target``, computed in float32.

    Pixel centres lie at half-integers and the border is repeated. Sizes may be known at run time only.
    """
    # TensorFlow's bilinear kernels return float32 whatever they get, and have no gradient for every half type.
    resized = ops.cast(x, "float32")
    if len(target) == 2 and all(isinstance(side, int) for side in target):
        resized = ops.image.resize(resized, target, interpolation="bilinear", data_format="channels_last")
    else:
        # Keras' own resizing knows pictures of a known size only.
        for axis, side in enumerate(target, start=1):
            resized = _resize_along(resized, axis, side)
    return ops.cast(resized, x.dtype)


def _resize_along(x: Any, axis: int, side: Any) -> Any:
    """Interpolate linearly along one dimension, as the bilinear kernel does along two."""
    given = ops.shape(x)[axis]
    if isinstance(given, int) and isinstance(side, int) and given == side:
        return x
    scale = ops.cast(given, "float32") / ops.cast(side, "float32")
    centres = (ops.cast(ops.arange(side), "float32") + 0.5) * scale - 0.5
    centres = ops.minimum(ops.maximum(centres, 0.0), ops.cast(given - 1, "float32"))
    below = ops.cast(ops.floor(centres), "int32")
    above = ops.minimum(below + 1, given - 1)
    weight = ops.reshape(centres - ops.floor(centres), (-1, *[1] * (len(x.shape) - axis - 1)))
    return ops.take(x, below, axis=axis) * (1.0 - weight) + ops.take(x, above, axis=axis) * weight
