"""Normalization after a convolution; batch normalization in one pass over memory where Keras takes several."""

import math

import keras
from keras import ops

from segdiff.models.replicas import present, replica_count, side_by_side

MOMENTUM = 0.98
"""Of the moving averages: short trainings must reach theirs too."""


@keras.saving.register_keras_serializable(package="segdiff")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalization over the last axis of N x H x W x C, by TensorFlow's fused kernel.

    Outside XLA Keras computes moments, scale and shift one after the other, each a pass over memory. The weights and
    the numbers are those of Keras (a file names a layer by its class, so weights move between the two with
    ``set_weights``); its own code runs on other backends, ranks, axes, with masks and where ``renorm`` or
    ``synchronized`` is asked for.

    In training on several replicas of a ``tf.distribute`` strategy Keras' own code runs too, with the moments of the
    whole batch: they follow from the count, mean and variance of every replica, one without an example weighing
    nothing. ``local=True`` leaves each replica its own moments and the fused kernel; a replica without an example
    then keeps its moving averages.
    """

    local = False  # of layers that take this class after they were made, too

    def __init__(self, *args, local: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.local = local

    def call(self, inputs, training=None, mask=None):
        """Normalized N x H x W x C in the compute dtype."""
        x = ops.cast(inputs, self.compute_dtype)
        fits = len(x.shape) == 4 and self.axis in (-1, 3) and self.center and self.scale and mask is None
        fits = fits and not (self.synchronized or self.renorm)
        learn = bool(training) and self.trainable
        fits = fits and (self.local or not learn or replica_count() == 1)
        if keras.backend.backend() != "tensorflow" or not fits or isinstance(x, keras.KerasTensor):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

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
                moved = moving * self.momentum + ops.cast(new, moving.dtype) * (1.0 - self.momentum)
                moving.assign(ops.where(ops.equal(present(), 0.0), moving, moved) if replica_count() > 1 else moved)
        return y

    def _moments(self, inputs, mask):
        """Mean and variance of each channel, over the batch of all replicas; Keras calls this where it learns them."""
        if mask is not None or self.local or replica_count() == 1:
            return super()._moments(inputs, mask)
        axes, channels = self._reduction_axes, inputs.shape[self.axis]
        count = ops.cast(ops.size(inputs) // channels, inputs.dtype) * present()
        mean = ops.mean(inputs, axis=axes, keepdims=True)
        variance = ops.mean(ops.square(inputs - mean), axis=axes)
        replicas = side_by_side(ops.concatenate([ops.reshape(count, (1,)), ops.reshape(mean, (-1,)), variance]))
        share = replicas[:, :1] / ops.sum(replicas[:, :1])
        means, variances = replicas[:, 1 : channels + 1], replicas[:, channels + 1 :]
        mean = ops.sum(share * means, axis=0)
        return mean, ops.sum(share * (variances + ops.square(means - mean)), axis=0)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), **({"local": True} if self.local else {})}


def normalize(x, norm: str, *, name: str):
    """Batch or group normalization of N x H x W x C, or none; "local" is "batch" over each replica's share alone."""
    if norm in ("batch", "local"):
        return FusedBatchNormalization(momentum=MOMENTUM, epsilon=1e-3, local=norm == "local", name=name)(x)
    if norm == "group":
        return keras.layers.GroupNormalization(math.gcd(x.shape[-1], 8), name=name)(x)
    if norm == "none":
        return x
    raise ValueError(f"norm is {norm!r}, allowed are 'batch', 'local', 'group' and 'none'")
