"""Prepare a published data set: find out what is to be written, and write it on all cores."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.layouts import DataError
from data_pipelines.published import air_change, clcd, deeppcb, dsifn, levir_cd, oscd, whu_cd
from data_pipelines.published.files import write_bytes
from data_pipelines.published.plan import Planner

DATA_SETS: dict[str, Planner] = {
    "levir_cd": levir_cd.plan,
    "whu_cd": whu_cd.plan,
    "dsifn": dsifn.plan,
    "clcd": clcd.plan,
    "oscd": oscd.plan,
    "air_change": air_change.plan,
    "deeppcb": deeppcb.plan,
}

MARK = "prepared.json"
"""The file that tells a prepared data set: its name, where it came from, its pairs. Written last."""

_OURS = {"train", "val", "test", MARK, oscd.STRETCH}


@dataclass(frozen=True)
class Prepared:
    """What was written: the pairs of each split, how many the whole data set has, and remarks in a line each."""

    name: str
    pairs: dict[str, int]
    published: dict[str, int]
    notes: tuple[str, ...]


def prepare(name: str, src: Path, out: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Write the data set `name`, as downloaded to `src`, to the empty folder `out`: `out`/{train,val,test}/{A,B,label}.

    A download of which splits or pairs are missing is prepared as far as it goes, and `notes` say so. `on_progress` is
    called with the pairs done and the pairs in all. KeyError on a name that DATA_SETS has not; DataError, in one line,
    where `src` does not hold the data set or a file of it is missing or damaged; OSError where it cannot be written.
    """
    plan = DATA_SETS[name](Path(src), Path(out))
    pairs, done = plan.pairs, 0
    if not pairs:
        raise DataError(f"{src}: the folders of {name} are there and hold no pairs; download it again")
    total = sum(pairs.values())
    pool = ThreadPoolExecutor(os.cpu_count())  # decoders and encoders let go of the interpreter lock
    try:
        futures = {pool.submit(work.write): work for work in plan.work}
        for future in as_completed(futures):
            future.result()
            done += futures[future].pairs
            if on_progress:
                on_progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)
    parts = [
        f"{split} {pairs[split]:,} of {count:,}" if split in pairs else f"no {split}"
        for split, count in plan.published.items()
        if pairs.get(split) != count
    ]
    partly = (f"not the whole data set: {', '.join(parts)}",) if parts else ()
    prepared = Prepared(name, pairs, dict(plan.published), (*partly, *plan.notes))
    for file, text in plan.files.items():
        write_bytes(out / file, text.encode())
    content = {"name": name, "source": str(Path(src).absolute()), "pairs": pairs, "notes": prepared.notes}
    write_bytes(out / MARK, (json.dumps(content, indent=2) + "\n").encode())
    return prepared


def require_free(out: Path, *, overwrite: bool) -> None:
    """FileExistsError where `out` is a file or holds anything but a prepared set that may be overwritten."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: is a file; name a new folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / MARK).is_file():
        raise FileExistsError(f"{out}: is not empty and holds no prepared data set; name another folder")
    if not overwrite:
        raise FileExistsError(f"{out}: holds a prepared data set; name another folder, or --overwrite")
    if foreign := sorted(entry.name for entry in out.iterdir() if entry.name not in _OURS):
        raise FileExistsError(
            f"{out}: holds {foreign[0]} beside the prepared data set; move it away, or name another folder"
        )
