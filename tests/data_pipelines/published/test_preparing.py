"""Every published data set: a miniature of its download is prepared, and what comes out is data that segdiff takes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.decoding import DecodeError, read_image, read_mask
from data_pipelines.layouts import DataError, find_pairs
from data_pipelines.published.preparing import DATA_SETS, MARK, Prepared, prepare, require_free
from data_pipelines.validation import check
from tests.data_pipelines.published.downloads import DRAW, clcd, dsifn, levir_cd, oscd, picture, save

PAIRS = {
    "levir_cd": {"train": 2, "val": 2, "test": 2},
    "whu_cd": {"train": 2, "test": 1},
    "dsifn": {"train": 2, "val": 2, "test": 2},
    "clcd": {"train": 1, "val": 1, "test": 1},
    "oscd": {"train": 2, "test": 1},
    "air_change": {"train": 5, "test": 2},
    "deeppcb": {"train": 1, "test": 1},
}


def prepared(name: str, folder: Path) -> tuple[Path, Prepared]:
    """Of the whole miniature."""
    DRAW[name](folder / "src")
    (folder / "out").mkdir()
    return folder / "out", prepare(name, folder / "src", folder / "out")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_data_set_is_drawn_here():
    assert list(DRAW) == list(DATA_SETS) == list(PAIRS)


@pytest.mark.parametrize("name", DATA_SETS)
def test_what_is_prepared_is_whole_and_passes_the_check(name, tmp_path):
    told = []
    DRAW[name](tmp_path / "src")
    before = files_in(tmp_path / "src")
    (tmp_path / "out").mkdir()
    outcome = prepare(name, tmp_path / "src", tmp_path / "out", on_progress=lambda *done: told.append(done))
    assert outcome.pairs == PAIRS[name]
    total = sum(PAIRS[name].values())
    assert told[-1] == (total, total)
    assert outcome.notes[0].startswith("not the whole data set: train ")

    report = check(find_pairs(tmp_path / "out"))
    assert report.faults == ()
    assert report.warnings == () or name == "deeppcb"  # two of six classes
    assert {split: part.pairs for split, part in report.splits.items()} == PAIRS[name]
    assert report.coding is not None
    assert report.coding.name == ("class indices 0..4" if name == "deeppcb" else "0/255")
    assert report.bands == {"oscd": 13, "deeppcb": 1}.get(name, 3)
    assert files_in(tmp_path / "src") == before, "the download is left as it is"
    written = json.loads((tmp_path / "out" / MARK).read_text())
    assert (written["name"], written["pairs"]) == (name, PAIRS[name])


def test_tiles_lie_where_their_names_say(tmp_path):
    out, _ = prepared("levir_cd", tmp_path)
    for split in ("train", "val", "test"):
        assert sorted(path.name for path in (out / split / "B").iterdir()) == [
            f"{split}_1_0_0.png", f"{split}_1_256_0.png"
        ]  # fmt: skip
        for role in ("A", "B"):
            whole = read_image(tmp_path / "src" / split / role / f"{split}_1.png")
            tile = read_image(out / split / role / f"{split}_1_256_0.png")
            np.testing.assert_array_equal(tile, whole[256:])
        whole = read_mask(tmp_path / "src" / split / "label" / f"{split}_1.png")
        np.testing.assert_array_equal(read_mask(out / split / "label" / f"{split}_1_0_0.png"), whole[:256])


def test_archives_may_be_unpacked_into_folders_of_their_names(tmp_path):
    for split in ("train", "test"):
        levir_cd(tmp_path / "src" / "LEVIR-CD" / split, (split,))
    (tmp_path / "out").mkdir()
    outcome = prepare("levir_cd", tmp_path / "src", tmp_path / "out")
    assert outcome.pairs == {"train": 2, "test": 2}
    assert outcome.notes == ("not the whole data set: train 2 of 7,120, no val, test 2 of 2,048",)


def test_jpegs_are_kept_and_masks_get_one_coding(tmp_path):
    out, _ = prepared("dsifn", tmp_path)
    for split, suffix in (("train", "png"), ("test", "tif")):
        for role, folder in (("A", "t1"), ("B", "t2")):
            source = tmp_path / "src" / split / folder / "1.jpg"
            assert (out / split / role / "1.jpg").read_bytes() == source.read_bytes()
        stored = read_mask(tmp_path / "src" / split / "mask" / f"1.{suffix}")
        mask = read_mask(out / split / "label" / "1.png")
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask > 0, stored > 0)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


FAULTS = {
    "partner": (lambda src: (src / "CLCD/val/time2/00000.png").unlink(), ["val/time2", "empty"]),
    "size": (lambda src: save(src / "CLCD/val/time2/00000.png", picture(96, 95, 1)), ["95 x 96", "96 x 96"]),
    "mask": (lambda src: save(src / "CLCD/val/label/00000.png", picture(96, 96, 1)[..., 0]), ["0/1 or 0/255"]),
    "cut short": (lambda src: cut_short(src / "CLCD/val/time2/00000.png"), ["time2/00000.png", "cut short"]),
    "a folder less": (lambda src: shutil.rmtree(src / "CLCD/val/label"), ["CLCD/val: has time1, time2 and no label"]),
    "damaged": (lambda src: (src / "CLCD/val/label/00000.png").write_bytes(b"none"), ["label/00000.png", "damaged"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_download_are_one_line_that_names_the_file(fault, tmp_path):
    plant, words = FAULTS[fault]
    clcd(tmp_path / "src")
    plant(tmp_path / "src")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError) as caught:
        prepare("clcd", tmp_path / "src", tmp_path / "out")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "out" / MARK).exists()


def test_a_band_that_is_cut_short_is_named(tmp_path):
    oscd(tmp_path)
    (band,) = tmp_path.glob("*/beirut/imgs_2_rect/B05.tif")
    cut_short(band)
    with pytest.raises(DecodeError, match=r"imgs_2_rect/B05\.tif: unreadable or cut short; download the images again"):
        prepare("oscd", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", DATA_SETS)
def test_another_folder_is_refused_with_what_was_looked_for(name, tmp_path):
    other = clcd if name != "clcd" else dsifn
    other(tmp_path / "src")
    (tmp_path / "src" / "data.zip").touch()
    with pytest.raises(
        DataError, match=r"src: no .* as downloaded: looked for .*, found .*data\.zip.*; unpack data\.zip"
    ):
        prepare(name, tmp_path / "src", tmp_path / "out")


def test_what_others_have_cut_and_laid_out_is_said_to_need_no_prepare(tmp_path):
    """LEVIR-CD-256: A, B and label with all tiles of the three splits, which lists tell apart."""
    src = tmp_path / "LEVIR-CD-256"
    for role in ("A", "B", "label"):
        for name in ("train_1_1.png", "test_9_4.png"):
            save(src / role / name, np.zeros((16, 16), np.uint8))
    with pytest.raises(DataError, match=rf"no LEVIR-CD as downloaded.*no prepare, train with --set data.root={src}"):
        prepare("levir_cd", src, tmp_path / "out")


def test_an_image_that_is_no_whole_number_of_tiles_is_refused(tmp_path):
    levir_cd(tmp_path, ("val",), (512, 300))
    with pytest.raises(DecodeError, match=r"val_1\.png: 300 x 512 pixels are no whole number of tiles"):
        prepare("levir_cd", tmp_path, tmp_path / "out")


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path):
    out, _ = prepared("clcd", tmp_path)
    require_free(tmp_path / "new", overwrite=False)
    require_free(out, overwrite=True)
    with pytest.raises(FileExistsError, match="--overwrite"):
        require_free(out, overwrite=False)
    with pytest.raises(FileExistsError, match="holds no prepared data set"):
        require_free(tmp_path / "src", overwrite=True)
    (out / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        require_free(out, overwrite=True)


# ------------------------------------------------------------------------------------------------- the command line


def test_the_command_prepares_what_the_command_checks(segdiff_command, tmp_path):
    clcd(tmp_path / "src")
    out = tmp_path / "data" / "clcd"
    done = segdiff_command("prepare", "clcd", tmp_path / "src", out, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["out"], said["pairs"]) == (str(out), PAIRS["clcd"])
    assert said["published"] == {"train": 360, "val": 120, "test": 120}
    assert sorted(path.name for path in out.parent.iterdir()) == ["clcd"]
    assert segdiff_command("check", out, "-q").returncode == 0


def test_a_preparation_that_is_stopped_leaves_nothing_not_even_of_one_that_was_killed(tmp_path):
    levir_cd(tmp_path / "src", ("train", "val"), size=(1536, 1536))
    script = Path(sys.executable).with_name("segdiff")
    unfinished = tmp_path / ".out.unfinished"

    def stop(number: int, *, after: int | None = None) -> tuple[int, str]:
        """Once it has written an image, of its own where ``after`` is a descriptor of what another left."""
        process = subprocess.Popen(
            [script, "prepare", "levir_cd", tmp_path / "src", tmp_path / "out"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while (after is not None and is_still(after)) or not list(unfinished.glob("new/*/A/*.png")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def is_still(descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), unfinished.stat())
        except FileNotFoundError:
            return False

    assert stop(signal.SIGKILL) == (-9, "")
    left = os.open(unfinished, os.O_RDONLY)  # open, its number on the disk is given to no other
    assert stop(signal.SIGTERM, after=left) == (143, "segdiff: terminated\n")
    os.close(left)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]
