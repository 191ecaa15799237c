"""Losses on logits, for one logit of change and for several classes, that leave pixels without truth out."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from segdiff.models.replicas import gathered, summed

_EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="segdiff")
class ChangeLoss(keras.losses.Loss):
    """A weighted sum of losses by name: cross_entropy, focal, dice, tversky, lovasz.

    Called on truth N x H x W (class indices; ``ignore`` marks pixels without truth) and logits N x H x W x C: C = 1 is
    one logit of change, more are softmax logits. Region losses (dice, tversky, lovasz) are taken over the batch and
    the classes of change, without the background. A batch without a single true pixel has loss 0.

    Under a ``tf.distribute`` strategy the batch is that of all replicas together, and so is the loss: sums and counts
    are taken over all of them (lovasz, which sorts the pixels, has all of them in every replica). Keras divides it by
    the number of replicas and sums their gradients, which gives the gradient of the whole.
    """

    def __init__(self, terms: Mapping[Any, float], ignore: int = 255, name: str = "change_loss"):
        unknown = set(terms) - set(_TERMS)
        if unknown or not terms:
            raise ValueError(f"loss terms are {sorted(terms)}, allowed are {sorted(_TERMS)}")
        super().__init__(name=name, reduction="sum_over_batch_size", dtype="float32")
        self.terms = dict(terms)
        self.ignore = ignore

    def call(self, y_true, y_pred):
        """The loss, as a vector of one: Keras divides its mean by the number of replicas, but leaves a scalar alone."""
        channels = y_pred.shape[-1]
        truth = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        logits = ops.reshape(y_pred, (-1, channels))
        valid = ops.cast(ops.not_equal(truth, self.ignore), logits.dtype)
        truth = ops.where(ops.equal(truth, self.ignore), 0, truth)
        return ops.reshape(
            sum(weight * _TERMS[name](truth, logits, valid) for name, weight in self.terms.items()), (1,)
        )

    def get_config(self):
        """The constructor's arguments."""
        return {"terms": self.terms, "ignore": self.ignore, "name": self.name}


def _pixel_cross_entropy(truth, logits):
    if logits.shape[-1] == 1:
        target, logit = ops.cast(truth > 0, logits.dtype), logits[:, 0]
        return ops.relu(logit) - logit * target + ops.softplus(-ops.abs(logit))
    return ops.sparse_categorical_crossentropy(truth, logits, from_logits=True)


def valid_mean(values, valid):
    """The mean of the values where ``valid`` is 1 and not 0, over all replicas; 0 where it nowhere is."""
    total, count = summed([ops.sum(values * valid), ops.sum(valid)])
    return total / ops.maximum(count, 1.0)


def _cross_entropy(truth, logits, valid):
    return valid_mean(_pixel_cross_entropy(truth, logits), valid)


def _focal(truth, logits, valid, gamma=2.0):
    """Lin et al. 2017, without class weights: cross entropy times (1 - p_true) ** gamma."""
    entropy = _pixel_cross_entropy(truth, logits)
    return valid_mean(ops.power(1.0 - ops.exp(-entropy), gamma) * entropy, valid)


def _change_probabilities(truth, logits, valid):
    """Predicted and true membership of the classes of change, P x K each; pixels without truth are 0 in both."""
    if logits.shape[-1] == 1:
        predicted, true = ops.sigmoid(logits), ops.cast(truth > 0, logits.dtype)[:, None]
    else:
        predicted = ops.softmax(logits)[:, 1:]
        true = ops.one_hot(truth, logits.shape[-1], dtype=logits.dtype)[:, 1:]
    return predicted * valid[:, None], true * valid[:, None]


def _tversky(truth, logits, valid, false_weight=0.3, missed_weight=0.7):
    """Salehi et al. 2017: one minus the index in which missed pixels weigh more than false ones."""
    predicted, true = _change_probabilities(truth, logits, valid)
    parts = (predicted * true, predicted * (1.0 - true), (1.0 - predicted) * true)
    hit, false, missed = summed([ops.sum(part, axis=0) for part in parts])
    index = (hit + _EPSILON) / (hit + false_weight * false + missed_weight * missed + _EPSILON)
    return ops.mean(1.0 - index)


def _dice(truth, logits, valid):
    """Milletari et al. 2016: the Tversky index in which false and missed pixels weigh the same."""
    return _tversky(truth, logits, valid, 0.5, 0.5)


def _lovasz(truth, logits, valid):
    """Berman et al. 2018: the Lovasz extension of 1 - IoU, on probabilities, mean of the classes of change present."""
    predicted, true = (gathered(pixels) for pixels in _change_probabilities(truth, logits, valid))
    losses, present = [], []
    for k in range(predicted.shape[-1]):
        errors = ops.abs(true[:, k] - predicted[:, k])
        order = ops.flip(ops.argsort(ops.stop_gradient(errors)))
        sorted_true = ops.take(true[:, k], order)
        total = ops.sum(sorted_true)
        intersection = total - ops.cumsum(sorted_true)
        union = total + ops.cumsum(1.0 - sorted_true)
        jaccard = 1.0 - intersection / union
        gradient = ops.concatenate([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        losses.append(ops.sum(ops.take(errors, order) * ops.stop_gradient(gradient)))
        present.append(ops.cast(total > 0, logits.dtype))
    losses, present = ops.stack(losses), ops.stack(present)
    return ops.sum(losses * present) / ops.maximum(ops.sum(present), 1.0)


_TERMS: dict[str, Callable] = {
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "dice": _dice,
    "tversky": _tversky,
    "lovasz": _lovasz,
}
