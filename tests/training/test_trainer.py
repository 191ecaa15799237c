import csv
import json
import shutil
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

import segdiff
from data_pipelines.layouts import DataError
from data_pipelines.synthetic.writing import write_scenes
from data_pipelines.validation import FaultyDataError
from segdiff.cli.commands.evaluate import evaluate_model
from segdiff.cli.screen import Screen
from segdiff.config import Config, ConfigError, load_config
from segdiff.inference.postprocessing import postprocess_mask
from segdiff.model_files import ObjectOptions, PostProcessing
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.loading import load_model
from segdiff.models.normalization import MOMENTUM
from segdiff.training import trainer
from segdiff.training.callbacks import TrainingError, read_history
from segdiff.training.trainer import read_data, train
from segdiff.visualization.run_report import show_outcome
from segdiff.visualization.validation_pairs import pair_sheet

EPOCHS = 3
SMALL = (
    "data.crop=32",
    "model.encoder.channels=[4, 8, 8]",
    "model.encoder.dropout=0.2",
    "train.batch=2",
    "train.precision=float32",
    "inference.tile=64",
    "inference.overlap=16",
)


class InterruptedRunError(Exception):
    """Stands for whatever stops a run."""


def configured(*roots: Path, **changes) -> Config:
    """The small configuration on these data; keys with __ for the dot."""
    overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    return load_config(None, [*SMALL, f"data.root={json.dumps([str(root) for root in roots])}", *overrides])


def quiet_train(
    config: Config, run: Path, *, resume: bool = False, draw=None, show=None, said: list[str] | None = None
):
    say = (lambda line: None) if said is None else said.append
    no_picture = lambda before, after, mask, truth, classes: np.zeros((4, 4, 3), np.uint8)  # noqa: E731
    return train(
        config, run, resume=resume, draw=draw or no_picture, show=show or (lambda outcome: {}),
        post_process=postprocess_mask, say=say,
    )  # fmt: skip


def weights_of(path: Path) -> list[np.ndarray]:
    return load_model(path).get_weights()


def state_of(folder: Path) -> dict[str, np.ndarray]:
    """Every array in a backup."""
    with np.load(folder / "state.npz") as state:
        return dict(state)


