"""Normalization after a convolution; batch normalization in one pass over memory where Keras takes several."""

import math

import keras
from keras import ops

MOMENTUM = 0.98
"""Of the moving averages: short trainings must reach theirs too."""


@keras.saving.register_keras_serializable(package="segdiff")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalization over the last axis of N x H x W x C, by TensorFlow's fused kernel.

    Outside XLA Keras computes moments, scale and shift one after the other, each a pass over memory. The weights and
    the numbers are those of Keras (a file names a layer by its class, so weights move between the two with
    ``set_weights``); its own code runs on other backends, ranks, axes, with masks and where ``renorm`` or
    ``synchronized`` is asked for.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalized N x H x W x C in the compute dtype."""
        x = ops.cast(inputs, self.compute_dtype)
        fits = len(x.shape) == 4 and self.axis in (-1, 3) and self.center and self.scale and mask is None
        fits = fits and not (self.synchronized or self.renorm)
        if keras.backend.backend() != "tensorflow" or not fits or isinstance(x, keras.KerasTensor):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        learn = bool(training) and self.trainable
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=ops.cast(self.gamma, "float32"),
            offset=ops.cast(self.beta, "float32"),
            mean=tf.constant([], tf.float32) if learn else ops.cast(self.moving_mean, "float32"),
            variance=tf.constant([], tf.float32) if learn else ops.cast(self.moving_variance, "float32"),
            epsilon=self.epsilon,
            data_format="NHWC",
            is_training=learn,
        )
        if learn:
            # the kernel's variance is over N - 1, Keras keeps that over N
            count = ops.cast(ops.prod(ops.shape(x)[:3]), "float32")
            variance = variance * ((count - 1.0) / count)
            for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + ops.cast(new, moving.dtype) * (1.0 - self.momentum))
        return y


def normalize(x, norm: str, *, name: str):
    """Batch or group normalization of N x H x W x C, or none."""
    if norm == "batch":
        return FusedBatchNormalization(momentum=0.98, epsilon=1e-3, name=name)(x)
    if norm == "group":
        return keras.layers.GroupNormalization(math.gcd(x.shape[-1], 8), name=name)(x)
    if norm == "none":
        return x
    raise ValueError(f"norm is {norm!r}, allowed are 'batch', 'group' and 'none'")
