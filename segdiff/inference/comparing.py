"""An exported network beside the Keras model that it was made of, on the same pairs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data_pipelines.synthetic.drawing import draw_scene
from segdiff.inference.evaluation import Scoreboard
from segdiff.inference.predictor import Detector, LoadedPair

LARGEST_F1_LOSS = 0.005
"""What int8 may cost in F1 on the pairs that it was calibrated on."""

DRAWN_PAIRS, DRAWN_SIZE = 8, 256

Item = TypeVar("Item")


class ExportError(RuntimeError):
    """An exported network that does not do what the model does; the message is one line."""


@dataclass(frozen=True)
class Comparison:
    """How far an exported network is from its model."""

    on: str
    """What they were compared on, for a person."""
    pairs: int
    largest_difference: float
    """Of any probability, 0..1."""
    equal_masks: float
    """Share of the pixels that get the same class at the model's threshold, 0..1."""
    f1_model: float | None = None
    f1: float | None = None
    """Of the model and of the exported network, where the pairs have true masks."""


def compare(
    reference: Detector,
    exported: Detector,
    pairs: Iterable[tuple[LoadedPair, np.ndarray | None]],
    on: str,
    on_pair: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Both predict every pair by the same tiles. A pair comes with its true mask, uint8 H x W, or with None."""
    boards = [Scoreboard(reference.settings.classes) for _ in range(2)]
    difference, equal, pixels, done = 0.0, 0, 0, 0
    for done, (pair, truth) in enumerate(pairs, start=1):
        one, other = (detector.predict_loaded(pair) for detector in (reference, exported))
        # written so that a difference that is no number counts as the largest
        differences = np.abs(one.probability - other.probability)
        difference = max(difference, float(np.where(np.isfinite(differences), differences, 1.0).max()))
        equal += int(np.count_nonzero(one.mask == other.mask))
        pixels += one.mask.size
        if truth is not None:
            for board, prediction in zip(boards, (one, other), strict=True):
                board.add(prediction, truth)
        on_pair(done)
    scores = [float(board.scores()["f1"]) if board.pairs else None for board in boards]
    return Comparison(on, done, difference, equal / max(pixels, 1), *scores)


def require_close(comparison: Comparison, precision: str) -> None:
    """Raises ExportError, saying by how much, on a network that is too far from its model.

    In floats the masks have to agree on 99.9 % of the pixels. In int8 on 99 %, and F1 on the pairs that it was
    calibrated on must not be lower by more than ``LARGEST_F1_LOSS``.
    """
    share = 0.99 if precision == "int8" else 0.999
    if comparison.equal_masks < share:
        raise ExportError(
            f"not written: in {precision} its masks agree with the model's on {comparison.equal_masks:.3%} of the "
            f"pixels of {comparison.on}, {share:.1%} are needed; take another precision"
        )
    if comparison.f1 is None or comparison.f1_model is None or precision != "int8":
        return
    if comparison.f1_model - comparison.f1 > LARGEST_F1_LOSS:
        raise ExportError(
            f"not written: F1 on {comparison.on} falls from {comparison.f1_model:.4f} to {comparison.f1:.4f} in "
            f"{precision}, {LARGEST_F1_LOSS} is allowed; take another precision, or calibrate on more pairs"
        )


def drawn_pairs(bands: tuple[int, int]) -> Iterator[LoadedPair]:
    """Pairs of ``segdiff synth``, always the same; bands beyond the third repeat the colours."""
    for index in range(DRAWN_PAIRS):
        before, after, _ = draw_scene(DRAWN_SIZE, np.random.default_rng((0, index)))
        yield LoadedPair(before[..., np.arange(bands[0]) % 3], after[..., np.arange(bands[1]) % 3])


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most that many of them, at even distances."""
    count = min(most, len(items))
    return [items[k * len(items) // count] for k in range(count)]
