"""A run that was broken off goes on at the step where it was: its state is stored while it trains."""

import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from segdiff.training.failures import TrainingError
from segdiff.training.interruption import HeldSignals

_STATE = "state.npz"


@dataclass(frozen=True)
class Position:
    """How far a run has come: ``step`` steps of epoch ``epoch``, counted from 0."""

    epoch: int = 0
    step: int = 0


class Backup(keras.callbacks.Callback):
    """Stores the state of a run in a folder of its own and keeps the newest two, each whole or not there at all.

    It is stored at the end of each epoch's steps, before validation puts moving averages in the place of the weights,
    and within an epoch after every ``steps`` steps or ``minutes``, whichever comes first (None: not by that). ``start``
    is where the run begins. A signal that ``signals`` hold is acted on after the batch, when the state has been stored.
    ``metrics=False`` leaves out those of the epoch so far, which no replica of several can read by itself. Raises
    TrainingError where the state cannot be written or is not finite; those that are there stay. Stands before the
    callbacks that swap weights, and after those that stop at a loss that is no number.
    """

    def __init__(
        self,
        folder: Path,
        start: Position,
        signals: HeldSignals,
        *,
        steps: int | None = None,
        minutes: float | None = None,
        metrics: bool = True,
    ):
        super().__init__()
        self.folder, self.start, self.signals, self.steps, self.minutes = folder, start, signals, steps, minutes
        self.parts = [part for part in _PARTS if metrics or part != "metric"]

    def on_train_begin(self, logs=None):
        """Starts the clock."""
        self._position = self._saved = self.start
        self._clock = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes which epoch it is."""
        self._in_training = True
        if epoch != self.start.epoch:
            self._position = Position(epoch, 0)

    def on_train_batch_end(self, batch, logs=None):
        """Stores the state where that is due or the run is to stop."""
        if batch < self.start.step and self._position.epoch == self.start.epoch:
            return  # passed over
        self._position = Position(self._position.epoch, batch + 1)
        by_steps = self.steps is not None and (batch + 1) % self.steps == 0
        by_clock = self.minutes is not None and time.monotonic() - self._clock >= self.minutes * 60
        if self.signals.came is not None or by_steps or by_clock:
            self._save()
        self.signals.act()

    def on_test_begin(self, logs=None):
        """Stores the state at the end of an epoch's steps."""
        if self._in_training:
            self._save()
            self._in_training = False

    def on_test_batch_end(self, batch, logs=None):
        """Acts on a signal; what there is to store is stored."""
        self.signals.act()

    def _save(self) -> None:
        self._clock = time.monotonic()
        if self._position == self._saved:
            return
        if not all(
            np.isfinite(weight).all() for weight in map(keras.ops.convert_to_numpy, self.model.trainable_weights)
        ):
            raise TrainingError(
                f"step {self._position.step} of epoch {self._position.epoch + 1} made weights that are not finite; "
                "what was stored before is kept. Lower train.learning_rate, or set train.precision to float32"
            )
        name = f"step-{self._position.epoch:05d}-{self._position.step:07d}"
        temporary = self.folder / f".{name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            # not Keras' weights file: HDF5 ends the process where the disk is full
            with (temporary / _STATE).open("wb") as stream:
                np.savez(stream, **_state(self.model, self._position, self.parts))  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())  # or a power failure could leave the name without the content
            shutil.rmtree(self.folder / name, ignore_errors=True)
            temporary.rename(self.folder / name)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise TrainingError(
                f"{self.folder}: the state cannot be stored ({error.strerror or error}); the one before is kept. "
                "Make room and go on with --resume"
            ) from error
        self._saved = self._position
        for old in sorted(self.folder.glob("step-*"))[:-2]:
            shutil.rmtree(old)


class PassOver(keras.callbacks.Callback):
    """Lets ``fit`` begin within an epoch: its first ``start.step`` steps are counted and not done.

    They take no batch. Keras' ``fit`` begins where an epoch does and knows no other place. ``metrics`` are those that
    were stored there, so that the epoch's own are of all its steps. ``batches`` is what is fitted: Keras makes the
    variables of the metrics with the first batch only, and one may be needed for that.
    """

    def __init__(self, start: Position, metrics: list[np.ndarray], batches: Iterable):
        super().__init__()
        self.start, self.metrics, self.batches = start, metrics, batches

    def on_train_begin(self, logs=None):
        """Takes the place of the step."""
        if not self.start.step:
            return
        step, left, model = self.model.train_function, self.start.step, self.model

        def pass_over(iterator):
            nonlocal left
            if not left:
                return step(iterator)
            left -= 1
            return model.get_metrics_result()

        model.train_function = pass_over

    def on_epoch_begin(self, epoch, logs=None):
        """Puts the metrics back, which Keras has set to nothing; where none were stored they begin here."""
        if not self.metrics or not self.start.step or epoch != self.start.epoch:
            return
        if len(self.model.metrics_variables) < len(self.metrics):
            x, y = next(iter(self.batches))
            self.model.compute_metrics(x, y, self.model(x, training=False))
        for variable, value in zip(self.model.metrics_variables, self.metrics, strict=True):
            variable.assign(value)


def restore_backup(model: keras.Model, folder: Path, say: Callable[[str], None]) -> tuple[Position, list[np.ndarray]]:
    """Puts the newest state into a model that is compiled and whose optimizer is built.

    Returns where to go on and the values of the metrics there, for ``PassOver``; the beginning where nothing is stored.
    A damaged state is said and passed over for the one before. Raises TrainingError where all of them are damaged.
    """
    stored = sorted(folder.glob("step-*"), reverse=True)
    for path in stored:
        try:
            with np.load(path / _STATE, allow_pickle=False) as state:
                parts = {part: [state[name] for name in sorted(state) if name.startswith(part)] for part in _PARTS}
                position = Position(*(int(number) for number in state["position"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            say(f"warning: {path / _STATE}: is damaged ({error}), the state before it is taken")
            continue
        for part, values in parts.items():
            if part != "metric":
                for variable, value in zip(_PARTS[part](model), values, strict=True):
                    variable.assign(value)
        return position, parts["metric"]
    if stored:
        raise TrainingError(
            f"{folder}: every state in it is damaged; remove the folder, and --resume begins at epoch 1"
        )
    return Position(), []


def state_variables(model: keras.Model) -> list[keras.Variable]:
    """All that ``restore_backup`` puts into a model: weights, optimizer, and where random numbers stand."""
    return [variable for part in _PARTS if part != "metric" for variable in _PARTS[part](model)]


def _state(model: keras.Model, position: Position, parts: Sequence[str]) -> dict[str, np.ndarray]:
    arrays = {"position": np.array([position.epoch, position.step])}
    for part in parts:
        for number, variable in enumerate(_PARTS[part](model)):
            arrays[f"{part}_{number:05d}"] = keras.ops.convert_to_numpy(variable)
    return arrays


def _seed_states(model: keras.Model) -> list[keras.Variable]:
    """Where the random numbers of dropout stand, which a weights file leaves out."""
    others = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in others]


_PARTS: dict[str, Callable[[keras.Model], list[keras.Variable]]] = {
    "weight": lambda model: model.weights,
    "optimizer": lambda model: model.optimizer.variables,
    "seed": _seed_states,
    "metric": lambda model: model.metrics_variables,
}
"""What a state consists of."""
