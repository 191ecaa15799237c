"""Checking: ten planted faults, the codings of masks, the figures, the cache, and the real sets."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines import IGNORE, scanning
from data_pipelines.cache import cache_folder
from data_pipelines.layouts import DataError, DataSet, find_pairs, match_pairs
from data_pipelines.validation import CheckReport, MaskCoding, check, recognise_coding

SIZE = 24


def save(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array.astype(np.uint16 if array.dtype == np.uint16 else np.uint8))
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def noise(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mask_of(*values: int) -> np.ndarray:
    """Zeros, and a row of pixels for each of the values."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for row, value in enumerate(values):
        mask[row] = value
    return mask


def write_set(root: Path, masks: dict[str, np.ndarray], bands: int = 3) -> Path:
    for number, (name, mask) in enumerate(masks.items()):
        for offset, folder in enumerate("AB"):
            save(root / folder / f"{name}.png", noise(SIZE, SIZE, bands, seed=2 * number + offset).squeeze())
        save(root / "label" / f"{name}.png", mask)
    return root


def told(report: CheckReport) -> list[str]:
    return [str(fault) for fault in report.faults]


# ------------------------------------------------------------------------------------------------ planted faults


def _ten_faults(root: Path) -> dict[Path, str]:
    """Plant ten faults of different kinds; the file that each is to be told of, and a word of the telling."""
    a, b, label, lists = (root / name for name in ("A", "B", "label", "list"))
    expected = {}

    (b / "p00.png").unlink()
    expected[a / "p00.png"] = "missing partner: no after image"

    save(b / "p01.png", noise(SIZE, SIZE + 2, 3, seed=1))
    expected[b / "p01.png"] = f"after {SIZE + 2} x {SIZE}"

    whole = (a / "p02.png").read_bytes()
    (a / "p02.png").write_bytes(whole[: len(whole) // 2])
    expected[a / "p02.png"] = "cut short"

    save(label / "p03.png", mask_of(255, 7, 9))
    expected[label / "p03.png"] = "odd mask values 7, 9; the masks of this data set are 0/255"

    (label / "p04.png").unlink()
    save(label / "p04.jpg", np.where(noise(SIZE, SIZE, seed=4) > 128, 255, 0), quality=60)
    expected[label / "p04.jpg"] = "JPEG compression smears"

    (lists / "val.txt").write_text("p05\np06\n")
    expected[lists / "val.txt"] = "line 1: pair listed in two splits"

    (lists / "test.txt").write_text("\n")
    expected[lists / "test.txt"] = "empty list"

    save(b / "p07.png", noise(SIZE, SIZE, seed=7).astype(np.uint16) * 200)
    expected[b / "p07.png"] = "dtype uint16"

    save(a / "p08.png", noise(SIZE, SIZE, 4, seed=8))
    expected[a / "p08.png"] = "alpha is not opaque"

    save(b / "p09.bmp", noise(SIZE, SIZE, 3, seed=9))
    expected[b / "p09.png"] = "two files of one name: p09.bmp"
    return expected


def test_ten_planted_faults_are_each_named_exactly_once(tmp_path: Path):
    names = [f"p{number:02}" for number in range(14)]
    root = write_set(tmp_path, {name: mask_of(255) for name in names})
    (root / "list").mkdir()
    (root / "list" / "train.txt").write_text("\n".join(name for name in names if name != "p06"))
    (root / "list" / "val.txt").write_text("p06\n")
    assert told(check(find_pairs(root))) == []

    expected = _ten_faults(root)
    assert len(expected) == 10
    report = check(find_pairs(root))
    assert {fault.path for fault in report.faults} == set(expected)
    assert len(report.faults) == 10
    for fault in report.faults:
        assert expected[fault.path] in fault.problem
        assert "\n" not in str(fault)
    assert list(report.faults) == sorted(report.faults)
    assert report.coding == MaskCoding("0/255", (0, 255), 2)


def test_sizes_name_the_odd_one_out(tmp_path: Path):
    root = write_set(tmp_path, {"x": mask_of(1), "y": mask_of(1), "z": mask_of(1)})
    save(root / "label" / "x.png", np.ones((5, 7)))
    save(root / "A" / "y.png", noise(5, 7, 3, seed=0))
    save(root / "A" / "z.png", noise(5, 7, 3, seed=0))
    save(root / "label" / "z.png", np.ones((5, 8)))
    report = check(find_pairs(root))
    assert [fault.path.relative_to(root).as_posix() for fault in report.faults] == ["A/y.png", "B/z.png", "label/x.png"]
    assert "before 7 x 5, after 24 x 24, mask 8 x 5" in report.faults[1].problem


def test_bands_against_the_usual_ones(tmp_path: Path):
    """Grey boards, one stored as RGB and one with opaque alpha, pass; one in colour and one of two bands do not."""
    root = write_set(tmp_path, {name: mask_of(1) for name in "stuvw"}, bands=1)
    grey = noise(SIZE, SIZE, seed=3)
    save(root / "A" / "s.png", np.dstack([grey, grey, grey]))
    save(root / "A" / "t.png", np.dstack([grey, np.full_like(grey, 255)]))
    save(root / "A" / "u.png", noise(SIZE, SIZE, 3, seed=4))
    (root / "A" / "v.png").unlink()
    _save_tiff(root / "A" / "v.tif", noise(2, SIZE, SIZE, seed=5))
    report = check(find_pairs(root))
    assert report.bands == 1
    assert [fault.path.name for fault in report.faults] == ["u.png", "v.tif"]
    assert "3 bands whose channels differ, most images here have 1" in report.faults[0].problem
    assert "2 bands, most images here have 1" in report.faults[1].problem
    split = report.splits["all"]
    assert split.bands == {1: 6, 2: 2, 3: 2}
    assert split.grey_as_rgb == 1


def test_grey_images_in_a_colour_set_are_no_fault(tmp_path: Path):
    root = write_set(tmp_path, {"x": mask_of(1), "y": mask_of(1)})
    save(root / "A" / "x.png", noise(SIZE, SIZE, seed=3))
    report = check(find_pairs(root))
    assert (report.bands, told(report)) == (3, [])


def _save_tiff(path: Path, array: np.ndarray, **profile) -> None:
    count, height, width = array.shape
    options = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint8"} | profile
    with rasterio.open(path, "w", **options) as target:
        target.write(array)


def test_rasters_on_other_ground_than_their_partner(tmp_path: Path):
    root = write_set(tmp_path, {"x": mask_of(1), "y": mask_of(1), "z": mask_of(1)})
    for shift, name in enumerate("xyz"):
        for step, folder in enumerate("AB"):
            (root / folder / f"{name}.png").unlink()
            ground = Affine(0.5, 0, 1000 + shift * step, 0, -0.5, 2000)
            array = noise(3, SIZE, SIZE + (step if name == "z" else 0), seed=step)
            _save_tiff(root / folder / f"{name}.tif", array, crs="EPSG:32651", transform=ground)
    fault, size_fault = told(check(find_pairs(root)))
    assert size_fault.startswith(f"{root}/B/z.tif: sizes differ")
    assert fault.startswith(f"{root}/B/y.tif: not on the grid of {root}/A/y.tif: corner (0, 0) at 1001, 2000, not 1000")


def test_a_palette_mask_is_checked_by_its_indices(tmp_path: Path):
    root = write_set(tmp_path, {"x": mask_of(1, 2)})
    picture = Image.fromarray(mask_of(1, 2))
    picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    picture.save(root / "label" / "x.png")
    report = check(find_pairs(root))
    assert told(report) == []
    assert report.coding
    assert (report.coding.name, report.coding.classes) == ("class indices 0..2", 3)


def test_files_of_true_objects_are_read_too(tmp_path: Path):
    root = write_set(tmp_path, {"a": mask_of(1, 2, 3), "b": mask_of(1), "c": mask_of(2), "d": mask_of(3)})
    (root / "boxes").mkdir()
    header, good = "x1,y1,x2,y2,type\n", f"0,0,{SIZE},{SIZE},3\n1,2.5,3,4,short\n"

    def checked(**lines: str) -> CheckReport:
        for name in "abcd":
            (root / "boxes" / f"{name}.csv").unlink(missing_ok=True)
        for name, text in lines.items():
            (root / "boxes" / f"{name}.csv").write_text(text)
        return check(find_pairs(root))

    assert (checked(a=header + good, b=header, c=header, d=header + good).faults, checked().warnings) == ((), ())
    wrong = {
        "a": header + good + "1,1,2,2,4\n7,7,1,1,0\n",
        "b": header + f"1,1,{SIZE + 1},2,1\n",
        "c": "x1,y1,w,h,type\n1,1,2,2,1\n",
        "d": header + "5,5,4,9,1\n",
    }
    report = checked(**wrong)
    words = (
        "line 4: type '4' is no class of the masks; allowed are 1 to 3 and the names of classes",
        f"line 2: x1 1 to x2 {SIZE + 1} reaches out of the image, whose width is {SIZE} pixels",
        "line 1: no column x2, y2",
        "line 2: x1 5 is not below x2 4",
    )
    for name, line, said in zip("abcd", told(report), words, strict=True):
        assert line.startswith(f"{root / 'boxes' / f'{name}.csv'}: {said}")
        assert "\n" not in line
    report = checked(a=header, c=header, d=header)
    assert report.faults == ()
    assert report.warnings == (
        "1 of 4 pairs of split all have no boxes/NAME.csv, b first: objects cannot be scored; "
        "no more than the line x1,y1,x2,y2,type says that there are none",
    )
    for name in "abcd":  # change or none: every type is the change
        save(root / "label" / f"{name}.png", mask_of(255))
    assert checked(a=header + "1,1,2,2,9\n1,1,2,2,\n", b=header, c=header, d=header).faults == ()


def test_no_pairs_at_all(tmp_path: Path):
    empty = DataSet(tmp_path, "A/B/label", (), ())
    assert told(check(empty)) == [f"{tmp_path}: no pairs in it"]


def test_pairs_without_masks_are_checked_as_far_as_they_go(tmp_path: Path):
    root = write_set(tmp_path, {"x": mask_of(1), "y": mask_of(1)})
    save(root / "B" / "y.png", noise(5, 7, 3, seed=0))
    report = check(match_pairs(root / "A", root / "B"))
    assert [fault.path.name for fault in report.faults] == ["y.png"]
    assert report.coding is None
    assert report.splits["all"].change_fraction is None


# --------------------------------------------------------------------------------------------------- mask coding


CODINGS = [
    # stored values of each mask, ignore given, name, classes, the masks of 1, 2, ... that are at fault
    ([{0, 1}, {0}, {1}], None, "0/1", 2, set()),
    ([{0, 255}, {0}, {255}], None, "0/255", 2, set()),
    ([{0, 1, 255}, {0, 1}], None, "0/1, 255 = ignore", 2, set()),
    ([{0, 1, 6}, {0, 2, 3, 4, 5}], None, "class indices 0..6", 7, set()),
    ([{0}, {0}], None, "0/1", 2, set()),
    # One odd file does not change what all others say.
    ([{0, 255}, {0, 255}, {0, 1, 7, 255}], None, "0/255", 2, {2}),
    ([{0, 255}, {0, 255}, {0, 2}], None, "0/255", 2, {2}),
    ([{0, 1, 2}, {0, 3}, {0, 1, 255}], None, "class indices 0..3", 4, {2}),
    ([{0, 1, 2}, {0, 3}, {0, 1, 40}], None, "class indices 0..3", 4, {2}),
    ([{0, 1, 2}, {0, 3}, {0, 1, 255}], 255, "class indices 0..3, 255 = ignore", 4, set()),
    ([{0, 1, 9}, {0, 1}], 9, "0/1, 9 = ignore", 2, set()),
    ([{0, 255, 128}, {0, 128}], 128, "0/255, 128 = ignore", 2, set()),
    # With 255 ignored, masks of 0 and 255 hold no change.
    ([{0, 255}, {0, 255}], 255, "0/1, 255 = ignore", 2, set()),
    ([{0, 1, 255}, {0, 1}], 7, "0/1, 7 = ignore", 2, {0}),
]


@pytest.mark.parametrize(("stored", "ignore", "name", "classes", "faulty"), CODINGS)
def test_the_coding_is_recognised_over_all_masks(tmp_path: Path, stored, ignore, name: str, classes: int, faulty):
    root = write_set(tmp_path, {f"m{number}": mask_of(*values) for number, values in enumerate(stored)})
    for number, values in enumerate(stored):  # exactly these values, zero only where it is one of them
        mask = np.resize(sorted(values), (SIZE, SIZE))
        save(root / "label" / f"m{number}.png", mask)
    report = check(find_pairs(root), ignore=ignore)
    assert report.coding
    assert (report.coding.name, report.coding.classes) == (name, classes)
    assert {int(fault.path.stem[1:]) for fault in report.faults} == faulty


def test_faults_of_masks_name_values_and_mend(tmp_path: Path):
    root = write_set(tmp_path, {"x": mask_of(1, 2), "y": mask_of(3), "z": mask_of(255, *range(100, 110))})
    (fault,) = told(check(find_pairs(root)))
    assert fault == (
        f"{root}/label/z.png: odd mask values 100, 101, 102, 103, 104, 105 and 5 more; the masks of this data set are "
        "class indices 0..3: store a class index 0..3; "
        "if 255 marks pixels without truth, set data.ignore: 255 (--ignore 255)"
    )


def test_masks_of_no_coding_at_all(tmp_path: Path):
    root = write_set(tmp_path, {"x": mask_of(100), "y": mask_of(0, 77)})
    report = check(find_pairs(root))
    assert report.coding is None
    assert [fault.problem.split(";")[0] for fault in report.faults] == ["odd mask value 100", "odd mask value 77"]
    assert "allowed: 0/1, 0/255" in report.faults[0].problem
    assert report.splits["all"].class_fractions == {}


@pytest.mark.parametrize(
    ("histograms", "said"),
    [
        ([{0: 9}], "no mask holds any change"),
        ([{0: 9, 1: 9}, {7: 1}], "no mask holds values 2, 3, 4, 5, 6"),
        ([{0: 9, 1: 9, 255: 9}], None),
        ([{0: 9, 1: 9, 2: 1}], None),
        ([], None),
    ],
)
def test_doubtful_codings_are_warned_of(histograms, said: str | None):
    _, warnings = recognise_coding(histograms)
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


def test_two_codings_mixed_are_never_taken_for_an_ignore_value(tmp_path: Path):
    root = write_set(tmp_path, {"a": mask_of(0, 255), "b": mask_of(0, 255), "c": mask_of(0, 1)})
    report = check(find_pairs(root))
    assert report.coding is not None
    assert (report.coding.name, report.coding.ignore) == ("0/255", None)
    assert [(fault.path.stem, "odd mask value 1" in fault.problem) for fault in report.faults] == [("c", True)]
    assert check(find_pairs(root), ignore=255).faults == ()


def save_jpeg(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path.with_suffix(".jpg"), quality=75)
    path.unlink()


def test_smeared_indices_are_named_and_do_not_decide_the_coding(tmp_path: Path):
    rng = np.random.default_rng(0)
    masks = {name: rng.integers(0, 7, (SIZE, SIZE), np.uint8) for name in "abc"}
    root = write_set(tmp_path, masks)
    before = check(find_pairs(root)).coding
    save_jpeg(root / "label" / "b.png", masks["b"])
    report = check(find_pairs(root))
    assert report.coding == before
    assert [fault.path.name for fault in report.faults] == ["b.jpg"]
    assert "JPEG" in report.faults[0].problem


def test_a_smeared_mask_does_not_hide_another_coding(tmp_path: Path):
    smeared = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE), np.uint8) * np.uint8(255)
    root = write_set(tmp_path, {"a": mask_of(0, 255), "b": mask_of(0, 255), "c": mask_of(0, 1), "d": smeared})
    save_jpeg(root / "label" / "d.png", smeared)
    report = check(find_pairs(root))
    assert report.coding is not None
    assert (report.coding.name, report.coding.ignore) == ("0/255", None)
    assert sorted(fault.path.stem for fault in report.faults if "odd mask" in fault.problem) == ["c", "d"]


