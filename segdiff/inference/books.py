"""The books of a prediction folder: rows and objects of the pairs that are done, however many, with constant memory."""

import csv
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from data_pipelines.pair_index import Part
from segdiff.inference.objects import read_geojson

PARTS = ".shards"
"""Folder in a prediction folder for the books of its parts, which may be at work at the same time."""


@dataclass(frozen=True)
class Books:
    """The files that a run keeps while it is at work."""

    summary: Path
    """A row of each pair."""
    features: Path
    """Objects of the pairs, one GeoJSON feature a line; before their rows, so that some may belong to no row."""
    loose: Path
    """Folder for the objects of single pairs, until they are taken."""
    published: Path | None = None
    """Where the objects are after the run, if not left in ``features``."""

    def rows(self) -> Iterator[dict[str, str]]:
        """The rows that are whole."""
        if self.summary.exists():
            yield from (row for row in csv.DictReader(_whole_lines(self.summary)) if None not in row.values())

    def objects(self) -> Iterator[dict[str, Any]]:
        """The features that are whole."""
        if self.features.exists():
            yield from map(json.loads, _whole_lines(self.features))
        elif self.published and self.published.exists():
            yield from read_geojson(self.published)


def whole_books(folder: Path) -> Books:
    """Those of a run over all pairs."""
    return Books(folder / "summary.csv", folder / ".objects.jsonl", folder / ".objects", folder / "objects.geojson")


def part_books(folder: Path, part: Part) -> Books:
    """Those of a run over a part of the pairs."""
    own = _home(folder, part)
    return Books(own / "summary.csv", own / "objects.jsonl", own / "objects")


def finished_mark(folder: Path, part: Part) -> Path:
    """The file that is there while the part is finished."""
    return _home(folder, part) / "finished"


def _home(folder: Path, part: Part) -> Path:
    return folder / PARTS / f"{part.number}-of-{part.count}"


def begun_parts(folder: Path) -> list[Part]:
    """The parts that have books."""
    found = (re.fullmatch(r"(\d+)-of-(\d+)", path.name) for path in (folder / PARTS).glob("*"))
    parts = (Part(int(match[1]), int(match[2])) for match in found if match)
    return sorted((part for part in parts if part_books(folder, part).summary.exists()), key=lambda part: part.number)


class Ledger:
    """The pairs that are done, on disk: the row of each and the books that it is from. To be closed."""

    def __init__(self) -> None:
        # "" is a file of SQLite's own in the folder for temporary files; pairs are drawn in whichever thread asks
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            "PRAGMA cache_size = -16384; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE done (number INTEGER PRIMARY KEY, name TEXT UNIQUE, fraction TEXT, row TEXT, source TEXT,"
            " current INTEGER DEFAULT 0); BEGIN"
        )

    def take(self, rows: Iterable[dict[str, str]], source: Books) -> None:
        """Adds rows; of two of one name the later counts."""
        self._database.executemany(
            "INSERT OR REPLACE INTO done (name, fraction, row, source) VALUES (?, ?, ?, ?)",
            ((row["name"], row["changed_fraction"], json.dumps(row), str(source.summary)) for row in rows),
        )

    def keep(self, names: Iterable[str], on_drop: Callable[[str], None]) -> None:
        """Drops all other pairs, and tells of each."""
        self._database.executemany("UPDATE done SET current = 1 WHERE name = ?", ((name,) for name in names))
        for (name,) in self._database.execute("SELECT name FROM done WHERE NOT current"):
            on_drop(name)
        self._database.execute("DELETE FROM done WHERE NOT current")
        self._database.execute("UPDATE done SET current = 0")

    def __contains__(self, name: str) -> bool:
        return self._source(name) is not None

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT COUNT(*) FROM done").fetchone()
        return count

    def _source(self, name: str) -> str | None:
        found = self._database.execute("SELECT source FROM done WHERE name = ?", (name,)).fetchone()
        return found and found[0]

    def rows(self) -> Iterator[dict[str, str]]:
        """All rows, in the order in which they came."""
        return (json.loads(row) for (row,) in self._database.execute("SELECT row FROM done ORDER BY number"))

    def changed(self) -> Decimal:
        """The sum of the changed fractions, exact as they are written."""
        return sum(
            (Decimal(fraction) for (fraction,) in self._database.execute("SELECT fraction FROM done")), Decimal()
        )

    def objects(self, books: Books) -> Iterator[dict[str, Any]]:
        """The features in the books that belong to pairs whose rows are from there."""
        source = str(books.summary)
        return (item for item in books.objects() if self._source(item["properties"]["pair"]) == source)

    def close(self) -> None:
        """Removes it from the disk."""
        self._database.close()


Covers = Callable[[str], bool]


def books_to_resume(folder: Path, part: Part) -> list[tuple[Books, Covers]]:
    """The books from which a run goes on, and which names each of them speaks for.

    A part's own are enough where it has begun: it took over then what others had left. A run over all pairs takes over
    those of the parts.
    """
    begun = begun_parts(folder)
    if part.count > 1:
        return [(part_books(folder, part), part.holds) if part in begun else (whole_books(folder), part.holds)]
    return [
        (whole_books(folder), lambda name: not any(other.holds(name) for other in begun)),
        *((part_books(folder, other), other.holds) for other in begun),
    ]


def _whole_lines(path: Path) -> Iterator[str]:
    """The lines of a file that end as lines do: a run that was killed may have left the last one half written."""
    with path.open(newline="", encoding="utf-8") as stream:
        yield from (line for line in stream if line.endswith("\n"))
