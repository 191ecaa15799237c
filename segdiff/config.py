"""The typed configuration: read from YAML, overridden by ``key=value``, written back in full to the run folder."""

import contextlib
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)


class ConfigError(ValueError):
    """The configuration is wrong; the message is one line: key, value, what is allowed, the nearest right name."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _expand_home(value: Any) -> Any:
    return str(Path(value).expanduser()) if isinstance(value, str | os.PathLike) else value


class DataRoot(_Section):
    """One data set among several."""

    path: Annotated[str, BeforeValidator(_expand_home)] = Field(description="folder or CSV file of the data set")
    weight: float | None = Field(None, gt=0, description="share of the crops; default: its number of pairs")
    ground_resolution: float | None = Field(None, gt=0, description="metres per pixel; default: that of all roots")


class AugmentationConfig(_Section):
    """Random changes of the training crops. Geometry is the same for before, after and mask; photometry is not."""

    flip: bool = Field(True, description="the eight flips and quarter turns")
    swap: bool = Field(
        False,
        description="before and after change places in half of the crops; of change or none alone, not of kinds of it",
    )
    scale: float = Field(0.0, ge=0, lt=1, description="zoom by up to this fraction in or out")
    rotate: float = Field(0.0, ge=0, le=180, description="turn by up to this many degrees")
    brightness: float = Field(0.2, ge=0, le=1, description="largest change of brightness, of the full range")
    contrast: float = Field(0.2, ge=0, le=1, description="largest relative change of contrast")
    gamma: float = Field(0.0, ge=0, le=3, description="largest relative change of the exponent of grey values")
    band_gain: float = Field(0.0, ge=0, lt=1, description="largest relative change of each band by itself")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest turn of hue, of the full circle (3 bands only)")
    saturation: float = Field(
        0.0, ge=0, le=1, description="largest change of saturation, of the full range (3 bands only)"
    )
    noise: float = Field(0.0, ge=0, le=0.5, description="largest deviation of Gaussian noise, of the full range")
    blur: float = Field(0.0, ge=0, le=10, description="largest deviation of Gaussian blur, in pixels")
    jpeg: int | None = Field(None, ge=5, le=100, description="lowest quality of JPEG compression; null: none")
    misregistration: float = Field(
        0.0, ge=0, le=32, description="shift of one image against the other by up to these pixels"
    )
    whole_shift: int = Field(
        0,
        ge=0,
        le=32,
        description="the same by whole pixels and of 2 crops in 5: for binarised images, whose edges must stay sharp",
    )
    cutmix: float = Field(
        0.0, ge=0, le=1, description="share of the crops into which a rectangle of another is laid, all three images"
    )


def _as_roots(value: Any) -> Any:
    entries = [] if value is None else value if isinstance(value, list | tuple) else [value]
    return [{"path": entry} if isinstance(entry, str | os.PathLike) else entry for entry in entries]


class DataConfig(_Section):
    """Where the pairs are and how they become crops."""

    root: Annotated[tuple[DataRoot, ...], BeforeValidator(_as_roots)] = Field(
        (), description="the data set, or a list of them, each a path or {path, weight, ground_resolution}"
    )
    ground_resolution: float | None = Field(
        None,
        gt=0,
        description="metres per pixel, see [Ground resolution](#ground-resolution); default: the rasters' own",
    )
    val_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="kept for validation where the data have no val split; 0: none, it is on the pairs trained on",
    )
    bands: int = Field(3, ge=1, le=64, description="bands of the images; grey and RGB are brought to each other")
    binary: bool = Field(False, description="every class but 0 is the change")
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="names of the classes, 0 first; with binary two, or they are not taken"
    )
    ignore: int | None = Field(None, ge=1, le=255, description="mask value of pixels without truth")
    mask_offset: tuple[Annotated[int, Field(ge=-16, le=16)], Annotated[int, Field(ge=-16, le=16)]] = Field(
        (0, 0), description="pixels right and down by which masks lie away from what they mark; flips then keep it"
    )
    crop: int = Field(256, ge=16, le=4096, description="side of the training crops, in pixels")
    crop_resolution: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="metres per pixel between which each crop's are drawn; needs those of the data; null: as they are",
    )
    positive_crop_fraction: float = Field(0.5, ge=0, le=1, description="share of the crops laid around a changed pixel")
    cache: Literal["memory", "disk", "none"] = Field(
        "memory", description="where decoded images are kept: memory, disk or none"
    )
    augmentation: AugmentationConfig = AugmentationConfig()

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("every class needs a name of its own")
        return value


Channels = Annotated[int, Field(ge=1)]


EncoderName = Literal[
    "unet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet18_v2",
    "resnet34_v2",
    "resnet50_v2",
    "efficientnet_lite_b0",
    "efficientnet_lite_b1",
    "efficientnet_lite_b2",
    "efficientnet_lite_b3",
    "efficientnet_lite_b4",
    "efficientnet_v2_b0",
    "efficientnet_v2_b1",
    "efficientnet_v2_b2",
    "efficientnet_v2_b3",
    "efficientnet_v2_s",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "csp_darknet_tiny",
    "csp_darknet_s",
    "csp_darknet_m",
    "csp_darknet_l",
    "densenet121",
    "densenet169",
    "densenet201",
    "mit_b0",
    "mit_b1",
    "mit_b2",
]


class EncoderConfig(_Section):
    """From an image to feature maps, each half the size of the one before."""

    name: EncoderName = Field("unet", description="the network; `unet` is ours, see [Encoders](#encoders)")
    channels: tuple[Channels, ...] = Field(
        (16, 32, 64, 128), min_length=2, max_length=8, description="one per level; of unet only"
    )
    norm: Literal["batch", "local", "group", "none"] = Field(
        "batch",
        description="normalization after each convolution, of unet and of the decoder; the other encoders take batch "
        "and local alone; local: batch, over the share of each device alone",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="spatial dropout after each level of unet; stochastic depth elsewhere"
    )
    levels: int | None = Field(None, ge=2, le=5, description="maps used of the others, from the finest; default: all")
    weights: Literal["imagenet"] | None = Field(None, description="null: random; imagenet: see [Encoders](#encoders)")
    freeze: bool = Field(False, description="leave the encoder as it is, its batch normalization too")

    @model_validator(mode="after")
    def _only_unet_is_free(self) -> "EncoderConfig":
        fields = type(self).model_fields
        if self.name == "unet" and self.levels is not None:
            raise ValueError("the levels of unet are as many as its channels, levels is for the other encoders")
        if self.name == "unet" and self.weights is not None:
            raise ValueError("unet has no weights but random ones (weights: null)")
        changed = ["channels"] if self.channels != fields["channels"].default else []
        changed += ["norm"] if self.norm not in ("batch", "local") else []
        if self.name != "unet" and changed:
            raise ValueError(f"{self.name} is built as published, it does not take {', '.join(changed)}")
        return self


class DecoderConfig(_Section):
    """From the differences of the feature maps to one map."""

    name: Literal["unet", "fpn", "mlp"] = Field(
        "unet", description="unet: concatenates level by level; fpn: feature pyramid; mlp: light, of SegFormer"
    )
    channels: tuple[Channels, ...] | Channels | None = Field(
        None,
        description="unet: one per level but the deepest, finest first; default: those of the encoder unet, else 32, "
        "64, 128, 256; fpn, mlp: one number; default: 64",
    )
    upsampling: Literal["nearest", "bilinear"] | None = Field(
        None, description="nearest or bilinear; default: bilinear for mlp, else nearest"
    )
    attention: bool = Field(False, description="attention gates on the finer differences; of unet only")
    squeeze_excite: bool = Field(False, description="squeeze and excitation after each level; of unet only")

    @model_validator(mode="after")
    def _as_the_decoder_takes_them(self) -> "DecoderConfig":
        if self.name != "unet":
            if isinstance(self.channels, tuple):
                raise ValueError(f"{self.name} has as many channels on every level: channels is one number")
            asked = [option for option in ("attention", "squeeze_excite") if getattr(self, option)]
            if asked:
                raise ValueError(f"{self.name} has no {' and no '.join(asked)}, only the decoder unet has")
        elif isinstance(self.channels, int):
            raise ValueError("unet has channels of its own on each level: channels is a list, finest first")
        return self


Architecture = Literal["unet_diff", "pretrained_diff", "fc_ef", "fc_siam_conc", "fc_siam_diff"]
OURS = ("unet_diff", "pretrained_diff")
"""The architectures whose parts are chosen; the others are built as published."""


class ModelConfig(_Section):
    """The change detector."""

    architecture: Architecture = Field(
        "unet_diff",
        description="unet_diff: ours; pretrained_diff: the same from ImageNet weights, by default "
        "efficientnet_lite_b0's; fc_ef, fc_siam_conc, fc_siam_diff: as published (Daudt et al. 2018), no further keys",
    )
    encoder: EncoderConfig = EncoderConfig()
    shared_encoder: bool = Field(True, description="one encoder for both images, or one each")
    encoder_after: EncoderConfig | None = Field(
        None, description="another encoder for the image after, with the keys of model.encoder; default: the same"
    )
    align: Literal["strict", "crop", "resize", "crop_resize"] = Field(
        "strict", description="of maps that differ in size"
    )
    difference: Literal["signed", "absolute", "squared", "normalized", "concatenated"] = Field(
        "concatenated", description="of before and after; concatenated: both maps and their signed difference"
    )
    decoder: DecoderConfig = DecoderConfig()

    @model_validator(mode="before")
    @classmethod
    def _begin_pretrained(cls, values: Any) -> Any:
        """``pretrained_diff`` is ``unet_diff`` with another encoder where none is named."""
        if isinstance(values, dict) and values.get("architecture") == "pretrained_diff":
            encoder = values.get("encoder") or {}
            if isinstance(encoder, dict):
                encoder = {"name": "efficientnet_lite_b0", "weights": "imagenet", **encoder}
                return {**values, "encoder": encoder}
        return values

    @model_validator(mode="after")
    def _as_named(self) -> "ModelConfig":
        if self.architecture not in OURS:
            fields = (name for name in type(self).model_fields if name != "architecture")
            if changed := [name for name in fields if getattr(self, name) != type(self).model_fields[name].default]:
                raise ValueError(
                    f"{self.architecture} is built as published, it does not take {', '.join(changed)}; leave that out"
                )
        if self.encoder_after and self.shared_encoder and "shared_encoder" in self.model_fields_set:
            raise ValueError("shared_encoder is true, and encoder_after names another one: leave one of them out")
        encoders = [self.encoder, *([self.encoder_after] if self.encoder_after else [])]
        if self.architecture == "pretrained_diff" and not any(encoder.weights for encoder in encoders):
            raise ValueError("pretrained_diff needs encoder.weights: imagenet; from random weights it is unet_diff")
        return self


LossName = Literal["cross_entropy", "focal", "dice", "tversky", "lovasz"]


class TrainConfig(_Section):
    """How the detector is fitted."""

    epochs: int = Field(20, ge=1, description="validations, and chances to be the best model")
    batch: int = Field(8, ge=1, description="crops a step")
    crops_per_epoch: int | None = Field(None, ge=1, description="default: as many as there are training pairs")
    learning_rate: float = Field(1e-3, gt=0, description="highest rate, reached after the warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW, biases and normalization left out")
    ema: float = Field(0.0, ge=0, lt=1, description="momentum of the weights' moving average; 0: none")
    loss: Annotated[dict[LossName, Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        {"cross_entropy": 1.0, "dice": 1.0}, description="weighted sum of cross_entropy, focal, dice, tversky, lovasz"
    )
    early_stopping: int | None = Field(None, ge=1, description="stop after this many epochs without a better val F1")
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "auto", description="of the computation; auto: what suits the processor and the encoder"
    )
    jit: bool | Literal["auto"] = Field("auto", description="compile the steps by XLA; auto: on one GPU")
    accumulate: int = Field(
        1, ge=1, description="batches a step of the optimizer, which takes the mean of their gradients"
    )
    clip: float | None = Field(None, gt=0, description="largest norm of all gradients together; null: not clipped")
    strategy: Literal["auto", "single", "mirrored", "multiworker"] = Field(
        "auto",
        description="single: one device; mirrored: all GPUs; multiworker: the processes of --workers, TF_CONFIG or "
        "SLURM; auto: what is there",
    )
    devices: int | None = Field(
        None, ge=1, description="mirrored: so many GPUs, without any as many parts of the processor; default: all GPUs"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of each level of an encoder over that of the next; 1: all alike",
    )
    deep_supervision: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the loss of each level of the decoder over that of the finer; 0: none",
    )
    backup_minutes: float | None = Field(
        5.0, gt=0, description="the state is stored this often, besides at the end of each epoch; null: not by time"
    )
    backup_steps: int | None = Field(None, ge=1, description="and after this many steps; null: not by steps")
    init_from: str | None = Field(None, description="a model to start from: its weights whole, or its encoder's")


class PostProcessingConfig(_Section):
    """What is done to a mask before its regions are counted, in this order; lengths and areas in pixels."""

    closing: int = Field(0, ge=0, le=64, description="radius of a morphological closing")
    fill_holes: int = Field(0, ge=0, description="area of the largest hole that is filled")
    vote: bool = Field(False, description="each region takes the class that most of its pixels have")
    minimum_area: int = Field(0, ge=0, description="area of the smallest region that stays")


class ObjectsConfig(_Section):
    """What an object of a mask is, and when it is right; lengths and areas in pixels."""

    iou: float = Field(0.33, ge=0, lt=1, description="an object is right above this IoU with a true box")
    join: int = Field(0, ge=0, le=64, description="regions whose dilations by so many pixels touch are one object")
    pad: int = Field(0, ge=0, description="pixels that a box is wider than its region, on each side")
    minimum_area: int = Field(1, ge=1, description="objects of fewer pixels are left out")
    minimum_score: float = Field(0.0, ge=0, le=1, description="objects of a lower score are not counted as found")


def _word_or_section(value: Any) -> str:
    return "[section]" if isinstance(value, dict | BaseModel) else "[word]"


class InferenceConfig(_Section):
    """What the model file tells prediction."""

    tile: int = Field(512, ge=32, le=8192, description="side of a tile, in pixels")
    overlap: int = Field(64, ge=0, le=4096, description="pixels that neighbouring tiles share")
    threshold: float | None = Field(
        None,
        ge=0.001,
        le=0.999,
        description="probability from which a pixel is changed, to 1/1024; null: that of the best F1 on the "
        "validation pairs",
    )
    ground_resolution: float | None = Field(
        None,
        gt=0,
        description="metres per pixel to which images whose own are known are brought, in validation too; null: what "
        "it was trained on",
    )
    post_processing: Annotated[
        Annotated[Literal["auto", "none"], Tag("[word]")] | Annotated[PostProcessingConfig, Tag("[section]")],
        Discriminator(_word_or_section),
    ] = Field(
        "auto",
        description="of masks: auto (what raises F1 on the validation pairs), none, or a section `closing` (radius), "
        "`fill_holes` (largest area), `vote` (one class a region), `minimum_area`, in pixels",
    )
    tta: Literal["none", "d4", "multiscale"] = Field(
        "none",
        description="d4: the mean over the eight turns and mirror images of every tile, eight times the work; "
        "multiscale: over four of them, three at another scale, five times the work; of the validation at the end "
        "of training too",
    )
    objects: ObjectsConfig = ObjectsConfig()


class Config(_Section):
    """A whole job."""

    seed: int | None = Field(0, ge=0, description="makes a run repeatable; null: another run each time")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    inference: InferenceConfig = InferenceConfig()

    @model_validator(mode="after")
    def _levels_to_supervise(self) -> "Config":
        if self.train.deep_supervision and self.model.architecture not in OURS:
            raise ValueError(
                f"train.deep_supervision needs the decoder of {' or '.join(OURS)}, "
                f"{self.model.architecture} has its own"
            )
        return self


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, that does not let the second of two equal keys win in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML file, with ``section.key=value`` overrides laid over it.

    An override that chooses another architecture, encoder or decoder than the file's leaves out what the file says of
    that one: its channels would not fit, and no override can take a key away.
    Raises ConfigError, in one line, on a file that is no YAML mapping, an unknown key and a value that is not allowed.
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: holds {type(values).__name__}, a configuration is a mapping of sections")
    for override in overrides:
        _leave_out_the_former(values, override)
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        overridden = [override.partition("=")[0] for override in overrides]
        found = error.errors()
        # a list of bad entries is said to be too short as well
        inner = [item for item in found if not any(_lies_within(other, item) for other in found)]
        lines = [f"{_source(item, path, overridden)}: {_explain(item)}" for item in inner]
        raise ConfigError("; ".join(lines)) from error


def dump_config(config: Config) -> str:
    """The full effective configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: is not KEY=VALUE, for example --set train.epochs=3")
    *sections, last = key.split(".")
    section = values
    for name in sections:
        if section.get(name) is None:  # absent, or a section left empty
            section[name] = {}
        below = section[name]
        if not isinstance(below, dict):
            raise ConfigError(f"--set {override}: {name} is a value, it has no {last}")
        section = below
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error


