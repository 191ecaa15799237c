"""Subtract the outputs of one Keras model from another's and hand the difference to a third, as one model."""

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from segdiff.models import alignment
from segdiff.models import difference as differences
from segdiff.models.alignment import AlignFeatures
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.difference import Difference

SHRINKING = (
    'a convolution of kernel k with padding="valid" makes a map k - 1 smaller (62 x 62 of 64 x 64 for k = 3), so '
    'reshaping it to the size before fails: use padding="same", or align="resize" with size=(height, width), or build '
    "model_c on the size that comes out"
)


def subtract_models(
    model_a: keras.Model,
    model_b: keras.Model,
    model_c: keras.layers.Layer,
    *,
    align: alignment.Mode = "strict",
    size: Sequence[int] | None = None,
    project_channels: bool = False,
    difference: differences.Mode = "signed",
    shared_input: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Return one trainable functional model that computes `model_c(model_a(x) - model_b(y))`.

    `model_a` and `model_b` are models with known inputs: functional, or sequential with an Input or built; loaded from
    disk or part of another graph, frozen or not, and the same model may stand on both sides (siamese). Their weights
    are shared with the result, not copied, and both stay as they are. Outputs have any rank from 2,
    channels last. With several outputs, in lists, tuples or dicts, the first is subtracted from the first and so on, or
    key from key; lists and tuples are the same.

    `model_c` is a built model, an unbuilt Sequential or a layer; unbuilt, it is built on the difference's shape and
    dtype. Several differences go to its several inputs by position, and named ones by name, be it the keys of a dict of
    inputs or the names of the Inputs.

    The result takes `[x, y]`, each as its model takes it (a tensor, list or dict); with `shared_input=True` it takes
    one `x` for both models, whose inputs must then agree. It returns what `model_c` returns.

    `align`, `size` and `project_channels` are those of AlignFeatures, and `difference` is the mode of Difference, both
    applied output by output. They compute in the compute dtype of Keras' current dtype policy; outputs of another dtype
    are cast to it with a UserWarning that names them (an integer output passes no gradient back).

    Raises ValueError where a model has no known inputs, where the outputs do not pair or cannot be aligned (the message
    has both shapes and the modes that would work), and where `model_c` cannot take the difference.

    >>> import keras
    >>> from segdiff.models.subtraction import subtract_models
    >>> before = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(3, 3)])  # 62 x 62 x 3
    >>> after = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Conv2D(1, 3)])  # 62 x 62 x 1
    >>> head = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")])
    >>> model = subtract_models(before, after, head, align="broadcast")
    >>> [tensor.shape for tensor in model.inputs], model.output_shape
    ([(None, 64, 64, 3), (None, 64, 64, 3)], (None, 10))
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    """
    models = (model_a, model_b, model_c)
    own_a, own_b = _inputs_of(model_a, "model_a"), _inputs_of(model_b, "model_b")
    taken: set[str] = set()
    if shared_input:
        inputs = inputs_a = inputs_b = _merged_inputs(own_a, own_b, taken)
    else:
        inputs_a, inputs_b = _new_inputs(own_a, "input_a", taken), _new_inputs(own_b, "input_b", taken)
        inputs = [inputs_a, inputs_b]
    operations: dict[int, Any] = {}

    def run(model: keras.layers.Layer, given: Any) -> Any:
        shared = any(_share_weights(model, other) for other in models)
        if shared and isinstance(model, keras.Sequential) and not _has_known_inputs(model):
            model.build(given.shape)
        return _unpacked(call(model, given))

    def call(operation: Any, *arguments: Any, **keywords: Any) -> Any:
        """Call one of the models or a layer in it; a model that several of them hold is opened in all of them."""
        holders = {id(other) for other in models if other is operation or _share_weights(operation, other)}
        if len(holders) > 1 and _has_known_inputs(operation) and _is_only_its_graph(operation):
            return _run_layers(operation, arguments[0], call)
        if id(operation) not in operations:
            operations[id(operation)] = _under_unused_name(operation, arguments, keywords, taken)
        return operations[id(operation)](*arguments, **keywords)

    outputs_a, outputs_b = run(model_a, inputs_a), run(model_b, inputs_b)
    _require_same_structure(outputs_a, outputs_b, "outputs")
    pairs = list(zip(keras.tree.flatten(outputs_a), keras.tree.flatten(outputs_b), strict=True))
    subtracted = []
    for number, pair in enumerate(pairs):
        level = f"_{number}" if len(pairs) > 1 else ""
        aligned = AlignFeatures(align, size, project_channels, name=_unused(f"align{level}", taken))(list(pair))
        subtracted.append(Difference(difference, name=_unused(f"difference{level}", taken))(aligned))
    _warn_of_casts(pairs)
    handed = _arranged(keras.tree.pack_sequence_as(outputs_a, subtracted), model_c)
    try:
        outputs = run(model_c, handed)
    except ValueError as problem:
        hint = f"; {SHRINKING}" if len(subtracted) == 1 and len(subtracted[0].shape) > 2 else ""
        what = "difference" if len(subtracted) == 1 else f"{len(subtracted)} differences"
        raise ValueError(f"model_c cannot take the {what} {_shapes(handed)}: {_one_line(problem)}{hint}") from problem
    _warn_of_closed(models, set(operations))
    return keras.Model(inputs, outputs, name=name)


def _warn_of_closed(models: Sequence[keras.layers.Layer], called: set[int]) -> None:
    """A model with a `call` of its own cannot be opened; what it shares with an opened one cannot be read back."""
    for model in models:
        if isinstance(model, keras.Model) and not _is_only_its_graph(model):
            within = model._flatten_layers(include_self=False)
            if any(id(layer) in called and layer.weights for layer in within):
                warnings.warn(
                    f"{model.name} has a call of its own and shares layers with another of the models: the result "
                    "works, but a file of it cannot be loaded",
                    stacklevel=3,
                )


def _has_known_inputs(model: keras.layers.Layer) -> bool:
    return isinstance(model, keras.Model) and bool(getattr(model, "inputs", None))


def _ends(model: keras.Model) -> tuple[Any, Any]:
    """Return the model's symbolic inputs and outputs in their structure; a list of one counts as the one."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return _unpacked(model.input), _unpacked(model.output)


