import json

import numpy as np
import pytest
import tensorflow as tf

from segdiff.config import ConfigError
from segdiff.training.distribution import Distribution, _split, _workers, open_distribution

NODES = {"SLURM_STEP_NODELIST": "node[9-10]", "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NUM_TASKS": "3"}


def cluster(role: str, index: object, **roles: list[str]) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": roles, "task": {"type": role, "index": index}})}


# ------------------------------------------------ who the workers are


@pytest.mark.parametrize("index", [0, 1])
def test_the_call_names_the_workers_before_all_else(index):
    named = ["a:1", "b.c:2222"]
    found = _workers(named, index, {**cluster("worker", 0, worker=["x:1", "y:1"]), **NODES, "SLURM_PROCID": "2"})
    assert (found.addresses, found.index, found.origin) == (("a:1", "b.c:2222"), index, "--workers")


@pytest.mark.parametrize(("role", "index", "expected"), [("chief", 0, 0), ("worker", 0, 1), ("worker", "1", 2)])
def test_tf_config_names_the_workers_and_the_chief_is_the_first(role, index, expected):
    found = _workers([], None, cluster(role, index, worker=["b:1", "c:1"], chief=["a:1"]))
    assert (found.addresses, found.index, found.origin) == (("a:1", "b:1", "c:1"), expected, "TF_CONFIG")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_slurm_names_the_workers_node_after_node_in_its_own_order(index):
    found = _workers([], None, {**NODES, "SLURM_PROCID": str(index)})
    assert found.addresses == ("node9:8888", "node9:8889", "node10:8888")
    assert (found.index, found.origin) == (index, "SLURM")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TF_CONFIG": ""},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # of a batch script, whose steps srun starts
        {
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_STEP_NODELIST": "n1",
            "SLURM_STEP_TASKS_PER_NODE": "1",
            "SLURM_PROCID": "0",
        },
        cluster("worker", 0, worker=["a:1"]),
    ],
)
def test_one_worker_is_none(environment):
    assert _workers([], None, environment) is None
    assert open_distribution("single", environment=environment).strategy is None


