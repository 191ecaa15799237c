"""`segdiff evaluate`: a model scored on labelled pairs."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from segdiff.cli.arguments import post_processing_steps
from segdiff.cli.commands.check import checked_data
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
    Ignore,
    Json,
    Overwrite,
    PostProcessed,
    Precision,
    Quiet,
    Resolution,
    Runtime,
    TestTimeAugmentation,
)
from segdiff.cli.score_tables import render_objects, render_scores
from segdiff.cli.screen import Screen
from segdiff.cli.silence import import_tensorflow, silenced


def evaluate(
    model: AnyModel,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled data set.")],
    split: Annotated[
        Literal["test", "val", "train", "all"] | None,
        typer.Option(metavar="SPLIT", help="test, val, train or all; default: test where there is one, else all."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="OUT", help="Also write masks and overlays with truth.")] = None,
    objects: Annotated[
        bool,
        typer.Option(
            "--objects",
            help="Also score objects: boxes of regions against true ones. The model says what an object is, where "
            "--iou, --join, --pad, --minimum-area and --minimum-score don't.",
        ),
    ] = False,
    iou: Annotated[
        float | None, typer.Option(min=0, max=1, help="An object is right above this IoU with a true box.")
    ] = None,
    join: Annotated[
        int | None, typer.Option(min=0, help="Regions whose dilations by so many pixels touch are one object.")
    ] = None,
    pad: Annotated[
        int | None, typer.Option(min=0, help="Pixels that a box is wider than its region, on each side.")
    ] = None,
    minimum_area: Annotated[int | None, typer.Option(min=1, help="Objects of fewer pixels are left out.")] = None,
    minimum_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Objects of a lower score are not counted as found.")
    ] = None,
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
    from segdiff.config import ConfigError
    from segdiff.model_files import ObjectOptions

    given = {
        "iou": iou, "join": join, "pad": pad, "minimum_area": minimum_area, "minimum_score": minimum_score
    }  # fmt: skip
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        ObjectOptions(**asked)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if asked and not objects:
        raise ConfigError("--iou, --join, --pad, --minimum-area and --minimum-score are about objects; add --objects")
    screen = Screen(as_json, quiet)
    scores = evaluate_model(
        screen, Path(model), data, split=split, out=out, ignore=ignore, overwrite=overwrite,
        objects=asked if objects else None, resolution=resolution, post_processing=post_processing,
        ensemble=ensemble or (), tta=tta, runtime=runtime, precision=precision, debug=debug,
    )  # fmt: skip

    def render(console: Console) -> None:
        render_scores(console, scores)
        if objects:
            render_objects(console, scores["objects"])
        render_unsure(console, scores)

    screen.result(scores, render)
    if scores["failed"]:
        raise typer.Exit(SOME_FAILED)


def evaluate_model(
    screen: Screen,
    model: Path,
    data: Path,
    *,
    split: str | None,
    out: Path | None,
    ignore: int | None,
    overwrite: bool,
    objects: Mapping[str, Any] | None = None,
    resolution: float | None = None,
    post_processing: str | None = None,
    ensemble: Sequence[str] = (),
    tta: Literal["d4", "multiscale", "none"] | None = None,
    runtime: Literal["auto", "tensorflow", "openvino"] = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    debug: bool = False,
) -> dict[str, Any]:
    """Scores a model on a data set; the figures of metrics.json. With ``out`` it fills a prediction folder too.

    ``objects`` are fields of ``ObjectOptions`` in place of the model's own, None: objects are not scored.

    Raises ConfigError on a wrong call, FaultyDataError where the data have faults, DataError where no pair could be
    scored.
    """
    from data_pipelines.layouts import DataError
    from data_pipelines.validation import FaultyDataError
    from segdiff.config import ConfigError, load_config
    from segdiff.files import write_whole
    from segdiff.model_files import resolve_model

    run = load_config(model / "config.yaml") if (model / "config.yaml").is_file() else None
    if ignore is None and run is not None:
        ignore = run.data.ignore
    steps = post_processing_steps(post_processing)
    resolve_model(model)  # a wrong name is said before the data are read
    report = checked_data(screen, data, ignore)
    if report.faults or report.coding is None:
        raise FaultyDataError([report])
    import_tensorflow(debug)  # takes seconds: what is wrong with the call and the data is said before
    from segdiff.inference.boxes import read_true_boxes
    from segdiff.inference.evaluation import Scoreboard, Truth, split_pairs
    from segdiff.inference.folder import Job, PredictionFolder
    from segdiff.inference.folder_run import Unsure
    from segdiff.inference.object_scores import ObjectScoreboard
    from segdiff.inference.pair_writer import confidence_text
    from segdiff.inference.predictor import FailedPair, load, predict_pairs
    from segdiff.visualization.layers import write_layers
    from segdiff.visualization.overlays import overlay as draw
    from segdiff.visualization.pictures import write_image
    from segdiff.visualization.report import write_report

    chosen, pairs = split_pairs(report.data, split, model)
    with silenced(debug):
        detector = load(
            model, runtime=runtime, precision=precision, ensemble=ensemble,
            test_time_augmentation=tta, post_processing=steps,
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
    object_board, boxes = None, {}
    if objects is not None:
        object_board = ObjectScoreboard(classes, replace(detector.settings.objects, **objects))
        boxes = read_true_boxes(pairs, classes)
    for bands in (detector.bands, detector.bands_after):
        if bands is not None and report.bands != bands and (report.bands, bands) != (1, 3):
            raise ConfigError(f"{data}: its images have {report.bands} bands, the model {model} takes {bands}")
    screen.say(f"pairs of split {chosen}: {len(pairs)}, threshold {detector.settings.threshold:.3f}")
    say_augmentation(screen, detector)
    trained_on = [] if run is None else [Path(root.path) for root in run.data.root]
    if resolution is not None or data.resolve() not in trained_on:  # what a run was trained on needs no hint
        say_resolution(screen, detector, pairs[0], resolution)
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
                **detector_options(detector, ensemble),
                **({"objects": asdict(object_board.options)} if object_board else {}),
            }
            job = Job(detector.path, options, {"data": str(data.resolve())}, true_masks)
            columns = ("f1", "precision", "recall", "iou")
            object_columns = ("object_f1", "object_precision", "object_recall") if object_board else ()
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
                complain(str(error))
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
        "tta": augmentation_used(detector),
        **board.scores(),
        "intervals": board.intervals(),
        "failed": errors,
        **(unsure_figures(unsure) if detector.settings.relative else {}),
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
