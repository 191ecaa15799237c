"""Encoders: each a keras.Model from an image to a list of feature maps, finest first."""

from dataclasses import dataclass
from typing import get_args

import keras

from segdiff.config import EncoderConfig, EncoderName
from segdiff.models import backbones, mix_transformer
from segdiff.models.normalization import normalize

ENCODERS: tuple[str, ...] = get_args(EncoderName)
"""The names that ``build_encoder`` takes."""


@dataclass(frozen=True)
class Encoder:
    """A model from N x H x W x bands in 0..255 to feature maps, finest first, and the maps' strides."""

    model: keras.Model
    strides: tuple[int, ...]
    """Map k is H / strides[k] x W / strides[k], H and W being multiples of strides[-1]."""


def encoder_strides(config: EncoderConfig) -> tuple[int, ...]:
    """The strides of an encoder's maps, without building it. Raises ValueError on more levels than there are."""
    if config.name == "unet":
        return tuple(2**level for level in range(len(config.channels)))
    strides = backbones.STRIDES if config.name in backbones.BACKBONES else mix_transformer.STRIDES
    if config.levels is not None and config.levels > len(strides):
        raise ValueError(f"{config.name} has {len(strides)} levels, levels is {config.levels}")
    return strides[: config.levels]


def require_possible(config: EncoderConfig) -> None:
    """Raises ValueError on options that this encoder has not, without building it."""
    encoder_strides(config)
    if config.weights and config.name not in backbones.BACKBONES:
        raise ValueError(f"encoder {config.name} has no ImageNet weights, only random ones (weights: null)")
    if config.dropout and config.name in backbones.BACKBONES and backbones.BACKBONES[config.name].dropout is None:
        raise ValueError(f"encoder {config.name} has no stochastic depth, dropout must be 0")


def build_encoder(config: EncoderConfig | str, *, bands: int, name: str = "encoder") -> Encoder:
    """The encoder of that configuration or name (one of ENCODERS), which brings 0..255 to its own range inside.

    ``channels`` and ``norm`` are those of ``unet``; the others are built as published, their batch normalization over
    each replica's share alone where ``norm`` is ``local``. ``dropout`` is ``unet``'s
    spatial dropout after each level, and elsewhere the rate of stochastic depth in the last block, for the networks
    that were published with it: EfficientNets and Mix Transformers. ``levels`` leaves out the coarsest maps and what
    only they need. ``weights`` is None, for random ones, or ``imagenet`` (see segdiff.models.pretrained, also on other
    bands than three). ``freeze`` takes the encoder out of training, the statistics of its batch normalization too.
    ``name`` is the Keras model's. Raises ValueError on a name or combination that does not exist and WeightsError, a
    ValueError, where weights cannot be had.
    """
    if isinstance(config, str):
        if config not in ENCODERS:
            raise ValueError(f"encoder {config!r} does not exist, allowed are {', '.join(ENCODERS)}")
        config = EncoderConfig(name=config)
    if bands < 1:
        raise ValueError(f"bands is {bands}, it must be 1 or more")
    require_possible(config)
    strides = encoder_strides(config)
    if config.name == "unet":
        model = _unet(config, bands, name)
    elif config.name in backbones.BACKBONES:
        model = _backbone(config, bands, len(strides), name)
    else:
        levels = len(strides)
        model = mix_transformer.mix_transformer(config.name, bands, dropout=config.dropout, levels=levels, name=name)
    if config.freeze:
        model.trainable = False
    return Encoder(model, strides)


def _backbone(config: EncoderConfig, bands: int, levels: int, name: str) -> keras.Model:
    model = backbones.BackboneEncoder(
        config.name, bands, dropout=config.dropout, levels=levels, local=config.norm == "local", name=name
    )
    if config.weights == "imagenet":
        from segdiff.models.pretrained import load_imagenet

        load_imagenet(model)
    return model


def learning_rate_scales(model: keras.Model, decay: float) -> list[float]:
    """Layer-wise decay of the learning rate: a factor for each of ``model.trainable_variables``, in their order.

    Every keras.Model of several outputs among the model's layers counts as an encoder. The layers that its deepest map
    alone needs learn at ``decay`` times the rate, those of the map above at decay ** 2, and so on to the stem; all else
    at the whole rate (Clark and others 2020, "ELECTRA", stage by stage). Give it to
    segdiff.training.optimizers.LayerwiseAdamW.
    """
    scales: dict[int, float] = {}
    for encoder in model.layers:
        if not isinstance(encoder, keras.Model) or len(encoder.outputs) < 2:
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


def _unet(config: EncoderConfig, bands: int, name: str) -> keras.Model:
    """The contracting half of a U-Net (Ronneberger, Fischer and Brox 2015), with padded convolutions.

    Level i has H / 2**i x W / 2**i x channels[i].
    """
    image = keras.Input((None, None, bands), name="image")
    # 0..255 does not survive mixed precision where a band has fractions: rescaled in float32
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescale")(image)
    features = []
    for level, width in enumerate(config.channels):
        if level:
            x = keras.layers.MaxPooling2D(2, name=f"level{level}_pool")(x)
        x = convolve(x, width, norm=config.norm, name=f"level{level}_a")
        x = convolve(x, width, norm=config.norm, name=f"level{level}_b")
        if config.dropout:
            x = keras.layers.SpatialDropout2D(config.dropout, name=f"level{level}_dropout")(x)
        features.append(x)
    return keras.Model(image, features, name=name)
