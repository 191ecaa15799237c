"""`segdiff demo`: synth, train and evaluate, one after another."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segdiff.cli.commands.evaluate import evaluate_model
from segdiff.cli.commands.synth import draw_pairs
from segdiff.cli.commands.train import config_file, train_run
from segdiff.cli.options import Debug, Json, Quiet
from segdiff.cli.screen import Screen
from segdiff.cli.silence import import_tensorflow

DEMO_PAIRS = 240

MARK = "demo.yaml"
"""A file in the data of a demo: the configuration of its run. It appears with them, and no other command makes it."""

RUN = (
    "predictions", "environment.json", "history.csv", "metrics.json", "curves.png", "confusion.png",
    "precision_recall.png", "report.html", "model.keras", "list", "tensorboard", "backup",
    "config.yaml",  # the last to be removed: what lies beside the data without it is no demo's
)  # fmt: skip
"""What a demo makes in OUT beside its data."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw pairs, train on them, evaluate, predict and overlay: the whole way, in under 5 minutes."""
    from data_pipelines.whole_folders import new_folder
    from segdiff.config import ConfigError, dump_config, load_config

    screen = Screen(as_json, quiet)
    run, data, predictions = out, out / "data", out / "predictions"
    require_free(out, overwrite=overwrite)
    config = load_config(config_file("demo"), [f"data.root={json.dumps(str(data.resolve()))}"])
    import_tensorflow(debug)
    if overwrite:
        remove_run(out)
    screen.say("1 of 3: drawing pairs of aerial scenes, some buildings of which change")
    try:
        with new_folder(data, replace=overwrite, alone=True) as folder:
            draw_pairs(screen, folder, pairs=DEMO_PAIRS, size=256, seed=0)
            (folder / MARK).write_text(dump_config(config), encoding="utf-8")
    except FileExistsError as error:
        raise ConfigError(str(error)) from error
    screen.say("2 of 3: training a change detector on them")
    train_run(screen, config, run, resume=False)
    screen.say("3 of 3: predicting the pairs kept for validation, with scores, masks and overlays")
    scores = evaluate_model(screen, run, data, split="val", out=predictions, ignore=None, overwrite=False, debug=debug)
    looks = {"report": predictions / "report.html", "overlays": predictions / "overlays"}
    looks |= {"masks": predictions / "masks", "summary": predictions / "summary.csv"}
    looks |= {"model": run / "model.keras", "training": run / "report.html"}

    def render(console: Console) -> None:
        console.print(f"\nValidation F1 of the change class: [bold]{scores['f1']:.3f}[/bold]\n\nLook at")
        for what, path in looks.items():
            console.print(f"  {what:9} {path}", markup=False)
        console.print("\nYour own pairs next:  segdiff check DATA  and  segdiff train levir_cd --set data.root=DATA")

    screen.result({**scores, "files": looks}, render)


def require_free(out: Path, *, overwrite: bool) -> None:
    """ConfigError where OUT is a file, or holds anything but a demo, whole or interrupted, that may be overwritten.

    A demo is known by the mark in its data and by its run, of the very configuration in the mark. All else that lies in
    OUT or in the data is somebody's own.
    """
    from data_pipelines.synthetic.writing import scene_names
    from data_pipelines.whole_folders import unfinished_beside
    from segdiff.config import ConfigError
    from segdiff.files import unfinished_in

    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a folder with --out")
    data, run = out / "data", out / "config.yaml"
    there = set(out.iterdir()) - set(unfinished_beside(data)) if out.exists() else set()
    if not there:
        return
    mark = data / MARK
    if not mark.is_file() or (run.exists() and run.read_bytes() != mark.read_bytes()):
        raise ConfigError(
            f"{out}: is not empty, and nothing tells that a demo made it; name another folder with --out, or remove it"
        )
    if not overwrite:
        raise ConfigError(f"{out}: holds an earlier demo; name another folder with --out, or --overwrite")
    made = {data, *((out / name for name in RUN) if run.exists() else ()), *unfinished_in(out)}
    drawn = {data / folder / f"{name}.png" for folder in ("A", "B", "label") for name in scene_names(DEMO_PAIRS)}
    drawn |= {mark, data / "list" / "train.txt", data / "list" / "val.txt"}
    files = {path for path in data.rglob("*") if path.is_symlink() or not path.is_dir()}
    if foreign := sorted((there - made) | (files - drawn)):
        raise ConfigError(f"{foreign[0]}: is not the demo's; move it away, or name another folder with --out")


def remove_run(out: Path) -> None:
    """Removes what an earlier demo made in OUT, but for its data."""
    from segdiff.files import remove_unfinished

    remove_unfinished(out)
    for name in RUN:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
