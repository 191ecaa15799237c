"""Files that appear whole or not at all."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".part"
"""What the name of a file that is being written ends with, before its suffix."""


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed left half written in a folder."""
    for path in folder.glob(f".*{UNFINISHED}*"):
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


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `folder`; rename it to `folder` at the end, or remove it where an error came up.

    Where `folder` is there and holds something, it is replaced, or else it stays and what was written is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unfinished = Path(temporary, "new")
        unfinished.mkdir()
        yield unfinished
        if replace and folder.exists():
            folder.rename(Path(temporary, "old"))
        if not (folder.exists() and any(folder.iterdir())):
            unfinished.rename(folder)
