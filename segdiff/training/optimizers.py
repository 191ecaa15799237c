"""AdamW with a learning rate of its own for each variable, the same on one replica and on many."""

from collections.abc import Sequence

import keras
from keras import ops

from segdiff.models.replicas import run_if, summed


@keras.saving.register_keras_serializable(package="segdiff")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose steps and weight decay are scaled variable by variable, and which takes a step every few batches.

    ``scales`` has one factor for each trainable variable of the model, in the model's order, as
    segdiff.models.encoders.learning_rate_scales gives them; None: 1 for all. The gradient cannot be scaled to the same
    end: Adam divides its size out again. Raises ValueError when it is built for another number of variables.

    ``accumulate`` batches give one step, with the mean of their gradients. ``iterations``, the schedule of the learning
    rate and the moving average of the weights go by such steps (those of Keras' ``gradient_accumulation_steps`` go
    partly by batches, and it cannot run under MirroredStrategy).

    Under a ``tf.distribute`` strategy the gradients are summed over the replicas first of all: Keras clips each
    replica's by itself. ``sums_replicas=False`` leaves that to a ReplicatedLossScale around this optimizer.
    """

    def __init__(self, learning_rate, scales: Sequence[float] | None = None, accumulate: int = 1, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.scales = None if scales is None else tuple(scales)
        self.accumulate = accumulate
        self.sums_replicas = True

    def build(self, variables):
        """Makes the moments of every variable."""
        if self.scales is not None and len(variables) != len(self.scales):
            raise ValueError(f"there are {len(self.scales)} scales for {len(variables)} trainable variables")
        super().build(variables)
        if self.accumulate > 1:
            self._sums = self.add_optimizer_variables(variables, "gradient_sum")
            self._batches = self.add_variable((), dtype="int32", name="batches")

    def apply(self, grads, trainable_variables=None):
        """A step, or one batch more towards it."""
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if not self.built:
            self.build(variables)
        grads, variables = self._filter_empty_gradients(grads, variables)
        if self.sums_replicas:
            grads = summed(grads)
        if self.accumulate == 1:
            super().apply(grads, variables)
            return
        # summed over the replicas before: what a backup stores is then the same in all of them
        sums = [self._sums[self._get_variable_index(variable)] for variable in variables]
        for total, gradient in zip(sums, grads, strict=True):
            total.assign(total + gradient)
        self._batches.assign(self._batches + 1)
        run_if(ops.equal(self._batches, self.accumulate), self._step, variables)

    def _step(self, variables):
        sums = [self._sums[self._get_variable_index(variable)] for variable in variables]
        super().apply([total / self.accumulate for total in sums], variables)
        for total in sums:
            total.assign(ops.zeros_like(total))
        self._batches.assign(ops.zeros_like(self._batches))

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """Nothing more to sum: Keras would do it after the gradients were clipped."""
        return grads_and_vars

    def update_step(self, gradient, variable, learning_rate):
        """One variable's decay and step, at its own rate."""
        rate = learning_rate if self.scales is None else learning_rate * self.scales[self._get_variable_index(variable)]
        if self.weight_decay is not None and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * self.weight_decay * rate)
        if self._fits_kernel(gradient, variable):
            self._kernel_step(gradient, variable, rate)
        else:
            super().update_step(gradient, variable, rate)

    def _fits_kernel(self, gradient, variable) -> bool:
        """Whether TensorFlow's kernel does the step: that of float32 variables."""
        if keras.backend.backend() != "tensorflow" or self.amsgrad:
            return False
        import tensorflow as tf

        return isinstance(gradient, tf.Tensor) and variable.dtype in ("float32", tf.float32)

    def _kernel_step(self, gradient, variable, rate) -> None:
        """Keras' own step in one pass over memory, where Keras takes a dozen operations a variable."""
        import tensorflow as tf

        index = self._get_variable_index(variable)
        moments = (self._momentums[index], self._velocities[index])
        tensors = (one.value if isinstance(one, keras.Variable) else one for one in (variable, *moments))
        step = ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            **{name: tensor.handle for name, tensor in zip(("var", "m", "v"), tensors, strict=True)},
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=ops.cast(rate, "float32"),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=ops.cast(gradient, "float32"),
        )

    def _apply_weight_decay(self, variables):
        """Nothing: Keras would decay all variables at the one rate; update_step does it."""

    def get_config(self):
        """What the constructor takes."""
        scales = None if self.scales is None else list(self.scales)
        return {**super().get_config(), "scales": scales, "accumulate": self.accumulate}


@keras.saving.register_keras_serializable(package="segdiff")
class ReplicatedLossScale(keras.optimizers.LossScaleOptimizer):
    """Keras' loss scaling around LayerwiseAdamW, with one decision for all replicas.

    Keras looks for infinities in the gradients of one replica before they are summed: another may then take the step
    that this one leaves out.
    """

    def __init__(self, inner_optimizer: LayerwiseAdamW, **kwargs):
        super().__init__(inner_optimizer, **kwargs)
        inner_optimizer.sums_replicas = False

    def apply(self, grads, trainable_variables=None):
        """A step where every gradient of every replica is finite; else the scale is halved."""
        super().apply(summed(grads), trainable_variables)
