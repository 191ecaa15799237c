"""Folders that appear whole or not at all.

What is to appear is written into a hidden folder beside it that holds a lock. The system lets go of a lock when its
process ends, however it ends: that tells what a killed process left from what another is still writing.
"""

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_ENDING = "unfinished"
_NEW, _OLD, _LOCK = "new", "old", "lock"
"""What a hidden folder holds: what is being written, what that replaces, and the lock."""


@contextmanager
def new_folder(folder: Path, *, replace: bool = False, alone: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `folder`; rename it to `folder` at the end, or remove it where an error came up.

    Where `folder` is there and holds something, it is replaced, or else it stays and what was written is dropped. With
    `alone` that is a FileExistsError, and so is another process that is writing to `folder` in this way.

    What killed processes left beside `folder` is removed first. On Windows and on file systems without locks nobody can
    tell who has been killed, and it stays. OSError where something cannot be written or removed.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in unfinished_beside(folder):
        _remove_dead(path, folder)
    temporary, lock = _claim(folder, alone)
    try:
        if alone and not replace:
            _require_empty(folder)
        unfinished = temporary / _NEW
        unfinished.mkdir()
        yield unfinished
        if replace and folder.exists():
            folder.rename(temporary / _OLD)
        if alone:
            _require_empty(folder)
        if not _holds_something(folder):
            unfinished.rename(folder)
    finally:
        _remove(temporary, lock, folder)


def unfinished_beside(folder: Path) -> list[Path]:
    """The hidden folders in which `new_folder` writes, or wrote when it was killed, what is to appear as `folder`."""
    ours = re.compile(rf"\.{re.escape(folder.name)}\.{_ENDING}(-[0-9a-f]{{8}})?")
    return [path for path in folder.parent.iterdir() if ours.fullmatch(path.name)]


def _holds_something(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _require_empty(folder: Path) -> None:
    if _holds_something(folder):
        raise FileExistsError(f"{folder}: something else has filled it meanwhile; look at it, or name another folder")


def _claim(folder: Path, alone: bool) -> tuple[Path, int | None]:
    """A hidden folder of this process, and its lock, which is held as long as this descriptor is open."""
    while True:
        # by chance: processes of other machines may have the same number
        number = "" if alone else f"-{secrets.token_hex(4)}"
        temporary = folder.with_name(f".{folder.name}.{_ENDING}{number}")
        try:
            temporary.mkdir()
        except FileExistsError:
            if not alone or _remove_dead(temporary, folder):
                continue
            raise FileExistsError(
                f"{temporary}: another process is writing to {folder.name}; wait for it, or remove that folder if "
                "there is none"
            ) from None
        if sys.platform == "win32":
            return temporary, None
        try:
            lock = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except (FileNotFoundError, FileExistsError):  # until now it looked like that of a dead process, and was taken
            continue
        try:
            if _lock(lock, temporary / _LOCK):
                return temporary, lock
        except OSError:  # no locks here: others will not touch it either
            return temporary, lock
        os.close(lock)


def _remove_dead(temporary: Path, folder: Path) -> bool:
    """Removes a hidden folder if its process is known to be dead; whether it did."""
    if sys.platform == "win32":
        return False
    try:
        lock = os.open(temporary / _LOCK, os.O_RDWR)
    except FileNotFoundError:  # killed before it had made its lock, or after it had removed it
        with suppress(OSError):  # or it is just about to: then it looks for another
            temporary.rmdir()
        return not temporary.exists()
    except OSError:  # of another user
        return False
    try:
        dead = _lock(lock, temporary / _LOCK)
    except OSError:  # no locks here
        dead = False
    if dead:
        _remove(temporary, lock, folder)
    else:
        os.close(lock)
    return dead


def _lock(descriptor: int, path: Path) -> bool:
    """Whether this process has got the lock of that path; OSError where the file system has no locks."""
    if sys.platform == "win32":
        raise OSError("Windows has other locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    try:
        # before this process had it another may have removed it, and a third made a new one
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove(temporary: Path, lock: int | None, folder: Path) -> None:
    """Removes a hidden folder whose lock is held: the lock last, since what has one can be told for dead."""
    new, old = temporary / _NEW, temporary / _OLD
    if new.exists() and old.exists() and not folder.exists():  # stopped between two renames: what is new is whole
        new.rename(folder)
    for path in (old, new):  # what has no old beside it may be half removed, and never counts as whole
        if path.exists():
            shutil.rmtree(path)
    if lock is not None:
        (temporary / _LOCK).unlink()
        os.close(lock)
    with suppress(OSError):  # others may have removed it since, and made it anew
        temporary.rmdir()
