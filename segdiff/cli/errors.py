"""What is wrong, in one line on standard error, and the exit status that goes with it."""

import errno
import json
import re
import sys
from typing import Any

import typer

FAULTS, WRONG_CALL, SOME_FAILED, CANNOT_GO_ON = 1, 2, 3, 4

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The class of every wrong call, which typer does not export."""


def complain(line: str) -> None:
    """Says on standard error what is wrong."""
    print(f"segdiff: {line}", file=sys.stderr)


def status_of(error: Exception, *, as_json: bool) -> int:
    """Says in one line what is wrong, of data in JSON too if asked for, and gives the exit status of the contract."""
    from data_pipelines.layouts import DataError
    from segdiff.config import ConfigError

    reports = getattr(error, "reports", ())
    for report in reports:
        for fault in report.faults:
            complain(str(fault))
    if reports and as_json:
        print(json.dumps([report.to_json() for report in reports], indent=2, default=str))
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _USAGE_ERROR):
        command = error.ctx.command_path if error.ctx else "segdiff"
        message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")  # pydantic's words
        complain(f"{message}; see {command} --help")
        return WRONG_CALL
    if isinstance(error, DataError):
        complain(line)
        return FAULTS
    if isinstance(error, ConfigError) or type(error).__name__ in (
        "ModelError",
        "FolderError",
        "ReportError",
        "SplitError",
        "WeightsError",
        "RayError",
    ):
        complain(line)
        return WRONG_CALL
    if type(error).__name__ in ("TrainingError", "LostWorkersError", "ExportError"):
        complain(line)
        return CANNOT_GO_ON
    if type(error).__name__ in ("MemoryError", "ResourceExhaustedError"):
        complain(f"out of memory: take smaller crops or tiles, or a smaller batch ({line[:200]})")
        return CANNOT_GO_ON
    if (gone_bad := re.search(r"DecodeError: (.*?)(?: Traceback|$)", line)) and not isinstance(error, OSError):
        # raised in a thread of tf.data: a file that was whole when it was checked
        complain(gone_bad[1])
        return CANNOT_GO_ON
    if isinstance(error, OSError):
        mend = "make room and run the same again" if error.errno == errno.ENOSPC else "mend the path or its permissions"
        complain(f"{error.filename or 'the output'}: {error.strerror or line}; {mend}")
        return CANNOT_GO_ON
    complain(f"{type(error).__name__}: {line} (this is a fault of segdiff; --debug shows where)")
    return CANNOT_GO_ON
