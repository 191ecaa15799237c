import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipelines import IGNORE, pipeline
from data_pipelines.augmentation import Augmentation
from data_pipelines.cache import cache_folder
from data_pipelines.decoding import DecodeError
from data_pipelines.layouts import Pair
from data_pipelines.pipeline import (
    WHOLE,
    CropPlan,
    LabelledPair,
    PairStore,
    Part,
    ResampledPairs,
    join_tiles,
    training_batches,
    turns_by_area,
    whole_image_batches,
)
from data_pipelines.validation import MaskCoding

BINARY = MaskCoding("0/255", (0, 255), 2)
INDICES = MaskCoding("class indices 0..3, 9 = ignore", (0, 1, 2, 3), 4, ignore=9)
SOMETHING: dict[str, Any] = {"flip": True, "brightness": 0.2, "noise": 0.1, "misregistration": 1.0}


def write_pair(folder: Path, name: str, before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> Pair:
    def written(part: str, image: np.ndarray) -> Path:
        path = folder / f"{name}_{part}.png"
        assert cv2.imwrite(str(path), image if image.ndim == 2 else image[..., ::-1])
        return path

    return Pair(name, written("before", before), written("after", after), written("mask", mask), "train")


def pairs_of(folder: Path, shapes: list[tuple[int, int]], changed: int = 3) -> list[LabelledPair]:
    """Noise, with the number of the pair in the first channel of before; ``changed`` pixels of change in the mask."""
    rng = np.random.default_rng(0)
    made = []
    for number, shape in enumerate(shapes):
        before, after = (rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(2))
        before[..., 0] = number
        mask = np.zeros(shape, np.uint8)
        mask.flat[rng.permutation(mask.size)[:changed]] = 255
        made.append(LabelledPair(write_pair(folder, f"pair{number}", before, after, mask), BINARY))
    return made


def store_of(pairs, *, bands=3, binary=False, cache="memory") -> PairStore:
    return PairStore(pairs, bands=bands, binary=binary, cache=cache)


def plan_of(count: int, **changes) -> CropPlan:
    plain = {
        "crop": 16,
        "batch": 2,
        "crops_per_epoch": count,
        "positive_fraction": 0.5,
        "seed": 3,
        "roots": (tuple(range(count)),),
        "weights": (1.0,),
    }
    return CropPlan(**{**plain, **changes})


def batches_of(store, plan, *, first_step=0, steps=None, augmentation=None, part=WHOLE) -> list[tuple[np.ndarray, ...]]:
    steps = plan.steps_per_epoch if steps is None else steps
    data = training_batches(
        store, plan, augmentation or Augmentation(bands=store.bands), first_step=first_step, steps=steps, part=part
    )
    return [(before.numpy(), after.numpy(), mask.numpy()) for (before, after), mask in data]


def assert_same(some, others) -> None:
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


# --------------------------------------------------------------------------------------------- training batches


def test_batches_hang_on_the_seed_and_the_step_alone(tmp_path, monkeypatch):
    pairs, augmentation = pairs_of(tmp_path, [(40, 40)] * 7), Augmentation(bands=3, **SOMETHING)
    plan = plan_of(7)
    runs = {}
    for threads in (1, 8):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        runs[threads] = batches_of(store_of(pairs), plan, steps=12, augmentation=augmentation)
    assert len(runs[1]) == 12
    assert_same(runs[1], runs[8])

    for first in (1, 4, 9):
        resumed = batches_of(store_of(pairs), plan, first_step=first, steps=12, augmentation=augmentation)
        assert_same(resumed, runs[1][first:])

    other = batches_of(store_of(pairs), plan_of(7, seed=4), steps=12, augmentation=augmentation)
    assert not np.array_equal(other[0][0], runs[1][0][0])
    assert not np.array_equal(runs[1][0][0], runs[1][4][0])  # the second epoch is not the first


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_decode_each_its_own_rows_and_together_the_whole_batches(tmp_path, workers):
    pairs = pairs_of(tmp_path, [(20, 24)] * 9)
    plan, augmentation = plan_of(9, batch=4), Augmentation(bands=3, **SOMETHING)
    stores = [store_of(pairs, cache="none") for _ in range(workers)]
    read: list[list[int]] = [[] for _ in stores]
    for store, indices in zip(stores, read, strict=True):
        decode = store._decode
        store._decode = lambda index, decode=decode, indices=indices: (indices.append(index), decode(index))[1]
    parts = [
        batches_of(store, plan, augmentation=augmentation, part=Part(index, workers))
        for index, store in enumerate(stores)
    ]
    together = [
        tuple(np.concatenate(arrays) for arrays in zip(*rows, strict=True)) for rows in zip(*parts, strict=True)
    ]
    assert_same(together, batches_of(store_of(pairs), plan, augmentation=augmentation))
    assert sorted(index for indices in read for index in indices) == list(range(9))
    lengths = ([len(before) for before, _, _ in part] for part in parts)
    assert all(max(sizes) - min(sizes) <= 1 for sizes in zip(*lengths, strict=True))


def test_a_pair_is_cropped_and_augmented_anew_in_every_epoch(tmp_path):
    store, augmentation = store_of(pairs_of(tmp_path, [(40, 40)])), Augmentation(bands=3, **SOMETHING)
    drawn = batches_of(store, plan_of(1, batch=1), steps=6, augmentation=augmentation)
    assert len({before.tobytes() for before, _, _ in drawn}) == 6


def test_batches_have_the_promised_shapes_and_the_last_one_is_smaller(tmp_path):
    plan = plan_of(5)
    assert plan.steps_per_epoch == 3
    shapes = [
        tuple(part.shape for part in batch) for batch in batches_of(store_of(pairs_of(tmp_path, [(40, 40)] * 5)), plan)
    ]
    whole, rest = ((2, 16, 16, 3), (2, 16, 16, 3), (2, 16, 16)), ((1, 16, 16, 3), (1, 16, 16, 3), (1, 16, 16))
    assert shapes == [whole, whole, rest]


def test_every_pair_comes_exactly_once_an_epoch_in_another_order_each(tmp_path):
    pairs, plan = pairs_of(tmp_path, [(20, 20)] * 9), plan_of(9)
    numbers = np.concatenate([before[:, 0, 0, 0] for before, _, _ in batches_of(store_of(pairs), plan, steps=15)])
    epochs = numbers.reshape(3, 9).tolist()
    assert [sorted(epoch) for epoch in epochs] == [list(range(9))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("crops", [4, 9, 13, 30])
def test_no_pair_comes_twice_before_every_other_came_once_over_the_epochs(crops):
    plan = plan_of(9, crops_per_epoch=crops)
    drawn = np.concatenate([plan.epoch_order(epoch) for epoch in range(18)])
    assert len(drawn) == 18 * crops
    for start in range(0, len(drawn), 9):
        assert sorted(drawn[start : start + 9]) == list(range(9))


def test_pairs_are_taken_by_the_crops_that_fit():
    assert turns_by_area([(256, 256), (1024, 1024), (512, 256)], 256) == [1, 16, 2]
    assert turns_by_area([(640, 640)] * 3, 256) == [1, 1, 1]
    assert turns_by_area([(100, 100), (512, 512)], 256) == [1, 4], "a pair smaller than a crop is filled up to one"
    assert turns_by_area([(512, 512), (1024, 512)], 64) == [1, 2]


def test_roots_share_an_epoch_by_their_weights_and_every_pair_of_each_comes_in_turn():
    roots = (tuple(range(10)), (10, 11), (12, 13, 14))
    plan = plan_of(15, crops_per_epoch=60, roots=roots, weights=(1.0, 3.0, 2.0))
    order = plan.epoch_order(0)
    shares = [sum(index in root for index in order) for root in roots]
    assert shares == [10, 30, 20]
    assert sorted(order[np.isin(order, roots[0])]) == list(roots[0])
    assert Counter(order[np.isin(order, roots[1])].tolist()) == {10: 15, 11: 15}
    assert list(order) != sorted(order, key=lambda index: [index in root for root in roots].index(True))
    for weights, crops in (((1.0, 1.0, 1.0), 7), ((0.3, 0.3, 0.4), 31)):
        uneven = plan_of(15, crops_per_epoch=crops, roots=roots, weights=weights)
        assert [len(uneven.epoch_order(epoch)) for epoch in range(3)] == [crops] * 3


def test_crops_that_favour_change_always_hold_some_and_others_lie_anywhere(tmp_path):
    pairs = pairs_of(tmp_path, [(90, 70)] * 3, changed=1)
    black = np.zeros((90, 70, 3), np.uint8)
    pairs.append(LabelledPair(write_pair(tmp_path, "still", black, black, black[..., 0]), BINARY))
    store = store_of(pairs)
    always = batches_of(store, plan_of(4, positive_fraction=1.0), steps=40)
    for before, _, mask in always:
        for image, truth in zip(before, mask, strict=True):
            assert truth.any() == (image[..., 1].any())  # the pair without change is black
    never = batches_of(store, plan_of(4, positive_fraction=0.0), steps=40)
    assert 0 < np.mean([truth.any() for _, _, mask in never for truth in mask]) < 0.3
    # the changed pixel is anywhere in the crop, not always in its middle
    places = np.array([np.argwhere(truth)[0] for _, _, mask in always for truth in mask if truth.any()])
    assert (places.min(axis=0) <= 2).all()
    assert (places.max(axis=0) >= 13).all()


def test_images_smaller_than_the_crop_are_mirrored_and_have_no_truth_there(tmp_path):
    store = store_of(pairs_of(tmp_path, [(5, 11)]))
    [(before, after, mask)] = batches_of(store, plan_of(1, batch=1))
    example = store[0]
    np.testing.assert_array_equal(mask[0, :5, :11], example.mask)
    assert (mask[0, 5:] == IGNORE).all()
    assert (mask[0, :, 11:] == IGNORE).all()
    rows = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 4]
    columns = [*range(11), 10, 9, 8, 7, 6]
    for crop, image in ((before, example.before), (after, example.after)):
        np.testing.assert_array_equal(crop[0], image[rows][:, columns])


@pytest.mark.parametrize("bands", [1, 3, 13])
def test_crops_are_brought_to_ground_resolutions_between_the_two(tmp_path, bands):
    """Of pairs whose bands rise by 2 a pixel to the right: what a pixel of a crop rises by is its size."""
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (120, 1))
    image = np.dstack([ramp] * bands)
    example = pipeline.Example(image, image, (ramp // 100).astype(np.uint8), np.argwhere(ramp >= 100).astype(np.int32))
    plan = plan_of(1, crop=32, resolution=(0.25, 1.0), ground=(0.5,), positive_fraction=0.0)
    sizes = []
    for seed in range(60):
        before, after, mask = pipeline._cut(example, plan, 0.5, np.random.default_rng(seed))
        assert before.shape == after.shape == (32, 32, bands)
        inner = before[4:-4, 4:-4].astype(float)
        assert np.ptp(inner, axis=(0, 2)).max() <= 1
        sizes.append(0.5 * np.diff(inner[0, :, 0]).mean() / 2)
        assert (before[..., 0] // 100 != mask).sum() <= 2 * 32
        assert set(np.unique(mask)) <= {0, 1, 2}
    assert 0.24 < min(sizes) < 0.3
    assert 0.85 < max(sizes) < 1.02
    assert 0.4 < np.median(sizes) < 0.62, "as many at twice the size as at half"


def test_cutmix_lays_rectangles_of_other_crops_at_the_same_place_of_all_three(tmp_path):
    pairs = []
    for number in range(20):
        image = np.full((16, 16, 3), number, np.uint8)
        mask = np.full((16, 16), 255 * (number % 2), np.uint8)
        pairs.append(LabelledPair(write_pair(tmp_path, f"pair{number}", image, image + 100, mask), BINARY))
    store, seen = store_of(pairs), Counter()
    for befores, afters, masks in batches_of(store, plan_of(20, cutmix=0.6), steps=100):
        for before, after, mask in zip(befores[..., 0], afters[..., 0], masks, strict=True):
            np.testing.assert_array_equal(after, before + 100)
            np.testing.assert_array_equal(mask, before % 2)
            numbers = np.unique(before)
            seen[len(numbers)] += 1
            if len(numbers) == 2:
                places = (np.nonzero(before == number) for number in numbers)
                assert any((np.ptp(y) + 1) * (np.ptp(x) + 1) == len(y) for y, x in places)  # one is a rectangle
    assert set(seen) == {1, 2}
    assert 90 < seen[2] < 130  # 0.6 of 200, less those laid into a crop of the same pair
    for number in range(20):  # nothing is laid into the kept images
        assert np.all(store[number].before == number)


def test_a_plan_that_resamples_needs_the_ground_resolution_of_every_root():
    with pytest.raises(ValueError, match="ground must say that of each of 1 roots"):
        plan_of(4, resolution=(0.5, 1.0))


# ------------------------------------------------------------------------------------------------------- store


def test_binary_makes_every_class_but_0_the_change_and_keeps_pixels_without_truth(tmp_path):
    stored = np.array([[0, 1, 2], [3, 9, 0]], np.uint8)
    image = np.zeros((2, 3, 3), np.uint8)
    pair = LabelledPair(write_pair(tmp_path, "p", image, image, stored), INDICES)
    np.testing.assert_array_equal(store_of([pair])[0].mask, [[0, 1, 2], [3, IGNORE, 0]])
    binary = store_of([pair], binary=True)[0]
    np.testing.assert_array_equal(binary.mask, [[0, 1, 1], [1, IGNORE, 0]])
    assert sorted(map(tuple, binary.changed)) == [(0, 1), (0, 2), (1, 0)]


def test_remembered_positions_of_change_are_few_and_spread_over_the_image(tmp_path):
    mask = np.full((200, 200), 255, np.uint8)
    image = np.zeros((200, 200, 3), np.uint8)
    changed = store_of([LabelledPair(write_pair(tmp_path, "p", image, image, mask), BINARY)])[0].changed
    assert 2000 < len(changed) <= 4096
    assert changed[:, 0].min() == 0
    assert changed[:, 0].max() == 199


@pytest.mark.parametrize("binary", [False, True])
def test_every_cache_gives_identical_examples_again_and_again(tmp_path, binary):
    pairs = pairs_of(tmp_path, [(33, 20), (16, 50)])
    for index in range(2):
        examples = []
        for cache in ("memory", "disk", "none"):
            store = store_of(pairs, cache=cache, binary=binary)
            examples += [store[index], store[index]]
        for example in examples[1:]:
            for part in ("before", "after", "mask", "changed"):
                np.testing.assert_array_equal(getattr(example, part), getattr(examples[0], part))
                assert getattr(example, part).dtype == getattr(examples[0], part).dtype


def test_memory_decodes_once_and_no_cache_decodes_each_time(tmp_path):
    pairs = pairs_of(tmp_path, [(20, 20)])
    kept, fresh = store_of(pairs, cache="memory"), store_of(pairs, cache="none")
    assert kept[0].mask.shape == fresh[0].mask.shape == (20, 20)
    pairs[0].pair.before.unlink()
    assert kept[0].before.shape == (20, 20, 3)
    with pytest.raises(DecodeError, match=r"pair0_before\.png"):
        fresh[0]


def test_the_disk_cache_is_read_back_and_made_anew_when_a_file_or_an_option_changes(tmp_path):
    pairs = pairs_of(tmp_path, [(20, 24)])
    first = store_of(pairs, cache="disk")[0]

    def files() -> list[Path]:
        return sorted(path for path in (cache_folder() / "decoded").rglob("*") if path.is_file())

    [kept] = files()
    stamp = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(store_of(pairs, cache="disk")[0].before, first.before)
    assert [path.stat().st_mtime_ns for path in files()] == [stamp]

    assert cv2.imwrite(str(pairs[0].pair.mask), np.full((20, 24), 255, np.uint8))
    assert (store_of(pairs, cache="disk")[0].mask == 1).all()
    assert len(files()) == 2
    other = LabelledPair(pairs[0].pair, MaskCoding("0/255 the other way", (255, 0), 2))
    assert (store_of([other], cache="disk")[0].mask == 0).all()
    assert len(files()) == 3


def test_grey_pairs_and_rgb_pairs_come_in_the_bands_asked_for(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    pair = LabelledPair(write_pair(tmp_path, "g", grey, np.dstack([grey] * 3), np.zeros((20, 20), np.uint8)), BINARY)
    for bands in (1, 3):
        example = store_of([pair], bands=bands)[0]
        np.testing.assert_array_equal(example.before, np.repeat(grey[..., None], bands, axis=2))
        np.testing.assert_array_equal(example.after, example.before)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_training_leaves_the_kept_images_as_they_were(tmp_path, cache):
    store = store_of(pairs_of(tmp_path, [(16, 16)] * 2), cache=cache)
    copies = [store[index].before.copy() for index in range(2)]
    strong = Augmentation(bands=3, **SOMETHING, scale=0.2, contrast=0.4, blur=2, hue=0.1, jpeg=20)
    batches_of(store, plan_of(2), steps=10, augmentation=strong)
    for index in range(2):
        np.testing.assert_array_equal(store[index].before, copies[index])


# ---------------------------------------------------------------------------------------- one cache, many runs

FILLING = """
import sys
from pathlib import Path
from data_pipelines.layouts import find_pairs
from data_pipelines.pipeline import LabelledPair, PairStore
from data_pipelines.validation import MaskCoding
pairs = [LabelledPair(pair, MaskCoding("0/255", (0, 255), 2)) for pair in find_pairs(Path(sys.argv[1])).pairs]
store = PairStore(pairs, bands=3, binary=True, cache="disk")
print("ready", flush=True)
sys.stdin.readline()
for index in range(len(pairs)):
    example = store[index]
    print(index, example.before[..., 0].min(), example.before[..., 0].max(), flush=True)
"""
"""Reads every pair through the disk cache, once told to."""


def numbered_set(folder: Path, count: int, size: int) -> list[LabelledPair]:
    """A data set whose pair k is k in the first channel of before."""
    for part in ("A", "B", "label"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(2)
    made = []
    for k in range(count):
        before, after = (rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(2))
        before[..., 0] = k
        paths = [folder / part / f"{k:02d}.png" for part in ("A", "B", "label")]
        for path, image in zip(paths, (before[..., ::-1], after, np.zeros((size, size), np.uint8)), strict=True):
            assert cv2.imwrite(str(path), image)
        made.append(LabelledPair(Pair(f"{k:02d}", *paths, "all"), BINARY))
    return made


def filler(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", FILLING, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def cached_files() -> tuple[list[Path], list[Path]]:
    """Whole ones, and those that are not."""
    decoded = cache_folder() / "decoded"
    return sorted(decoded.glob("[!.]*/*")), sorted((decoded / ".unfinished").glob("*"))


def test_two_processes_fill_one_cache_and_a_killed_one_leaves_nothing_that_is_read(tmp_path):
    pairs = numbered_set(tmp_path / "data", count=12, size=256)
    processes = [filler(tmp_path / "data") for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"  # type: ignore[union-attr]
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    for _ in range(3):  # in the midst of its work
        assert processes[2].stdout.readline()  # type: ignore[union-attr]
    processes[2].send_signal(signal.SIGKILL)
    for process in processes[:2]:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert out.splitlines() == [f"{k} {k} {k}" for k in range(12)]
    processes[2].communicate()

    whole, unfinished = cached_files()
    assert len(whole) == 12
    assert len(unfinished) <= 1  # what the killed one was writing
    fresh = store_of(pairs, cache="none", binary=True)
    kept = store_of(pairs, cache="disk", binary=True)
    for index in range(12):
        np.testing.assert_array_equal(kept[index].before, fresh[index].before)
        np.testing.assert_array_equal(kept[index].after, fresh[index].after)


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path):
    store = store_of(pairs_of(tmp_path, [(20, 20)]), cache="disk")
    store[0]
    folder = cache_folder() / "decoded" / ".unfinished"
    for name, age in (("old", 2 * 3600), ("young", 60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    store_of(store.pairs, cache="disk")
    whole, unfinished = cached_files()
    assert [path.name for path in unfinished] == ["young"]
    assert len(whole) == 1


@pytest.mark.parametrize("length", [0, 50, 1000])
def test_a_torn_file_of_the_cache_is_made_anew_with_a_warning(tmp_path, caplog, length):
    store = store_of(pairs_of(tmp_path, [(40, 40)]), cache="disk")
    before = store[0].before.copy()
    [file], _ = cached_files()
    os.truncate(file, length)
    for _ in range(2):
        np.testing.assert_array_equal(store[0].before, before)
    [record] = caplog.records  # the second time it was whole again
    assert str(file) in record.getMessage()


def test_a_nearly_full_disk_is_warned_of_once_and_read_past(tmp_path, monkeypatch, caplog):
    pairs = pairs_of(tmp_path, [(20, 20)] * 3)
    full, fresh = store_of(pairs, cache="disk"), store_of(pairs, cache="none")
    full[0]
    monkeypatch.setattr(pipeline, "_KEPT_FREE", 2**60)
    for index in (0, 1, 2, 2):
        np.testing.assert_array_equal(full[index].after, fresh[index].after)
    [record] = caplog.records
    assert "cannot grow" in record.getMessage()
    assert "\n" not in record.getMessage()
    whole, unfinished = cached_files()
    assert (len(whole), unfinished) == (1, [])


def test_a_write_that_breaks_off_leaves_no_file(tmp_path):
    """A process that may write no more than so many bytes into a file stands for a disk that fills up meanwhile."""
    numbered_set(tmp_path / "data", count=2, size=64)
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n" + FILLING
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")], input="go\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1:3] == ["0 0 0", "1 1 1"]
    assert done.stderr.count("cannot grow (File too large)") == 1
    assert cached_files() == ([], [])


# -------------------------------------------------------------------------------------------------- whole images


@pytest.mark.parametrize(
    ("shapes", "largest", "size"),
    [
        ([(40, 40)] * 3, 1024, (40, 40)),
        ([(17, 30), (40, 9), (33, 41)], 1024, (40, 48)),
        ([(100, 30), (64, 70), (1, 1)], 32, (32, 32)),
    ],
)
def test_whole_images_hold_every_pixel_exactly_once(tmp_path, shapes, largest, size):
    pairs = []
    for number, shape in enumerate(shapes):
        count = np.arange(shape[0] * shape[1]).reshape(shape)
        image = np.dstack([count % 256, count // 256, np.full(shape, number)]).astype(np.uint8)
        mask = (count % 4).astype(np.uint8)
        pairs.append(LabelledPair(write_pair(tmp_path, str(number), image, 255 - image, mask), INDICES))
    seen: Counter = Counter()
    for (before, after), mask in whole_image_batches(
        store_of(pairs), range(len(pairs)), multiple=8, batch_pixels=3000, largest=largest
    ):
        before, after, mask = before.numpy(), after.numpy(), mask.numpy()
        assert before.shape[1:3] == size
        assert len(before) * size[0] * size[1] <= max(3000, size[0] * size[1])
        np.testing.assert_array_equal(after, 255 - before)
        true = mask != IGNORE
        for low, high, number, truth in zip(*before[true].T, mask[true], strict=True):
            index = int(low) + 256 * int(high)
            assert truth == index % 4
            seen[int(number), index] += 1
    expected = {(number, index) for number, (h, w) in enumerate(shapes) for index in range(h * w)}
    batches = whole_image_batches(
        store_of(pairs), range(len(pairs)), multiple=8, batch_pixels=3000, largest=largest
    )  # fmt: skip
    tiles = (image for (before, _), _ in batches for image in before.numpy())
    for number, (height, width) in enumerate(shapes):
        count = np.arange(height * width).reshape(height, width)
        whole = np.concatenate(list(join_tiles(tiles, height, width)))
        np.testing.assert_array_equal(whole, np.dstack([count % 256, count // 256, np.full_like(count, number)]))
    assert next(tiles, None) is None
    assert set(seen) == expected
    assert set(seen.values()) == {1}


def test_pairs_of_a_store_may_be_read_at_another_size(tmp_path):
    plain = store_of(pairs_of(tmp_path, [(8, 12), (10, 6)]))
    store = ResampledPairs(plain, {1: (20, 12)})
    assert [store.shape(index) for index in (0, 1)] == [(8, 12), (20, 12)]
    assert_same([(pair.before, pair.after, pair.mask, pair.changed) for pair in [store[0]]],
                [(pair.before, pair.after, pair.mask, pair.changed) for pair in [plain[0]]])  # fmt: skip
    larger, own = store[1], plain[1]
    np.testing.assert_array_equal(larger.mask, own.mask.repeat(2, 0).repeat(2, 1))
    for image, of in ((larger.before, own.before), (larger.after, own.after)):
        np.testing.assert_array_equal(image, cv2.resize(of, (12, 20), interpolation=cv2.INTER_LINEAR))
    marked = larger.mask[tuple(larger.changed.T)]
    assert len(marked) == np.count_nonzero((own.mask != 0) & (own.mask != 255)) * 4 > 0
    assert 0 not in marked


def test_pairs_that_shrink_one_way_and_grow_the_other_are_averaged_where_they_shrink(tmp_path):
    own = store_of(pairs_of(tmp_path, [(8, 6)]))
    brought = ResampledPairs(own, {0: (2, 12)})[0].before
    lower = cv2.resize(own[0].before, (6, 2), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(brought, cv2.resize(lower, (12, 2), interpolation=cv2.INTER_LINEAR))


def test_a_large_pair_of_another_size_is_not_brought_to_it_for_each_of_its_tiles(tmp_path, monkeypatch):
    store = ResampledPairs(store_of(pairs_of(tmp_path, [(40, 40)] * 3)), {0: (80, 80), 2: (60, 60)})
    brought = []
    bring = pipeline._resized
    monkeypatch.setattr(pipeline, "_resized", lambda *of: brought.append(of[-1]) or bring(*of))
    batches = whole_image_batches(store, range(3), multiple=8, batch_pixels=16 * 16, largest=16)
    assert len(list(batches)) == 25 + 9 + 16
    assert brought.count((80, 80)) <= os.cpu_count() >= brought.count((60, 60))


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_read_each_its_own_rows_of_the_whole_images(tmp_path, workers):
    store = store_of(pairs_of(tmp_path, [(8, 8)] * 7))
    whole, *parts = [
        [
            (before.numpy(), after.numpy(), mask.numpy())
            for (before, after), mask in whole_image_batches(store, range(7), multiple=8, batch_pixels=256, part=part)
        ]
        for part in (WHOLE, *(Part(index, workers) for index in range(workers)))
    ]
    assert [len(before) for before, _, _ in whole] == [4, 3]
    assert_same([tuple(map(np.concatenate, zip(*rows, strict=True))) for rows in zip(*parts, strict=True)], whole)
