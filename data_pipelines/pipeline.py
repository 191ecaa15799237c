"""From pairs to batches: decoded once, kept, cropped, augmented and prefetched (tf.data).

Every batch is a function of the seed and the step alone, so a run can be repeated, and resumed at any step, whatever
threads do the work.
"""

import functools
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tensorflow as tf
from albumentations.augmentations.geometric import functional as geometry

from data_pipelines import IGNORE
from data_pipelines.augmentation import Augmentation
from data_pipelines.cache import cache_folder
from data_pipelines.decoding import read_image, read_mask
from data_pipelines.layouts import Pair
from data_pipelines.shards import stamp
from data_pipelines.validation import MaskCoding

logger = logging.getLogger(__name__)

_KEPT_FREE = 2**30
"""Bytes that the disk cache leaves free on its disk: models and checkpoints may have to be written there too."""

_ABANDONED = 3600.0
"""Seconds after which a file that was never finished belongs to a process that is gone."""

_POSITIONS = 4096
"""Changed pixels remembered of a pair, for crops that favour change."""


@dataclass(frozen=True)
class LabelledPair:
    """A pair with the coding of its mask."""

    pair: Pair
    coding: MaskCoding


@dataclass(frozen=True)
class Example:
    """A decoded pair: uint8 H x W x bands twice, class indices H x W, and changed pixels (y, x) drawn from it."""

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    changed: np.ndarray


