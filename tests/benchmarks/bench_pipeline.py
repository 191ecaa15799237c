"""How many pairs a second the input pipeline gives: `python -m tests.benchmarks.bench_pipeline [--pairs 48]`.

On 2 cores (AMD Zen 4), 48 pairs of 512 x 512 as PNG, crops of 256, one run; absolute rates drift, ratios hold better.
Apart, in one thread: decode 93 pairs a second from the folder and 88 from shards (x 0.95, their bytes are checked),
augment 569 (x 6.1: decoding is the bottleneck). The whole pipeline after the first epoch: folder 94, shards 87, disk
cache 220 to 310 (x 2.3 to 3.3), memory 390 (x 4.1). In the first epoch the disk cache gives 38 to 65: every file is
brought to the disk before it gets its name.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.augmentation import Augmentation
from data_pipelines.decoding import read_image, read_mask
from data_pipelines.layouts import Pair, find_pairs
from data_pipelines.packing import pack
from data_pipelines.pipeline import CropPlan, LabelledPair, PairStore, training_batches
from data_pipelines.synthetic.writing import write_scenes
from data_pipelines.validation import CheckReport, check

SIZE, CROP, BATCH = 512, 256, 8
AUGMENTATION: dict[str, Any] = {"flip": True, "brightness": 0.2, "contrast": 0.2, "hue": 0.02, "noise": 0.05}


def decode(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three images of a pair."""
    assert pair.mask is not None, "drawn with masks"
    return read_image(pair.before), read_image(pair.after), read_mask(pair.mask)


def rate(work: Callable[[], int]) -> float:
    """Pairs a second, the best of three times."""
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        rates.append(work() / (time.perf_counter() - began))
    return max(rates)


def decoded(report: CheckReport) -> int:
    """Decodes every pair, in one thread."""
    for pair in report.data.pairs:
        decode(pair)
    return len(report.data.pairs)


def augmented(crops: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> int:
    """Augments every crop, in one thread."""
    augmentation = Augmentation(bands=3, **AUGMENTATION)
    for number, crop in enumerate(crops):
        augmentation(*crop, np.random.default_rng(number))
    return len(crops)


def piped(report: CheckReport, cache: Any) -> tuple[float, float]:
    """Pairs a second of the whole pipeline on all cores: in the first epoch, and in the best of three later ones."""
    assert report.coding is not None, "drawn with change"
    labelled = [LabelledPair(pair, report.coding) for pair in report.data.pairs]
    store = PairStore(labelled, bands=3, binary=True, cache=cache)
    plan = CropPlan(
        crop=CROP, batch=BATCH, crops_per_epoch=len(labelled), positive_fraction=0.5, seed=0,
        roots=(tuple(range(len(labelled))),), weights=(1.0,),
    )  # fmt: skip
    augmentation = Augmentation(bands=3, **AUGMENTATION)
    rates = []
    for epoch in range(4):
        first = epoch * plan.steps_per_epoch
        began = time.perf_counter()
        for _ in training_batches(store, plan, augmentation, first_step=first, steps=first + plan.steps_per_epoch):
            pass
        rates.append(len(labelled) / (time.perf_counter() - began))
    return rates[0], max(rates[1:])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Pairs a second of the input pipeline.")
    parser.add_argument("--pairs", type=int, default=48, help=f"of {SIZE} x {SIZE} pixels")
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SEGDIFF_CACHE"] = str(Path(temporary) / "cache")
        folder, shards = Path(temporary) / "folder", Path(temporary) / "shards"
        write_scenes(folder, pairs, SIZE, seed=0)
        report = check(find_pairs(folder))
        pack(report, shards, shard_bytes=8 * 10**6)
        packed = check(find_pairs(shards))
        corner = (slice(0, CROP), slice(0, CROP))
        crops = [tuple(image[corner] for image in decode(pair)) for pair in report.data.pairs]

        print(
            f"{pairs} pairs of {SIZE} x {SIZE} pixels as PNG, crops of {CROP}, {os.cpu_count()} cores; pairs a second"
        )
        print(f"{'decode, one thread, folder':40}{rate(lambda: decoded(report)):9.1f}")
        print(f"{'decode, one thread, shards':40}{rate(lambda: decoded(packed)):9.1f}")
        print(f"{'augment, one thread':40}{rate(lambda: augmented(crops)):9.1f}")  # type: ignore[arg-type]
        print(f"{'the whole pipeline, all cores':40}{'epoch 1':>9}{'later':>9}")
        for what, source, cache in (
            ("folder, cache none", report, "none"),
            ("shards, cache none", packed, "none"),
            ("folder, cache disk", report, "disk"),
            ("shards, cache disk", packed, "disk"),
            ("folder, cache memory", report, "memory"),
        ):
            first, later = piped(source, cache)
            print(f"  {what:38}{first:9.1f}{later:9.1f}")


if __name__ == "__main__":
    main()
