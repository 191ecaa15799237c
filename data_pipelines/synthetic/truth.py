"""The truth of a scene: where roofs stand, and what changed."""

import cv2
import numpy as np

from data_pipelines.synthetic.canvas import MARGIN, Canvas
from data_pipelines.synthetic.world import Date, Scene


def footprints(scene: Scene, date: Date) -> np.ndarray:
    """Where roofs are at a date, size x size uint8 0/1, in the frame of the image after."""
    canvas = Canvas(scene.size)
    canvas.light[:] = 0
    for building in scene.buildings:
        for part in building.standing(date):
            canvas.light_fill(part.footprint, 255)
    span = scene.size + 2 * MARGIN
    share = cv2.resize(canvas.light, (span, span), interpolation=cv2.INTER_AREA)
    return (share[MARGIN:-MARGIN, MARGIN:-MARGIN] > 127).astype(np.uint8)


def change_mask(scene: Scene) -> np.ndarray:
    """The true change, size x size uint8: 1 where a roof stands at one date only, else 0; shadows do not count."""
    return footprints(scene, "before") ^ footprints(scene, "after")
