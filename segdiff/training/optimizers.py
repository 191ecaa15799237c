"""AdamW with a learning rate of its own for each variable."""

from collections.abc import Sequence

import keras


@keras.saving.register_keras_serializable(package="segdiff")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose steps and weight decay are scaled variable by variable.

    ``scales`` has one factor for each trainable variable of the model, in the model's order, as
    segdiff.models.encoders.learning_rate_scales gives them. The gradient cannot be scaled to the same end: Adam divides
    its size out again. Raises ValueError when it is built for another number of variables.
    """

    def __init__(self, learning_rate, scales: Sequence[float], **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.scales = tuple(scales)

    def build(self, variables):
        """Makes the moments of every variable."""
        if len(variables) != len(self.scales):
            raise ValueError(f"there are {len(self.scales)} scales for {len(variables)} trainable variables")
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """One variable's decay and step, at its own rate."""
        rate = learning_rate * self.scales[self._get_variable_index(variable)]
        if self.weight_decay is not None and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * self.weight_decay * rate)
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables):
        """Nothing: Keras would decay all variables at the one rate; update_step does it."""

    def get_config(self):
        """What the constructor takes."""
        return {**super().get_config(), "scales": list(self.scales)}
