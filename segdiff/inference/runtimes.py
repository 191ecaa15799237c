"""What computes the probabilities of a batch of tiles."""

from collections.abc import Callable

import keras
import numpy as np

from segdiff.models.change_detector import ChangeDetector
from segdiff.models.precision import choose_precision, with_precision

Runtime = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(before, after), uint8 N x h x w x bands each -> float32 N x h x w x K probabilities.

K is 1, the probability of change, for binary models, else the number of classes.
"""


def tensorflow_runtime(model: ChangeDetector, precision: str = "auto") -> Runtime:
    """The model as a TensorFlow graph, in the precision that suits the processor."""
    import tensorflow as tf

    policy, _ = choose_precision(precision, model)
    fast = with_precision(model, policy)

    @tf.function(reduce_retracing=True)
    def probabilities(before, after):
        logits = fast([before, after], training=False)
        if logits.shape[-1] == 1:
            return keras.ops.sigmoid(logits)
        softmax = keras.ops.softmax(logits)
        return softmax[..., 1:] if logits.shape[-1] == 2 else softmax

    return lambda before, after: probabilities(tf.constant(before), tf.constant(after)).numpy()
