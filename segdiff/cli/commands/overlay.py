"""`segdiff overlay`: masks shown over their images."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segdiff.cli.arguments import require_there, require_two
from segdiff.cli.errors import SOME_FAILED, complain
from segdiff.cli.options import Debug, Ignore, Json, Quiet
from segdiff.cli.overlay_drawing import draw_overlay
from segdiff.cli.screen import Screen

if TYPE_CHECKING:
    from data_pipelines.layouts import DataSet
    from data_pipelines.validation import MaskCoding


def overlay(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Image, or folder of images.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Image, or folder: files pair by stem.")],
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="Mask or folder: 0/1, 0/255 or class indices.")],
    out: Annotated[
        Path, typer.Option(metavar="OUT", help="Picture of a pair: .jpg, .png, or .gif that blinks; or a folder.")
    ],
    truth: Annotated[
        Path | None, typer.Option(metavar="LABEL", help="True mask or folder: shows true, false and missed.")
    ] = None,
    probability: Annotated[
        Path | None,
        typer.Option(metavar="PROBABILITY", help="File or folder of probabilities of change: adds a heat map."),
    ] = None,
    style: Annotated[
        Literal["contour", "fill", "both"] | None,
        typer.Option(help="Default: both; with --truth fill; of a .gif contour."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Bands to show, from 1: 4,3,2, or one; default: red, green, blue."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Names for the legend; first that of no change.")
    ] = None,
    ignore: Ignore = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show masks over their images: before, after, and the change; images of any size, bands and data type."""
    from data_pipelines.layouts import IMAGE_SUFFIXES, DataError, match_pairs
    from data_pipelines.overviews import bounded_cache
    from segdiff.config import ConfigError

    screen = Screen(as_json, quiet)
    suffix, writable = out.suffix.lower(), (".jpg", ".jpeg", ".png", ".gif")
    if suffix not in writable and suffix in (*IMAGE_SUFFIXES, ".pdf", ".svg"):
        raise ConfigError(
            f"{out}: pictures are written as {', '.join(writable)}; without such an ending OUT is a folder"
        )
    if suffix == ".gif" and probability is not None:
        raise ConfigError(f"{out}: a .gif blinks and has no heat map; leave --probability out, or name a .jpg or .png")
    shown_bands = None if bands is None else _band_numbers(bands)
    require_there(*(path for path in (mask, truth, probability) if path))
    require_two(before, after)
    data = match_pairs(before, after)
    folders = after.is_dir()
    for path in (mask, truth, probability):
        if path is not None and path.is_dir() != folders:
            kind = "folders" if folders else "files"
            raise ConfigError(f"{path}: {before} and {after} are {kind}, so what lies on them must be {kind} too")
    if folders and suffix in writable:
        raise ConfigError(f"{out}: is one picture, {after} is a folder of images; name a folder with --out")
    if suffix not in writable and out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a folder, or a picture that ends in {', '.join(writable)}")
    failed = {fault.path.stem: str(fault) for fault in data.faults}
    drawn = []
    with bounded_cache():
        masks, coding = _masks_of(mask, data, ignore)
        truths, truth_coding = ({}, None) if truth is None else _masks_of(truth, data, ignore)
        heats = {} if probability is None else _files_of(probability, data)
    names = _legend_names(classes, coding, mask)
    with bounded_cache(), screen.progress("drawing") as update:
        for done, pair in enumerate(data.pairs, start=1):
            try:
                for folder, found in ((mask, masks), (truth, truths), (probability, heats)):
                    if folder is not None and pair.name not in found:
                        raise DataError(f"{folder}: has no file {pair.name}.png for the pair {pair.name}; add it")
                file = out if suffix in writable else out / f"{pair.name}.jpg"
                true = (truths[pair.name], truth_coding) if truth_coding else None
                draw_overlay(
                    pair, (masks[pair.name], coding), true, heats.get(pair.name), file,
                    style=style, bands=shown_bands, classes=names,
                )  # fmt: skip
                drawn.append(file)
            except DataError as error:
                if not folders:
                    raise
                failed[pair.name] = str(error)
            update(done, len(data.pairs))
    for problem in failed.values():
        complain(problem)
    screen.result({"out": out, "files": drawn, "failed": failed}, lambda console: console.print(str(out), markup=False))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _band_numbers(bands: str) -> list[int]:
    from segdiff.config import ConfigError

    numbers = [int(part) for part in bands.split(",") if re.fullmatch(r"\s*[0-9]{1,9}\s*", part)]
    if len(numbers) != bands.count(",") + 1 or len(numbers) not in (1, 3) or 0 in numbers:
        raise ConfigError(f"--bands {bands}: is no choice of bands; give three numbers from 1, like 4,3,2, or one")
    return numbers


def _legend_names(classes: str | None, coding: "MaskCoding", mask: Path) -> list[str] | None:
    """The names of the classes, or None where there is one of change without a name."""
    from segdiff.config import ConfigError

    if classes is None:
        numbered = [f"class {index}" for index in range(1, coding.classes)]
        return ["no change", *numbered] if len(numbered) > 1 else None
    names = [name.strip() for name in classes.split(",")]
    if len(names) < coding.classes:
        raise ConfigError(
            f"--classes: has {len(names)} names, {mask} {coding.classes} classes; name all, that of no change first"
        )
    return names


def _files_of(source: Path, data: "DataSet") -> dict[str, Path]:
    """The files by the name of their pair: one of any name, or those of a folder by their stems."""
    from data_pipelines.layouts import IMAGE_SUFFIXES, DataError

    names = {pair.name for pair in data.pairs}
    if not source.is_dir():
        return dict.fromkeys(names, source)
    images = (file for file in sorted(source.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES)
    found = {file.stem: file for file in images if file.stem in names}
    if not found:
        raise DataError(f"{source}: holds no file for any of the pairs; files pair by stem")
    return found


def _masks_of(source: Path, data: "DataSet", ignore: int | None) -> tuple[dict[str, Path], "MaskCoding"]:
    """The masks by the name of their pair, and the coding that they have together."""
    from data_pipelines.validation import recognise_files

    masks = _files_of(source, data)
    return masks, recognise_files(list(masks.values()), ignore)
