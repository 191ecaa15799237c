"""The difference of two aligned feature maps."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

Mode = Literal["signed", "absolute", "squared", "normalized", "concatenated"]
Shape = tuple[int | None, ...]

MODES: tuple[Mode, ...] = get_args(Mode)

# Vectors shorter than this are scaled by its inverse instead of their own, so zero vectors stay zero and the gradient
# there stays below 1 / 1e-3, which float16 can hold.
SHORTEST = 1e-3


@keras.saving.register_keras_serializable(package="segdiff")
class Difference(keras.layers.Layer):
    """Subtract `b` from `a` of the pair `[a, b]`: before minus after.

    Both have one shape, channels last, any rank from 2 (AlignFeatures brings them there), and any dtype; the result has
    that shape and the layer's compute dtype. `mode` is one of

    `"signed"`: a - b.
    `"absolute"`: |a - b|; its gradient where they are equal is 0.
    `"squared"`: (a - b) squared.
    `"normalized"`: the difference of the unit vectors along the channels, per pixel, computed in float32; its values
    lie in -2..2. Vectors shorter than 1e-3 shrink towards zero with their length, so a zero vector counts as zero.
    `"concatenated"`: a, b and a - b along the channels, three times as many as came in.

    Raises ValueError where the two shapes differ.
    """

    def __init__(self, mode: Mode = "signed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not known; it is one of {', '.join(map(repr, MODES))}")
        self.mode: Mode = mode

    def call(self, inputs: Sequence[Any]) -> Any:
        """Return the difference of `[a, b]`."""
        a, b = inputs
        self.compute_output_shape([a.shape, b.shape])
        a, b = ops.cast(a, self.compute_dtype), ops.cast(b, self.compute_dtype)
        if self.mode == "absolute":
            return ops.abs(a - b)
        if self.mode == "squared":
            return ops.square(a - b)
        if self.mode == "normalized":
            return ops.cast(_unit(a) - _unit(b), self.compute_dtype)
        if self.mode == "concatenated":
            return ops.concatenate([a, b, a - b], axis=-1)
        return a - b

    def compute_output_shape(self, input_shape: Sequence[Sequence[int | None]]) -> Shape:
        """Return the shape of the difference; `None` where it is known at run time only."""
        a, b = (tuple(shape) for shape in input_shape)
        if len(a) != len(b) or any(None not in (x, y) and x != y for x, y in zip(a, b, strict=True)):
            raise ValueError(f"the shapes {a} and {b} differ and cannot be subtracted; AlignFeatures aligns them first")
        shape = tuple(y if x is None else x for x, y in zip(a, b, strict=True))
        if self.mode == "concatenated":
            return (*shape[:-1], None if shape[-1] is None else 3 * shape[-1])
        return shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "mode": self.mode}


def _unit(x: Any) -> Any:
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), SHORTEST**2))
