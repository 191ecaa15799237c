"""LEVIR-CD: building change in Texas, aerial RGB of 0.5 m (Chen and Shi 2020, doi:10.3390/rs12101662).

As downloaded (justchenhao.github.io/LEVIR): train.zip, val.zip and test.zip, in each A, B and label with PNGs of 1024 x
1024, 445, 64 and 128 of them; masks 0/255.
"""

from functools import partial
from pathlib import Path

from data_pipelines.published.cutting import cut_pair, tiles_in
from data_pipelines.published.downloads import complete_splits, find_base, pairs_of, split_folders
from data_pipelines.published.plan import Plan, Work

_ROLES = ("A", "B", "label")
_PUBLISHED = {"train": 445 * 16, "val": 64 * 16, "test": 128 * 16}


def plan(src: Path, out: Path) -> Plan:
    """Tiles of 256 x 256 without overlap, the splits as published: the protocol of the papers that compare on it."""
    base = find_base(
        src, "LEVIR-CD", "train, val or test with A, B and label", lambda folder: bool(split_folders(folder, _ROLES))
    )
    work = [
        Work(pair.split, tiles_in(pair.after), partial(cut_pair, pair, out / pair.split))
        for pair in pairs_of(complete_splits(base, _ROLES))
    ]
    return Plan(tuple(work), _PUBLISHED)
