"""A detector in a format that runs without Keras: a folder with the network and its manifest."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from segdiff.inference.manifest import Manifest, write_manifest
from segdiff.models.change_detector import ChangeDetector


def export_openvino(model: ChangeDetector, folder: Path, model_sha256: str) -> None:
    """Writes model.xml, model.bin and the manifest into a new folder, which appears whole or not at all.

    The network takes images of any number and size that is a multiple of its stride. A folder of that name that is
    there stays: another process was quicker. Raises OSError where it cannot be written.
    """
    import openvino

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        frozen = temporary / "frozen.pb"
        frozen.write_bytes(_frozen_graph(model))
        network = openvino.Core().read_model(frozen)
        frozen.unlink()
        for tensor in network.inputs:
            tensor.get_tensor().set_names({tensor.get_any_name().split(":")[0]})
        network.output(0).get_tensor().set_names({"probability"})
        openvino.save_model(network, temporary / "model.xml", compress_to_fp16=False)
        outputs = network.output(0).partial_shape[3].get_length()
        bands = model.bands, model.bands_after
        write_manifest(Manifest("openvino", "model.xml", bands, outputs, model.settings, model_sha256), temporary)
        if not folder.exists():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _frozen_graph(model: ChangeDetector) -> bytes:
    """From uint8 "before" and "after" to probabilities, as a TensorFlow graph whose weights are constants.

    OpenVINO reads it without its converter for Python objects, which reports its use to its makers.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from segdiff.models.heads import to_probabilities

    bands = {"before": model.bands, "after": model.bands_after}
    shapes = [tf.TensorSpec([None, None, None, count], tf.uint8, name=name) for name, count in bands.items()]
    change = tf.function(
        lambda before, after: to_probabilities(model([before, after], training=False)), input_signature=shapes
    )
    graph: Any = convert_variables_to_constants_v2(change.get_concrete_function()).graph
    return graph.as_graph_def().SerializeToString()