def _leave_out_the_former(values: dict[str, Any], override: str) -> None:
    key, _, text = override.partition("=")
    *sections, last = key.split(".")
    if key != "model.architecture" and (sections[:1] != ["model"] or len(sections) != 2 or last != "name"):
        return
    section: Any = values
    for name in sections:
        section = section.get(name) if isinstance(section, dict) else None
    if isinstance(section, dict):
        pretrained = key == "model.encoder.name" and values["model"].get("architecture") == "pretrained_diff"
        default = "unet_diff" if last == "architecture" else "efficientnet_lite_b0" if pretrained else "unet"
        with contextlib.suppress(yaml.YAMLError):  # which is told where the override is laid over the file
            if section.get(last, default) != yaml.safe_load(text):
                section.clear()


def _lies_within(item: Any, outer: Any) -> bool:
    return len(item["loc"]) > len(outer["loc"]) and item["loc"][: len(outer["loc"])] == outer["loc"]


def _source(item: Any, path: Path | None, overridden: list[str]) -> str:
    """Where a wrong key or value stands: in an override, or in the file."""
    key = ".".join(map(str, _key_parts(item)))
    by_override = any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in overridden)
    return "--set" if by_override or path is None else str(path)


def _key_parts(item: Any) -> list[str | int]:
    """The keys down to what is wrong, without the marks that pydantic adds for its own sake."""
    return [part for part in item["loc"] if not str(part).startswith("[")]


