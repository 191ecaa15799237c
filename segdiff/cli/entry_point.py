"""What the shell runs: a call to its end, with its signals and its exit status."""

import os
import signal
import sys
import traceback
import warnings
from typing import Any

from segdiff.cli.application import app
from segdiff.cli.errors import complain, status_of


def main() -> None:
    """Runs the command line and exits; what is wrong is one line on standard error."""
    debug = "--debug" in sys.argv
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        warnings.filterwarnings("ignore", module="keras")
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    asked: dict[str, bool] = {}
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False, obj=asked))
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(status_of(error, as_json=asked.get("as_json", False)))


def _stop(number: int, frame: Any) -> None:
    complain("interrupted" if number == signal.SIGINT else "terminated")
    raise SystemExit(128 + number)