BINARY = st.sampled_from([(1, None), (255, None), (1, 255), (255, 128)])


@settings(max_examples=50)
@given(coding=BINARY, truth=st.lists(st.lists(st.sampled_from([0, 1, IGNORE]), min_size=4, max_size=9), min_size=1))
def test_stored_masks_decode_to_the_truth_they_were_stored_from(coding: tuple[int, int | None], truth: list[list[int]]):
    change, ignored = coding
    truth = [[0, 1, IGNORE, 1], *truth]  # at least one mask shows everything
    if ignored is None:
        truth = [[value for value in mask if value != IGNORE] or [0] for mask in truth]
    raws = [np.array([{0: 0, 1: change, IGNORE: ignored}[value] for value in mask], np.uint8) for mask in truth]
    histograms = [dict(zip(*np.unique(raw, return_counts=True), strict=True)) for raw in raws]
    recognised, _ = recognise_coding(histograms, ignore=ignored)
    assert recognised
    for raw, mask in zip(raws, truth, strict=True):
        decoded = recognised.decode(raw)
        assert decoded.dtype == np.uint8
        assert decoded.tolist() == mask


def test_decode_refuses_a_value_outside_the_coding():
    coding = MaskCoding("0/255", (0, 255), 2)
    assert coding.decode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    with pytest.raises(DataError, match="values 1, 7 not in the mask coding 0/255; store 0 for no change and 255"):
        coding.decode(np.array([[0, 7], [1, 255]], np.uint8))


