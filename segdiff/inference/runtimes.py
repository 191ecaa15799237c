"""What computes the probabilities of tiles: each runtime is a stream of batches in, probabilities out."""

import functools
import importlib.util
import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipelines.cache import cache_folder
from segdiff import __version__
from segdiff.inference.formats import RUNTIMES
from segdiff.inference.manifest import digest, read_manifest
from segdiff.model_files import MANIFEST, ModelError, Settings, resolve_model
from segdiff.prediction import Batch, Predict
from segdiff.processor import bfloat16_flag

logger = logging.getLogger(__name__)

RuntimeName = Literal["auto", "tensorflow", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class Network:
    """A trained network ready to compute."""

    run: Predict
    settings: Settings
    bands: tuple[int, int]
    """Of the image before and of the image after."""
    path: Path
    """The file it comes from."""
    runtime: str
    """Which one, in which precision, for a person."""
    tile: int | None = None
    """Side of the one tile size that it takes; None: any multiple of the stride."""


def open_network(
    model: str | Path, runtime: RuntimeName = "auto", precision: Precision = "auto", threads: int | None = None
) -> Network:
    """The network that MODEL stands for.

    ``auto`` takes OpenVINO on processors, where it is installed, and TensorFlow on GPUs. For OpenVINO a .keras file is
    converted once and kept in the cache folder under a name made of its content; TensorFlow is not imported where that
    is there. The precision ``auto`` is bfloat16 on processors that multiply it, but float32 where the threshold is
    found in the pair itself, which the rounding of small differences moves; float32 on others; and in TensorFlow that
    which suits the network and the device. ``threads`` are those of processors that it may use, else all: for several
    processes on one machine. Raises ModelError on a model that is none, or that another runtime or precision was
    exported for.
    """
    path = resolve_model(model)
    if path.name == MANIFEST:
        return _open_exported(path, runtime, precision, threads)
    if precision == "int8":
        raise ModelError(
            f"{path}: int8 has to be calibrated on pairs like those to come: segdiff export {model} --format openvino "
            "--precision int8 --data DATA --out FOLDER, and then FOLDER is the MODEL"
        )
    chosen = _choose(runtime)
    if chosen == "openvino":
        return _open_converted(path, precision, threads)
    from segdiff.models.loading import load_model

    _limit_tensorflow(threads)
    return keras_network(load_model(path), path, precision)


def keras_network(model: Any, path: Path, precision: Precision = "auto") -> Network:
    """A ChangeDetector in memory by TensorFlow; ``path`` is the file that it is known by."""
    from segdiff.models.receptive_field import measure_reach

    run, said = tensorflow_runtime(model, precision)
    settings = replace(model.settings, reach=measure_reach(model))
    return Network(run, settings, (model.bands, model.bands_after), path, said)


def _limit_tensorflow(threads: int | None) -> None:
    """To be called before TensorFlow has computed anything."""
    if threads is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _choose(runtime: RuntimeName) -> str:
    installed = importlib.util.find_spec("openvino") is not None
    if runtime == "openvino" and not installed:
        raise ModelError("--runtime openvino: the package openvino is not installed: pip install openvino")
    if runtime != "auto":
        return runtime
    return "openvino" if installed and not _may_have_gpu() else "tensorflow"


def _may_have_gpu() -> bool:
    """Without importing TensorFlow, whose import takes seconds."""
    if not Path("/proc/driver/nvidia/version").exists() and shutil.which("nvidia-smi") is None:
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _open_exported(path: Path, runtime: RuntimeName, precision: Precision, threads: int | None) -> Network:
    manifest = read_manifest(path)
    file, computes = path.parent / manifest.file, RUNTIMES[manifest.format]
    if runtime not in ("auto", computes):
        raise ModelError(f"{path.parent}: is exported for {manifest.format}, --runtime is {runtime}; leave it out")
    if computes == "openvino" and (precision != "int8" or manifest.precision == "int8"):
        try:
            # of a quantized network this is the precision of what is left
            run, said = openvino_runtime(file, "auto" if precision == "int8" else precision, threads)
        except RuntimeError as error:
            raise ModelError(f"{file}: is no network that OpenVINO reads, or it is broken; export it again") from error
    elif precision not in ("auto", manifest.precision):
        raise ModelError(
            f"{path.parent}: is exported in {manifest.precision}, --precision is {precision}; leave it out"
        )
    elif computes == "tensorflow":
        from segdiff.inference.saved_model import saved_model_runtime

        _limit_tensorflow(threads)
        run, said = saved_model_runtime(file)
    else:
        from segdiff.inference.tflite import tflite_runtime

        run, said = tflite_runtime(file, threads)
    said += f", exported to {manifest.format} in {manifest.precision}"
    return Network(run, manifest.settings, manifest.bands, path, said, manifest.tile)


def _open_converted(path: Path, precision: Precision, threads: int | None) -> Network:
    """Converts a .keras file, or takes it from the cache; what is damaged there is converted anew."""
    import openvino

    sha256 = digest(path)
    kept = cache_folder() / "openvino" / f"{sha256[:32]}-{__version__}-{openvino.__version__.split('-')[0]}"
    damaged = False
    try:
        if kept.exists():
            return _run_converted(path, kept, precision, threads)
    except (ModelError, RuntimeError, OSError):
        damaged = True
        logger.warning("%s: this converted model is damaged or may not be read, it is made anew", kept)

    from segdiff.inference.exporting import export_openvino
    from segdiff.models.loading import load_model

    model = load_model(path)
    try:
        export_openvino(model, kept, sha256, replace=damaged)
        return _run_converted(path, kept, precision, threads)
    except (ModelError, RuntimeError, OSError):
        # no room, no right to write, or another process at the same: this time it is not kept
        with tempfile.TemporaryDirectory() as elsewhere:
            export_openvino(model, Path(elsewhere, "openvino"), sha256)
            return _run_converted(path, Path(elsewhere, "openvino"), precision, threads)


def _run_converted(path: Path, folder: Path, precision: Precision, threads: int | None) -> Network:
    manifest = read_manifest(folder / MANIFEST)
    if precision == "auto" and manifest.settings.relative:
        precision = "float32"
    run, said = openvino_runtime(folder / manifest.file, precision, threads)
    return Network(run, manifest.settings, manifest.bands, path, said)


def openvino_runtime(file: Path, precision: Precision = "auto", threads: int | None = None) -> tuple[Predict, str]:
    """The network in the file by OpenVINO on the processor, and which precision that is.

    Of several batches as many are computed side by side as OpenVINO finds best, about one a core, since one at a time
    leaves cores idle; all cores work together on one that comes alone.
    """
    import openvino

    kind = precision if precision != "auto" else "bfloat16" if bfloat16_flag() else "float32"
    core = openvino.Core()
    network = core.read_model(file)

    @functools.cache
    def requests(hint: str) -> list[Any]:
        """What computes: those for many batches are one more than run at once, to begin while a result is taken."""
        precision_hint = {"bfloat16": "bf16", "float32": "f32"}[kind]
        hints: dict[str, Any] = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision_hint}
        if threads is not None:
            # pinned, the threads of all processes would share the machine's first cores
            hints |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        compiled = core.compile_model(network, "CPU", hints)
        count = 1 if hint == "LATENCY" else compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
        return [compiled.create_infer_request() for _ in range(count)]

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        coming = iter(batches)
        first = list(islice(coming, 2))
        free, running = deque(requests("LATENCY" if len(first) < 2 else "THROUGHPUT")), deque[Any]()

        def result() -> np.ndarray:
            request = running.popleft()
            request.wait()
            free.append(request)
            return request.get_output_tensor(0).data.copy()

        try:
            for before, after in chain(first, coming):
                done = None if free else result()
                request = free.popleft()
                request.start_async({"before": before, "after": after}, share_inputs=True)
                running.append(request)
                if done is not None:
                    yield done
            while running:
                yield result()
        finally:
            for request in running:  # of a consumer that went away
                request.wait()

    return run, f"OpenVINO in {kind}"


