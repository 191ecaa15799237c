"""Images that visitors send: received within limits, decoded as the command line decodes them, and kept for a while."""

import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from data_pipelines.decoding import DecodeError, open_tiff, read_image, read_info, read_rows
from data_pipelines.layouts import DataError
from segdiff.inference.previews import Preview
from segdiff.inference.rasters import is_raster
from segdiff.visualization.display import display_rgb
from segdiff.visualization.pictures import encode_image

_TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_LONGEST_NAME = 120
_PREVIEW_QUALITY = 90


class TooLargeError(Exception):
    """More than the limits allow; the message is one line."""


class GoneError(LookupError):
    """Nothing is kept under this token, or no longer."""


@dataclass(frozen=True)
class Limits:
    """What a visitor may send."""

    megabytes: float = 100
    """Of one file, in 10^6 bytes."""
    megapixels: float = 25
    """Of one image, in 10^6 pixels, as it is and as the model sees it."""

    @property
    def bytes(self) -> int:
        """Of one file."""
        return int(self.megabytes * 10**6)

    def require_pixels(self, height: int, width: int, what: str) -> None:
        """Raises TooLargeError where that is too large, naming what it is."""
        if height * width > self.megapixels * 10**6:
            raise TooLargeError(
                f"{what} {width} x {height} pixels; this page takes {self.megapixels:g} million, larger images go "
                "through segdiff predict"
            )


@dataclass(frozen=True)
class Upload:
    """An image that a visitor sent and the model can take."""

    folder: Path
    """Its own; whoever drops the upload removes it."""
    path: Path
    """Named by us, whatever the visitor calls it."""
    name: str
    height: int
    width: int
    picture: bytes
    """A JPEG of it as people see it, shrunk like a Preview."""


def shown_name(name: str) -> str:
    """What a visitor calls a file, without folders, fit for a line of text."""
    last = PureWindowsPath(name).name  # splits at both kinds of slashes
    line = "".join(character if character.isprintable() else "?" for character in last).strip()
    return line[:_LONGEST_NAME] or "unnamed"


async def receive(stream: AsyncIterator[bytes], path: Path, limits: Limits, name: str) -> Path:
    """Writes what comes to ``path``, with the suffix that its first bytes ask for; the path.

    What is too large is read to its end, since who is still sending does not listen, but not kept; then TooLargeError
    is raised.
    """
    taken = 0
    with path.open("wb") as file:
        async for chunk in stream:
            taken += len(chunk)
            if taken <= limits.bytes:
                file.write(chunk)
    if taken > limits.bytes:
        raise TooLargeError(
            f"{name}: has {taken / 10**6:.1f} MB; this page takes {limits.megabytes:g} MB, larger files go through "
            "segdiff predict"
        )
    with path.open("rb") as file:
        tiff = file.read(4) in _TIFF_STARTS
    return path.rename(path.with_suffix(".tif" if tiff else ".image"))


def open_upload(path: Path, name: str, bands: int | None, limits: Limits) -> Upload:
    """Decodes a file that was received, in the model's ``bands``.

    None are those of the file. Raises DataError in the words of the command line on what the model cannot take, and
    TooLargeError.
    """
    try:
        info = read_info(path)
        limits.require_pixels(info.height, info.width, f"{name}: is")
        bands = info.bands - info.alpha if bands is None else bands
        if info.bands > max(bands, 3) + 1:  # not even to be read
            raise DecodeError(path, f"{info.bands} bands where {bands} are wanted; convert the file or leave it out")
        if is_raster(path):
            with open_tiff(path) as dataset:
                image = read_rows(dataset, 0, dataset.height, bands)
        else:
            image = read_image(path, bands)
    except DecodeError as error:
        raise DataError(f"{name}: {error.problem.replace(str(path), name)}") from error
    small = Preview(info.height, info.width, "area")
    small.add(np.ascontiguousarray(image))
    picture = encode_image(Path("preview.jpg"), display_rgb(small.image()), _PREVIEW_QUALITY)
    return Upload(path.parent, path, name, info.height, info.width, picture)


class Shelf:
    """Keeps things, each with a folder of its own, under tokens that nobody can guess.

    What was not asked for in ``idle_seconds`` goes, and above ``limit`` things that which was asked for longest ago.
    """

    def __init__(self, limit: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic):
        self._limit, self._idle, self._clock = limit, idle_seconds, clock
        self._kept: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, thing: Any) -> str:
        """The token of a thing that has a ``folder``."""
        token = secrets.token_urlsafe(24)
        self._kept[token] = (self._clock(), thing)
        self.tidy()
        return token

    def get(self, token: str) -> Any:
        """Raises GoneError where there is none."""
        self.tidy()
        if token not in self._kept:
            raise GoneError("these images are no longer kept here; drop both again")
        thing = self._kept[token][1]
        self._kept[token] = (self._clock(), thing)
        self._kept.move_to_end(token)
        return thing

    def drop(self, token: str) -> None:
        """Removes a thing and its folder; one that has gone already is no error."""
        if kept := self._kept.pop(token, None):
            shutil.rmtree(kept[1].folder, ignore_errors=True)

    def tidy(self) -> None:
        """Removes what is kept too long or is too much."""
        while self._kept:
            token, (asked, _) = next(iter(self._kept.items()))
            if len(self._kept) <= self._limit and self._clock() - asked < self._idle:
                return
            self.drop(token)
