"""`segdiff demo`: synth, train and evaluate, one after another."""

import json
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

DEMO_MAKES = (
    "data", "predictions", "config.yaml", "environment.json", "history.csv", "metrics.json", "curves.png",
    "confusion.png", "precision_recall.png", "report.html", "model.keras", "list", "tensorboard", "backup",
)  # fmt: skip


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw pairs, train on them, evaluate, predict and overlay: the whole way, in under 5 minutes."""
    import_tensorflow(debug)
    import shutil

    from segdiff.config import ConfigError, load_config

    screen = Screen(as_json, quiet)
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
    draw_pairs(screen, data, pairs=DEMO_PAIRS, size=256, seed=0)
    screen.say("2 of 3: training a change detector on them")
    config = load_config(config_file("demo"), [f"data.root={json.dumps(str(data))}"])
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
