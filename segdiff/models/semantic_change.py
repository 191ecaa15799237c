"""Semantic change: what was there before, what is there after, and where it changed, in one network."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from segdiff.models.decoders import unet_decoder
from segdiff.models.difference import Difference, Mode
from segdiff.models.encoders import Encoder
from segdiff.models.heads import change_head
from segdiff.models.padding import CropToImage, PadToMultiple
from segdiff.models.replicas import never_empty, replica_count
from segdiff.models.upsampling import Interpolation


@keras.saving.register_keras_serializable(package="segdiff")
class SemanticChangeDetector(keras.Model):
    """A functional model from [before, after] to a dict of three float32 logits, whose loss sees all three together.

    "before" and "after" are N x H x W x K logits of the class of each image, "change" is N x H x W x 1, the logit of a
    change. Keras gives each output a loss of its own, and the consistency between them has none: here the loss given to
    ``compile`` takes the dict of truths and the dict of logits, as ``training.semantic_loss.SemanticChangeLoss`` does.
    """

    def call(self, inputs, training=None, mask=None):
        """The dict of logits; of no pair, too, where a replica has no share of a batch."""
        forward = super().call
        return never_empty(lambda pairs: forward(pairs, training=training, mask=mask), inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss of all outputs, and the layers' own."""
        loss = self.loss(y, y_pred, sample_weight=sample_weight)
        return loss + ops.sum(ops.stack(self.losses)) / replica_count() if self.losses else loss


def build_semantic_change_detector(
    encoder: Encoder,
    *,
    classes: int,
    channels: Sequence[int],
    difference: Mode = "absolute",
    upsampling: Interpolation = "nearest",
    norm: str = "batch",
) -> SemanticChangeDetector:
    """One encoder and one decoder of classes for both images, and a decoder of change for their difference.

    The triple branch of SSCD-l (Ding et al. 2022, "Bi-Temporal Semantic Reasoning for the Semantic Change Detection in
    HR Remote Sensing Images"), with the decoder of a U-Net in each branch. ``encoder`` is one of ``build_encoder``, or
    a model and its strides of your own. ``classes`` is K, the number of classes that an image has, 2 or more;
    ``channels`` are the decoders', one a level but the deepest. The model takes [before, after] as the encoder does, of
    any size, and returns {"before": N x H x W x K, "after": N x H x W x K, "change": N x H x W x 1}. Raises ValueError
    on numbers that do not fit each other.

        encoder = build_encoder("efficientnet_lite_b0", bands=3)
        model = build_semantic_change_detector(encoder, classes=6, channels=(16, 32, 64, 128))
        model.compile("adam", loss=SemanticChangeLoss())
    """
    if classes < 2:
        raise ValueError(f"classes is {classes}, there must be 2 or more to tell apart")
    encode, strides = encoder.model, encoder.strides
    images = [keras.Input(encode.input_shape[1:], name=name) for name in ("before", "after")]
    pad = PadToMultiple(strides[-1], dtype="float32", name="pad")
    crop = CropToImage(dtype="float32", name="crop")
    before, after = (encode(pad(image)) for image in images)

    def decode(maps: Sequence[keras.KerasTensor], outputs: int, name: str) -> keras.KerasTensor:
        decoded = unet_decoder(maps, channels, strides, upsampling=upsampling, norm=norm, name=name)
        return change_head(decoded, outputs, strides[0])

    maps = [keras.Input(level.shape[1:], name=f"level{k}") for k, level in enumerate(before)]
    classify = keras.Model(maps, decode(maps, classes, "decoder"), name="classify")
    differences = [
        Difference(difference, name=f"difference{k}")(list(pair))
        for k, pair in enumerate(zip(before, after, strict=True))
    ]
    logits = {
        "before": classify(before),
        "after": classify(after),
        "change": decode(differences, 1, "change_decoder"),
    }
    outputs: dict[str, Any] = {name: crop(x, images[0]) for name, x in logits.items()}
    return SemanticChangeDetector(images, outputs, name="semantic_change")
