"""The change detector: encode twice, align, subtract, decode; with all that prediction needs inside the model file."""

from dataclasses import asdict, dataclass

import keras

from segdiff.config import ModelConfig
from segdiff.models.alignment import AlignFeatures
from segdiff.models.decoders import unet_decoder
from segdiff.models.difference import Difference
from segdiff.models.encoders import unet_encoder
from segdiff.models.padding import CropToImage, PadToMultiple


@dataclass(frozen=True)
class Settings:
    """What prediction needs besides the weights; it travels inside the model file."""

    classes: tuple[str, ...] = ("background", "change")
    """Names, 0 first. Two classes are binary whether the model has one logit or two."""
    threshold: float = 0.5
    """A pixel is change where its probability of change reaches this."""
    tile: int = 512
    overlap: int = 64
    stride: int = 1
    """Total stride of the network: tiles begin at its multiples."""


@keras.saving.register_keras_serializable(package="segdiff")
class ChangeDetector(keras.Model):
    """A functional model from [before, after], each N x H x W x bands in 0..255, to N x H x W x C float32 logits.

    C = 1 is one logit of change (sigmoid); more are softmax logits, class 0 being no change.
    """

    @property
    def settings(self) -> Settings:
        """Classes, threshold and tiles, saved with the model."""
        return getattr(self, "_settings", Settings())

    @settings.setter
    def settings(self, value: Settings) -> None:
        self._settings = value

    @property
    def bands(self) -> int:
        """Bands of both images."""
        return self.inputs[0].shape[-1]

    def get_config(self):
        """The functional graph and the settings."""
        return {**super().get_config(), "settings": asdict(self.settings)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model with its settings, without weights."""
        config = dict(config)
        settings = config.pop("settings")
        model = super().from_config(config, custom_objects=custom_objects)
        model.settings = Settings(**{**settings, "classes": tuple(settings["classes"])})
        return model


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
        if config != "unet_diff":
            raise ValueError(f"architecture {config!r} does not exist, allowed is 'unet_diff'")
        config = ModelConfig()
    if bands < 1 or classes < 1:
        raise ValueError(f"bands is {bands} and classes is {classes}, both must be 1 or more")
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
    names = ("background", "change") if classes <= 2 else ("background", *(f"class {k}" for k in range(1, classes)))
    model.settings = Settings(classes=names, stride=stride)
    return model