def assert_same_state(a: Path, b: Path, tolerance: float) -> None:
    some, others = state_of(a), state_of(b)
    assert set(some) == set(others)
    assert any("optimizer" in name for name in some)
    for name, array in some.items():
        np.testing.assert_allclose(array, others[name], atol=tolerance, rtol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Four pairs to train on, one to validate on."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, pairs=5, size=64, seed=0)
    return folder


def three_classes(folder: Path, pairs: int) -> Path:
    """Grey squares that appear as class 1 where dark and class 2 where light, without splits."""
    rng = np.random.default_rng(pairs)
    for name in ("A", "B", "label"):
        (folder / name).mkdir(parents=True)
    for number in range(pairs):
        before = rng.integers(100, 150, (48, 40, 1), dtype=np.uint8).repeat(3, axis=2)
        after, mask = before.copy(), np.zeros((48, 40), np.uint8)
        for kind, (y, x) in ((1, (4, 4)), (2, (24, 16))):
            after[y : y + 12, x : x + 12] = 20 if kind == 1 else 240
            mask[y : y + 12, x : x + 12] = kind
        for part, image in (("A", before), ("B", after), ("label", mask)):
            assert cv2.imwrite(str(folder / part / f"p{number}.png"), image)
    return folder


MOVING = {
    "train__ema": 0.5,
    "train__epochs": EPOCHS,
    "train__deep_supervision": 0.5,
    "train__layer_decay": 0.5,
    "train__accumulate": 2,
    "train__clip": 1.0,
    "seed": 5,
}


@pytest.fixture(scope="module")
def unbroken(scenes, tmp_path_factory) -> tuple[Path, dict, list[str]]:
    """A finished run with its metrics and what it said; dropout and moving averages have a state of their own."""
    run, said = tmp_path_factory.mktemp("unbroken") / "run", list[str]()
    with pytest.MonkeyPatch.context() as patch:  # this fixture comes before the one of every test
        patch.setenv("SEGDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        metrics = quiet_train(configured(scenes, **MOVING), run, draw=pair_sheet, show=show_outcome, said=said)
        return run, metrics, said


# -------------------------------------------------------------------------------------------------- the run folder


def test_a_run_leaves_every_file_of_the_run_folder(scenes, unbroken):
    run, metrics, said = unbroken
    expected = {"config.yaml", "model.keras", "history.csv", "metrics.json", "environment.json"}
    shown = {"curves.png", "confusion.png", "precision_recall.png", "report.html"}
    assert {path.name for path in run.iterdir()} == expected | shown | {"list", "tensorboard", "backup"}
    assert load_config(run / "config.yaml") == configured(scenes, **MOVING)
    assert (run / "list" / "train.txt").read_text() == (scenes / "list" / "train.txt").read_text()
    assert (run / "list" / "val.txt").read_text() == (scenes / "list" / "val.txt").read_text()

    written = json.loads((run / "metrics.json").read_text())
    assert written == metrics
    assert (written["split"], written["pairs"], written["epochs"]) == ("val", 1, EPOCHS)
    assert np.sum(written["confusion"]) == 64 * 64
    assert written["chosen_on"] == "epoch, threshold and post-processing were chosen on these pairs"
    assert any(line.startswith("post-processing: ") for line in said)
    assert set(written["classes"]) == {"background", "change"}
    model = load_model(run)
    assert model.settings.threshold == written["threshold"]
    assert 0 < written["threshold"] < 1
    assert (model.settings.tile, model.settings.overlap, model.settings.stride) == (64, 16, 4)

    environment = json.loads((run / "environment.json").read_text())
    assert (environment["seed"], environment["precision"]) == (5, "float32")
    assert environment["packages"]["keras"] == keras.__version__
    with (run / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    best = max(rows, key=lambda row: float(row["val_f1"]))
    assert float(best["epoch"]) == written["best_epoch"]
    assert float(best["val_f1"]) == pytest.approx(written["without_post_processing"]["f1"], abs=1e-6)
    assert float(best["val_threshold"]) == written["threshold"]
    assert any("4 pairs to train on, 1 to validate on; 4 crops an epoch" in line for line in said)
    assert sum(line.startswith("epoch ") for line in said) == EPOCHS


def test_the_heads_of_deep_supervision_are_trained_and_left_out_of_the_model(unbroken):
    run, *_ = unbroken
    names = [layer.name for layer in load_model(run).layers]
    assert "logits" in names
    assert not any("auxiliary" in name for name in names)
    # one 1 x 1 convolution to a logit is the detector's, the other that of the level at stride 2
    first, last = (state_of(run / "backup" / f"step-0000{k}-0000002") for k in (1, 2))
    heads = [name for name in first if first[name].shape == (1, 1, 4, 1) and "optimizer" not in name]
    wide = [name for name in first if first[name].shape == (1, 1, 8, 1) and "optimizer" not in name]
    assert (len(heads), len(wide)) == (1, 1)
    assert all(np.abs(first[name] - last[name]).max() > 0 for name in heads + wide)


def test_layers_near_the_image_learn_more_slowly(scenes, tmp_path, monkeypatch):
    from segdiff.training import trainer

    made = []

    class Spy(trainer.LayerwiseAdamW):
        def __init__(self, rate, scales=None, **options):
            made.append(scales)
            super().__init__(rate, scales, **options)

    monkeypatch.setattr(trainer, "LayerwiseAdamW", Spy)
    for name, changes in (("slow", {"train__layer_decay": 0.5}), ("plain", {})):
        initial(configured(scenes, **changes), tmp_path / name, monkeypatch)
    assert set(made[0]) == {0.125, 0.25, 0.5, 1.0}
    assert made[1] is None


def test_batches_are_accumulated_to_steps_and_the_schedule_goes_by_these(scenes, tmp_path):
    config = {"train__epochs": 2, "train__crops_per_epoch": 8, "train__warmup": 0.0, "train__learning_rate": 1e-3}
    config |= {"model__encoder": {"channels": [4, 8]}}
    rates = []
    for accumulate in (1, 4):
        run = tmp_path / f"by {accumulate}"
        quiet_train(configured(scenes, train__accumulate=accumulate, **config), run)
        rates.append([row["learning_rate"] for row in read_history(run / "history.csv")])
    # half of the cosine after the first epoch and its end after the second, by 8 steps or by 2
    np.testing.assert_allclose(rates[0], rates[1], atol=1e-9)
    np.testing.assert_allclose(rates[0], [5e-4, 0.0], atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__decoder": {"channels": [4]}}, ["decoder.channels has 1 entries, 3 levels need 2"]),
        ({"model__encoder": {"name": "resnet18", "dropout": 0.1}}, ["resnet18 has no stochastic depth"]),
        ({"model__encoder_after": {"name": "mit_b0", "weights": "imagenet"}}, ["mit_b0 has no ImageNet weights"]),
        ({"model__encoder": {"name": "mit_b0", "levels": 5}}, ["mit_b0 has 4 levels, levels is 5"]),
        ({"model__encoder_after": {"name": "mit_b0"}}, ["strides (1, 2, 4) and (4, 8, 16, 32)", "at least two"]),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_read(tmp_path, changes, words):
    with pytest.raises(ConfigError) as error:
        quiet_train(configured(tmp_path / "nowhere", **changes), tmp_path / "run")
    assert str(error.value).startswith("model: ")
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "run").exists()


def test_deep_supervision_without_a_level_for_it_is_refused_before_anything_is_read(tmp_path):
    changes = {"model__encoder": {"channels": [4, 8]}, "train__deep_supervision": 0.5}
    with pytest.raises(ConfigError, match=r"train\.deep_supervision: the decoder unet of 2 levels has none"):
        quiet_train(configured(tmp_path / "nowhere", **changes), tmp_path / "run")


def test_before_and_after_are_not_swapped_where_kinds_of_change_are_told_apart(tmp_path):
    swapped = {"data__augmentation__swap": True}
    named = configured(tmp_path / "nowhere", data__classes=["none", "built", "demolished"], **swapped)
    found = configured(three_classes(tmp_path / "data", 2), **swapped)
    for config in (named, found):
        with pytest.raises(ConfigError, match=r"^data\.augmentation\.swap: is true, and a mask of 3 classes [^\n]*$"):
            quiet_train(config, tmp_path / "run")
    either = configured(tmp_path / "nowhere", data__classes=named.data.classes, data__binary=True, **swapped)
    two = configured(tmp_path / "nowhere", data__classes=["none", "change"], **swapped)
    for config in (either, two):
        with pytest.raises(ConfigError, match=r"data\.root: there is no"):
            quiet_train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (None, ("background", "change")),
        (["unchanged", "changed"], ("unchanged", "changed")),
        (["none", "built", "demolished"], ("background", "change")),
    ],
)
def test_two_names_are_taken_of_binary_change_too(scenes, names, taken):
    data = read_data(configured(scenes, data__classes=names, data__binary=True), lambda line: None)
    assert data.classes == taken


def test_weights_that_cannot_be_had_are_refused_in_one_line(scenes, tmp_path):
    config = configured(
        scenes, model__encoder={"name": "resnet18", "channels": [16, 32, 64, 128], "weights": "imagenet"}
    )
    with pytest.raises(ConfigError, match="model: resnet18: nobody offers ImageNet weights"):
        quiet_train(config, tmp_path / "run")


def test_tensorboard_has_the_scores_and_the_pictures(unbroken):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _, _ = unbroken
    pictures = EventAccumulator(str(run / "tensorboard" / "pictures"))
    pictures.Reload()
    assert pictures.Tags()["tensors"] == ["validation/0", "end/precision_recall", "end/confusion"]
    assert [event.step for event in pictures.Tensors("validation/0")] == [1, 2, 3]
    for name in ("confusion", "precision_recall"):
        (event,) = pictures.Tensors(f"end/{name}")
        with Image.open(run / f"{name}.png") as picture:
            assert [int(side) for side in event.tensor_proto.string_val[:2]] == list(picture.size)
    validation = EventAccumulator(str(run / "tensorboard" / "validation"))
    validation.Reload()
    assert "epoch_f1" in validation.Tags()["tensors"]


def test_the_kept_model_scores_what_the_run_says(scenes, unbroken):
    from data_pipelines.decoding import read_image, read_mask
    from segdiff.training.metrics import confusion_matrix

    run, metrics, _ = unbroken
    name = (scenes / "list" / "val.txt").read_text().strip()
    model = load_model(run)
    before, after = (read_image(scenes / part / f"{name}.png", 3)[None] for part in ("A", "B"))
    logits = keras.ops.convert_to_numpy(model([before, after]))[0, ..., 0].astype(np.float64)
    predicted = (1 / (1 + np.exp(-logits)) >= metrics["threshold"]).astype(np.uint8)
    truth = (read_mask(scenes / "label" / f"{name}.png") > 0).astype(np.uint8)
    processed = postprocess_mask(predicted, model.settings.post_processing, classes=2)
    np.testing.assert_array_equal(confusion_matrix(truth, processed, 2), metrics["confusion"])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_model_of_turned_predictions_is_judged_by_them_at_the_end(classes, tmp_path):
    """And evaluation, which turns of itself, finds what training stored: sides are no multiples of the stride."""
    data, run, kind = tmp_path / "data", tmp_path / "run", {2: "d4", 3: "multiscale"}[classes]
    if classes == 2:
        write_scenes(data, pairs=5, size=66, seed=0)
    else:
        for file in three_classes(data, 4).rglob("*.png"):
            assert cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[:46, :38])
    config = configured(
        data,
        data__val_fraction=0.5,
        data__mask_offset=[2, -1],
        train__epochs=1,
        train__learning_rate=0.01,
        inference__tile=96,
        inference__tta=kind,
        inference__post_processing={"minimum_area": 3},
        inference__objects={"iou": 0.4, "join": 2},
    )
    shown = []
    metrics = quiet_train(config, run, show=lambda outcome: shown.extend(outcome.pairs) or {})

    def evaluated(tta: str | None) -> dict:
        return evaluate_model(
            Screen(True, True), run, data, split="val", out=None, ignore=None, overwrite=False, tta=tta,
            runtime="tensorflow", precision="float32",
        )  # fmt: skip

    scores, without = evaluated(None), evaluated("none")
    assert scores["confusion"] == metrics["confusion"] != without["confusion"]
    assert (scores["f1"], scores["threshold"]) == (metrics["f1"], metrics["threshold"])
    assert (scores["tta"], without["tta"]) == (kind, None)
    detector = segdiff.load(run, runtime="tensorflow", precision="float32")
    assert (detector.settings.mask_offset, detector.test_time_augmentation) == ((2, -1), kind)
    assert detector.settings.objects == ObjectOptions(iou=0.4, join=2)
    assert shown
    for pair in shown:
        np.testing.assert_array_equal(detector.predict(pair.before, pair.after).mask, pair.mask)

    if classes == 3:  # once is enough
        return
    (run / "metrics.json").unlink()
    resumed = quiet_train(config, run, resume=True)
    assert {**resumed, "seconds": 0} == {**metrics, "seconds": 0}


