"""What the commands show: help that fits a narrow terminal, progress that suits where it goes, whole tables."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from segdiff.cli import app, commands
from segdiff.cli.score_tables import render_objects, render_scores
from segdiff.cli.screen import Screen

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_a_module_of_the_commands_is_the_command_of_its_name():
    assert sorted(path.stem for path in Path(commands.__path__[0]).glob("[!_]*.py")) == COMMANDS


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_80_columns_uncut_and_has_no_types_of_programmers(narrow, command):
    shown = CliRunner().invoke(app, [*([command] if command else []), "--help"])
    assert shown.exit_code == 0
    assert max(map(len, shown.output.splitlines())) <= 80
    assert "…" not in shown.output, "words too long for their column"
    assert not re.search(r"<(bool|int|float)", shown.output)


def test_the_paragraphs_of_a_help_are_filled(narrow):
    shown = CliRunner().invoke(app, ["export", "--help"]).output
    assert re.search(r"cost 0\.005 of F1 on DATA; else nothing is left behind", shown)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_quiet_and_speak_json(command):
    parameters = {option for parameter in _parameters(command) for option in parameter.opts}
    assert {"--json", "--quiet", "--debug"} <= parameters


def _parameters(command: str) -> list:
    return typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]


class Clock:
    """Stands for the module time."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def plain_lines(monkeypatch, capsys, seconds: float, *, quiet: bool = False, lines: bool = True) -> list[str]:
    """What a job of 40 pairs says that takes so long, where nobody watches."""
    clock = Clock()
    monkeypatch.setattr("segdiff.cli.screen.time", clock)
    with Screen(as_json=False, quiet=quiet).progress("predicting", lines=lines) as update:
        for done in range(1, 41):
            clock.now += seconds / 40
            update(done, 40)
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_where_it_is_no_terminal_a_long_job_says_a_line_at_each_tenth_with_rate_and_time_left(monkeypatch, capsys):
    said = plain_lines(monkeypatch, capsys, seconds=400)
    assert len(said) == 10
    assert said[0] == "predicting: 4 of 40 pairs, 0.1 pairs/s, 0:06:00 left"
    assert said[-1] == "predicting: 40 of 40 pairs"


def test_a_short_job_says_one_line_and_a_quiet_one_none(monkeypatch, capsys):
    assert plain_lines(monkeypatch, capsys, seconds=0.5) == ["predicting: 40 of 40 pairs"]
    assert plain_lines(monkeypatch, capsys, seconds=400, quiet=True) == []
    assert plain_lines(monkeypatch, capsys, seconds=400, lines=False) == []


class Terminal(io.StringIO):
    """A screen of 80 columns that remembers."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_with_rate_and_time_is_drawn_beside_the_json(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out, err = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    screen = Screen(as_json=True, quiet=False)
    with screen.progress("predicting") as update:
        screen.say("a line above the bar")
        update(999_999, 1_000_000)
        update(1_000_000, 1_000_000)
    screen.result({"predicted": 1_000_000}, lambda console: None)
    assert json.loads(out.getvalue()) == {"predicted": 1_000_000}
    bars = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", err.getvalue())]
    assert "a line above the bar" in bars
    whole = [line for line in bars if line.startswith("predicting") and "1000000/1000000" in line]
    assert whole
    assert "pairs/s" in whole[-1]
    assert re.search(r"\d:\d\d:\d\d", whole[-1])
    assert max(map(len, bars)) <= 80


def test_tables_of_long_names_and_large_numbers_are_whole_at_80_columns():
    rates = {"f1": 0.5, "iou": 0.25, "precision": 0.125, "recall": 1.0}
    counts = {"support": 1_234_567, "found": 123_456, "right": 1}
    names = ("background", "new residential building under construction", "water [red]")
    scores = {"classes": dict.fromkeys(names, rates), **rates, "kappa": -0.001, "accuracy": 1.0, "pairs": 3}
    scores["confusion"] = [[9, 0, 1], [0, 0, 0], [1, 0, 9]]
    scores["intervals"] = {"f1": [0.4, 0.6]}
    objects = {"classes": {name: {**rates, "ap": None, **counts} for name in names[1:]}, **rates, "map": 0.5, **counts}
    objects["intervals"] = {"f1": [0.4, 0.6], "map": None}
    shown = io.StringIO()
    console = Console(file=shown, width=80, soft_wrap=True, highlight=False)
    render_scores(console, {**scores, "split": "val"})
    render_scores(console, {**scores, "split": "val", "intervals": {}})
    del scores["intervals"]
    render_scores(console, {**scores, "split": "val"})  # as a training's own
    tables = shown.getvalue()
    render_objects(
        console,
        {**objects, "iou": 0.33, "truth": "boxes", "join": 0, "pad": 0, "minimum_area": 1, "minimum_score": 0.25},
    )  # fmt: skip
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in shown.getvalue()
    assert "1,234,567" in shown.getvalue()
    assert re.search(r"^new residential building +- +- +- +-", tables, re.MULTILINE), "neither true nor predicted"
    assert re.search(r"^water \[red\] +0\.5000 +0\.2500", tables, re.MULTILINE)
    assert "water [red]" in shown.getvalue()
