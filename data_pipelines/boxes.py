"""Files of a pair's true objects, boxes/NAME.csv: one box a line."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.decoding import DecodeError
from data_pipelines.shards import ShardError, read_bytes

COLUMNS = ("x1", "y1", "x2", "y2", "type")
"""Those that a file of true objects has; further ones are left alone."""


@dataclass(frozen=True)
class BoxLine:
    """One box of a file: its line there, x1, y1, x2, y2 in pixels, and what stands for its class."""

    line: int
    corners: tuple[float, float, float, float]
    type: str


def read_box_lines(path: Path, height: int, width: int) -> Iterator[BoxLine]:
    """The boxes in a file, for an image of height x width pixels.

    The first line names the columns x1,y1,x2,y2,type. Coordinates are pixels, whole or not, x to the right and y down,
    measured at the edges of pixels, so that x2 and y2 are excluded: 0,0,width,height is the whole image. DecodeError,
    in one line, names the file, the line and what is wrong with it.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except ShardError as error:
        raise DecodeError(path, str(error)) from error
    except UnicodeDecodeError as error:
        raise DecodeError(path, f"not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True, restval="")
    columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
    if absent := [name for name in COLUMNS if name not in columns]:
        raise DecodeError(
            path,
            f"line 1: no column {', '.join(absent)} among {', '.join(columns) or 'none'}; "
            f"the first line names the columns: {','.join(COLUMNS)}",
        )
    for row in reader:
        number = reader.line_num
        if None in row:
            count = len(reader.fieldnames or ())
            raise DecodeError(path, f"line {number}: more values than the {count} columns; one box a line")
        values = {name: row[columns[name]].strip() for name in COLUMNS}
        try:
            corners = _corners(values, height, width)
        except ValueError as error:
            raise DecodeError(path, f"line {number}: {error}") from error
        yield BoxLine(number, corners, values["type"])


def _corners(values: dict[str, str], height: int, width: int) -> tuple[float, float, float, float]:
    numbers = []
    for name in COLUMNS[:4]:
        try:
            number = float(values[name])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{name} is {values[name]!r}, it must be a number, in pixels")
        numbers.append(number)
    x1, y1, x2, y2 = numbers
    for low, high, start, end, side, size in (
        ("x1", "x2", x1, x2, "width", width),
        ("y1", "y2", y1, y2, "height", height),
    ):
        if start >= end:
            raise ValueError(f"{low} {start:g} is not below {high} {end:g}; a box is left, top, right, bottom")
        if start < 0 or end > size:
            raise ValueError(
                f"{low} {start:g} to {high} {end:g} reaches out of the image, whose {side} is {size} pixels; "
                f"allowed are 0 to {size}"
            )
    return x1, y1, x2, y2
