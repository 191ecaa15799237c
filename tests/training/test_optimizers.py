"""The optimizer's step by TensorFlow's kernel against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.training.optimizers import LayerwiseAdamW, ReplicatedLossScale

SHAPES = [(3, 3, 4, 5), (5,), (7, 2), ()]

OPTIONS: dict[str, dict] = {
    "plain": {},
    "decay and rates": {"weight_decay": 0.1, "scales": [1.0, 0.5, 0.25, 0.0]},
    "a schedule": {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 6), "beta_1": 0.8, "epsilon": 1e-3},
    "clipped, averaged, accumulated": {
        "global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.7, "accumulate": 2,
    },
    "amsgrad, which the kernel has not": {"amsgrad": True},
}  # fmt: skip


def trained(options: dict, own: bool) -> list[np.ndarray]:
    """The variables and the optimizer's, after seven steps of drawn gradients."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]
    optimizer = LayerwiseAdamW(**{"learning_rate": 0.1, **options})
    if own:
        optimizer._fits_kernel = lambda gradient, variable: False
    optimizer.build(variables)
    step = tf.function(lambda *gradients: optimizer.apply(list(gradients), variables))
    for _ in range(7):
        step(*(rng.normal(size=shape).astype(np.float32) for shape in SHAPES))
    optimizer.finalize_variable_values(variables)
    return [np.array(one) for one in (*variables, *optimizer.variables)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_the_kernel_takes_keras_own_steps(options):
    for ours, theirs in zip(trained(options, own=False), trained(options, own=True), strict=True):
        # the kernel takes 1 - 0.999 in float32, 5e-5 of it off
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def operations(optimizer, variables) -> set[str]:
    gradients = [tf.TensorSpec(variable.shape) for variable in variables]
    graph = tf.function(lambda *given: optimizer.apply(list(given), variables)).get_concrete_function(*gradients).graph
    return {operation.type for operation in graph.get_operations()}


def test_the_kernel_is_in_the_graph_where_it_fits():
    variables = [keras.Variable(np.ones(3, np.float32))]
    for optimizer, expected in ((LayerwiseAdamW(0.1), True), (LayerwiseAdamW(0.1, amsgrad=True), False)):
        optimizer.build(variables)
        assert ("ResourceApplyAdam" in operations(optimizer, variables)) is expected


def test_half_precision_with_a_scaled_loss_takes_the_same_steps():
    found = []
    for own in (False, True):
        variable = keras.Variable(np.array([1.0, 2.0], np.float32))
        inner = LayerwiseAdamW(0.1)
        if own:
            inner._fits_kernel = lambda gradient, variable: False
        optimizer = ReplicatedLossScale(inner, initial_scale=4.0)
        optimizer.build([variable])
        for gradient in ([4.0, -8.0], [np.inf, 1.0], [2.0, 2.0]):
            optimizer.apply([tf.constant(gradient)], [variable])
        found.append([np.array(variable), *(np.array(one) for one in optimizer.variables)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
