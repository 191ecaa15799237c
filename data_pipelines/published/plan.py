"""What a data set says is to be written; who runs it need not know the set."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Work:
    """A piece of work that needs no other: `write` writes the files of so many `pairs` of a `split`."""

    split: str
    pairs: int
    write: Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """All the work of a data set, in any order and by any thread.

    `published` are the pairs of each split where the download is whole; `notes` are lines for people; `files` are
    further texts that belong to the set, by name.
    """

    work: tuple[Work, ...]
    published: Mapping[str, int]
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def pairs(self) -> dict[str, int]:
        """The pairs of each split that there will be."""
        counts: Counter[str] = Counter()
        for work in self.work:
            counts[work.split] += work.pairs
        return {split: counts[split] for split in self.published if counts[split]}


Planner = Callable[[Path, Path], Plan]
"""Of the folder of a download and the folder to write to; DataError where the one does not hold the data set."""
