"""DSIFN: land-use change in six Chinese cities, RGB from Google Earth.

Zhang et al. 2020, doi:10.1016/j.isprsjprs.2020.06.003. As downloaded (by the README in the folder dataset of
GeoZcx/A-deeply-supervised-image-fusion-network-for-change-detection-in-remote-sensing-images): train, val and test, in
each t1 and t2 with JPEGs of 512 x 512 and mask, in train and val with PNGs of 0/1 (issue 20 there), in test with TIFFs;
3600, 340 and 48 pairs. mask_256 is the masks at half the size.
"""

from functools import partial
from pathlib import Path

from data_pipelines.published.downloads import complete_splits, find_base, pairs_of, split_folders
from data_pipelines.published.files import keep_pair
from data_pipelines.published.plan import Plan, Work

_ROLES = ("t1", "t2", "mask")
_PUBLISHED = {"train": 3600, "val": 340, "test": 48}


def plan(src: Path, out: Path) -> Plan:
    """The pairs uncut, their JPEGs as they are, all masks of one coding: 0 and 255."""
    base = find_base(
        src, "DSIFN", "train, val or test with t1, t2 and mask", lambda folder: bool(split_folders(folder, _ROLES))
    )
    work = [
        Work(pair.split, 1, partial(keep_pair, pair, out / pair.split))
        for pair in pairs_of(complete_splits(base, _ROLES))
    ]
    return Plan(tuple(work), _PUBLISHED)
