"""Find the pairs of a data set on disk: folders, folders with lists, split folders, a CSV file, or packed shards.

Only names are looked at here (and, where one name stands in two split folders, the bytes of those files). What the
files hold is the business of `decoding` and `validation`.
"""

import csv
import filecmp
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from data_pipelines.shards import INDEX, SUFFIX, ShardError, is_packed_set, read_index

SPLITS = ("train", "val", "test")
"""The splits a data set may have; a data set without splits is the one split "all"."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Files with these endings, in upper or lower case, are images; every other file is left alone."""

FOLDER_NAMES = (
    ("A", "B", "label"),
    ("A", "B", "OUT"),
    ("before", "after", "mask"),
    ("pre", "post", "label"),
    ("T1", "T2", "GT"),
    ("time1", "time2", "label"),
    ("im1", "im2", "label"),
    ("Image1", "Image2", "label"),
)
"""The names that the folders of before, after and mask go by, in upper or lower case."""

_ALLOWED = (
    f"DATA/{{A,B,label}} (or {', '.join('/'.join(names) for names in FOLDER_NAMES[1:])}) with optional "
    "DATA/list/{train,val,test}.txt; DATA/{train,val,test}/{A,B,label}; "
    "a CSV file with columns before,after,mask[,split]; a folder that segdiff pack made"
)
_ENDINGS = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)


class DataError(ValueError):
    """Data that cannot be used. The message is one line that names the file, what is wrong and the mend."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong with one file or folder; `str` gives the line to show."""

    path: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class Pair:
    """Two images of the same place, the mask of what changed (None where it is to be predicted) and true boxes if any.

    `name` is unique within a split.
    """

    name: str
    before: Path
    after: Path
    mask: Path | None
    split: str
    boxes: Path | None = None


@dataclass(frozen=True)
class DataSet:
    """The complete pairs of a data set in order of split and name, and every fault met while looking for them.

    `layout` says in words what was recognised; `notes` are remarks that are no faults.
    """

    root: Path
    layout: str
    pairs: tuple[Pair, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, list[Pair]]:
        """The pairs of every split that has any, in the order train, val, test, all."""
        by_split = {split: [pair for pair in self.pairs if pair.split == split] for split in (*SPLITS, "all")}
        return {split: pairs for split, pairs in by_split.items() if pairs}


def find_pairs(root: Path) -> DataSet:
    """Find the labelled pairs of `root`, a data folder, packed or not, or a CSV file, in any layout that segdiff knows.

    Faults of single files do not stop the search: they are collected in the result. DataError is raised where there is
    nothing to search: `root` is missing, shows no known layout or more than one, has no masks, or may not be read.
    """
    try:
        return _find_pairs(Path(root))
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: cannot be read ({error.strerror or error}); mend it or its permissions"
        ) from error


def _find_pairs(root: Path) -> DataSet:
    if root.is_file():
        if root.suffix.lower() != ".csv":
            raise DataError(f"{root}: a file that is no data set; allowed: {_ALLOWED}")
        return _from_csv(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder or CSV file")
    if is_packed_set(root):
        return _from_shards(root)

    split_folders = {split: folder for split in SPLITS if (folder := _subfolder(root, split))}
    direct, direct_unlabelled = _role_folders(root)
    split_roles = {split: _role_folders(folder) for split, folder in split_folders.items()}
    labelled_splits = [split for split, (labelled, _) in split_roles.items() if labelled]
    if direct and labelled_splits:
        raise DataError(
            f"{root}: pairs both in {_role_names(direct[0])} and in {', '.join(labelled_splits)}; "
            "keep one of them, or give the split folder itself"
        )
    if direct:
        return _from_folders(root, _only(root, direct))
    if labelled_splits:
        return _from_split_folders(root, split_folders)
    if direct_unlabelled:
        raise DataError(_masks_needed(root, direct_unlabelled))
    if unlabelled := [split for split, (_, without) in split_roles.items() if without]:
        raise DataError(_masks_needed(split_folders[unlabelled[0]], split_roles[unlabelled[0]][1]))
    if any(entry.suffix == SUFFIX for entry in root.iterdir()):
        raise DataError(f"{root}: shards without their index {INDEX}; copy that too, or pack the data anew")
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not entry.name.startswith("."))
    found = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    raise DataError(f"{root}: no known layout, found {found or 'nothing'}; allowed: {_ALLOWED}")


