"""The networks by name, each assembled from its parts."""

from typing import get_args

import keras

from segdiff.config import Architecture, ModelConfig
from segdiff.models.alignment import AlignFeatures
from segdiff.models.change_detector import ChangeDetector, Settings, class_names
from segdiff.models.decoders import unet_decoder
from segdiff.models.difference import Difference
from segdiff.models.encoders import unet_encoder
from segdiff.models.fc_siam import fc_ef, fc_siam_conc, fc_siam_diff
from segdiff.models.padding import CropToImage, PadToMultiple

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)


def build_change_detector(
    config: ModelConfig | str = "unet_diff", *, bands: int = 3, classes: int = 1
) -> ChangeDetector:
    """A change detector with random weights.

    ``config`` is an architecture's name or a typed model configuration; ``classes`` the number of output channels:
    1 is one logit of change, 2 and more are softmax logits (class 0: no change). The model takes [before, after], each
    N x H x W x bands in 0..255 of any size, and returns N x H x W x classes logits in float32. Raises ValueError
    on an architecture that does not exist, and on numbers below 1.

        model = build_change_detector("unet_diff", bands=3, classes=1)
        logits = model([before, after])
    """
    if isinstance(config, str):
        if config not in ARCHITECTURES:
            raise ValueError(f"architecture {config!r} does not exist, allowed are {', '.join(ARCHITECTURES)}")
        config = ModelConfig(architecture=config)
    if bands < 1 or classes < 1:
        raise ValueError(f"bands is {bands} and classes is {classes}, both must be 1 or more")
    if config.architecture == "unet_diff":
        return _unet_diff(config, bands, classes)
    published = {"fc_ef": fc_ef, "fc_siam_conc": fc_siam_conc, "fc_siam_diff": fc_siam_diff}
    return published[config.architecture](bands, classes)


def _unet_diff(config: ModelConfig, bands: int, classes: int) -> ChangeDetector:
    """Encode twice, align, subtract, decode: U-Net encoders and decoder, the differences between them."""
    encoder = config.encoder
    stride = 2 ** (len(encoder.channels) - 1)

    before = keras.Input((None, None, bands), name="before")
    after = keras.Input((None, None, bands), name="after")
    # 0..255 does not survive mixed precision where a band has fractions: padded and rescaled in float32
    rescale = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescale")
    pad = PadToMultiple(stride, dtype="float32", name="pad")

    def new_encoder(name: str) -> keras.Model:
        return unet_encoder(bands, encoder.channels, norm=encoder.norm, dropout=encoder.dropout, name=name)

    encode_before = new_encoder("encoder" if config.shared_encoder else "encoder_before")
    encode_after = encode_before if config.shared_encoder else new_encoder("encoder_after")
    features_before = encode_before(rescale(pad(before)))
    features_after = encode_after(rescale(pad(after)))
    differences = []
    for level, pair in enumerate(zip(features_before, features_after, strict=True)):
        aligned = AlignFeatures(config.align, name=f"align{level}")(list(pair))
        differences.append(Difference(config.difference, name=f"difference{level}")(aligned))
    decoded = unet_decoder(differences, config.decoder_channels or encoder.channels[:-1], norm=encoder.norm)
    logits = keras.layers.Conv2D(classes, 1, name="head")(decoded)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(CropToImage(name="crop")(logits, before))

    model = ChangeDetector([before, after], logits, name=config.architecture)
    model.settings = Settings(classes=class_names(classes), stride=stride)
    return model
