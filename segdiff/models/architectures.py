"""The networks by name, each assembled from its parts."""

from collections.abc import Callable, Sequence
from typing import get_args

import keras

from segdiff.config import OURS, Architecture, DecoderConfig, EncoderConfig, ModelConfig
from segdiff.model_files import Settings
from segdiff.models.alignment import AlignFeatures
from segdiff.models.change_detector import ChangeDetector, class_names
from segdiff.models.decoders import fpn_decoder, mlp_decoder, unet_decoder
from segdiff.models.difference import Difference
from segdiff.models.encoders import build_encoder, encoder_strides, require_possible
from segdiff.models.fc_siam import fc_ef, fc_siam_conc, fc_siam_diff
from segdiff.models.heads import change_head
from segdiff.models.padding import CropToImage, PadToMultiple

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)


def build_change_detector(
    config: ModelConfig | str = "unet_diff", *, bands: int | tuple[int, int] = 3, classes: int = 1
) -> ChangeDetector:
    """A change detector with random weights, but for the encoders that the configuration gives others.

    ``config`` is an architecture's name or a typed model configuration; ``bands`` those of both images, or of the image
    before and of the one after, which takes two encoders; ``classes`` the number of output channels: 1 is one logit of
    change, 2 and more are softmax logits (class 0: no change). The model takes [before, after], each N x H x W x bands
    in 0..255 of any size, and returns N x H x W x classes logits in float32 at the size of before. Raises ValueError on
    an architecture that does not exist, on numbers below 1 and on parts that do not fit each other.

        model = build_change_detector("unet_diff", bands=3, classes=1)
        logits = model([before, after])
    """
    if isinstance(config, str):
        if config not in ARCHITECTURES:
            raise ValueError(f"architecture {config!r} does not exist, allowed are {', '.join(ARCHITECTURES)}")
        config = ModelConfig.model_validate({"architecture": config})
    both = tuple(bands) if isinstance(bands, Sequence) else (bands, bands)
    if len(both) != 2:
        raise ValueError(f"bands is {bands}, it must be one number, or two: before and after")
    if min(both) < 1 or classes < 1:
        raise ValueError(f"bands is {bands} and classes is {classes}, both must be 1 or more")
    if config.architecture in OURS:
        return _two_encoders(config, both, classes)
    if both[0] != both[1]:
        raise ValueError(f"{config.architecture} takes the same bands before and after, bands is {both}")
    published = {"fc_ef": fc_ef, "fc_siam_conc": fc_siam_conc, "fc_siam_diff": fc_siam_diff}
    return published[config.architecture](both[0], classes)


def common_strides(config: ModelConfig) -> tuple[int, ...]:
    """The strides at which the encoders of one of OURS are subtracted, without building them.

    They are those that both encoders have. Raises ValueError where there are fewer than two, where the decoder has
    channels for another number of levels, or where an encoder has not what is asked of it.
    """
    for encoder in (config.encoder, config.encoder_after or config.encoder):
        require_possible(encoder)
    before = encoder_strides(config.encoder)
    after = encoder_strides(config.encoder_after or config.encoder)
    strides = tuple(stride for stride in before if stride in after)
    if len(strides) < 2:
        raise ValueError(
            f"the encoders have the strides {before} and {after}, at least two must be the same to be subtracted"
        )
    channels = config.decoder.channels
    if isinstance(channels, tuple) and len(channels) != len(strides) - 1:
        raise ValueError(
            f"decoder.channels has {len(channels)} entries, {len(strides)} levels need {len(strides) - 1}: "
            "one per level but the deepest"
        )
    return strides


