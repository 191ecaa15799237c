"""What is usual in one pair of images, for models whose score has no fixed scale: bands, threshold and confidence.

All of it is measured at full resolution, on an overview the features would be those of things of another size: on a
small pair as a whole, on a large one in windows spread over it, as many pixels however large it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from segdiff.inference.misregistration import Window, displacement, moved
from segdiff.inference.tiling import read_tile
from segdiff.model_files import BAND_DEVIATION, BAND_MEAN
from segdiff.prediction import Batch, Predict

PART, PARTS = 1024, 4
"""Side in pixels and number of the parts, at most, in which a pair is looked at as a whole."""
SIDE, WINDOWS = 512, 16
"""Side and number of the windows, at most, that are looked at of a larger one."""
_UNRELATED = 4
"""Windows, at most, that are compared with themselves turned by half a turn."""

_UNCHANGED = 0.1
"""The share of the change that may be none: higher scores are asked for until it is no more."""
_LEAST_CELLS = round(1 / _UNCHANGED)
"""Cells of the coarsest feature map below which the confidence is 0: within one all pixels have about the same score,
and a share of a tenth cannot be told from fewer than ten that differ."""
_FLOOR, _CEILING = 0.75, 1.25
"""What differs by less than this part of what unrelated places do is no change, however quiet the rest is; what differs
by more than that part is, however unquiet."""
_LEAST_SCORE = 0.2
"""No threshold is lower: a score of 1 is about one standard deviation, in the pixels and in the features."""
_ALIKE = 0.1
"""The two images are of one place where usual pixels differ by so much less than unrelated ones."""
_NEAR = 6
"""Pixels along either axis: images that lie further apart may be misregistered."""
_FITS = 0.97
"""They are, where usual pixels differ by less than this part of what they do, once one of the images is moved."""
_HIGHER = 1.1
"""The confidence asks what remains of the change at a threshold that is so much higher."""
_STEEPNESS = 4
"""Of the probability: a score of half the threshold has 0.06, of twice 0.94."""


class Readable(Protocol):
    """A pair whose rows can be read in any order."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    def read_at(self, y0: int, y1: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Before and after, uint8 n x W x bands, and which pixels hold data, bool n x W; None: all."""


@dataclass(frozen=True)
class PairScale:
    """What is usual in one pair."""

    before: np.ndarray
    """uint8 bands x 256: what each value of each band becomes for the network."""
    after: np.ndarray
    threshold: float
    """The score from which a pixel is change."""
    confidence: float
    """0..1: the share of the change that remains at a threshold a tenth higher, so how little it hangs on where exactly
    the threshold is; less, down to 0, the more of it is there by chance, and where the two images are hardly more alike
    than any two places; 0 without change, where fewer than ten whole cells of the network's stride hold data, and where
    the two are more alike once one is moved by more than a few pixels."""

    def normalised(self, tile: Batch) -> Batch:
        """Both images with bands of the mean and deviation that the network expects."""
        before, after = tile
        return _looked_up(self.before, before), _looked_up(self.after, after)

    def probability(self, network: np.ndarray) -> np.ndarray:
        """From the network's probability, the score over 1 + score, to one that is a half at the threshold.

        With the score s and the threshold t it is s^4 / (s^4 + t^4): it rises with the score, so that any threshold of
        it is one of the score, t (p / (1 - p))^(1/4).
        """
        ratio = (_score(network) / self.threshold) ** _STEEPNESS
        return ratio / (1 + ratio)


