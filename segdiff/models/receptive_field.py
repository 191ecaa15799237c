"""How far the padding at an image's edge reaches into what a network says of it."""

import keras
import numpy as np

from segdiff.models.change_detector import ChangeDetector

FARTHEST = 128
"""Pixels up to which the reach is measured."""

_FELT = 1e-4
"""Of a logit: changes a probability by 2.5e-5 at most."""


def measure_reach(model: ChangeDetector) -> int:
    """Pixels from an edge of an image, up to which the logits depend on what lies beyond it; FARTHEST: that or more.

    Measured, for any network: noise is seen whole, and its middle part once more alone. Where the two differ, padding
    was felt. That is less than the theoretical receptive field, whose outermost taps count for next to nothing (Luo et
    al. 2016), and more than any image shows: noise moves every filter.
    """
    stride = model.settings.stride
    part = -(-2 * FARTHEST // stride) * stride
    around = -(-FARTHEST // stride) * stride
    side = part + 2 * around
    draw = np.random.default_rng(0)
    images = [
        draw.integers(0, 256, (1, side // 4 + 1, side // 4 + 1, bands)).repeat(4, axis=1).repeat(4, axis=2)
        for bands in (model.bands, model.bands_after)
    ]
    whole = [image[:, :side, :side].astype("float32") for image in images]
    inner = slice(around, around + part)
    seen = _logits(model, whole)[inner, inner]
    alone = _logits(model, [image[:, inner, inner] for image in whole])
    felt = np.abs(seen - alone).max(axis=-1) > _FELT
    from_edge = np.minimum(np.arange(part), np.arange(part)[::-1])
    distance = np.minimum.outer(from_edge, from_edge)
    return min(int(distance[felt].max(initial=-1)) + 1, FARTHEST)


def _logits(model: ChangeDetector, images: list[np.ndarray]) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(images, training=False))[0]
