import csv
import json

import keras
import numpy as np
import pytest

from segdiff.config import EncoderConfig, ModelConfig
from segdiff.models.architectures import build_change_detector
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.loading import load_model
from segdiff.models.precision import with_precision
from segdiff.training.callbacks import (
    EpochLines,
    History,
    KeepBest,
    Pictures,
    StepsDone,
    StopOnNaN,
    TrainingError,
    read_history,
    save_detector,
)
from segdiff.training.schedules import warmup_cosine


@pytest.fixture
def model() -> ChangeDetector:
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(2, 2), dropout=0.5)), bands=1)
    model.compile(optimizer=keras.optimizers.Adam(0.25), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def logs(f1: float, threshold: float = 0.5) -> dict[str, float]:
    return {"loss": 1.5, "f1": 0.1, "val_loss": 2.5, "val_f1": f1, "val_threshold": threshold}


def run_epochs(callback: KeepBest, model: ChangeDetector, scores: list[float], first: int = 0) -> int:
    """Epochs until the callback stops or the scores end."""
    callback.set_model(model)
    model.stop_training = False
    for epoch, f1 in enumerate(scores, start=first):
        callback.on_epoch_end(epoch, logs(f1, 0.25 + epoch / 1024))
        if model.stop_training:
            return epoch + 1
    return first + len(scores)


def test_the_model_of_the_best_validation_is_kept_with_its_threshold(tmp_path, model):
    keep = KeepBest(model, tmp_path / "model.keras", [], None)
    keep.set_model(model)
    for epoch, (f1, value) in enumerate([(0.2, 1.0), (0.6, 2.0), (0.6, 3.0), (0.5, 4.0)]):
        model.get_layer("logits_conv").bias.assign([value])
        keep.on_epoch_end(epoch, logs(f1, 0.25 + epoch / 1024))
    kept = load_model(tmp_path / "model.keras")
    assert float(kept.get_layer("logits_conv").bias[0]) == 2.0
    assert kept.settings.threshold == 0.25 + 1 / 1024
    assert (keep.best, keep.best_epoch) == (0.6, 2)
    assert not model.stop_training


def test_even_a_model_that_finds_nothing_is_kept_once(tmp_path, model):
    run_epochs(KeepBest(model, tmp_path / "model.keras", [], None), model, [0.0, 0.0])
    assert load_model(tmp_path / "model.keras").settings.threshold == 0.25


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [
        (2, [0.5, 0.4, 0.4, 0.9], 3),
        (2, [0.5, 0.4, 0.6, 0.5, 0.5, 0.9], 5),
        (1, [0.1, 0.2, 0.2, 0.3], 3),
        (3, [0.5, 0.4, 0.4], 3),
        (None, [0.5, 0.4, 0.3, 0.2, 0.1], 5),
    ],
)
def test_patience_is_the_number_of_epochs_without_a_better_one(tmp_path, model, patience, scores, epochs):
    assert run_epochs(KeepBest(model, tmp_path / "model.keras", [], patience), model, scores) == epochs


def test_what_was_best_before_a_run_was_resumed_still_is(tmp_path, model):
    rows = [{"epoch": 1.0, "val_f1": 0.7}, {"epoch": 2.0, "val_f1": 0.6}]
    keep = KeepBest(model, tmp_path / "model.keras", rows, 3)
    assert (keep.best, keep.best_epoch) == (0.7, 1)
    assert run_epochs(keep, model, [0.65, 0.69, 0.9], first=2) == 4
    assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_models_are_saved_in_float32_without_optimizer_and_nothing_else_is_left(tmp_path, model, policy):
    save_detector(with_precision(model, policy), tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    # as JSON, in which a tuple is a list
    assert json.dumps(loaded.get_config()) == json.dumps(with_precision(model, "float32").get_config())
    assert not loaded.compiled
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_history_has_a_row_an_epoch_also_of_a_run_that_goes_on(tmp_path, model):
    file = tmp_path / "history.csv"
    for first in (0, 2):
        history = History(file, read_history(file) if first else [])
        history.set_model(model)
        for epoch in (first, first + 1):
            history.on_epoch_begin(epoch)
            history.on_epoch_end(epoch, logs(epoch / 10))
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["val_f1"]) for row in rows] == [0.0, 0.1, 0.2, 0.3]
    assert {row["learning_rate"] for row in rows} == {"0.25"}
    assert all(float(row["seconds"]) >= 0 for row in rows)
    assert read_history(file)[3] == {key: float(value) for key, value in rows[3].items()}
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_no_number_names_the_step_and_the_pairs(loss):
    stop = StopOnNaN(lambda epoch, step: [f"pair {epoch}", f"pair {step}"])
    stop.on_epoch_begin(2)
    stop.on_train_batch_end(4, {"loss": 1.0})
    with pytest.raises(TrainingError, match=r"(nan|inf) at step 6 of epoch 3, on crops of pair 2, pair 5; ") as caught:
        stop.on_train_batch_end(5, {"loss": loss})
    assert "\n" not in str(caught.value)
    stop.on_test_batch_end(0, {"loss": 1.0})
    with pytest.raises(TrainingError, match=r"(nan|inf) in the validation after epoch 3; .*Lower train\.learning_rate"):
        stop.on_test_batch_end(1, {"loss": loss})


def test_a_line_an_epoch_says_how_it_went():
    said: list[str] = []
    lines = EpochLines(said.append, 7)
    lines.on_epoch_begin(2)
    lines.on_epoch_end(2, {**logs(0.625, 0.25), "data_wait": 0.031})
    (line,) = said
    assert line.startswith("epoch 3 of 7: loss 1.5000, val loss 2.5000, val F1 0.6250 at threshold 0.250, ")
    assert line.endswith(" s, 3% of it waiting for data")


def test_steps_are_counted_over_all_epochs():
    told = []
    steps = StepsDone(lambda done, total: told.append((done, total)), steps_per_epoch=10, epochs=3)
    for epoch, batch in ((0, 0), (0, 9), (1, 0), (2, 9)):
        steps.on_epoch_begin(epoch)
        steps.on_train_batch_end(batch)
    assert told == [(1, 30), (10, 30), (11, 30), (30, 30)]


def test_the_learning_rate_rises_then_falls_along_half_a_cosine():
    schedule = warmup_cosine(0.8, steps=100, warmup=0.2)
    rates = np.array([float(schedule(step)) for step in range(101)])
    np.testing.assert_allclose(rates[:21], np.linspace(0, 0.8, 21), atol=1e-6)
    np.testing.assert_allclose(rates[20:], 0.4 * (1 + np.cos(np.pi * np.arange(81) / 80)), atol=1e-6)
    flat = warmup_cosine(0.8, steps=10, warmup=0.0)
    assert float(flat(0)) == pytest.approx(0.8)
    assert float(flat(10)) == pytest.approx(0.0, abs=1e-7)
    assert float(warmup_cosine(0.8, steps=1, warmup=0.99)(0)) == 0.0


def test_pictures_of_large_tiles_are_shrunk_for_tensorboard(tmp_path):
    """Pictures of tiles of 1024 x 1024, four side by side, took 5 MB an epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small, large = np.zeros((40, 160, 3), np.uint8), np.full((800, 3200, 3), 200, np.uint8)
    Pictures(tmp_path, lambda: [small, large]).on_epoch_end(0)
    logged = EventAccumulator(str(tmp_path))
    logged.Reload()
    sizes = [logged.Tensors(f"validation/{number}")[0].tensor_proto.string_val[:2] for number in (0, 1)]
    assert [[int(side) for side in size] for size in sizes] == [[160, 40], [1600, 400]]
