"""`segdiff train` on several devices and in several processes on loopback, against one device.

Each process takes ten seconds or more to import TensorFlow and trace its graphs: the fewer of them the better.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.synthetic.writing import write_scenes
from segdiff.models.loading import load_model
from segdiff.training.callbacks import read_history

EPOCHS = 2


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Five pairs to train on, one to validate on; the last of the 5 batches of an epoch has one crop."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, pairs=6, size=64, seed=0)
    (folder / "list" / "train.txt").write_text("".join(f"scene_{k:04d}\n" for k in range(5)))
    (folder / "list" / "val.txt").write_text("scene_0005\n")
    (folder / "list" / "test.txt").unlink(missing_ok=True)
    return folder


def start(scenes: Path, run: Path, *options: str, **changes) -> subprocess.Popen:
    settings = {
        "data.root": str(scenes),
        "data.crop": 32,
        "model.encoder.channels": [4, 8],
        "train.batch": 4,
        "train.crops_per_epoch": 17,
        "train.learning_rate": 1e-3,
        "train.epochs": EPOCHS,
        "train.precision": "float32",
        "train.ema": 0.5,
        "train.accumulate": 2,
        "train.clip": 1.0,
        "train.backup_steps": 1,
        "inference.tile": 64,
        "inference.overlap": 16,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    script = Path(sys.executable).with_name("segdiff")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_CONFIG", "SLURM"))}
    return subprocess.Popen(
        [str(script), "train", "demo", *sets, "--out", str(run), "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "TF_NUM_INTRAOP_THREADS": "1"},
    )


def finished(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)


def two_addresses() -> str:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return ",".join(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)


def start_two(scenes: Path, run: Path, *options: str, **changes) -> list[subprocess.Popen]:
    workers = two_addresses()
    return [start(scenes, run, "--workers", workers, "--index", str(k), *options, **changes) for k in (0, 1)]


@pytest.fixture(scope="module")
def single(scenes, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("single") / "run"
    finished(start(scenes, run))
    return run


def assert_same_run(run: Path, other: Path, *, broken: int | None = None) -> None:
    """The same weights and scores; training's own, of the epoch that was broken off, are those of what was left."""
    for ours, theirs in zip(*(load_model(folder).get_weights() for folder in (run, other)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    rows, others = (read_history(folder / "history.csv") for folder in (run, other))
    assert len(rows) == EPOCHS
    for ours, theirs in zip(rows, others, strict=True):
        for key in ("val_loss", "val_f1", "learning_rate", *(("loss", "f1") if ours["epoch"] != broken else ())):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (run, other)]
    assert metrics[0]["confusion"] == metrics[1]["confusion"]


def test_two_devices_train_as_one(scenes, single, tmp_path):
    run = tmp_path / "run"
    finished(start(scenes, run, train__strategy="mirrored", train__devices=2))
    assert_same_run(run, single)


def wait_for_a_state(run: Path, chief: subprocess.Popen) -> None:
    end = time.monotonic() + 300
    while not any((run / "backup").glob("step-00000-*")):
        assert chief.poll() is None, chief.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGTERM, 143, "segdiff: terminated\n"),
        # that one is killed alone, and what then becomes of the other, is in test_multiworker.py too
        pytest.param(signal.SIGKILL, -signal.SIGKILL, "", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_goes_stops_the_chief_and_both_go_on_with_resume_and_train_as_one(
    scenes, single, tmp_path, number, status, line
):
    run = tmp_path / "run"
    chief, other = start_two(scenes, run)
    wait_for_a_state(run, chief)
    other.send_signal(number)
    _, err = other.communicate(timeout=300)
    assert (other.returncode, err) == (status, line)
    _, err = chief.communicate(timeout=300)
    assert chief.returncode == 4, "the other one went on to the end"
    assert err.count("segdiff: ") == 1
    assert "worker 0 of 2 has lost another one" in err
    assert "--resume" in err
    assert not (run / "metrics.json").exists()

    chief, other = start_two(scenes, run, "--resume")
    assert finished(other) == {"run": str(run), "worker": 1}
    _, err = chief.communicate(timeout=600)
    assert chief.returncode == 0, err[-3000:]
    assert "going on at epoch 1 of 2, " in err
    assert_same_run(run, single, broken=1)
    assert names_in(run) == names_in(single), "the chief alone writes"


@pytest.mark.slow
def test_two_processes_that_nothing_stops_train_as_one(scenes, single, tmp_path):
    run = tmp_path / "run"
    chief, other = start_two(scenes, run)
    assert finished(other) == {"run": str(run), "worker": 1}
    finished(chief)
    assert_same_run(run, single)
    assert names_in(run) == names_in(single), "the chief alone writes"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_chief_that_refuses_leaves_no_other_waiting(scenes, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something.txt").write_text("")
    chief, other = start_two(scenes, tmp_path / "run")
    _, err = chief.communicate(timeout=300)
    assert chief.returncode == 2
    assert "is not empty and holds no run" in err
    _, err = other.communicate(timeout=300)
    assert other.returncode == 4
    assert "worker 1 of 2 has lost another one" in err
