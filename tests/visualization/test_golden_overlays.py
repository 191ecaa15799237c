"""Overlays of drawn scenes against pictures that were looked at when they were made.

To make them anew, after looking at what has changed: `python -m tests.visualization.test_golden_overlays`.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.decoding import read_image, read_mask
from data_pipelines.synthetic.writing import write_scenes
from segdiff.visualization.overlays import blink, mark_change, overlay

GOLDEN = Path(__file__).parent / "golden"
SIDE = 80  # shown twice as large


@cache
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Before, after and mask of the first drawn scene."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "data", 1, SIDE, 4)
        files = [Path(folder) / "data" / name / "scene_0000.png" for name in ("A", "B", "label")]
        return read_image(files[0]), read_image(files[1]), (read_mask(files[2]) > 0).astype(np.uint8)


def found() -> np.ndarray:
    """A mask that is not quite the truth: shifted, and with a false alarm."""
    mask = np.roll(scene()[2], (2, 3), axis=(0, 1))
    mask[4:13, 4:20] = 1
    return mask


def likely() -> np.ndarray:
    return cv2.GaussianBlur(found().astype(np.float32), (0, 0), 2).clip(0, 1)


def change() -> np.ndarray:
    return overlay(*scene())


def contour() -> np.ndarray:
    return overlay(*scene(), style="contour")


def truth_and_probability() -> np.ndarray:
    before, after, truth = scene()
    return overlay(before, after, found(), truth, probability=likely())


def classes_of_a_sensor() -> np.ndarray:
    """16 bits in an odd range, four bands, pixels without truth, and three classes."""
    before, after, mask = scene()
    sensor = [np.concatenate([image, image[..., :1]], axis=2).astype(np.uint16) * 17 + 900 for image in (before, after)]
    labels = mask.copy()
    labels[:, SIDE // 2 :] *= 2
    labels[: SIDE // 2] = np.where(labels[: SIDE // 2] == 2, 3, labels[: SIDE // 2])
    labels[-15:, :25] = 255
    return overlay(*sensor, labels, classes=["no change", "built", "torn down", "extended"])


def blinking() -> np.ndarray:
    before, after, mask = scene()
    return np.concatenate(blink(before, after, mark_change(mask)), axis=1)


PICTURES: dict[str, Callable[[], np.ndarray]] = {
    "change": change,
    "contour": contour,
    "truth_and_probability": truth_and_probability,
    "classes_of_a_sensor": classes_of_a_sensor,
    "blinking": blinking,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_the_golden_ones(name: str) -> None:
    with Image.open(GOLDEN / f"{name}.png") as stored:
        golden = np.asarray(stored.convert("RGB")).astype(int)
    drawn = PICTURES[name]().astype(int)
    assert drawn.shape == golden.shape
    off = np.abs(drawn - golden).max(axis=-1)
    # another version of OpenCV may round otherwise, and set the letters of the captions a little differently
    assert np.mean(off > 4) < 0.005
    panels = slice(24, 24 + 2 * SIDE)
    assert off[panels].max() <= 4


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Image.fromarray(draw()).save(GOLDEN / f"{name}.png", optimize=True)