def test_an_ignore_value_out_of_range_is_refused(tmp_path: Path):
    for ignore in (0, 256, -1):
        with pytest.raises(DataError, match=rf"ignore value {ignore}: allowed are 1\.\.255"):
            check(DataSet(tmp_path, "", (), ()), ignore=ignore)


# ------------------------------------------------------------------------------------------------------- figures


def test_the_figures_of_each_split(tmp_path: Path):
    write_set(tmp_path / "train", {"x": mask_of(1, 2, 2), "y": mask_of()})
    write_set(tmp_path / "val", {"z": mask_of(255, 255, 2)})
    report = check(find_pairs(tmp_path), ignore=255)
    assert told(report) == []
    train, val = report.splits["train"], report.splits["val"]
    assert (train.pairs, train.sizes, train.bands, train.dtypes) == (2, {(SIZE, SIZE): 2}, {3: 4}, {"uint8": 4})
    assert train.class_fractions == pytest.approx({0: 45 / 48, 1: 1 / 48, 2: 2 / 48})
    assert train.change_fraction == pytest.approx(3 / 48)
    assert (val.change_fraction, val.ignored_fraction) == pytest.approx((1 / 22, 2 / 24))

    plain = json.loads(json.dumps(report.to_json()))
    assert plain["splits"]["train"]["sizes"] == {"24x24": 2}
    assert plain["splits"]["train"]["class_fractions"]["2"] == pytest.approx(2 / 48)
    assert plain["coding"] == {
        "name": "class indices 0..2, 255 = ignore",
        "values": [0, 1, 2],
        "classes": 3,
        "ignore": 255,
    }
    assert plain["faults"] == []


