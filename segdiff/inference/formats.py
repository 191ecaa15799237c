"""The formats of exported models: in which precisions each is written, what writes it and what runs it."""

import importlib.util
from pathlib import Path
from typing import Literal

from segdiff.model_files import MANIFEST, ModelError, read_settings, resolve_model

Format = Literal["savedmodel", "onnx", "openvino", "tflite"]

PRECISIONS: dict[Format, tuple[str, ...]] = {
    "savedmodel": ("float32",),
    "onnx": ("float32",),
    "openvino": ("float32", "float16", "int8"),
    "tflite": ("float16", "float32", "int8"),
}
"""Of the weights, the usual one first; int8 is of the activations too."""

RUNTIMES: dict[Format, str] = {
    "savedmodel": "tensorflow",
    "onnx": "openvino",
    "openvino": "openvino",
    "tflite": "tflite",
}
"""What computes an exported network here."""

FIXED_SIZE: tuple[Format, ...] = ("tflite",)
"""Formats whose networks take one tile at a time, of one size."""

INPUTS, OUTPUT = ("before", "after"), "probability"
"""The names of the network's tensors in every format."""


def choose_export(kind: Format, precision: str | None) -> str:
    """The precision in which that format is written: the one asked for, else its usual one.

    Raises ModelError where the format has no such precision or a package that writes it is not installed.
    """
    chosen = PRECISIONS[kind][0] if precision is None else precision
    if chosen not in PRECISIONS[kind]:
        raise ModelError(f"--precision {chosen}: {kind} is written in {', '.join(sorted(PRECISIONS[kind]))}")
    needed = {"onnx": ("onnx", "tf2onnx"), "openvino": ("nncf",) if chosen == "int8" else ()}.get(kind, ())
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"--format {kind} in {chosen} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    return chosen


def require_exportable(model: str | Path) -> Path:
    """The .keras file of MODEL, told without loading it.

    Raises ModelError where there is none, and where it is one of those that are not written in other formats.
    """
    path = resolve_model(model)
    if path.name == MANIFEST:
        raise ModelError(f"{model}: is an exported model already; name the run folder or .keras file it was made of")
    if read_settings(path).relative:
        raise ModelError(
            f"{path}: finds a threshold in each pair, which no other format holds; predict takes it as it is"
        )
    return path
