"""How fast regions are found in a stream, and in what memory: `python -m tests.benchmarks.bench_regions [CASE ...]`.

Masks of 400 megapixels in slabs of 256 rows, with GeoJSON and GeoPackage, seconds of one core (AMD Zen 4) per 100
megapixels and the peak of memory, 102 MB of which are the imports: blobs 0.21 s, 167 MB; with all steps 0.82 s, 282 MB;
noise of 20 % with a minimum area of 20 pixels 10.7 s, 636 MB; one snake through all rows, 100 million runs, 8.7 s, 380
MB. Noise of which every region is kept costs 20 microseconds a region without the files: 29 million regions, 143 s per
100 megapixels, 675 MB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from segdiff.inference.geopackage import open_geopackage
from segdiff.inference.objects import RegionTracer, feature, open_geojson
from segdiff.inference.places import find_place
from segdiff.inference.postprocessing import postprocess
from segdiff.inference.runs import Slab
from segdiff.model_files import PostProcessing

EVERYTHING = PostProcessing(closing=2, fill_holes=50, vote=True, minimum_area=20)
CASES = {
    "blobs": ("blobs", PostProcessing()),
    "blobs, all steps": ("blobs", EVERYTHING),
    "noise, minimum area 20": ("noise", PostProcessing(minimum_area=20)),
    "noise": ("noise", PostProcessing()),
    "snake": ("snake", PostProcessing()),
}
"""Masks and what is done to them. `blobs` are 1 % change, `noise` is 20 %; `snake` is one region that winds up and down
through all the rows."""


def masks(kind: str, size: int, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """A mask of size x size in slabs of `rows` rows."""
    random = np.random.default_rng(0)
    columns = np.arange(size)
    for y in range(0, size, rows):
        height = min(rows, size - y)
        mask = np.zeros((height, size), np.uint8)
        if kind == "blobs":
            for _ in range(height * size // 40_000):
                top, left = random.integers(max(height - 5, 1)), random.integers(size)
                mask[top : top + random.integers(5, 36), left : left + random.integers(5, 36)] = 1
        elif kind == "noise":
            mask[:] = random.random((height, size), np.float32) < 0.2
        else:
            mask[:] = columns % 4 < 2
            if y == 0:
                mask[:2, columns % 8 < 4] = 1
            if y + height == size:
                mask[-2:, columns % 8 >= 4] = 1
        yield y, mask


def measure(case: str, size: int, rows: int) -> dict:
    """One case in this process; seconds are those of all cores and leave out the making of the mask."""
    kind, settings = CASES[case]
    random = np.random.default_rng(1)
    making = 0.0

    def slabs() -> Iterator[Slab]:
        nonlocal making
        began = time.process_time()
        for y, mask in masks(kind, size, rows):
            probability = random.random(mask.shape, np.float32)
            making += time.process_time() - began
            yield Slab(y, mask, probability)
            began = time.process_time()

    place = find_place(from_origin(500_000, 6_000_000, 0.5, 0.5), "EPSG:32633")
    tracer = RegionTracer(place)
    count = changed = 0
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with open_geojson(out / "objects.geojson") as write, open_geopackage(out / "objects.gpkg") as package:
            add = package.layer(place)

            def keep(regions) -> None:
                nonlocal count
                for region in regions:
                    write(feature(region, pair="pair", class_name="change"))
                    add(region, pair="pair", class_name="change")
                    count += 1

            for runs in postprocess(slabs(), settings, classes=2, workdir=out):
                changed += int(np.count_nonzero(runs.mask()))
                keep(tracer.add(runs))
            keep(tracer.finish())
        seconds = time.process_time() - began - making
        return {
            "case": case,
            "megapixels": size * size / 1e6,
            "changed": changed / size**2,
            "regions": count,
            "seconds_per_100_megapixels": seconds / (size * size / 1e8),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "geojson_mb": (out / "objects.geojson").stat().st_size / 1e6,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    usual = [case for case in CASES if case != "noise"]  # 29 million regions, which are 15 GB of files
    parser.add_argument("cases", nargs="*", default=usual, help=f"of: {'; '.join(CASES)}")
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=256, help="of a slab")
    arguments = parser.parse_args()
    if len(arguments.cases) == 1:
        print(json.dumps(measure(arguments.cases[0], arguments.size, arguments.rows)))
    else:  # each in a process of its own, for its own peak of memory
        for name in arguments.cases:
            options = ["--size", str(arguments.size), "--rows", str(arguments.rows)]
            subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_regions", name, *options], check=True)
