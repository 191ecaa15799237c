"""`segdiff synth`: a data set drawn."""

from pathlib import Path
from typing import Annotated

import typer

from segdiff.cli.options import Debug, Json, Quiet
from segdiff.cli.screen import Screen


def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for A, B, label and list.")],
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 64,
    size: Annotated[int, typer.Option(min=64, help="Height and width in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw pairs of aerial-like scenes in which buildings appear, vanish or grow."""
    screen = Screen(as_json, quiet)
    draw_pairs(screen, out, pairs, size, seed)
    screen.result(
        {"out": out, "pairs": pairs, "size": size, "seed": seed},
        lambda console: console.print(f"{pairs} pairs in {out}", markup=False),
    )


def draw_pairs(screen: Screen, out: Path, pairs: int, size: int, seed: int) -> None:
    """Draws a data set into ``out``. Raises ConfigError where it holds something."""
    from data_pipelines.synthetic.writing import write_scenes
    from segdiff.config import ConfigError

    with screen.progress("drawing") as update:
        try:
            write_scenes(out, pairs, size, seed, on_progress=update)
        except FileExistsError as error:
            raise ConfigError(str(error)) from error
