"""A training run, from a configuration to a run folder, read from top to bottom."""

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from data_pipelines.augmentation import Augmentation
from data_pipelines.decoding import read_info
from data_pipelines.layouts import DataError, Pair, find_pairs
from data_pipelines.pipeline import (
    CropPlan,
    LabelledPair,
    PairStore,
    Part,
    training_batches,
    turns_by_area,
)
from data_pipelines.validation import FaultyDataError, check
from segdiff.config import OURS, Config, ConfigError, DataRoot, dump_config, load_config
from segdiff.files import remove_unfinished, write_whole
from segdiff.ground_resolution import differ, ground_resolution, mean_side, own_resolution, size_at, target_resolution
from segdiff.model_files import ObjectOptions
from segdiff.models.architectures import build_change_detector, common_strides
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.encoders import learning_rate_scales
from segdiff.models.heads import DeepSupervision
from segdiff.models.loading import load_model
from segdiff.models.precision import POLICIES, choose_precision, choose_xla, with_precision
from segdiff.training.backup import Backup, PassOver, Position, restore_backup, state_variables
from segdiff.training.callbacks import (
    EpochLines,
    History,
    KeepBest,
    Pictures,
    StepsDone,
    StopOnNaN,
    read_history,
)
from segdiff.training.conclusion import ShowOutcome, Validation, conclude
from segdiff.training.data_wait import DataWait
from segdiff.training.distribution import Distribution, open_distribution
from segdiff.training.failures import disk_explained, memory_explained
from segdiff.training.interruption import HeldSignals, hold_signals
from segdiff.training.losses import ChangeLoss
from segdiff.training.metrics import ChangeScores
from segdiff.training.optimizers import LayerwiseAdamW, ReplicatedLossScale
from segdiff.training.post_processing import PostProcess
from segdiff.training.schedules import warmup_cosine

_RASTERS_ASKED = 100
"""Pairs of a data root, at most, whose rasters are asked for their ground resolution."""

DrawPair = Callable[..., np.ndarray]
"""(before, after, mask, truth, classes=names) -> RGB picture, for TensorBoard."""


@dataclass(frozen=True)
class TrainingData:
    """Checked pairs of all data roots, divided for training."""

    pairs: tuple[LabelledPair, ...]
    train: tuple[tuple[int, ...], ...]
    """Indices into ``pairs``, one group a data root."""
    val: tuple[tuple[int, ...], ...]
    turns: tuple[tuple[int, ...], ...]
    """``train`` with each index as often as its pair is taken in a round."""
    classes: tuple[str, ...]
    root_resolutions: tuple[tuple[float, float] | None, ...]
    """The finest and the coarsest of each root in metres per pixel; None: not known."""
    ground_resolution: tuple[float, float] | None = None
    """The finest and the coarsest that the model will see; None: not known."""


