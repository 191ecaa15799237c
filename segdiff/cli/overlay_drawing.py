"""The picture of a pair with its mask, drawn from files of any size in little memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from data_pipelines.layouts import Pair
    from data_pipelines.validation import MaskCoding
    from segdiff.visualization.overlays import Marks


def draw_overlay(
    pair: "Pair",
    mask: tuple[Path, "MaskCoding"],
    truth: tuple[Path, "MaskCoding"] | None,
    probability: Path | None,
    file: Path,
    *,
    style: Literal["contour", "fill", "both"] | None,
    bands: Sequence[int] | None,
    classes: Sequence[str] | None,
) -> None:
    """Reads everything of a pair in a size that memory holds, however large the images are, and draws it."""
    from data_pipelines.decoding import read_info, require_same_grid
    from data_pipelines.layouts import DataError
    from data_pipelines.overviews import probability_strips, read_overview
    from segdiff.inference.previews import Preview, preview_factor
    from segdiff.visualization.display import display_rgb
    from segdiff.visualization.drawing import probability_levels
    from segdiff.visualization.overlays import blink, side_by_side
    from segdiff.visualization.pictures import write_gif, write_image

    info = read_info(pair.after)
    for path in (pair.before, mask[0], *([truth[0]] if truth else []), *([probability] if probability else [])):
        require_same_grid(path, pair.after)
        other = read_info(path)
        if (other.height, other.width) != (info.height, info.width):
            raise DataError(
                f"{path}: is {other.width} x {other.height} pixels (width x height), {pair.after} is "
                f"{info.width} x {info.height}; crop or resample one"
            )
    factor = preview_factor(info.height, info.width)
    size = -(-info.height // factor), -(-info.width // factor)
    before, after = (
        display_rgb(image.pixels, image.valid, stretch=image.sensor)
        for image in (read_overview(path, *size, bands) for path in (pair.before, pair.after))
    )
    marks = _read_marks(mask, truth, info.height, info.width, classes)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".gif":
        frames = blink(before, after, marks, style=style or "contour")
        write_gif(file, frames, [color for _, color in marks.legend if color])
        return
    heat = None
    if probability is not None:
        levels = Preview(info.height, info.width, "largest")
        try:
            for strip in probability_strips(probability):
                levels.add(probability_levels(strip))
        except ValueError as error:
            raise DataError(f"{probability}: {error}") from error
        heat = levels.image()
    write_image(file, side_by_side(before, after, marks, probability=heat, style=style))


def _read_marks(
    mask: tuple[Path, "MaskCoding"],
    truth: tuple[Path, "MaskCoding"] | None,
    height: int,
    width: int,
    classes: Sequence[str] | None,
) -> "Marks":
    """What is drawn of a mask, or of a mask and its truth, compared pixel by pixel before they are made small."""
    import numpy as np

    from data_pipelines import IGNORE
    from data_pipelines.decoding import mask_strips
    from data_pipelines.overviews import strips_together
    from segdiff.inference.previews import Preview
    from segdiff.visualization.drawing import compare
    from segdiff.visualization.overlays import mark_change, mark_outcomes

    small = Preview(height, width, "largest")
    for strips in strips_together(*(mask_strips(path) for path, _ in (mask, *([truth] if truth else [])))):
        labels = mask[1].decode(strips[0])
        if truth:
            true = truth[1].decode(strips[1])
            if mask[1].values == (0, 255):
                # a mask that tells change from none is right wherever the truth has any class
                true = np.where((true > 0) & (true != IGNORE), np.uint8(1), true)
            labels = compare(labels, true)
        small.add(labels + np.uint8(1))  # wraps: what is ignored is the smallest
    labels = small.image() - np.uint8(1)
    return mark_outcomes(labels) if truth else mark_change(labels, classes)
