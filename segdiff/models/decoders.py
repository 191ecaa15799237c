"""Decoders: from a pyramid of differences, finest first, to one map at the finest level's size.

Each takes the differences and their strides (pixels of the image per pixel of the level), which grow by whole factors,
and the exact sizes that follow: level k is H / strides[k] x W / strides[k]. Each returns one map, N x H / strides[0] x
W / strides[0] x channels, and leaves the map of every level it decodes behind a ``LevelOutput`` in the graph, for
``heads.DeepSupervision``. All raise ValueError on strides or channels that do not fit the differences.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import keras

from segdiff.models.encoders import convolve
from segdiff.models.normalization import normalize
from segdiff.models.upsampling import Interpolation, upsample


@keras.saving.register_keras_serializable(package="segdiff")
class LevelOutput(keras.layers.Layer):
    """Marks a map that a decoder ends a level with, which passes unchanged, and knows its stride.

    A layer of its own, so that the map is found in any model, loaded ones too, whatever decoder made it.
    """

    def __init__(self, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs):
        """The map."""
        return inputs

    def compute_output_shape(self, input_shape):
        """The same."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "stride": self.stride}


def unet_decoder(
    differences: Sequence[keras.KerasTensor],
    channels: Sequence[int],
    strides: Sequence[int] | None = None,
    *,
    upsampling: Interpolation = "nearest",
    attention: bool = False,
    squeeze_excite: bool = False,
    norm: str = "batch",
    name: str = "decoder",
) -> keras.KerasTensor:
    """The expanding half of a U-Net: upsample, concatenate the finer difference, convolve twice.

    ``channels`` has one entry a level but the deepest, finest first; ``strides`` are by default 1, 2, 4 and so on.
    Both halves of a concatenation are first brought to the level's channels by a 1 x 1 convolution, the coarse half
    before it is enlarged: at full resolution the 3 x 3 convolutions over wide concatenations would cost more than all
    the rest. ``attention`` weighs the finer difference by ``attention_gate``, ``squeeze_excite`` the channels of each
    level's map by ``squeeze_and_excite``.
    """
    strides = _checked_strides(differences, strides)
    if len(channels) != len(differences) - 1:
        raise ValueError(
            f"channels has {len(channels)} entries, {len(differences)} differences need {len(differences) - 1}"
        )
    x = differences[-1]
    for level in reversed(range(len(channels))):
        width, factor, prefix = channels[level], strides[level + 1] // strides[level], f"{name}_level{level}"
        fine = keras.layers.Conv2D(width, 1, name=f"{prefix}_fine")(differences[level])
        if attention:
            fine = attention_gate(fine, x, factor, name=f"{prefix}_attention")
        x = keras.layers.Conv2D(width, 1, name=f"{prefix}_coarse")(x)
        x = upsample(x, factor, upsampling, name=f"{prefix}_upsample")
        x = keras.layers.Concatenate(name=f"{prefix}_concatenate")([x, fine])
        x = convolve(x, width, norm=norm, name=f"{prefix}_a")
        x = convolve(x, width, norm=norm, name=f"{prefix}_b")
        if squeeze_excite:
            x = squeeze_and_excite(x, name=f"{prefix}_squeeze_excite")
        x = LevelOutput(strides[level], name=f"{prefix}_output")(x)
    return x


