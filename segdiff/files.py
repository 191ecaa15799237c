"""Files that appear whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".part"
"""What the name of a file that is being written ends with, before its suffix."""


def unfinished_in(folder: Path) -> list[Path]:
    """What is being written in a folder, or was left half written by processes that were killed."""
    return list(folder.glob(f".*{UNFINISHED}*"))


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed left half written in a folder."""
    for path in unfinished_in(folder):
        path.unlink(missing_ok=True)


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` at the end, or remove it where an error came up."""
    path = Path(path)
    # with the same ending: writers go by it; by chance: processes of other machines may have the same number
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{UNFINISHED}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
