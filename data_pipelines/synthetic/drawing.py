"""A pair: how one world looks at both dates, and what truly changed."""

import numpy as np

from data_pipelines.synthetic.conditions import plan_conditions
from data_pipelines.synthetic.planning import plan_scene
from data_pipelines.synthetic.rendering import render
from data_pipelines.synthetic.truth import change_mask


def draw_scene(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one pair: before and after (size x size x 3 uint8 RGB) and mask (size x size uint8, 1 = change, 0 = none).

    The mask lies on the image after; the image before is moved against it by up to 2 pixels in a direction of its own.
    ValueError for a size below 64.
    """
    scene = plan_scene(size, rng)
    before = render(scene, plan_conditions("before", rng), rng)
    after = render(scene, plan_conditions("after", rng), rng)
    return before, after, change_mask(scene)
