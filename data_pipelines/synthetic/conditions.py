"""Under which sun, in which season and by which camera a world is seen."""

import math
from dataclasses import dataclass

import numpy as np

from data_pipelines.synthetic.paints import SEASONS, Season
from data_pipelines.synthetic.world import Date


@dataclass(frozen=True)
class Conditions:
    """How the world is seen at one date."""

    date: Date
    sun: np.ndarray
    """Unit vector on the ground towards the sun."""
    shadow: float
    """Length of a shadow per height."""
    ambient: np.ndarray
    """Light left in the shadow, per channel, 0..1."""
    season: Season
    leaf_tint: float
    tones: np.ndarray
    """The camera's response, 256 x 1 x 3 uint8."""
    clouds: np.ndarray
    """Uneven illumination, a coarse grid of factors."""
    blur: float
    noise: float
    offset: tuple[float, float]
    """Misregistration (x, y) in pixels; its length is at most 2."""


def plan_conditions(date: Date, rng: np.random.Generator) -> Conditions:
    """Draw the sun, the season and the camera of one date; only the image before is misregistered."""
    azimuth = rng.uniform(0, 2 * math.pi)
    slip, direction = rng.uniform(0.3, 2.0), rng.uniform(0, 2 * math.pi)
    shade = rng.uniform(0.36, 0.52)
    return Conditions(
        date=date,
        sun=np.array([math.cos(azimuth), math.sin(azimuth)]),
        shadow=rng.uniform(0.5, 1.25),
        ambient=np.array([shade * 0.92, shade, shade * 1.12], np.float32),
        season=SEASONS[rng.integers(len(SEASONS))],
        leaf_tint=rng.uniform(0.85, 1.1),
        tones=_tones(rng),
        clouds=rng.uniform(0.9, 1.1, (4, 4)).astype(np.float32),
        blur=rng.uniform(0.3, 0.75),
        noise=rng.uniform(1.5, 4.5),
        offset=(slip * math.cos(direction), slip * math.sin(direction)) if date == "before" else (0.0, 0.0),
    )


def _tones(rng: np.random.Generator) -> np.ndarray:
    """Exposure, white balance, contrast and haze as one curve a channel."""
    level = np.linspace(0, 1, 256)[:, None, None]
    warmth = rng.normal(0, 0.035)
    gains = rng.uniform(0.9, 1.16) * np.array([1 + warmth, 1 + rng.normal(0, 0.015), 1 - warmth])
    haze = rng.uniform(0, 0.16)
    seen = np.clip(level * gains, 0, 1) ** rng.uniform(0.85, 1.2)
    return np.rint(255 * ((1 - haze) * seen + haze * np.array([0.74, 0.79, 0.86]))).astype(np.uint8)
