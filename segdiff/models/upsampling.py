"""Maps enlarged by a whole factor, in every precision."""

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
        enlarged = ops.image.resize(
            ops.cast(inputs, "float32"),
            (height * self.factor, width * self.factor),
            interpolation="bilinear",
            data_format="channels_last",
        )
        return ops.cast(enlarged, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Height and width times the factor, where they are known."""
        n, *sizes, channels = input_shape
        return (n, *(None if size is None else size * self.factor for size in sizes), channels)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "factor": self.factor}
