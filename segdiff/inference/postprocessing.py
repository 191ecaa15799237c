"""What is done to a mask before its regions are counted: closing, hole filling, class by vote, minimum area."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol

import cv2
import numpy as np

from segdiff.inference.runs import Components, Joined, Runs, Slab, Spans, beside, check_slabs, encode_slab, touching
from segdiff.model_files import PostProcessing

_SPOOL_MEMORY = 1 << 26
"""Bytes of runs that wait in memory for their verdict; more of them wait on disk."""


def postprocess(
    slabs: Iterable[Slab], settings: PostProcessing, *, classes: int, workdir: Path | None = None
) -> Iterator[Runs]:
    """Post-process a mask that comes as slabs of rows, top to bottom; gives its rows as runs, whatever the slabs.

    `classes` is the number of classes with the background. What a region becomes is known only where it ends. So unless
    `settings` are the default, all slabs are drawn before the first runs are given, and the runs wait in a file without
    a name in `workdir` (by default the system's place for temporary files): some bytes a run. Memory holds a slab, and
    a few bytes for each region and slab. Raises ValueError on slabs that do not follow each other, and on a mask that
    holds other classes.
    """
    if classes < 2:
        raise ValueError(f"classes is {classes}: with the background there are 2 or more")
    checked = check_slabs(slabs)
    closed = _close(checked, settings.closing, classes) if settings.closing else checked
    runs: Iterator[Runs] = (_check_classes(encode_slab(slab), classes) for slab in closed)
    if settings.fill_holes:
        runs = _judge(runs, _Holes(settings.fill_holes, classes), workdir)
    if settings.vote or settings.minimum_area > 1:
        runs = _judge(runs, _Regions(settings.minimum_area, settings.vote, classes), workdir)
    return runs


def postprocess_mask(
    mask: np.ndarray, settings: PostProcessing, *, classes: int, valid: np.ndarray | None = None
) -> np.ndarray:
    """Post-process a whole mask, uint8 H x W, as `postprocess` does; `valid` is bool H x W. Returns a new mask."""
    rows = [runs.mask() for runs in postprocess([Slab(0, mask, valid=valid)], settings, classes=classes)]
    return np.concatenate(rows) if rows else mask.copy()


def parse_post_processing(text: str) -> PostProcessing:
    """The steps that a text names: "none", or such as "closing=2,fill_holes=64,vote,minimum_area=16".

    Raises ValueError, in one line, on anything else.
    """
    steps: dict[str, int] = {}
    vote = False
    for item in [] if text == "none" else text.split(","):
        name, _, value = item.strip().partition("=")
        if item.strip() == "vote":
            vote = True
        elif name in ("closing", "fill_holes", "minimum_area") and value.isdecimal():
            steps[name] = int(value)
        else:
            raise ValueError(
                f"post-processing {text!r}: {item.strip()!r} is no step; allowed are none, or closing=N, fill_holes=N, "
                "vote and minimum_area=N (whole pixels), with commas between them"
            )
    return PostProcessing(vote=vote, **steps)


def _check_classes(runs: Runs, classes: int) -> Runs:
    if (highest := int(runs.value.max())) >= classes:
        raise ValueError(f"the mask holds class {highest} where there are {classes} classes, 0 to {classes - 1}")
    return runs


def _close(slabs: Iterator[Slab], radius: int, classes: int) -> Iterator[Slab]:
    """The slabs of the closed mask, cut 2 * radius rows further up: as far down a pixel depends on others."""
    reach = 2 * radius
    held: Slab | None = None  # rows to be given, between `reach` rows on either side that they depend on
    for slab in slabs:
        if slab.valid is not None:
            slab = replace(slab, mask=np.where(slab.valid, slab.mask, np.uint8(0)))
        held = _stack(_blank(slab, reach) if held is None else held, slab)
        if (ready := len(held.mask) - 2 * reach) > 0:
            yield _closed_rows(held, reach, ready, radius, classes)
            held = _rows(held, ready, len(held.mask))
    if held is not None:
        held = _stack(held, _blank(held, reach))
        yield _closed_rows(held, reach, len(held.mask) - 2 * reach, radius, classes)


def _each(function: Callable[..., np.ndarray], y: int, *slabs: Slab) -> Slab:
    """A slab from row `y` on, of what `function` makes of the slabs' masks, probabilities and validities."""
    mask, probability, valid = (
        None if arrays[0] is None else function(*arrays)
        for arrays in zip(*((slab.mask, slab.probability, slab.valid) for slab in slabs), strict=True)
    )
    assert mask is not None
    return Slab(y, mask, probability, valid)


def _rows(slab: Slab, first: int, past: int) -> Slab:
    return _each(lambda array: array[first:past], slab.y + first, slab)


def _stack(upper: Slab, lower: Slab) -> Slab:
    return _each(lambda *arrays: np.concatenate(arrays), upper.y, upper, lower)


def _blank(like: Slab, height: int) -> Slab:
    """Rows of zeros above those of another slab."""
    return _each(lambda array: np.zeros((height, *array.shape[1:]), array.dtype), like.y - height, like)


def _closed_rows(slab: Slab, reach: int, ready: int, radius: int, classes: int) -> Slab:
    """The `ready` rows of a slab that come after its first `reach`, closed."""
    side = 2 * radius + 1
    square = np.ones((side, side), np.uint8)
    around = cv2.copyMakeBorder(slab.mask, 0, 0, radius, radius, cv2.BORDER_CONSTANT, value=0)
    change = (around > 0).view(np.uint8)
    grown = cv2.dilate(change, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    closed = cv2.erode(grown, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    inner = slice(reach, reach + ready), slice(radius, -radius)
    mask = around[inner].copy()
    new = (closed[inner] > 0) & (mask == 0)
    if new.any():
        most = np.zeros(mask.shape, np.int32)
        for index in range(1, classes):
            of_class = (around == index).view(np.uint8)
            count = cv2.boxFilter(of_class, cv2.CV_32S, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
            better = new & (count[inner] > most)
            mask[better] = index
            most[better] = count[inner][better]
    return replace(_rows(slab, reach, reach + ready), mask=mask)


class _Judge(Protocol):
    """Joins the runs of slab after slab to components and says what becomes of each."""

    def survey(self, runs: Runs) -> tuple[np.ndarray, np.ndarray, Joined]:
        """Of each judged run its component; of each component the verdict, uint8, if it ended here; the components."""

    def apply(self, runs: Runs, verdict: np.ndarray) -> np.ndarray:
        """The new class of each run, given the verdict on each judged run."""


def _judge(slabs: Iterable[Runs], judge: _Judge, workdir: Path | None) -> Iterator[Runs]:
    """Survey all slabs, then give them anew with the classes that the judge decides on.

    A component that goes on in the next slab takes the verdict from there: they are handed up from the last slab.
    """
    verdicts: list[np.ndarray] = []
    ways: list[tuple[np.ndarray, np.ndarray]] = []
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY, dir=None if workdir is None else str(workdir)) as spool:
        for runs in slabs:
            component, verdict, joined = judge.survey(runs)
            _store(spool, runs, component)
            verdicts.append(verdict)
            ways.append((joined.still_open, joined.of_open))
        for k in range(len(verdicts) - 2, -1, -1):
            still_open, of_open = ways[k][0], ways[k + 1][1]
            verdicts[k][still_open] = verdicts[k + 1][of_open]
        spool.seek(0)
        for verdict in verdicts:
            runs, component = _restore(spool)
            yield runs.with_value(judge.apply(runs, verdict[component]))


def _store(stream: IO[bytes], runs: Runs, component: np.ndarray) -> None:
    """Appends the runs of a slab and the component of each judged one, as arrays one after the other."""
    head = np.array([runs.y, runs.height, runs.width, runs.valid is not None, runs.total is not None])
    for array in (head, component, runs.begin, runs.value, runs.valid, runs.total):
        if array is not None:
            np.lib.format.write_array(stream, array, allow_pickle=False)


def _restore(stream: IO[bytes]) -> tuple[Runs, np.ndarray]:
    def following() -> np.ndarray:
        return np.lib.format.read_array(stream, allow_pickle=False)

    y, height, width, has_valid, has_total = following().tolist()
    component, begin, value = following(), following(), following()
    valid, total = (following() if there else None for there in (has_valid, has_total))
    return Runs(y, height, width, begin, value, valid, total), component


class _Holes:
    """Fills small holes: the verdict on a component of the background is the class it takes, or 0."""

    def __init__(self, largest: int, classes: int):
        self._largest, self._classes = largest, classes
        self._components = Components()
        self._carried = Spans.none()
        self._area, self._votes, self._outside = np.zeros(0), np.zeros((0, classes)), np.zeros(0, bool)

    def survey(self, runs: Runs) -> tuple[np.ndarray, np.ndarray, Joined]:
        spans = self._carried.before(Spans.of(runs, slice(None)))
        ground = spans.value == 0
        number = np.cumsum(ground) - 1
        last = spans.row == runs.height - 1
        first, second, edges = self._neighbours(spans)
        within = ground[first] & ground[second]
        joined = self._components.join(
            int(np.count_nonzero(ground)), (number[first[within]], number[second[within]]), last[ground]
        )
        count, of_span = joined.count, joined.of_span

        new = ground & (spans.row >= 0)
        into = np.concatenate([joined.of_open, of_span[number[new]]])
        length = spans.stop - spans.start
        area = np.bincount(into, np.concatenate([self._area, length[new]]), count)
        at_border = (spans.start == 0) | (spans.stop == runs.width) | (spans.row + runs.y == 0)
        outside = np.zeros(count, bool)
        outside[into[np.concatenate([self._outside, at_border[new]])]] = True
        rim = ground[first] != ground[second]
        hole = np.where(ground[first], first, second)[rim]
        change = np.where(ground[first], second, first)[rim]
        vote = of_span[number[hole]] * np.int64(self._classes) + spans.value[change]
        votes = np.bincount(vote, edges[rim], count * self._classes).reshape(count, self._classes)
        np.add.at(votes, joined.of_open, self._votes)

        verdict = np.where(outside | (area > self._largest), 0, votes[:, 1:].argmax(axis=1) + 1).astype(np.uint8)
        verdict[joined.still_open] = 0  # they reach the border, unless a slab follows and decides
        self._carried = spans.carried(last)
        self._area, self._votes, self._outside = (v[joined.still_open] for v in (area, votes, outside))
        return of_span[number[new]], verdict, joined

    def _neighbours(self, spans: Spans) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of spans that share edges, and how many; those within the carried row have been before."""
        upper, lower = touching(spans, diagonal=False)
        below = np.minimum(spans.stop[upper], spans.stop[lower]) - np.maximum(spans.start[upper], spans.start[lower])
        left, right = beside(spans)
        fresh = spans.row[left] >= 0
        left, right = left[fresh], right[fresh]
        return np.append(upper, left), np.append(lower, right), np.append(below, np.ones(len(left), np.int64))

    def apply(self, runs: Runs, verdict: np.ndarray) -> np.ndarray:
        value = runs.value.copy()
        ground = value == 0
        value[ground] = verdict if runs.valid is None else np.where(runs.valid[ground], verdict, 0)
        return value


class _Regions:
    """Removes small regions and lets the others vote: the verdict on a region is its class, 0 where it goes."""

    def __init__(self, smallest: int, vote: bool, classes: int):
        self._smallest, self._vote, self._classes = smallest, vote, classes
        self._components = Components()
        self._carried = Spans.none()
        self._votes = np.zeros((0, classes))

    def survey(self, runs: Runs) -> tuple[np.ndarray, np.ndarray, Joined]:
        added = Spans.of(runs, runs.value > 0)
        spans = self._carried.before(added)
        last = spans.row == runs.height - 1
        (upper, lower), (left, right) = touching(spans, diagonal=True), beside(spans)
        joined = self._components.join(len(spans), (np.append(upper, left), np.append(lower, right)), last)
        count, component = joined.count, joined.of_span[len(self._carried) :]
        vote = component * np.int64(self._classes) + added.value
        votes = np.bincount(vote, added.stop - added.start, count * self._classes).reshape(count, self._classes)
        np.add.at(votes, joined.of_open, self._votes)
        verdict = np.where(votes.sum(axis=1) < self._smallest, 0, votes.argmax(axis=1)).astype(np.uint8)
        self._carried = spans.carried(last)
        self._votes = votes[joined.still_open]
        return component, verdict, joined

    def apply(self, runs: Runs, verdict: np.ndarray) -> np.ndarray:
        value = runs.value.copy()
        change = value > 0
        value[change] = verdict if self._vote else np.where(verdict > 0, value[change], 0)
        return value