@pytest.mark.parametrize(
    ("named", "index", "environment", "message"),
    [
        (
            ["a:1", "b:1"],
            None,
            {},
            r"^--workers and --index belong together: --workers host1:port,host2:port --index 0",
        ),
        ([], 1, {}, r"^--workers and --index belong together"),
        (["a:1"], 0, {}, r"^--workers: a:1 is one worker; leave --workers and --index out, or name all"),
        (["a:1", "b:1"], 2, {}, r"^--workers: is worker 2 of 2, they are numbered from 0"),
        (["a:1", "b:1"], -1, {}, r"^--workers: is worker -1 of 2"),
        (["a:1", "a:1"], 0, {}, r"^--workers: two workers have the same address: a:1, a:1"),
        (["a:1", "b"], 0, {}, r"^--workers: 'b' is no host:port"),
        (["a:1", ":2"], 0, {}, r"^--workers: ':2' is no host:port"),
        (["a:1", "b:x"], 0, {}, r"^--workers: 'b:x' is no host:port"),
        (["a:1", "b:65536"], 0, {}, r"^--workers: 'b:65536' is no host:port"),
        ([], None, {"TF_CONFIG": "{"}, r"^TF_CONFIG: is no cluster and task in JSON: \{"),
        ([], None, {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, r"^TF_CONFIG: is no cluster and task in JSON"),
        ([], None, {"TF_CONFIG": "[]"}, r"^TF_CONFIG: is no cluster and task in JSON: \[\]"),
        ([], None, cluster("worker", "x", worker=["a:1"]), r"^TF_CONFIG: is no cluster and task in JSON"),
        ([], None, cluster("ps", 0, worker=["a:1"], ps=["b:1"]), r"^TF_CONFIG: has ps, worker and is a ps; only chief"),
        ([], None, cluster("chief", 0, worker=["a:1", "b:1"]), r"^TF_CONFIG: has worker and is a chief; only chief"),
        (
            [],
            None,
            cluster("chief", 1, worker=["a:1"], chief=["b:1"]),
            r"^TF_CONFIG: is chief 1 of 1, they are numbered",
        ),
        ([], None, NODES, r"^SLURM: SLURM_PROCID is not set, though this is a step of a job; start it by srun"),
        ([], None, {**NODES, "SLURM_PROCID": "3"}, r"^SLURM: is worker 3 of 3, they are numbered from 0"),
        (
            [],
            None,
            {**NODES, "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "3"},
            r"^SLURM: SLURM_STEP_NODELIST=node\[9-10\], SLURM_STEP_TASKS_PER_NODE=3, SLURM_PROCID=0 do not",
        ),
        (
            [],
            None,
            {**NODES, "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "node[9-"},
            r"^SLURM: SLURM_STEP_NODELIST=node\[9-, ",
        ),
    ],
)
def test_workers_that_cannot_be_are_refused_in_one_line(named, index, environment, message):
    with pytest.raises(ConfigError, match=message) as caught:
        _workers(named, index, environment)
    assert "\n" not in str(caught.value)


# ------------------------------------------------ which strategy


@pytest.mark.parametrize(
    ("kind", "devices", "environment", "message"),
    [
        ("multiworker", None, {}, "train.strategy: multiworker needs --workers host1:port,host2:port --index I"),
        (
            "single",
            None,
            cluster("worker", 0, worker=["a:1", "b:1"]),
            "train.strategy: is single, TF_CONFIG names 2 wo",
        ),
        ("mirrored", 2, {**NODES, "SLURM_PROCID": "0"}, "train.strategy: is mirrored, SLURM names 3 workers"),
        ("single", 2, {}, "train.devices: is 2, it is of mirrored alone"),
        ("auto", 2, cluster("worker", 0, worker=["a:1", "b:1"]), "train.devices: is 2, it is of mirrored alone"),
    ],
)
def test_contradictions_are_refused(kind, devices, environment, message):
    with pytest.raises(ConfigError, match=message):
        open_distribution(kind, devices=devices, environment=environment)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="of machines without a GPU")
@pytest.mark.parametrize("kind", ["auto", "single"])
def test_without_a_gpu_there_is_one_device_and_no_strategy(kind):
    found = open_distribution(kind, environment={})
    assert (found.strategy, found.replicas, found.workers, found.chief) == (None, 1, 1, True)
    batches = tf.data.Dataset.range(3)
    assert found.shares(batches) is batches
    with found.scope(), found.fitting():
        assert not tf.distribute.has_strategy()
    arrays = [np.arange(3), np.ones(2)]
    assert all(one is other for one, other in zip(found.from_chief(arrays), arrays, strict=True))


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="of machines without a GPU")
def test_mirrored_needs_devices():
    with pytest.raises(ConfigError, match=r"^train.strategy: mirrored needs GPUs, and there is none; train.devices: 2"):
        open_distribution("mirrored", environment={})
    tf.constant(1.0) + 1.0  # TensorFlow is used
    with pytest.raises(ConfigError, match=r"^train.devices: 7 logical devices can only be made before TensorFlow is"):
        open_distribution("mirrored", devices=7, environment={})


@pytest.mark.parametrize(("index", "chief"), [(0, True), (1, False)])
def test_the_first_worker_is_the_chief(index, chief):
    assert Distribution(None, 2, 2, index, "").chief is chief


# ------------------------------------------------ who reads what


@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 8])
def test_the_shares_of_a_batch_are_the_batch_in_order_and_as_even_as_can_be(replicas):
    sizes = [5, 5, 1, 4, 0]
    rows = np.arange(15)
    batches = tf.data.Dataset.from_generator(
        lambda: ((rows[sum(sizes[:k]) : sum(sizes[: k + 1])],) * 2 for k in range(len(sizes))),
        output_signature=(tf.TensorSpec([None], tf.int64),) * 2,
    ).map(lambda x, y: ((x, x + 100), y))
    shares = list(batches.flat_map(_split(replicas)))
    assert len(shares) == len(sizes) * replicas  # every replica takes part in every step
    for step, size in enumerate(sizes):
        parts = shares[step * replicas : (step + 1) * replicas]
        lengths = [len(mask) for _, mask in parts]
        assert max(lengths) - min(lengths) <= 1
        whole = rows[sum(sizes[:step]) : sum(sizes[:step]) + size]
        np.testing.assert_array_equal(np.concatenate([mask for _, mask in parts]), whole)
        np.testing.assert_array_equal(np.concatenate([before for (before, _), _ in parts]), whole)
        np.testing.assert_array_equal(np.concatenate([after for (_, after), _ in parts]), whole + 100)