def measure_pair(pair: Readable, run: Predict, stride: int) -> PairScale:
    """Looks at windows of the pair through the network, of any number of bands, whose tiles are multiples of stride.

    Raises DataError where a raster cannot be read.
    """
    windows = list(_windows(pair))
    before, after = (_band_tables([(window[side], window[2]) for window in windows]) for side in (0, 1))

    def scores(chosen: list[Window]) -> np.ndarray:
        """Logarithms of the scores of the valid pixels."""
        sizes = [window[2].shape for window in chosen]
        tiles = (
            (_padded(_looked_up(before, one), stride)[None], _padded(_looked_up(after, other), stride)[None])
            for one, other, _ in chosen
        )
        found = zip(run(tiles), sizes, chosen, strict=True)
        return np.concatenate(
            [np.log(_score(result[0, :height, :width, 0]))[valid] for result, (height, width), (*_, valid) in found]
        )

    own = scores(windows)
    if not own.size:
        return PairScale(before, after, 1.0, 0.0)
    fullest = max(int(valid.sum()) for *_, valid in windows)
    full = [window for window in windows if 2 * int(window[2].sum()) > fullest]
    unrelated = scores([_half_turn(window) for window in full[:: max(len(full) // _UNRELATED, 1)][:_UNRELATED]])
    # where what holds data overlaps itself nowhere, the pair is taken to be of two places: nothing can be told
    strangers = float(np.median(unrelated if unrelated.size else own))
    unchanged = Unchanged(own)
    threshold = min(unchanged.threshold(), strangers + np.log(_CEILING))
    threshold = max(threshold, strangers + np.log(_FLOOR), np.log(_LEAST_SCORE))
    changed = own[own >= threshold]
    remains = float((changed >= threshold + np.log(_HIGHER)).mean()) if changed.size else 0.0
    alike = (1 - np.exp(float(np.median(own)) - strangers)) / _ALIKE
    beyond_chance = (1 - unchanged.share(threshold)) / (1 - _UNCHANGED) if threshold > unchanged.usual else 0.0
    confidence = remains * np.clip(alike, 0, 1) * np.clip(beyond_chance, 0, 1)
    if sum(_cells(valid, stride) for *_, valid in windows) < _LEAST_CELLS:
        confidence = 0.0
    if confidence:
        apart = displacement(windows)
        if max(map(abs, apart)) > _NEAR:
            fitting = scores([moved(window, *apart) for window in windows])
            if fitting.size and np.median(fitting) < np.median(own) + np.log(_FITS):
                confidence = 0.0
    return PairScale(before, after, float(np.exp(threshold)), float(confidence))


class Unchanged:
    """The unchanged pixels of a pair, of which nobody knows which they are; ``scores`` are logarithms, of any shape.

    They are most of all, and lie alike on both sides of the usual score, the middle of the shortest interval that holds
    a third of the pixels: those below it tell how many there are above it. What is more there is change. An empirical
    null with tail-area false discovery rates (Efron 2004), of which only the symmetry is assumed.
    """

    def __init__(self, scores: np.ndarray):
        self._ordered = ordered = np.sort(scores, axis=None)
        third = len(ordered) // 3
        begin = int(np.argmin(ordered[third:] - ordered[: len(ordered) - third]))
        self.usual = float(ordered[begin] + ordered[begin + third]) / 2

    def share(self, threshold: Any) -> Any:
        """How much of what reaches the thresholds, each above the usual score, is unchanged: 0..1."""
        found = len(self._ordered) - np.searchsorted(self._ordered, threshold)
        unchanged = np.searchsorted(self._ordered, 2 * self.usual - np.asarray(threshold), side="right")
        return np.minimum(unchanged / np.maximum(found, 1), 1.0)

    def threshold(self, share: float = _UNCHANGED) -> float:
        """The lowest from which on at most that share is unchanged."""
        highest = float(self._ordered[-1])
        steps = np.linspace(self.usual, highest, 1024)[1:]
        enough = np.flatnonzero(self.share(steps) <= share)
        return float(steps[enough[0]]) if len(enough) else highest


def _windows(pair: Readable) -> Iterator[Window]:
    """Before, after and validity of parts that cover the pair, or of windows on a grid over it; none overlap."""
    down, across = -(-pair.height // PART), -(-pair.width // PART)
    if down * across <= PARTS:
        rows, columns = _parts(pair.height, down), _parts(pair.width, across)
    else:
        down, across = max(pair.height // SIDE, 1), max(pair.width // SIDE, 1)
        while down * across > WINDOWS:
            down, across = (down - 1, across) if down > across else (down, across - 1)
        rows, columns = _spread(pair.height, down), _spread(pair.width, across)
    for y0, y1 in rows:
        before, after, valid = pair.read_at(y0, y1)
        valid = np.ones(before.shape[:2], bool) if valid is None else valid
        for x0, x1 in columns:
            yield before[:, x0:x1].copy(), after[:, x0:x1].copy(), valid[:, x0:x1].copy()


def _parts(length: int, count: int) -> list[tuple[int, int]]:
    return [(k * length // count, (k + 1) * length // count) for k in range(count)]


def _spread(length: int, count: int) -> list[tuple[int, int]]:
    side = min(SIDE, length)
    starts = np.linspace(0, length - side, count).round().astype(int)
    return [(int(start), int(start) + side) for start in starts]


def _cells(valid: np.ndarray, stride: int) -> int:
    """The whole squares of that side, more than half of which holds data: a strip that is narrower has none."""
    down, across = (side // stride for side in valid.shape)
    squares = valid[: down * stride, : across * stride].reshape(down, stride, across, stride)
    return int((squares.mean(axis=(1, 3)) > 0.5).sum())


def _half_turn(window: Window) -> Window:
    """What of a window holds data, the image after turned by half a turn: places that have nothing in common."""
    rows, columns = (np.flatnonzero(window[2].any(axis=axis)) for axis in (1, 0))
    before, after, valid = (one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for one in window)
    return before, after[::-1, ::-1], valid & valid[::-1, ::-1]


def _band_tables(images: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """uint8 bands x 256: the values of each band brought to BAND_MEAN and BAND_DEVIATION, over the valid pixels."""
    values = np.arange(256)
    tables = []
    for band in range(images[0][0].shape[2]):
        counts = sum(np.bincount(image[..., band][valid], minlength=256) for image, valid in images)
        total = max(int(np.sum(counts)), 1)
        mean = (counts * values).sum() / total
        deviation = np.sqrt((counts * (values - mean) ** 2).sum() / total)
        # a band of one value stays one: its noise of less than a grey level is not to become an image
        table = (values - mean) / max(deviation, 1.0) * BAND_DEVIATION + BAND_MEAN
        tables.append(np.clip(np.rint(table), 0, 255).astype(np.uint8))
    return np.stack(tables)


def _looked_up(tables: np.ndarray, image: np.ndarray) -> np.ndarray:
    return np.stack([table[image[..., band]] for band, table in enumerate(tables)], axis=-1)


def _padded(image: np.ndarray, stride: int) -> np.ndarray:
    height, width = (-(-side // stride) * stride for side in image.shape[:2])
    return np.ascontiguousarray(read_tile(image, 0, 0, height, width))


def _score(probability: np.ndarray) -> np.ndarray:
    """The odds, float32; those of 0 and 1 as finite as the numbers next to them."""
    bounded = np.clip(probability, 1e-6, 1 - 1e-6, dtype=np.float32)
    return bounded / (1 - bounded)
