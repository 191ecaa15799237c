"""What stops a run, in one line for a person."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        if "No space left on device" in str(error):  # TensorFlow calls a full disk so, too
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise TrainingError(
            f"out of memory with train.batch {batch} and data.crop {crop}; what was stored is kept. Halve train.batch "
            "(train.accumulate: 2 keeps the steps the same), take a smaller data.crop or a smaller encoder"
        ) from error


@contextmanager
def disk_explained(run: Path) -> Iterator[None]:
    """Turns what keeps the run folder from being written into a TrainingError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.filename or run}: cannot be written ({error.strerror or error}); what was stored is kept. "
            "Make room, or mend its permissions, and go on with --resume"
        ) from error
