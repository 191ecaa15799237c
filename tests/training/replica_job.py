"""One process of a training for test_multiworker.py: ``python replica_job.py '{"tasks": [...], "out": FOLDER}'``.

The tasks are done one after the other. Those of VARIANTS fit a small network with batch normalization on drawn numbers
for 20 steps, the last batch of each epoch a single pair, and store the weights, those of the optimizer, and the scores.
"""

import json
import sys
import traceback
from pathlib import Path

PAIRS, BATCH, SIDE = 46, 5, 16

BASE = {
    "network": "small",
    "channels": 3,
    "terms": ["cross_entropy", "focal", "dice", "lovasz"],
    "precision": "float32",
    "accumulate": 1,
    "clip": None,
    "ema": False,
    "local": False,
}
BRIEF = {"channels": 1, "terms": ["cross_entropy", "dice"]}
STEPPED = {**BRIEF, "accumulate": 3, "clip": 0.1, "ema": True}
VARIANTS = {
    "plain": {},
    "stepped": {**STEPPED, "network": "supervised"},
    "bfloat16": {**STEPPED, "precision": "mixed_bfloat16"},
    "float16": {**STEPPED, "precision": "mixed_float16"},
    "supervised": {**BRIEF, "network": "supervised"},
    "semantic": {"network": "semantic"},
    "local": {**BRIEF, "local": True},
}

job = {"strategy": "single", "devices": None, "workers": [], "index": None, **json.loads(sys.argv[1])}

from segdiff.training.distribution import TrainingError, open_distribution  # noqa: E402

distribution = open_distribution(job["strategy"], devices=job["devices"], workers=job["workers"], index=job["index"])

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras.src.backend.tensorflow import trainer as keras_trainer  # noqa: E402

from data_pipelines.pipeline import Part  # noqa: E402
from segdiff.models.change_detector import ChangeDetector  # noqa: E402
from segdiff.models.decoders import LevelOutput  # noqa: E402
from segdiff.models.encoders import Encoder  # noqa: E402
from segdiff.models.heads import DeepSupervision  # noqa: E402
from segdiff.models.normalization import FusedBatchNormalization  # noqa: E402
from segdiff.models.semantic_change import build_semantic_change_detector  # noqa: E402
from segdiff.training.losses import ChangeLoss  # noqa: E402
from segdiff.training.metrics import ChangeScores  # noqa: E402
from segdiff.training.multiworker_fit import repaired_fit  # noqa: E402
from segdiff.training.optimizers import LayerwiseAdamW, ReplicatedLossScale  # noqa: E402
from segdiff.training.semantic_loss import SemanticChangeLoss  # noqa: E402


def network(options: dict) -> keras.Model:
    policy = options["precision"]
    images = [keras.Input((SIDE, SIDE, 3)) for _ in range(2)]

    def block(channels: int) -> list[keras.layers.Layer]:
        # no bias before a normalization, and a ReLU after it: what cancels has no gradient but rounding, and Adam makes
        # steps of that
        return [
            keras.layers.Conv2D(channels, 3, padding="same", use_bias=False, dtype=policy),
            FusedBatchNormalization(momentum=0.9, local=options["local"], dtype=policy),
            keras.layers.Activation("relu", dtype=policy),
        ]

    parts = [keras.layers.Rescaling(1 / 255, dtype="float32"), *block(8), keras.layers.MaxPooling2D(2, dtype=policy)]
    if options["network"] == "semantic":
        image = keras.Input((SIDE, SIDE, 3))
        fine = keras.Sequential(parts[:-1])(image)
        coarse = keras.Sequential([keras.layers.MaxPooling2D(2), *block(8)])(fine)
        encoder = Encoder(keras.Model(image, [fine, coarse]), (1, 2))
        return build_semantic_change_detector(encoder, classes=options["channels"], channels=(8,), norm="batch")
    encoder = keras.Sequential(parts)
    x = keras.layers.Subtract(dtype=policy)([encoder(image) for image in images])
    for layer in block(8):
        x = layer(x)
    if options["network"] == "supervised":
        x = LevelOutput(2, dtype=policy)(x)
    x = keras.layers.UpSampling2D(2, dtype=policy)(x)
    if options["network"] == "supervised":
        for layer in block(4):
            x = layer(x)
        x = LevelOutput(1, dtype=policy)(x)
    detector = ChangeDetector(images, keras.layers.Conv2D(options["channels"], 1, dtype="float32")(x))
    return DeepSupervision(detector) if options["network"] == "supervised" else detector