def match_pairs(before: Path, after: Path) -> DataSet:
    """Pair images without masks, to predict: two files (the pair is named after `after`) or two folders by stem.

    Images of a folder without a partner are faults of the result; the matched ones are its pairs, split "all".
    DataError is raised where a path is missing, a file is no image, or a file meets a folder.
    """
    before, after = Path(before), Path(after)
    if pair := pair_of_files(before, after):
        return DataSet(after, "two files", (pair,), ())
    complete, _, faults = _join(after, {"before image": before, "after image": after})
    pairs = (Pair(name, files[0], files[1], None, "all") for name, files in complete.items())
    return DataSet(after, "two folders", tuple(pairs), tuple(sorted(faults)))


def pair_of_files(before: Path, after: Path) -> Pair | None:
    """The pair of two image files; None where both are folders. DataError as of `match_pairs`."""
    for path in (before, after):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    if before.is_dir() != after.is_dir():
        folder, file = (before, after) if before.is_dir() else (after, before)
        raise DataError(f"{folder} is a folder and {file} a file: give two files or two folders")
    if before.is_dir():
        return None
    for path in (before, after):
        if not is_image(path.name):
            raise DataError(f"{path}: not an image by its ending; allowed: {_ENDINGS}")
    return Pair(after.stem, before, after, None, "all")


# ----------------------------------------------------------------------------------------------------- shards


def _from_shards(root: Path) -> DataSet:
    try:
        index = read_index(root)
    except ShardError as error:
        raise DataError(f"{root / INDEX}: {error}") from error
    broken = index.broken(root)
    faults = tuple(sorted(Fault(root / shard, problem) for shard, problem in broken.items()))
    pairs = []
    for record in index.records:
        if record.shard not in broken:
            before, after, mask, boxes = (record.file(root, role) for role in ("before", "after", "mask", "boxes"))
            assert before is not None, "the index is read with it"
            assert after is not None, "the index is read with it"
            pairs.append(Pair(record.name, before, after, mask, record.split, boxes))
    return DataSet(
        root, f"{len(index.shards)} shard{'s' * (len(index.shards) > 1)} of {index.layout}", tuple(pairs), faults
    )


# ---------------------------------------------------------------------------------------------------- folders


def _from_folders(root: Path, roles: dict[str, Path]) -> DataSet:
    pairs, known, faults = labelled_pairs(root, roles, "all")
    layout = _role_names(roles)
    notes = _left_alone(root, {*roles.values(), _subfolder(root, "list"), _subfolder(root, "boxes")})
    if list_folder := _subfolder(root, "list"):
        lists = {split: path for split in SPLITS if (path := _named(list_folder, f"{split}.txt"))}
        if lists:
            layout += f" with {list_folder.name}/{{{','.join(path.name for path in lists.values())}}}"
            pairs, list_faults, unlisted = _divide(pairs, known, lists)
            faults += list_faults
            if unlisted:
                notes.append(f"{unlisted} of the pairs are in no list and left out")
        else:
            notes.append(f"{list_folder} holds no train.txt, val.txt or test.txt: the pairs are one split")
    return DataSet(root, layout, tuple(pairs), tuple(sorted(set(faults))), tuple(notes))


