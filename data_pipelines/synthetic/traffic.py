"""Cars on the streets."""

import math
from collections.abc import Sequence

import numpy as np

from data_pipelines.synthetic.ground import in_view
from data_pipelines.synthetic.paints import CAR_PAINTS
from data_pipelines.synthetic.world import Car, Part, StreetGrid


def plan_cars(
    grid: StreetGrid,
    reach: float,
    size: int,
    streets: Sequence[float],
    widths: Sequence[float],
    rng: np.random.Generator,
) -> tuple[Car, ...]:
    """The traffic of one date: cars in both lanes and at the kerb, a lorry now and then."""
    cars = []
    for across, width in zip(streets, widths, strict=True):
        u = -reach + rng.exponential(40)
        while u < reach:
            lorry = rng.random() < 0.08
            lane = rng.choice([-1, 1]) * (width / 4 if rng.random() < 0.6 or width > 12 else width / 2 - 1.6)
            length, breadth = (rng.uniform(13, 17), 4.6) if lorry else (rng.uniform(7, 8.6), 3.6)
            paint = CAR_PAINTS[0] if lorry else CAR_PAINTS[rng.integers(len(CAR_PAINTS))]
            place = grid.place([u], [across + lane])[0]
            if in_view(place, size, 10):
                cars.append(Car(Part(place, length, breadth, grid.heading_at(u) + (math.pi if lane > 0 else 0)), paint))
            u += length + 4 + rng.exponential(45)
    return tuple(cars)
