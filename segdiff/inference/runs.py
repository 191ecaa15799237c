"""Masks as runs, slab by slab from top to bottom, and the components that the runs join to.

A run is a stretch of pixels of one row that are of one class. A mask of large areas has few of them, so what is done
with runs costs little, and no image of labels is ever needed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Slab:
    """The rows y..y + n of a mask.

    `mask` is uint8 n x W of class indices, 0 being the background. `probability` is n x W of change, 0..1, or n x W x K
    of the classes, whose change is then 1 - P(0). `valid` is bool n x W, False where the inputs hold no data; None:
    everything is valid.
    """

    y: int
    mask: np.ndarray
    probability: np.ndarray | None = None
    valid: np.ndarray | None = None


@dataclass(frozen=True)
class Runs:
    """The rows y..y + height of a mask as runs that cover every pixel, in row-major order.

    A new run begins with every row and wherever class or validity changes. `begin` is int64, the flat index of each
    run's first pixel in these rows; `value` uint8, its class; `valid` bool, or None where everything is valid; `total`
    float32, the sum of the probabilities of change over its pixels, or None without probabilities.
    """

    y: int
    height: int
    width: int
    begin: np.ndarray
    value: np.ndarray
    valid: np.ndarray | None
    total: np.ndarray | None

    @property
    def length(self) -> np.ndarray:
        """int64, the pixels of each run."""
        return np.diff(self.begin, append=self.height * self.width)

    def mask(self) -> np.ndarray:
        """The rows as class indices, uint8 height x width."""
        return np.repeat(self.value, self.length).reshape(self.height, self.width)

    def valid_rows(self) -> np.ndarray | None:
        """Which pixels are valid, bool height x width, or None where all are."""
        return None if self.valid is None else np.repeat(self.valid, self.length).reshape(self.height, self.width)

    def with_value(self, value: np.ndarray) -> "Runs":
        """The same rows with other classes, neighbours that have become alike being one run."""
        first = self.begin % self.width == 0
        first[1:] |= value[1:] != value[:-1]
        if self.valid is not None:
            first[1:] |= self.valid[1:] != self.valid[:-1]
        return replace(
            self,
            begin=self.begin[first],
            value=value[first],
            valid=None if self.valid is None else self.valid[first],
            total=None if self.total is None else np.add.reduceat(self.total, np.flatnonzero(first)),
        )


def check_slabs(slabs: Iterable[Slab]) -> Iterator[Slab]:
    """The slabs that have rows, unchanged, while they come top to bottom without a gap.

    They may be of any heights; all are of one width and alike in having `probability` and `valid` or not. Raises
    ValueError at the first that is not as `Slab` says or does not go on where the one before ended.
    """
    y = 0
    expected: tuple[int, bool, bool] | None = None
    for slab in slabs:
        mask, probability, valid = slab.mask, slab.probability, slab.valid
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise ValueError(f"a mask is uint8 H x W, not {mask.dtype} of shape {mask.shape}")
        if probability is not None and (probability.shape[:2] != mask.shape or probability.ndim not in (2, 3)):
            raise ValueError(
                f"the probability has shape {probability.shape} and the mask {mask.shape}: they must agree"
            )
        if valid is not None and (valid.shape != mask.shape or valid.dtype != bool):
            raise ValueError(
                f"valid is {valid.dtype} of shape {valid.shape}: it must be bool of the mask's shape {mask.shape}"
            )
        found = (mask.shape[1], probability is not None, valid is not None)
        expected = expected or found
        if slab.y != y or found != expected:
            raise ValueError(f"{_describe(slab.y, found)} came where {_describe(y, expected)} is next")
        y += len(mask)
        if mask.size:
            yield slab


def _describe(y: int, kind: tuple[int, bool, bool]) -> str:
    width, scored, masked = kind
    given = ("with" if scored else "without") + " probability, " + ("with" if masked else "without") + " valid"
    return f"row {y} of width {width} {given}"


def encode_slab(slab: Slab) -> Runs:
    """The runs of a slab that has rows; pixels that are not valid become 0."""
    height, width = slab.mask.shape
    mask = slab.mask if slab.valid is None else np.where(slab.valid, slab.mask, np.uint8(0))
    flat = mask.ravel()
    first = np.empty(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=first[1:])
    valid = None if slab.valid is None else slab.valid.ravel()
    if valid is not None:
        first[1:] |= valid[1:] != valid[:-1]
    first[::width] = True
    begin = np.flatnonzero(first)
    total = None
    if slab.probability is not None:
        probability = slab.probability if slab.probability.ndim == 2 else 1 - slab.probability[..., 0]
        total = np.add.reduceat(probability.ravel().astype(np.float32, copy=False), begin)
    return Runs(slab.y, height, width, begin, flat[begin], None if valid is None else valid[begin], total)


@dataclass(frozen=True)
class Spans:
    """Runs by their place: row, first column, column past the last, and class, in row-major order.

    Rows count from the top of a slab; row -1 holds what is carried over from the slab above.
    """

    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    value: np.ndarray

    @classmethod
    def of(cls, runs: Runs, chosen: np.ndarray | slice) -> "Spans":
        """The runs that `chosen` (an index, bool) names."""
        begin = runs.begin[chosen]
        row, start = np.divmod(begin, runs.width)
        return cls(row, start, start + runs.length[chosen], runs.value[chosen])

    @classmethod
    def none(cls) -> "Spans":
        """No run at all."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self.row)

    def before(self, other: "Spans") -> "Spans":
        """These and then those of `other`."""
        return Spans(
            np.concatenate([self.row, other.row]),
            np.concatenate([self.start, other.start]),
            np.concatenate([self.stop, other.stop]),
            np.concatenate([self.value, other.value]),
        )

    def carried(self, last: np.ndarray) -> "Spans":
        """Those that `last` (bool) names, as row -1 of the slab that follows."""
        return Spans(np.full(np.count_nonzero(last), -1), self.start[last], self.stop[last], self.value[last])


