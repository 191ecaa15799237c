"""What evaluate and predict both tell of the detector that they run."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segdiff.cli.screen import Screen

if TYPE_CHECKING:
    from data_pipelines.layouts import Pair
    from segdiff.inference.folder_run import Engine, Unsure
    from segdiff.inference.predictor import Detector
    from segdiff.model_files import Augmentation

NAMED = 5
"""Pairs that a line names, at most."""


def detector_options(detector: "Detector | Engine", ensemble: Sequence[str]) -> dict[str, Any]:
    """What the probabilities depend on besides the model, for prediction.json."""
    from segdiff.inference.manifest import digest
    from segdiff.model_files import resolve_model

    members = [digest(resolve_model(member)) for member in ensemble]
    trained = detector.settings.ground_resolution
    return {
        "ensemble": members,
        "tta": augmentation_used(detector),
        "runtime": detector.runtime,
        "post_processing": asdict(detector.post_processing),
        "ground_resolution": None if trained is None else list(trained),
    }


def augmentation_used(detector: "Detector | Engine") -> "Augmentation | None":
    """The --tta that a run has, whether asked for or the model's own; None: none."""
    return None if detector.test_time_augmentation == "none" else detector.test_time_augmentation


def say_augmentation(screen: Screen, detector: "Detector | Engine") -> None:
    """A line where prediction takes several times the work, which may be the model's own choice."""
    from segdiff.model_files import AUGMENTATIONS

    if kind := augmentation_used(detector):
        screen.say(f"{AUGMENTATIONS[kind]} (--tta {kind})")


def say_resolution(screen: Screen, detector: "Detector | Engine", pair: "Pair", resolution: float | None) -> None:
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


def unsure_figures(unsure: "Unsure") -> dict[str, Any]:
    """Of a command's outcome, the pairs of which nothing can be told."""
    return {"unsure": unsure.names, "unsure_count": unsure.count}


def render_unsure(console: Console, figures: dict[str, Any]) -> None:
    """A line on the pairs of which nothing can be told, where there are any."""
    from segdiff.model_files import UNSURE

    count = figures.get("unsure_count", 0)
    if count:
        named = ", ".join(figures["unsure"][:NAMED]) + (" ..." if count > NAMED else "")
        pairs = f"{count:,} pair{'s' if count > 1 else ''}"
        console.print(f"of {pairs} nothing can be told, confidence below {UNSURE:g}: {named}", markup=False)
