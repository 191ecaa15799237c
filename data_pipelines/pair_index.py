"""The pairs of two folders of any number of images: what is listed lies on disk, so that memory stays as it is."""

import errno
import os
import re
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from data_pipelines.layouts import DataError, Pair, empty_folders, is_image, no_partner, pair_of_files, two_of_one_name

_CACHE = 16 * 1024
"""KiB that SQLite holds in memory."""

_ROLES = ("before image", "after image")


@dataclass(frozen=True)
class Part:
    """One of ``count`` parts of all pairs, the ``number``-th from 1 on; a pair's part depends on its name alone."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Of ``i/n``. Raises ValueError, in one line, unless i and n are whole numbers with 1 <= i <= n."""
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        part = cls(int(numbers[1]), int(numbers[2])) if numbers else None
        if part is None or not 1 <= part.number <= part.count:
            raise ValueError(f"{text} is no part: write i/n with i from 1 to n, such as 2/8")
        return part

    def holds(self, name: str) -> bool:
        """Whether the pair of that name is in this part."""
        return self.count == 1 or zlib.crc32(os.fsencode(name)) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Unpaired:
    """A name that makes no pair, and why, in one line."""

    name: str
    problem: str


class PairIndex:
    """Pairs images as ``match_pairs`` does, two files or two folders by stem, in the order of their names.

    Those of ``part`` alone. To be closed. Raises DataError where a path is missing or no folder can be
    listed, a file is no image or meets a folder, and where a folder holds no image.
    """

    def __init__(self, before: Path, after: Path, part: Part | None = None):
        before, after = Path(before), Path(after)
        part = part or Part()
        self._folders = (before, after)
        pair = pair_of_files(before, after)
        self._alone = [pair] if pair and part.holds(pair.name) else []
        # "" is a file of SQLite's own in the folder for temporary files; rows are read in whichever thread asks
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            f"PRAGMA cache_size = -{_CACHE}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE file (name BLOB, role INTEGER, suffix BLOB, PRIMARY KEY (name, role, suffix)) WITHOUT ROWID;"
        )
        if pair is None:
            try:
                self._list(after, part)
            except BaseException:
                self.close()
                raise

    def _list(self, parent: Path, part: Part) -> None:
        images = [0, 0]

        def rows(role: int) -> Iterator[tuple[bytes, int, bytes]]:
            for entry in _images(self._folders[role]):
                images[role] += 1
                stem, dot, suffix = entry.rpartition(".")
                if part.holds(stem):
                    yield os.fsencode(stem), role, os.fsencode(dot + suffix)

        try:
            self._database.execute("BEGIN")
            for role in range(2):
                self._database.executemany("INSERT INTO file VALUES (?, ?, ?)", rows(role))
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC, str(error), tempfile.gettempdir()) from error
        if not all(images):
            empty = [folder for folder, count in zip(self._folders, images, strict=True) if not count]
            roles = dict(zip(_ROLES, self._folders, strict=True))
            raise DataError("; ".join(map(str, empty_folders(parent, roles, empty, sum(images)))))

    def __len__(self) -> int:
        """How many names there are, of pairs and of images that make none."""
        (count,) = self._database.execute("SELECT COUNT(*) FROM (SELECT 1 FROM file GROUP BY name)").fetchone()
        return count + len(self._alone)

    def pairs(self) -> Iterator[Pair]:
        """The pairs, split "all"."""
        return (found for found in self._all() if isinstance(found, Pair))

    def unpaired(self) -> Iterator[Unpaired]:
        """The names that make no pair."""
        return (found for found in self._all() if isinstance(found, Unpaired))

    def _all(self) -> Iterator[Pair | Unpaired]:
        yield from self._alone
        rows = self._database.execute("SELECT name, role, suffix FROM file ORDER BY name, role, suffix")
        for stem, group in groupby(rows, key=lambda row: row[0]):
            yield self._pair(os.fsdecode(stem), [(role, os.fsdecode(suffix)) for _, role, suffix in group])

    def _pair(self, name: str, found: list[tuple[int, str]]) -> Pair | Unpaired:
        files: dict[int, list[Path]] = {}
        for role, suffix in found:
            files.setdefault(role, []).append(self._folders[role] / f"{name}{suffix}")
        faults = [two_of_one_name(other, first) for first, *others in files.values() for other in others]
        missing = {_ROLES[role]: self._folders[role] for role in range(2) if role not in files}
        if missing:
            (present, *_) = next(iter(files.values()))
            faults.append(no_partner(present, missing))
        problems = [str(fault) for fault in faults]
        if not _is_text(name):
            name = os.fsencode(name).decode(errors="backslashreplace")
            problems = [f"{self._folders[1]}: the name {name} is no UTF-8 text; rename its files"]
        if problems:
            return Unpaired(name, "; ".join(problems))
        return Pair(name, files[0][0], files[1][0], None, "all")

    def close(self) -> None:
        """Removes what was listed."""
        self._database.close()

    def __enter__(self) -> "PairIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _images(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # as in match_pairs a broken link counts: reading it will say what is wrong
            yield from (entry.name for entry in entries if is_image(entry.name) and not entry.is_dir())
    except PermissionError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}; allow it (chmod u+rx) or copy it") from error


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