def train(
    config: Config,
    run: Path,
    *,
    resume: bool = False,
    workers: Sequence[str] = (),
    index: int | None = None,
    draw: DrawPair,
    show: ShowOutcome,
    post_process: PostProcess,
    say: Callable[[str], None],
    on_progress: Callable[[float, int], None] | None = None,
) -> dict[str, object] | None:
    """Trains into the run folder and returns what is in its metrics.json; None in a worker that is not the chief.

    ``workers`` are the addresses of all processes of the training and ``index`` says which this one is; only the first,
    the chief, writes and speaks. ``draw`` makes the pictures for TensorBoard after every epoch and ``show`` those of
    the end, ``post_process`` does to a mask what prediction will do to it, ``say`` takes lines for a person;
    ``on_progress`` is told the steps that are done and all steps. Raises ConfigError on a run folder that may not be
    used and on a configuration that does not fit the data, FaultyDataError on data with faults, TrainingError on a run
    that cannot go on.
    """
    config = _with_absolute_roots(config)
    _check_parts(config)
    distribution = open_distribution(config.train.strategy, devices=config.train.devices, workers=workers, index=index)
    chief = distribution.chief
    if chief:
        _claim(run, config, resume)
    else:
        say, on_progress = (lambda line: None), None
    data = read_data(config, say)
    _require_swappable(config, len(data.classes))
    augmentation = _augmentation(config)
    (drawn,) = distribution.from_chief([np.array(_seed(config, run))])
    seed = int(drawn)
    keras.utils.set_random_seed(seed)

    with distribution.scope():
        detector = _initial_model(config, data, say)
    precision, reason = _precision(config, detector, run if resume else None)
    (chosen,) = distribution.from_chief([np.array(POLICIES.index(precision))])
    precision = POLICIES[int(chosen)]
    say(f"precision {precision}: {reason}")
    with distribution.scope():
        detector = with_precision(detector, precision)
    if config.train.ema:
        _average_statistics(detector, config.train.ema)
    compiled, reason = choose_xla(config.train.jit, precision)
    if distribution.strategy is not None:
        compiled, reason = False, "several devices sum over each other"
        say(f"{distribution.replicas} replicas: {distribution.reason}")
    say(f"XLA {'on' if compiled else 'off'}: {reason}")
    store = PairStore(data.pairs, bands=config.data.bands, binary=config.data.binary, cache=config.data.cache)
    plan = _crop_plan(config, data, seed)
    steps = plan.steps_per_epoch * config.train.epochs
    validation = Validation(
        store,
        tuple(index for root in data.val for index in root),
        tuple(_qualified_names(data.pairs, data.val)),
        multiple=detector.settings.stride,
        batch_pixels=config.train.batch * config.data.crop**2,
        sizes=_validation_sizes(config, data, detector.settings.ground_resolution),
    )
    part = Part(distribution.index, distribution.workers)  # each worker decodes what it computes
    validated = "the same" if data.val == data.train else len(validation.indices)
    say(
        f"{sum(map(len, data.train))} pairs to train on, {validated} to validate on; "
        f"{plan.crops_per_epoch} crops an epoch, {detector.count_params():,} parameters"
    )

    decay = config.train.deep_supervision
    with distribution.scope():
        # a backup of this model holds the heads that deep supervision adds, the detector has none of them
        model = DeepSupervision(detector, decay) if decay else detector
        model.compile(
            optimizer=_optimizer(config, model.supervised if decay else detector, steps, precision),
            loss=ChangeLoss(config.train.loss),
            metrics=[ChangeScores(len(data.classes))],
            jit_compile=compiled,
        )
        model.optimizer.build(model.trainable_variables)
    start, metrics = restore_backup(model, run / "backup", say) if resume and chief else (Position(), [])
    start = _share_start(distribution, model, start)
    rows = []
    if start.epoch and chief:
        rows = [row for row in read_history(run / "history.csv") if row["epoch"] <= start.epoch]
    if start != Position():
        say(
            f"going on at epoch {start.epoch + 1} of {config.train.epochs}, "
            f"{start.step} of {plan.steps_per_epoch} steps of it are done"
        )
    elif resume:
        say(f"{run} holds nothing to go on with: the run begins at epoch 1")
    if chief:
        _write_run(run, config, data, seed, precision)

    # Keras looks at a batch before it begins, also where none is left to be trained on
    first_step = min(start.epoch * plan.steps_per_epoch + start.step, steps - 1)
    batches = training_batches(store, plan, augmentation, first_step=first_step, steps=steps, part=part)
    # of unknown length from here: Keras would count the steps that it passes over as batches and end before the last
    batches = batches.filter(lambda *batch: True)
    val_batches = validation.batches(part)
    corner = (slice(0, 512), slice(0, 512))  # of a big image it tells as much
    looked_at = [validation.seen[index] for index in validation.indices[:4]]
    examples = [(pair.before[corner], pair.after[corner], pair.mask[corner]) for pair in looked_at]

    def pictures() -> list[np.ndarray]:
        return [
            draw(before, after, _mask(detector, before, after), mask, classes=data.classes)
            for before, after, mask in examples
        ]

    def pairs_of(epoch: int, step: int) -> list[str]:
        chosen = plan.epoch_order(epoch)[step * plan.batch : (step + 1) * plan.batch]
        laid_in = ["others laid into them by data.augmentation.cutmix"] if plan.cutmix else []
        return [data.pairs[index].pair.name for index in chosen] + laid_in

    moving_average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.train.ema else []
    best = KeepBest(detector, run / "model.keras" if chief else None, rows, config.train.early_stopping)
    wait = DataWait(say, passed=start.step)
    # a worker that stores nothing has nothing to wait for
    holding = hold_signals() if chief else nullcontext(HeldSignals())
    memory = memory_explained(config.train.batch, config.data.crop)
    with distribution.fitting(), holding as signals, disk_explained(run), memory:
        backup = Backup(
            run / "backup",
            start,
            signals,
            steps=config.train.backup_steps,
            minutes=config.train.backup_minutes,
            metrics=distribution.strategy is None,
        )
        writing = [
            History(run / "history.csv", rows),
            best,
            keras.callbacks.TensorBoard(run / "tensorboard", write_graph=False),
            Pictures(run / "tensorboard" / "pictures", pictures),
        ]
        model.fit(
            distribution.shares(wait.watch(batches)),
            initial_epoch=start.epoch,
            epochs=config.train.epochs,
            steps_per_epoch=plan.steps_per_epoch,
            validation_data=distribution.shares(val_batches),
            validation_steps=int(val_batches.cardinality()),
            verbose=0,
            callbacks=[
                PassOver(start, metrics, batches),
                wait,  # before those that write its share down
                EpochLines(say, config.train.epochs),
                *([StepsDone(on_progress, plan.steps_per_epoch, config.train.epochs)] if on_progress else []),
                StopOnNaN(pairs_of),
                *([backup] if chief else []),  # before the weights are swapped for their averages
                *moving_average,
                *(writing if chief else [best]),
            ],
        )
    if not chief:
        return None
    with disk_explained(run):
        # by the chief alone, on every pixel
        return conclude(
            run,
            config,
            validation,
            data.classes,
            trained_on=sum(index in root for root in data.train for index in validation.indices),
            best_epoch=best.best_epoch,
            history=rows,
            precision=precision,
            post_process=post_process,
            show=show,
            say=say,
        )


