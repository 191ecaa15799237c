"""Check a data set: every fault named, the coding of the masks recognised over all of them, its figures counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import IGNORE
from data_pipelines.boxes import COLUMNS, read_box_lines
from data_pipelines.decoding import DecodeError, grid_difference, mask_strips, mend_of
from data_pipelines.layouts import DataError, DataSet, Fault, Pair
from data_pipelines.scanning import ImageScan, MaskScan, scan_files

HIGHEST_INDEX = 31
"""Mask values up to this one are taken for class indices."""

_CODINGS = f"0/1, 0/255, 0/1/255 with 255 = ignore, class indices 0..{HIGHEST_INDEX}"


@dataclass(frozen=True)
class MaskCoding:
    """What the stored values of a data set's masks mean.

    `name` in words; `values` are the stored values of the classes in their order (0 = no change first); `classes` their
    number; `ignore` the stored value of pixels without truth, or None.
    """

    name: str
    values: tuple[int, ...]
    classes: int
    ignore: int | None = None

    @cached_property
    def _table(self) -> np.ndarray:
        """Stored value -> class index, IGNORE, or -1 where the coding has no such value; int16 of 256."""
        table = np.full(256, -1, np.int16)
        table[list(self.values)] = np.arange(len(self.values))
        if self.ignore is not None:
            table[self.ignore] = IGNORE
        return table

    def decode(self, raw: np.ndarray) -> np.ndarray:
        """Turn stored values, uint8 of any shape, into class indices with IGNORE; DataError on a value of neither."""
        mask = self._table[raw]
        if (mask < 0).any():
            raise DataError(f"{_words(np.unique(raw[mask < 0]))} not in the mask coding {self.name}; {_mend(self)}")
        return mask.astype(np.uint8)

    def foreign(self, values: Iterable[int]) -> list[int]:
        """Those of the stored values that the coding has no meaning for, in ascending order."""
        return sorted(value for value in values if self._table[value] < 0)


@dataclass(frozen=True)
class SplitReport:
    """Figures of one split: `sizes` counts pairs by (height, width) of the after image, `bands` and `dtypes` images.

    `bands` are those stored; `grey_as_rgb` of the image files have three equal channels. `class_fractions` and
    `change_fraction` (every class but 0) are shares of the pixels with truth in the masks that fit the coding,
    `ignored_fraction` the share of the pixels without truth; all are None or empty where there is no such pixel.
    """

    pairs: int
    sizes: dict[tuple[int, int], int]
    bands: dict[int, int]
    dtypes: dict[str, int]
    grey_as_rgb: int
    class_fractions: dict[int, float]
    change_fraction: float | None
    ignored_fraction: float | None


@dataclass(frozen=True)
class CheckReport:
    """What `check` found. The data can be used where `faults` is empty; `warnings` are for a person to judge.

    `coding` is None where the masks show none, or there are none; `bands` is what most images hold once opaque alpha is
    dropped and equal channels are one (None without a readable image).
    """

    data: DataSet
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]
    coding: MaskCoding | None
    bands: int | None
    splits: dict[str, SplitReport]

    def to_json(self) -> dict[str, Any]:
        """The report as plain dictionaries, lists, numbers and text."""
        splits = {}
        for name, split in self.splits.items():
            plain = asdict(split)
            plain["sizes"] = {f"{height}x{width}": count for (height, width), count in split.sizes.items()}
            for key in ("bands", "class_fractions"):
                plain[key] = {str(number): value for number, value in plain[key].items()}
            splits[name] = plain
        return {
            "data": str(self.data.root),
            "layout": self.data.layout,
            "faults": [{"path": str(fault.path), "problem": fault.problem} for fault in self.faults],
            "warnings": list(self.warnings),
            "notes": list(self.data.notes),
            "coding": asdict(self.coding) | {"values": list(self.coding.values)} if self.coding else None,
            "bands": self.bands,
            "splits": splits,
        }


def check(
    data: DataSet, *, ignore: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Read every file of the pairs, on all cores, and report all faults together with those of `data`.

    `ignore` is the stored mask value of pixels without truth, 1..255; without it the one coding with an ignore value
    that is recognised is 0/1/255. `on_progress` is called with the files done and the files in all. Pairs without masks
    are checked as far as they go. DataError where `ignore` is out of range.
    """
    if ignore is not None and not 1 <= ignore <= 255:
        raise DataError(f"ignore value {ignore}: allowed are 1..255 (0 is no change)")
    images, masks = scan_files(data, on_progress)

    faults = [*data.faults]
    faults += [Fault(path, scan.error) for path, scan in images.items() if scan.error]
    faults += [Fault(path, scan.error) for path, scan in masks.items() if scan.error]
    if not data.pairs and not faults:
        faults.append(Fault(data.root, "no pairs in it"))
    for pair in data.pairs:
        faults += _pair_faults(pair, images, masks)
    bands, band_faults = _bands(images)
    faults += band_faults

    readable = {path: scan for path, scan in masks.items() if not scan.error}
    coding, warnings = recognise_coding([scan.counts for scan in readable.values() if not _smeared(scan)], ignore)
    faults += _coding_faults(readable, coding)
    faults += _box_faults(data.pairs, images, coding)
    for split, pairs in data.splits.items():
        boxless = [pair.name for pair in pairs if pair.boxes is None]
        if 0 < len(boxless) < len(pairs):
            warnings.append(
                f"{len(boxless)} of {len(pairs)} pairs of split {split} have no boxes/NAME.csv, {boxless[0]} first: "
                f"objects cannot be scored; no more than the line {','.join(COLUMNS)} says that there are none"
            )
    splits = {split: _split_report(pairs, images, masks, coding) for split, pairs in data.splits.items()}
    return CheckReport(data, tuple(sorted(set(faults))), tuple(warnings), coding, bands, splits)


