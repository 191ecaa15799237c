"""How sure a score is: its interval over pairs drawn anew (the bootstrap, Efron 1979)."""

import numpy as np

RESAMPLES = 1000


def drawn_pairs(pairs: int) -> np.ndarray:
    """How often each of so many pairs is in each drawing of as many, with replacement: int64 RESAMPLES x pairs.

    The same for the same number of pairs, so that a figure can be had again.
    """
    return np.random.default_rng(0).multinomial(pairs, np.full(pairs, 1 / pairs), size=RESAMPLES)


def interval(values: np.ndarray) -> list[float]:
    """The 95 % interval of a score, by the percentiles of its `values` in all drawings: [lower, upper].

    It covers the choice of pairs alone, not what was chosen by looking at these same pairs. Of fewer than about twenty
    it is too narrow.
    """
    return [float(bound) for bound in np.percentile(values, (2.5, 97.5))]
