"""A pair of big rasters: `python -m tests.benchmarks.bench_raster [--side 20000] [--folder FOLDER]`.

Writes a georeferenced RGB pair of that side by blocks (kept in FOLDER for the next time), predicts it into a folder as
`segdiff predict` does, in a process of its own, and prints megapixels a second, the peak of its resident memory, and
how that compares with the bare runtime on tiles of the same size that lie in memory. The network is the default one
with random weights, its tiles 512 pixels a side, 64 of them shared.

On 2 cores of AMD Zen 4 (AVX512-BF16, no AMX), one run beside other work: 203 s, 1.97 megapixels a second, 2.61 of tiles
against 2.98 and 2.54 of the bare runtime before and after (x 0.95), 1.60 GB at most. Before GDAL's cache of blocks was
bounded: 198 s, x 0.92, 2.82 GB.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

BLOCK = 512


def write_rasters(folder: Path, side: int) -> None:
    """Smooth noise, and a rectangle of change in every third block."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_000_000, 0.5, 0.5), "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "zlevel": 1, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
    with (
        rasterio.open(folder / "before.tif", "w", **profile) as before,
        rasterio.open(folder / "after.tif", "w", **profile) as after,
    ):
        for row, column in itertools.product(range(-(-side // BLOCK)), repeat=2):
            y, x = row * BLOCK, column * BLOCK
            height, width = min(BLOCK, side - y), min(BLOCK, side - x)
            image = cv2.resize(np.roll(noise, (row * 7, column * 11), (0, 1)), (BLOCK, BLOCK))[:height, :width]
            window = Window(x, y, width, height)
            before.write(np.moveaxis(image, 2, 0), window=window)
            if (row + column) % 3 == 0:
                image[100:160, 100:180] = (230, 220, 210)
            after.write(np.moveaxis(image, 2, 0), window=window)


def save_model(path: Path) -> None:
    """In a process of its own: the prediction is to be measured without TensorFlow, as the second one is."""
    code = (
        "import keras\n"
        "from dataclasses import replace\n"
        "from segdiff.models import build_change_detector\n"
        "from segdiff.inference.runtimes import open_network\n"
        "keras.utils.set_random_seed(0)\n"
        "model = build_change_detector('unet_diff', bands=3)\n"
        "model.settings = replace(model.settings, tile=512, overlap=64, threshold=0.9)\n"
        f"model.save({str(path)!r})\n"
        f"open_network({str(path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def bare_rate(model: Path, seconds: float = 30.0) -> float:
    """Megapixels of tiles a second, the tiles in memory."""
    from segdiff.inference.runtimes import open_network

    network = open_network(model)
    rng = np.random.default_rng(0)
    batches = [tuple(rng.integers(0, 256, (2, 512, 512, 3), np.uint8) for _ in range(2)) for _ in range(8)]
    end = [float("inf")]

    def endless():
        while time.perf_counter() < end[0]:
            yield from batches

    stream = network.run(endless())
    for _ in range(8):
        next(stream)
    began = time.perf_counter()
    end[0] = began + seconds
    tiles = sum(len(probabilities) for probabilities in stream)
    return tiles * 512 * 512 / 1e6 / (time.perf_counter() - began)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="A pair of big rasters.")
    parser.add_argument("--side", type=int, default=20_000, help="of the rasters, in pixels")
    parser.add_argument("--folder", type=Path, help="where the rasters are written, or lie already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "done").exists():
            write_rasters(folder, arguments.side)
            (folder / "done").touch()
        model, out = Path(temporary) / "model.keras", Path(temporary) / "out"
        save_model(model)
        segdiff = Path(sys.executable).with_name("segdiff")
        command = [str(segdiff), "predict", str(model), str(folder / "before.tif"), str(folder / "after.tif")]
        rates = [bare_rate(model)]
        began = time.perf_counter()
        process = subprocess.Popen([*command, "--out", str(out)])
        _, status, usage = os.wait4(process.pid, 0)
        lasted = time.perf_counter() - began
        if status:
            sys.exit(f"segdiff predict ended with status {os.waitstatus_to_exitcode(status)}")
        rates.append(bare_rate(model))
        tiles = (-(-(arguments.side - 64) // 448)) ** 2
        rate, bare = tiles * 512 * 512 / 1e6 / lasted, sum(rates) / len(rates)
        print(f"{arguments.side} x {arguments.side}: {lasted:.0f} s, {arguments.side**2 / 1e6 / lasted:.2f} Mpx/s")
        before, after = rates
        print(f"tiles {rate:.2f} Mpx/s; bare runtime {before:.2f} before, {after:.2f} after: x {rate / bare:.2f}")
        print(f"peak resident memory {usage.ru_maxrss / 1e6:.2f} GB")
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
