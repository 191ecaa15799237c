"""What the shell runs: a call to its end, with its signals and its exit status."""

import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from typing import Any

from segdiff.cli.application import app
from segdiff.cli.errors import complain, status_of

CLOSED_PIPE = 141
"""The status where nobody reads on (`segdiff check DATA | head -1`): 128 + SIGPIPE, as shells say of other tools."""


def main() -> None:
    """Runs the command line and exits; what is wrong is one line on standard error."""
    debug = "--debug" in sys.argv
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        warnings.filterwarnings("ignore", module="keras")
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        status = _run(debug)
    except (BrokenPipeError, SystemExit) as end:
        status = CLOSED_PIPE if _says_closed_pipe(end) else getattr(end, "code", None)
    _drop_unwritable()
    sys.exit(status)


def _run(debug: bool) -> int | None:
    asked: dict[str, bool] = {}
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False, obj=asked)
        print(end="", flush=True)  # or the interpreter does while it ends, with a status and words of its own
        return status
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        return status_of(error, as_json=asked.get("as_json", False))


def _says_closed_pipe(end: BaseException) -> bool:
    """Whether that is a closed pipe, of which typer and rich make an exit with 1: here the status of faulty data."""
    return isinstance(end, BrokenPipeError) or (
        isinstance(end, SystemExit) and end.code == 1 and isinstance(end.__context__, BrokenPipeError)
    )


def _drop_unwritable() -> None:
    """Keeps the interpreter from trying once more, while it ends, to write what could not be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # told by the exit status, and where somebody reads it by a line
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _stop(number: int, frame: Any) -> None:
    with suppress(BrokenPipeError):  # Ctrl-C ends those too who read along
        complain("interrupted" if number == signal.SIGINT else "terminated")
    raise SystemExit(128 + number)
