"""Decoders: from a pyramid of differences, finest first, to one map at the finest level's size."""

from collections.abc import Sequence

import keras

from segdiff.models.encoders import convolve


def unet_decoder(
    differences: Sequence[keras.KerasTensor], channels: Sequence[int], *, norm: str = "batch", name: str = "decoder"
) -> keras.KerasTensor:
    """The expanding half of a U-Net: upsample, concatenate the finer difference, convolve twice.

    ``channels`` has one entry a level but the deepest, finest first. Both halves of a concatenation are first brought
    to the level's channels by a 1 x 1 convolution, the coarse half before it is enlarged: at full resolution the 3 x 3
    convolutions over wide concatenations would cost more than all the rest.
    """
    x = differences[-1]
    for level in reversed(range(len(channels))):
        width = channels[level]
        x = keras.layers.Conv2D(width, 1, name=f"{name}_level{level}_coarse")(x)
        x = keras.layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_level{level}_upsample")(x)
        fine = keras.layers.Conv2D(width, 1, name=f"{name}_level{level}_fine")(differences[level])
        x = keras.layers.Concatenate(name=f"{name}_level{level}_concatenate")([x, fine])
        x = convolve(x, width, norm=norm, name=f"{name}_level{level}_a")
        x = convolve(x, width, norm=norm, name=f"{name}_level{level}_b")
    return x
