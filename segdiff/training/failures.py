"""What stops a run, in one line for a person."""

from collections.abc import Iterator
from contextlib import contextmanager


class TrainingError(RuntimeError):
    """A run that could not go on; the message is one line."""


@contextmanager
def memory_explained(batch: int, crop: int) -> Iterator[None]:
    """Turns a device's or the processor's lack of memory into a TrainingError that says what to try.

    ``batch`` crops of ``crop`` x ``crop`` pixels are what a step takes.
    """
    from tensorflow.errors import ResourceExhaustedError

    try:
        yield
    except (ResourceExhaustedError, MemoryError) as error:
        raise TrainingError(
            f"out of memory with train.batch {batch} and data.crop {crop}; what was stored is kept. Halve train.batch "
            "(train.accumulate: 2 keeps the steps the same), take a smaller data.crop or a smaller encoder"
        ) from error
