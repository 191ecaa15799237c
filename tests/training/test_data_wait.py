from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.training.data_wait import DataWait


class Clock:
    """Time that goes on only where the test lets it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float) -> None:
        self.now += seconds


def batches_that_take(clock: Clock, seconds: list[float]) -> tf.data.Dataset:
    def load(number):
        clock.takes(seconds[int(number)])
        return np.ones((2, 3), np.float32)

    def shaped(number):
        batch = tf.numpy_function(load, [number], tf.float32)
        batch.set_shape((2, 3))
        return batch, batch[:, :1]

    options = tf.data.Options()
    options.autotune.enabled = False  # or it may fetch ahead, in a thread of its own
    return tf.data.Dataset.range(len(seconds)).map(shaped).with_options(options)


class StepTakes(keras.callbacks.Callback):
    def __init__(self, clock: Clock, seconds: float):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def on_train_batch_end(self, batch, logs=None):
        self.clock.takes(self.seconds)


class Rows(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rows: list[float] = []

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append(logs["data_wait"])


def fit(seconds: list[float], step: float, *, epochs: int, steps: int | None, mirrored=False, watched=True):
    clock, said, rows = Clock(), [], Rows()
    wait = DataWait(said.append, clock=clock)
    scope = tf.distribute.MirroredStrategy(["/cpu:0"]).scope() if mirrored else nullcontext()
    with scope:
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=False)
    batches = batches_that_take(clock, seconds)
    history = model.fit(
        wait.watch(batches) if watched else batches,
        epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=[StepTakes(clock, step), wait, rows],
    )  # fmt: skip
    assert history.history["data_wait"] == rows.rows
    return rows.rows, said


def test_the_share_is_what_steps_waited_of_what_they_lasted():
    """Three epochs of four steps, each a second: batches take 3 seconds, then none, then the first of four 1 second.

    The very first step, in which Keras makes its graph, does not count.
    """
    shares, said = fit([99.0, *[3.0] * 3] + [0.0] * 4 + [1.0, 0, 0, 0], 1.0, epochs=3, steps=4)
    assert shares == pytest.approx([9 / 12, 0, 1 / 5])
    assert [line.split(" of ", 1)[0] for line in said] == ["warning: 75%", "warning: 20%"]
    assert all("\n" not in line and "epoch" in line for line in said)


def test_five_percent_is_no_warning_yet():
    assert fit([0.06] * 4, 0.94, epochs=1, steps=4)[1]
    assert not fit([0.04] * 4, 0.96, epochs=1, steps=4)[1]


def test_a_data_set_may_be_read_anew_in_every_epoch():
    assert fit([1.0, 0.0], 1.0, epochs=3, steps=None)[0] == pytest.approx([0, 1 / 3, 1 / 3])


def test_batches_that_came_before_they_were_asked_for_were_not_waited_for():
    """What a thread fetches ahead, driven by hand: no luck in it."""
    clock, said = Clock(), []
    wait = DataWait(said.append, clock=clock)
    batches = iter(wait.watch(batches_that_take(clock, [1.0] * 3)))
    next(batches)
    next(batches)
    logs: dict[str, float] = {}
    wait.on_epoch_begin(0)
    for step in range(3):
        wait.on_train_batch_begin(step)
        if step == 2:
            next(batches)  # asked for in time, came a second late
        clock.takes(2.0)
        wait.on_train_batch_end(step)
    wait.on_epoch_end(0, logs)
    assert logs == pytest.approx({"data_wait": 1 / 5})


def test_the_batch_that_keras_builds_the_model_with_does_not_shift_the_count():
    clock, said = Clock(), []
    wait = DataWait(said.append, clock=clock)
    watched = wait.watch(batches_that_take(clock, [0.0, 1.0]))
    next(iter(watched))
    batches, logs = iter(watched), {}
    wait.on_epoch_begin(0)
    for step in range(2):
        wait.on_train_batch_begin(step)
        next(batches)
        clock.takes(1.0)
        wait.on_train_batch_end(step)
    wait.on_epoch_end(0, logs)
    assert logs == pytest.approx({"data_wait": 1 / 2})


def test_it_counts_where_a_strategy_fetches_ahead_in_threads_of_its_own():
    shares, said = fit([0.0] * 6, 1.0, epochs=2, steps=3, mirrored=True)
    assert (shares, said) == ([0.0, 0.0], [])


def test_other_batches_than_those_watched_are_an_error():
    with pytest.raises(RuntimeError, match="watch"):
        fit([0.0], 1.0, epochs=1, steps=1, watched=False)