def _from_split_folders(root: Path, split_folders: dict[str, Path]) -> DataSet:
    pairs: list[Pair] = []
    faults: list[Fault] = []
    notes = _left_alone(root, set(split_folders.values()))
    layouts: dict[str, list[str]] = {}
    for split, folder in split_folders.items():
        labelled, unlabelled = _role_folders(folder)
        if labelled:
            roles = _only(folder, labelled)
            split_pairs, _, split_faults = labelled_pairs(folder, roles, split)
            pairs += split_pairs
            faults += split_faults
            notes += _left_alone(folder, {*roles.values(), _subfolder(folder, "boxes")})
            layouts.setdefault(_role_names(roles), []).append(folder.name)
        elif unlabelled:
            faults.append(Fault(folder, _masks_needed(folder, unlabelled).removeprefix(f"{folder}: ")))
        else:
            faults.append(Fault(folder, "empty split: no folders A, B and label in it; fill it or remove it"))
    for one, other in _in_two_splits(pairs):
        faults.append(Fault(other.after, f"pair listed in two splits: {one.after} and its partner are the same files"))
    layout = ", ".join(f"{{{','.join(folders)}}}/{{{names.replace('/', ',')}}}" for names, folders in layouts.items())
    return DataSet(root, layout, tuple(pairs), tuple(sorted(set(faults))), tuple(notes))


def _in_two_splits(pairs: list[Pair]) -> list[tuple[Pair, Pair]]:
    """Pairs of one name in two splits that are the same bytes: tiles numbered anew in each split are not."""
    by_name: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_name.setdefault(pair.name, []).append(pair)
    return [
        (one, other)
        for same_name in by_name.values()
        for one, other in combinations(same_name, 2)
        if filecmp.cmp(one.before, other.before, shallow=False) and filecmp.cmp(one.after, other.after, shallow=False)
    ]


def labelled_pairs(parent: Path, roles: dict[str, Path], split: str) -> tuple[list[Pair], set[str], list[Fault]]:
    """Join the folders "before image", "after image" and "mask" in `parent` by stem: pairs, all names, the faults."""
    complete, known, faults = _join(parent, roles)
    boxes: dict[str, Path] = {}
    if folder := _subfolder(parent, "boxes"):
        boxes = {path.stem: path for path in folder.iterdir() if path.suffix.lower() == ".csv"}
    pairs = [
        Pair(name, before, after, mask, split, boxes.get(name)) for name, (before, after, mask) in complete.items()
    ]
    return pairs, known, faults


def _join(parent: Path, roles: dict[str, Path]) -> tuple[dict[str, tuple[Path, ...]], set[str], list[Fault]]:
    """Join the folders of the roles by stem: name -> its files in the order of the roles, all names, the faults."""
    faults: list[Fault] = []
    files: dict[str, dict[str, Path]] = {}
    doubtful: set[str] = set()
    for role, folder in roles.items():
        files[role] = {}
        for path in _images(folder):
            first = files[role].setdefault(path.stem, path)
            if first != path:
                doubtful.add(path.stem)
                faults.append(two_of_one_name(path, first))
    known = {name for by_name in files.values() for name in by_name}

    if empty := [folder for role, folder in roles.items() if not files[role]]:
        # Said once, not once more for every file in the folders that are not empty.
        return {}, known, faults + empty_folders(parent, roles, empty, len(known))

    complete: dict[str, tuple[Path, ...]] = {}
    for name in sorted(known):
        present = [files[role][name] for role in roles if name in files[role]]
        missing = {role: folder for role, folder in roles.items() if name not in files[role]}
        if missing:
            faults.append(no_partner(present[0], missing))
        elif name not in doubtful:
            complete[name] = tuple(present)
    return complete, known, faults


def two_of_one_name(path: Path, first: Path) -> Fault:
    """`first` comes first."""
    return Fault(path, f"two files of one name: {first.name} stands beside it; keep one of them")


def no_partner(path: Path, missing: dict[str, Path]) -> Fault:
    """`missing` are the roles that lack it, and their folders."""
    partners = [f"{role} {path.stem}.* in {folder}" for role, folder in missing.items()]
    return Fault(path, f"missing partner: no {' and no '.join(partners)}; add it or remove this file")


def empty_folders(parent: Path, roles: dict[str, Path], empty: list[Path], names: int) -> list[Fault]:
    """`empty` are those of the roles' folders that hold no image; in the others are images of so many `names`."""
    if len(empty) == len(roles):
        folders = ", ".join(folder.name for folder in empty)
        return [Fault(parent, f"empty: no images ({_ENDINGS}) in {folders}; fill it or remove it")]
    return [Fault(folder, f"empty: no images ({_ENDINGS}), but {names} beside it") for folder in empty]