def _box_faults(pairs: Iterable[Pair], images: dict[Path, ImageScan], coding: MaskCoding | None) -> Iterator[Fault]:
    """The first wrong line of each file of true objects; a name for a class may be one that the configuration gives."""
    for pair in pairs:
        size = images[pair.after]
        if pair.boxes is None or not size.height:
            continue
        highest = coding.classes - 1 if coding else 1
        try:
            for box in read_box_lines(pair.boxes, size.height, size.width):
                # of change or none every type is the change
                if highest > 1 and (not box.type or (box.type.isdecimal() and not 1 <= int(box.type) <= highest)):
                    allowed = f"allowed are 1 to {highest} and the names of classes"
                    yield Fault(pair.boxes, f"line {box.line}: type {box.type!r} is no class of the masks; {allowed}")
                    break
        except DecodeError as error:
            yield Fault(pair.boxes, error.problem)
        except OSError as error:
            yield Fault(pair.boxes, f"unreadable: {error.strerror or error}; {mend_of(error)}")


# ------------------------------------------------------------------------------------------------- mask coding


def recognise_coding(
    histograms: Iterable[dict[int, int]], ignore: int | None = None
) -> tuple[MaskCoding | None, list[str]]:
    """Recognise the coding of masks from their histograms (stored value -> pixels), and say what is doubtful about it.

    Of 0/1, 0/255, 0/1/255 (255 = ignore) and class indices 0..31 the one is taken that most files conform to; among
    equals that of most pixels in conforming files, then the earlier. With `ignore` given, that value is put aside first
    and no other is ignored; without it, 0/1/255 is considered only where one file holds both 1 and 255. Files of zeros
    alone say nothing; None where no file with another value conforms to any.
    """
    histograms = list(histograms)
    telling = [counts for counts in histograms if set(counts) - {0, ignore}]
    if not histograms:
        return None, []
    if not telling:
        return _coding("0/1", (0, 1), ignore), ["no mask holds any change"]

    candidates = [
        ("0/1", (0, 1), ignore),
        ("0/255", (0, 255), ignore),
        ("0/1", (0, 1), 255),
        ("class indices", tuple(range(HIGHEST_INDEX + 1)), ignore),
    ]
    # 0/255 and 0/1 mixed up in one data set are no 0/1/255: all change of the former would be ignored unseen
    if ignore is not None or not any({1, 255} <= set(counts) <= {0, 1, 255} for counts in telling):
        candidates.pop(2)
    conforming = [
        [counts for counts in telling if set(counts) <= {*values, ignored}] for _, values, ignored in candidates
    ]
    scores = [(len(files), sum(sum(counts.values()) for counts in files)) for files in conforming]
    best = scores.index(max(scores))
    files = conforming[best]
    if not files:
        return None, []

    name, values, ignored = candidates[best]
    warnings = []
    if name == "class indices":
        seen = set().union({0}, *files) - {ignore}
        values = tuple(range(max(seen) + 1))
        name = f"class indices 0..{max(seen)}"
        if gaps := sorted(set(values) - seen):
            warnings.append(f"{name}, but no mask holds {_words(gaps)}: is the highest a mistake?")
    return _coding(name, values, ignored), warnings


