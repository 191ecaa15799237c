"""What the replicas of one training tell each other: layers, losses and optimizers sum over all of them by these.

Everything here is the identity outside a replica of a ``tf.distribute`` strategy, and on other backends. Gradients
pass: that of a sum over the replicas is the sum of their gradients.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

_PRESENT: ContextVar[Any] = ContextVar("present", default=1.0)


def replica_count() -> int:
    """How many replicas share the batch that is being computed; 1 outside a strategy."""
    context = _context()
    return 1 if context is None else context.num_replicas_in_sync


def summed(values: Sequence[Any]) -> list[Any]:
    """The sums over the replicas of tensors that have the same shape in each of them."""
    context = _context()
    return list(values) if context is None else context.all_reduce("SUM", list(values))


def side_by_side(row: Any) -> Any:
    """The vectors of N values of all R replicas, R x N."""
    context = _context()
    if context is None:
        return row[None]
    place = ops.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=row.dtype)
    return context.all_reduce("SUM", place[:, None] * row[None])


def gathered(rows: Any) -> Any:
    """The rows of all replicas one after the other; a replica may have more of them than another, or none."""
    context = _context()
    if context is None:
        return rows
    everywhere = context.all_gather(rows, axis=0)
    everywhere.set_shape((None, *rows.shape[1:]))
    return everywhere


def never_empty(function: Callable[[Sequence[Any]], Any], batches: Sequence[Any]) -> Any:
    """``function(batches)``, also where this replica has no row of them: kernels fail on empty tensors.

    The function then gets a row of zeros, which ``present`` tells layers not to count and which is cut from what it
    returns, a structure of batches.
    """
    if replica_count() == 1:
        return function(batches)
    rows = ops.shape(batches[0])[0]
    missing = ops.maximum(1 - rows, 0)
    token = _PRESENT.set(ops.cast(1 - missing, "float32"))
    try:
        outputs = function([ops.concatenate([x, ops.zeros((missing, *x.shape[1:]), x.dtype)]) for x in batches])
    finally:
        _PRESENT.reset(token)
    return keras.tree.map_structure(lambda x: x[:rows], outputs)


def present() -> Any:
    """1 where the rows being computed are examples, 0 where they stand for those that this replica has not got."""
    return _PRESENT.get()


def run_if(flag: Any, function: Callable[..., None], *arguments: Any) -> None:
    """Calls ``function(*arguments)`` in every replica where ``flag``, which is the same in all of them, is true.

    Variables may be assigned in it: a strategy does not allow that in a branch that one replica takes by itself.
    """
    if keras.backend.backend() != "tensorflow":
        ops.cond(flag, lambda: function(*arguments), lambda: None)
        return
    import tensorflow as tf

    def in_all(strategy, flag, *arguments):
        def call():
            strategy.extended.call_for_each_replica(function, args=arguments)

        tf.cond(strategy.experimental_local_results(flag)[0], call, lambda: None)

    tf.distribute.get_replica_context().merge_call(in_all, args=(flag, *arguments))


def _context() -> Any:
    """That of the replica which is being computed where there are others, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
