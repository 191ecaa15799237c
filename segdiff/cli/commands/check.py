"""`segdiff check`: a data set validated."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from segdiff.cli.arguments import require_there
from segdiff.cli.errors import FAULTS
from segdiff.cli.options import Debug, Ignore, Json, Quiet
from segdiff.cli.screen import Screen

if TYPE_CHECKING:
    from data_pipelines.validation import CheckReport


def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder or CSV file of a data set.")],
    ignore: Ignore = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Validate a data set: every fault by name, and what is in it. Exit status 1 where there are faults."""
    screen = Screen(as_json, quiet)
    report = checked_data(screen, data, ignore)
    screen.result(report.to_json(), lambda console: _render_report(console, report))
    if report.faults:
        raise typer.Exit(FAULTS)


def checked_data(screen: Screen, data: Path, ignore: int | None) -> "CheckReport":
    """The report on a data set. Raises ConfigError where there is none, DataError where it cannot be read."""
    from data_pipelines.layouts import find_pairs
    from data_pipelines.validation import check as check_data

    require_there(data)
    found = find_pairs(data)
    with screen.progress("checking", "files") as update:
        return check_data(found, ignore=ignore, on_progress=update)


def _render_report(console: Console, report: "CheckReport") -> None:
    coding = "not recognised" if report.coding is None else f"{report.coding.name}, {report.coding.classes} classes"
    console.print(str(report.data.root), markup=False, style="bold", end="  ")
    console.print(f"layout {report.data.layout}; masks {coding}", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("split", "pairs", "sizes", "bands", "dtypes", "change", "classes"):
        table.add_column(column, justify="right" if column in ("pairs", "change") else "left", overflow="fold")
    for split, part in report.splits.items():
        sizes = [f"{w} x {h} ({n})" if len(part.sizes) > 1 else f"{w} x {h}" for (h, w), n in _most(part.sizes, 4)]
        more = [f"and {len(part.sizes) - 4} more"] if len(part.sizes) > 4 else []
        fractions = part.class_fractions.items() if len(part.class_fractions) > 2 else ()
        table.add_row(
            split,
            f"{part.pairs:,}",
            ", ".join(sizes + more),
            ", ".join(f"{bands} ({n})" if len(part.bands) > 1 else str(bands) for bands, n in part.bands.items()),
            ", ".join(part.dtypes),
            "-" if part.change_fraction is None else f"{part.change_fraction:.2%}",
            " ".join(f"{k}: {fraction:.2%}" for k, fraction in fractions) or "-",
        )
    console.print(table)
    for note in report.data.notes:
        console.print(f"note: {note}", markup=False)
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow")
    for fault in report.faults:
        console.print(f"fault: {fault}", markup=False, style="red")
    count = len(report.faults)
    console.print("no faults" if not count else f"{count} fault{'s' if count > 1 else ''}", style="bold")


def _most(counts: dict[Any, int], most: int) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])[:most]
