"""Read packed data sets: pairs in TFRecord shards, whose files have paths like those of a folder.

A packed set is a folder of `shard-00000-of-00004.tfrecord`, ... and the index `shards.json`. Every record is one pair,
a `tf.train.Example` that holds its files as they were (`before`, `after`, `mask`, where there are some `boxes`, each as
bytes with its `_suffix`) and its `name`, `split`, `height`, `width` and `bands`; the index says where in the shard each
file lies. A file inside goes by the path SHARD/SPLIT/ROLE/NAME.ext, which the functions here read and rasterio opens by
its `gdal_name`; so any pair can be read at any time, by any number of threads, without TensorFlow. Neighbours lie in
different shards: reading pairs in their order is reading all shards interleaved.
"""

import errno
import functools
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "shards.json"
"""The file that makes a folder a packed set, written last."""

VERSION = 1
"""Of the index and the records."""

SUFFIX = ".tfrecord"
ROLES = ("before", "after", "mask", "boxes")
"""The files of a pair; boxes may be absent."""

_PIECE = 2**20


class ShardError(ValueError):
    """A packed set that cannot be read; the message says what is wrong and the mend, not the path."""


@dataclass(frozen=True)
class Member:
    """A file inside a shard: its ending, where its bytes begin, how many they are, and their CRC-32 (that of zlib)."""

    suffix: str
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True)
class Record:
    """A pair in a shard. `offset` and `length` are those of the whole record, framing included, in bytes."""

    name: str
    split: str
    shard: str
    offset: int
    length: int
    height: int
    width: int
    bands: int
    members: Mapping[str, Member]
    """By role."""

    def file(self, folder: Path, role: str) -> Path | None:
        """The path that stands for a file of this pair, None where it has none of that role."""
        member = self.members.get(role)
        return folder / self.shard / self.split / role / f"{self.name}{member.suffix}" if member else None


@dataclass(frozen=True)
class Index:
    """What `shards.json` holds: the bytes of every shard, the pairs in the order of the data set they came from.

    `source` and `layout` are of that data set; `coding` says what its masks' values mean: name, values, ignore.
    """

    source: str
    layout: str
    coding: Mapping[str, Any]
    shards: Mapping[str, int]
    records: tuple[Record, ...]

    def broken(self, folder: Path) -> dict[str, str]:
        """The shards that are not there or have another size than when they were packed, and what is wrong."""
        problems = {}
        for shard, size in self.shards.items():
            try:
                found = (folder / shard).stat().st_size
            except FileNotFoundError:
                problems[shard] = "missing shard; copy it again, or pack the data anew"
                continue
            if found != size:
                problems[shard] = f"{found:,} bytes where {size:,} were packed; copy it again, or pack the data anew"
        return problems

    def to_json(self) -> str:
        """The text of `shards.json`, a pair on each line."""
        numbers = {shard: number for number, shard in enumerate(self.shards)}
        head = {
            "format": "segdiff shards",
            "version": VERSION,
            "source": self.source,
            "layout": self.layout,
            "coding": dict(self.coding),
            "shards": dict(self.shards),
        }
        lines = []
        for record in self.records:
            plain = {name: getattr(record, name) for name in _FIELDS} | {"shard": numbers[record.shard]}
            plain["files"] = {role: [m.suffix, m.offset, m.length, m.crc32] for role, m in record.members.items()}
            lines.append(json.dumps(plain, ensure_ascii=False))
        return f'{json.dumps(head, ensure_ascii=False, indent=1)[:-2]},\n "pairs": [\n' + ",\n".join(lines) + "\n]}\n"


_FIELDS = ("name", "split", "offset", "length", "height", "width", "bands")


def is_packed_set(folder: Path) -> bool:
    """Whether a folder holds a packed set."""
    return (folder / INDEX).is_file()


def read_index(folder: Path) -> Index:
    """Read the index of a packed set. ShardError where it is damaged or of another version."""
    return _kept(folder)[0]


