"""What a command shows while it works and when it is done."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Screen:
    """Where lines, tables and progress go: standard output, or standard error where that is JSON alone."""

    def __init__(self, as_json: bool, quiet: bool):
        self.as_json, self.quiet = as_json, quiet
        self.console = Console(file=sys.stderr if as_json else sys.stdout, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Prints a line on what is being done, unless quiet."""
        if not self.quiet:
            self.console.print(line, markup=False)

    def result(self, content: dict[str, Any], render: Callable[[Console], None]) -> None:
        """The outcome of a command: JSON, or what ``render`` prints."""
        if self.as_json:
            print(json.dumps(content, indent=2, default=str))
        else:
            render(self.console)

    @contextlib.contextmanager
    def progress(self, what: str, unit: str = "pairs", *, lines: bool = True) -> Iterator[Callable[[float, int], None]]:
        """A bar with rate and time left on a terminal, a line at each tenth elsewhere. Yields update(done, total)."""
        if self.quiet or not (lines or self.console.is_terminal):
            yield lambda done, total: None
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), _Rate(unit),
                TimeRemainingColumn(elapsed_when_finished=True),
            )  # fmt: skip
            with Progress(*columns, console=self.console) as bar:
                task = bar.add_task(what, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)
        else:
            began = told = time.monotonic()
            tenth = 0

            def update(done: float, total: int) -> None:
                nonlocal tenth, told
                now, reached = time.monotonic(), int(done * 10 // max(total, 1))
                if reached <= tenth or (now - told < 1 and done < total):  # a short job is not worth ten lines
                    return
                tenth, told = reached, now
                line = f"{what}: {int(done):,} of {total:,} {unit}"
                if done < total:
                    rate = done / (now - began)
                    line += f", {rate:.3g} {unit}/s, {timedelta(seconds=round((total - done) / rate))} left"
                self.say(line)

            yield update


class _Rate(ProgressColumn):
    """How many a second."""

    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s", style="cyan")