# --------------------------------------------------------------------------------- the same again, and going on


def test_a_broken_run_is_the_same_so_far_and_resumed_ends_as_the_unbroken_one(scenes, unbroken, tmp_path):
    whole, metrics, _ = unbroken
    run, config, drawn = tmp_path / "run", configured(scenes, **MOVING), []

    def draw(before, after, mask, truth, classes):
        drawn.append(1)
        if len(drawn) == 2:
            raise InterruptedRunError  # in the second epoch
        return pair_sheet(before, after, mask, truth, classes=classes)

    with pytest.raises(InterruptedRunError):
        quiet_train(config, run, draw=draw)
    assert not (run / "metrics.json").exists()
    # one seed, two runs: the first epochs gave the same weights and the same state of the optimizer
    assert_same_state(run / "backup" / "step-00001-0000002", whole / "backup" / "step-00001-0000002", 1e-6)

    said: list[str] = []
    resumed = quiet_train(config, run, resume=True, draw=pair_sheet, said=said)
    assert f"going on at epoch 2 of {EPOCHS}, 2 of 2 steps of it are done" in said
    assert_same_end(run, resumed, whole, metrics)


def test_the_metrics_that_end_a_run_are_written_after_its_pictures(scenes, unbroken, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unbroken[0], run)
    (run / "metrics.json").unlink()

    def stopped(outcome):
        raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        quiet_train(configured(scenes, **MOVING), run, resume=True, show=stopped)
    assert not (run / "metrics.json").exists(), "--resume would take the run for finished, and nothing drew the rest"


