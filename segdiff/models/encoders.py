"""Encoders: each a keras.Model from an image to a list of feature maps, finest first."""

from collections.abc import Sequence

import keras

from segdiff.models.normalization import normalize


def convolve(x, channels: int, *, norm: str, name: str):
    """A 3 x 3 convolution, normalization and ReLU."""
    x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=norm == "none", name=f"{name}_conv")(x)
    x = normalize(x, norm, name=f"{name}_norm")
    return keras.layers.Activation("relu", name=f"{name}_relu")(x)


def unet_encoder(
    bands: int, channels: Sequence[int], *, norm: str = "batch", dropout: float = 0.0, name: str = "encoder"
) -> keras.Model:
    """The contracting half of a U-Net (Ronneberger, Fischer and Brox 2015), with padded convolutions.

    Takes N x H x W x bands of any range near -1..1, H and W multiples of 2 ** (levels - 1). Returns one map a level,
    level i of H / 2**i x W / 2**i x channels[i].
    """
    image = keras.Input((None, None, bands), name="image")
    features, x = [], image
    for level, width in enumerate(channels):
        if level:
            x = keras.layers.MaxPooling2D(2, name=f"level{level}_pool")(x)
        x = convolve(x, width, norm=norm, name=f"level{level}_a")
        x = convolve(x, width, norm=norm, name=f"level{level}_b")
        if dropout:
            x = keras.layers.SpatialDropout2D(dropout, name=f"level{level}_dropout")(x)
        features.append(x)
    return keras.Model(image, features, name=name)