def _coding(name: str, values: tuple[int, ...], ignore: int | None) -> MaskCoding:
    # A value that is both a class and ignored is ignored; its class stays, so that indices keep their meaning.
    return MaskCoding(name if ignore is None else f"{name}, {ignore} = ignore", values, len(values), ignore)


def _smeared(mask: MaskScan) -> bool:
    """Whether JPEG compression has touched the values: only black and white survive it, indices never surely do."""
    return mask.jpeg and not set(mask.counts) <= {0, 255}


def _coding_faults(masks: dict[Path, MaskScan], coding: MaskCoding | None) -> Iterator[Fault]:
    for path, scan in masks.items():
        foreign = coding.foreign(scan.counts) if coding else sorted(set(scan.counts) - {0})
        if _smeared(scan):
            foreign = sorted({*foreign, *scan.counts} - {0, 255})
        if not foreign:
            continue
        if _smeared(scan):
            mend = "JPEG compression smears mask values: store masks as PNG"
        elif coding is None:
            mend = f"no coding fits; allowed: {_CODINGS}"
        else:
            mend = f"the masks of this data set are {coding.name}: {_mend(coding)}"
            if 255 in foreign and coding.ignore is None:
                mend += "; if 255 marks pixels without truth, set data.ignore: 255 (--ignore 255)"
        yield Fault(path, f"odd mask {_words(foreign)}; {mend}")


def _mend(coding: MaskCoding) -> str:
    if coding.classes == 2:
        return f"store {coding.values[0]} for no change and {coding.values[1]} for change"
    return f"store a class index 0..{coding.classes - 1}"


def _words(values: Iterable[int]) -> str:
    listed = [int(value) for value in values]
    text = ", ".join(map(str, listed[:6])) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
    return f"value{'s' * (len(listed) > 1)} {text}"


# ---------------------------------------------------------------------------------------------- pairs and bands


def _pair_faults(pair: Pair, images: dict[Path, ImageScan], masks: dict[Path, MaskScan]) -> Iterator[Fault]:
    """Size or grid that differ within a pair; unreadable files are named elsewhere."""
    scans: list[tuple[str, Path, ImageScan | MaskScan]] = [
        ("before", pair.before, images[pair.before]),
        ("after", pair.after, images[pair.after]),
    ]
    if pair.mask:
        scans.append(("mask", pair.mask, masks[pair.mask]))
    # A file that could not be decoded may still have told its size.
    scans = [entry for entry in scans if entry[2].height]
    sizes = [(scan.width, scan.height) for _, _, scan in scans]
    if len(set(sizes)) > 1:
        # The odd one out is named; of two or three that all differ the last image.
        odd = [path for (_, path, _), size in zip(scans, sizes, strict=True) if sizes.count(size) == 1]
        path = odd[0] if len(odd) == 1 else next(path for _, path, _ in reversed(scans) if path != pair.mask)
        said = ", ".join(f"{role} {scan.width} x {scan.height}" for role, _, scan in scans)
        yield Fault(path, f"sizes differ in the pair {pair.name} (width x height): {said}; crop or resample one")
        return
    on_ground = [(path, scan.grid) for _, path, scan in scans if scan.grid]
    for path, grid in on_ground[1:]:
        if difference := grid_difference(on_ground[0][1], grid):
            yield Fault(path, f"not on the grid of {on_ground[0][0]}: {difference}; warp one onto the other's grid")