def attention_gate(skip: keras.KerasTensor, gate: keras.KerasTensor, factor: int, *, name: str) -> keras.KerasTensor:
    """The skip connection times a weight in 0..1 a pixel, that the coarser ``gate`` chooses (Oktay et al. 2018).

    ``skip`` is N x factor H x factor W x C, ``gate`` N x H x W x any. The additive attention is computed at the size of
    the gate and enlarged bilinearly, as published; with C / 2 channels between.
    """
    between = max(skip.shape[-1] // 2, 1)
    seen = keras.layers.Conv2D(between, factor, strides=factor, use_bias=False, name=f"{name}_skip")(skip)
    asked = keras.layers.Conv2D(between, 1, name=f"{name}_gate")(gate)
    x = keras.layers.Add(name=f"{name}_add")([seen, asked])
    x = keras.layers.Activation("relu", name=f"{name}_relu")(x)
    weight = keras.layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_weight")(x)
    weight = upsample(weight, factor, "bilinear", name=f"{name}_upsample")
    return keras.layers.Multiply(name=f"{name}_multiply")([skip, weight])


def squeeze_and_excite(x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """N x H x W x C times a weight in 0..1 a channel, from the channels' means over the map (Hu et al. 2018).

    The reduction is the published 16, but never to fewer than 4 channels. The means are over all the model sees: the
    result depends, a little, on how a large image is cut into tiles.
    """
    channels = x.shape[-1]
    weights = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    weights = keras.layers.Conv2D(max(channels // 16, 4), 1, activation="relu", name=f"{name}_reduce")(weights)
    weights = keras.layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_excite")(weights)
    return keras.layers.Multiply(name=f"{name}_multiply")([x, weights])


def fpn_decoder(
    differences: Sequence[keras.KerasTensor],
    channels: int,
    strides: Sequence[int] | None = None,
    *,
    upsampling: Interpolation = "nearest",
    norm: str = "batch",
    name: str = "decoder",
) -> keras.KerasTensor:
    """A feature pyramid (Lin et al. 2017), its levels merged into one map (Kirillov et al. 2019).

    Each difference is brought to ``channels`` by a lateral 1 x 1 convolution and the coarser level of the pyramid,
    enlarged, added to it; a 3 x 3 convolution smooths the sum. The smoothed levels are merged by enlarging and adding,
    from the coarsest down. Kirillov et al. convolve again at every doubling, which at full resolution costs more than
    the rest together: here it is once a level.
    """
    strides = _checked_strides(differences, strides)
    top = merged = None
    for level in reversed(range(len(differences))):
        prefix = f"{name}_level{level}"
        lateral = keras.layers.Conv2D(channels, 1, name=f"{prefix}_lateral")(differences[level])
        top = _add_coarser(lateral, top, level, strides, upsampling, name=f"{prefix}_top_down")
        smooth = convolve(top, channels, norm=norm, name=f"{prefix}_smooth")
        merged = _add_coarser(smooth, merged, level, strides, upsampling, name=f"{prefix}_merge")
        merged = LevelOutput(strides[level], name=f"{prefix}_output")(merged)
    return merged


def mlp_decoder(
    differences: Sequence[keras.KerasTensor],
    channels: int,
    strides: Sequence[int] | None = None,
    *,
    upsampling: Interpolation = "bilinear",
    norm: str = "batch",
    name: str = "decoder",
) -> keras.KerasTensor:
    """The light decoder of SegFormer (Xie et al. 2021): per-pixel linear maps, summed at the finest size.

    SegFormer maps each level to C channels, enlarges, concatenates and maps the 4 C channels to C again. A linear map
    of a concatenation is the sum of one linear map a level, linear maps after each other are one, and both commute
    with the interpolation: so each level is mapped once, at its own size, and the sums are enlarged from the coarsest
    down. Then normalization and ReLU, as published.
    """
    strides = _checked_strides(differences, strides)
    x = None
    for level in reversed(range(len(differences))):
        prefix = f"{name}_level{level}"
        mapped = keras.layers.Conv2D(channels, 1, name=f"{prefix}_linear")(differences[level])
        x = _add_coarser(mapped, x, level, strides, upsampling, name=prefix)
        if level == 0:
            x = normalize(x, norm, name=f"{name}_norm")
            x = keras.layers.Activation("relu", name=f"{name}_relu")(x)
        x = LevelOutput(strides[level], name=f"{prefix}_output")(x)
    return x


def _add_coarser(
    fine: keras.KerasTensor,
    coarse: keras.KerasTensor | None,
    level: int,
    strides: Sequence[int],
    upsampling: Interpolation,
    *,
    name: str,
) -> keras.KerasTensor:
    """The sum of a level's map and that of the next coarser level; the map itself at the coarsest."""
    if coarse is None:
        return fine
    coarse = upsample(coarse, strides[level + 1] // strides[level], upsampling, name=f"{name}_upsample")
    return keras.layers.Add(name=f"{name}_add")([fine, coarse])


def _checked_strides(differences: Sequence[keras.KerasTensor], strides: Sequence[int] | None) -> Sequence[int]:
    """The strides, by default 1, 2, 4 and so on."""
    if strides is None:
        return [2**level for level in range(len(differences))]
    if len(strides) != len(differences) or not strides:
        raise ValueError(f"strides has {len(strides)} entries, there are {len(differences)} differences")
    if strides[0] < 1 or any(coarse <= fine or coarse % fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"strides are {tuple(strides)}, each must be a larger, whole multiple of the one before")
    return strides
