import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.config import EncoderConfig, ModelConfig
from segdiff.models.architectures import build_change_detector
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.loading import load_model
from segdiff.training.backup import Backup, PassOver, Position, restore_backup
from segdiff.training.failures import TrainingError, disk_explained, memory_explained
from segdiff.training.interruption import HeldSignals, hold_signals

BEGIN = Position()


def detector() -> ChangeDetector:
    model = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(2, 2), dropout=0.5)), bands=1)
    model.compile(optimizer=keras.optimizers.Adam(0.25), loss="mse", metrics=["mae"], jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def model() -> ChangeDetector:
    return detector()


def begun(backup: Backup, model: ChangeDetector) -> Backup:
    backup.set_model(model)
    backup.on_train_begin()
    backup.on_epoch_begin(backup.start.epoch)
    return backup


def train_a_step(model: ChangeDetector, value: int = 10) -> None:
    images = [np.full((1, 4, 4, 1), v, np.float32) for v in (value, 200)]
    model.train_on_batch(images, np.ones((1, 4, 4, 1), np.float32))


def no_line(line: str) -> None:
    raise AssertionError(line)


def everything(model: ChangeDetector) -> list[np.ndarray]:
    return [np.array(v) for v in (*model.variables, *model.optimizer.variables)]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_states_are_kept_and_the_newest_restores_weights_optimizer_and_dropout(tmp_path, model):
    backup = begun(Backup(tmp_path / "backup", BEGIN, HeldSignals(), steps=1), model)
    states = []
    for step in range(3):
        train_a_step(model)
        backup.on_train_batch_end(step)
        states.append(everything(model))
    assert names(tmp_path / "backup") == ["step-00000-0000002", "step-00000-0000003"]

    other = detector()
    position, metrics = restore_backup(other, tmp_path / "backup", no_line)
    assert position == Position(0, 3)
    assert int(other.optimizer.iterations) == 3
    for expected, value in zip(states[2], everything(other), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert metrics == [np.array(variable) for variable in model.metrics_variables]
    assert metrics[0] != 0


def test_a_state_is_stored_every_so_many_steps_and_at_the_end_of_the_steps_of_an_epoch(tmp_path, model):
    backup = begun(Backup(tmp_path, BEGIN, HeldSignals(), steps=2), model)
    stored = []
    for step in range(5):
        backup.on_train_batch_end(step)
        stored.append(names(tmp_path)[-1:])
    second, fourth = ["step-00000-0000002"], ["step-00000-0000004"]
    assert stored == [[], second, second, fourth, fourth]
    backup.on_test_begin()
    assert names(tmp_path)[-1] == "step-00000-0000005"
    backup.on_test_begin()  # a validation that is no part of an epoch
    backup.on_epoch_begin(1)
    backup.on_train_batch_end(0)
    backup.on_test_begin()
    assert names(tmp_path) == ["step-00000-0000005", "step-00001-0000001"]


def test_a_state_is_stored_every_so_many_minutes(tmp_path, model, monkeypatch):
    from segdiff.training import backup as module

    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    backup = begun(Backup(tmp_path, BEGIN, HeldSignals(), minutes=2), model)
    for step in range(6):
        now[0] += 50
        backup.on_train_batch_end(step)
    assert names(tmp_path) == ["step-00000-0000003", "step-00000-0000006"]


def test_a_state_broken_off_while_being_written_is_not_taken(tmp_path, model):
    (tmp_path / "backup" / ".step-00000-0000007.tmp").mkdir(parents=True)
    assert restore_backup(model, tmp_path / "backup", no_line) == (BEGIN, [])
    assert restore_backup(model, tmp_path / "nowhere", no_line) == (BEGIN, [])
    begun(Backup(tmp_path / "backup", BEGIN, HeldSignals(), steps=7), model).on_train_batch_end(6)
    assert restore_backup(model, tmp_path / "backup", no_line)[0] == Position(0, 7)


@pytest.mark.parametrize("length", [0, 1000])
def test_where_the_newest_state_is_damaged_the_one_before_is_taken(tmp_path, model, length):
    backup = begun(Backup(tmp_path, BEGIN, HeldSignals(), steps=1), model)
    states = []
    for step in range(2):
        train_a_step(model)
        backup.on_train_batch_end(step)
        states.append(everything(model))
    older, newer = (tmp_path / name / "state.npz" for name in names(tmp_path))
    newer.write_bytes(newer.read_bytes()[:length])
    other, lines = detector(), []
    assert restore_backup(other, tmp_path, lines.append)[0] == Position(0, 1)
    for ours, theirs in zip(everything(other), states[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (line,) = lines
    assert line.startswith(f"warning: {newer}: is damaged (")
    older.unlink()
    with pytest.raises(TrainingError, match="every state in it is damaged; remove the folder, and --resume begins at"):
        restore_backup(other, tmp_path, lines.append)


def test_weights_that_are_no_numbers_are_not_stored(tmp_path, model):
    backup = begun(Backup(tmp_path, BEGIN, HeldSignals(), steps=1), model)
    backup.on_train_batch_end(0)
    model.trainable_variables[0].assign(np.full(model.trainable_variables[0].shape, np.nan))
    with pytest.raises(TrainingError, match="step 2 of epoch 1 made weights that are not finite"):
        backup.on_train_batch_end(1)
    assert names(tmp_path) == ["step-00000-0000001"]


@pytest.mark.parametrize("passed", [3, 5])
def test_fit_begins_within_an_epoch_with_its_metrics(model, passed):
    seen: list[tuple[int, float]] = []
    images = tuple(np.full((1, 4, 4, 1), 100, np.float32) for _ in range(2))
    batches = tf.data.Dataset.from_tensors((images, np.full((1, 4, 4, 1), 1e3, np.float32))).repeat()

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, logs["mae"]))

    # of loss and mae: sums and counts, each as if every step so far had given 7
    metrics = [7.0 * passed, float(passed), 7.0 * passed, float(passed)]
    pass_over = PassOver(Position(2, passed), metrics, batches)
    options = {"initial_epoch": 2, "epochs": 4, "steps_per_epoch": 5, "verbose": 0}
    history = model.fit(batches, callbacks=[pass_over, Watch()], **options).history
    assert [batch for batch, _ in seen] == [0, 1, 2, 3, 4] * 2
    assert [mae for _, mae in seen[:passed]] == [7.0] * passed
    assert int(model.optimizer.iterations) == (5 - passed) + 5
    if passed == 5:
        assert (history["mae"][0], history["loss"][0]) == (7.0, 7.0)
    else:
        assert history["mae"][0] == pytest.approx((3 * 7 + 2 * 1e3) / 5, rel=0.05)
    assert history["mae"][1] > 900


INTERRUPTED = """
import signal, sys
from pathlib import Path
import pytest
sys.path.insert(0, sys.argv[2])
from test_backup import BEGIN, Backup, begun, detector, hold_signals, names
folder = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background has not
with pytest.raises(KeyboardInterrupt), hold_signals() as signals:
    backup = begun(Backup(folder, BEGIN, signals), detector())
    backup.on_train_batch_end(0)
    assert not folder.exists()
    signal.raise_signal(signal.SIGINT)
    assert signals.came == signal.SIGINT
    backup.on_train_batch_end(1)
assert names(folder) == ["step-00000-0000002"]
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

reached = []
with pytest.raises(KeyboardInterrupt), hold_signals():
    signal.raise_signal(signal.SIGINT)
    reached.append("after the first")
    signal.raise_signal(signal.SIGINT)
    reached.append("after the second")
with pytest.raises(KeyboardInterrupt), hold_signals():
    signal.raise_signal(signal.SIGINT)
    reached.append("after a late one")
assert reached == ["after the first", "after a late one"]
print("done")
"""


def test_a_signal_waits_for_the_end_of_the_step_and_the_state_and_a_second_one_does_not(tmp_path):
    """In a process of its own: an interruption may not reach the one that runs the tests."""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "backup"), here], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


