"""From MODEL to an exported model: converted, loaded again as prediction loads it, compared, and only then there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.layouts import DataError, Pair
from data_pipelines.validation import CheckReport, FaultyDataError
from data_pipelines.whole_folders import new_folder
from segdiff.inference.comparing import DRAWN_PAIRS, compare, drawn_pairs, require_close, spread
from segdiff.inference.evaluation import Truth, split_pairs
from segdiff.inference.exporting import write_network
from segdiff.inference.formats import FIXED_SIZE, Format, require_exportable
from segdiff.inference.manifest import Manifest, digest, write_manifest
from segdiff.inference.predictor import Detector, LoadedPair
from segdiff.inference.runtimes import Precision, keras_network, open_network
from segdiff.model_files import MANIFEST, PostProcessing
from segdiff.models.loading import load_model
from segdiff.prediction import Batch

COMPARED_PAIRS = 16
"""Of a data set, at most, for floats; for int8 all are."""

CALIBRATION_TILES = 100


def export_model(
    model: str | Path,
    out: Path,
    kind: Format,
    precision: str,
    *,
    data: CheckReport | None = None,
    overwrite: bool = False,
    silence: Callable[[], AbstractContextManager] = nullcontext,
    say: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """The exported model of MODEL in the new folder ``out``, which appears whole or not at all.

    What is written is opened by the runtime that prediction takes for it, and compared with the Keras model in float32
    on at most ``COMPARED_PAIRS`` pairs of ``data``, or where there are none on drawn ones. int8 needs data: it is
    calibrated on their tiles and compared on all their pairs. How near it comes is in the manifest.

    ``silence`` is entered around what converters print; ``say`` takes a line once nothing is left to refuse. Raises
    ModelError where MODEL is none, an exported one or one that finds a threshold in each pair, ExportError where the
    two differ too much, DataError on data that have faults or do not fit the model, OSError where ``out`` cannot be
    written.
    """
    path = require_exportable(model)
    with silence():
        network = load_model(path)
        fixed = network.settings.tile if kind in FIXED_SIZE else None
        # the networks are compared as they are: what becomes of a region may hang on one pixel, turns even them out
        plain: dict[str, Any] = {"post_processing": PostProcessing(), "test_time_augmentation": "none"}
        reference = Detector(replace(keras_network(network, path, "float32"), tile=fixed), **plain)
    quantized = precision == "int8"
    if quantized and data is None:
        raise ValueError("int8 is calibrated on data, there are none")
    pairs, truth = ([], None) if data is None else _labelled(data, reference)
    say(f"converting to {kind} in {precision}")
    with new_folder(out, replace=overwrite) as folder:
        tiles = list(calibration_tiles(reference, pairs)) if quantized else []
        with silence():
            manifest = write_network(network, folder, kind, precision, digest(path), tiles)
            # as in prediction, but for float32, whose difference would be that of bfloat16
            computing: Precision = "float32" if kind in ("onnx", "openvino") and not quantized else "auto"
            exported = Detector(open_network(folder / MANIFEST, precision=computing), **plain)
        chosen = list(pairs) if quantized else spread(pairs, COMPARED_PAIRS)
        count = len(chosen) or DRAWN_PAIRS

        def labelled() -> Iterator[tuple[LoadedPair, np.ndarray | None]]:
            for pair in chosen:
                yield reference.read(pair.before, pair.after), truth.read(pair) if truth else None
            if not chosen:
                yield from ((pair, None) for pair in drawn_pairs((network.bands, network.bands_after)))

        said = f"{count} pairs drawn" if data is None else f"{count} of the {len(pairs)} pairs in {data.data.root}"
        comparison = compare(reference, exported, labelled(), said, lambda done: on_progress(done, count))
        require_close(comparison, precision)
        manifest = replace(manifest, checked=asdict(comparison))
        write_manifest(manifest, folder)
    return manifest


def _labelled(data: CheckReport, detector: Detector) -> tuple[list[Pair], Truth]:
    """All pairs of the data, and how the truth of the detector's classes is read."""
    if data.faults or data.coding is None:
        raise FaultyDataError([data])
    try:
        truth = Truth(data.coding, len(detector.settings.classes))
    except DataError as error:
        raise DataError(f"{data.data.root}: {error}") from error
    return split_pairs(data.data, "all", data.data.root)[1], truth


def calibration_tiles(detector: Detector, pairs: Sequence[Pair], most: int = CALIBRATION_TILES) -> Iterator[Batch]:
    """At most that many tiles of the pairs, (before, after) of h x w x bands each, as the network sees them."""
    chosen = spread(pairs, most)
    left = most
    for number, pair in enumerate(chosen):
        loaded = detector.read(pair.before, pair.after)
        share = -(-left // (len(chosen) - number))
        tiles = spread(list(loaded.tiles(detector.plan(loaded))), share)
        left -= len(tiles)
        yield from tiles
