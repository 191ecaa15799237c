"""A detector in a format that runs without Keras: a folder with the network and its manifest."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.whole_folders import new_folder
from segdiff.augmented_prediction import rescales
from segdiff.inference.formats import FIXED_SIZE, INPUTS, OUTPUT, Format
from segdiff.inference.manifest import Manifest, write_manifest
from segdiff.inference.tflite import without_deprecation
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.receptive_field import measure_reach
from segdiff.prediction import Batch


def export_openvino(model: ChangeDetector, folder: Path, model_sha256: str, *, replace: bool = False) -> None:
    """A float32 OpenVINO network in a new folder, which appears whole or not at all.

    A folder of that name that is there stays, since another process was quicker, unless it is to be replaced. Raises
    OSError where it cannot be written.
    """
    with new_folder(folder, replace=replace) as unfinished:
        write_network(model, unfinished, "openvino", "float32", model_sha256)


def write_network(
    model: ChangeDetector,
    folder: Path,
    kind: Format,
    precision: str,
    model_sha256: str,
    tiles: Sequence[Batch] = (),
) -> Manifest:
    """Writes the network in that format and precision, and its manifest, into an empty folder.

    It takes uint8 "before" and "after", N x H x W x bands in 0..255, and gives float32 "probability", N x H x W x K in
    0..1: of images of any number and of any size that is a multiple of the stride; in TFLite of one tile of the model's
    own size. For int8, ``tiles`` are pairs (before, after) h x w x bands as the network will see them, from which the
    range of each activation is taken (post-training quantization: Jacob et al. 2018). Raises OSError where it cannot be
    written.
    """
    write: dict[Format, Callable[..., str]] = {
        "savedmodel": _write_saved_model,
        "onnx": _write_onnx,
        "openvino": _write_openvino,
        "tflite": _write_tflite,
    }
    file = write[kind](model, folder, precision, tiles)
    outputs = 1 if model.outputs[0].shape[-1] <= 2 else model.outputs[0].shape[-1]
    settings = replace(model.settings, reach=measure_reach(model))
    if kind in FIXED_SIZE and rescales(settings.test_time_augmentation):
        settings = replace(settings, test_time_augmentation="d4")
    manifest = Manifest(
        format=kind,
        file=file,
        bands=(model.bands, model.bands_after),
        outputs=outputs,
        settings=settings,
        model_sha256=model_sha256,
        precision=precision,
        tile=model.settings.tile if kind in FIXED_SIZE else None,
    )
    write_manifest(manifest, folder)
    return manifest


def _write_openvino(model: ChangeDetector, folder: Path, precision: str, tiles: Sequence[Batch]) -> str:
    """OpenVINO reads the graph without its converter for Python objects, which reports its use to its makers."""
    import openvino

    with tempfile.TemporaryDirectory() as elsewhere:
        frozen = Path(elsewhere) / "frozen.pb"
        frozen.write_bytes(_frozen(model).graph.as_graph_def().SerializeToString())
        network = openvino.Core().read_model(frozen)
        for tensor in network.inputs:
            tensor.get_tensor().set_names({tensor.get_any_name().split(":")[0]})
        network.output(0).get_tensor().set_names({OUTPUT})
        if precision == "int8":
            network = _quantized(network, tiles)
        openvino.save_model(network, folder / "model.xml", compress_to_fp16=precision == "float16")
    return "model.xml"


def _quantized(network: Any, tiles: Sequence[Batch]) -> Any:
    """Weights and activations of convolutions in 8 bits, by NNCF."""
    # it is to report its use to nobody; the variable is read when it is imported
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    def feed(tile: Batch) -> dict[str, Any]:
        return {name: image[None] for name, image in zip(INPUTS, tile, strict=True)}

    return nncf.quantize(
        network, nncf.Dataset(tiles, feed), preset=nncf.QuantizationPreset.MIXED, subset_size=len(tiles)
    )


def _write_onnx(model: ChangeDetector, folder: Path, precision: str, tiles: Sequence[Batch]) -> str:
    import tf2onnx

    frozen = _frozen(model)
    before, after, probability = (tensor.name for tensor in (*frozen.inputs, *frozen.outputs))
    network, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        name="segdiff",
        input_names=[before, after],
        output_names=[probability],
        tensors_to_rename={before: INPUTS[0], after: INPUTS[1], probability: OUTPUT},
        opset=18,
    )
    for tensor in (*network.graph.input, *network.graph.output):  # they have names without meaning, or none
        for axis, name in enumerate("NHW"):
            tensor.type.tensor_type.shape.dim[axis].dim_param = name
    (folder / "model.onnx").write_bytes(network.SerializeToString())
    return "model.onnx"


def _write_saved_model(model: ChangeDetector, folder: Path, precision: str, tiles: Sequence[Batch]) -> str:
    """The folder itself is the SavedModel, with one signature; its weights are constants of the graph."""
    _save(_frozen(model), folder)
    return "saved_model.pb"


def _write_tflite(model: ChangeDetector, folder: Path, precision: str, tiles: Sequence[Batch]) -> str:
    import tensorflow as tf

    def feed() -> Iterator[dict[str, Any]]:
        for tile in tiles:
            yield {name: image[None] for name, image in zip(INPUTS, tile, strict=True)}

    with tempfile.TemporaryDirectory() as elsewhere:
        # of a SavedModel the names of inputs and output are kept
        _save(_frozen(model, 1, model.settings.tile), Path(elsewhere))
        converter = tf.lite.TFLiteConverter.from_saved_model(elsewhere)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = feed
        with without_deprecation():  # it is calibrated by the interpreter
            (folder / "model.tflite").write_bytes(converter.convert())
    return "model.tflite"


def _frozen(model: ChangeDetector, count: int | None = None, side: int | None = None) -> Any:
    """From uint8 "before" and "after" to probabilities: a TensorFlow function whose weights are constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from segdiff.models.heads import to_probabilities

    shapes = [
        tf.TensorSpec([count, side, side, bands], tf.uint8, name=name)
        for name, bands in zip(INPUTS, (model.bands, model.bands_after), strict=True)
    ]
    change = tf.function(
        lambda before, after: to_probabilities(model([before, after], training=False)), input_signature=shapes
    )
    return convert_variables_to_constants_v2(change.get_concrete_function())


def _save(frozen: Any, folder: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    shapes = [tf.TensorSpec(x.shape, x.dtype, name=name) for x, name in zip(frozen.inputs, INPUTS, strict=True)]
    serve = tf.function(lambda before, after: {OUTPUT: frozen(before, after)[0]}, input_signature=shapes)
    tf.saved_model.save(module, str(folder), signatures=serve.get_concrete_function())