def _unpacked(structure: Any) -> Any:
    return structure[0] if isinstance(structure, list | tuple) and len(structure) == 1 else structure


def _inputs_of(model: keras.Model, role: str) -> Any:
    if not _has_known_inputs(model):
        raise ValueError(
            f"{role}={model!r} has no known inputs; give a functional model or a Sequential that has an Input "
            "(inputs = keras.Input(shape); keras.Model(inputs, model(inputs)) makes one of any model)"
        )
    return _ends(model)[0]


def _unused(name: str, taken: set[str]) -> str:
    """Return the name, numbered where it is taken, and take it."""
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def _new_inputs(structure: Any, prefix: str, taken: set[str]) -> Any:
    flat = [
        keras.Input(batch_shape=x.shape, dtype=x.dtype, name=_unused("_".join([prefix, *map(str, path)]), taken))
        for path, x in keras.tree.flatten_with_path(structure)
    ]
    return keras.tree.pack_sequence_as(structure, flat)


def _merged_inputs(inputs_a: Any, inputs_b: Any, taken: set[str]) -> Any:
    """Return one set of new inputs that suits both models, under the names they have in model_a."""
    _require_same_structure(inputs_a, inputs_b, "inputs")
    merged = []
    for a, b in zip(keras.tree.flatten(inputs_a), keras.tree.flatten(inputs_b), strict=True):
        if a.dtype != b.dtype or not _fits(a.shape, b.shape):
            raise ValueError(
                "shared_input=True needs inputs of one shape and dtype; model_a takes "
                f"{a.shape} {a.dtype} and model_b {b.shape} {b.dtype}"
            )
        shape = tuple(y if x is None else x for x, y in zip(a.shape, b.shape, strict=True))
        merged.append(keras.Input(batch_shape=shape, dtype=a.dtype, name=_unused(a.name, taken)))
    return keras.tree.pack_sequence_as(inputs_a, merged)


def _share_weights(model: Any, other: keras.layers.Layer) -> bool:
    """Whether two different models have weights in common."""
    own = getattr(model, "weights", ())  # an operation that is no layer has none
    return model is not other and not {id(w) for w in own}.isdisjoint(id(w) for w in other.weights)


def _is_only_its_graph(model: keras.Model) -> bool:
    """Whether calling the model is calling its layers, and not a method of a class of its own."""
    return type(model).call.__module__.startswith("keras.") or isinstance(model, ChangeDetector)


def _run_layers(model: keras.Model, inputs: Any, call: Callable[..., Any]) -> Any:
    """Call the model's layers one by one, so that a layer of two models stands in the result once.

    Nested in two models it would be saved once and loaded twice, and Keras refuses the file.
    """
    plain = keras.Model(*_ends(model))
    # cloning the model, the public way, ends at tensors that are no inputs, such as those of model_c
    return plain._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)


