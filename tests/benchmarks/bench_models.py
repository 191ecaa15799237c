"""Size and speed of every network: `python -m tests.benchmarks.bench_models [NAMES...] [--train]`, a table in Markdown.

A name is an architecture's or an encoder's, which is then that of `unet_diff`; default: all. The weights are random.
Multiply-accumulates (MACs) are those of one pair of 256 x 256 in inference: half the floating-point operations that
TensorFlow's profiler counts in the convolutions and matrix products of the frozen graph, batch 1. Normalization,
activations, pooling and resizing are not counted. So counted, the encoder resnet18 alone has 1.814 G on 224 x 224
and densenet121 2.833 G, as published.
"""

import argparse
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from segdiff.config import OURS, ModelConfig
from segdiff.models import build_change_detector
from segdiff.models.architectures import ARCHITECTURES
from segdiff.models.encoders import ENCODERS
from segdiff.models.precision import choose_precision, with_precision
from segdiff.training.losses import ChangeLoss
from segdiff.training.optimizers import LayerwiseAdamW

SIZE, BATCH, SECONDS = 256, 8, 2.0
PUBLISHED = tuple(name for name in ARCHITECTURES if name not in OURS)
PRETRAINED = ModelConfig.model_validate({"architecture": "pretrained_diff"}).encoder.name
MULTIPLYING = ["^Conv2D$", "^Conv2DBackpropInput$", "^DepthwiseConv2dNative$", "^.*MatMul.*$", "^Einsum$"]


def networks(names: list[str]) -> Iterator[tuple[str, str, ModelConfig]]:
    """Architecture, encoder and configuration of each network asked for; the pretrained one with random weights."""
    for name in names:
        if name in PUBLISHED:
            yield name, "its own", ModelConfig.model_validate({"architecture": name})
            continue
        architecture = name if name in OURS else "unet_diff"
        encoder = {"unet_diff": "unet", "pretrained_diff": PRETRAINED}.get(name, name)
        yield architecture, encoder, ModelConfig.model_validate({"encoder": {"name": encoder}})


@ops.RegisterStatistics("Einsum", "flops")
def _einsum_operations(graph, node) -> ops.OpStats:
    """What the profiler does not know: that of attention, each index named once, two operations a combination."""
    operation = graph.as_graph_element(node.name)
    labels = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes = {
        label: size
        for indices, tensor in zip(labels, operation.inputs, strict=True)
        for label, size in zip(indices, tensor.shape, strict=True)
    }
    return ops.OpStats("flops", 2 * math.prod(sizes.values()))


def macs(model: keras.Model, shape: tuple[int, ...] = (1, SIZE, SIZE, 3)) -> int:
    """Multiply-accumulates of the model on inputs of one shape."""
    specs = [tf.TensorSpec(shape, tf.float32) for _ in model.inputs]
    function = tf.function(lambda *images: model(list(images) if len(images) > 1 else images[0], training=False))
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(*specs))
    options = (
        tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
        .with_empty_output()
        .with_accounted_types(MULTIPLYING)
        .with_node_names(show_name_regexes=MULTIPLYING)
        .build()
    )
    return tf.compat.v1.profiler.profile(frozen.graph, options=options, cmd="op").total_float_ops // 2


def pairs_per_second(step: Callable[[], object], seconds: float = SECONDS) -> float:
    """By the median step of at least three, and of as many as fill the time."""
    step()
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return BATCH / statistics.median(times)


def inference_rate(model: keras.Model, images: list[tf.Tensor]) -> float:
    run = tf.function(lambda *pair: model(list(pair), training=False), jit_compile=False)
    return pairs_per_second(lambda: run(*images).numpy())


def training_rate(model: keras.Model, images: list[tf.Tensor], mask: tf.Tensor) -> float:
    """Of the steps that `segdiff train` takes, without its metrics."""
    model.compile(LayerwiseAdamW(1e-3), ChangeLoss({"cross_entropy": 1.0}), jit_compile=False)
    run = tf.function(lambda x, y: model.train_step((x, y)), jit_compile=False)
    return pairs_per_second(lambda: run(images, mask)["loss"].numpy())


def main() -> None:
    """Prints the table, a row as soon as it is measured."""
    allowed = [*PUBLISHED, *OURS, *ENCODERS]
    parser = argparse.ArgumentParser(description="Size and speed of the networks.")
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(allowed))
    parser.add_argument("--train", action="store_true", help="training steps, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(allowed):
        parser.error(f"there is no {', '.join(sorted(unknown))}, allowed are {', '.join(allowed)}")
    same = {"unet", PRETRAINED}  # as unet_diff and pretrained_diff
    names = arguments.names or [name for name in allowed if name not in same]
    precision, reason = choose_precision()
    policies = dict.fromkeys(["float32", precision])

    generator = np.random.default_rng(0)
    shape = (BATCH, SIZE, SIZE, 3)
    images = [tf.constant(generator.integers(0, 256, shape).astype("float32")) for _ in range(2)]
    mask = tf.constant((generator.random(shape[:3]) > 0.9).astype("uint8"))
    print(f"{SIZE} x {SIZE}, batch {BATCH}, {os.cpu_count()} cores; auto is {precision}: {reason}\n")
    columns = [
        f"pairs/s {what}, {policy}" for what in ("inferred", "trained")[: 1 + arguments.train] for policy in policies
    ]
    print(f"| architecture | encoder | parameters, M | MACs, G | {' | '.join(columns)} |")
    print(f"|---|---|{'--:|' * (2 + len(columns))}")
    for architecture, encoder, config in networks(names):
        model = build_change_detector(config)
        copies = [with_precision(model, policy) for policy in policies]
        rates = [inference_rate(copy, images) for copy in copies]
        if arguments.train:
            rates += [training_rate(copy, images, mask) for copy in copies]
        numbers = [f"{model.count_params() / 1e6:.2f}", f"{macs(model) / 1e9:.2f}", *(f"{rate:.1f}" for rate in rates)]
        print(f"| {architecture} | {encoder} | {' | '.join(numbers)} |", flush=True)
        del model, copies
        keras.backend.clear_session()
        gc.collect()


if __name__ == "__main__":
    main()
