"""`segdiff report`: the page of a prediction folder."""

from pathlib import Path
from typing import Annotated

import typer

from segdiff.cli.options import Debug, Json, Quiet
from segdiff.cli.screen import Screen


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Prediction folder: the --out of predict or evaluate.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the page of a prediction folder again: OUT/report.html, to be opened in a browser, from disk."""
    from segdiff.visualization.report import write_report

    page = write_report(out)
    Screen(as_json, quiet).result({"out": out, "report": page}, lambda console: console.print(str(page), markup=False))