class PairStore:
    """Decoded pairs by index, kept in memory, in memory-mapped files of the user's cache folder, or not at all.

    Any number of processes may share the files on disk: each appears whole, under a name made of all it depends on.
    Where the disk is full, or cannot be written, that is warned of once and the pairs not yet kept are decoded anew
    each time.
    """

    def __init__(
        self, pairs: Sequence[LabelledPair], *, bands: int, binary: bool, cache: Literal["memory", "disk", "none"]
    ):
        self.pairs = tuple(pairs)
        self.bands = bands
        self._binary = binary
        self._cache = cache
        self._memory: dict[int, Example] = {}
        self._writes = cache == "disk"
        if self._writes:
            _remove_abandoned()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        """The pair, decoded; raises DecodeError where a file has gone bad since it was checked."""
        if self._cache == "memory":
            if index not in self._memory:
                self._memory[index] = self._unstacked(self._decode(index))
            return self._memory[index]
        if self._cache == "disk":
            return self._unstacked(self._mapped(index))
        return self._unstacked(self._decode(index))

    def _decode(self, index: int) -> np.ndarray:
        """Before, after and mask as one array H x W x (2 bands + 1)."""
        pair, coding = self.pairs[index].pair, self.pairs[index].coding
        assert pair.mask is not None, "checked before training"
        mask = coding.decode(read_mask(pair.mask))
        if self._binary:
            mask = np.where((mask != 0) & (mask != IGNORE), np.uint8(1), mask)
        return np.dstack([read_image(pair.before, self.bands), read_image(pair.after, self.bands), mask])

    def _mapped(self, index: int) -> np.ndarray:
        pair, coding = self.pairs[index].pair, self.pairs[index].coding
        assert pair.mask is not None, "checked before training"
        identity = [repr((coding, self.bands, self._binary))]
        for path in (pair.before, pair.after, pair.mask):
            size, changed = stamp(path)
            identity.append(f"{path.resolve()} {size} {changed}")
        key = hashlib.sha256("\n".join(identity).encode()).hexdigest()
        file = cache_folder() / "decoded" / key[:2] / f"{key}.npy"
        try:
            return np.load(file, mmap_mode="r")
        except FileNotFoundError:
            pass
        except (ValueError, EOFError) as error:
            logger.warning("%s: a damaged file of the cache, made anew (%s)", file, error)
        decoded = self._decode(index)
        if self._writes:
            self._keep(decoded, file)
        return decoded

    def _keep(self, decoded: np.ndarray, file: Path) -> None:
        try:
            unfinished = _unfinished()
            unfinished.mkdir(parents=True, exist_ok=True)
            file.parent.mkdir(exist_ok=True)
            if shutil.disk_usage(unfinished).free - decoded.nbytes < _KEPT_FREE:
                raise OSError(f"less than {_KEPT_FREE / 2**30:g} GiB would be left free on its disk")
            # two runs may write the same pair at once: each its own temporary file, the last rename wins
            with tempfile.NamedTemporaryFile(dir=unfinished, delete=False) as stream:
                try:
                    np.lib.format.write_array(stream, decoded, allow_pickle=False)
                    stream.flush()
                    os.fsync(stream.fileno())  # or a power failure could leave the name without the content
                    Path(stream.name).replace(file)
                except BaseException:
                    Path(stream.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            if self._writes:
                self._writes = False
                logger.warning(
                    "%s: the cache of decoded pairs cannot grow (%s); the pairs not in it are decoded anew each time: "
                    "make room, set SEGDIFF_CACHE to a larger disk, or data.cache: none",
                    cache_folder(),
                    error.strerror or error,
                )

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the pair."""
        height, width = self[index].mask.shape
        return height, width

    def _unstacked(self, stacked: np.ndarray) -> Example:
        return _example(stacked[..., : self.bands], stacked[..., self.bands : -1], stacked[..., -1])


class ResampledPairs:
    """The pairs of a store, some of them brought to another size when they are read, as crops are.

    ``sizes`` has height and width by index; pairs that it does not name stay as they are.
    """

    _KEPT = 2
    """Pairs of another size that are kept: a large one is read tile by tile, while the next is begun with."""

    def __init__(self, store: PairStore, sizes: Mapping[int, tuple[int, int]]):
        self.bands = store.bands
        self._store, self._sizes = store, sizes
        self._brought = functools.lru_cache(self._KEPT)(self._bring)

    def __getitem__(self, index: int) -> Example:
        """The pair; raises DecodeError as the store does."""
        return self._brought(index) if index in self._sizes else self._store[index]

    def _bring(self, index: int) -> Example:
        pair = self._store[index]
        return _example(*_resized(pair.before, pair.after, pair.mask, self._sizes[index]))

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the pair, without resizing it."""
        return self._sizes.get(index) or self._store.shape(index)


def _example(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> Example:
    positions = np.flatnonzero((mask != 0) & (mask != IGNORE))
    if len(positions) > _POSITIONS:
        positions = positions[:: -(-len(positions) // _POSITIONS)]
    changed = np.stack(np.unravel_index(positions, mask.shape), axis=-1).astype(np.int32)
    return Example(before, after, mask, changed)


def _unfinished() -> Path:
    return cache_folder() / "decoded" / ".unfinished"


def _remove_abandoned() -> None:
    """Removes what processes that were killed left unfinished; told by age, as they may have run on other machines."""
    for path in _unfinished().glob("*"):
        with suppress(FileNotFoundError):  # another process tidies too
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


@dataclass(frozen=True)
class CropPlan:
    """Which crops are cut, in which order."""

    crop: int
    batch: int
    crops_per_epoch: int
    positive_fraction: float
    seed: int
    roots: tuple[tuple[int, ...], ...]
    """Indices into the store, one group a data root; one that stands there n times is taken n times a round."""
    weights: tuple[float, ...]
    """Share of each root in the crops of an epoch, any scale."""
    resolution: tuple[float, float] | None = None
    """Metres per pixel of the crops, drawn between the two for each, evenly on a scale of ratios; None: as they are."""
    ground: tuple[float, ...] = ()
    """Metres per pixel of the pairs of each root, where ``resolution`` is given."""
    cutmix: float = 0.0
    """Share of the crops into which a rectangle of another crop of the epoch is laid (Yun et al. 2019, CutMix)."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the last one possibly smaller."""
        return -(-self.crops_per_epoch // self.batch)

    def __post_init__(self) -> None:
        if self.resolution is not None and len(self.ground) != len(self.roots):
            raise ValueError(
                f"resolution is {self.resolution}: ground must say that of each of {len(self.roots)} roots"
            )

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Store indices of the crops of an epoch, in order.

        Each root is gone through in shuffled rounds, round after round over the epochs, so that no entry of it is
        taken twice before every other has been taken once.
        """
        shares = np.asarray(self.weights) / np.sum(self.weights) * self.crops_per_epoch
        quotas = np.floor(shares).astype(int)
        quotas[np.argsort(quotas - shares, kind="stable")[: self.crops_per_epoch - quotas.sum()]] += 1
        order = []
        for root, (indices, quota) in enumerate(zip(self.roots, quotas, strict=True)):
            start, size = epoch * quota, len(indices)
            for turn in range(start // size, -(-(start + quota) // size)):
                shuffled = np.random.default_rng([self.seed, 1, root, turn]).permutation(indices)
                order.append(shuffled[max(start - turn * size, 0) : start + quota - turn * size])
        together = np.concatenate(order)
        return together if len(self.roots) == 1 else np.random.default_rng([self.seed, 2, epoch]).permutation(together)


def turns_by_area(shapes: Sequence[tuple[int, int]], crop: int) -> list[int]:
    """How often pairs of these shapes, (height, width), are taken in a round: by the crops that fit, the smallest once.

    Else, beside small ones, most of what is in the large pairs would hardly be seen.
    """
    crops = [max(height * width / crop**2, 1.0) for height, width in shapes]
    return [round(fit / min(crops)) for fit in crops]


@dataclass(frozen=True)
class Part:
    """Which rows of every batch are decoded here: those of worker ``index`` of so many."""

    index: int = 0
    workers: int = 1

    def rows(self, size: int) -> slice:
        """Of a batch of so many rows; the parts of all workers are the batch, in order and as even as can be."""
        return slice(self.index * size // self.workers, (self.index + 1) * size // self.workers)

    def size(self, sizes: set[int]) -> int | None:
        """The number of rows where that is the same for batches of all these sizes."""
        lengths = {len(range(size)[self.rows(size)]) for size in sizes}
        return lengths.pop() if len(lengths) == 1 else None


WHOLE = Part()


def training_batches(
    store: PairStore, plan: CropPlan, augmentation: Augmentation, *, first_step: int, steps: int, part: Part = WHOLE
) -> tf.data.Dataset:
    """Batches ((before, after), mask) of augmented crops: uint8 N x crop x crop x bands twice, uint8 N x crop x crop.

    ``first_step`` to ``steps`` of the whole run, epoch after epoch without a break; of each batch the rows of ``part``,
    which may be none.
    """

    epoch_order = functools.lru_cache(maxsize=4)(plan.epoch_order)
    ground = {index: metres for root, metres in zip(plan.roots, plan.ground, strict=False) for index in root}

    def augmented(index: np.integer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return augmentation(*_cut(store[int(index)], plan, ground.get(int(index)), rng), rng)

    def load(step) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, within = divmod(int(step), plan.steps_per_epoch)
        order = epoch_order(epoch)
        first = within * plan.batch
        positions = range(first, min(first + plan.batch, plan.crops_per_epoch))
        crops = []
        for position in positions[part.rows(len(positions))]:
            rng = np.random.default_rng([plan.seed, 3, epoch, position])
            crop = augmented(order[position], rng)
            if plan.cutmix and rng.random() < plan.cutmix:
                crop = _cutmix(crop, augmented(rng.choice(order), rng), rng)
            crops.append(crop)
        return _stacked(crops, plan.crop, plan.crop, store.bands)

    size = part.size({plan.batch, plan.crops_per_epoch % plan.batch or plan.batch})

    def shaped(step):
        before, after, mask = tf.numpy_function(load, [step], (tf.uint8, tf.uint8, tf.uint8))
        before.set_shape((size, plan.crop, plan.crop, store.bands))
        after.set_shape((size, plan.crop, plan.crop, store.bands))
        mask.set_shape((size, plan.crop, plan.crop))
        return (before, after), mask

    return (
        tf.data.Dataset.range(first_step, steps)
        .map(shaped, num_parallel_calls=os.cpu_count(), deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _stacked(
    examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]], height: int, width: int, bands: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of them, also of none."""
    if not examples:
        images = np.empty((0, height, width, bands), np.uint8)
        return images, images, images[..., 0]
    before, after, mask = (np.stack(column) for column in zip(*examples, strict=True))
    return before, after, mask


def _cut(
    example: Example, plan: CropPlan, ground: float | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop at a random place, or around a changed pixel; an image that is too small is mirrored around."""
    side = plan.crop
    if plan.resolution is not None:
        assert ground is not None, "as the plan has promised"
        drawn = np.exp(rng.uniform(*np.log(plan.resolution)))
        side = max(round(plan.crop * drawn / ground), 1)
    height, width = example.mask.shape
    around = rng.random() < plan.positive_fraction and len(example.changed) > 0
    if around:
        target = example.changed[rng.integers(len(example.changed))]
    origin = []
    for axis, size in enumerate((height, width)):
        room = max(size - side, 0)
        first = target[axis] - rng.integers(side) if around else rng.integers(room + 1)
        origin.append(int(np.clip(first, 0, room)))
    window = (slice(origin[0], origin[0] + side), slice(origin[1], origin[1] + side))
    cut = _fill(example.before[window], example.after[window], example.mask[window], side, side)
    return cut if side == plan.crop else _resized(*cut, (plan.crop, plan.crop))


def _cutmix(
    crop: tuple[np.ndarray, np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crop with a rectangle of the other at the same place, of any share of its area."""
    height, width = crop[2].shape
    side = np.sqrt(rng.random())
    tall, wide = round(height * side), round(width * side)
    y, x = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    window = (slice(y, y + tall), slice(x, x + wide))
    before, after, mask = (image.copy() for image in crop)  # they may be views of what the store keeps
    before[window], after[window], mask[window] = (image[window] for image in other)
    return before, after, mask


def _resized(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three at another height and width: images down by the mean over the area and up bilinearly, masks by nearest
    pixels; where one axis shrinks and the other grows, each by itself."""
    height, width = mask.shape
    if (size[0] - height) * (size[1] - width) < 0:
        return _resized(*_resized(before, after, mask, (size[0], width)), size)
    how = cv2.INTER_AREA if size[0] < height or size[1] < width else cv2.INTER_LINEAR
    # not cv2.resize, which takes four bands at most
    before, after = (geometry.resize(image, size, interpolation=how) for image in (before, after))
    return before, after, cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _fill(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three at the asked size: images mirrored past their border, where the mask has no truth."""
    missing = ((0, height - mask.shape[0]), (0, width - mask.shape[1]))
    if missing == ((0, 0), (0, 0)):
        return before, after, mask
    before, after = (np.pad(image, (*missing, (0, 0)), mode="symmetric") for image in (before, after))
    return before, after, np.pad(mask, missing, constant_values=IGNORE)


def whole_image_batches(
    store: PairStore | ResampledPairs,
    indices: Sequence[int],
    *,
    multiple: int,
    batch_pixels: int,
    largest: int = 1024,
    part: Part = WHOLE,
) -> tf.data.Dataset:
    """Batches ((before, after), mask) that hold every pixel of the pairs exactly once, all of one size.

    That size is the largest of the images, rounded up to ``multiple`` and at most ``largest``: smaller images are
    filled up with pixels without truth, larger ones cut into a grid. A batch holds about ``batch_pixels``; of each the
    rows of ``part`` are read, which may be none.
    """
    shapes = [store.shape(index) for index in indices]
    height, width = (min(-(-max(sizes) // multiple) * multiple, largest) for sizes in zip(*shapes, strict=True))
    tiles = [
        (index, y, x)
        for index, (image_height, image_width) in zip(indices, shapes, strict=True)
        for y in range(0, image_height, height)
        for x in range(0, image_width, width)
    ]

    batch = max(batch_pixels // (height * width), 1)

    def load(first) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen, filled = tiles[first : first + batch], []
        for index, y, x in chosen[part.rows(len(chosen))]:
            example, window = store[index], (slice(y, y + height), slice(x, x + width))
            filled.append(_fill(example.before[window], example.after[window], example.mask[window], height, width))
        return _stacked(filled, height, width, store.bands)

    size = part.size({batch, len(tiles) % batch or batch})

    def shaped(first):
        before, after, mask = tf.numpy_function(load, [first], (tf.uint8, tf.uint8, tf.uint8))
        before.set_shape((size, height, width, store.bands))
        after.set_shape((size, height, width, store.bands))
        mask.set_shape((size, height, width))
        return (before, after), mask

    return (
        tf.data.Dataset.range(0, len(tiles), batch)
        .map(shaped, num_parallel_calls=os.cpu_count(), deterministic=True)
        .prefetch(2)
    )


def join_tiles(tiles: Iterator[np.ndarray], height: int, width: int) -> Iterator[np.ndarray]:
    """Puts together what was made of one image of `whole_image_batches`, in its order: slabs of it, n x width or more.

    The tiles are h x w, or h x w x C, of the batches' size; no more are taken than an image of that size has.
    """
    y = 0
    while y < height:
        row, x = [], 0
        while x < width:
            tile = next(tiles)
            row.append(tile[: height - y, : width - x])
            x += tile.shape[1]
        yield np.concatenate(row, axis=1)
        y += tile.shape[0]
