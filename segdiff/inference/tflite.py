"""Exported TFLite networks, computed by TensorFlow's interpreter."""

import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from segdiff.inference.formats import INPUTS, OUTPUT
from segdiff.model_files import ModelError
from segdiff.prediction import Batch, Predict


def tflite_runtime(file: Path, threads: int | None = None) -> tuple[Predict, str]:
    """The network of a .tflite file on so many threads, else all cores, by XNNPACK; images have the one size it takes.

    Raises ModelError on a file that is none, or that names operations from outside TFLite: those of TensorFlow, which
    may read and write files, are among them.
    """
    import tensorflow as tf

    threads = threads or os.cpu_count() or 1
    try:
        content = file.read_bytes()
        _require_own_operations(file, content)
        with without_deprecation():
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        compute = interpreter.get_signature_runner("serving_default")
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{file}: is no network that segdiff exported ({' '.join(str(error).split())[:200]})"
        ) from error

    def one(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return compute(**dict(zip(INPUTS, (before[None], after[None]), strict=True)))[OUTPUT][0]

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for batch in batches:
            yield np.stack([one(before, after) for before, after in zip(*batch, strict=True)])

    return run, f"TFLite, {threads} threads"


@contextmanager
def without_deprecation() -> Iterator[None]:
    """Within it TensorFlow does not say that its interpreter is to move into a package of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        yield


def _require_own_operations(file: Path, content: bytes) -> None:
    from tensorflow.lite.python import schema_py_generated as schema

    try:
        network = schema.Model.GetRootAs(content, 0)
        named = [network.OperatorCodes(k).CustomCode() for k in range(network.OperatorCodesLength())]
    except (struct.error, IndexError, TypeError) as error:
        raise ModelError(f"{file}: is no TFLite network, or it is broken ({error})") from error
    for name in filter(None, named):
        raise ModelError(
            f"{file}: holds the operation {name.decode(errors='replace')!r}, that TFLite has not itself; it is not run"
        )
