"""Arguments of several commands, checked before any work: what is wrong with them is a wrong call."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segdiff.model_files import PostProcessing


def require_there(*paths: Path) -> None:
    """A path at which there is nothing is a wrong call."""
    from segdiff.config import ConfigError

    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")


def require_two(before: Path, after: Path) -> None:
    """What is not two image files or two folders is a wrong call."""
    from data_pipelines.layouts import DataError, pair_of_files
    from segdiff.config import ConfigError

    require_there(before, after)
    try:
        pair_of_files(before, after)
    except DataError as error:
        raise ConfigError(str(error)) from error


def post_processing_steps(steps: str | None) -> "PostProcessing | None":
    """What --post-processing asks for."""
    from segdiff.config import ConfigError
    from segdiff.inference.postprocessing import parse_post_processing

    try:
        return None if steps is None else parse_post_processing(steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