# --------------------------------------------------------------------------------------------------------- cache


def _decoded(monkeypatch: pytest.MonkeyPatch, root: Path) -> tuple[list[str], CheckReport]:
    """The files that a check decodes, and its report."""
    decoded: list[str] = []

    def counted(scan: Callable) -> Callable:
        def scan_and_count(path: Path):
            decoded.append(path.relative_to(root).as_posix())
            return scan(path)

        return scan_and_count

    with monkeypatch.context() as patch:
        patch.setattr(scanning, "_SCANNERS", {kind: counted(scan) for kind, scan in scanning._SCANNERS.items()})
        report = check(find_pairs(root))
    return sorted(decoded), report


def test_only_changed_files_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_set(tmp_path, {"x": mask_of(255), "y": mask_of(255)})
    _save_tiff(
        root / "A" / "x.tif", noise(3, SIZE, SIZE, seed=1), crs="EPSG:32651", transform=Affine(1, 0, 5, 0, -1, 5)
    )
    (root / "A" / "x.png").unlink()
    first, report = _decoded(monkeypatch, root)
    assert first == ["A/x.tif", "A/y.png", "B/x.png", "B/y.png", "label/x.png", "label/y.png"]
    assert _decoded(monkeypatch, root) == ([], report)
    remembered = scanning.scan_files(find_pairs(root))
    with monkeypatch.context() as patch:
        patch.setenv("SEGDIFF_CACHE", str(tmp_path.with_name("fresh")))
        assert scanning.scan_files(find_pairs(root)) == remembered

    save(root / "label" / "y.png", mask_of(255, 3))
    again, report = _decoded(monkeypatch, root)
    assert again == ["label/y.png"]
    assert [fault.path.name for fault in report.faults] == ["y.png"]

    # Same size, other time.
    before = (root / "B" / "x.png").stat()
    os.utime(root / "B" / "x.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert _decoded(monkeypatch, root)[0] == ["B/x.png"]


def test_unreadable_files_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_set(tmp_path, {"x": mask_of(255)})
    (root / "B" / "x.png").write_bytes(b"no image")
    assert len(_decoded(monkeypatch, root)[0]) == 3
    assert _decoded(monkeypatch, root)[0] == ["B/x.png"]


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"version": 1, "files": {"image x": [1, 2, {"height": 1}]}}', b"\xff"]
)
def test_a_damaged_cache_is_made_anew_with_a_warning(tmp_path: Path, caplog, monkeypatch, damage: bytes):
    root = write_set(tmp_path, {"x": mask_of(255)})
    _, report = _decoded(monkeypatch, root)
    (memory,) = (cache_folder() / "check").iterdir()
    memory.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert _decoded(monkeypatch, root) == (["A/x.png", "B/x.png", "label/x.png"], report)
    assert "damaged and made anew" in caplog.text
    assert _decoded(monkeypatch, root) == ([], report)
    assert [path.name for path in (cache_folder() / "check").iterdir()] == [memory.name]


