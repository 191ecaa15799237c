"""`segdiff prepare`: a published data set, as downloaded, brought into the layout of DATA."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from segdiff.cli.arguments import require_there
from segdiff.cli.options import Debug, Json, Quiet
from segdiff.cli.screen import Screen


def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="levir_cd, whu_cd, dsifn, clcd, oscd, air_change or deeppcb: also its configuration."
        ),
    ],
    src: Annotated[Path, typer.Argument(metavar="SRC", help="Folder that it was downloaded to, unpacked.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for train, val and test.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the prepared data set in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Bring a published data set, as downloaded, into the layout of DATA, by the protocol that papers compare on."""
    from data_pipelines.published.preparing import DATA_SETS, require_free
    from data_pipelines.published.preparing import prepare as prepare_data
    from data_pipelines.whole_folders import new_folder
    from segdiff.config import ConfigError

    screen = Screen(as_json, quiet)
    if name not in DATA_SETS:
        raise ConfigError(f"{name}: no such data set; allowed are {', '.join(DATA_SETS)}")
    require_there(src)
    if not src.is_dir():
        raise ConfigError(f"{src}: is a file; unpack it, and give the folder")
    inner, outer = sorted((src.resolve(), out.resolve()), key=lambda path: -len(path.parts))
    if inner.is_relative_to(outer):
        raise ConfigError(f"{out}: SRC and OUT lie in one another; name a folder elsewhere, SRC is left alone")
    try:
        require_free(out, overwrite=overwrite)
        with new_folder(out, replace=overwrite, alone=True) as folder, screen.progress("preparing") as update:
            prepared = prepare_data(name, src, folder, on_progress=update)
    except FileExistsError as error:
        raise ConfigError(str(error)) from error

    def render(console: Console) -> None:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("split", "pairs", "published"):
            table.add_column(column, justify="left" if column == "split" else "right")
        for split, count in prepared.published.items():
            table.add_row(split, f"{prepared.pairs.get(split, 0):,}", f"{count:,}")
        console.print(table)
        for note in prepared.notes:
            console.print(f"note: {note}", markup=False)
        console.print(f"{sum(prepared.pairs.values()):,} pairs in {out}", markup=False)

    screen.result({"out": out, **asdict(prepared)}, render)
