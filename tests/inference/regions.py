"""Regions, holes and outlines of small masks by plain loops over pixels, written independently of segdiff.inference."""

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segdiff.inference.runs import Slab
from segdiff.model_files import PostProcessing

EDGES = [(-1, 0), (0, -1), (0, 1), (1, 0)]
CORNERS = [*EDGES, (-1, -1), (-1, 1), (1, -1), (1, 1)]

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def rectangles(draw) -> np.ndarray:
    """A mask of rectangles, background too, one over the other: wider gaps and holes than single pixels make."""
    mask = np.full(draw(shapes), draw(st.integers(0, 1)), np.uint8)
    for _ in range(draw(st.integers(0, 8))):
        top, left = draw(st.integers(0, 11)), draw(st.integers(0, 11))
        mask[top : top + draw(st.integers(1, 8)), left : left + draw(st.integers(1, 8))] = draw(st.integers(0, 3))
    return mask


masks = st.one_of(
    shapes.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))),
    shapes.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3))),
    rectangles(),
)
cuts = st.lists(st.integers(1, 12), max_size=11)


def components(of: np.ndarray, near: list[tuple[int, int]]) -> list[set[tuple[int, int]]]:
    """The sets of pixels of one value other than 0 that are neighbours, by flood filling; by their first pixel."""
    left = {(int(r), int(c)) for r, c in zip(*np.nonzero(of), strict=True)}
    found = []
    for first in sorted(left):
        if first not in left:
            continue
        left.remove(first)
        stack, region = [first], {first}
        while stack:
            r, c = stack.pop()
            for pixel in [(r + i, c + j) for i, j in near]:
                if pixel in left and of[pixel] == of[first]:
                    left.remove(pixel)
                    region.add(pixel)
                    stack.append(pixel)
        found.append(region)
    return found


def most_frequent(classes: list[int]) -> int:
    counts = Counter(classes)
    return min(counts, key=lambda index: (-counts[index], index))


def at(mask: np.ndarray, r: int, c: int) -> int:
    inside = 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1]
    return int(mask[r, c]) if inside else 0


def processed(mask: np.ndarray, settings: PostProcessing, valid: np.ndarray | None = None) -> np.ndarray:
    """What PostProcessing says, pixel by pixel."""
    valid = np.ones(mask.shape, bool) if valid is None else valid
    mask = np.where(valid, mask, 0)
    height, width = mask.shape

    k = settings.closing
    square = [(i, j) for i in range(-k, k + 1) for j in range(-k, k + 1)]
    grown = {(r + i, c + j) for r in range(height) for c in range(width) if mask[r, c] for i, j in square}
    closed = mask.copy()
    for r in range(height):
        for c in range(width):
            if not mask[r, c] and valid[r, c] and all((r + i, c + j) in grown for i, j in square):
                near = [at(mask, r + i, c + j) for i, j in square]
                closed[r, c] = most_frequent([index for index in near if index])
    mask = closed.copy()

    for hole in components(mask == 0, EDGES):
        if any(r in (0, height - 1) or c in (0, width - 1) for r, c in hole) or len(hole) > settings.fill_holes:
            continue
        rim = [at(closed, r + i, c + j) for r, c in hole for i, j in EDGES if (r + i, c + j) not in hole]
        for pixel in hole:
            mask[pixel] = most_frequent(rim) if valid[pixel] else 0

    for region in components(mask > 0, CORNERS):
        kind = most_frequent([int(mask[pixel]) for pixel in region])
        for pixel in region:
            if len(region) < settings.minimum_area:
                mask[pixel] = 0
            elif settings.vote:
                mask[pixel] = kind
    return mask


def slabs(mask: np.ndarray, cut: list[int], probability: np.ndarray | None = None, valid: np.ndarray | None = None):
    """The mask in slabs that begin at the rows of `cut`."""
    edges = sorted({0, *(y for y in cut if y < len(mask)), len(mask)})
    for y0, y1 in pairwise(edges):
        yield Slab(y0, *(None if rows is None else rows[y0:y1] for rows in (mask, probability, valid)))