def _divide(pairs: list[Pair], known: set[str], lists: dict[str, Path]) -> tuple[list[Pair], list[Fault], int]:
    """Give every listed pair its split: the listed pairs, the faults of the lists, the number of unlisted pairs."""
    by_name = {pair.name: pair for pair in pairs}
    listed: dict[str, tuple[str, int]] = {}
    faults: list[Fault] = []
    for split, path in lists.items():
        lines = [(number, line.strip()) for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
        if not lines:
            faults.append(Fault(path, "empty list: name a pair on each line, or remove the file"))
        for number, line in lines:
            # Most published lists name files, some name stems; a stem may hold a dot itself.
            name = line if line in known or not is_image(line) else Path(line).stem
            if name not in known:
                faults.append(Fault(path, f"line {number}: no files of the name {line}; correct or remove the line"))
            elif name not in listed:
                listed[name] = (split, number)
            elif listed[name][0] == split:
                faults.append(Fault(path, f"line {number}: {name} is on line {listed[name][1]} already; remove one"))
            else:
                other = lists[listed[name][0]]
                faults.append(
                    Fault(path, f"line {number}: pair listed in two splits, {name} is in {other.name} too; remove one")
                )
    divided = [
        replace(by_name[name], split=split)
        for name, (split, _) in sorted(listed.items(), key=lambda item: (SPLITS.index(item[1][0]), item[0]))
        if name in by_name
    ]
    return divided, faults, sum(name not in listed for name in by_name)


def _role_folders(parent: Path) -> tuple[list[dict[str, Path]], list[dict[str, Path]]]:
    """The sets of before, after and mask folders in `parent`, and the sets that lack the mask folder."""
    labelled: list[dict[str, Path]] = []
    unlabelled: list[dict[str, Path]] = []
    for before_name, after_name, mask_name in FOLDER_NAMES:
        before, after, mask = (_subfolder(parent, name) for name in (before_name, after_name, mask_name))
        if before and after and mask:
            labelled.append({"before image": before, "after image": after, "mask": mask})
        elif before and after:
            unlabelled.append({"before image": before, "after image": after})
    return labelled, unlabelled


def _only(parent: Path, labelled: list[dict[str, Path]]) -> dict[str, Path]:
    if len(labelled) > 1:
        names = " and ".join(_role_names(roles) for roles in labelled)
        raise DataError(f"{parent}: holds {names}, which could each be the data set; keep one of them")
    return labelled[0]


def _role_names(roles: dict[str, Path]) -> str:
    return "/".join(folder.name for folder in roles.values())


def _masks_needed(parent: Path, unlabelled: list[dict[str, Path]]) -> str:
    names = _role_names(unlabelled[0])
    pair = tuple(name.lower() for name in names.split("/"))
    masks = [mask for before, after, mask in FOLDER_NAMES if (before.lower(), after.lower()) == pair]
    return (
        f"{parent}: images in {names} but no masks in {' or '.join(masks)}; "
        "masks are needed to check, train and evaluate"
    )


def _left_alone(parent: Path, used: set[Path | None]) -> list[str]:
    others = sorted(folder.name for folder in _subfolders(parent) if folder not in used)
    return [f"folders in {parent} that are left alone: {', '.join(others)}"] if others else []


def _subfolders(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _subfolder(parent: Path, name: str) -> Path | None:
    return _choose(_subfolders(parent), name)


def _named(folder: Path, name: str) -> Path | None:
    return _choose((entry for entry in folder.iterdir() if entry.is_file()), name)


def _choose(entries: Iterable[Path], name: str) -> Path | None:
    """The entry called `name`; without one, the only entry that differs from it in upper and lower case alone."""
    alike = sorted(entry for entry in entries if entry.name.lower() == name.lower())
    chosen = [entry for entry in alike if entry.name == name] or alike
    if len(chosen) > 1:
        raise DataError(
            f"{alike[0]}: {alike[1].name} stands beside it, either could be meant by {name}; keep one of them"
        )
    return chosen[0] if chosen else None


def _images(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        # A broken link is no file but is kept: reading it will say what is wrong.
        return sorted(folder / entry.name for entry in entries if is_image(entry.name) and not entry.is_dir())


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    stem, dot, suffix = name.rpartition(".")  # a million names are asked for: no Path of each
    return bool(stem) and not name.startswith(".") and f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES


# -------------------------------------------------------------------------------------------------------- CSV


@dataclass(frozen=True)
class _Row:
    line: int
    before: str
    after: str
    mask: str
    split: str

    def names(self) -> tuple[str, str, str]:
        """What the pair may be called, shortest first."""
        before, after = (
            Path(path).with_suffix("").as_posix().strip("/.").replace("/", "_") for path in (self.before, self.after)
        )
        return Path(self.after).stem, after, f"{before}_{after}"


def _from_csv(path: Path) -> DataSet:
    reader = csv.DictReader(_text(path).splitlines(), skipinitialspace=True, restval="")
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    if absent := [name for name in ("before", "after", "mask") if name not in columns]:
        raise DataError(
            f"{path}: no column {', '.join(absent)} among {', '.join(columns) or 'none'}; "
            "the first line names the columns: before,after,mask[,split]"
        )
    rows = [
        _Row(reader.line_num, *(cells[columns[name]].strip() if name in columns else "" for name in _CSV_COLUMNS))
        for cells in reader
    ]
    faults: list[Fault] = []
    if not rows:
        faults.append(Fault(path, "no rows: name a pair on each line below the columns"))
    has_splits = any(row.split for row in rows)

    kept: list[_Row] = []
    first: dict[tuple[str, str], _Row] = {}
    for row in rows:
        problems = _row_problems(path.parent, row, has_splits)
        key = (os.path.normpath(row.before), os.path.normpath(row.after))
        earlier = first.setdefault(key, row)
        if not problems and earlier is not row:
            same = earlier.split.lower() == row.split.lower()
            what = "the same pair as" if same else "pair listed in two splits, see also"
            problems = [f"{what} line {earlier.line}; remove one"]
        faults += [Fault(path, f"line {row.line}: {problem}") for problem in problems]
        if not problems:
            kept.append(row)

    pairs = [
        Pair(
            name, path.parent / row.before, path.parent / row.after, path.parent / row.mask, row.split.lower() or "all"
        )
        for row, name in zip(kept, _row_names(path, kept), strict=True)
    ]
    pairs.sort(key=lambda pair: ((*SPLITS, "all").index(pair.split), pair.name))
    return DataSet(path, "CSV", tuple(pairs), tuple(sorted(set(faults))))


_CSV_COLUMNS = ("before", "after", "mask", "split")


def _row_problems(folder: Path, row: _Row, has_splits: bool) -> list[str]:
    problems = []
    for column in ("before", "after", "mask"):
        value = getattr(row, column)
        if not value:
            problems.append(f"no {column}; name its file")
        elif not is_image(Path(value).name):
            problems.append(f"{column} {value} is not an image by its ending; allowed: {_ENDINGS}")
        elif not (folder / value).is_file():
            problems.append(f"missing partner: {column} {value} is not in {folder}")
    if has_splits and row.split.lower() not in SPLITS:
        problems.append(f"split {row.split or '(empty)'}; allowed: {', '.join(SPLITS)}")
    return problems


def _row_names(path: Path, rows: list[_Row]) -> list[str]:
    """Name every row by the stem of its after image, or longer where that would name two rows alike."""
    lengths = [0] * len(rows)
    while True:
        names = [row.names()[length] for row, length in zip(rows, lengths, strict=True)]
        count = Counter(names)
        clashing = [index for index, name in enumerate(names) if count[name] > 1]
        longer = [index for index in clashing if lengths[index] < 2]
        if not clashing:
            return names
        if not longer:
            row, name = rows[clashing[0]], names[clashing[0]]
            raise DataError(f"{path}: line {row.line}: {row.after} would be named {name} like another; rename it")
        for index in longer:
            lengths[index] += 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
