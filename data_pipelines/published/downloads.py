"""Find a data set in the folder that it was downloaded to: archives unpack into one folder more or less."""

from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.layouts import SPLITS, DataError, Fault, Pair, find_pairs, labelled_pairs

_DEEPEST = 3
"""Levels of folders below the given one in which a data set is looked for."""


def find_base(src: Path, name: str, wanted: str, holds: Callable[[Path], bool]) -> Path:
    """The first folder that `holds` the data set: `src`, else one of those below it, the nearest first.

    DataError says what was looked for (`wanted`, in words) and what is there.
    """
    level = [src]
    for _ in range(_DEEPEST + 1):
        for folder in level:
            if holds(folder):
                return folder
        level = [below for folder in level for below in subfolders(folder)]
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in src.iterdir() if not entry.name.startswith("."))
    found = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    packed = next((entry for entry in entries if entry.lower().endswith((".zip", ".rar", ".7z", ".tar", ".gz"))), None)
    if packed:
        mend = f"unpack {packed}"
    elif _is_laid_out(src):
        mend = f"as it lies it needs no prepare, train with --set data.root={src}"
    else:
        mend = "give the folder that holds it"
    raise DataError(f"{src}: no {name} as downloaded: looked for {wanted}, found {found or 'nothing'}; {mend}")


def _is_laid_out(src: Path) -> bool:
    """Whether training would take the pairs of `src` as they are: others have cut copies into tiles."""
    try:
        return bool(find_pairs(src).pairs)
    except DataError:
        return False


def subfolders(folder: Path) -> list[Path]:
    """In the order of their names, without hidden ones and what macOS adds to archives."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != "__MACOSX"
    )


def descend(folder: Path, *names: str) -> Path | None:
    """The file or folder below by these names one after the other, in upper or lower case; None where there is none."""
    for name in names:
        exact = folder / name
        alike = () if exact.exists() or not folder.is_dir() else sorted(folder.iterdir())
        found = next((entry for entry in alike if entry.name.lower() == name.lower()), exact)
        if not found.exists():
            return None
        folder = found
    return folder


def split_folders(base: Path, roles: tuple[str, str, str]) -> dict[str, dict[str, Path]]:
    """Of the splits that `base` has: their folders of before, after and mask, which `roles` names.

    An archive unpacked into a folder of its own name, as train/train, counts as that folder.
    """
    found = {}
    for split in SPLITS:
        for names in ((split,), (split, split)):
            folders = [descend(base, *names, role) for role in roles]
            if all(folder is not None and folder.is_dir() for folder in folders):
                found[split] = dict(zip(("before image", "after image", "mask"), folders, strict=True))
                break
    return found  # type: ignore[return-value]  # none of them is None


def complete_splits(base: Path, roles: tuple[str, str, str]) -> dict[str, dict[str, Path]]:
    """What `split_folders` finds; DataError of a split that is there in part."""
    found = split_folders(base, roles)
    for split in SPLITS:
        folder = descend(base, split, split) or descend(base, split)
        there = [role for role in roles if folder and descend(folder, role)]
        if split not in found and there:
            missing = [role for role in roles if role not in there]
            raise DataError(f"{folder}: has {', '.join(there)} and no {' and no '.join(missing)}; download it again")
    return found


def pairs_of(folders: dict[str, dict[str, Path]]) -> Iterator[Pair]:
    """The pairs of all splits that `split_folders` found; DataError where an image or a mask lacks its partners."""
    for split, roles in folders.items():
        pairs, _, faults = labelled_pairs(roles["mask"].parent, roles, split)
        require_no(faults)
        yield from pairs


def require_no(faults: list[Fault]) -> None:
    """DataError of the first fault, with how many more there are."""
    if faults:
        more = f" (and {len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise DataError(f"{sorted(faults)[0]}{more}")