def batches(options: dict) -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (PAIRS, SIDE, SIDE, 3)).astype(np.uint8) for _ in range(2))

    def truth(classes: int) -> np.ndarray:
        mask = rng.integers(0, classes, (PAIRS, SIDE, SIDE)).astype(np.uint8)
        # as uneven as can be: pairs with truth almost everywhere and almost nowhere
        mask[rng.random(mask.shape) < rng.random((PAIRS, 1, 1))] = 255
        return mask

    classes = max(options["channels"], 2)
    masks = truth(classes)
    if options["network"] == "semantic":
        masks = {"before": masks, "after": truth(classes), "change": truth(2)}
    part = Part(distribution.index, distribution.workers)
    whole = tf.data.Dataset.from_tensor_slices(((before, after), masks)).batch(BATCH)
    sizes = [min(BATCH, PAIRS - first) for first in range(0, PAIRS, BATCH)]
    bounds = tf.constant([(part.rows(size).start, part.rows(size).stop) for size in sizes])
    return tf.data.Dataset.zip(whole, tf.data.Dataset.from_tensor_slices(bounds)).map(
        lambda batch, bound: keras.tree.map_structure(lambda rows: rows[bound[0] : bound[1]], batch)
    )


def compiled(options: dict) -> keras.Model:
    keras.utils.set_random_seed(0)
    semantic = options["network"] == "semantic"
    with distribution.scope():
        model = network(options)
        optimizer = LayerwiseAdamW(
            keras.optimizers.schedules.CosineDecay(1e-2, 40),
            accumulate=options["accumulate"],
            weight_decay=1e-3,
            global_clipnorm=options["clip"],
            use_ema=options["ema"],
            ema_momentum=0.9,
        )
        if options["precision"] == "mixed_float16":
            optimizer = ReplicatedLossScale(optimizer)
        model.compile(
            optimizer=optimizer,
            loss=SemanticChangeLoss() if semantic else ChangeLoss(dict.fromkeys(options["terms"], 1.0)),
            metrics=None if semantic else [ChangeScores(max(options["channels"], 2))],
            jit_compile=False,
        )
    return model


def fit(model: keras.Model, options: dict, epochs: int = 2, callbacks=()) -> dict[str, list[float]]:
    data = batches(options)
    steps = int(data.cardinality())
    return model.fit(
        distribution.shares(data.repeat()),
        epochs=epochs,
        steps_per_epoch=steps,
        validation_data=distribution.shares(data),
        validation_steps=steps,
        callbacks=[*([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if options["ema"] else []), *callbacks],
        verbose=0,
    ).history


def fit_and_store(variant: str) -> None:
    options = {**BASE, **VARIANTS[variant]}
    model = compiled(options)
    with distribution.fitting():
        history = fit(model, options)
    scores = {name: values[-1] for name, values in history.items()}
    arrays = {f"weight{k:03}": keras.ops.convert_to_numpy(value) for k, value in enumerate(model.weights)}
    for k, value in enumerate(model.optimizer.variables):
        arrays[f"state{k:03}"] = keras.ops.convert_to_numpy(value)
    if options["network"] != "semantic":
        # counted in every replica: all workers take part in reading it
        (metric,) = (metric for metric in model.metrics if metric.name == "compile_metrics")
        arrays["counts"] = keras.ops.convert_to_numpy(metric.metrics[0].counts)
    (told,) = distribution.from_chief([np.array([7.0, np.nan][distribution.index])])
    print(f"{variant}: told {told}", flush=True)
    if distribution.chief:
        np.savez(Path(job["out"]) / f"{variant}.npz", **arrays)
        (Path(job["out"]) / f"{variant}.json").write_text(json.dumps(scores))


def fit_until_killed() -> None:
    options = {**BASE, **BRIEF}
    model = compiled(options)
    line = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print("epoch", epoch, flush=True))
    with distribution.fitting():
        fit(model, options, epochs=1_000_000, callbacks=[line])


def fit_unrepaired() -> None:
    """Says what becomes of Keras' own ``fit`` without both repairs, and without the second."""
    options = {**BASE, **BRIEF}
    own = keras_trainer.reduce_per_replica
    model = compiled(options)
    say_failure(lambda: fit(model, options, epochs=1))
    with repaired_fit():
        keras_trainer.reduce_per_replica = own
        say_failure(lambda: fit(model, options, epochs=1))


def say_failure(function) -> None:
    try:
        function()
    except Exception as error:
        lines = traceback.format_exception_only(error)
        print("failed:", " ".join("".join(lines).split()), flush=True)
    else:
        print("done", flush=True)


def main() -> int:
    others = {"until_killed": fit_until_killed, "unrepaired": fit_unrepaired}
    try:
        for task in job["tasks"]:
            if task in VARIANTS:
                fit_and_store(task)
            else:
                others[task]()
    except TrainingError as error:
        print(error, flush=True)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
