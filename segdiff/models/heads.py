"""Heads: from a decoder's map to logits at full resolution, and further ones that only training has."""

from typing import Any

import keras

from segdiff.models.decoders import LevelOutput
from segdiff.models.padding import CropToImage
from segdiff.models.replicas import never_empty
from segdiff.models.upsampling import BilinearUpsampling


def change_head(x: keras.KerasTensor, classes: int, stride: int = 1, *, name: str = "logits") -> keras.KerasTensor:
    """N x stride H x stride W x classes logits, float32 in every precision, from N x H x W x any.

    A 1 x 1 convolution at the map's own size, then bilinear enlarging in float32. Raises ValueError on numbers below 1.
    """
    if classes < 1 or stride < 1:
        raise ValueError(f"classes is {classes} and stride is {stride}, both must be 1 or more")
    x = keras.layers.Conv2D(classes, 1, name=f"{name}_conv")(x)
    if stride == 1:
        return keras.layers.Activation("linear", dtype="float32", name=name)(x)
    return BilinearUpsampling(stride, dtype="float32", name=name)(x)


def to_probabilities(logits: Any) -> Any:
    """float32 N x H x W x K from logits N x H x W x C: K is 1, of change, where C is 1 or 2, else one a class."""
    if logits.shape[-1] == 1:
        return keras.ops.sigmoid(logits)
    softmax = keras.ops.softmax(logits)
    return softmax[..., 1:] if logits.shape[-1] == 2 else softmax


class DeepSupervision(keras.Model):
    """Trains a detector with further heads on the coarser levels of its decoder (Lee et al. 2015).

    ``detector`` is a functional model with one output of logits whose decoder left ``LevelOutput``s. Every one but the
    finest gets a head of its own, with logits at the detector's full size. Compiled with a Keras Loss, the training
    loss is that of the detector's logits plus, of the k-th coarser level, ``decay ** k`` times that of its head;
    metrics and the validation loss are of the detector's logits alone, so that they compare with and without.

    It shares the layers of the detector and is fitted in its place:

        training = DeepSupervision(detector)
        training.compile(optimizer, loss=ChangeLoss({"cross_entropy": 1.0}))
        training.fit(batches)
        detector.save("model.keras")

    A model around the detector and not outputs of it: the detector keeps its one output and what is saved has no head
    that prediction does not need. ``add_loss`` inside the detector would need the truth as an input of its graph.
    Called, it returns the list of logits N x H x W x C, the detector's first, then from fine to coarse. Its
    ``save_weights`` holds the further heads, so that training can go on.

    Raises ValueError where the detector has several outputs or no coarser level.
    """

    def __init__(self, detector: keras.Model, decay: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(detector.outputs) != 1:
            raise ValueError(f"the detector has {len(detector.outputs)} outputs, deep supervision takes one of logits")
        levels = sorted((layer for layer in detector.layers if isinstance(layer, LevelOutput)), key=lambda x: x.stride)
        if len(levels) < 2:
            raise ValueError("the detector's decoder has no coarser level to supervise; give it 3 or more levels")
        logits = detector.outputs[0]
        heads = []
        for level in levels[1:]:
            name = f"auxiliary_stride{level.stride}"
            head = change_head(level.output, logits.shape[-1], level.stride, name=name)
            heads.append(CropToImage(dtype="float32", name=f"{name}_crop")(head, logits))
        self.decay = decay
        # The only reference: the layers of two models that are both attributes would be saved and loaded twice.
        self.supervised = keras.Model(detector.inputs, [logits, *heads], name="supervised")
        self.built = True  # all weights exist: a backup can be loaded before the first batch

    def call(self, inputs, training=None):
        """The list of logits, the detector's first."""
        return never_empty(lambda pairs: self.supervised(pairs, training=training), inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of the detector's logits; in training with those of the further heads."""
        logits, *auxiliary = y_pred
        loss = super().compute_loss(x, y, logits, sample_weight, training)
        if training:
            for power, further in enumerate(auxiliary, start=1):
                loss += self.decay**power * self.loss(y, further, sample_weight=sample_weight)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """The metrics of the detector's logits."""
        return super().compute_metrics(x, y, y_pred[0], sample_weight)
