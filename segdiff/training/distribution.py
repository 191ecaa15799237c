"""Training on several devices or machines: which strategy, who writes, and what each replica reads."""

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from segdiff.config import ConfigError
from segdiff.training.failures import TrainingError
from segdiff.training.multiworker_fit import repaired_fit

Kind = Literal["auto", "single", "mirrored", "multiworker"]

SLURM_PORT = 8888
"""The port of a SLURM node's first task; the others of the node take the next ones."""


@dataclass(frozen=True)
class Workers:
    """The processes of one training and which of them this is."""

    addresses: tuple[str, ...]
    """host:port of each."""
    index: int
    origin: str
    """Where this is known from, for a person."""


@dataclass(frozen=True)
class Distribution:
    """How the work of a training is divided among the replicas."""

    strategy: Any
    """The ``tf.distribute.Strategy``; None: one device, no strategy."""
    replicas: int
    """In all workers together; each computes its share of every batch."""
    workers: int
    index: int
    """Of this worker."""
    reason: str
    """For a person."""

    @property
    def chief(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0

    def scope(self):
        """The context in which a model is built and compiled."""
        return nullcontext() if self.strategy is None else self.strategy.scope()

    def shares(self, batches: Any) -> Any:
        """What ``fit`` takes, of a dataset of this worker's rows of every batch (``data_pipelines.pipeline.Part``).

        Each of its replicas computes its share of them, none at all where there are fewer rows than replicas.
        """
        if self.strategy is None:
            return batches
        shares = batches.flat_map(_split(self.replicas // self.workers))
        return self.strategy.distribute_datasets_from_function(lambda context: shares)

    def from_chief(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The chief's numbers, in every worker; each worker gives arrays of the same shapes and dtypes."""
        if self.workers == 1:
            return list(arrays)
        import tensorflow as tf

        @tf.function
        def add(values):
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group, 0)
            # one by one: those of one sum must have one dtype
            return [context.all_reduce("SUM", tf.where(first, value, tf.zeros_like(value))) for value in values]

        # there is no sum of unsigned integers over the workers
        values = [array.astype("int64") if array.dtype.kind in "iu" else array for array in arrays]
        with self.errors():
            summed = self.strategy.run(add, args=([tf.constant(value) for value in values],))
        local = [self.strategy.experimental_local_results(value)[0].numpy() for value in summed]
        return [value.astype(array.dtype) for value, array in zip(local, arrays, strict=True)]

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """The context in which ``fit`` and ``evaluate`` run."""
        with self.errors(), nullcontext() if self.strategy is None else repaired_fit():
            yield

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what TensorFlow says of a lost worker into a TrainingError of one line."""
        if self.workers == 1:
            yield
            return
        from tensorflow import errors

        try:
            yield
        except (errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError) as error:
            raise TrainingError(
                f"worker {self.index} of {self.workers} has lost another one ({type(error).__name__}); "
                "start all of them again with --resume"
            ) from error


def open_distribution(
    kind: Kind,
    *,
    devices: int | None = None,
    workers: Sequence[str] = (),
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Distribution:
    """Chooses and opens the strategy; to be called before TensorFlow has done anything else in this process.

    ``auto`` takes several workers where ``workers``, TF_CONFIG or SLURM name them, all GPUs where there is more than
    one, and a single device otherwise. ``devices`` limits ``mirrored`` to so many GPUs, or without a GPU divides the
    processor into so many logical devices. ``workers`` are host:port of every process and ``index`` which of them this
    one is. With several workers this waits until all of them are there. Raises ConfigError on what cannot be.
    """
    known = _workers(workers, index, environment)
    if known is None and kind == "multiworker":
        raise ConfigError(
            "train.strategy: multiworker needs --workers host1:port,host2:port --index I, TF_CONFIG, or a SLURM step "
            "of several tasks"
        )
    if known is not None and kind in ("single", "mirrored"):
        raise ConfigError(f"train.strategy: is {kind}, {known.origin} names {len(known.addresses)} workers")
    if devices is not None and (known is not None or kind == "single"):
        raise ConfigError(
            f"train.devices: is {devices}, it is of mirrored alone: single has one device, workers take all their GPUs"
        )
    if known is not None:
        return _multiworker(known)
    if kind == "single":
        return Distribution(None, 1, 1, 0, "as asked")
    if kind == "auto" and devices is None and _gpus() < 2:
        return Distribution(None, 1, 1, 0, "one device")
    return _mirrored(devices)


def _gpus() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def _mirrored(devices: int | None) -> Distribution:
    import tensorflow as tf

    gpus = _gpus()
    if not gpus and devices is None:
        raise ConfigError(
            "train.strategy: mirrored needs GPUs, and there is none; train.devices: 2 divides the processor instead"
        )
    if gpus and (devices or 0) > gpus:
        raise ConfigError(f"train.devices: is {devices}, this machine has {gpus} GPUs")
    count = devices or gpus
    if not gpus:
        _divide_processor(count)
    kind = "GPU" if gpus else "CPU"
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(count)])
    return Distribution(strategy, count, 1, 0, f"{count} {'GPUs' if gpus else 'logical devices of the processor'}")


def _divide_processor(devices: int) -> None:
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(processor) or ()) == devices:
        return
    try:
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * devices)
    except RuntimeError as error:
        raise ConfigError(
            f"train.devices: {devices} logical devices can only be made before TensorFlow is used"
        ) from error


def _multiworker(workers: Workers) -> Distribution:
    import tensorflow as tf

    cluster = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(workers.addresses)}),
        task_type="worker",
        task_id=workers.index,
        rpc_layer="grpc",
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
    if threading.current_thread() is threading.main_thread():
        # TensorFlow has put a handler in the place of this process' own, which notes the signal and does nothing
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    count = len(workers.addresses)
    return Distribution(
        strategy, strategy.num_replicas_in_sync, count, workers.index, f"{count} workers from {workers.origin}"
    )


def _workers(addresses: Sequence[str], index: int | None, environment: Mapping[str, str]) -> Workers | None:
    """The workers by the call, TF_CONFIG or SLURM, in this order; None where none of them names several."""
    if addresses or index is not None:
        if not addresses or index is None:
            raise ConfigError("--workers and --index belong together: --workers host1:port,host2:port --index 0")
        workers = _checked(addresses, index, "--workers")
        if len(addresses) < 2:
            raise ConfigError(f"--workers: {addresses[0]} is one worker; leave --workers and --index out, or name all")
        return workers
    if environment.get("TF_CONFIG"):
        workers = _from_tf_config(environment["TF_CONFIG"])
    elif environment.get("SLURM_STEP_NUM_TASKS"):
        workers = _from_slurm(environment)
    else:
        return None
    return workers if len(workers.addresses) > 1 else None


def _from_tf_config(text: str) -> Workers:
    try:
        config = json.loads(text)
        cluster, role, index = config["cluster"], config["task"]["type"], int(config["task"]["index"])
        addresses = {name: list(cluster[name]) for name in sorted(cluster)}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"TF_CONFIG: is no cluster and task in JSON: {text}") from error
    if role not in addresses or set(addresses) - {"chief", "worker"}:
        raise ConfigError(f"TF_CONFIG: has {', '.join(addresses)} and is a {role}; only chief and worker are taken")
    chief, others = addresses.get("chief", []), addresses.get("worker", [])
    if not 0 <= index < len(addresses[role]):
        raise ConfigError(f"TF_CONFIG: is {role} {index} of {len(addresses[role])}, they are numbered from 0")
    return _checked([*chief, *others], index + (len(chief) if role == "worker" else 0), "TF_CONFIG")


def _from_slurm(environment: Mapping[str, str]) -> Workers:
    """As ``srun`` numbers its tasks: node after node, as many on each as the step has there.

    TensorFlow's SlurmClusterResolver sorts the nodes by name, so that node10 comes before node9 and SLURM's number of a
    task is not that of its address.
    """
    from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import (
        expand_hostlist,
        expand_tasks_per_node,
    )

    try:
        hosts = expand_hostlist(environment["SLURM_STEP_NODELIST"])
        tasks = expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        index = int(environment["SLURM_PROCID"])
        nodes = list(zip(hosts, tasks, strict=True))
    except KeyError as error:
        raise ConfigError(
            f"SLURM: {error.args[0]} is not set, though this is a step of a job; start it by srun"
        ) from error
    except ValueError as error:
        names = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID")
        found = ", ".join(f"{name}={environment[name]}" for name in names)
        raise ConfigError(f"SLURM: {found} do not name the tasks of a step") from error
    return _checked(
        [f"{host}:{SLURM_PORT + number}" for host, count in nodes for number in range(count)], index, "SLURM"
    )


def _checked(addresses: Sequence[str], index: int, origin: str) -> Workers:
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(f"{origin}: {address!r} is no host:port")
    if len(set(addresses)) < len(addresses):
        raise ConfigError(f"{origin}: two workers have the same address: {', '.join(addresses)}")
    if not 0 <= index < len(addresses):
        raise ConfigError(f"{origin}: is worker {index} of {len(addresses)}, they are numbered from 0")
    return Workers(tuple(addresses), index, origin)


def _split(replicas: int):
    """From one batch to a dataset of the shares of so many replicas, in order and as even as can be."""
    import keras
    import tensorflow as tf

    def split(*batch):
        def share(replica):
            def rows(part):
                size = tf.shape(part, out_type=tf.int64)[0]
                return part[replica * size // replicas : (replica + 1) * size // replicas]

            return keras.tree.map_structure(rows, batch)

        return tf.data.Dataset.range(replicas).map(share)

    return split