def _bands(images: dict[Path, ImageScan]) -> tuple[int | None, list[Fault]]:
    """The bands of most images, and a fault for each that cannot be brought to them without loss."""
    readable = {path: scan for path, scan in images.items() if not scan.error}
    counts = Counter(scan.plain_bands for scan in readable.values())
    if not counts:
        return None, []

    def fits(scan: ImageScan, bands: int) -> bool:
        return scan.plain_bands == bands or (scan.plain_bands, bands) == (1, 3)

    usual = max(counts, key=lambda bands: (counts[bands], sum(fits(scan, bands) for scan in readable.values())))
    faults = []
    for path, scan in readable.items():
        if not fits(scan, usual):
            colours = " whose channels differ" if (scan.plain_bands, usual) == (3, 1) else ""
            faults.append(Fault(path, f"{scan.bands} bands{colours}, most images here have {usual}; convert it"))
    return usual, faults


def _split_report(
    pairs: list[Pair],
    images: dict[Path, ImageScan],
    masks: dict[Path, MaskScan],
    coding: MaskCoding | None,
) -> SplitReport:
    files = [scan for pair in pairs for path in (pair.before, pair.after) if (scan := images[path]).height]
    sizes = Counter((scan.height, scan.width) for pair in pairs if (scan := images[pair.after]).height)
    pixels: Counter[int] = Counter()
    for counts in [masks[pair.mask].counts for pair in pairs if pair.mask]:
        if coding and not coding.foreign(counts):
            classes = coding.decode(np.array(list(counts), np.uint8))
            for index, count in zip(classes.tolist(), counts.values(), strict=True):
                pixels[index] += count
    ignored = pixels.pop(IGNORE, 0)
    known = pixels.total()
    return SplitReport(
        pairs=len(pairs),
        sizes=dict(sizes.most_common()),
        bands=dict(sorted(Counter(scan.bands for scan in files).items())),
        dtypes=dict(sorted(Counter(scan.dtype for scan in files).items())),
        grey_as_rgb=sum(scan.grey_as_rgb for scan in files),
        class_fractions={index: pixels[index] / known for index in range(coding.classes)} if coding and known else {},
        change_fraction=(known - pixels[0]) / known if known else None,
        ignored_fraction=ignored / (known + ignored) if known + ignored else None,
    )


class FaultyDataError(DataError):
    """Data sets with faults; ``reports`` name them all."""

    def __init__(self, reports: Sequence[CheckReport]):
        count = sum(len(report.faults) for report in reports)
        super().__init__(f"{count} fault{'s' if count != 1 else ''} in the data; mend them, segdiff check lists them")
        self.reports = tuple(reports)


def recognise_files(paths: Sequence[Path], ignore: int | None = None) -> MaskCoding:
    """The coding of loose mask files, recognised over all of them together.

    Raises DecodeError where one cannot be read, DataError where their values are none of the codings.
    """
    seen: Counter[int] = Counter()
    histograms = []
    for path in paths:
        counts = np.zeros(256, np.int64)
        for strip in mask_strips(path):
            counts += np.bincount(strip.ravel(), minlength=256)
        histograms.append({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
        seen.update(histograms[-1])
    coding, _ = recognise_coding(histograms, ignore)
    if coding is None:
        where = paths[0] if len(paths) == 1 else paths[0].parent
        raise DataError(f"{where}: {_words(sorted(seen))} are no mask coding; allowed are {_CODINGS}")
    return coding
