"""The command on a cluster of two nodes, of which one dies while its actor is at work; run by test_ray_engine.

    python ray_job.py SIGNALS predict MODEL BEFORE AFTER --out OUT --engine ray ...

SIGNALS is an empty folder: each node leaves a file of its name when its actor is in the middle of a pair, and goes on
when there is one called "go".
"""

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from segdiff import cli
from segdiff.visualization import overlays

STORE = 80 * 2**20


def draw_when_told(signals: Path, *images, **options):
    from segdiff.visualization.overlays import overlay

    (signals / ray.get_runtime_context().get_node_id()).touch()
    while not (signals / "go").exists():
        time.sleep(0.05)
    return overlay(*images, **options)


def kill_one(cluster: Cluster, signals: Path) -> None:
    """Kills the node beside the head when the actors of both are in the middle of a pair."""
    ids = {node.node_id for node in cluster.list_all_nodes()}
    while not ids <= {path.name for path in signals.iterdir()}:
        time.sleep(0.05)
    cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)
    (signals / "go").touch()


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    folder = Path(sys.argv[1])
    size = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    cluster.add_node(**size)
    threading.Thread(target=kill_one, args=(cluster, folder), daemon=True).start()
    overlays.overlay = partial(draw_when_told, folder)
    sys.argv = ["segdiff", *sys.argv[2:], "--address", cluster.address]
    try:
        cli.main()
    finally:
        cluster.shutdown()