def touching(spans: Spans, *, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of spans in successive rows that share an edge, or with `diagonal` a corner: indices (upper, lower)."""
    pitch = int(spans.stop.max(initial=0)) + 2  # flat positions so far apart that the ends of rows never touch
    begin, end = spans.row * pitch + spans.start, spans.row * pitch + spans.stop
    first = np.searchsorted(end, begin + pitch, side="left" if diagonal else "right")
    past = np.searchsorted(begin, end + pitch, side="right" if diagonal else "left")
    count = past - first
    upper = np.repeat(np.arange(len(spans)), count)
    lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(count) - count), count)
    return upper, lower


def beside(spans: Spans) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of spans that lie side by side in one row: indices (left, right)."""
    left = np.flatnonzero((spans.row[:-1] == spans.row[1:]) & (spans.stop[:-1] == spans.start[1:]))
    return left, left + 1


def join(count: int, pairs: tuple[np.ndarray, np.ndarray]) -> tuple[int, np.ndarray]:
    """The connected components of `count` nodes, two of a pair being connected: their number, and that of each node."""
    graph = coo_array((np.ones(len(pairs[0]), np.uint8), pairs), shape=(count, count))
    return connected_components(graph, directed=False)


@dataclass(frozen=True)
class Joined:
    """The components in one slab, numbered 0..count.

    `of_open` is the number of each component that was open above, in the order of the slab above's `still_open`;
    `of_span` that of each span, the carried ones first; `still_open` the numbers of those that reach the last row.
    """

    count: int
    of_open: np.ndarray
    of_span: np.ndarray
    still_open: np.ndarray


class Components:
    """Joins spans to components slab after slab, and remembers only which of them are open at the last row."""

    def __init__(self) -> None:
        self._open = 0
        self._of_carried = np.zeros(0, np.int64)

    def join(self, count: int, pairs: tuple[np.ndarray, np.ndarray], last: np.ndarray) -> Joined:
        """Join `count` spans, the carried ones first, by `pairs`; `last` (bool) names those of the slab's last row."""
        opened, carried = self._open, len(self._of_carried)
        upper = np.concatenate([self._of_carried, pairs[0] + opened])
        lower = np.concatenate([np.arange(carried) + opened, pairs[1] + opened])
        components, label = join(opened + count, (upper, lower))
        of_open, of_span = label[:opened], label[opened:]
        still_open, self._of_carried = np.unique(of_span[last], return_inverse=True)
        self._open = len(still_open)
        return Joined(components, of_open, of_span, still_open)
