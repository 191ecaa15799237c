"""CLCD: change of cropland in Guangdong, Gaofen-2 RGB of 0.5 to 2 m (Liu et al. 2022, doi:10.1109/JSTARS.2022.3177235).

As downloaded (liumency/CropLand-CD): train, val and test, in each time1, time2 and label with PNGs of 512 x 512; 360,
120 and 120 pairs.
"""

from functools import partial
from pathlib import Path

from data_pipelines.published.downloads import complete_splits, find_base, pairs_of, split_folders
from data_pipelines.published.files import keep_pair
from data_pipelines.published.plan import Plan, Work

_ROLES = ("time1", "time2", "label")
_PUBLISHED = {"train": 360, "val": 120, "test": 120}


def plan(src: Path, out: Path) -> Plan:
    """The pairs uncut, their PNGs as they are, masks of 0 and 255."""
    base = find_base(
        src,
        "CLCD",
        "train, val or test with time1, time2 and label",
        lambda folder: bool(split_folders(folder, _ROLES)),
    )
    work = [
        Work(pair.split, 1, partial(keep_pair, pair, out / pair.split))
        for pair in pairs_of(complete_splits(base, _ROLES))
    ]
    return Plan(tuple(work), _PUBLISHED)
