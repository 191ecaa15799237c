import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tensorflow as tf
from PIL import Image
from rasterio.transform import from_origin

from data_pipelines.augmentation import Augmentation
from data_pipelines.decoding import DecodeError, read_image, read_info, read_mask
from data_pipelines.layouts import DataError, DataSet, find_pairs
from data_pipelines.packing import pack
from data_pipelines.pipeline import CropPlan, LabelledPair, PairStore, training_batches
from data_pipelines.shards import INDEX, read_bytes, read_index, stamp
from data_pipelines.validation import FaultyDataError, check

PAIRS = 11


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        bands = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
        with rasterio.open(
            path, "w", driver="GTiff", height=array.shape[0], width=array.shape[1], count=len(bands), dtype="uint8",
            crs="EPSG:32633", transform=from_origin(500000, 5000000, 0.5, 0.5),
        ) as target:  # fmt: skip
            target.write(bands)
    else:
        Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """PNG, JPEG and GeoTIFF pairs of several sizes, with lists, a palette mask, and boxes of one pair."""
    root, rng = tmp_path_factory.mktemp("folder") / "data", np.random.default_rng(0)
    for k in range(PAIRS):
        shape = (40 + k, 60)
        ending = ".tif" if k % 4 == 3 else ".png"
        save(root / f"A/p{k:02d}{ending}", rng.integers(0, 256, (*shape, 3), np.uint8))
        save(root / f"B/p{k:02d}{'.jpg' if k == 1 else ending}", rng.integers(0, 256, (*shape, 3), np.uint8))
        mask = np.zeros(shape, np.uint8)
        mask[5:20, 10 : 20 + k] = 1
        if k == 2:
            palette = Image.fromarray(mask).convert("P")
            palette.putpalette([9, 9, 9, 200, 0, 0])
            (root / "label").mkdir(exist_ok=True)
            palette.save(root / "label/p02.png")
            np.testing.assert_array_equal(read_mask(root / "label/p02.png"), mask)
        else:
            save(root / f"label/p{k:02d}{ending}", mask)
    (root / "boxes").mkdir()
    (root / "boxes/p04.csv").write_text("x1,y1,x2,y2,type\n10,5,24,20,house\n")
    (root / "list").mkdir()
    for split, numbers in (("train", range(2, PAIRS)), ("test", range(2))):
        (root / f"list/{split}.txt").write_text("".join(f"p{k:02d}\n" for k in numbers))
    return root


def packed(folder: Path, out: Path, shard_bytes: int = 30_000, **options) -> DataSet:
    pack(check(find_pairs(folder)), out, shard_bytes=shard_bytes, **options)
    return find_pairs(out)


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGDIFF_CACHE", str(cache))
        return packed(folder, tmp_path_factory.mktemp("packed") / "out").root


def files_of(data: DataSet) -> list[tuple[str, str, dict[str, Path | None]]]:
    return [(p.name, p.split, {r: getattr(p, r) for r in ("before", "after", "mask", "boxes")}) for p in data.pairs]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def copy_of(shards: Path, to: Path) -> Path:
    to.mkdir()
    for file in shards.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


# --------------------------------------------------------------------------------------------- the same examples


def test_packed_pairs_are_those_of_the_folder_file_by_file(folder, shards):
    ours, theirs = files_of(find_pairs(shards)), files_of(find_pairs(folder))
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    assert len(ours) == PAIRS
    for (_, _, inside), (_, _, outside) in zip(ours, theirs, strict=True):
        for role, path in outside.items():
            if path is None:
                assert inside[role] is None
                continue
            assert read_bytes(inside[role]) == path.read_bytes()
            assert inside[role].name == path.name
            assert stamp(inside[role])[0] == path.stat().st_size
            if role in ("before", "after"):
                np.testing.assert_array_equal(read_image(inside[role]), read_image(path))
            if role == "mask":
                np.testing.assert_array_equal(read_mask(inside[role]), read_mask(path))
            if role != "boxes":
                assert read_info(inside[role]) == read_info(path)


