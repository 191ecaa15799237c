"""The change detector as a Keras model, with all that prediction needs inside the model file."""

from dataclasses import asdict

import keras

from segdiff.model_files import Settings
from segdiff.models.replicas import never_empty


@keras.saving.register_keras_serializable(package="segdiff")
class ChangeDetector(keras.Model):
    """A functional model from [before, after], each N x H x W x bands in 0..255, to N x H x W x C float32 logits.

    C = 1 is one logit of change (sigmoid); more are softmax logits, class 0 being no change.
    """

    def call(self, inputs, training=None, mask=None):
        """The logits; of no pair, too, where a replica has no share of a batch."""
        forward = super().call
        return never_empty(lambda pairs: forward(pairs, training=training, mask=mask), inputs)

    @property
    def settings(self) -> Settings:
        """Classes, threshold and tiles, saved with the model."""
        return getattr(self, "_settings", Settings())

    @settings.setter
    def settings(self, value: Settings) -> None:
        self._settings = value

    @property
    def bands(self) -> int:
        """Bands of the image before."""
        return self.inputs[0].shape[-1]

    @property
    def bands_after(self) -> int:
        """Bands of the image after: others than those before only where each has an encoder of its own."""
        return self.inputs[1].shape[-1]

    def get_config(self):
        """The functional graph and the settings."""
        return {**super().get_config(), "settings": asdict(self.settings)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model with its settings, without weights."""
        config = dict(config)
        settings = config.pop("settings")
        model = super().from_config(config, custom_objects=custom_objects)
        model.settings = Settings.from_json(settings)
        return model


def class_names(channels: int) -> tuple[str, ...]:
    """What the classes of a model with that many output channels are called where nobody named them."""
    return ("background", "change") if channels <= 2 else ("background", *(f"class {k}" for k in range(1, channels)))
