"""The index of pairs finds what match_pairs finds, in parts that make up the whole, with memory that does not grow."""

import os
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import pair_index
from data_pipelines.layouts import DataError, Pair, match_pairs
from data_pipelines.pair_index import PairIndex, Part, Unpaired

FILES = st.sets(
    st.sampled_from(
        [f"{stem}{suffix}" for stem in ("a", "b.c", "é", "z 東") for suffix in (".png", ".TIF", ".jpg", ".txt", "")]
    )
)


def fill(folder: Path, names) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


def found(before: Path, after: Path, part: Part | None = None) -> tuple[list[Pair], list[Unpaired]]:
    with PairIndex(before, after, part) as index:
        pairs, unpaired = list(index.pairs()), list(index.unpaired())
        assert len(index) == len(pairs) + len(unpaired)
    return pairs, unpaired


@settings(max_examples=60)
@given(before=FILES, after=FILES)
def test_it_finds_what_match_pairs_finds(tmp_path_factory, before, after):
    root = tmp_path_factory.mktemp("pairs")
    folders = fill(root / "vor", before), fill(root / "nach", after)
    expected = match_pairs(*folders)
    if any(fault.path.is_dir() for fault in expected.faults):
        with pytest.raises(DataError) as refused:
            found(*folders)
        for fault in expected.faults:
            assert fault.problem.split(",")[0] in str(refused.value) or not fault.path.is_dir()
        return
    pairs, unpaired = found(*folders)
    assert pairs == list(expected.pairs)
    problems: dict[str, set[str]] = {}
    for fault in expected.faults:
        problems.setdefault(fault.path.stem, set()).add(str(fault))
    assert {item.name: set(item.problem.split("; ")) for item in unpaired} == {
        # a mend may hold a semicolon itself
        name: {part for problem in of_name for part in problem.split("; ")}
        for name, of_name in problems.items()
    }
    thirds = [found(*folders, Part(number, 3)) for number in (1, 2, 3)]
    assert sorted(pair.name for some, _ in thirds for pair in some) == [pair.name for pair in pairs]
    assert sorted(item.name for _, some in thirds for item in some) == sorted(problems)


def test_two_files_are_one_pair(tmp_path):
    for name in ("x.png", "y.png"):
        (tmp_path / name).touch()
    pairs, unpaired = found(tmp_path / "x.png", tmp_path / "y.png")
    assert (pairs, unpaired) == ([Pair("y", tmp_path / "x.png", tmp_path / "y.png", None, "all")], [])
    assert sum(len(found(tmp_path / "x.png", tmp_path / "y.png", Part(number, 2))[0]) for number in (1, 2)) == 1
    with pytest.raises(DataError, match=r"is a folder and .* a file"):
        PairIndex(tmp_path, tmp_path / "x.png")


def test_a_part_depends_on_the_name_alone():
    names = [f"tile {number}" for number in range(1000)]
    parts = [Part(number, 4) for number in (1, 2, 3, 4)]
    assert all([part.holds(name) for part in parts].count(True) == 1 for name in names)
    # the checksum of zip files (ISO 3309): of "123456789" it is 0xCBF43926 = 3421780262
    assert [part.number for part in parts if part.holds("123456789")] == [3421780262 % 4 + 1]
    assert all(200 < sum(map(part.holds, names)) < 300 for part in parts)


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "-1/2", "1/0", "1/2/3", "a/b", "1.5/2", " 1/2"])
def test_what_is_no_part_is_said(text):
    with pytest.raises(ValueError, match=r"i/n with i from 1 to n"):
        Part.parse(text)


def test_a_part_reads_as_it_is_written():
    assert (Part.parse("2/8"), str(Part(2, 8))) == (Part(2, 8), "2/8")


def test_a_name_that_is_no_text_is_a_fault_of_that_pair(tmp_path):
    name = os.fsdecode(b"\xff\xfe")
    folders = fill(tmp_path / "a", [f"{name}.png", "x.png"]), fill(tmp_path / "b", [f"{name}.png", "x.png"])
    pairs, unpaired = found(*folders)
    assert [pair.name for pair in pairs] == ["x"]
    assert [item.name for item in unpaired] == [r"\xff\xfe"]
    assert "UTF-8" in unpaired[0].problem
    unpaired[0].problem.encode()


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    folders = fill(tmp_path / "a", ["x.png"]), fill(tmp_path / "b", ["x.png"])

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pair_index.os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"^{folders[0]}: cannot be listed: Permission denied; .*chmod"):
        PairIndex(*folders)


class Entry:
    """What a folder of names lists, without the files."""

    def __init__(self, name: str):
        self.name = name

    def is_dir(self) -> bool:
        return False


class Listing:
    def __init__(self, count: int):
        self._names = (Entry(f"tile_{number * 7919 % count:08d}.png") for number in range(count))

    def __enter__(self):
        return self._names

    def __exit__(self, *exception):
        pass


def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path, monkeypatch):
    count = 40_000
    folders = fill(tmp_path / "a", []), fill(tmp_path / "b", [])
    monkeypatch.setattr(pair_index.os, "scandir", lambda folder: Listing(count))
    tracemalloc.start()
    try:
        with PairIndex(*folders) as index:
            assert len(index) == count
            for names, pair in enumerate(islice(index.pairs(), 3000), start=1):
                assert pair.name == f"tile_{names - 1:08d}"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # a list of 80,000 names takes 6.5 MB; 3.9 MB are the interpreter's own table of strings, whatever their number
    assert peak < 5_000_000