def test_the_check_finds_the_same_in_both(folder, shards):
    ours, theirs = check(find_pairs(shards)), check(find_pairs(folder))
    assert not ours.faults
    assert (ours.coding, ours.bands, ours.splits) == (theirs.coding, theirs.bands, theirs.splits)


def batches(root: Path, *, first: int = 0, cache="none", seed: int = 5) -> list[tuple[np.ndarray, ...]]:
    report = check(find_pairs(root))
    assert report.coding is not None
    store = PairStore(
        [LabelledPair(pair, report.coding) for pair in report.data.pairs], bands=3, binary=True, cache=cache
    )
    plan = CropPlan(
        crop=32, batch=3, crops_per_epoch=PAIRS, positive_fraction=0.5, seed=seed, roots=(tuple(range(PAIRS)),),
        weights=(1.0,),
    )  # fmt: skip
    augmentation = Augmentation(bands=3, flip=True, brightness=0.2, noise=0.1)
    data = training_batches(store, plan, augmentation, first_step=first, steps=2 * plan.steps_per_epoch)
    return [(before.numpy(), after.numpy(), mask.numpy()) for (before, after), mask in data]


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_training_reads_the_same_batches_from_shards_and_goes_on_at_any_step(folder, shards, cache):
    expected = batches(folder)
    assert not np.array_equal(expected[0][0], batches(folder, seed=6)[0][0])
    for first in (0, 5):
        found = batches(shards, first=first, cache=cache)
        assert len(found) == len(expected) - first
        for ours, theirs in zip(found, expected[first:], strict=True):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)


def test_tensorflow_reads_the_shards_interleaved_in_the_order_of_the_pairs(folder, shards):
    index = read_index(shards)
    assert 2 < len(index.shards) < PAIRS
    assert [record.shard for record in index.records[: len(index.shards)]] == list(index.shards)
    files = [str(shards / name) for name in index.shards]
    records = tf.data.Dataset.from_tensor_slices(files).interleave(
        tf.data.TFRecordDataset, cycle_length=len(files), block_length=1, num_parallel_calls=2, deterministic=True
    )
    examples = [tf.train.Example.FromString(record.numpy()).features.feature for record in records]
    pairs = find_pairs(folder).pairs
    assert [feature["name"].bytes_list.value[0].decode() for feature in examples] == [pair.name for pair in pairs]
    for feature, pair, record in zip(examples, pairs, index.records, strict=True):
        for role in ("before", "after", "mask", "boxes"):
            path = getattr(pair, role)
            assert (role in feature) == (path is not None)
            if path is not None:
                assert feature[role].bytes_list.value[0] == path.read_bytes()
                assert feature[f"{role}_suffix"].bytes_list.value[0].decode() == path.suffix
        assert feature["split"].bytes_list.value[0].decode() == pair.split
        numbers = [feature[key].int64_list.value[0] for key in ("height", "width", "bands")]
        assert numbers == [record.height, record.width, record.bands] == [*read_image(pair.after).shape]


def test_the_same_files_give_the_same_bytes_and_a_packed_set_can_be_packed_again(folder, shards, tmp_path):
    again = packed(folder, tmp_path / "again").root
    repacked = packed(shards, tmp_path / "repacked").root
    for name in read_index(shards).shards:
        assert (again / name).read_bytes() == (repacked / name).read_bytes() == (shards / name).read_bytes()
    single = packed(folder, tmp_path / "single", shard_bytes=10**9)
    assert len(read_index(single.root).shards) == 1


def test_tiles_numbered_anew_in_each_split_stay_apart(tmp_path):
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for part in ("A", "B", "label"):
            top = 2 if part == "label" else 256
            shape = (20, 20) if part == "label" else (20, 20, 3)
            save(tmp_path / f"data/{split}/{part}/0.png", rng.integers(0, top, shape, np.uint8))
    data = packed(tmp_path / "data", tmp_path / "out")
    for ours, theirs in zip(data.pairs, find_pairs(tmp_path / "data").pairs, strict=True):
        assert (ours.name, ours.split) == (theirs.name, theirs.split)
        assert read_bytes(ours.before) == theirs.before.read_bytes()


