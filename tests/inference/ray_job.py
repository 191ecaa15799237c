"""The command on a cluster of three nodes, of which one dies while its actor is at work; run by test_ray_engine.

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


def kill_one(cluster: Cluster, nodes: list, signals: Path) -> None:
    """Kills a node when the actors of both are in the middle of a pair."""
    ids = {node.node_id for node in nodes}
    while not ids <= {path.name for path in signals.iterdir()}:
        time.sleep(0.05)
    cluster.remove_node(nodes[0], allow_graceful=False)
    (signals / "go").touch()


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    folder = Path(sys.argv[1])
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    threading.Thread(target=kill_one, args=(cluster, nodes, folder), daemon=True).start()
    overlays.overlay = partial(draw_when_told, folder)
    sys.argv = ["segdiff", *sys.argv[2:], "--address", cluster.address]
    try:
        cli.main()
    finally:
        cluster.shutdown()
