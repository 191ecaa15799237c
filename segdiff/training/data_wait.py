"""How much of the training time is spent waiting for data."""

import time
from collections.abc import Callable
from typing import Any

import keras

LIMIT = 0.05
"""The share of an epoch's time from which waiting is worth a warning."""


class DataWait(keras.callbacks.Callback):
    """Adds ``data_wait`` to the logs of every epoch, 0..1, and warns in one line where it is above 5 %.

    Keras asks for a batch within the step, so that no pair of its callbacks encloses the waiting. Instead ``watch``
    notes when each batch arrives: what a step waits for is the time from its beginning to the arrival of its batch,
    nothing where that was there before. The share is of the time from the first step's beginning to the last one's end.
    Steps must end before the next begins, as they do where a callback reads the loss. The callback stands before
    those that write the logs. The very first step is left out, in which Keras makes its graph before it asks for the
    batch. ``passed`` steps of the first epoch take no batch: they are passed over. ``clock`` gives seconds.
    """

    def __init__(self, say: Callable[[str], None], *, passed: int = 0, clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        self._say, self._clock, self._passed = say, clock, passed
        self._arrivals: dict[int, float] = {}
        self._step = 0
        self._first = True

    def watch(self, batches: Any) -> Any:
        """The same ``tf.data.Dataset`` for ``fit``, watched: one that lasts for all epochs, or is read anew in each."""
        import tensorflow as tf

        def arrived(number: int) -> None:
            # Keras builds the model with the first batch of an iteration of its own, before it begins to train
            if number == 0:
                self._arrivals.clear()
                self._step = 0
            self._arrivals[int(number)] = self._clock()

        def noted(number, batch):
            tf.numpy_function(arrived, [number], [])
            return batch

        return batches.enumerate().map(noted)

    def on_epoch_begin(self, epoch, logs=None):
        """Nothing has been waited for."""
        self._waited = self._lasted = 0.0
        self._began: float | None = None

    def on_train_batch_begin(self, batch, logs=None):
        """The step asks for its batch."""
        if self._passed:
            return
        self._asked = self._clock()
        if self._began is None:
            self._began = self._asked

    def on_train_batch_end(self, batch, logs=None):
        """Counts what the step waited."""
        if self._passed:
            self._passed -= 1
            return
        assert self._began is not None, "Keras begins what it ends"
        self._lasted = self._clock() - self._began
        if self._step not in self._arrivals:
            raise RuntimeError("DataWait: the batches of this training are not those given to watch()")
        arrived = self._arrivals.pop(self._step)
        self._step += 1
        if self._first:
            self._first, self._began, self._lasted = False, None, 0.0
        else:
            self._waited += max(0.0, arrived - self._asked)

    def on_epoch_end(self, epoch, logs=None):
        """Adds the share to the logs, and warns."""
        share = self._waited / self._lasted if self._lasted else 0.0
        logs["data_wait"] = share
        if share > LIMIT:
            self._say(
                f"warning: {share:.0%} of epoch {epoch + 1} was spent waiting for data: keep the pairs decoded "
                "(data.cache: memory or disk), pack them (segdiff pack) on a fast disk, augment less or take more cores"
            )
