"""A prediction on a cluster of three nodes, of which one dies while its actor is at work; run by test_ray_engine.

    python ray_job.py MODEL BEFORE AFTER OUT

Prints a line of JSON: what became of the pairs, the lines said, and how many actors had begun when the node died.
"""

import json
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from data_pipelines.pair_index import PairIndex
from segdiff.inference.folder import Job, PredictionFolder
from segdiff.inference.folder_run import DetectorPlan, fill_folder
from segdiff.inference.ray_engine import PoolSize, open_ray_engine
from segdiff.visualization.overlays import overlay, write_image

STORE = 80 * 2**20


def draw_when_told(signals: str, *images, **options):
    """Says that this actor is in the middle of a pair, and goes on when the node has died."""
    Path(signals, ray.get_runtime_context().get_node_id()).touch()
    while not Path(signals, "go").exists():
        time.sleep(0.05)
    return overlay(*images, **options)


def kill_one(cluster: Cluster, nodes: list, signals: Path, begun: list[int]) -> None:
    """Kills a node when the actors of both are in the middle of a pair."""
    ids = {node.node_id for node in nodes}
    while len(ids & {path.name for path in signals.iterdir()}) < len(ids):
        time.sleep(0.05)
    begun.append(len(ids))
    cluster.remove_node(nodes[0], allow_graceful=False)
    (signals / "go").touch()


def main(model: str, before: str, after: str, out: str) -> None:
    signals = Path(out).with_name("signals")
    signals.mkdir()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    begun: list[int] = []
    said: list[str] = []
    threading.Thread(target=kill_one, args=(cluster, nodes, signals, begun), daemon=True).start()
    plan = DetectorPlan(model, "openvino", "float32", options={"threshold": None, "tile": None, "overlap": None})
    with (
        PairIndex(Path(before), Path(after)) as index,
        open_ray_engine(plan, PoolSize(cpus=1), address=cluster.address, say=said.append) as engine,
    ):
        job = Job(engine.path, {"runtime": engine.runtime}, {"before": before, "after": after})
        folder = PredictionFolder(
            Path(out), job, classes=engine.settings.classes, draw=partial(draw_when_told, str(signals)),
            write_image=write_image,
        )  # fmt: skip
        folder.keep_current(index.pairs())
        with folder:
            tally = fill_folder(
                folder, index, engine, on_progress=lambda done, total: None, on_failure=lambda error: None
            )
    cluster.shutdown()
    print(json.dumps({"predicted": tally.predicted, "failed": tally.errors, "begun": begun, "said": said}))


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main(*sys.argv[1:])
