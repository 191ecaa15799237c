"""What every network does, whatever computes it: batches of pairs become probabilities."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

Batch = tuple[np.ndarray, np.ndarray]
"""(before, after), uint8 N x h x w x bands each, h and w multiples of the network's stride."""

Predict = Callable[[Iterable[Batch]], Iterator[np.ndarray]]
"""Batches -> float32 N x h x w x K probabilities of each, in the same order; some batches ahead are taken.

K is 1, the probability of change, for binary models, else the number of classes.
"""
