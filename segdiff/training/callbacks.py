"""What happens at the end of an epoch: it is told and written down, the best model is kept, pictures are drawn."""

import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np

from segdiff.files import write_whole
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.precision import with_precision
from segdiff.training.failures import TrainingError


def save_detector(model: ChangeDetector, path: Path) -> None:
    """Writes the model whole or not at all: in float32, without optimizer state."""
    with write_whole(path) as temporary:
        with_precision(model, "float32").save(temporary)


class StepsDone(keras.callbacks.Callback):
    """Tells after every step how many of all steps of the training are done: ``on_progress(done, total)``."""

    def __init__(self, on_progress: Callable[[float, int], None], steps_per_epoch: int, epochs: int):
        super().__init__()
        self.on_progress, self.steps_per_epoch, self.epochs = on_progress, steps_per_epoch, epochs

    def on_epoch_begin(self, epoch, logs=None):
        """Notes which epoch it is."""
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Tells."""
        self.on_progress(self._epoch * self.steps_per_epoch + batch + 1, self.epochs * self.steps_per_epoch)


class EpochLines(keras.callbacks.Callback):
    """A line an epoch."""

    def __init__(self, say: Callable[[str], None], epochs: int):
        super().__init__()
        self.say, self.epochs = say, epochs

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Says how the epoch went."""
        self.say(
            f"epoch {epoch + 1} of {self.epochs}: loss {logs['loss']:.4f}, val loss {logs['val_loss']:.4f}, "
            f"val F1 {logs['val_f1']:.4f} at threshold {logs['val_threshold']:.3f}, "
            f"{time.perf_counter() - self._began:.0f} s, {logs['data_wait']:.0%} of it waiting for data"
        )


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run where the loss is no number any more; the best model so far stays.

    ``pairs_of`` gives the names of the pairs of a step of an epoch, both counted from 0.
    """

    def __init__(self, pairs_of: Callable[[int, int], list[str]]):
        super().__init__()
        self.pairs_of = pairs_of

    def on_epoch_begin(self, epoch, logs=None):
        """Notes which epoch it is."""
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss."""
        if not np.isfinite(logs["loss"]):
            pairs = ", ".join(self.pairs_of(self._epoch, batch))
            self._stop(logs["loss"], f"at step {batch + 1} of epoch {self._epoch + 1}, on crops of {pairs}")

    def on_test_batch_end(self, batch, logs=None):
        """Looks at the loss in validation: the last step of an epoch may have broken the weights."""
        if not np.isfinite(logs["loss"]):
            self._stop(logs["loss"], f"in the validation after epoch {self._epoch + 1}")

    def _stop(self, loss, where: str):
        raise TrainingError(
            f"the loss is {float(loss)} {where}; the best model and the state before are kept. "
            "Lower train.learning_rate, or set train.precision to float32"
        )


class History(keras.callbacks.Callback):
    """One row an epoch in history.csv, rewritten whole each time; ``rows`` are those of a run that goes on."""

    def __init__(self, path: Path, rows: list[dict[str, float]]):
        super().__init__()
        self.path, self.rows = path, rows

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Adds the row of this epoch."""
        seconds = time.perf_counter() - self._began
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}, "seconds": round(seconds, 3)}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.rows.append(row)
        with write_whole(self.path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(row), restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of history.csv."""
    with path.open(newline="") as stream:
        rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(stream)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


class KeepBest(keras.callbacks.Callback):
    """Saves the detector at its best validation F1, with the threshold that gave it; stops when none follows.

    Without a ``path`` it is not saved: all of several workers stop alike, one of them saves.

    ``rows`` is the history so far: what was best before a run was resumed still is.
    """

    def __init__(self, detector: ChangeDetector, path: Path | None, rows: list[dict[str, float]], patience: int | None):
        super().__init__()
        self.detector, self.path, self.patience = detector, path, patience
        self.best, self.best_epoch = -1.0, 0
        for row in rows:
            self._better(row["val_f1"], int(row["epoch"]))

    def _better(self, f1: float, epoch: int) -> bool:
        better = f1 > self.best
        if better:
            self.best, self.best_epoch = f1, epoch
        return better

    def on_epoch_end(self, epoch, logs=None):
        """Saves if better, stops if patience is at its end."""
        if self._better(float(logs["val_f1"]), epoch + 1):
            self.detector.settings = replace(self.detector.settings, threshold=float(logs["val_threshold"]))
            if self.path is not None:
                save_detector(self.detector, self.path)
        elif self.patience is not None and epoch + 1 - self.best_epoch >= self.patience:
            self.model.stop_training = True


_WIDEST = 1600
"""Pixels that the longer side of a picture in TensorBoard has at most: those of large tiles were 5 MB an epoch."""


class Pictures(keras.callbacks.Callback):
    """The same few validation pairs in TensorBoard after every epoch, with truth and prediction, shrunk where large."""

    def __init__(self, folder: Path, draw: Callable[[], list[np.ndarray]]):
        super().__init__()
        self.folder, self.draw = folder, draw

    def on_epoch_end(self, epoch, logs=None):
        """Draws and logs."""
        pictures = {f"validation/{number}": _shrunk(picture) for number, picture in enumerate(self.draw())}
        log_pictures(self.folder, pictures, step=epoch + 1)


def _shrunk(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    by = _WIDEST / max(height, width)
    if by >= 1:
        return picture
    return cv2.resize(picture, (max(round(width * by), 1), max(round(height * by), 1)), interpolation=cv2.INTER_AREA)


def log_pictures(folder: Path, pictures: Mapping[str, np.ndarray], step: int) -> None:
    """Adds pictures, RGB uint8 by name, to TensorBoard's log in that folder."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for name, picture in pictures.items():
            tf.summary.image(name, picture[None], step=step)
    writer.close()
