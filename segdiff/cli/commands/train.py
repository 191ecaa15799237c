"""`segdiff train`: a run folder made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from segdiff.cli.options import Debug, Json, Quiet
from segdiff.cli.score_tables import render_scores
from segdiff.cli.screen import Screen
from segdiff.cli.silence import import_tensorflow


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

    screen = Screen(as_json, quiet)
    file = config_file(config)
    run = Path("runs") / file.stem if out is None else out
    job = load_config(file, overrides or ())
    import_tensorflow(debug)
    metrics = train_run(screen, job, run, resume, workers.split(",") if workers else (), index)
    if metrics is None:
        screen.result(
            {"run": run, "worker": index}, lambda console: console.print("done; the chief has written the run")
        )
        return

    def render(console: Console) -> None:
        render_scores(console, metrics)
        console.print(f"model {run / 'model.keras'}, threshold {metrics['threshold']:.3f}", markup=False)
        console.print(f"page  {run / 'report.html'}", markup=False)

    screen.result({"run": run, **metrics}, render)


def config_file(name: str) -> Path:
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


def train_run(
    screen: Screen, config: Any, run: Path, resume: bool, workers: Sequence[str] = (), index: int | None = None
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
