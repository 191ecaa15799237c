"""The commands. Whatever needs TensorFlow is imported inside the command that needs it."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from segdiff import __version__

if TYPE_CHECKING:
    from data_pipelines.layouts import DataSet, Pair
    from data_pipelines.validation import CheckReport, MaskCoding
    from segdiff.inference.folder_run import DetectorPlan, Engine, Unsure
    from segdiff.inference.object_scores import ObjectOptions
    from segdiff.inference.predictor import Detector
    from segdiff.inference.ray_engine import PoolSize
    from segdiff.model_files import PostProcessing
    from segdiff.visualization.overlays import Marks

FAULTS, WRONG_CALL, SOME_FAILED, CANNOT_GO_ON = 1, 2, 3, 4

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The class of every wrong call, which typer does not export."""


class _Commands(TyperGroup):
    """Commands with a help that fits 80 columns: a flag has no type, and a number is N."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of `segdiff` itself."""
        return [_shortened(parameter) for parameter in super().get_params(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            # the lines of a paragraph are the source's: what is shown has its own
            command.help = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
            for parameter in command.get_params(ctx):
                _shortened(parameter)
        return command


def _shortened(parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.metavar is None and parameter.type_descriptor.annotation in (int, float):
        parameter.metavar = "N"
    return parameter


app = typer.Typer(
    cls=_Commands,
    help="Find what changed between two pictures of the same place or thing.",
    epilog="Begin with: segdiff demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only, no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and TensorFlow's log.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the predictions of another job in OUT.")]
AnyModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="Run folder, .keras file, exported folder or shipped name.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Probability from which a pixel is change, above 0, below 1; default: the model's."
    ),
]
Tile = Annotated[int | None, typer.Option(min=1, help="Side of a tile in pixels; default: the model's.")]
Overlap = Annotated[int | None, typer.Option(min=0, help="Pixels that tiles share; default: the model's.")]
Resolution = Annotated[
    float | None,
    typer.Option(
        metavar="M", help="Metres per pixel of images that do not say theirs; they are brought to the model's."
    ),
]
Ensemble = Annotated[
    list[str] | None, typer.Option(metavar="MODEL", help="Another model whose probabilities are averaged in.")
]
TestTimeAugmentation = Annotated[
    Literal["d4"] | None,
    typer.Option(metavar="d4", help="d4: the mean over the eight turns and mirror images; 8 x the time."),
]
Runtime = Annotated[
    Literal["auto", "tensorflow", "openvino"],
    typer.Option(metavar="NAME", help="auto (OpenVINO on processors, TensorFlow on GPUs), tensorflow or openvino."),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(
        metavar="NAME",
        help="auto (bfloat16 where the processor multiplies it), float32, bfloat16, or int8, of models exported so.",
    ),
]
PostProcessed = Annotated[
    str | None,
    typer.Option(
        "--post-processing",
        metavar="STEPS",
        help="none, or of closing=RADIUS, fill_holes=AREA, vote and minimum_area=AREA some with commas between, no "
        "spaces; default: the model's.",
    ),
]
Ignore = Annotated[int | None, typer.Option(min=1, max=255, help="Mask value of pixels without truth.")]