def test_pairs_whose_files_are_the_same_bytes(tmp_path):
    image = np.full((30, 30, 3), 7, np.uint8)
    for part in ("A", "B"):
        save(tmp_path / f"data/{part}/0.png", image)
    save(tmp_path / "data/label/0.png", np.eye(30, dtype=np.uint8))
    [pair] = packed(tmp_path / "data", tmp_path / "out").pairs
    assert read_bytes(pair.before) == read_bytes(pair.after) == (tmp_path / "data/A/0.png").read_bytes()


# ---------------------------------------------------------------------------------------------- broken sets


def test_a_missing_and_a_cut_shard_are_named_once_and_their_pairs_left_out(shards, tmp_path):
    names = list(read_index(shards).shards)
    here = copy_of(shards, tmp_path / "copy")
    (here / names[0]).unlink()
    os.truncate(here / names[1], 100)
    data = find_pairs(here)
    assert [str(fault).split(";")[0] for fault in data.faults] == [
        f"{here / names[0]}: missing shard",
        f"{here / names[1]}: 100 bytes where {read_index(shards).shards[names[1]]:,} were packed",
    ]
    lost = [record for record in read_index(shards).records if record.shard in names[:2]]
    assert len(data.pairs) == PAIRS - len(lost) > 0
    assert list(check(data).faults) == list(data.faults)


@pytest.mark.parametrize("role", ["before", "mask"])
@pytest.mark.parametrize("kind", [".png", ".tif"])
def test_a_flipped_bit_is_named_by_check_and_never_read(shards, tmp_path, role, kind):
    here = copy_of(shards, tmp_path / "copy")
    assert not check(find_pairs(here)).faults
    record = next(record for record in read_index(here).records if record.members[role].suffix == kind)
    member, shard = record.members[role], here / record.shard
    content = bytearray(shard.read_bytes())
    content[member.offset + member.length - 9] ^= 1  # pixels of a GeoTIFF, which has no checksum of its own
    shard.write_bytes(content)
    os.utime(shard, ns=(0, 0))
    path = here / record.shard / record.split / role / f"{record.name}{kind}"
    [fault] = check(find_pairs(here)).faults
    assert fault.path == path
    assert "not the bytes that were packed" in fault.problem
    with pytest.raises(DecodeError, match="not the bytes that were packed") as raised:
        (read_mask if role == "mask" else read_image)(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda text: text.replace('"version": 1', '"version": 99'), "version 99"),
        (lambda text: text.replace('"mask"', '"musk"'), "without before, after and mask"),
        (lambda text: text.replace('"offset"', '"place"'), "damaged"),
        (lambda text: text.replace("shard-00000", "../shard-00000"), "no .tfrecord file beside it"),
    ],
)
def test_a_damaged_index_is_one_line(shards, tmp_path, damage, said):
    here = copy_of(shards, tmp_path / "copy")
    text = (here / INDEX).read_text()
    assert damage(text) != text
    (here / INDEX).write_text(damage(text))
    with pytest.raises(DataError, match=said) as raised:
        find_pairs(here)
    assert str(raised.value).startswith(f"{here / INDEX}: ")
    assert "\n" not in str(raised.value)


def test_shards_without_their_index_are_told_from_no_data(shards, tmp_path):
    here = copy_of(shards, tmp_path / "copy")
    (here / INDEX).unlink()
    with pytest.raises(DataError, match=r"shards without their index shards\.json"):
        find_pairs(here)


def test_a_name_that_is_not_in_the_shard(shards):
    shard = shards / next(iter(read_index(shards).shards))
    for name in ("no.png", "no.tif"):
        with pytest.raises(DecodeError, match="no such file"):
            read_image(shard / "train" / "before" / name)