def test_in_another_thread_nothing_is_held():
    came: list[object] = []

    def work():
        with hold_signals() as signals:
            came.append(signals.came)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert came == [None]


FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_backup import BEGIN, Backup, HeldSignals, TrainingError, begun, detector, train_a_step
model = detector()
backup = begun(Backup(Path(sys.argv[1]), BEGIN, HeldSignals(), steps=1), model)
backup.on_train_batch_end(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as a full disk: no file grows beyond it
try:
    backup.on_train_batch_end(1)
except TrainingError as error:
    print(error)
"""


def test_where_the_disk_is_full_the_state_before_survives(tmp_path):
    folder = tmp_path / "backup"
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), here], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n") == 1
    assert f"{folder}: the state cannot be stored" in done.stdout
    assert names(folder) == ["step-00000-0000001"]
    assert restore_backup(detector(), folder, no_line)[0] == Position(0, 1)


FULL_DISK_FOR_A_MODEL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_backup import TrainingError, detector, disk_explained
from segdiff.training.callbacks import save_detector
run = Path(sys.argv[1])
save_detector(detector(), run / "model.keras")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with disk_explained(run):
        save_detector(detector(), run / "model.keras")
except TrainingError as error:
    print(error)
"""


def test_where_the_disk_is_full_the_model_before_survives_and_nothing_is_left_half_written(tmp_path):
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK_FOR_A_MODEL, str(tmp_path), here], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n") == 1
    assert f"{tmp_path}: cannot be written (" in done.stdout
    assert done.stdout.endswith("go on with --resume\n")
    assert names(tmp_path) == ["model.keras"]
    assert load_model(tmp_path / "model.keras").bands == 1


def test_a_full_disk_of_which_tensorflow_complains_is_no_lack_of_memory(tmp_path):
    complaint = tf.errors.ResourceExhaustedError(None, None, f"{tmp_path}/events; No space left on device")
    with (
        pytest.raises(TrainingError, match=f"^{tmp_path}: cannot be written .No space left on device.; .*--resume"),
        disk_explained(tmp_path),
        memory_explained(8, 256),
    ):
        raise complaint


def ask_for_too_much():
    tf.zeros((1 << 20, 1 << 24)) + 1.0


def say_that_too_much_was_asked_for():
    raise tf.errors.ResourceExhaustedError(None, None, "failed to allocate memory [Op:AddV2] name: ")


@pytest.mark.parametrize(
    "fail",
    [
        say_that_too_much_was_asked_for,
        pytest.param(ask_for_too_much, marks=pytest.mark.slow),  # TensorFlow waits ten seconds for memory to come free
    ],
)
def test_a_lack_of_memory_says_what_to_try(fail):
    words = r"out of memory with train.batch 8 and data.crop 256; .*Halve"
    with pytest.raises(TrainingError, match=words) as caught, memory_explained(8, 256):
        fail()
    assert "\n" not in str(caught.value)
