"""`segdiff predict`: a prediction folder filled."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from segdiff.cli.arguments import post_processing_steps, require_two
from segdiff.cli.detectors import (
    augmentation_used,
    detector_options,
    render_unsure,
    say_augmentation,
    say_resolution,
    unsure_figures,
)
from segdiff.cli.errors import SOME_FAILED, complain
from segdiff.cli.options import (
    AnyModel,
    Debug,
    Ensemble,
    Json,
    Overlap,
    Overwrite,
    PostProcessed,
    Precision,
    Quiet,
    Resolution,
    Runtime,
    TestTimeAugmentation,
    Threshold,
    Tile,
)
from segdiff.cli.screen import Screen
from segdiff.cli.silence import silenced

if TYPE_CHECKING:
    from segdiff.inference.folder_run import DetectorPlan, Engine
    from segdiff.inference.ray_engine import PoolSize


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

    screen = Screen(as_json, quiet)
    steps = post_processing_steps(post_processing)
    require_two(before, after)
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
            test_time_augmentation=tta,
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
                **detector_options(engine, ensemble or ()),
            },
            {"before": str(before.resolve()), "after": str(after.resolve())},
        )
        folder = PredictionFolder(
            out, job, classes=engine.settings.classes, draw=draw, write_image=write_image, write_layers=write_layers,
            probabilities=probabilities, geopackage=geopackage, overwrite=overwrite, part=part,
        )  # fmt: skip
        folder.keep_current(index.pairs())
        screen.say(engine.runtime)
        say_augmentation(screen, engine)
        if done := len(folder.done):
            screen.say(f"done already: {done}, left: {len(index) - done}")
        if (first := next(left_to_do(index, folder), None)) is not None:
            say_resolution(screen, engine, first, resolution)
        unit = "rows" if is_one_raster(index, folder) else "pairs"
        update = stack.enter_context(screen.progress("predicting", unit))
        with folder:
            tally = fill_folder(folder, index, engine, on_progress=update, on_failure=complain)
    left = folder.unfinished_parts() if part.count > 1 else []
    if not left:
        write_report(out)
    summary = {
        "out": out,
        "predicted": tally.predicted,
        "failed": tally.errors,
        "failed_count": tally.failed,
        "mean_changed_fraction": tally.mean_changed_fraction,
        "tta": augmentation_used(engine),
        **(unsure_figures(tally.unsure) if engine.settings.relative else {}),
        **({"shard": str(part), "shards_left": list(map(str, left))} if part.count > 1 else {}),
    }

    def render(console: Console) -> None:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("predicted", "failed", "mean change"):
            table.add_column(column, justify="right")
        mean = f"{tally.mean_changed_fraction:.2%}" if tally.predicted else "-"
        table.add_row(f"{tally.predicted:,}", f"{tally.failed:,}", mean, style="bold")
        console.print(table)
        render_unsure(console, summary)
        for name in ("overlays", "masks", *(() if left else ("objects.geojson", "summary.csv", "report.html"))):
            console.print(f"  {out / name}", markup=False)
        if left:
            console.print(f"  {len(left)} of {part.count} shards are not finished", markup=False)

    screen.result(summary, render)
    if tally.failed:
        raise typer.Exit(SOME_FAILED)


@contextlib.contextmanager
def _open_engine(
    screen: Screen, plan: "DetectorPlan", pool: "PoolSize | None", address: str | None, debug: bool
) -> "Iterator[Engine]":
    """What predicts: this process, or a pool of Ray actors. Options out of range are a wrong call."""
    from segdiff.config import ConfigError
    from segdiff.inference.folder_run import LocalEngine

    with contextlib.ExitStack() as stack:
        engine: Engine
        try:
            if pool is None:
                with silenced(debug):
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
