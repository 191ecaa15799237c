"""Encoders: each a keras.Model from an image to a list of feature maps, finest first."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from segdiff.models import backbones, mix_transformer
from segdiff.models.normalization import normalize

ENCODERS = ("unet", *backbones.BACKBONES, *mix_transformer.DEPTHS_AND_WIDTHS)
"""The names that ``build_encoder`` takes."""
_CHANNELS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Encoder:
    """A model from N x H x W x bands in 0..255 to feature maps, finest first, and the maps' strides."""

    model: keras.Model
    strides: tuple[int, ...]
    """Map k is H / strides[k] x W / strides[k], H and W being multiples of strides[-1]."""


def build_encoder(
    name: str,
    *,
    bands: int,
    channels: Sequence[int] = _CHANNELS,
    norm: str = "batch",
    dropout: float = 0.0,
    weights: str | None = None,
    freeze: bool = False,
    model_name: str = "encoder",
) -> Encoder:
    """The encoder of that name, one of ENCODERS, which brings 0..255 to its own range inside.

    ``channels`` and ``norm`` are those of ``unet``; the others have their own and take the defaults alone.
    ``dropout`` is ``unet``'s spatial dropout after each level, and elsewhere the rate of stochastic depth in the last
    block, for the networks that were published with it: EfficientNets and Mix Transformers. ``weights`` is None, for
    random ones, or ``imagenet`` (see segdiff.models.pretrained, also on other bands than three). ``freeze`` takes the
    encoder out of training, the statistics of its batch normalization too. Raises ValueError on a name or combination
    that does not exist and WeightsError, a ValueError, where weights cannot be had.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder {name!r} does not exist, allowed are {', '.join(ENCODERS)}")
    if bands < 1:
        raise ValueError(f"bands is {bands}, it must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, it must be at least 0 and less than 1")
    if weights not in (None, "imagenet"):
        raise ValueError(f"weights is {weights!r}, allowed are None and 'imagenet'")
    if weights and name not in backbones.BACKBONES:
        raise ValueError(f"encoder {name} has no ImageNet weights, only random ones (weights: null)")
    if name == "unet":
        image = keras.Input((None, None, bands), name="image")
        # 0..255 does not survive mixed precision where a band has fractions: rescaled in float32
        rescaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescale")(image)
        model = keras.Model(image, _unet_levels(rescaled, channels, norm, dropout), name=model_name)
        strides = tuple(2**level for level in range(len(channels)))
    else:
        if tuple(channels) != _CHANNELS or norm != "batch":
            raise ValueError(f"encoder {name} has its own channels and normalization, only unet's can be chosen")
        if name in backbones.BACKBONES:
            model, strides = _backbone(name, bands, dropout, weights, model_name), backbones.STRIDES
        else:
            model = mix_transformer.mix_transformer(name, bands, dropout=dropout, name=model_name)
            strides = mix_transformer.STRIDES
    if freeze:
        model.trainable = False
    return Encoder(model, strides)


def _backbone(name: str, bands: int, dropout: float, weights: str | None, model_name: str) -> keras.Model:
    if dropout and backbones.BACKBONES[name].dropout is None:
        raise ValueError(f"encoder {name} has no stochastic depth, dropout must be 0")
    model = backbones.BackboneEncoder(name, bands, dropout=dropout, name=model_name)
    if weights == "imagenet":
        from segdiff.models.pretrained import load_imagenet

        load_imagenet(model)
    return model


def learning_rate_scales(model: keras.Model, decay: float) -> list[float]:
    """Layer-wise decay of the learning rate: a factor for each of ``model.trainable_variables``, in their order.

    Every keras.Model among the model's layers counts as an encoder. The layers that its deepest map alone needs learn
    at ``decay`` times the rate, those of the map above at decay ** 2, and so on to the stem; all else at the whole
    rate (Clark and others 2020, "ELECTRA", stage by stage). Give it to segdiff.training.optimizers.LayerwiseAdamW.
    """
    scales: dict[int, float] = {}
    for encoder in model.layers:
        if not isinstance(encoder, keras.Model):
            continue
        for level, feature in enumerate(encoder.outputs):
            for layer in keras.Model(encoder.inputs, feature).layers:
                for variable in layer.trainable_variables:
                    scales.setdefault(id(variable), decay ** (len(encoder.outputs) - level))
    return [scales.get(id(variable), 1.0) for variable in model.trainable_variables]


def convolve(x, channels: int, *, norm: str, name: str):
    """A 3 x 3 convolution, normalization and ReLU."""
    x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=norm == "none", name=f"{name}_conv")(x)
    x = normalize(x, norm, name=f"{name}_norm")
    return keras.layers.Activation("relu", name=f"{name}_relu")(x)


def unet_encoder(
    bands: int, channels: Sequence[int], *, norm: str = "batch", dropout: float = 0.0, name: str = "encoder"
) -> keras.Model:
    """The encoder ``unet`` on images of any range near -1..1, not rescaled inside."""
    image = keras.Input((None, None, bands), name="image")
    return keras.Model(image, _unet_levels(image, channels, norm, dropout), name=name)


def _unet_levels(x, channels: Sequence[int], norm: str, dropout: float) -> list[keras.KerasTensor]:
    """The contracting half of a U-Net (Ronneberger, Fischer and Brox 2015), with padded convolutions.

    Level i has H / 2**i x W / 2**i x channels[i].
    """
    features = []
    for level, width in enumerate(channels):
        if level:
            x = keras.layers.MaxPooling2D(2, name=f"level{level}_pool")(x)
        x = convolve(x, width, norm=norm, name=f"level{level}_a")
        x = convolve(x, width, norm=norm, name=f"level{level}_b")
        if dropout:
            x = keras.layers.SpatialDropout2D(dropout, name=f"level{level}_dropout")(x)
        features.append(x)
    return features