def _under_unused_name(operation: Any, arguments: Any, keywords: Any, taken: set[str]) -> Any:
    """Return the operation, in a model of another name where its own is taken: Keras wants each once in a graph."""
    name = _unused(operation.name, taken)
    if name == operation.name:
        return operation
    if keywords or len(arguments) != 1:
        raise ValueError(
            f"two layers of the models are called {operation.name!r}, and this one takes several arguments: give one "
            "of them another name"
        )
    flat = [
        # The inputs of a dict bear its keys, or Keras warns.
        keras.Input(batch_shape=x.shape, dtype=x.dtype, name=path[-1] if path and isinstance(path[-1], str) else None)
        for path, x in keras.tree.flatten_with_path(arguments[0])
    ]
    own = keras.tree.pack_sequence_as(arguments[0], flat)
    return keras.Model(own, operation(own), name=name)


def _require_same_structure(a: Any, b: Any, what: str) -> None:
    if not _pairs(a, b):
        raise ValueError(
            f"the {what} of model_a and model_b do not pair: {_shapes(a)} and {_shapes(b)}; both must be one tensor, "
            "lists or tuples of one length, or dicts of the same keys"
        )


def _pairs(a: Any, b: Any) -> bool:
    try:
        keras.tree.assert_same_structure(keras.tree.lists_to_tuples(a), keras.tree.lists_to_tuples(b))
    except ValueError:
        return False
    return True


def _fits(shape: alignment.Shape, wanted: alignment.Shape) -> bool:
    return len(shape) == len(wanted) and all(
        None in (have, want) or have == want for have, want in zip(shape, wanted, strict=True)
    )


def _shapes(structure: Any) -> str:
    """Return the structure with every tensor as its shape, such as [(None, 8, 8, 3), (None, 4, 4, 6)]."""
    if isinstance(structure, dict):
        return "{" + ", ".join(f"{key!r}: {_shapes(value)}" for key, value in structure.items()) + "}"
    if isinstance(structure, list | tuple):
        return "[" + ", ".join(_shapes(value) for value in structure) + "]"
    return str(tuple(structure.shape))


def _warn_of_casts(pairs: list[tuple[Any, Any]]) -> None:
    compute_dtype = keras.config.dtype_policy().compute_dtype
    for a, b in pairs:
        if (a.dtype, b.dtype) != (compute_dtype, compute_dtype):
            warnings.warn(
                f"the outputs {tuple(a.shape)} {a.dtype} of model_a and {tuple(b.shape)} {b.dtype} of model_b are cast "
                f"to {compute_dtype} to be subtracted",
                stacklevel=3,
            )


def _arranged(difference: Any, model_c: keras.layers.Layer) -> Any:
    """Return the differences in the structure model_c takes them in."""
    flat = keras.tree.flatten(difference)
    if not _has_known_inputs(model_c):
        if len(flat) == 1:
            return flat[0]
        return difference if isinstance(difference, dict) else list(difference)
    wanted = _ends(model_c)[0]
    wanted_flat = keras.tree.flatten(wanted)
    if isinstance(difference, dict) and isinstance(wanted, list | tuple):
        by_name = {x.name: x for x in wanted_flat}
        if by_name.keys() == difference.keys():
            difference = type(wanted)(difference[name] for name in by_name)
    if len(flat) == len(wanted_flat) == 1:
        difference = keras.tree.pack_sequence_as(wanted, flat)
    if not _pairs(difference, wanted):
        named = "" if isinstance(wanted, dict) else f" (named {', '.join(x.name for x in wanted_flat)})"
        raise ValueError(
            f"model_c takes {_shapes(wanted)}{named}, and the difference is {_shapes(difference)}: lists go to lists "
            "of one length, and dicts to inputs of the same names"
        )
    flat = keras.tree.flatten(difference)
    for given, want in zip(flat, wanted_flat, strict=True):
        if not _fits(given.shape, want.shape):
            hint = f": {SHRINKING}" if len(given.shape) > 2 else "; build model_c on that"
            raise ValueError(f"model_c takes {tuple(want.shape)}, and the difference is {tuple(given.shape)}{hint}")
        if not want.dtype.startswith(("float", "bfloat")):
            raise ValueError(f"model_c takes {want.dtype}, which would cut the fractions of a {given.dtype} difference")
    return keras.tree.pack_sequence_as(wanted, flat)


def _one_line(problem: ValueError) -> str:
    """Return what Keras says without its colours, the name of the call and its arguments."""
    text = re.sub(r"\x1b\[\d+m", "", str(problem)).split("Arguments received by")[0]
    return " ".join(re.sub(r"^Exception encountered when calling.*", "", text).split())
