"""Exported SavedModels, computed by TensorFlow after a look at what they would do."""

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segdiff.inference.formats import INPUTS, OUTPUT
from segdiff.model_files import ModelError
from segdiff.prediction import Batch, Predict

OPERATIONS = frozenset(
    {
        # what the networks are made of
        "Abs", "AddV2", "AvgPool", "BiasAdd", "Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "Einsum",
        "Erfc", "Exp", "FusedBatchNormV3", "Log", "MatMul", "Max", "MaxPool", "Maximum", "Mean", "Minimum", "Mul",
        "Neg", "Prod", "RealDiv", "Relu", "Relu6", "Rsqrt", "Sigmoid", "Softmax", "Square", "SquaredDifference", "Sub",
        "Sum",
        # shapes, places and choices
        "BroadcastTo", "Cast", "ConcatV2", "Const", "ExpandDims", "Floor", "FloorDiv", "FloorMod", "GatherV2",
        "Identity", "IdentityN", "IsFinite", "Less", "NoOp", "Pack", "Pad", "Placeholder", "Range", "Reshape",
        "SelectV2", "Shape", "Squeeze", "StopGradient", "StridedSlice", "Tile", "Transpose",
        # functions, whose bodies are looked at too
        "PartitionedCall", "StatefulPartitionedCall",
    }
)  # fmt: skip
"""Those that the networks of our architectures consist of: they compute a tensor from tensors, and touch no file, no
network, no other program."""


def saved_model_runtime(file: Path) -> tuple[Predict, str]:
    """The network of a saved_model.pb by TensorFlow in float32.

    ``tf.saved_model.load`` would run what the file asks for, which may be to read and write other files. Here only the
    signature's own operations are taken from it, and none but those of ``OPERATIONS``: raises ModelError, before
    anything is computed, where there is another, or where the file is no exported network.
    """
    import tensorflow as tf

    graph, inputs, output = _network(file)
    try:
        whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
        tensor = whole.graph.as_graph_element
        function = whole.prune([tensor(name) for name in inputs], tensor(output))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: is no network that segdiff exported ({' '.join(str(error).split())[:200]})"
        ) from error

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        running = deque[Any]()  # a GPU computes on while a result is awaited
        for before, after in batches:
            running.append(function(tf.constant(before), tf.constant(after)))
            if len(running) > 1:
                yield running.popleft().numpy()
        while running:
            yield running.popleft().numpy()

    return run, "TensorFlow in float32"


def _network(file: Path) -> tuple[Any, list[str], str]:
    """What the signature's probability is computed from, and no more: a graph, its inputs' names and its output's."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        meta = saved.meta_graphs[0]
        signature = meta.signature_def["serving_default"]
        inputs = [signature.inputs[name].name for name in INPUTS]
        output = signature.outputs[OUTPUT].name
        graph = _needed(meta.graph_def, [output, *inputs])
    except (OSError, DecodeError, IndexError, KeyError) as error:
        raise ModelError(f"{file}: is no network that segdiff exported ({error})") from error
    own = {function.signature.name for function in graph.library.function}
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if foreign := sorted({node.op for node in nodes} - OPERATIONS - own):
        raise ModelError(f"{file}: holds the operation {foreign[0]}, which no network of segdiff needs; it is not run")
    return graph, inputs, output


def _needed(graph: Any, tensors: list[str]) -> Any:
    """The nodes that the tensors depend on, and the functions that those call."""
    nodes = {node.name: node for node in graph.node}
    functions = {function.signature.name: function for function in graph.library.function}
    needed = _reached(tensors, lambda name: nodes[_node_of(name)].input, key=_node_of)
    called = _reached(
        [name for node in needed for name in _calls(nodes[node]) if name in functions],
        lambda name: [call for node in functions[name].node_def for call in _calls(node) if call in functions],
    )
    result = type(graph)(versions=graph.versions)
    result.node.extend(nodes[name] for name in needed)
    result.library.function.extend(functions[name] for name in called)
    _rename(result, called)
    return result


def _rename(graph: Any, names: Iterable[str]) -> None:
    """Gives the functions names of their own: TensorFlow holds one of a name in a process."""
    new = {name: f"{name}_{uuid.uuid4().hex}" for name in names}
    for function in graph.library.function:
        function.signature.name = new[function.signature.name]
    for node in [*graph.node, *(node for function in graph.library.function for node in function.node_def)]:
        node.op = new.get(node.op, node.op)
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in new:
                    called.name = new[called.name]


def _reached(
    begin: Iterable[str], following: Callable[[str], Iterable[str]], key: Callable[[str], str] = str
) -> list[str]:
    """Everything that can be come to, each once."""
    found: dict[str, None] = {}
    waiting = list(begin)
    while waiting:
        name = waiting.pop()
        if key(name) not in found:
            found[key(name)] = None
            waiting.extend(following(name))
    return list(found)


def _node_of(tensor: str) -> str:
    """The node of "node:0", or of "^node", which is waited for."""
    return tensor.removeprefix("^").split(":")[0]


def _calls(node: Any) -> list[str]:
    """The names of the functions that a node may call: as its operation, or as one of its attributes."""
    values = node.attr.values()
    return [node.op, *(x.func.name for x in values), *(function.name for x in values for function in x.list.func)]
