"""Compute precision of a model: chosen by the processor, changed without touching the weights."""

from typing import Any, Literal

import keras

from segdiff import processor

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def choose_precision(asked: str = "auto", model: keras.Model | None = None) -> tuple[str, str]:
    """A Keras dtype policy and the reason for it, for a person.

    ``auto`` takes mixed_bfloat16 on CPUs that multiply it in hardware (AMX, AVX512-BF16), mixed_float16 on GPUs and
    float32 elsewhere. On CPUs a ``model`` with depthwise convolutions computes in float32: they have no fast kernel in
    bfloat16. Raises ValueError on a name that is no policy.
    """
    if asked in POLICIES:
        return asked, "as asked"
    if asked != "auto":
        raise ValueError(f"precision is {asked!r}, allowed are auto, {', '.join(POLICIES)}")
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return "mixed_float16", "a GPU does the work"
    flag = processor.bfloat16_flag()
    if flag is None:
        return "float32", "this processor has no bfloat16"
    if model is not None and _has_depthwise_convolutions(model):
        return "float32", "the encoder's depthwise convolutions have no fast kernel in bfloat16"
    return "mixed_bfloat16", f"this processor has {flag}"


def choose_xla(asked: bool | Literal["auto"], policy: str) -> tuple[bool, str]:
    """Whether XLA compiles a training step, and the reason for it, for a person.

    ``auto`` takes it on one GPU. On CPUs oneDNN is faster, but has no float16; several GPUs compute sums between them
    that XLA does not take.
    """
    if asked != "auto":
        return asked, "as asked"
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus:
        return gpus == 1, "one GPU" if gpus == 1 else f"{gpus} GPUs"
    if policy == "mixed_float16":
        return True, "without it processors do not compute in float16"
    return False, "a processor is faster without it"


def _has_depthwise_convolutions(model: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in model._flatten_layers())


def with_precision(model: keras.Model, policy: str) -> keras.Model:
    """The same model with the same weights, computing in ``policy``; layers fixed to float32 stay there."""
    copy = type(model).from_config(_replace_policies(model.get_config(), policy))
    copy.set_weights(model.get_weights())
    return copy


def _replace_policies(config: Any, policy: str) -> Any:
    """The configuration with every layer of the model's own policy moved to another.

    Layers fixed to float32 can only be told from the others in a mixed model, so those layers carry a name that the
    model's builder gave a float32 policy on purpose: see FIXED.
    """
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {"name": policy}}
        if config.get("name") in FIXED and "dtype" in config:
            return config
        return {key: _replace_policies(value, policy) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_replace_policies(value, policy) for value in config)
    return config


FIXED = frozenset({"pad", "rescale", "logits", "crop"})
"""Layers of a detector that compute in float32 in every precision."""