def _precision(config: Config, detector: ChangeDetector, run: Path | None) -> tuple[str, str]:
    """That in which a run began, also where this machine would choose another: its state depends on it."""
    environment = None if run is None else run / "environment.json"
    if environment is not None and environment.exists():
        return json.loads(environment.read_text(encoding="utf-8"))["precision"], "as the run began"
    return choose_precision(config.train.precision, detector)


def _share_start(distribution: Distribution, model: keras.Model, start: Position) -> Position:
    """Where the chief goes on, and its whole state, in every worker."""
    epoch, step = distribution.from_chief([np.array(start.epoch), np.array(start.step)])
    start = Position(int(epoch), int(step))
    if start != Position() and distribution.workers > 1:
        variables = state_variables(model)
        values = distribution.from_chief([keras.ops.convert_to_numpy(variable) for variable in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return start


def _check_parts(config: Config) -> None:
    """Refuses a model whose parts do not fit each other, before anything is read or written."""
    if config.model.architecture in OURS:
        try:
            levels = len(common_strides(config.model))
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error
        if config.train.deep_supervision and config.model.decoder.name == "unet" and levels < 3:
            raise ConfigError(
                f"train.deep_supervision: the decoder unet of {levels} levels has none but the finest to supervise; "
                "take 3 or more, or set it to 0"
            )
    if config.data.classes is not None and not config.data.binary:
        _require_swappable(config, len(config.data.classes))


def _require_swappable(config: Config, classes: int) -> None:
    """Refuses to swap before and after where kinds of change are told apart: in the mask they stay what they were.

    What was built has been demolished when time runs backwards. A configuration that says so is still read, for runs of
    earlier versions are evaluated by theirs.
    """
    if config.data.augmentation.swap and classes > 2:
        raise ConfigError(
            f"data.augmentation.swap: is true, and a mask of {classes} classes does not say what becomes of each when "
            "before and after change places (built: demolished); set it to false, or data.binary to true"
        )


def _optimizer(config: Config, model: keras.Model, steps: int, precision: str) -> keras.optimizers.Optimizer:
    optimizer = LayerwiseAdamW(
        warmup_cosine(config.train.learning_rate, max(steps // config.train.accumulate, 1), config.train.warmup),
        learning_rate_scales(model, config.train.layer_decay) if config.train.layer_decay < 1 else None,
        accumulate=config.train.accumulate,
        global_clipnorm=config.train.clip,
        weight_decay=config.train.weight_decay,
        use_ema=config.train.ema > 0,
        ema_momentum=config.train.ema or 0.99,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if precision == "mixed_float16":
        # small gradients vanish in float16; Keras scales the loss by itself only where the model's own policy says so
        return ReplicatedLossScale(optimizer)
    return optimizer


def read_data(config: Config, say: Callable[[str], None]) -> TrainingData:
    """Finds, checks and divides the pairs of every data root."""
    if not config.data.root:
        raise ConfigError("data.root: is not set, name your data with --set data.root=FOLDER")
    for root in config.data.root:
        if not Path(root.path).exists():
            raise ConfigError(f"data.root: there is no {root.path}")
    reports = [check(find_pairs(Path(root.path)), ignore=config.data.ignore) for root in config.data.root]
    if any(report.faults for report in reports):
        raise FaultyDataError(reports)
    codings = [report.coding for report in reports if report.coding is not None]
    for report in reports:
        for warning in report.warnings:
            say(f"warning: {report.data.root}: {warning}")

        bands = config.data.bands
        if report.bands != bands and (report.bands, bands) != (1, 3):
            raise ConfigError(f"data.bands: is {bands}, the images of {report.data.root} have {report.bands}")

    pairs: list[LabelledPair] = []
    train, val, taken = [], [], []
    for report, coding in zip(reports, codings, strict=True):
        first = len(pairs)
        pairs += [LabelledPair(pair, coding) for pair in report.data.pairs]
        here = range(first, len(pairs))
        chosen = {split: [k for k in here if pairs[k].pair.split == split] for split in ("train", "val", "all")}
        to_train, to_val = chosen["train"] or chosen["all"], chosen["val"]
        if not to_train:
            raise DataError(f"{report.data.root}: has no train split, only {', '.join(report.data.splits)}")
        if not to_val:
            to_train, to_val = _divide(to_train, config, report.data.root)
        train.append(tuple(to_train))
        val.append(tuple(to_val))
        times = [1] * len(to_train)
        if len({size for split in report.splits.values() for size in split.sizes}) > 1:
            headers = [read_info(pairs[k].pair.after) for k in to_train]
            times = turns_by_area([(header.height, header.width) for header in headers], config.data.crop)
        taken.append(tuple(k for k, often in zip(to_train, times, strict=True) for _ in range(often)))
    of_change = [report for report, coding in zip(reports, codings, strict=True) if coding.values == (0, 255)]
    of_classes = [report for report, coding in zip(reports, codings, strict=True) if coding.classes > 2]
    if of_change and of_classes and not config.data.binary:
        raise ConfigError(
            f"data.root: {of_classes[0].data.root} holds class indices and {of_change[0].data.root} change or none; "
            "train on both with data.binary: true"
        )
    classes = _classes(config, [coding.classes for coding in codings])
    by_root = [
        _ground_resolution(config, root, report.data.pairs, say)
        for root, report in zip(config.data.root, reports, strict=True)
    ]
    known = [resolution for resolution in by_root if resolution is not None]
    for root, resolution in zip(config.data.root, by_root, strict=True):
        if resolution is None and known:
            say(f"warning: {root.path}: its metres per pixel are not known; say them with its ground_resolution")
    resolution = (min(finest for finest, _ in known), max(coarsest for _, coarsest in known)) if known else None
    if config.data.crop_resolution is not None:
        finest, coarsest = config.data.crop_resolution
        if finest > coarsest:
            raise ConfigError(f"data.crop_resolution: is [{finest:g}, {coarsest:g}], the finer one comes first")
        for root, own in zip(config.data.root, by_root, strict=True):
            if own is None or differ(*own):
                found = "are not known" if own is None else f"reach from {own[0]:.3g} to {own[1]:.3g}"
                raise ConfigError(
                    f"data.crop_resolution: the metres per pixel of {root.path} {found}; say them with its "
                    "ground_resolution, or set crop_resolution to null"
                )
        resolution = finest, coarsest
    if resolution is not None:
        say("ground resolution " + " to ".join(f"{end:.3g}" for end in dict.fromkeys(resolution)) + " m a pixel")
    return TrainingData(tuple(pairs), tuple(train), tuple(val), tuple(taken), classes, tuple(by_root), resolution)


def _said_resolution(config: Config, root: DataRoot) -> float | None:
    """Metres per pixel that the configuration says of a data root; None: nothing."""
    return config.data.ground_resolution if root.ground_resolution is None else root.ground_resolution


def _ground_resolution(
    config: Config, root: DataRoot, pairs: Sequence[Pair], say: Callable[[str], None]
) -> tuple[float, float] | None:
    """The finest and the coarsest of a data root: what is configured, else what its rasters say of themselves.

    Raises ConfigError where the two differ by more than a quarter. Rasters whose pixels are not about square on the
    ground have no one resolution: of them nothing is taken.
    """
    said = _said_resolution(config, root)
    rasters = [pair.after for pair in pairs if pair.after.suffix.lower() in (".tif", ".tiff")]
    asked = rasters[:: max(-(-len(rasters) // _RASTERS_ASKED), 1)]
    found = [own for path in asked if (own := ground_resolution(read_info(path).grid)) is not None]
    if said is not None:
        for side in map(mean_side, found):
            if differ(side, said):
                raise ConfigError(
                    f"data.ground_resolution: is {said:g}, rasters of {root.path} have {side:.3g} m a pixel; set it to "
                    "null to take theirs, or mend their georeference"
                )
        return said, said
    if not found:
        return None
    for across, down in found:
        if differ(across, down):
            say(
                f"warning: {root.path}: its pixels are {across:.3g} x {down:.3g} m on the ground, not square: their "
                "ground resolution is not stored"
            )
            return None
    return min(map(mean_side, found)), max(map(mean_side, found))


def _divide(indices: list[int], config: Config, root: Path) -> tuple[list[int], list[int]]:
    if config.data.val_fraction == 0:
        return indices, indices
    if len(indices) < 2:
        raise DataError(f"{root}: has {len(indices)} pair to train on and no val split; at least 2 pairs are needed")
    shuffled = np.random.default_rng([config.seed or 0, 0]).permutation(indices)
    kept = min(max(round(len(indices) * config.data.val_fraction), 1), len(indices) - 1)
    return sorted(shuffled[kept:].tolist()), sorted(shuffled[:kept].tolist())


def _classes(config: Config, found: list[int]) -> tuple[str, ...]:
    names, most = config.data.classes, max(found)
    if config.data.binary:
        return names if names is not None and len(names) == 2 else ("background", "change")
    if names is not None:
        if len(names) < most:
            raise ConfigError(f"data.classes: names {len(names)} classes, the masks hold {most}: 0 to {most - 1}")
        return names
    return ("background", "change") if most == 2 else ("background", *(f"class {k}" for k in range(1, most)))


def _augmentation(config: Config) -> Augmentation:
    try:
        data = config.data
        return Augmentation(
            bands=data.bands, mask_offset=data.mask_offset, **data.augmentation.model_dump(exclude={"cutmix"})
        )
    except ValueError as error:
        raise ConfigError(f"data.augmentation: {error}") from error


def _crop_plan(config: Config, data: TrainingData, seed: int) -> CropPlan:
    weights = [
        float(len(indices)) if root.weight is None else root.weight
        for root, indices in zip(config.data.root, data.train, strict=True)
    ]
    return CropPlan(
        crop=config.data.crop,
        batch=config.train.batch,
        crops_per_epoch=config.train.crops_per_epoch or sum(map(len, data.train)),
        positive_fraction=config.data.positive_crop_fraction,
        seed=seed,
        roots=data.turns,
        weights=tuple(weights),
        resolution=config.data.crop_resolution,
        ground=tuple(mean_side(own) for own in data.root_resolutions if own) if config.data.crop_resolution else (),
        cutmix=config.data.augmentation.cutmix,
    )


def _validation_sizes(
    config: Config, data: TrainingData, works_at: tuple[float, float] | None
) -> dict[int, tuple[int, int]]:
    """Height and width of the validation pairs that prediction would bring to the resolution the model works at.

    Raises DataError on a pair that it would refuse for it.
    """
    sizes = {}
    for root, indices in zip(config.data.root, data.val, strict=True):
        said = _said_resolution(config, root)
        for index in indices:
            path = data.pairs[index].pair.after
            header = read_info(path)
            try:
                own = own_resolution(header.grid, said)
                target = target_resolution(own, works_at)
                if own is not None and target is not None:
                    sizes[index] = size_at(header.height, header.width, own, target)
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
    return sizes


def _initial_model(config: Config, data: TrainingData, say: Callable[[str], None]) -> ChangeDetector:
    outputs = 1 if len(data.classes) == 2 else len(data.classes)
    try:
        model = build_change_detector(config.model, bands=config.data.bands, classes=outputs)
    except ValueError as error:  # what can only be told by building: weights that cannot be had
        raise ConfigError(f"model: {error}") from error
    stride = model.settings.stride
    tile, overlap, works_at = config.inference.tile, config.inference.overlap, config.inference.ground_resolution
    for key, value in (("tile", tile), ("overlap", overlap)):
        if value % stride:
            raise ConfigError(f"inference.{key}: got {value}, it must be a multiple of the model's stride {stride}")
    if overlap >= tile:
        raise ConfigError(f"inference.overlap: got {overlap}, it must be smaller than inference.tile, {tile}")
    trained = data.ground_resolution
    if works_at is not None and trained is not None and target_resolution((works_at, works_at), trained) is not None:
        raise ConfigError(
            f"inference.ground_resolution: is {works_at:g} m a pixel, it must be about what the model is trained at, "
            f"{trained[0]:g} to {trained[1]:g}"
        )
    model.settings = replace(
        model.settings,
        classes=data.classes,
        tile=tile,
        overlap=overlap,
        ground_resolution=trained if works_at is None else (works_at, works_at),
        mask_offset=config.data.mask_offset,
        test_time_augmentation=config.inference.tta,
        objects=ObjectOptions(**config.inference.objects.model_dump()),
    )
    if config.train.init_from is not None:
        say(_start_from(model, config.train.init_from))
    return model


def _average_statistics(model: keras.Model, momentum: float) -> None:
    """Lets batch normalization average its statistics over the steps that averaged weights are taken of.

    Statistics of the latest weights alone do not fit averaged ones: six classes of DeepPCB had F1 0.19 after 12,000
    crops where the plain weights had 0.76.
    """
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = max(layer.momentum, momentum)


def _start_from(model: ChangeDetector, origin: str) -> str:
    """Copies another model's weights, whole where every shape is the same, else its encoder's."""
    source = load_model(origin)

    def shapes(part: keras.Model) -> list[tuple[int, ...]]:
        return [tuple(weight.shape) for weight in part.weights]

    if shapes(source) == shapes(model):
        model.set_weights(source.get_weights())
        return f"started from all weights of {origin}"
    encoders = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    origins = [layer for layer in source.layers if isinstance(layer, keras.Model)]
    if not origins or any(shapes(encoder) != shapes(origins[0]) for encoder in encoders):
        raise ConfigError(
            f"train.init_from: {origin} has another encoder ({source.bands} bands, "
            f"{sum(map(len, shapes(origins[0]))) if origins else 0} weights) than this model ({model.bands} bands)"
        )
    for number, encoder in enumerate(encoders):
        encoder.set_weights(origins[min(number, len(origins) - 1)].get_weights())
    return f"started from the encoder of {origin}"


def _mask(model: ChangeDetector, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The mask of one pair, whole, at the model's threshold."""
    logits = keras.ops.convert_to_numpy(model([before[None], after[None]], training=False))[0]
    if logits.shape[-1] == 1:
        return (logits[..., 0] >= np.log(model.settings.threshold / (1 - model.settings.threshold))).astype(np.uint8)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    none = shifted[..., 0] / shifted.sum(axis=-1)
    kinds = (logits[..., 1:].argmax(axis=-1) + 1).astype(np.uint8)
    return np.where(1 - none >= model.settings.threshold, kinds, np.uint8(0))


def _with_absolute_roots(config: Config) -> Config:
    """So that the run can be scored and resumed from any folder."""
    roots = tuple(root.model_copy(update={"path": str(Path(root.path).resolve())}) for root in config.data.root)
    return config.model_copy(update={"data": config.data.model_copy(update={"root": roots})})


def _claim(run: Path, config: Config, resume: bool) -> None:
    """Makes the run folder, or refuses one that holds another run."""
    written = run / "config.yaml"
    if not written.exists():
        if run.exists() and not run.is_dir():
            raise ConfigError(f"{run}: is a file, a run is a folder; name another with --out")
        data = {Path(root.path).resolve() for root in config.data.root}  # may lie in the folder of the run
        if run.exists() and any(entry.resolve() not in data for entry in run.iterdir()):
            raise ConfigError(f"{run}: is not empty and holds no run; name another folder with --out")
        run.mkdir(parents=True, exist_ok=True)
        return
    if not resume:
        raise ConfigError(f"{run}: holds a run already; go on with it with --resume, or name another folder with --out")
    if (run / "metrics.json").exists():
        raise ConfigError(f"{run}: this run is finished, there is nothing to resume")
    remove_unfinished(run)
    before = load_config(written).model_dump(mode="json")
    differing = _differences(before, config.model_dump(mode="json"))
    if differing:
        raise ConfigError(f"{run}: --resume with another configuration than the run's: {'; '.join(differing)}")


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    lines = []
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            lines += _differences(old[key], value, f"{prefix}{key}.")
        elif old.get(key) != value:
            lines.append(f"{prefix}{key} was {old.get(key)!r} and is {value!r}")
    return lines


def _seed(config: Config, run: Path) -> int:
    """The configured seed; else one drawn for this run, the same again when it is resumed."""
    if config.seed is not None:
        return config.seed
    environment = run / "environment.json"
    if environment.exists():
        return int(json.loads(environment.read_text())["seed"])
    return int(np.random.SeedSequence().generate_state(1)[0] // 2)


def _write_run(run: Path, config: Config, data: TrainingData, seed: int, precision: str) -> None:
    _write_text(run / "config.yaml", dump_config(config))  # first: it is what makes the folder a run
    for split, groups in (("train", data.train), ("val", data.val)):
        lines = _qualified_names(data.pairs, groups)
        text, file = "".join(f"{line}\n" for line in lines), run / "list" / f"{split}.txt"
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{file}: the data hold other pairs than when this run began; train anew in another folder"
            )
        _write_text(file, text)
    packages = ("segdiff", "keras", "tensorflow", "numpy", "albumentations", "opencv-python-headless")
    environment = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in packages},
        "precision": precision,
        "seed": seed,
    }
    _write_text(run / "environment.json", json.dumps(environment, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _qualified_names(pairs: Sequence[LabelledPair], groups: Sequence[Sequence[int]]) -> list[str]:
    """How pairs are called in a run's lists, one group a data root: by name; of several roots, its number before it."""
    return [
        f"{number}/{pairs[index].pair.name}" if len(groups) > 1 else pairs[index].pair.name
        for number, group in enumerate(groups)
        for index in group
    ]
