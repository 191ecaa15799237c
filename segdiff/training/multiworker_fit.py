"""Keras 3's ``fit`` under MultiWorkerMirroredStrategy, repaired (keras-team/keras#20585).

Two places fail: the first batch is reduced over the replicas to see its shape, though the workers read different
batches; and the scalars that a step returns are reduced along an axis that they do not have. The first fails under
MirroredStrategy too, where the replicas' shares of a batch differ in size. When Keras does both itself, a test says so
and this module can go.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def repaired_fit() -> Iterator[None]:
    """Within it ``fit`` and ``evaluate`` run under every strategy.

    The numbers a step returns for the progress bar are then means over the replicas of this worker; those at the end
    of an epoch come from the metrics themselves and are of all replicas.
    """
    from keras.src.backend.tensorflow import trainer
    from tensorflow import distribute

    broken = trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica

    def build_from_own_share(self, iterator=None, data_batch=None):
        parts = (self, self._compile_metrics, self._compile_loss, self.optimizer)
        if self._distribute_strategy is None or all(part is None or part.built for part in parts):
            return
        if iterator is not None:
            iterator.reset()  # an evaluation may have left it at its end
            _, _, batches = next(iter(iterator))
            local = self.distribute_strategy.experimental_local_results
            data_batch = keras.tree.map_structure(lambda x: local(x)[0], next(batches))
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def reduce_own_replicas(values, strategy, reduction):
        if reduction != "auto" or not isinstance(strategy, distribute.MultiWorkerMirroredStrategy):
            return broken[1](values, strategy, reduction)
        return keras.tree.map_structure(
            lambda x: keras.ops.mean(keras.ops.stack(strategy.experimental_local_results(x)), axis=0), values
        )

    trainer.TensorFlowTrainer._maybe_symbolic_build = build_from_own_share
    trainer.reduce_per_replica = reduce_own_replicas
    try:
        yield
    finally:
        trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica = broken
