"""The loss of semantic change detection: classes before and after, change, and the consistency between them."""

import keras
from keras import ops

from segdiff.training.losses import ChangeLoss, valid_mean


@keras.saving.register_keras_serializable(package="segdiff")
class SemanticChangeLoss(keras.losses.Loss):
    """The loss of Bi-SRNet (Ding et al. 2022): half the classes' cross entropies, change's, and the consistency.

    Called on two dicts with the keys "before", "after" and "change": of truth, each N x H x W (class indices before and
    after; change 0 or 1; ``ignore`` marks pixels without truth, of each of the three by itself), and of logits, N x H x
    W x K twice and N x H x W x 1. Each term is a mean over its pixels with truth, and 0 without one;
    ``consistency`` weighs that of ``semantic_consistency``.

    Ding et al., "Bi-Temporal Semantic Reasoning for the Semantic Change Detection in HR Remote Sensing Images", IEEE
    Transactions on Geoscience and Remote Sensing 60, 2022: the sum of L_sem / 2 over both dates, L_change and L_sc.
    """

    def __init__(self, consistency: float = 1.0, ignore: int = 255, name: str = "semantic_change_loss"):
        super().__init__(name=name, reduction="sum_over_batch_size", dtype="float32")
        self.consistency, self.ignore = consistency, ignore
        self._cross_entropy = ChangeLoss({"cross_entropy": 1.0}, ignore)

    def call(self, y_true, y_pred):
        """The loss, as a vector of one like that of ChangeLoss."""
        before, after, change = (
            self._cross_entropy.call(y_true[key], y_pred[key]) for key in ("before", "after", "change")
        )
        consistency = semantic_consistency(y_true["change"], y_pred["before"], y_pred["after"], self.ignore)
        return (before + after) / 2.0 + change + self.consistency * consistency

    def get_config(self):
        """The constructor's arguments."""
        return {"consistency": self.consistency, "ignore": self.ignore, "name": self.name}


def semantic_consistency(change, before, after, ignore: int = 255):
    """The semantic consistency loss of Ding et al. 2022, a scalar in 0..1.

    ``change`` is the truth N x H x W, ``before`` and ``after`` are logits N x H x W x K. With c the cosine between the
    two vectors of class probabilities of a pixel, its loss is 1 - c where nothing changed and c where something did:
    equal classes where unchanged, different ones where changed. The mean is over the pixels that are not ``ignore``.
    """
    p, q = ops.softmax(ops.cast(before, "float32")), ops.softmax(ops.cast(after, "float32"))
    # a probability vector is never shorter than 1 / sqrt(K)
    cosine = ops.sum(p * q, axis=-1) * ops.rsqrt(ops.sum(p * p, axis=-1) * ops.sum(q * q, axis=-1))
    change = ops.cast(change, "int32")
    valid = ops.cast(ops.not_equal(change, ignore), "float32")
    loss = ops.where(ops.equal(change, 0), 1.0 - cosine, cosine)
    return valid_mean(loss, valid)
