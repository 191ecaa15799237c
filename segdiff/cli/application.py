"""The application, and its commands in the order and the panels of its help."""

from typing import Annotated

import typer

from segdiff import __version__
from segdiff.cli.commands.check import check
from segdiff.cli.commands.demo import demo
from segdiff.cli.commands.evaluate import evaluate
from segdiff.cli.commands.export import export
from segdiff.cli.commands.models import models
from segdiff.cli.commands.overlay import overlay
from segdiff.cli.commands.pack import pack
from segdiff.cli.commands.predict import predict
from segdiff.cli.commands.prepare import prepare
from segdiff.cli.commands.report import report
from segdiff.cli.commands.serve import serve
from segdiff.cli.commands.synth import synth
from segdiff.cli.commands.train import train
from segdiff.cli.help_layout import Commands

PANELS = {
    "First steps": (demo, synth),
    "Data": (check, pack, prepare),
    "Models": (train, models, export, evaluate),
    "Prediction": (predict, report, serve, overlay),
}

app = typer.Typer(
    cls=Commands,
    help="Find what changed between two pictures of the same place or thing.",
    epilog="Begin with: segdiff demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"segdiff {__version__}")
        raise typer.Exit


@app.callback()
def _segdiff(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