def test_a_run_goes_on_within_an_epoch_and_ends_as_the_unbroken_one(scenes, unbroken, tmp_path):
    whole, metrics, _ = unbroken
    run, config = tmp_path / "run", configured(scenes, train__backup_steps=1, **MOVING)
    quiet_train(config, run)
    assert [path.name for path in sorted((run / "backup").iterdir())] == ["step-00002-0000001", "step-00002-0000002"]
    shutil.rmtree(run / "backup" / "step-00002-0000002")
    (run / "metrics.json").unlink()
    said: list[str] = []
    resumed = quiet_train(config, run, resume=True, said=said)
    assert "going on at epoch 3 of 3, 1 of 2 steps of it are done" in said
    assert_same_end(run, resumed, whole, metrics)


def test_a_run_goes_on_in_the_precision_in_which_it_began(scenes, tmp_path, monkeypatch):
    """On a machine that would choose another one: of float16 and its scaled loss a state even has other variables."""
    run = tmp_path / "run"
    config = configured(scenes, train__epochs=2, train__precision="auto", model__encoder={"channels": [4, 8]})
    other = "float32" if trainer.choose_precision()[0] != "float32" else "mixed_bfloat16"
    monkeypatch.setattr(trainer, "choose_precision", lambda asked, model: (other, "a test says so"))
    quiet_train(config, run)
    shutil.rmtree(sorted((run / "backup").iterdir())[-1])
    (run / "metrics.json").unlink()
    (run / ".model.1.part.keras").write_text("of a process that was killed")
    monkeypatch.undo()
    said: list[str] = []
    quiet_train(config, run, resume=True, said=said)
    assert f"precision {other}: as the run began" in said
    assert json.loads((run / "environment.json").read_text())["precision"] == other
    assert not list(run.glob(".*"))