def _two_encoders(config: ModelConfig, bands: tuple[int, int], classes: int) -> ChangeDetector:
    """Encode twice, align, subtract, decode: any encoders and decoder, with the differences between them."""
    shared = config.shared_encoder and config.encoder_after is None
    if shared and bands[0] != bands[1]:
        raise ValueError(f"one encoder for both images takes the same bands, bands is {bands}; shared_encoder: false")
    strides = common_strides(config)

    images = [keras.Input((None, None, n), name=name) for n, name in zip(bands, ("before", "after"), strict=True)]
    pad = PadToMultiple(strides[-1], dtype="float32", name="pad")  # 0..255 does not survive mixed precision
    if shared:
        encode = _maps_at(strides, config.encoder, bands[0], "encoder")
        before, after = (encode(pad(image)) for image in images)
    else:
        sides = zip((config.encoder, config.encoder_after or config.encoder), bands, images, strict=True)
        before, after = (_maps_at(strides, side, n, f"encoder_{image.name}")(pad(image)) for side, n, image in sides)
    differences = []
    for level, (stride, *pair) in enumerate(zip(strides, before, after, strict=True)):
        if config.align != "strict":
            # images of two sizes are padded by two shares of theirs: only what they show is brought together
            sides = zip(pair, images, ("before", "after"), strict=True)
            pair = [CropToImage(stride, name=f"crop_{side}{level}")(x, image) for x, image, side in sides]
        aligned = AlignFeatures(config.align, project_channels=not shared, name=f"align{level}")(pair)
        difference = Difference(config.difference, name=f"difference{level}")(aligned)
        if config.align != "strict":
            difference = PadToMultiple(strides[-1] // stride, name=f"pad{level}")(difference)
        differences.append(difference)

    decoded = _decode(config.decoder, differences, strides, config.encoder)
    # in float32: cropping keeps the numbers, and no later rounding may touch the logits
    logits = CropToImage(dtype="float32", name="crop")(change_head(decoded, classes, strides[0]), images[0])
    model = ChangeDetector(images, logits, name=config.architecture)
    model.settings = Settings(classes=class_names(classes), stride=strides[-1])
    return model


def _maps_at(
    strides: Sequence[int], config: EncoderConfig, bands: int, name: str
) -> Callable[[keras.KerasTensor], list[keras.KerasTensor]]:
    """An encoder without what only coarser maps need, called for its maps at these strides alone."""
    own = encoder_strides(config)
    levels = own.index(strides[-1]) + 1
    cut = {"channels": config.channels[:levels]} if config.name == "unet" else {"levels": levels}
    encoder = build_encoder(config.model_copy(update=cut), bands=bands, name=name).model
    return lambda image: [x for stride, x in zip(own, encoder(image), strict=False) if stride in strides]


def _decode(
    config: DecoderConfig, differences: Sequence[keras.KerasTensor], strides: Sequence[int], encoder: EncoderConfig
) -> keras.KerasTensor:
    """One map at the first stride, by the decoder that is asked for."""
    if config.name == "unet":
        widths: Sequence[int] = _WIDTHS
        if encoder.name == "unet":
            own = zip(encoder_strides(encoder), encoder.channels, strict=True)
            widths = [width for stride, width in own if stride in strides]
        return unet_decoder(
            differences,
            config.channels if isinstance(config.channels, tuple) else widths[: len(strides) - 1],
            strides,
            upsampling=config.upsampling or "nearest",
            attention=config.attention,
            squeeze_excite=config.squeeze_excite,
            norm=encoder.norm,
        )
    channels = config.channels if isinstance(config.channels, int) else _CHANNELS
    if config.name == "fpn":
        upsampling = config.upsampling or "nearest"
        return fpn_decoder(differences, channels, strides, upsampling=upsampling, norm=encoder.norm)
    upsampling = config.upsampling or "bilinear"
    return mlp_decoder(differences, channels, strides, upsampling=upsampling, norm=encoder.norm)


_WIDTHS = (32, 64, 128, 256)
"""Of the decoder unet where the encoder, having widths of its own, gives it none."""
_CHANNELS = 64
"""Of the decoders fpn and mlp."""
