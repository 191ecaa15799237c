"""Bring two feature maps to one shape and one dtype, so that they can be subtracted."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

from segdiff.models.upsampling import resize_linear

Mode = Literal["strict", "broadcast", "crop", "resize", "crop_resize"]
Shape = tuple[int | None, ...]

MODES: tuple[Mode, ...] = get_args(Mode)
RESIZING: tuple[Mode, ...] = ("resize", "crop_resize")


@keras.saving.register_keras_serializable(package="segdiff")
class AlignFeatures(keras.layers.Layer):
    """Align the pair `[a, b]` and return `[a', b']` of one shape, in the layer's compute dtype.

    The maps have the same rank: batch, any number of spatial dimensions (none for vectors), channels last. `mode` says
    what may be done where they differ:

    `"strict"`: nothing; the shapes must agree.
    `"broadcast"`: a dimension of 1 is repeated to the other map's.
    `"crop"`: the centre of the larger map is cut out, per spatial dimension (an odd pixel is left at the far side).
    `"resize"`: `b` is resized to the size of `a`, or both to `size`. Bilinear (linear per dimension for other ranks),
    pixel centres at half-integers, no antialiasing, computed in float32.
    `"crop_resize"`: the largest centred part with the target's aspect ratio is cut out of each map, then resized to the
    target; the target is `a`, which then stays whole, or `size`.

    Channels that differ are broadcast from 1 (not under `strict`). With `project_channels=True` a learned 1 x 1
    projection with bias brings `b` to the channels of `a` instead, under every mode.

    `size` is one positive integer per spatial dimension, `(height, width)` for maps, and only for the resizing modes.
    Inputs of every dtype, integers too, are cast to the compute dtype. Where the shapes already agree nothing but that
    cast happens. A spatial dimension may be `None` (known at run time only); under `strict` such dimensions are left to
    the check of the operation that follows, which lets 1 pass.

    Raises ValueError for shapes that the mode cannot align: the message has both shapes and the modes that could.
    """

    def __init__(
        self, mode: Mode = "strict", size: Sequence[int] | None = None, project_channels: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not known; it is one of {', '.join(map(repr, MODES))}")
        if size is not None and mode not in RESIZING:
            raise ValueError(
                f"size={size!r} has no meaning with mode={mode!r}; it goes with 'resize' and 'crop_resize'"
            )
        if size is not None and not (
            isinstance(size, Sequence) and all(isinstance(side, int) and side > 0 for side in size)
        ):
            raise ValueError(f"size={size!r} must be positive whole numbers, such as (height, width)")
        self.mode: Mode = mode
        self.size = None if size is None else tuple(size)
        self.project_channels = project_channels
        self.projection: keras.layers.Dense | None = None

    def build(self, input_shape: Sequence[Shape]) -> None:
        """Create the projection where the channels of the two shapes call for one."""
        a, b = input_shape
        self._aligned_shape(a, b)
        if self.project_channels and a[-1] != b[-1]:
            self.projection = keras.layers.Dense(a[-1], name="projection", dtype=self.dtype_policy)
            self.projection.build(b)

    def call(self, inputs: Sequence[Any]) -> list[Any]:
        """Return `[a', b']`."""
        a, b = inputs
        self._aligned_shape(a.shape, b.shape)
        a, b = ops.cast(a, self.compute_dtype), ops.cast(b, self.compute_dtype)
        if self.projection is not None:
            b = self.projection(b)
        if a.shape[0] == b.shape[0] and _is(a.shape[1:], b.shape[1:]) and self.size in (None, tuple(a.shape[1:-1])):
            return [a, b]
        size_a, size_b = ops.shape(a)[1:-1], ops.shape(b)[1:-1]
        if self.mode == "crop":
            common = tuple(_smaller(x, y) for x, y in zip(size_a, size_b, strict=True))
            a, b = _centre_crop(a, common), _centre_crop(b, common)
        elif self.mode in RESIZING:
            target = self.size or size_a
            if self.mode == "crop_resize":
                a, b = _crop_to_aspect(a, target), _crop_to_aspect(b, target)
            a, b = (x if _is(ops.shape(x)[1:-1], target) else resize_linear(x, target) for x in (a, b))
        if self.mode == "broadcast" or (self.mode != "strict" and a.shape[-1] != b.shape[-1]):
            shape = tuple(_larger(x, y) for x, y in zip(ops.shape(a), ops.shape(b), strict=True))
            a, b = ops.broadcast_to(a, shape), ops.broadcast_to(b, shape)
        return [a, b]

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> list[Shape]:
        """Return the common shape, twice; `None` where it is known at run time only."""
        a, b = input_shape
        shape = self._aligned_shape(a, b)
        return [shape, shape]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"mode": self.mode, "size": self.size, "project_channels": self.project_channels}
        return {**super().get_config(), **config}

    def _aligned_shape(self, a: Sequence[int | None], b: Sequence[int | None]) -> Shape:
        a, b = tuple(a), tuple(b)
        try:
            return aligned_shape(a, b, self.mode, self.size, self.project_channels)
        except ValueError as problem:
            raise ValueError(
                f"{self.mode!r} cannot align the shapes {a} and {b}: {problem}; {_advice(a, b, self.size)}"
            ) from None


def aligned_shape(
    a: Shape, b: Shape, mode: Mode, size: tuple[int, ...] | None = None, project_channels: bool = False
) -> Shape:
    """Return the shape AlignFeatures gives both maps; raise ValueError, saying what differs, where it cannot."""
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"their ranks are {len(a)} and {len(b)}, and both must be the same and at least 2")
    if size is not None and len(size) != len(a) - 2:
        raise ValueError(f"size={size} has {len(size)} numbers for {len(a) - 2} spatial dimensions")
    either = _same if mode == "strict" else _repeated
    batch = _repeated(a[0], b[0], "batch sizes") if mode == "broadcast" else _same(a[0], b[0], "batch sizes")
    pairs = list(zip(a[1:-1], b[1:-1], strict=True))
    if mode in RESIZING:
        sides = size or a[1:-1]
    elif mode == "crop":
        sides = tuple(None if x is None or y is None else min(x, y) for x, y in pairs)
    else:
        sides = tuple(either(x, y, "spatial sizes") for x, y in pairs)
    channels = _projected(a[-1], b[-1]) if project_channels else either(a[-1], b[-1], "channels")
    return (batch, *sides, channels)


def _same(x: int | None, y: int | None, what: str) -> int | None:
    if x is not None and y is not None and x != y:
        raise ValueError(f"the {what} {x} and {y} differ")
    return y if x is None else x


def _repeated(x: int | None, y: int | None, what: str) -> int | None:
    if x == 1:
        return y
    if y == 1:
        return x
    return _same(x, y, what)


def _projected(x: int | None, y: int | None) -> int:
    if x is None or y is None:
        raise ValueError(f"the channels {x} and {y} must be known for a projection")
    return x


def _advice(a: Shape, b: Shape, size: tuple[int, ...] | None) -> str:
    def works(mode: Mode, project_channels: bool) -> bool:
        try:
            aligned_shape(a, b, mode, size if mode in RESIZING else None, project_channels)
        except ValueError:
            return False
        return True

    plain = [repr(mode) for mode in MODES if works(mode, False)]
    projected = [repr(mode) for mode in MODES if works(mode, True)]
    if plain:
        return f"modes that would work: {', '.join(plain)}"
    if projected:
        return f"modes that would work, each with project_channels=True: {', '.join(projected)}"
    return "no mode would work; reshape, flatten or pool one of the two first"


def _smaller(x: Any, y: Any) -> Any:
    # Sizes are integers where they are known and scalar tensors where they are not (TensorFlow's graphs).
    return min(x, y) if isinstance(x, int) and isinstance(y, int) else ops.minimum(x, y)


def _larger(x: Any, y: Any) -> Any:
    return max(x, y) if isinstance(x, int) and isinstance(y, int) else ops.maximum(x, y)


def _is(size: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two sizes are known to be equal."""
    return all(isinstance(x, int) and isinstance(y, int) and x == y for x, y in zip(size, other, strict=True))


def _centre_crop(x: Any, size: Sequence[Any]) -> Any:
    given = ops.shape(x)[1:-1]
    if _is(given, size):
        return x
    starts = [(have - want) // 2 for have, want in zip(given, size, strict=True)]
    return x[(slice(None), *(slice(start, start + want) for start, want in zip(starts, size, strict=True)))]


def _crop_to_aspect(x: Any, target: Sequence[Any]) -> Any:
    given = ops.shape(x)[1:-1]
    if _is(given, target):
        return x
    sides = []
    for side in target:
        # As much of this dimension as the scarcest one leaves at the target's proportions, and never nothing.
        scarcest = given[0] * side // target[0]
        for have, wanted in zip(given[1:], target[1:], strict=True):
            scarcest = _smaller(scarcest, have * side // wanted)
        sides.append(_larger(scarcest, 1))
    return _centre_crop(x, sides)