def assert_same_end(run: Path, resumed: dict, whole: Path, metrics: dict) -> None:
    """Weights, state and history of a resumed run are those of the unbroken one."""
    assert_same_state(run / "backup" / "step-00002-0000002", whole / "backup" / "step-00002-0000002", 1e-5)
    for a, b in zip(weights_of(run), weights_of(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert (resumed["best_epoch"], resumed["confusion"]) == (metrics["best_epoch"], metrics["confusion"])
    rows = [list(csv.DictReader((folder / "history.csv").open(newline=""))) for folder in (run, whole)]
    assert len(rows[0]) == EPOCHS
    for ours, theirs in zip(*rows, strict=True):
        for key in ("epoch", "loss", "val_loss", "val_f1", "learning_rate"):
            assert float(ours[key]) == pytest.approx(float(theirs[key]), abs=1e-5), key


def test_a_folder_that_holds_a_run_is_refused(scenes, unbroken, tmp_path):
    run, _, _ = unbroken
    config = configured(scenes, **MOVING)
    with pytest.raises(ConfigError, match="holds a run already; go on with it with --resume, or name another folder"):
        quiet_train(config, run)
    with pytest.raises(ConfigError, match="this run is finished, there is nothing to resume"):
        quiet_train(config, run, resume=True)
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ConfigError, match="is not empty and holds no run"):
            quiet_train(config, tmp_path, resume=resume)


def test_another_configuration_on_resume_is_refused_by_its_keys(scenes, unbroken, tmp_path):
    shutil.copy(unbroken[0] / "config.yaml", tmp_path / "config.yaml")
    changed = configured(scenes, **{**MOVING, "train__epochs": 9, "data__augmentation__noise": 0.1})
    with pytest.raises(ConfigError) as caught:
        quiet_train(changed, tmp_path, resume=True)
    message = str(caught.value)
    assert "train.epochs was 3 and is 9" in message
    assert "data.augmentation.noise was 0.0 and is 0.1" in message
    assert message.count(" was ") == 2


# ------------------------------------------------------------------------------------------ what cannot be trained


def test_faulty_data_are_refused_with_every_fault(scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    (data / "B" / "scene_0000.png").unlink()
    (data / "A" / "scene_0003.png").write_bytes(b"no image")
    with pytest.raises(FaultyDataError) as caught:
        quiet_train(configured(data), tmp_path / "run")
    faults = [str(fault) for report in caught.value.reports for fault in report.faults]
    assert any("scene_0000" in fault for fault in faults)
    assert any("scene_0003" in fault for fault in faults)
    assert list((tmp_path / "run").iterdir()) == []
    quiet = configured(scenes, data__augmentation__jpeg=50, data__bands=1)
    with pytest.raises(ConfigError, match=r"data\.bands: is 1, the images of .* have 3"):
        quiet_train(quiet, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__bands": 1, "data__augmentation__hue": 0.1}, r"data\.augmentation: hue and saturation need 3 bands"),
        ({"inference__tile": 65}, r"inference\.tile: got 65, it must be a multiple of the model's stride 4"),
        ({"inference__overlap": 64}, r"inference\.overlap: got 64, it must be smaller than inference\.tile, 64"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_and_claims_no_folder(tmp_path, changes, words):
    data = three_classes(tmp_path / "data", 2)
    with pytest.raises(ConfigError, match=words):
        quiet_train(configured(data, **{"data__bands": 3, **changes}), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_data_without_a_root_or_with_too_few_pairs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root: is not set, name your data with --set data\.root=FOLDER"):
        read_data(configured(), print)
    with pytest.raises(DataError, match="has 1 pair to train on and no val split; at least 2 pairs are needed"):
        read_data(configured(three_classes(tmp_path / "one", 1)), print)
    with pytest.raises(ConfigError, match=r"data\.classes: names 2 classes, the masks hold 3: 0 to 2"):
        read_data(configured(three_classes(tmp_path / "two", 2), data__classes=["none", "change"]), print)


def test_a_loss_that_is_no_number_stops_the_run(scenes, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step"):
        quiet_train(configured(scenes, train__learning_rate=1e30, train__warmup=0.0), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


# ------------------------------------------------------------------------------------------------------- the data


def test_pairs_without_splits_are_divided_by_the_fraction_and_the_seed(tmp_path):
    data = three_classes(tmp_path / "data", 10)
    divided = [
        read_data(configured(data, data__val_fraction=fraction, seed=seed), print)
        for fraction, seed in ((0.3, 1), (0.3, 1), (0.3, 2), (0.01, 1), (0.99, 1))
    ]
    assert [len(part.val[0]) for part in divided] == [3, 3, 3, 1, 9]
    assert divided[0] == divided[1]
    assert divided[0].val != divided[2].val
    for part in divided:
        assert sorted(part.train[0] + part.val[0]) == list(range(10))
    assert divided[0].classes == ("background", "class 1", "class 2")
    assert read_data(configured(data, data__binary=True), print).classes == ("background", "change")
    names = ["none", "dark", "light", "never"]
    assert read_data(configured(data, data__classes=names), print).classes == tuple(names)


def test_a_single_pair_trains_without_any_kept_aside_and_with_a_threshold_that_is_given(tmp_path):
    data = three_classes(tmp_path / "data", 1)
    config = configured(
        data,
        data__val_fraction=0,
        data__binary=True,
        train__epochs=1,
        model__encoder={"channels": [4, 8]},
        train__crops_per_epoch=2,
        inference__threshold=0.9,
        inference__post_processing="none",
    )
    said: list[str] = []
    metrics = quiet_train(config, tmp_path / "run", said=said)
    assert any("1 pairs to train on, the same to validate on; " in line for line in said)
    assert metrics["chosen_on"] == "epoch was chosen on these pairs, which it was trained on"
    assert (metrics["split"], metrics["pairs"], metrics["threshold"]) == ("train", 1, round(0.9 * 1024) / 1024)
    assert load_model(tmp_path / "run").settings.threshold == metrics["threshold"]


def test_of_two_data_sets_the_one_without_val_is_told_to_be_trained_on(scenes, tmp_path):
    config = configured(
        scenes,
        three_classes(tmp_path / "without", 2),
        data__val_fraction=0,
        data__binary=True,
        train__epochs=1,
        model__encoder={"channels": [4, 8]},
        train__crops_per_epoch=2,
        inference__post_processing="none",
    )
    metrics = quiet_train(config, tmp_path / "run")
    assert (metrics["split"], metrics["pairs"]) == ("val", 3)
    assert metrics["chosen_on"] == "epoch and threshold were chosen on these pairs, 2 of which it was trained on"


def test_several_classes_and_roots_train_with_qualified_lists(tmp_path):
    """And the post-processing of the configuration goes into the model: no region is as large as it asks for."""
    roots = three_classes(tmp_path / "one", 3), three_classes(tmp_path / "two", 2)
    config = configured(
        *roots,
        train__epochs=1,
        model__encoder={"channels": [4, 8]},
        train__crops_per_epoch=4,
        train__loss={"cross_entropy": 1, "lovasz": 1, "focal": 1},
        data__ground_resolution=0.5,
        inference__post_processing={"minimum_area": 48 * 40 + 1},
    )
    said: list[str] = []
    metrics = quiet_train(config, tmp_path / "run", said=said)
    lists = {split: (tmp_path / "run" / "list" / f"{split}.txt").read_text().split() for split in ("train", "val")}
    assert sorted(lists["train"] + lists["val"]) == ["0/p0", "0/p1", "0/p2", "1/p0", "1/p1"]
    assert sorted(name[0] for name in lists["val"]) == ["0", "1"]
    assert np.shape(metrics["confusion"]) == (3, 3)
    assert np.sum(metrics["confusion"]) == 2 * 48 * 40
    assert {"change_f1", "kappa", "accuracy", "precision", "recall", "iou"} <= set(metrics)
    model = load_model(tmp_path / "run")
    assert model.settings.classes == ("background", "class 1", "class 2")
    assert model.settings.ground_resolution == (0.5, 0.5)
    assert model.output_shape[-1] == 3
    assert model.settings.post_processing == PostProcessing(minimum_area=48 * 40 + 1)
    assert metrics["post_processing"] == {"closing": 0, "fill_holes": 0, "vote": False, "minimum_area": 48 * 40 + 1}
    assert np.sum(metrics["confusion"], axis=0)[1:].tolist() == [0, 0]
    without = metrics["without_post_processing"]["f1"]
    assert metrics["f1"] == 0 < without
    assert metrics["chosen_on"] == "epoch and threshold were chosen on these pairs"
    assert f"post-processing: minimum_area 1921; F1 on the validation pairs {without:.4f} -> 0.0000" in said


def test_large_pairs_give_crops_by_their_area(tmp_path):
    for name, side in (("small", 32), ("large", 96), ("val", 32)):
        part = tmp_path / "data" / ("val" if name == "val" else "train")
        for role in ("A", "B", "label"):
            (part / role).mkdir(parents=True, exist_ok=True)
            shape = (side, side) if role == "label" else (side, side, 3)
            cv2.imwrite(str(part / role / f"{name}.png"), np.full(shape, 255 * (role == "label"), np.uint8))
    data = trainer.read_data(configured(tmp_path / "data", data__crop=32), lambda line: None)
    (taken,) = data.turns
    assert sorted(data.pairs[index].pair.name for index in taken) == ["large"] * 9 + ["small"]
    assert [data.pairs[index].pair.name for index in data.train[0]] == ["large", "small"]


def test_crops_of_another_resolution_need_that_of_the_data_and_the_model_stores_it(scenes, tmp_path):
    known = configured(scenes, data__ground_resolution=0.5, data__crop_resolution=[0.4, 1.1])
    data = trainer.read_data(known, lambda line: None)
    assert data.ground_resolution == (0.4, 1.1)
    plan = trainer._crop_plan(known, data, 0)
    assert (plan.resolution, plan.ground) == ((0.4, 1.1), (0.5,))
    with pytest.raises(ConfigError, match=r"data\.crop_resolution: the metres per pixel of .* are not known; say them"):
        trainer.read_data(configured(scenes, data__crop_resolution=[0.4, 1.1]), lambda line: None)
    with pytest.raises(ConfigError, match=r"data\.crop_resolution: is \[2, 1\], the finer one comes first"):
        trainer.read_data(
            configured(scenes, data__ground_resolution=0.5, data__crop_resolution=[2, 1]), lambda line: None
        )


def test_cutmix_is_of_the_crops_and_reaches_them(scenes):
    config = configured(scenes, data__augmentation__cutmix=0.25)
    data = trainer.read_data(config, lambda line: None)
    assert trainer._crop_plan(config, data, 0).cutmix == 0.25
    trainer._augmentation(config)  # which does nothing with it, and takes no key that it does not know


def test_a_model_may_work_at_one_of_the_resolutions_it_was_trained_at(scenes):
    trained = {"data__ground_resolution": 0.5, "data__crop_resolution": [0.4, 1.1], "inference__tile": 64}

    def works_at(**values) -> tuple[float, float] | None:
        config = configured(scenes, **values)
        data = trainer.read_data(config, lambda line: None)
        return trainer._initial_model(config, data, lambda line: None).settings.ground_resolution

    assert works_at(**trained) == (0.4, 1.1)
    assert works_at(**trained, inference__ground_resolution=0.5) == (0.5, 0.5)
    assert works_at(**trained, inference__ground_resolution=1.3) == (1.3, 1.3), "within a quarter"
    assert works_at(inference__tile=64, inference__ground_resolution=2) == (2, 2), "that of the data is not known"
    for wrong in (0.3, 1.5):
        with pytest.raises(ConfigError, match=rf"inference\.ground_resolution: is {wrong} m a pixel.*0\.4 to 1\.1"):
            works_at(**trained, inference__ground_resolution=wrong)


def test_validation_is_at_the_resolution_the_model_works_at_and_scores_are_on_the_own_grid(scenes, tmp_path):
    """Of 1 m at 0.5 m: threshold, post-processing, scores and pictures are those of prediction."""
    run, shown = tmp_path / "run", []
    config = configured(
        scenes,
        train__epochs=2,
        train__learning_rate=0.01,
        data__ground_resolution=1.0,
        data__crop_resolution=[0.4, 1.1],
        inference__tile=128,
        inference__ground_resolution=0.5,
        inference__post_processing={"minimum_area": 30},
    )
    metrics = quiet_train(config, run, show=lambda outcome: shown.extend(outcome.pairs) or {})
    scores = evaluate_model(
        Screen(True, True), run, scenes, split="val", out=None, ignore=None, overwrite=False, resolution=1.0,
        runtime="tensorflow", precision="float32",
    )  # fmt: skip
    assert np.sum(metrics["confusion"]) == 64 * 64
    # to a few pixels: enlarged images are rounded otherwise by OpenCV than row by row
    assert np.abs(np.subtract(scores["confusion"], metrics["confusion"])).max() <= 8
    assert metrics["f1"] != metrics["without_post_processing"]["f1"]
    assert [pair.before.shape for pair in shown] == [(64, 64, 3)]
    assert [pair.truth.shape for pair in shown] == [pair.mask.shape for pair in shown] == [(64, 64)]


def georeferenced(data: Path, *pixels: tuple[float, float]) -> Path:
    """The images of a data set as GeoTIFFs on the equator, the pixels of one pair after the other so many metres."""
    for part in ("A", "B"):
        for picture, (across, down) in zip(sorted((data / part).glob("*.png")), pixels, strict=True):
            image = cv2.imread(str(picture))
            form = {"driver": "GTiff", "height": image.shape[0], "width": image.shape[1], "count": 3, "dtype": "uint8"}
            transform = from_origin(500000, 0, across, down)
            with rasterio.open(picture.with_suffix(".tif"), "w", crs="EPSG:32614", transform=transform, **form) as out:
                out.write(np.moveaxis(image, 2, 0))
            picture.unlink()
    return data


def test_validation_sizes_are_those_of_prediction(tmp_path):
    """A raster's own metres per pixel come before what is said of all; images of 40 x 48, width x height."""
    data = georeferenced(three_classes(tmp_path / "data", 3), (0.6, 0.6), (1.0, 0.25), (0.5, 0.5))
    config = configured(data, data__ground_resolution=0.55, data__val_fraction=0)
    pairs = trainer.read_data(config, lambda line: None)
    assert trainer._validation_sizes(config, pairs, (0.45, 0.45)) == {0: (64, 53), 1: (27, 89)}
    with pytest.raises(DataError, match=r"p0\.tif: 0\.6 m a pixel would be enlarged 60 times for a model of 0\.01 m"):
        trainer._validation_sizes(config, pairs, (0.01, 0.01))


def test_the_ground_resolution_is_that_of_all_data(tmp_path):
    plain, square = three_classes(tmp_path / "plain", 2), three_classes(tmp_path / "square", 2)
    long = georeferenced(three_classes(tmp_path / "long", 2), (0.5, 0.9), (0.5, 0.9))
    georeferenced(square, (0.25, 0.25), (0.3, 0.3))

    def found(*roots: dict, **changes) -> tuple[tuple[float, float] | None, list[str]]:
        said: list[str] = []
        config = load_config(None, [*SMALL, f"data.root={json.dumps(roots)}"])
        config = config.model_copy(update={"data": config.data.model_copy(update=changes)})
        return read_data(config, said.append).ground_resolution, said

    one, two, three = ({"path": str(folder)} for folder in (plain, square, long))
    assert found(one) == (None, [])
    assert found(one, ground_resolution=0.3) == ((0.3, 0.3), ["ground resolution 0.3 m a pixel"])
    own, said = found(two)
    assert own == pytest.approx((0.25, 0.3), rel=1e-3)
    assert said == ["ground resolution 0.25 to 0.3 m a pixel"]
    assert found({**one, "ground_resolution": 1}, {**two, "ground_resolution": 0.28})[0] == (0.28, 1)
    assert found({**one, "ground_resolution": 1}, {"path": str(plain)}, ground_resolution=0.5)[0] == (0.5, 1)
    own, said = found(one, two)
    assert own == pytest.approx((0.25, 0.3), rel=1e-3)
    assert said[0] == f"warning: {plain}: its metres per pixel are not known; say them with its ground_resolution"
    own, said = found(three)
    assert (own, len(said)) == (None, 1)
    assert "pixels are 0.5 x 0.9 m on the ground, not square" in said[0]
    with pytest.raises(ConfigError, match=r"ground_resolution: is 0\.5, rasters of .*square have 0\.25 m a pixel"):
        found(two, ground_resolution=0.5)


# ------------------------------------------------------------------------------------------ where the weights begin


def initial(config: Config, run: Path, monkeypatch) -> tuple[ChangeDetector, list[str]]:
    """The compiled model of a run at the moment its fitting begins."""

    models: list[ChangeDetector] = []

    def fit(self, *arguments, **options):
        models.append(self)
        raise InterruptedRunError

    said: list[str] = []
    monkeypatch.setattr(ChangeDetector, "fit", fit)
    with pytest.raises(InterruptedRunError):
        quiet_train(config, run, said=said)
    return models[0], said


def test_init_from_takes_all_weights_where_the_shapes_are_the_same(scenes, unbroken, tmp_path, monkeypatch):
    model, said = initial(configured(scenes, train__init_from=str(unbroken[0])), tmp_path / "run", monkeypatch)
    assert f"started from all weights of {unbroken[0]}" in said
    origin = weights_of(unbroken[0])
    kept = [w for w in model.get_weights() if np.issubdtype(w.dtype, np.floating)]
    for a, b in zip(kept, [w for w in origin if np.issubdtype(w.dtype, np.floating)], strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.settings.threshold == 0.5


@pytest.mark.parametrize("shared", [True, False])
def test_init_from_takes_the_encoder_where_the_rest_differs(scenes, unbroken, tmp_path, monkeypatch, shared):
    config = configured(
        scenes, train__init_from=str(unbroken[0]), model__shared_encoder=shared, model__decoder={"channels": [5, 5]}
    )
    model, said = initial(config, tmp_path / "run", monkeypatch)
    assert f"started from the encoder of {unbroken[0]}" in said
    origin = load_model(unbroken[0]).get_layer("encoder").trainable_variables
    for name in ("encoder",) if shared else ("encoder_before", "encoder_after"):
        for a, b in zip(model.get_layer(name).trainable_variables, origin, strict=True):
            np.testing.assert_array_equal(a, b)


def test_init_from_another_encoder_is_refused(scenes, unbroken, tmp_path):
    config = configured(scenes, train__init_from=str(unbroken[0]), model__encoder__channels=[4, 9])
    with pytest.raises(ConfigError, match=r"train\.init_from: .* has another encoder"):
        quiet_train(config, tmp_path / "run")


def test_the_loss_is_scaled_in_float16_and_only_there(scenes, tmp_path, monkeypatch):
    for precision, scaled in (("mixed_float16", True), ("mixed_bfloat16", False)):
        model, _ = initial(configured(scenes, train__precision=precision), tmp_path / precision, monkeypatch)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled
        assert model.get_layer("logits_conv").dtype_policy.name == precision


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_every_precision_really_trains(scenes, tmp_path, precision):
    """As float32 does elsewhere. mixed_float16 is compiled by XLA, as on a GPU: losses and metrics too must compile."""
    config = configured(scenes, train__precision=precision, train__epochs=1, model__encoder={"channels": [4, 8]})
    metrics = quiet_train(config, tmp_path / "run")
    assert np.isfinite(metrics["f1"])


def test_a_run_is_known_by_its_data_wherever_they_are_named_from(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(scenes.parent)
    initial(configured(Path(scenes.name)), tmp_path / "run", monkeypatch)
    assert load_config(tmp_path / "run" / "config.yaml").data.root[0].path == str(scenes.resolve())


def test_change_and_class_indices_are_not_mixed_in_silence(scenes, tmp_path):
    roots = (scenes, three_classes(tmp_path / "classes", 4))
    with pytest.raises(ConfigError, match=r"class indices .* data.binary: true"):
        quiet_train(configured(*roots), tmp_path / "run")


def test_a_run_without_a_seed_draws_one_and_writes_it(scenes, tmp_path, monkeypatch):
    seeds = []
    for name in ("one", "two"):
        initial(configured(scenes, seed=None), tmp_path / name, monkeypatch)
        seeds.append(json.loads((tmp_path / name / "environment.json").read_text())["seed"])
    assert seeds[0] != seeds[1]


def test_batch_normalization_averages_over_the_steps_of_averaged_weights(scenes, unbroken, tmp_path):
    """Statistics of the last steps alone would not fit them."""

    def momenta(run: Path) -> set[float]:
        layers = load_model(run)._flatten_layers(include_self=False, recursive=True)
        return {layer.momentum for layer in layers if isinstance(layer, keras.layers.BatchNormalization)}

    quiet_train(configured(scenes, train__ema=0.995, train__epochs=1), tmp_path / "run")
    assert momenta(tmp_path / "run") == {0.995}
    assert momenta(unbroken[0]) == {MOMENTUM}, "a short average leaves the usual one"