def tensorflow_runtime(model: Any, precision: Precision = "auto") -> tuple[Predict, str]:
    """The change detector as a TensorFlow graph, and in which precision; batches in turn over all GPUs."""
    import tensorflow as tf

    from segdiff.models.heads import to_probabilities
    from segdiff.models.precision import choose_precision, with_precision

    policy, _ = choose_precision({"bfloat16": "mixed_bfloat16"}.get(precision, precision), model)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")

    def on(device: str) -> Callable[[np.ndarray, np.ndarray], Any]:
        with tf.device(device):
            copy = with_precision(model, policy)

        @tf.function(reduce_retracing=True)
        def probabilities(before, after):
            with tf.device(device):
                return to_probabilities(copy([before, after], training=False))

        return lambda before, after: probabilities(tf.constant(before), tf.constant(after))

    functions = [on(device.name) for device in devices]

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        running = deque[Any]()  # GPUs compute on while results are awaited
        for number, (before, after) in enumerate(batches):
            running.append(functions[number % len(functions)](before, after))
            if len(running) > len(functions):
                yield running.popleft().numpy()
        while running:
            yield running.popleft().numpy()

    kind = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}.get(policy, policy)
    return run, f"TensorFlow in {kind}" + (f" on {len(devices)} devices" if len(devices) > 1 else "")


def mean_of(runtimes: list[Predict]) -> Predict:
    """The mean of the probabilities of several networks that take the same images and tell the same classes."""
    if len(runtimes) == 1:
        return runtimes[0]

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        waiting: list[deque[Batch]] = [deque() for _ in runtimes]
        source = iter(batches)

        def own(queue: deque[Batch]) -> Iterator[Batch]:
            while True:
                if not queue:
                    following = next(source, None)
                    if following is None:
                        return
                    for other in waiting:
                        other.append(following)
                yield queue.popleft()

        streams = [runtime(own(queue)) for runtime, queue in zip(runtimes, waiting, strict=True)]
        for members in zip(*streams, strict=True):
            yield np.asarray(np.mean(members, axis=0, dtype=np.float32))

    return run


def by_threes(runtime: Predict) -> Predict:
    """Images of any number of bands by a network of three: neighbouring bands in turn, the mean of the odds counts.

    The last group begins earlier where fewer than three are left; one band is given three times, the second of two
    twice.
    """

    def groups(bands: int) -> list[list[int]]:
        firsts = [min(first, max(bands - 3, 0)) for first in range(0, bands, 3)]
        return [[min(first + k, bands - 1) if bands > 1 else 0 for k in range(3)] for first in firsts]

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        waiting = deque[int]()

        def threes() -> Iterator[Batch]:
            for before, after in batches:
                chosen = groups(before.shape[-1])
                waiting.append(len(chosen))
                for group in chosen:
                    yield np.ascontiguousarray(before[..., group]), np.ascontiguousarray(after[..., group])

        results = runtime(threes())
        for first in results:
            count = waiting.popleft()
            if count == 1:
                yield first
                continue
            odds = sum(one / np.maximum(1 - one, 1e-6) for one in chain([first], islice(results, count - 1))) / count
            yield (odds / (1 + odds)).astype(np.float32)

    return run
