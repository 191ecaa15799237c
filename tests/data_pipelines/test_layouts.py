"""Finding pairs: every layout, every alias, every fault that names alone can show."""

import os
import string
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.layouts import FOLDER_NAMES, IMAGE_SUFFIXES, SPLITS, DataError, find_pairs, match_pairs

_serial = count()


def put(path: Path, content: bytes | None = None) -> Path:
    """A file whose bytes are unlike those of any other: only names matter to the search."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{next(_serial)}".encode() if content is None else content)
    return path


def put_pairs(parent: Path, names: list[str], folders: tuple[str, str, str] = ("A", "B", "label")) -> Path:
    for folder in folders:
        for name in names:
            put(parent / folder / f"{name}.png")
    return parent


def faults_of(data) -> list[str]:
    return [str(fault) for fault in data.faults]


@pytest.mark.parametrize("names", FOLDER_NAMES)
@pytest.mark.parametrize("change_case", [str, str.lower, str.upper])
@pytest.mark.parametrize("split", ["", "val"])
def test_every_alias_in_every_place_and_case(tmp_path: Path, names, change_case, split: str):
    folders = tuple(change_case(name) for name in names)
    put_pairs(tmp_path / split, ["one", "two"], folders)
    data = find_pairs(tmp_path)
    assert [pair.name for pair in data.pairs] == ["one", "two"]
    assert {pair.split for pair in data.pairs} == {split or "all"}
    first = data.pairs[0]
    assert (first.before, first.after, first.mask) == tuple(tmp_path / split / name / "one.png" for name in folders)
    assert data.faults == ()
    assert all(name in data.layout for name in folders)


stems = st.text(string.ascii_letters + string.digits + "-_ .", min_size=1, max_size=12).filter(
    lambda stem: stem.strip() == stem and not stem.startswith(".") and not stem.endswith(".")
)
endings = st.sampled_from([form for suffix in IMAGE_SUFFIXES for form in (suffix, suffix.upper())])


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    names=st.dictionaries(stems, st.tuples(st.sampled_from(SPLITS), endings, endings, endings), min_size=1, max_size=6),
    with_endings=st.booleans(),
)
def test_the_same_pairs_come_back_from_every_layout(tmp_path: Path, names, with_endings: bool):
    """Stems with dots and blanks, endings that differ and shout: lists, split folders and CSV give one answer."""
    root = tmp_path / str(next(_serial))
    lists: dict[str, list[str]] = {}
    rows = ["before,after,mask,split"]
    for name, (split, *suffixes) in names.items():
        for folder, suffix in zip(("A", "B", "label"), suffixes, strict=True):
            put(root / "lists" / folder / (name + suffix))
            put(root / "folders" / split / folder / (name + suffix))
        lists.setdefault(split, []).append(name + suffixes[1] if with_endings else name)
        rows.append(",".join(f"{folder}/{name}{suffix}" for folder, suffix in zip("AB", suffixes, strict=False)))
        rows[-1] += f",label/{name}{suffixes[2]},{split}"
    for split, lines in lists.items():
        put(root / "lists" / "list" / f"{split}.txt", "\r\n".join(["", *lines, "", ""]).encode())
    table = put(root / "lists" / "pairs.csv", "\n".join(rows).encode())

    expected = {(split, name) for name, (split, *_) in names.items()}
    for data in (find_pairs(root / "lists"), find_pairs(root / "folders"), find_pairs(table)):
        assert faults_of(data) == []
        assert {(pair.split, pair.name) for pair in data.pairs} == expected
        assert list(data.splits) == [split for split in SPLITS if split in lists]
        for pair in data.pairs:
            assert pair.mask
            files = (pair.before, pair.after, pair.mask)
            assert [path.parent.name for path in files] == ["A", "B", "label"]
            assert all(path.stem == pair.name and path.is_file() for path in files)


def test_boxes_and_foreign_things_beside_the_pairs(tmp_path: Path):
    put_pairs(tmp_path, ["one", "two"])
    put(tmp_path / "boxes" / "two.csv")
    for stray in ("A/Thumbs.db", "A/.DS_Store", "B/._one.png", "label/notes.txt", ".git/x.png", "shadow/one.png"):
        put(tmp_path / stray)
    (tmp_path / "A" / "sub.png").mkdir()
    data = find_pairs(tmp_path)
    assert [pair.boxes for pair in data.pairs] == [None, tmp_path / "boxes" / "two.csv"]
    assert data.faults == ()
    assert data.notes == (f"folders in {tmp_path} that are left alone: shadow",)


def test_boxes_of_every_split_are_its_own(tmp_path: Path):
    for split in ("train", "val"):
        put_pairs(tmp_path / "folders" / split, ["one"])
        put_pairs(tmp_path / "lists", [split])
        put(tmp_path / "lists" / "list" / f"{split}.txt", split.encode())
        put(tmp_path / "lists" / "Boxes" / f"{split}.CSV")
    put(tmp_path / "folders" / "train" / "boxes" / "one.csv")
    put(tmp_path / "folders" / "boxes" / "one.csv")
    data = find_pairs(tmp_path / "folders")
    assert [pair.boxes for pair in data.pairs] == [tmp_path / "folders" / "train" / "boxes" / "one.csv", None]
    assert data.notes == (f"folders in {tmp_path / 'folders'} that are left alone: boxes",)
    data = find_pairs(tmp_path / "lists")
    assert [pair.boxes for pair in data.pairs] == [
        tmp_path / "lists" / "Boxes" / f"{split}.CSV" for split in ("train", "val")
    ]
    assert (data.notes, data.faults) == ((), ())


def test_a_missing_partner_is_named_once_with_what_is_missing(tmp_path: Path):
    put_pairs(tmp_path, ["one", "two", "three"])
    (tmp_path / "B" / "one.png").unlink()
    (tmp_path / "A" / "two.png").unlink()
    (tmp_path / "label" / "two.png").unlink()
    data = find_pairs(tmp_path)
    assert [pair.name for pair in data.pairs] == ["three"]
    one, two = faults_of(data)
    assert one.startswith(f"{tmp_path}/A/one.png: missing partner: no after image one.* in {tmp_path}/B;")
    assert two.startswith(
        f"{tmp_path}/B/two.png: missing partner: no before image two.* in {tmp_path}/A and no mask two.*"
    )


def test_two_files_of_one_stem(tmp_path: Path):
    put_pairs(tmp_path, ["one", "two"])
    put(tmp_path / "A" / "one.JPG")
    data = find_pairs(tmp_path)
    assert [pair.name for pair in data.pairs] == ["two"]
    (fault,) = faults_of(data)
    assert "one.JPG" in fault
    assert "one.png" in fault


@pytest.mark.parametrize("emptied", ["", "A", "B", "label"])
def test_an_empty_split_or_folder_is_one_fault(tmp_path: Path, emptied: str):
    put_pairs(tmp_path / "train", ["one", "two"])
    put_pairs(tmp_path / "val", ["three", "four"])
    for path in (tmp_path / "val" / emptied).rglob("*.png"):
        path.unlink()
    data = find_pairs(tmp_path)
    assert list(data.splits) == ["train"]
    (fault,) = data.faults
    assert fault.path == tmp_path / "val" / emptied
    assert fault.problem.startswith("empty")


def test_a_split_folder_without_folders_or_without_masks(tmp_path: Path):
    put_pairs(tmp_path / "train", ["one"])
    (tmp_path / "val").mkdir()
    put(tmp_path / "test" / "A" / "x.png")
    put(tmp_path / "test" / "B" / "x.png")
    test_fault, val_fault = find_pairs(tmp_path).faults
    assert (test_fault.path, val_fault.path) == (tmp_path / "test", tmp_path / "val")
    assert "no masks in label or OUT" in test_fault.problem
    assert val_fault.problem.startswith("empty split")


def test_faults_of_lists(tmp_path: Path):
    put_pairs(tmp_path, ["one", "two", "three", "four"])
    (tmp_path / "label" / "four.png").unlink()
    put(tmp_path / "list" / "train.txt", b"one\ntwo.png\n\none\nfour\n")
    put(tmp_path / "list" / "val.txt", b"two\nnine.tif\n")
    put(tmp_path / "list" / "test.txt", b"\n \n")
    data = find_pairs(tmp_path)
    assert [(pair.name, pair.split) for pair in data.pairs] == [("one", "train"), ("two", "train")]
    assert data.notes == ("1 of the pairs are in no list and left out",)
    missing, empty, twice, both, absent = faults_of(data)
    assert "four.png: missing partner" in missing
    assert "test.txt: empty list" in empty
    assert "train.txt: line 4: one is on line 1 already" in twice
    assert "val.txt: line 1: pair listed in two splits, two is in train.txt too" in both
    assert "val.txt: line 2: no files of the name nine.tif" in absent


def test_some_lists_only_and_none(tmp_path: Path):
    put_pairs(tmp_path, ["one", "two"])
    (tmp_path / "list").mkdir()
    data = find_pairs(tmp_path)
    assert list(data.splits) == ["all"]
    assert "no train.txt" in data.notes[0]
    put(tmp_path / "list" / "val.txt", "\ufefftwo".encode())
    data = find_pairs(tmp_path)
    assert {split: [pair.name for pair in pairs] for split, pairs in data.splits.items()} == {"val": ["two"]}
    assert "val.txt" in data.layout


def test_one_name_in_two_split_folders_is_a_fault_only_for_the_same_bytes(tmp_path: Path):
    put_pairs(tmp_path / "train", ["0001", "0002", "0003"])
    put_pairs(tmp_path / "test", ["0001", "0002"])
    for folder in ("A", "B"):
        put(tmp_path / "test" / folder / "0002.png", (tmp_path / "train" / folder / "0002.png").read_bytes())
    # One equal image of two is no pair in two splits: a template serves many boards.
    put(tmp_path / "test" / "A" / "0001.png", (tmp_path / "train" / "A" / "0001.png").read_bytes())
    data = find_pairs(tmp_path)
    (fault,) = faults_of(data)
    assert fault.startswith(f"{tmp_path}/test/B/0002.png: pair listed in two splits: {tmp_path}/train/B/0002.png")
    assert len(data.pairs) == 5


def test_csv_faults_each_on_its_line(tmp_path: Path):
    put_pairs(tmp_path, ["one", "two"])
    rows = [
        "Before, After ,mask,split,weather",
        "A/one.png,B/one.png,label/one.png,train,sun",
        "A/two.png,B/two.png,,train,rain",
        "A/two.png,B/nine.png,label/two.png,val,",
        "A/one.png,B/./one.png,label/one.png,val,",
        "A/two.png,B/two.txt,label/two.png,val,",
        "A/two.png,B/two.png,label/two.png,,",
        "A/two.png,B/two.png,label/two.png,validation,",
        "A/one.png,B/one.png,label/one.png,train,",
    ]
    data = find_pairs(put(tmp_path / "pairs.csv", "\n".join(rows).encode()))
    assert [(pair.name, pair.split) for pair in data.pairs] == [("one", "train")]
    told = [fault.split(": ", 1)[1] for fault in faults_of(data)]
    expected = [
        "line 3: no mask",
        "line 4: missing partner: after B/nine.png",
        "line 5: pair listed in two splits, see",
    ]
    expected += ["line 6: after B/two.txt is not an image", "line 7: split (empty)", "line 8: split validation"]
    expected += ["line 9: the same pair as line 2"]
    assert len(told) == len(expected)
    for line, beginning in zip(told, expected, strict=True):
        assert line.startswith(beginning)


def test_csv_names_grow_until_they_differ(tmp_path: Path):
    for path in ("t0/x.png", "t1/x.png", "t2/x.png", "t2/y.png", "m.png"):
        put(tmp_path / path)
    rows = ["before,after,mask", "t0/x.png,t1/x.png,m.png", "t0/x.png,t2/x.png,m.png", "t1/x.png,t2/x.png,m.png"]
    data = find_pairs(put(tmp_path / "pairs.csv", "\n".join([*rows, "t0/x.png,t2/y.png,m.png"]).encode()))
    assert data.faults == ()
    assert {pair.name: (pair.before.parent.name, pair.after.parent.name) for pair in data.pairs} == {
        "t1_x": ("t0", "t1"),
        "t0_x_t2_x": ("t0", "t2"),
        "t1_x_t2_x": ("t1", "t2"),
        "y": ("t0", "t2"),
    }


def test_csv_without_rows_columns_or_utf8(tmp_path: Path):
    (fault,) = faults_of(find_pairs(put(tmp_path / "a.csv", b"before,after,mask\n")))
    assert "no rows" in fault
    with pytest.raises(DataError, match=r"a\.csv: no column after, mask among before, image"):
        find_pairs(put(tmp_path / "a.csv", b"before,image\n"))
    with pytest.raises(DataError, match="not UTF-8"):
        find_pairs(put(tmp_path / "a.csv", b"before,after,mask\n\xff\xfe,a,b"))


def test_what_is_no_data_set_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        find_pairs(tmp_path / "absent")
    with pytest.raises(DataError, match=r"x\.png: a file that is no data set"):
        find_pairs(put(tmp_path / "x.png"))
    put(tmp_path / "images" / "x.png")
    with pytest.raises(DataError, match=r"no known layout, found images/, x\.png; allowed: .*CSV") as caught:
        find_pairs(tmp_path)
    assert "\n" not in str(caught.value)


def test_doubtful_layouts_are_refused_not_guessed(tmp_path: Path):
    put_pairs(tmp_path / "unlabelled", ["one"])
    (tmp_path / "unlabelled" / "label").rename(tmp_path / "unlabelled" / "masks")
    with pytest.raises(DataError, match="images in A/B but no masks in label or OUT; masks are needed"):
        find_pairs(tmp_path / "unlabelled")
    put_pairs(tmp_path / "two", ["one"])
    put(tmp_path / "two" / "OUT" / "one.png")
    with pytest.raises(DataError, match="A/B/label and A/B/OUT"):
        find_pairs(tmp_path / "two")
    put_pairs(tmp_path / "both", ["one"])
    put_pairs(tmp_path / "both" / "val", ["one"])
    with pytest.raises(DataError, match="both in A/B/label and in val"):
        find_pairs(tmp_path / "both")
    put_pairs(tmp_path / "case", ["one"], ("A", "B", "Label"))
    put(tmp_path / "case" / "LABEL" / "one.png")
    with pytest.raises(DataError, match="either could be meant by label"):
        find_pairs(tmp_path / "case")


def test_match_two_files_and_two_folders(tmp_path: Path):
    before, after = put(tmp_path / "2019" / "x.png"), put(tmp_path / "2024" / "y.TIF")
    (pair,) = match_pairs(before, after).pairs
    assert (pair.name, pair.before, pair.after, pair.mask, pair.split) == ("y", before, after, None, "all")
    put(tmp_path / "2019" / "y.jpg")
    data = match_pairs(tmp_path / "2019", tmp_path / "2024")
    assert [(pair.name, pair.before.name) for pair in data.pairs] == [("y", "y.jpg")]
    (fault,) = faults_of(data)
    assert fault.startswith(f"{before}: missing partner: no after image x.* in {tmp_path}/2024")


def test_match_refuses_what_is_no_pair(tmp_path: Path):
    image, text = put(tmp_path / "a" / "x.png"), put(tmp_path / "x.txt")
    with pytest.raises(DataError, match="give two files or two folders"):
        match_pairs(image, tmp_path / "a")
    with pytest.raises(DataError, match="no such file or folder"):
        match_pairs(image, tmp_path / "absent.png")
    with pytest.raises(DataError, match=r"x\.txt: not an image"):
        match_pairs(image, text)
    (tmp_path / "b").mkdir()
    (fault,) = match_pairs(tmp_path / "a", tmp_path / "b").faults
    assert fault.path == tmp_path / "b"


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Within it this user, root too, may not read the folder."""
    own = os.geteuid()
    folder.chmod(0)
    try:
        if own == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(own)
        folder.chmod(0o700)


@pytest.mark.parametrize("inner", ["", "B", "list"])
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path: Path, inner: str):
    put_pairs(tmp_path, ["one", "two"])
    put(tmp_path / "list" / "train.txt", b"one\n")
    words = r"^\S+: cannot be read \(Permission denied\); mend it or its permissions$"
    with unreadable(tmp_path / inner), pytest.raises(DataError, match=words):
        find_pairs(tmp_path)
    assert find_pairs(tmp_path).faults == ()


def test_a_link_to_itself_is_one_line(tmp_path: Path):
    put_pairs(tmp_path, ["one", "two"])
    link = tmp_path / "A" / "one.png"
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(DataError) as caught:
        find_pairs(tmp_path)
    assert str(caught.value).startswith(f"{link}: cannot be read (")