def test_a_cache_folder_that_cannot_be_written_does_not_stop_the_check(tmp_path: Path, caplog, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("SEGDIFF_CACHE", str(blocked))
    report = check(find_pairs(write_set(tmp_path / "data", {"x": mask_of(255)})))
    assert told(report) == []
    assert "not remembered" in caplog.text


def test_a_check_that_cannot_be_remembered_leaves_no_half_file(tmp_path: Path, caplog, monkeypatch):
    root = write_set(tmp_path, {"x": mask_of(255)})
    _decoded(monkeypatch, root)
    (memory,) = (cache_folder() / "check").iterdir()
    memory.unlink()
    (memory / "in its place").mkdir(parents=True)
    _decoded(monkeypatch, root)
    assert "not remembered" in caplog.text
    assert list((cache_folder() / "check").iterdir()) == [memory]


def test_an_interrupted_check_remembers_what_it_has_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_set(tmp_path, {f"m{number}": mask_of(255) for number in range(8)})

    def interrupt(done: int, _files: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(find_pairs(root), on_progress=interrupt)
    assert len(_decoded(monkeypatch, root)[0]) == 24 - 3


def test_progress_counts_every_file_once(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    data = find_pairs(write_set(tmp_path, {"x": mask_of(255), "y": mask_of(255)}))
    check(data, on_progress=lambda done, files: calls.append((done, files)))
    assert calls == [(done, 6) for done in range(7)]
    calls.clear()
    check(data, on_progress=lambda done, files: calls.append((done, files)))
    assert calls == [(6, 6)]


def test_the_cache_folder_by_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEGDIFF_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("SEGDIFF_CACHE")
    assert cache_folder() == Path("/two/segdiff")
    for nothing in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert cache_folder() == Path.home() / ".cache" / "segdiff"


# ----------------------------------------------------------------------------------------------------- real sets


@pytest.mark.parametrize(
    ("name", "pairs", "coding", "classes", "bands"),
    [
        ("air_change", 14, "0/255", 2, 3),
        ("dsifn_samples", 5, "0/255", 2, 3),
        ("landsat_taizhou", 1, "0/1, 255 = ignore", 2, 6),
        ("levir_cd_samples", 5, "0/255", 2, 3),
        pytest.param("deeppcb/train", 1000, "class indices 0..6", 7, 1, marks=pytest.mark.slow),
    ],
)
def test_real_sets_have_no_faults(shared: Path, name: str, pairs: int, coding: str, classes: int, bands: int):
    report = check(find_pairs(shared / "data" / name))
    assert told(report) == []
    assert report.warnings == ()
    assert report.coding
    assert (report.coding.name, report.coding.classes, report.bands) == (coding, classes, bands)
    assert report.splits["all"].pairs == pairs
    if name.startswith("deeppcb"):
        assert report.splits["all"].grey_as_rgb == 37
    if name == "landsat_taizhou":
        assert report.splits["all"].ignored_fraction == pytest.approx(0.87, abs=0.01)
