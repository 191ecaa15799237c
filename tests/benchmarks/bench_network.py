"""A siamese ResNet-18 U-Net against PyTorch: `python -m tests.benchmarks.bench_network [--rounds 2] [--torch PYTHON]`.

Pairs a second in training and in inference, 256 x 256, batch 8, float32 and mixed_bfloat16, of a network built of
segdiff's parts: the encoder resnet18 on both images, |difference| at strides 4 to 32, a decoder of 128, 128 and 64
channels with one 3 x 3 convolution a level, one logit. `../shared/bench/torch_siamese_resnet18.py` is the same network
in PyTorch; where it is there and a Python with torch is named, the two run in turn, so that they see the same machine.

On 2 cores of AMD Zen 4 (AVX512-BF16, no AMX; TensorFlow 2.21, PyTorch 2.13), pairs a second in bfloat16, best of two
rounds beside other work: training 8.7 against PyTorch's 7.6 (x 1.15; x 1.04 in the slower round, and x 1.21 in three
rounds on a quiet machine), inference 32.2 against 25.0 (x 1.29); in float32 training 5.4 against 3.8, inference 17.5
against 14.2. Those were measured before the kernel of the optimizer's step. Inference by OpenVINO: bfloat16 31.6 and
30.7 in the two rounds, x 1.26 of PyTorch's best, float32 17.3 and 17.1. In a later run, ahead of other work: OpenVINO
bfloat16 35.6 and int8 54.7 against PyTorch's 28.7, x 1.24 and x 1.91.

On 2 cores of an Intel Xeon with AMX, one round, in bfloat16: training 14.4 against PyTorch's 12.8 (x 1.13), inference
60.3 against 68.9 by TensorFlow and 101.6 by OpenVINO (x 1.48), int8 130.7 (x 1.90); in float32 training 6.2 against
4.9, inference 21.3 against 20.4.

What helped, in milliseconds of a bfloat16 training step, the variants taking turns: fused batch normalization, 892
instead of 1106 with Keras' own; the head's convolution before the enlarging, 892 instead of 941; one kernel a variable
for the optimizer's step (ResourceApplyAdam), 854 instead of 902. By TensorFlow's profiler both cores are busy for 97 %
of a step, 82 % of that with convolutions (the gradients of kernels 38 %, of maps 22 %, forward 22 %), 5.4 % with batch
normalization, 4.8 % with the optimizer before it had its kernel, 2.1 % with ReLU, 1.5 % with casts; by oneDNN's clock
5 % of the time of its primitives is reordering.

What was tried besides and is not in the network, in milliseconds of wall and of processor time, 927 and 1690 without:
- the coarse half of the decoder's convolutions as transposed 4 x 4 ones, instead of enlarging and concatenating (the
  same function by 4/9 of that half's multiplications): 892 and 1649
- nearest enlarging by concatenation instead of repetition: 944 and 1693, no gain
- TF_NUM_INTEROP_THREADS=1: 1212 instead of 905; TF_NUM_INTRAOP_THREADS=1: 897, no change
- GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment, for huge pages: 865 instead of 905, one run
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from segdiff.inference.exporting import write_network
from segdiff.inference.runtimes import Precision, openvino_runtime
from segdiff.models import ChangeDetector, Difference, build_encoder
from segdiff.models.encoders import convolve
from segdiff.models.heads import change_head
from segdiff.models.upsampling import upsample
from tests.benchmarks.bench_models import BATCH, SIZE, inference_rate, training_rate

SHARED = Path(os.environ.get("SEGDIFF_SHARED", Path(__file__).resolve().parents[3] / "shared"))
YARDSTICK = SHARED / "bench" / "torch_siamese_resnet18.py"
CHANNELS = (64, 128, 128)
POLICIES = ("float32", "mixed_bfloat16")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def network() -> ChangeDetector:
    """From [before, after], N x H x W x 3, to N x H x W x 1 logits."""
    images = [keras.Input((None, None, 3), name=name) for name in ("before", "after")]
    encoder = build_encoder("resnet18", bands=3).model
    before, after = (encoder(image)[1:] for image in images)  # the first is the stem's map, at stride 2
    differences = [
        Difference("absolute", name=f"difference{k}")(list(pair))
        for k, pair in enumerate(zip(before, after, strict=True))
    ]
    x = differences[-1]
    for level in reversed(range(3)):
        x = upsample(x, 2, "nearest", name=f"level{level}_upsample")
        x = keras.layers.Concatenate(name=f"level{level}_concatenate")([x, differences[level]])
        x = convolve(x, CHANNELS[level], norm="batch", name=f"level{level}")
    return ChangeDetector(images, change_head(x, 1, stride=4))


def ours(policy: str) -> dict[str, float]:
    """Training and inference, pairs a second."""
    generator = np.random.default_rng(0)
    images = [tf.constant(generator.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype("float32")) for _ in range(2)]
    mask = tf.constant((generator.random((BATCH, SIZE, SIZE)) > 0.9).astype("uint8"))
    keras.config.set_dtype_policy(policy)
    model = network()
    keras.config.set_dtype_policy("float32")
    rates = {"train": training_rate(model, images, mask), "infer": inference_rate(model, images)}
    keras.backend.clear_session()
    return rates


def openvino(written: Literal["float32", "int8"], precision: Precision, batches: int = 24) -> float:
    """Inference by OpenVINO as prediction does it, of a network written so, pairs a second."""
    generator = np.random.default_rng(0)
    before, after = (generator.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8) for _ in range(2))
    batch = before, after
    with tempfile.TemporaryDirectory() as folder:
        tiles = list(zip(before, after, strict=True))
        manifest = write_network(network(), Path(folder), "openvino", written, "", tiles)
        run, _ = openvino_runtime(Path(folder) / manifest.file, precision)
    for _ in run([batch] * 4):
        pass
    began = time.perf_counter()
    for _ in run([batch] * batches):
        pass
    keras.backend.clear_session()
    return batches * BATCH / (time.perf_counter() - began)


def theirs(python: str) -> dict[str, dict[str, float]]:
    """What the yardstick prints, by policy; inference is the better of eager and compiled."""
    printed = subprocess.run([python, str(YARDSTICK)], check=True, capture_output=True, text=True).stdout
    found = {name: json.loads(rates.replace("'", '"')) for name, rates in re.findall(r"^(\w+) (\{.*\})", printed, re.M)}
    return {
        policy: {
            "train": found[name]["train"],
            "infer": max(found[name]["infer eager"], found[name]["infer compiled"]),
        }
        for policy, name in zip(POLICIES, ("float32", "bfloat16"), strict=True)
    }


def has_torch(python: str) -> bool:
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def main() -> None:
    """Prints every run and the best of each, with the ratio."""
    parser = argparse.ArgumentParser(description="A siamese ResNet-18 U-Net against PyTorch.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--torch", default=os.environ.get("TORCH_PYTHON"), help="a Python that imports torch")
    arguments = parser.parse_args()
    beside = arguments.torch is not None and YARDSTICK.exists() and has_torch(arguments.torch)
    print(f"{SIZE} x {SIZE}, batch {BATCH}, {os.cpu_count()} cores; pairs a second")
    if not beside:
        print(f"without PyTorch: it takes {YARDSTICK} and --torch PYTHON (or TORCH_PYTHON), one that imports torch")

    best: dict[tuple[str, str, str], float] = {}
    for number in range(1, arguments.rounds + 1):
        rounds = {"segdiff": {policy: ours(policy) for policy in POLICIES}}
        for policy, precision in zip(POLICIES, PRECISIONS, strict=True):
            rounds["segdiff"][policy]["openvino"] = openvino("float32", precision)
        rounds["segdiff"]["int8"] = {"int8": openvino("int8", "bfloat16")}
        if beside:
            rounds["torch"] = theirs(arguments.torch)
        for library, by_policy in rounds.items():
            for policy, rates in by_policy.items():
                print(
                    f"round {number} {library:8} {policy:15}" + "".join(f" {k} {v:6.1f}" for k, v in rates.items()),
                    flush=True,
                )
                for kind, rate in rates.items():
                    what = "infer" if kind == "openvino" else kind
                    best[library, policy, what] = max(best.get((library, policy, what), 0.0), rate)
    for what, other in (("train", "train"), ("infer", "infer"), ("int8", "infer")):
        tops = {"segdiff": max(rate for (name, _, kind), rate in best.items() if (name, kind) == ("segdiff", what))}
        ratio = ""
        if beside:
            tops["torch"] = max(rate for (name, _, kind), rate in best.items() if (name, kind) == ("torch", other))
            ratio = f"; segdiff / torch = {tops['segdiff'] / tops['torch']:.2f}"
        print(f"best {what}: " + ", ".join(f"{library} {rate:.1f}" for library, rate in tops.items()) + ratio)


if __name__ == "__main__":
    main()