class _Screen:
    """Where lines, tables and progress go: standard output, or standard error where that is JSON alone."""

    def __init__(self, as_json: bool, quiet: bool):
        self.as_json, self.quiet = as_json, quiet
        self.console = Console(file=sys.stderr if as_json else sys.stdout, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
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


@app.command(rich_help_panel="First steps")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw pairs, train on them, evaluate, predict and overlay: the whole way, in under 5 minutes."""
    _import_tensorflow(debug)
    import shutil

    from segdiff.config import ConfigError, load_config

    screen = _Screen(as_json, quiet)
    run, data, predictions = out, out / "data", out / "predictions"
    if out.exists() and any(out.iterdir()):
        drawn = [image.name.startswith((".", "scene_")) for image in (data / "A").glob("*")]
        if not all(drawn) or not data.exists():
            raise ConfigError(f"{out}: is not empty and holds no demo; name another folder with --out")
        if not overwrite:
            raise ConfigError(f"{out}: holds an earlier demo; name another folder with --out, or --overwrite")
        for name in DEMO_MAKES:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
    screen.say("1 of 3: drawing pairs of aerial scenes, some buildings of which change")
    _draw_pairs(screen, data, pairs=DEMO_PAIRS, size=256, seed=0)
    screen.say("2 of 3: training a change detector on them")
    config = load_config(_config_file("demo"), [f"data.root={json.dumps(str(data))}"])
    _train(screen, config, run, resume=False)
    screen.say("3 of 3: predicting the pairs kept for validation, with scores, masks and overlays")
    scores = _evaluate(screen, run, data, split="val", out=predictions, ignore=None, overwrite=False)
    looks = {"report": predictions / "report.html", "overlays": predictions / "overlays"}
    looks |= {"masks": predictions / "masks", "summary": predictions / "summary.csv"}
    looks |= {"model": run / "model.keras", "training": run / "report.html"}

    def render(console: Console) -> None:
        console.print(f"\nValidation F1 of the change class: [bold]{scores['f1']:.3f}[/bold]\n\nLook at")
        for what, path in looks.items():
            console.print(f"  {what:9} {path}", markup=False)
        console.print("\nYour own pairs next:  segdiff check DATA  and  segdiff train levir_cd --set data.root=DATA")

    screen.result({**scores, "files": looks}, render)


DEMO_PAIRS = 240
DEMO_MAKES = (
    "data", "predictions", "config.yaml", "environment.json", "history.csv", "metrics.json", "curves.png",
    "confusion.png", "precision_recall.png", "report.html", "model.keras", "list", "tensorboard", "backup",
)  # fmt: skip


@app.command(rich_help_panel="First steps")
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
    screen = _Screen(as_json, quiet)
    _draw_pairs(screen, out, pairs, size, seed)
    screen.result(
        {"out": out, "pairs": pairs, "size": size, "seed": seed},
        lambda console: console.print(f"{pairs} pairs in {out}", markup=False),
    )


def _draw_pairs(screen: _Screen, out: Path, pairs: int, size: int, seed: int) -> None:
    from data_pipelines.synthetic.writing import write_scenes
    from segdiff.config import ConfigError

    with screen.progress("drawing") as update:
        try:
            write_scenes(out, pairs, size, seed, on_progress=update)
        except FileExistsError as error:
            raise ConfigError(str(error)) from error


@app.command(rich_help_panel="Data")
def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder or CSV file of a data set.")],
    ignore: Ignore = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Validate a data set: every fault by name, and what is in it. Exit status 1 where there are faults."""
    screen = _Screen(as_json, quiet)
    report = _checked(screen, data, ignore)
    screen.result(report.to_json(), lambda console: _render_report(console, report))
    if report.faults:
        raise typer.Exit(FAULTS)


@app.command(rich_help_panel="Data")
def pack(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder or CSV file of a data set.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the shards; give it wherever DATA goes.")],
    shard_size: Annotated[int, typer.Option(metavar="MB", min=1, help="About how large a shard is.")] = 256,
    ignore: Ignore = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the packed set in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Pack a data set into TFRecord shards, its files as they are; it is checked first."""
    from data_pipelines.packing import pack as pack_data
    from data_pipelines.packing import require_free
    from segdiff.config import ConfigError

    screen = _Screen(as_json, quiet)
    _require_there(data)
    try:
        require_free(out, overwrite=overwrite)
        report = _checked(screen, data, ignore)
        _import_tensorflow(debug)
        with screen.progress("packing") as update:
            index = pack_data(
                report, out, shard_bytes=shard_size * 10**6, overwrite=overwrite, on_progress=update
            )  # fmt: skip
    except FileExistsError as error:
        raise ConfigError(str(error)) from error
    size, shards = sum(index.shards.values()), len(index.shards)
    screen.result(
        {"out": out, "pairs": len(index.records), "shards": shards, "bytes": size},
        lambda console: console.print(
            f"{len(index.records)} pairs in {shards} shard{'s' if shards != 1 else ''}, {size / 10**6:.1f} MB: {out}",
            markup=False,
        ),
    )


@app.command(rich_help_panel="Data")
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

    screen = _Screen(as_json, quiet)
    if name not in DATA_SETS:
        raise ConfigError(f"{name}: no such data set; allowed are {', '.join(DATA_SETS)}")
    _require_there(src)
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


def _require_two(before: Path, after: Path) -> None:
    """What is not two image files or two folders is a wrong call."""
    from data_pipelines.layouts import DataError, pair_of_files
    from segdiff.config import ConfigError

    _require_there(before, after)
    try:
        pair_of_files(before, after)
    except DataError as error:
        raise ConfigError(str(error)) from error


def _require_there(*paths: Path) -> None:
    from segdiff.config import ConfigError

    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")


def _checked(screen: _Screen, data: Path, ignore: int | None) -> "CheckReport":
    from data_pipelines.layouts import find_pairs
    from data_pipelines.validation import check as check_data

    _require_there(data)
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


@app.command(rich_help_panel="Models")
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or a ready one: demo, levir_cd ...")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. data.root=DATA.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run folder; default: runs/ and CONFIG's name.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    workers: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", help="All processes of this training, this one too.")
    ] = None,
    index: Annotated[int | None, typer.Option(metavar="I", help="Which of --workers this is, from 0.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a change detector into a run folder; the data are checked first."""
    from segdiff.config import load_config

    screen = _Screen(as_json, quiet)
    file = _config_file(config)
    run = Path("runs") / file.stem if out is None else out
    job = load_config(file, overrides or ())
    _import_tensorflow(debug)
    metrics = _train(screen, job, run, resume, workers.split(",") if workers else (), index)
    if metrics is None:
        screen.result(
            {"run": run, "worker": index}, lambda console: console.print("done; the chief has written the run")
        )
        return

    def render(console: Console) -> None:
        _render_scores(console, metrics)
        console.print(f"model {run / 'model.keras'}, threshold {metrics['threshold']:.3f}", markup=False)
        console.print(f"page  {run / 'report.html'}", markup=False)

    screen.result({"run": run, **metrics}, render)


def _config_file(name: str) -> Path:
    """The YAML file of that path, else the ready configuration of that name."""
    from segdiff.config import ConfigError
    from segdiff.resources import shipped

    path = Path(name)
    if path.is_file():
        return path
    ready = shipped("configs") / f"{path.stem}.yaml"
    if path.suffix in ("", ".yaml") and path.parent in (Path(), Path("configs")) and ready.is_file():
        return ready
    names = ", ".join(sorted(file.stem for file in shipped("configs").glob("*.yaml")))
    raise ConfigError(f"{name}: there is no such file or ready configuration; ready are {names}")


def _train(
    screen: _Screen, config: Any, run: Path, resume: bool, workers: Sequence[str] = (), index: int | None = None
) -> dict[str, Any] | None:
    """Trains and shows how it went; None in a worker that is not the chief."""
    from segdiff.inference.postprocessing import postprocess_mask
    from segdiff.training.trainer import train as run_training
    from segdiff.visualization.run_report import show_outcome
    from segdiff.visualization.validation_pairs import pair_sheet

    # elsewhere than on a terminal the line of each epoch is progress enough
    with screen.progress("training", "steps", lines=False) as update:
        return run_training(
            config, run, resume=resume, workers=workers, index=index, draw=pair_sheet, show=show_outcome,
            post_process=postprocess_mask, say=screen.say, on_progress=update,
        )  # fmt: skip


@app.command(rich_help_panel="Models")
def models(as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the models that ship: a name goes wherever MODEL does. Each has a card that says how good it is."""
    from segdiff.released import HASH_SHOWN, released_models

    released = released_models()

    def render(console: Console) -> None:
        for model in released:
            trained = model.settings.ground_resolution
            facts = {
                "bands": "any number" if model.bands is None else str(model.bands),
                "classes": ", ".join(model.settings.classes[1:]) if len(model.settings.classes) > 2 else "",
                "resolution": " to ".join(f"{side:g}" for side in sorted(set(trained))) + " m" if trained else "",
                "in short": model.evidence,
                "file": f"{model.file}, {model.size / 10**6:.1f} MB, sha256 {model.sha256[:HASH_SHOWN]}",
                "card": str(model.card),
            }
            console.print(Text.assemble((model.name, "bold"), ": ", model.summary))
            for name, fact in facts.items():
                if fact:
                    console.print(Text.assemble((f"  {name:<12}", "dim"), fact))
            console.print()
        console.print(f"segdiff predict {released[0].name} BEFORE AFTER --out OUT", markup=False)

    listed = [
        {
            "name": model.name,
            "summary": model.summary,
            "in_short": model.evidence,
            "file": model.file,
            "card": model.card,
            "bytes": model.size,
            "sha256": model.sha256,
            "bands": model.bands,
            **asdict(model.settings),
        }
        for model in released
    ]
    _Screen(as_json, quiet).result({"models": listed}, render)


@app.command(rich_help_panel="Models")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run folder, .keras file or shipped name.")],
    kind: Annotated[
        Literal["savedmodel", "onnx", "openvino", "tflite"],
        typer.Option(
            "--format",
            metavar="NAME",
            help="savedmodel: TensorFlow; onnx: ONNX Runtime and many others; openvino: processors, the fastest; "
            "tflite: phones and small devices, one tile of the model's size at a time.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="OUT", help="New folder; predict and evaluate take it as MODEL.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Labelled data set to compare on, and to calibrate int8; default: drawn."),
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(
            metavar="NAME",
            help="float16 (of tflite the default) halves the file, int8 (by --data) is the fastest: openvino and "
            "tflite alone; else float32.",
        ),
    ] = None,
    ignore: Ignore = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the exported model in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a model in another format. It is loaded again and compared with the original before it counts as written.

    The masks have to agree on 99.9 % of the pixels, in int8 on 99 %, and int8 may cost 0.005 of F1 on DATA; else
    nothing is left behind and the exit status is 4. OUT/manifest.json tells other programs what goes in and comes out.
    """
    from segdiff.config import ConfigError, load_config
    from segdiff.inference.formats import choose_export, require_exportable
    from segdiff.model_files import MANIFEST

    screen = _Screen(as_json, quiet)
    chosen = choose_export(kind, precision)
    if chosen == "int8" and data is None:
        raise ConfigError("--precision int8: is calibrated on pairs like those to come; name a data set with --data")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a new folder with --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MANIFEST).is_file():
            raise ConfigError(f"{out}: is not empty and holds no exported model; name another folder with --out")
        if not overwrite:
            raise ConfigError(f"{out}: holds an exported model; name another folder with --out, or --overwrite")
    require_exportable(model)
    if ignore is None and (Path(model) / "config.yaml").is_file():
        ignore = load_config(Path(model) / "config.yaml").data.ignore
    report = None if data is None else _checked(screen, data, ignore)
    _import_tensorflow(debug)
    from segdiff.inference.export_model import export_model

    @contextlib.contextmanager
    def silence() -> Iterator[None]:
        # NNCF shows its progress on standard output
        with _silence(debug), contextlib.nullcontext() if debug else contextlib.redirect_stdout(io.StringIO()):
            yield

    with screen.progress("comparing") as update:
        manifest = export_model(
            model, out, kind, chosen, data=report, overwrite=overwrite, silence=silence, say=screen.say,
            on_progress=update,
        )  # fmt: skip
    checked = manifest.checked or {}
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())

    def render(console: Console) -> None:
        console.print(f"{kind} in {chosen}, {size / 10**6:.1f} MB: {out}", markup=False, style="bold")
        console.print(
            f"on {checked['on']} the masks agree on {checked['equal_masks']:.4%} of the pixels, probabilities differ "
            f"by {checked['largest_difference']:.2g} at most",
            markup=False,
        )
        if checked["f1"] is not None:
            console.print(f"F1 there {checked['f1']:.4f}, of the model itself {checked['f1_model']:.4f}", markup=False)

    screen.result(
        {"out": out, "format": kind, "precision": chosen, "bytes": size, "tile": manifest.tile, **checked}, render
    )


@app.command(rich_help_panel="Models")
def evaluate(
    model: AnyModel,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled data set.")],
    split: Annotated[
        Literal["test", "val", "train", "all"] | None,
        typer.Option(metavar="SPLIT", help="test, val, train or all; default: test where there is one, else all."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="OUT", help="Also write masks and overlays with truth.")] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Also score objects: boxes of regions against true ones.")
    ] = False,
    iou: Annotated[float, typer.Option(min=0, max=1, help="An object is right above this IoU with a true box.")] = 0.33,
    join: Annotated[
        int, typer.Option(min=0, help="Regions whose dilations by so many pixels touch are one object.")
    ] = 0,
    pad: Annotated[int, typer.Option(min=0, help="Pixels that a box is wider than its region, on each side.")] = 0,
    minimum_area: Annotated[int, typer.Option(min=1, help="Objects of fewer pixels are left out.")] = 1,
    resolution: Resolution = None,
    post_processing: PostProcessed = None,
    ensemble: Ensemble = None,
    tta: TestTimeAugmentation = None,
    runtime: Runtime = "auto",
    precision: Precision = "auto",
    ignore: Ignore = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a model on labelled pairs: one confusion matrix over all pixels, and with --objects every object."""
    _import_tensorflow(debug)
    from segdiff.config import ConfigError
    from segdiff.inference.object_scores import ObjectOptions

    try:
        options = ObjectOptions(iou=iou, join=join, pad=pad, minimum_area=minimum_area)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not objects and options != ObjectOptions():
        raise ConfigError("--iou, --join, --pad and --minimum-area are about objects; add --objects")
    screen = _Screen(as_json, quiet)
    scores = _evaluate(
        screen, Path(model), data, split=split, out=out, ignore=ignore, overwrite=overwrite,
        objects=options if objects else None, resolution=resolution, post_processing=post_processing,
        ensemble=ensemble or (), tta=tta, runtime=runtime, precision=precision,
    )  # fmt: skip

    def render(console: Console) -> None:
        _render_scores(console, scores)
        if objects:
            _render_objects(console, scores["objects"])
        _render_unsure(console, scores)

    screen.result(scores, render)
    if scores["failed"]:
        raise typer.Exit(SOME_FAILED)


def _evaluate(
    screen: _Screen,
    model: Path,
    data: Path,
    *,
    split: str | None,
    out: Path | None,
    ignore: int | None,
    overwrite: bool,
    objects: "ObjectOptions | None" = None,
    resolution: float | None = None,
    post_processing: str | None = None,
    ensemble: Sequence[str] = (),
    tta: Literal["d4"] | None = None,
    runtime: Literal["auto", "tensorflow", "openvino"] = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
) -> dict[str, Any]:
    from data_pipelines.layouts import DataError
    from data_pipelines.validation import FaultyDataError
    from segdiff.config import ConfigError, load_config
    from segdiff.files import write_whole
    from segdiff.inference.boxes import read_true_boxes
    from segdiff.inference.evaluation import Scoreboard, Truth, split_pairs
    from segdiff.inference.folder import Job, PredictionFolder
    from segdiff.inference.folder_run import Unsure
    from segdiff.inference.object_scores import ObjectScoreboard
    from segdiff.inference.pair_writer import confidence_text
    from segdiff.inference.predictor import FailedPair, load, predict_pairs
    from segdiff.model_files import resolve_model
    from segdiff.visualization.layers import write_layers
    from segdiff.visualization.overlays import overlay as draw
    from segdiff.visualization.pictures import write_image
    from segdiff.visualization.report import write_report

    run = load_config(model / "config.yaml") if (model / "config.yaml").is_file() else None
    if ignore is None and run is not None:
        ignore = run.data.ignore
    steps = _post_processing(post_processing)
    resolve_model(model)  # a wrong name is said before the data are read
    report = _checked(screen, data, ignore)
    if report.faults or report.coding is None:
        raise FaultyDataError([report])
    chosen, pairs = split_pairs(report.data, split, model)
    with _silence("--debug" in sys.argv):
        detector = load(
            model, runtime=runtime, precision=precision, ensemble=ensemble, test_time_augmentation=tta is not None,
            post_processing=steps,
        )  # fmt: skip
    classes = detector.settings.classes
    try:
        detector.check_options(threshold=None, tile=None, overlap=None, resolution=resolution)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        truth = Truth(report.coding, len(classes))
    except DataError as error:
        raise DataError(f"{data}: {error}") from error
    board = Scoreboard(classes)
    object_board = ObjectScoreboard(classes, objects) if objects else None
    boxes = read_true_boxes(pairs, classes) if objects else {}
    for bands in (detector.bands, detector.bands_after):
        if bands is not None and report.bands != bands and (report.bands, bands) != (1, 3):
            raise ConfigError(f"{data}: its images have {report.bands} bands, the model {model} takes {bands}")
    screen.say(f"pairs of split {chosen}: {len(pairs)}, threshold {detector.settings.threshold:.3f}")
    trained_on = [] if run is None else [Path(root.path) for root in run.data.root]
    if resolution is not None or data.resolve() not in trained_on:  # what a run was trained on needs no hint
        _say_resolution(screen, detector, pairs[0], resolution)
    errors: dict[str, str] = {}
    unsure = Unsure()
    with contextlib.ExitStack() as stack:
        folder = None
        if out is not None:
            true_masks = {pair.name: str(pair.mask.resolve()) for pair in pairs if pair.mask}
            options = {
                "split": chosen,
                "ignore": ignore,
                "resolution": resolution,
                **_how(detector, ensemble, tta),
                **({"objects": asdict(objects)} if objects else {}),
            }
            job = Job(detector.path, options, {"data": str(data.resolve())}, true_masks)
            columns = ("f1", "precision", "recall", "iou")
            object_columns = ("object_f1", "object_precision", "object_recall") if objects else ()
            folder = PredictionFolder(
                out, job, classes=classes, draw=draw, write_image=write_image, write_layers=write_layers,
                columns=(*columns, *object_columns), overwrite=overwrite, resume=False,
            )  # fmt: skip
            stack.enter_context(folder)
        update = stack.enter_context(screen.progress("evaluating"))
        for done, result in enumerate(predict_pairs(detector, pairs, resolution=resolution), start=1):
            try:
                if isinstance(result, FailedPair):
                    raise DataError(result.error)
                true = truth.read(result.pair)
                scores = board.add(result.prediction, true)
                unsure.look_at(result.pair.name, confidence_text(result.prediction.confidence))
                if object_board:
                    scores |= object_board.add(result.prediction, true, boxes.get(result.pair.name))
                if folder:
                    folder.add(result.pair, result.images, result.prediction, result.seconds, true, scores)
            except DataError as error:
                errors[result.pair.name] = str(error)
                _complain(str(error))
                if folder:
                    folder.fail(result.pair.name, str(error))
            update(done, len(pairs))
    if not board.pairs:
        raise DataError(f"{data}: none of the {len(pairs)} pairs of split {chosen} could be scored")
    figures = {
        "model": detector.path,
        "data": data,
        "split": chosen,
        "threshold": detector.settings.threshold,
        "post_processing": asdict(detector.post_processing),
        **board.scores(),
        "intervals": board.intervals(),
        "failed": errors,
        **(_unsure_figures(unsure) if detector.settings.relative else {}),
    }
    if object_board:
        truth_from = "boxes" if boxes else "masks"
        figures["objects"] = {
            **asdict(object_board.options),
            "truth": truth_from,
            **object_board.scores(),
            "intervals": object_board.intervals(),
        }
    if out is not None:
        with write_whole(out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(figures, indent=2, default=str) + "\n", encoding="utf-8")
        write_report(out)
    return figures


@contextlib.contextmanager
def _open_engine(
    screen: _Screen, plan: "DetectorPlan", pool: "PoolSize | None", address: str | None, debug: bool
) -> "Iterator[Engine]":
    """What predicts: this process, or a pool of Ray actors. Options out of range are a wrong call."""
    from segdiff.config import ConfigError
    from segdiff.inference.folder_run import LocalEngine

    with contextlib.ExitStack() as stack:
        engine: Engine
        try:
            if pool is None:
                with _silence(debug):
                    engine = LocalEngine(plan.load(), plan.options)
            else:
                from segdiff.inference.ray_engine import open_ray_engine

                # where a machine dies Ray prints what only its developers can read
                shown = sys.stderr if debug else io.StringIO()
                stack.enter_context(contextlib.redirect_stdout(shown))
                engine = stack.enter_context(open_ray_engine(plan, pool, address=address, debug=debug, say=screen.say))
        except ValueError as error:
            if type(error) is ValueError:
                raise ConfigError(str(error)) from error
            raise
        yield engine


def _post_processing(steps: str | None) -> "PostProcessing | None":
    """What --post-processing asks for."""
    from segdiff.config import ConfigError
    from segdiff.inference.postprocessing import parse_post_processing

    try:
        return None if steps is None else parse_post_processing(steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _how(detector: "Detector | Engine", ensemble: Sequence[str], tta: str | None) -> dict[str, Any]:
    """What the probabilities depend on besides the model, for prediction.json."""
    from segdiff.inference.manifest import digest
    from segdiff.model_files import resolve_model

    members = [digest(resolve_model(member)) for member in ensemble]
    trained = detector.settings.ground_resolution
    return {
        "ensemble": members,
        "tta": tta,
        "runtime": detector.runtime,
        "post_processing": asdict(detector.post_processing),
        "ground_resolution": None if trained is None else list(trained),
    }


def _render_scores(console: Console, scores: dict[str, Any]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class" if len(scores["classes"]) > 2 else "")
    columns = ("f1", "iou", "precision", "recall")
    for column in (*columns, "kappa", "accuracy"):
        table.add_column({"f1": "F1", "iou": "IoU"}.get(column, column), justify="right")
    if len(scores["classes"]) > 2:
        for name, values in list(scores["classes"].items())[1:]:
            table.add_row(Text(name), *(f"{values[column]:.4f}" for column in columns), "", "")
    label = "mean" if len(scores["classes"]) > 2 else "change"
    table.add_row(label, *(f"{scores[column]:.4f}" for column in (*columns, "kappa", "accuracy")), style="bold")
    console.print(table)
    span = scores.get("intervals", {}).get("f1")  # a training's own scores have none, nor has a single pair
    sure = f"; F1 {span[0]:.3f} to {span[1]:.3f} in 95 % of drawings of as many" if span else ""
    console.print(f"over {scores['pairs']} pairs of split {scores['split']}{sure}", markup=False)


def _render_objects(console: Console, objects: dict[str, Any]) -> None:
    several = len(objects["classes"]) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class" if several else "")
    rates, counts = ("f1", "precision", "recall"), ("support", "found", "right")
    for column in ("F1", "precision", "recall", "AP", "true", "found", "right"):
        table.add_column(column, justify="right")

    def row(label: str, values: dict[str, Any], area: float | None, style: str | None = None) -> None:
        shown = [f"{values[rate]:.4f}" for rate in rates] + ["-" if area is None else f"{area:.4f}"]
        table.add_row(Text(label), *shown, *(f"{values[count]:,}" for count in counts), style=style)

    if several:
        for name, values in objects["classes"].items():
            row(name, values, values["ap"])
    row("all, mAP" if several else "change", objects, objects["map"], style="bold")
    console.print()
    console.print(table)
    console.print(
        f"objects right above an IoU of {objects['iou']:g} with those of the true {objects['truth']}; "
        f"join {objects['join']}, pad {objects['pad']}, minimum area {objects['minimum_area']} pixels",
        markup=False,
    )
    spans = {name: objects["intervals"][key] for name, key in (("F1", "f1"), ("mAP", "map"))}
    shown = ", ".join(f"{name} {span[0]:.3f} to {span[1]:.3f}" for name, span in spans.items() if span)
    if shown:
        console.print(f"over pairs drawn anew, 95 %: {shown}", markup=False)


@app.command(rich_help_panel="Prediction")
def predict(
    model: AnyModel,
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Image, or folder of images.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Image, or folder: files pair by stem.")],
    out: Annotated[Path, typer.Option(metavar="OUT", help="Prediction folder.")],
    threshold: Threshold = None,
    tile: Tile = None,
    overlap: Overlap = None,
    resolution: Resolution = None,
    post_processing: PostProcessed = None,
    ensemble: Ensemble = None,
    tta: TestTimeAugmentation = None,
    runtime: Runtime = "auto",
    precision: Precision = "auto",
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities/NAME.tif.")] = False,
    geopackage: Annotated[
        bool, typer.Option("--geopackage", help="Also write objects as geopackages/NAME.gpkg, in the images' CRS.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Predict the I-th of N parts of the pairs alone, e.g. 2/8. Parts may run at the same time, into one "
            "OUT; the last to finish writes summary.csv and objects.geojson.",
        ),
    ] = None,
    engine_name: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="ray: workers on a Ray cluster, whose machines share the images, MODEL and OUT."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The Ray cluster; default: RAY_ADDRESS, else one of this machine."),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Workers of Ray; default: as many as it has room for.")
    ] = None,
    cpus_per_actor: Annotated[int | None, typer.Option(min=1, help="Cores of each worker; default: 2.")] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(min=0, help="GPUs of each, 0.5 is half of one; default: 1 where Ray has any.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Predict the change of a pair, or of two folders of images of any size, into a prediction folder."""
    from data_pipelines.pair_index import PairIndex, Part
    from segdiff.config import ConfigError
    from segdiff.inference.folder import Job, PredictionFolder
    from segdiff.inference.folder_run import DetectorPlan, fill_folder, is_one_raster, left_to_do
    from segdiff.inference.ray_engine import PoolSize
    from segdiff.visualization.layers import write_layers
    from segdiff.visualization.overlays import overlay as draw
    from segdiff.visualization.pictures import write_image
    from segdiff.visualization.report import write_report

    screen = _Screen(as_json, quiet)
    steps = _post_processing(post_processing)
    _require_two(before, after)
    if engine_name == "ray":
        pool = PoolSize(actors, cpus_per_actor or 2, gpus_per_actor)
    elif any(option is not None for option in (address, actors, cpus_per_actor, gpus_per_actor)):
        raise ConfigError("--address, --actors, --cpus-per-actor and --gpus-per-actor are about Ray; add --engine ray")
    else:
        pool = None
    try:
        part = Part() if shard is None else Part.parse(shard)
    except ValueError as error:
        raise ConfigError(f"--shard {error}") from error
    if part.count > 1 and overwrite:
        raise ConfigError(f"--overwrite: one shard would remove what the others do; remove {out} and leave it out")
    with contextlib.ExitStack() as stack:
        index = stack.enter_context(PairIndex(before, after, part))
        plan = DetectorPlan(
            model,
            runtime,
            precision,
            tuple(ensemble or ()),
            test_time_augmentation=tta is not None,
            post_processing=steps,
            options={"threshold": threshold, "tile": tile, "overlap": overlap, "resolution": resolution},
        )
        engine = stack.enter_context(_open_engine(screen, plan, pool, address, debug))
        job = Job(
            engine.path,
            {
                **plan.options,
                "probabilities": probabilities,
                "geopackage": geopackage,
                **_how(engine, ensemble or (), tta),
            },
            {"before": str(before.resolve()), "after": str(after.resolve())},
        )
        folder = PredictionFolder(
            out, job, classes=engine.settings.classes, draw=draw, write_image=write_image, write_layers=write_layers,
            probabilities=probabilities, geopackage=geopackage, overwrite=overwrite, part=part,
        )  # fmt: skip
        folder.keep_current(index.pairs())
        screen.say(engine.runtime)
        if done := len(folder.done):
            screen.say(f"done already: {done}, left: {len(index) - done}")
        if (first := next(left_to_do(index, folder), None)) is not None:
            _say_resolution(screen, engine, first, resolution)
        unit = "rows" if is_one_raster(index, folder) else "pairs"
        update = stack.enter_context(screen.progress("predicting", unit))
        with folder:
            tally = fill_folder(folder, index, engine, on_progress=update, on_failure=_complain)
    left = folder.unfinished_parts() if part.count > 1 else []
    if not left:
        write_report(out)
    summary = {
        "out": out,
        "predicted": tally.predicted,
        "failed": tally.errors,
        "failed_count": tally.failed,
        "mean_changed_fraction": tally.mean_changed_fraction,
        **(_unsure_figures(tally.unsure) if engine.settings.relative else {}),
        **({"shard": str(part), "shards_left": list(map(str, left))} if part.count > 1 else {}),
    }

    def render(console: Console) -> None:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("predicted", "failed", "mean change"):
            table.add_column(column, justify="right")
        mean = f"{tally.mean_changed_fraction:.2%}" if tally.predicted else "-"
        table.add_row(f"{tally.predicted:,}", f"{tally.failed:,}", mean, style="bold")
        console.print(table)
        _render_unsure(console, summary)
        for name in ("overlays", "masks", *(() if left else ("objects.geojson", "summary.csv", "report.html"))):
            console.print(f"  {out / name}", markup=False)
        if left:
            console.print(f"  {len(left)} of {part.count} shards are not finished", markup=False)

    screen.result(summary, render)
    if tally.failed:
        raise typer.Exit(SOME_FAILED)


NAMED = 5
"""Pairs that a line names, at most."""


def _unsure_figures(unsure: "Unsure") -> dict[str, Any]:
    """Of a command's outcome, the pairs of which nothing can be told."""
    return {"unsure": unsure.names, "unsure_count": unsure.count}


def _render_unsure(console: Console, figures: dict[str, Any]) -> None:
    from segdiff.model_files import UNSURE

    count = figures.get("unsure_count", 0)
    if count:
        named = ", ".join(figures["unsure"][:NAMED]) + (" ..." if count > NAMED else "")
        pairs = f"{count:,} pair{'s' if count > 1 else ''}"
        console.print(f"of {pairs} nothing can be told, confidence below {UNSURE:g}: {named}", markup=False)


def _say_resolution(screen: _Screen, detector: "Detector | Engine", pair: "Pair", resolution: float | None) -> None:
    """What a run does about the ground resolution of its images, of which this pair is the first."""
    from data_pipelines.decoding import read_info
    from data_pipelines.layouts import DataError
    from segdiff.ground_resolution import own_resolution, resolution_line, target_resolution

    try:
        own = own_resolution(read_info(pair.after).grid, resolution)
    except DataError:  # a fault of this pair alone, told where it is predicted
        return
    trained = detector.settings.ground_resolution
    if detector.settings.relative:  # was trained on nothing, and takes all images as they are
        return
    line = resolution_line(own, trained, target_resolution(own, trained))
    if line is not None:
        screen.say(line)


@app.command(rich_help_panel="Prediction")
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Prediction folder: the --out of predict or evaluate.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the page of a prediction folder again: OUT/report.html, to be opened in a browser, from disk."""
    from segdiff.visualization.report import write_report

    page = write_report(out)
    _Screen(as_json, quiet).result({"out": out, "report": page}, lambda console: console.print(str(page), markup=False))


@app.command(rich_help_panel="Prediction")
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run folder, .keras file or shipped name.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all, whoever reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    threshold: Threshold = None,
    resolution: Resolution = None,
    runtime: Runtime = "auto",
    precision: Precision = "auto",
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest file, in 10^6 bytes.")] = 100,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image, in 10^6 pixels.")] = 25,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve a page, on this machine alone unless told otherwise: drop two images, see their change at any threshold."""
    from segdiff.config import ConfigError

    try:
        from segdiff.inference.predictor import load
        from segdiff.serving.application import PageModel
        from segdiff.serving.server import address_of, is_loopback, open_port, run_page
        from segdiff.serving.uploads import Limits
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("anyio", "starlette", "uvicorn"):
            raise
        raise ConfigError(f"serve: the package {package} is not installed: pip install 'segdiff[serve]'") from error
    screen = _Screen(as_json, quiet)
    limits = Limits(max_megabytes, max_megapixels)
    try:
        listening = open_port(host, port)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # repeats the address
        raise ConfigError(
            f"{host}:{port}: {reason}; name another with --host or --port (0: any that is free)"
        ) from error

    def complain(error: Exception) -> None:
        if debug:
            traceback.print_exception(error)
        line = " ".join(str(error).split())
        _complain(f"{type(error).__name__}: {line} (this is a fault of segdiff; --debug shows where)")

    with listening:
        with _silence(debug):
            detector = load(model, runtime=runtime, precision=precision)
        try:
            detector.check_options(threshold=threshold, tile=None, overlap=None, resolution=resolution)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        url = address_of(listening, host)
        screen.result(
            {"url": url, "model": detector.path, **asdict(limits)},
            lambda console: console.print(f"{url}  (Ctrl-C ends it)", markup=False),
        )
        sys.stdout.flush()
        if not is_loopback(host):
            _complain("whoever reaches this address can use the page: put a proxy with a password before it")
        page = PageModel(detector, Path(model).name.removesuffix(".keras"), threshold, resolution)
        run_page(page, listening, host, limits, complain)


@app.command(rich_help_panel="Prediction")
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

    screen = _Screen(as_json, quiet)
    suffix, writable = out.suffix.lower(), (".jpg", ".jpeg", ".png", ".gif")
    if suffix not in writable and suffix in (*IMAGE_SUFFIXES, ".pdf", ".svg"):
        raise ConfigError(
            f"{out}: pictures are written as {', '.join(writable)}; without such an ending OUT is a folder"
        )
    if suffix == ".gif" and probability is not None:
        raise ConfigError(f"{out}: a .gif blinks and has no heat map; leave --probability out, or name a .jpg or .png")
    shown_bands = None if bands is None else _band_numbers(bands)
    _require_there(*(path for path in (mask, truth, probability) if path))
    _require_two(before, after)
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
                _draw_overlay(
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
        _complain(problem)
    screen.result({"out": out, "files": drawn, "failed": failed}, lambda console: console.print(str(out), markup=False))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _band_numbers(bands: str) -> list[int]:
    from segdiff.config import ConfigError

    numbers = [int(part) for part in bands.split(",") if part.strip().isdigit()]
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


def _draw_overlay(
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


def main() -> None:
    """Runs the command line and exits; what is wrong is one line on standard error."""
    debug = "--debug" in sys.argv
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        warnings.filterwarnings("ignore", module="keras")
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(_status_of(error))


def _stop(number: int, frame: Any) -> None:
    _complain("interrupted" if number == signal.SIGINT else "terminated")
    raise SystemExit(128 + number)


def _import_tensorflow(debug: bool) -> None:
    """Imports TensorFlow and finds its devices, without what its libraries print of themselves while they load."""
    with _silence(debug):
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _silence(debug: bool) -> Iterator[None]:
    """Within it nothing reaches standard error but our own warnings: TensorFlow may be imported.

    TF_CPP_MIN_LOG_LEVEL does not reach what its libraries print: that is written before the library's log is set up.
    """
    if debug:
        yield
        return
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere, os.fdopen(kept, "w") as shown:  # noqa: PTH123
        ours = logging.StreamHandler(shown)
        for name in ("segdiff", "data_pipelines"):
            logging.getLogger(name).addHandler(ours)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            for name in ("segdiff", "data_pipelines"):
                logging.getLogger(name).removeHandler(ours)


def _complain(line: str) -> None:
    print(f"segdiff: {line}", file=sys.stderr)


def _status_of(error: Exception) -> int:
    """Says in one line what is wrong, and gives the exit status of the contract."""
    from data_pipelines.layouts import DataError
    from segdiff.config import ConfigError

    reports = getattr(error, "reports", ())
    for report in reports:
        for fault in report.faults:
            _complain(str(fault))
    if reports and "--json" in sys.argv:
        print(json.dumps([report.to_json() for report in reports], indent=2, default=str))
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _USAGE_ERROR):
        command = error.ctx.command_path if error.ctx else "segdiff"
        _complain(f"{' '.join(error.format_message().split()).rstrip('.')}; see {command} --help")
        return WRONG_CALL
    if isinstance(error, DataError):
        _complain(line)
        return FAULTS
    if isinstance(error, ConfigError) or type(error).__name__ in (
        "ModelError",
        "FolderError",
        "ReportError",
        "SplitError",
        "WeightsError",
        "RayError",
    ):
        _complain(line)
        return WRONG_CALL
    if type(error).__name__ in ("TrainingError", "LostWorkersError", "ExportError"):
        _complain(line)
        return CANNOT_GO_ON
    if type(error).__name__ in ("MemoryError", "ResourceExhaustedError"):
        _complain(f"out of memory: take smaller crops or tiles, or a smaller batch ({line[:200]})")
        return CANNOT_GO_ON
    if (gone_bad := re.search(r"DecodeError: (.*?)(?: Traceback|$)", line)) and not isinstance(error, OSError):
        # raised in a thread of tf.data: a file that was whole when it was checked
        _complain(gone_bad[1])
        return CANNOT_GO_ON
    if isinstance(error, OSError):
        mend = "make room and run the same again" if error.errno == errno.ENOSPC else "mend the path or its permissions"
        _complain(f"{error.filename or 'the output'}: {error.strerror or line}; {mend}")
        return CANNOT_GO_ON
    _complain(f"{type(error).__name__}: {line} (this is a fault of segdiff; --debug shows where)")
    return CANNOT_GO_ON