def _explain(item: Any) -> str:
    location = _key_parts(item)
    key = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        names = _field_names(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
        everywhere = [full for full in _all_keys(Config) if full.rsplit(".", 1)[-1] == location[-1]]
        hint = f", did you mean {near[0]}?" if near else f", did you mean {everywhere[0]}?" if everywhere else ""
        return f"{key}: unknown key (value {item['input']!r}){hint} Allowed here: {', '.join(names)}"
    problem = item["msg"].removeprefix("Value error, ")
    problem = problem[0].lower() + problem[1:]
    if item["type"] == "literal_error":
        allowed = [part.strip().strip("'") for part in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        near = difflib.get_close_matches(str(item["input"]), allowed, n=1, cutoff=0.6)
        if item["loc"][-1] == "[word]":
            problem += f", or a section with the keys {', '.join(_field_names(location))}"
        problem += f"; did you mean {near[0]}?" if near else ""
    if item["type"] == "model_type":
        problem = f"it is a section with the keys {', '.join(_field_names(location))}"
    if item["type"] == "value_error" and isinstance(item["input"], dict | BaseModel):
        return f"{key}: {problem}" if key else problem  # of several keys of a section, which the problem names
    return f"{key}: got {item['input']!r}, {problem}"


def _field_names(location: list[Any]) -> list[str]:
    section: Any = Config
    for part in location:
        nested = DataRoot if isinstance(part, int) else _section_of(section.model_fields[part].annotation)
        section = nested or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, an optional one too; None where it holds a value."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = tuple(get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        keys += _all_keys(below, f"{prefix}{name}.") if below else [f"{prefix}{name}"]
    return keys
