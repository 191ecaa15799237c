"""TensorFlow without what its libraries print of themselves."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator


def import_tensorflow(debug: bool) -> None:
    """Imports TensorFlow and finds its devices, without what its libraries print of themselves while they load."""
    with silenced(debug):
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def silenced(debug: bool) -> Iterator[None]:
    """Within it nothing reaches standard error but our own warnings: TensorFlow may be imported.

    TF_CPP_MIN_LOG_LEVEL does not reach what its libraries print: that is written before the library's log is set up.
    """
    if debug:
        yield
        return
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere, os.fdopen(kept, "w") as shown:  # noqa: PTH123
        ours = logging.StreamHandler(shown)
        for name in ("segdiff", "data_pipelines"):
            logging.getLogger(name).addHandler(ours)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            for name in ("segdiff", "data_pipelines"):
                logging.getLogger(name).removeHandler(ours)
