"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pairs and golden outputs that lies beside the project, never inside it."""
    folder = Path(os.environ.get("SEGDIFF_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the shared real data are not at {folder} (set SEGDIFF_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache."""
    monkeypatch.setenv("SEGDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
