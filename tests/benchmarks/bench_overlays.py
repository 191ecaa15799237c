"""How fast overlays are drawn, and rasters looked at: `python -m tests.benchmarks.bench_overlays [--raster 20000]`.

What `predict` draws of a pair of 256 x 256 (drawn scenes), pictures a second of one core (AMD Zen 4): change 411, with
truth 488, of six bands 154, with the heat map 305. Told apart: the JPEG alone 784, a GIF drawn and written 5.
`segdiff overlay` of 20,000 x 20,000 pixels, three bands of 8 bits or four of 16: 378 MB at most, with truth 427 MB, in
47 to 79 s beside other work on both cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from data_pipelines.decoding import read_image, read_mask
from data_pipelines.synthetic.writing import write_scenes
from segdiff.visualization.overlays import blink, mark_change, overlay
from segdiff.visualization.pictures import encode_image, write_gif

SIDE, SCENES = 256, 12
WITNESS = "import sys, resource; from segdiff.cli import app; app(sys.argv[1:], standalone_mode=False); "
WITNESS += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def scenes(folder: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Before, after and mask of drawn pairs."""
    write_scenes(folder, SCENES, SIDE, 0)
    names = [path.name for path in sorted((folder / "A").iterdir())]
    return [
        (read_image(folder / "A" / name), read_image(folder / "B" / name), read_mask(folder / "label" / name) // 255)
        for name in names
    ]


def rate(draw: Callable[[int], object], seconds: float) -> float:
    """How often a second of this process's time, all threads together."""
    for index in range(SCENES):
        draw(index)
    done, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        draw(done % SCENES)
        done += 1
    return done / (time.process_time() - began)


def measure(seconds: float) -> Iterator[tuple[str, float]]:
    """Each case, and how many a second."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = scenes(Path(folder) / "data")
        found = [np.roll(mask, 5, axis=1) for _, _, mask in pairs]
        likely = [cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 4).clip(0, 1) for mask in found]
        six = [tuple(np.concatenate([image, image], axis=2) for image in pair[:2]) for pair in pairs]
        pages = [overlay(*pair) for pair in pairs]

        def gif(index: int) -> None:
            before, after, mask = pairs[index]
            write_gif(Path(folder) / "x.gif", blink(before, after, mark_change(mask)))

        yield "change", rate(lambda i: overlay(*pairs[i]), seconds)
        yield "with truth", rate(lambda i: overlay(*pairs[i][:2], found[i], pairs[i][2]), seconds)
        yield "six bands", rate(lambda i: overlay(*six[i], found[i]), seconds)
        yield "with probability", rate(lambda i: overlay(*pairs[i], probability=likely[i]), seconds)
        yield "JPEG alone", rate(lambda i: encode_image(Path("x.jpg"), pages[i]), seconds)
        yield "GIF, drawn and written", rate(gif, seconds)


def write_raster(path: Path, size: int, bands: int, dtype: str, scale: int) -> None:
    """A GeoTIFF of blocks of 8 pixels of one value, Deflate."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": size, "height": size, "count": bands, "dtype": dtype, "compress": "deflate"}
    profile |= {"tiled": True, "crs": "EPSG:32650", "transform": from_origin(5e5, 4e6, 1, 1), "BIGTIFF": "IF_SAFER"}
    with rasterio.open(path, "w", **profile) as target:
        for y in range(0, size, 256):
            values = rng.integers(0, 256, (bands, 32, -(-size // 8))).astype(dtype) * scale
            rows = np.repeat(np.repeat(values, 8, axis=1), 8, axis=2)[:, : size - y, :size]
            target.write(rows, window=Window(0, y, size, rows.shape[1]))


def write_mask(path: Path, size: int) -> None:
    """Squares of 100 pixels, one in 25 of the area."""
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "compress": "deflate"}
    profile |= {"tiled": True, "crs": "EPSG:32650", "transform": from_origin(5e5, 4e6, 1, 1)}
    with rasterio.open(path, "w", **profile) as target:
        for y in range(0, size, 256):
            rows = np.arange(y, min(y + 256, size))
            square = (rows[:, None] % 500 < 100) & (np.arange(size) % 500 < 100)
            target.write(square[None] * np.uint8(255), window=Window(0, y, size, len(rows)))


def measure_rasters(size: int) -> Iterator[dict]:
    """`segdiff overlay` of rasters in a process of its own: seconds and peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_raster(root / "rgb.tif", size, 3, "uint8", 1)
        write_raster(root / "sensor.tif", size, 4, "uint16", 40)
        write_mask(root / "mask.tif", size)
        for image in ("rgb", "sensor"):
            for truth in ([], ["--truth", str(root / "mask.tif")]):
                files = [str(root / f"{name}.tif") for name in (image, image, "mask")]
                began = time.perf_counter()
                command = [sys.executable, "-c", WITNESS, "overlay", *files, *truth, "--out", str(root / "x.jpg"), "-q"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                yield {
                    "images": image,
                    "truth": bool(truth),
                    "seconds": round(time.perf_counter() - began, 1),
                    "peak_mb": int(done.stdout.split()[-1]) // 1024,
                }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3, help="of each case")
    parser.add_argument("--raster", type=int, metavar="SIDE", help="look at rasters of that size instead")
    arguments = parser.parse_args()
    if arguments.raster:
        for result in measure_rasters(arguments.raster):
            print(json.dumps(result), flush=True)
    else:
        for case, a_second in measure(arguments.seconds):
            print(json.dumps({"case": case, "a_second": round(a_second)}), flush=True)
