"""Files that travel with segdiff: ready configurations and released checkpoints."""

from pathlib import Path


def shipped(folder: str) -> Path:
    """The folder ``configs`` or ``checkpoints``: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / folder
    return installed if installed.is_dir() else package.parent / folder