def is_packed(path: Path) -> bool:
    """Whether a path stands for a file inside a shard."""
    return len(path.parts) > 3 and path.parents[2].suffix == SUFFIX and is_packed_set(path.parents[3])


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds of a file, on disk or in a shard (the time is the shard's)."""
    if not is_packed(path):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return _member(path).length, path.parents[2].stat().st_mtime_ns


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, on disk or in a shard; ShardError where those in a shard are not the ones packed."""
    if not is_packed(path):
        return path.read_bytes()
    member = _member(path)
    content = read_start(path, member.length)
    if len(content) != member.length or zlib.crc32(content) != member.crc32:
        raise ShardError(_DAMAGED)
    return content


def read_start(path: Path, count: int) -> bytes:
    """The first bytes of a file, on disk or in a shard, unchecked."""
    if not is_packed(path):
        with path.open("rb") as file:
            return file.read(count)
    member = _member(path)
    with path.parents[2].open("rb") as shard:
        shard.seek(member.offset)
        return shard.read(min(count, member.length))


def gdal_name(path: Path) -> str:
    """What rasterio opens for a file on disk or in a shard, there after a look at its bytes; ShardError as above."""
    if not is_packed(path):
        return str(path)
    member, crc32, left = _member(path), 0, _member(path).length
    with path.parents[2].open("rb") as shard:
        shard.seek(member.offset)
        while left and (piece := shard.read(min(left, _PIECE))):
            crc32, left = zlib.crc32(piece, crc32), left - len(piece)
    if left or crc32 != member.crc32:
        raise ShardError(_DAMAGED)
    return f"/vsisubfile/{member.offset}_{member.length},{path.parents[2]}"


_DAMAGED = "damaged, not the bytes that were packed; copy the shard again, or pack the data anew"


def _member(path: Path) -> Member:
    shard, folder = path.parents[2], path.parents[3]
    members = _kept(folder)[1]
    try:
        return members[path.relative_to(folder).as_posix()]
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, f"no such file in {shard.name}", str(path)) from None


def _kept(folder: Path) -> tuple[Index, Mapping[str, Member]]:
    status = (folder / INDEX).stat()
    return _read(folder / INDEX, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _read(file: Path, time: int, size: int) -> tuple[Index, Mapping[str, Member]]:
    try:
        content = json.loads(file.read_bytes())
        if content["format"] != "segdiff shards" or content["version"] != VERSION:
            raise ShardError(
                f"format {content['format']!r}, version {content['version']!r}; "
                f"this segdiff reads 'segdiff shards', version {VERSION}: pack the data anew"
            )
        shards = {str(name): int(count) for name, count in content["shards"].items()}
        names = list(shards)
        if any(Path(name).name != name or not name.endswith(SUFFIX) for name in names):
            raise ShardError(f"names shards that are no {SUFFIX} file beside it; pack the data anew")
        records = tuple(
            Record(
                **{name: pair[name] for name in _FIELDS},
                shard=names[pair["shard"]],
                members={role: Member(*pair["files"][role]) for role in ROLES if role in pair["files"]},
            )
            for pair in content["pairs"]
        )
        if any(not {"before", "after", "mask"} <= set(record.members) for record in records):
            raise ShardError("names a pair without before, after and mask; pack the data anew")
        index = Index(content["source"], content["layout"], content["coding"], shards, records)
    except ShardError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ShardError(f"not the index of a packed set, or damaged ({error!r}); pack the data anew") from error
    inside = Path()
    members = {
        path.as_posix(): member
        for record in records
        for role, member in record.members.items()
        if (path := record.file(inside, role))
    }
    return index, members


def shard_names(count: int) -> list[str]:
    """The files of a set of so many shards."""
    return [f"shard-{number:05d}-of-{count:05d}{SUFFIX}" for number in range(count)]


def foreign_files(folder: Path) -> list[str]:
    """What lies in the folder of a packed set and is no part of it."""
    known = {INDEX, *read_index(folder).shards}
    return sorted(name for name in os.listdir(folder) if name not in known)  # noqa: PTH208