# ------------------------------------------------------------------------------------------------- packing


def test_data_with_faults_are_refused_and_nothing_is_left(folder, tmp_path):
    root = tmp_path / "data"
    for part in ("A", "B", "label"):
        save(root / part / "0.png", np.ones((20, 20), np.uint8))
    save(root / "A/1.png", np.ones((20, 20), np.uint8))
    with pytest.raises(FaultyDataError):
        packed(root, tmp_path / "out")
    assert names_in(tmp_path) == ["data"]


def test_a_folder_that_holds_something_is_kept(folder, shards, tmp_path):
    other = tmp_path / "other"
    save(other / "x.png", np.ones((9, 9), np.uint8))
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="holds no packed set"):
            packed(folder, other, overwrite=overwrite)
        with pytest.raises(FileExistsError, match="is a file"):
            packed(folder, other / "x.png", overwrite=overwrite)
    here = copy_of(shards, tmp_path / "copy")
    with pytest.raises(FileExistsError, match="--overwrite"):
        packed(folder, here)
    (here / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        packed(folder, here, overwrite=True)
    (here / "notes.txt").unlink()
    assert len(read_index(packed(folder, here, 10**9, overwrite=True).root).shards) == 1
    assert names_in(here) == sorted([INDEX, *read_index(here).shards])
    assert names_in(tmp_path) == ["copy", "other"]


def test_a_file_that_went_bad_meanwhile_leaves_the_old_set(folder, shards, tmp_path):
    here = copy_of(shards, tmp_path / "copy")
    data = tmp_path / "data"
    for part in ("A", "B", "label"):
        for name in ("0", "1"):
            save(data / part / f"{name}.png", np.eye(20, dtype=np.uint8))
    report = check(find_pairs(data))
    (data / "B/1.png").write_bytes(b"")
    with pytest.raises(DecodeError, match="an empty file"):
        pack(report, here, overwrite=True)
    assert len(find_pairs(here).pairs) == PAIRS
    assert names_in(tmp_path) == ["copy", "data"]


def test_progress_counts_every_pair_and_two_packings_to_one_folder_do_not_mix(folder, tmp_path):
    seen = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            with pytest.raises(FileExistsError, match="another process is writing to out"):
                packed(folder, tmp_path / "out")

    packed(folder, tmp_path / "out", on_progress=progress)
    assert seen == [(done, PAIRS) for done in range(1, PAIRS + 1)]
    assert names_in(tmp_path) == ["out"]


def test_what_a_packing_that_was_killed_left_goes_with_the_next(folder, tmp_path):
    killed = tmp_path / ".out.unfinished"
    (killed / "new").mkdir(parents=True)
    (killed / "new" / "shard-00000-of-00001.tfrecord").write_bytes(b"half")
    (killed / "lock").touch()  # that no process holds
    assert len(packed(folder, tmp_path / "out").pairs) == PAIRS
    assert names_in(tmp_path) == ["out"]


def test_a_disk_that_takes_no_more_is_one_error_and_leaves_nothing(folder, tmp_path):
    """A process that may write no more than so many bytes into a file stands for a full disk."""
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from data_pipelines.layouts import find_pairs\nfrom data_pipelines.packing import pack\n"
        "from data_pipelines.validation import check\n"
        "report = check(find_pairs(Path(sys.argv[1])))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try:\n    pack(report, Path(sys.argv[2]))\n"
        "except OSError as error:\n    print(error.filename)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "shard-00000-of-00001.tfrecord" in done.stdout
    assert names_in(tmp_path) == []


def test_the_index_says_what_the_masks_mean_and_where_they_came_from(folder, shards):
    content = json.loads((shards / INDEX).read_text())
    assert content["coding"] == {"name": "0/1", "values": [0, 1], "ignore": None}
    assert content["source"] == str(folder)
    assert len(content["pairs"]) == PAIRS
