"""Pack a data set into TFRecord shards: few large files that read fast, and that copy and sync as one.

Every file is copied as it is, so that the packed set gives the same examples as the folder. The memory needed is that
of one pair.
"""

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.decoding import read_info
from data_pipelines.layouts import DataError, Pair
from data_pipelines.shards import (
    INDEX,
    ROLES,
    Index,
    Member,
    Record,
    ShardError,
    foreign_files,
    is_packed_set,
    read_bytes,
    shard_names,
    stamp,
)
from data_pipelines.validation import CheckReport, FaultyDataError
from data_pipelines.whole_folders import new_folder

_LARGEST = 2**31 - 2**20  # protocol buffers end at 2 GiB; names and sizes need little of it


def pack(
    report: CheckReport,
    out: Path,
    *,
    shard_bytes: int = 256 * 10**6,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Pack the pairs of a checked data set into the new folder `out`, in shards of about `shard_bytes`.

    Pair k goes to shard k mod S of S shards. The same files give the same bytes. `out` appears whole or not at all.
    Raises FaultyDataError where the check found faults, FileExistsError as `require_free` does and where another
    packing to `out` is under way, DataError on a pair too large for a record or a file gone bad meanwhile, OSError
    where `out` cannot be written. `on_progress` is called with the pairs done and the pairs in all.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes: got {shard_bytes}, it must be 1 or more")
    if report.faults or report.coding is None:
        raise FaultyDataError([report])
    require_free(out, overwrite=overwrite)
    with new_folder(out, replace=overwrite, alone=True) as folder:
        index = _write(report, folder, shard_bytes, on_progress)
        # last, and whole: a folder without it is no packed set
        (folder / INDEX).write_text(index.to_json(), encoding="utf-8")
    return index


def require_free(out: Path, *, overwrite: bool) -> None:
    """FileExistsError where `out` is a file or holds something, unless that is a packed set and may be overwritten."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: is a file; name a new folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not is_packed_set(out):
        raise FileExistsError(f"{out}: is not empty and holds no packed set; name another folder")
    if not overwrite:
        raise FileExistsError(f"{out}: holds a packed set; name another folder, or --overwrite")
    try:
        foreign = foreign_files(out)
    except ShardError as error:
        raise FileExistsError(f"{out / INDEX}: {error}; remove {out} yourself") from error
    if foreign:
        raise FileExistsError(f"{out}: holds {foreign[0]} beside the packed set; move it away, or name another folder")


def _write(
    report: CheckReport, folder: Path, shard_bytes: int, on_progress: Callable[[int, int], None] | None
) -> Index:
    import tensorflow as tf

    pairs, coding = report.data.pairs, report.coding
    assert coding is not None, "checked above"
    total = sum(stamp(path)[0] for pair in pairs for path in _files(pair).values())
    names = shard_names(min(max(round(total / shard_bytes), 1), len(pairs)))
    records: dict[int, Record] = {}
    sizes: dict[str, int] = {}
    for number, shard in enumerate(names):
        offset = 0
        try:
            with tf.io.TFRecordWriter(str(folder / shard)) as writer:
                for k in range(number, len(pairs), len(names)):
                    example, record = _record(pairs[k], shard, offset)
                    writer.write(example)
                    records[k], offset = record, offset + record.length
                    if on_progress:
                        on_progress(len(records), len(pairs))
        except tf.errors.OpError as error:
            # TensorFlow has its own errors for what the system said
            full = isinstance(error, tf.errors.ResourceExhaustedError)
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, os.strerror(code) if full else error.message, str(folder / shard)) from error
        sizes[shard] = (folder / shard).stat().st_size
        if sizes[shard] != offset:
            raise OSError(errno.EIO, f"{sizes[shard]:,} bytes written of {offset:,}", str(folder / shard))
    meaning = {"name": coding.name, "values": list(coding.values), "ignore": coding.ignore}
    in_order = tuple(records[k] for k in range(len(pairs)))
    return Index(str(report.data.root.absolute()), report.data.layout, meaning, sizes, in_order)


def _files(pair: Pair) -> dict[str, Path]:
    return {role: path for role in ROLES if (path := getattr(pair, role)) is not None}


def _record(pair: Pair, shard: str, offset: int) -> tuple[bytes, Record]:
    """The serialized example of a pair, and where its files will lie in the shard when it is written at `offset`."""
    import tensorflow as tf

    info = read_info(pair.after)
    contents: dict[str, bytes] = {}
    for role, path in _files(pair).items():
        size = stamp(path)[0] + sum(map(len, contents.values()))
        if size > _LARGEST:
            raise DataError(f"{path}: the pair {pair.name} has more than 2 GiB, a record holds less; cut it into tiles")
        try:
            contents[role] = read_bytes(path)
        except ShardError as error:
            raise DataError(f"{path}: {error}") from error
    suffixes = {role: path.suffix for role, path in _files(pair).items()}
    texts = {"name": pair.name, "split": pair.split, **{f"{role}_suffix": text for role, text in suffixes.items()}}
    numbers = {"height": info.height, "width": info.width, "bands": info.bands}

    def feature(**kind: Any) -> Any:
        return tf.train.Feature(**kind)

    features = {
        **{key: feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in contents.items()},
        **{key: feature(bytes_list=tf.train.BytesList(value=[text.encode()])) for key, text in texts.items()},
        **{key: feature(int64_list=tf.train.Int64List(value=[number])) for key, number in numbers.items()},
    }
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)
    # a TFRecord: 8 bytes of length, 4 of its checksum, the example, 4 of its checksum
    members = {
        role: Member(suffixes[role], offset + 12 + _place(example, content), len(content), zlib.crc32(content))
        for role, content in contents.items()
    }
    return example, Record(pair.name, pair.split, shard, offset, 16 + len(example), **numbers, members=members)


def _place(example: bytes, content: bytes) -> int:
    """Where the content lies in the example; wherever the same bytes lie is right."""
    start = content[:64]  # Python's search for a long needle is slow
    place = example.find(start)
    while example[place : place + len(content)] != content:
        place = example.index(start, place + 1)
    return place
