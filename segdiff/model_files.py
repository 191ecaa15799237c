"""Models as they lie on disk: what MODEL stands for and what a file tells prediction, without importing Keras."""

import difflib
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segdiff.resources import shipped

Augmentation = Literal["none", "d4", "multiscale"]
"""What a model predicts the mean of, see `segdiff.augmented_prediction`."""

AUGMENTATIONS: dict[Augmentation, str] = {
    "d4": "the mean over the eight turns and mirror images of every tile: eight times the work",
    "multiscale": "the mean over four turns and mirror images of every tile, three of them at another scale: five "
    "times the work",
}
"""Those there are, for a person."""

MANIFEST = "manifest.json"
"""The file that makes a folder an exported model."""

BAND_MEAN, BAND_DEVIATION = 115.0, 50.0
"""What a relative model is to see of every band, over a whole pair: about that of photographs."""

UNSURE = 0.25
"""Below this confidence nothing can be told of a pair by a relative model: of those that first_look was looked at on,
none had an F1 above 0.2 there."""


class ModelError(ValueError):
    """A model that cannot be found or used; the message is one line."""


@dataclass(frozen=True)
class PostProcessing:
    """What is done to a mask, in this order; by default nothing. Lengths and areas are in pixels.

    `closing` is the radius r of a morphological closing of the change, whatever its class, by a square of (2r + 1) x
    (2r + 1) pixels, as if the mask lay in an endless plane without change. A pixel that becomes change takes the class
    that most of the change in the square around it has.

    `fill_holes` is the area of the largest hole that is filled. A hole is background that is joined by edges and does
    not reach the border of the mask; its area leaves out what lies within it. It takes the class that most of the edges
    around it have.

    `vote` gives every region the class that most of its pixels have. A region is change of any class that touches by
    edges or corners.

    `minimum_area` is the area of the smallest region that stays.

    Of classes that are equally frequent the lower index is taken. Pixels without data count as background and stay 0,
    in filled holes too.
    """

    closing: int = 0
    fill_holes: int = 0
    vote: bool = False
    minimum_area: int = 0

    def __post_init__(self) -> None:
        for name in ("closing", "fill_holes", "minimum_area"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of pixels, 0 or more")
        if not isinstance(self.vote, bool):
            raise ValueError(f"vote is {self.vote!r}: it must be true or false")


@dataclass(frozen=True)
class ObjectOptions:
    """What an object is and when it is right. Raises ValueError, in one line, on a value out of range.

    An object is right where its class is right and its IoU with a true object's box exceeds `iou`, 0..1 without 1.
    `join`, `pad` and `minimum_area`, in pixels, are those of `find_boxes`. Objects of a score below `minimum_score`,
    0..1, are not counted as found; the average precision, which is over all scores, ranks them with the others.
    """

    iou: float = 0.33
    join: int = 0
    pad: int = 0
    minimum_area: int = 1
    minimum_score: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_score <= 1:
            raise ValueError(f"minimum_score is {self.minimum_score}, it must be 0 to 1")
        if not 0 <= self.iou < 1:
            raise ValueError(f"iou is {self.iou}, it must be 0 or more and below 1: objects are right above it")
        for name, lowest in (("join", 0), ("pad", 0), ("minimum_area", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)} pixels, it must be {lowest} or more")


@dataclass(frozen=True)
class Settings:
    """What prediction needs besides the weights; it travels inside the model file."""

    classes: tuple[str, ...] = ("background", "change")
    """Names, 0 first. Two classes are binary whether the model has one logit or two."""
    threshold: float = 0.5
    """A pixel is change where its probability of change reaches this."""
    tile: int = 512
    overlap: int = 64
    stride: int = 1
    """Total stride of the network: tiles begin at its multiples."""
    reach: int | None = None
    """Pixels from a tile's edge up to which its padding is felt, see `measure_reach`; None: not measured."""
    post_processing: PostProcessing = PostProcessing()
    """Of the mask, before it is written and its regions are counted."""
    ground_resolution: tuple[float, float] | None = None
    """The finest and the coarsest at which it works, in metres per pixel; other images are brought to the nearer of
    them. What it was trained on, unless ``inference.ground_resolution`` says otherwise; None: not known."""
    relative: bool = False
    """Its odds are a score of no fixed scale: every pair has a threshold of its own, which becomes a probability of a
    half, see `segdiff.inference.pair_threshold`. It takes three bands, of images of any number of bands in turn."""
    mask_offset: tuple[int, int] = (0, 0)
    """Pixels (right, down) by which its masks lie away from what they mark, ``data.mask_offset`` of its training."""
    test_time_augmentation: Augmentation = "none"
    """What it predicts the mean of, unless told otherwise: its threshold and its post-processing are those of that
    mean."""
    objects: ObjectOptions = ObjectOptions()
    """What an object of its masks is, and when it is right: of `evaluate --objects`, unless told otherwise."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Settings":
        """The settings of ``dataclasses.asdict`` and JSON; an older file lacks what came later.

        Raises ValueError on a test-time augmentation that there is none of and on numbers out of range.
        """
        for name, lowest in (("tile", 1), ("overlap", 0), ("stride", 1)):
            value = values.get(name, lowest)
            if not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} is {value!r}, it must be a whole number from {lowest} on")
        threshold = values.get("threshold", 0.5)
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold!r}, it must be 0 to 1")
        trained = values.get("ground_resolution")
        right, down = values.get("mask_offset", (0, 0))
        augmentation = values.get("test_time_augmentation", "none")
        if isinstance(augmentation, bool):  # files of before there was more than one
            augmentation = "d4" if augmentation else "none"
        return cls(
            **{
                **values,
                "classes": tuple(values["classes"]),
                "post_processing": PostProcessing(**values.get("post_processing", {})),
                "ground_resolution": None if trained is None else (float(trained[0]), float(trained[1])),
                "mask_offset": (int(right), int(down)),
                "test_time_augmentation": known_augmentation(augmentation),
                "objects": ObjectOptions(**values.get("objects", {})),
            }
        )


def known_augmentation(name: str) -> Augmentation:
    """That one. Raises ValueError, in one line, where there is none of that name."""
    if name != "none" and name not in AUGMENTATIONS:
        raise ValueError(f"test_time_augmentation is {name!r}, it must be one of none, {', '.join(AUGMENTATIONS)}")
    return name  # type: ignore[return-value]


def resolve_model(model: str | Path) -> Path:
    """The file that MODEL stands for: a .keras file itself or that of a run folder, the manifest of an exported model,
    or a shipped checkpoint.

    Raises ModelError, naming what was looked for and the shipped names.
    """
    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        for name in ("model.keras", MANIFEST):
            if (path / name).is_file():
                return path / name
        raise ModelError(
            f"{path}: holds no model.keras, so it is no run folder (or its training has saved none yet), and no "
            f"{MANIFEST}, so it is no exported model"
        )
    released = shipped("checkpoints") / f"{model}.keras"
    if path.name == str(model) and released.is_file():
        return released
    names = sorted(file.stem for file in shipped("checkpoints").glob("*.keras"))
    offer = f"shipped are {', '.join(names)}" if names else "none is shipped"
    near = difflib.get_close_matches(str(model), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ModelError(f"{model}: there is no such file, run folder, exported folder or shipped model ({offer}){hint}")


def read_model_config(path: Path) -> dict[str, Any]:
    """The configuration inside a .keras file of a change detector, all code that it names being Keras' or ours.

    Raises ModelError on a file that is no segdiff model, is broken, or names other code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, ValueError, OSError) as error:
        raise ModelError(f"{path}: is not a .keras model file, or it is broken ({error})") from error
    if not isinstance(config, dict) or config.get("registered_name") != "segdiff>ChangeDetector":
        raise ModelError(f"{path}: is a Keras model, but no segdiff change detector")
    for module in _modules(config):
        if module.split(".")[0] not in {"keras", "segdiff"}:
            raise ModelError(f"{path}: names code of {module!r}; only Keras and segdiff layers are loaded")
    return config


def read_settings(path: Path) -> Settings:
    """Those inside a .keras file; raises as `read_model_config` does."""
    config = read_model_config(path)
    try:
        return Settings.from_json(config["config"]["settings"])
    except (LookupError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its settings are broken ({type(error).__name__}: {error}); save it again") from error


def _modules(config: Any) -> set[str]:
    """Every module that the configuration would import a class or function from."""
    if isinstance(config, dict):
        below = {module for value in config.values() for module in _modules(value)}
        named = config.get("module") if "class_name" in config else None
        return below | {named} if isinstance(named, str) else below
    if isinstance(config, list):
        return {module for value in config for module in _modules(value)}
    return set()
