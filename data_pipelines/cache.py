"""Where segdiff keeps what it can compute again: one folder of the user's, never inside the data or beside a model."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: SEGDIFF_CACHE, else XDG_CACHE_HOME/segdiff, else ~/.cache/segdiff. It need not exist."""
    if own := os.environ.get("SEGDIFF_CACHE"):
        return Path(own).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "segdiff"
