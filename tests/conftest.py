"""Fixtures of all tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

# the same examples every time, and as long as they take: a test fails by what it tests, not by luck or a busy machine
settings.register_profile(
    "segdiff", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("segdiff")


LONGEST = (
    "test_distributed_runs.py",
    "test_trainer.py",
    "test_cli.py",
    "test_multiworker.py",
    "test_ray_engine.py",
    "test_architectures.py",
    "test_exporting.py",
    "test_predictor.py",
)
"""The files that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: processes that take a file at a time then end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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


Segdiff = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def segdiff_command(tmp_path_factory: pytest.TempPathFactory) -> Segdiff:
    """Runs the real command in a process of its own: segdiff_command("check", folder, "--json")."""
    environment = {**os.environ, "SEGDIFF_CACHE": str(tmp_path_factory.mktemp("command-cache"))}
    script = Path(sys.executable).with_name("segdiff")

    def run(*arguments: object, **options) -> subprocess.CompletedProcess:
        command = [str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, **options)

    return run


@dataclass(frozen=True)
class TinyRun:
    """Ten drawn pairs of 64 x 64, two of them for validation, and a run of two small epochs on them."""

    data: Path
    config: Path
    run: Path
    drawing: subprocess.CompletedProcess
    training: subprocess.CompletedProcess


TINY = """
data: {crop: 32}
model: {encoder: {channels: [4, 8]}}
train: {epochs: 2, batch: 4, crops_per_epoch: 8, precision: float32}
inference: {tile: 32, overlap: 16, post_processing: none}
"""


@pytest.fixture(scope="session")
def tiny_run(segdiff_command: Segdiff, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Made once by the command line, as a user would: read it, never write to it."""
    folder = tmp_path_factory.mktemp("tiny")
    data, config, run = folder / "data", folder / "tiny.yaml", folder / "run"
    config.write_text(TINY)
    drawing = segdiff_command("synth", data, "--pairs", 10, "--size", 64, "--json")
    assert drawing.returncode == 0, drawing.stderr
    training = segdiff_command("train", config, "--set", f"data.root={data}", "--out", run, "--json")
    assert training.returncode == 0, training.stderr
    return TinyRun(data, config, run, drawing, training)
