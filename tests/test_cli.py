"""The command line as a user meets it: exit statuses, what is printed where, and what is left after a signal."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pyogrio
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from typer.testing import CliRunner

from data_pipelines.published.preparing import DATA_SETS
from data_pipelines.synthetic.writing import write_scenes
from segdiff import cli
from segdiff.cli import silence
from segdiff.cli.commands import demo, evaluate
from segdiff.cli.errors import FAULTS, WRONG_CALL
from segdiff.config import EncoderConfig, ModelConfig, dump_config, load_config
from segdiff.inference.boxes import find_boxes
from segdiff.inference.object_scores import ObjectScoreboard
from segdiff.inference.postprocessing import postprocess_mask
from segdiff.inference.predictor import Prediction, load
from segdiff.model_files import ModelError, ObjectOptions, PostProcessing, Settings
from segdiff.models.architectures import build_change_detector
from segdiff.models.loading import load_model
from segdiff.training.callbacks import save_detector
from tests.data_pipelines.published.downloads import clcd

COMMANDS = [
    "demo",
    "synth",
    "check",
    "prepare",
    "pack",
    "train",
    "export",
    "evaluate",
    "predict",
    "report",
    "serve",
    "overlay",
]
NOISE = re.compile(r"tensorflow|oneDNN|cuda|rebuild|absl|^[EWI]\d{4} |WARNING|Warning", re.MULTILINE)


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process, where TensorFlow is imported once: here("check", folder) -> status, out, err."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segdiff", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def require_one_line(err: str, *words: object) -> None:
    assert err.startswith("segdiff: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def require_report(out: Path, pairs: int) -> None:
    """The page is there, and each of so many pairs has all its pictures."""
    assert (out / "report.html").is_file()
    data = (out / "report" / "data.js").read_text()
    predicted = [pair for pair in json.loads(data.partition(" = ")[2].strip(";\n"))["pairs"] if pair["status"] == "ok"]
    assert [pair["layers"] for pair in predicted] == [1] * pairs
    for layer in ("before", "after", "mask", "contour", "probability", "thumbnail"):
        names = {path.stem for path in (out / "report" / layer).iterdir()}
        assert names == {pair["name"] for pair in predicted}, layer


# ------------------------------------------------------------------------------------------- without TensorFlow


def test_help_data_commands_and_refusals_do_without_tensorflow(tmp_path):
    data, mask = str(tmp_path / "data"), tmp_path / "data" / "label" / "scene_0000.png"
    images = [str(mask).replace("label", folder) for folder in "AB"]
    calls = [
        ["--help"], [], ["--version"], *([command, "--help"] for command in COMMANDS),
        ["synth", data, "--pairs", "1", "--size", "64"], ["check", data],
        ["overlay", *images, str(mask), "--out", str(tmp_path / "x.png")],
    ]  # fmt: skip
    refused = [["evaluate", "first_look", data, "--iou", "0.5"], ["evaluate", "nowhere", data]]
    code = (
        f"import sys\nfrom segdiff.cli import main\nfor call in {[*calls, *refused]!r}:\n"
        "    sys.argv = ['segdiff', *call]\n"
        f"    try:\n        main()\n    except SystemExit as end:\n        status = 2 * (call in {refused!r})\n"
        "        assert (end.code or 0) == status, (call, end.code)\n"
        "    assert not {'tensorflow', 'keras'} & set(sys.modules), call\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    objects, name = done.stderr.splitlines()
    assert "add --objects" in objects
    assert "nowhere" in name


def test_help_names_the_commands_and_version_the_version(segdiff_command):
    helped, version = segdiff_command("--help"), segdiff_command("--version")
    assert (helped.returncode, version.returncode) == (0, 0)
    for command in COMMANDS:
        assert re.search(rf"^\W+{command} ", helped.stdout, re.MULTILINE), command
    assert re.fullmatch(r"segdiff \d+\.\d+\.\d+\n", version.stdout)
    assert helped.stderr == version.stderr == ""


WRONG_CALLS = {
    "bogus": ["bogus", "segdiff --help"],
    "predict": ["MODEL", "segdiff predict --help"],
    "synth {} --size 63": ["--size", "64"],
    "check {} --what": ["--what"],
    "predict m a b --out {} --threshold 1.5": ["--threshold", "1"],
    "predict m a b --out {} --tta d8": ["'--tta': 'd8' is not one of", "multiscale", "segdiff predict --help"],
    "train nowhere.yaml": ["nowhere.yaml", "ready are", "demo"],
    "train demo --set data.crp=64": ["data.crp", "64", "did you mean crop?"],
    "train demo --set train.learnig_rate=1": ["train.learnig_rate", "did you mean learning_rate?"],
    "train demo --set data.cache=memry": ["data.cache", "'memry'", "'disk'", "did you mean memory?"],
    "train demo --set train.epochs=0": ["train.epochs", "got 0", "greater than or equal to 1"],
    "train demo --set model.decoder.channels=[8,8,0]": ["model.decoder.channels", "greater than or equal to 1"],
    "train demo --set data.classes=[a,b,b]": ["data.classes", "a name of its own"],
    "train demo --set train.epochs": ["train.epochs", "KEY=VALUE"],
    "export m --format onnx --precision int8 --out {}": ["--precision int8", "onnx is written in float32"],
    "export m --format tflite --precision int8 --out {}": ["--precision int8", "--data"],
    "export nowhere --format tflite --out {}": ["nowhere", "shipped are"],
    "export m --format pickle --out {}": ["pickle", "savedmodel"],
    "export first_look --format onnx --out {}": ["first_look.keras", "finds a threshold in each pair"],
    "overlay a.png b.png m.png --out {}/x.tif": ["x.tif", ".jpg"],
    "prepare bogus . {}": ["bogus", "allowed are levir_cd, whu_cd"],
    "prepare clcd nowhere {}": ["nowhere", "no such file or folder"],
    "report {}": ["there is no such folder", "prediction folder"],
}


@pytest.mark.parametrize("call", WRONG_CALLS)
def test_a_wrong_call_is_one_line_and_status_2(here, tmp_path, call):
    status, out, err = here(*call.replace("{}", str(tmp_path / "out")).split())
    assert (status, out) == (2, "")
    require_one_line(err, *WRONG_CALLS[call])
    assert not (tmp_path / "out").exists()


def test_a_traceback_is_shown_on_request_alone(segdiff_command):
    call = ("train", "demo", "--set", "train.epochs=0")
    plain, debug = segdiff_command(*call), segdiff_command(*call, "--debug")
    assert plain.returncode == debug.returncode == 2
    require_one_line(plain.stderr, "train.epochs")
    assert "Traceback (most recent call last)" in debug.stderr
    assert debug.stderr.splitlines()[-1] == plain.stderr.strip()


def run_into(stream: str, descriptor: int, *arguments: object) -> tuple[int, str]:
    """The command with one of its streams led there, buffered as it is by default -> its status, what the other got."""
    script, streams = Path(sys.executable).with_name("segdiff"), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command, streams[stream] = [str(script), *map(str, arguments)], descriptor
    done = subprocess.run(command, **streams, text=True, env=environment, timeout=120)
    return done.returncode, (done.stderr if stream == "stdout" else done.stdout)


def test_where_nobody_reads_on_it_ends_without_a_word_as_of_sigpipe(tmp_path):
    write_scenes(tmp_path, 1, 64, 0)
    reader, writer = os.pipe()
    os.close(reader)
    for stream, arguments in (
        ("stdout", ("check", tmp_path)),  # rich finds out while it works
        ("stdout", ("check", tmp_path, "--json", "--quiet")),  # nobody does before the end
        ("stderr", ("check", tmp_path / "nowhere")),
    ):
        assert run_into(stream, writer, *arguments) == (128 + signal.SIGPIPE, ""), arguments
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a file that is always full")
def test_what_does_not_fit_on_standard_output_is_told(tmp_path):
    write_scenes(tmp_path, 1, 64, 0)
    with Path("/dev/full").open("wb") as full:
        status, err = run_into("stdout", full.fileno(), "check", tmp_path, "--json", "--quiet")
    assert status == 4
    require_one_line(err, "No space left", "make room")


@pytest.mark.parametrize("options", [(), ("--debug",)])
def test_evaluate_silences_tensorflow_as_its_own_options_say(tmp_path, monkeypatch, options):
    """Those of the process, here pytest's, are another's."""
    write_scenes(tmp_path / "data", 1, 64, 0)
    (tmp_path / "broken.keras").write_bytes(b"no model")
    asked = []

    def silenced(debug: bool) -> contextlib.AbstractContextManager[None]:
        asked.append(debug)
        return silence.silenced(debug)

    monkeypatch.setattr(evaluate, "silenced", silenced)
    called = CliRunner().invoke(cli.app, ["evaluate", *(str(path) for path in sorted(tmp_path.iterdir())), *options])
    assert isinstance(called.exception, ModelError)
    assert asked == [bool(options)]


def copy_of(data: Path, target: Path) -> Path:
    shutil.copytree(data, target)
    return target


def plant_faults(data: Path) -> list[Path]:
    (data / "label" / "scene_0003.png").unlink()
    (data / "A" / "scene_0004.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((64, 63, 3), np.uint8)).save(data / "B" / "scene_0005.png")
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(data / "label" / "scene_0006.png")
    return [
        data / "A" / "scene_0003.png", data / "A" / "scene_0004.png", data / "B" / "scene_0005.png",
        data / "label" / "scene_0006.png",
    ]  # fmt: skip


def test_check_says_what_is_there_and_what_is_wrong(here, tiny_run, tmp_path):
    status, out, err = here("check", tiny_run.data)
    assert (status, err) == (0, "")
    assert "no faults" in out
    assert str(tiny_run.data) in out
    status, out, err = here("check", tiny_run.data, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["faults"] == []
    assert {split: part["pairs"] for split, part in found["splits"].items()} == {"train": 8, "val": 2}

    data = copy_of(tiny_run.data, tmp_path / "faulty [v2]")
    faulty = plant_faults(data)
    status, out, err = here("check", data, "--quiet")
    assert status == 1
    for path in faulty:
        assert f"fault: {path}: " in out
    assert "4 faults" in out
    assert out.startswith(str(data)), "brackets in a path are no markup"
    status, out, err = here("check", data, "--json")
    assert status == 1
    assert [fault["path"] for fault in json.loads(out)["faults"]] == sorted(map(str, faulty))
    call = ("evaluate", tiny_run.run, data, "--quiet")
    for options, reports in ((("--json",), 1), (("--out", "--json"), 0)):  # there it is the name of a folder
        status, out, err = here(*call, *options)
        assert (status, len(json.loads(out or "[]"))) == (1, reports), err

    status, out, err = here("check", tmp_path / "nowhere")
    assert status == 2
    require_one_line(err, tmp_path / "nowhere")
    assert out == ""


def test_data_that_cannot_be_read_are_faults_of_the_data(here, tiny_run, tmp_path):
    data = copy_of(tiny_run.data, tmp_path / "data")
    for name, path in (("A", data / "A" / "scene_0001.png"), ("label", data / "label" / "scene_0002.png")):
        path.unlink()
        path.symlink_to(tmp_path / name)  # there is none
    commands = (("check",), ("evaluate", tiny_run.run), ("train", tiny_run.config, "--out", tmp_path / "run", "--set"))
    for command in commands:
        root = f"data.root={data}" if "--set" in command else data
        status, out, err = here(*command, root, "--quiet")
        said = out if command == ("check",) else err
        assert (status, said.count("no such file"), "Traceback" in err) == (1, 2, False), said
    loop = data / "B" / "scene_0003.png"
    loop.unlink()
    loop.symlink_to(loop)
    for command in commands:
        root = f"data.root={data}" if "--set" in command else data
        status, out, err = here(*command, root, "--quiet")
        assert (status, out) == (1, "")
        require_one_line(err, loop, "cannot be read")


def test_synth_refuses_a_folder_that_holds_something(here, tiny_run, tmp_path):
    status, out, err = here("synth", tiny_run.data, "--pairs", 1)
    assert (status, out) == (2, "")
    require_one_line(err, tiny_run.data)
    status, out, err = here("synth", tmp_path / "new [1]", "--pairs", 2, "--size", 64, "--quiet")
    assert (status, err) == (0, "")
    assert out == f"2 pairs in {tmp_path / 'new [1]'}\n"


def test_pack_makes_a_set_that_every_command_takes_for_data(here, tiny_run, tmp_path):
    data, run, out = tiny_run.data, tiny_run.run, tmp_path / "packed"
    status, said, err = here("pack", data, out, "--shard-size", "1", "--json")
    assert (status, json.loads(said)["pairs"]) == (0, len(list((data / "A").iterdir()))), err
    reports = [json.loads(here("check", folder, "--json", "-q")[1]) for folder in (data, out)]
    assert reports[0]["splits"] == reports[1]["splits"]
    scores = [json.loads(here("evaluate", run, folder, "--split", "val", "--json", "-q")[1]) for folder in (data, out)]
    assert scores[0]["confusion"] == scores[1]["confusion"]

    status, _, err = here("pack", data, out)
    assert status == WRONG_CALL
    require_one_line(err, out, "--overwrite")
    assert here("pack", data, out, "--overwrite", "-q")[0] == 0
    shard = next(out.glob("*.tfrecord"))
    shard.write_bytes(shard.read_bytes()[:-100])
    status, said, _ = here("check", out)
    assert (status, said.count("fault: ")) == (FAULTS, 1)
    assert str(shard) in said
    (tmp_path / "half" / "A").mkdir(parents=True)
    assert here("pack", tmp_path / "half", tmp_path / "out")[0] == FAULTS
    assert not (tmp_path / "out").exists()


def test_prepare_replaces_what_it_made_when_the_new_is_whole_and_nothing_else(here, tmp_path):
    assert all(name in here("prepare", "--help")[1] for name in DATA_SETS)
    clcd(tmp_path / "src")
    out = tmp_path / "data" / "clcd"
    (tmp_path / "clcd.zip").touch()
    status, _, err = here("prepare", "clcd", tmp_path / "clcd.zip", out)
    assert status == WRONG_CALL
    require_one_line(err, "clcd.zip", "unpack it")
    for elsewhere in (tmp_path / "src", tmp_path / "src" / "out", tmp_path):
        status, _, err = here("prepare", "clcd", tmp_path / "src", elsewhere, "--overwrite")
        assert (status, err.count("\n")) == (2, 1)
        assert "SRC and OUT lie in one another" in err
    call = ("prepare", "clcd", tmp_path / "src", out)
    assert here(*call, "-q")[0] == 0
    status, said, err = here(*call)
    assert (status, said) == (WRONG_CALL, "")
    require_one_line(err, out, "--overwrite")

    test = tmp_path / "src" / "CLCD" / "test"
    (test / "label" / "00000.png").unlink()
    status, _, err = here(*call, "--overwrite", "-q")
    assert status == FAULTS
    require_one_line(err, test / "label")
    assert len(list(out.rglob("*.png"))) == 9
    shutil.rmtree(test)
    status, said, err = here(*call, "--overwrite")
    assert (status, err) == (0, "")
    assert "note: not the whole data set: train 1 of 360, val 1 of 120, no test\n" in said
    assert said.endswith(f"2 pairs in {out}\n")
    assert not (out / "test").exists()
    assert [path.name for path in out.parent.iterdir()] == ["clcd"]


def picture_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def test_overlay_to_a_file_and_to_a_folder(segdiff_command, here, tiny_run, tmp_path):
    a, b, label = (tiny_run.data / folder / "scene_0002.png" for folder in ("A", "B", "label"))
    done = segdiff_command("overlay", a, b, label, "--out", tmp_path / "one" / "x.png", "--json")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert json.loads(done.stdout)["files"] == [str(tmp_path / "one" / "x.png")]
    assert picture_of(tmp_path / "one" / "x.png").shape[1] > 3 * 64

    status, _, err = here("overlay", a, b, label, "--out", tmp_path / "v1.2", "--truth", label)
    assert (status, err) == (0, "")
    assert [path.name for path in (tmp_path / "v1.2").iterdir()] == ["scene_0002.jpg"]
    plain, truth = picture_of(tmp_path / "one" / "x.png"), picture_of(tmp_path / "v1.2" / "scene_0002.jpg")
    assert plain.shape != truth.shape or np.abs(plain.astype(int) - truth).max() > 100, "the truth shows"

    status, _, err = here("overlay", a, b, tiny_run.data / "label" / "none.png", "--out", tmp_path / "y.png")
    assert status == 2
    require_one_line(err, "none.png")
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(small)
    status, _, err = here("overlay", a, b, small, "--out", tmp_path / "y.png")
    assert status == 1
    require_one_line(err, small)
    assert not (tmp_path / "y.png").exists()


def test_overlays_of_whole_folders(here, tiny_run, tmp_path):
    data = copy_of(tiny_run.data, tmp_path / "data")
    (data / "label" / "scene_0007.png").unlink()
    folders = [data / folder for folder in ("A", "B", "label")]
    status, out, err = here(
        "overlay", *folders, "--out", tmp_path / "out", "--truth", tiny_run.data / "label", "--json"
    )
    assert status == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"scene_{number:04d}.jpg" for number in range(10) if number != 7
    ]
    assert list(json.loads(out)["failed"]) == ["scene_0007"]
    assert f"{data / 'label'}: " in err
    status, out, err = here("overlay", *folders[:2], folders[2] / "scene_0001.png", "--out", tmp_path / "out")
    assert status == 2
    require_one_line(err, folders[2] / "scene_0001.png", "folders")


def test_a_binary_mask_is_right_wherever_the_truth_has_a_class(here, tmp_path):
    """A mask of 0/255 against class indices: found is found, whatever the class."""
    truth = np.zeros((200, 200), np.uint8)
    truth[50:90, 50:90], truth[120:160, 120:160] = 1, 3
    for name, pixels in (("a", np.full((200, 200), 90, np.uint8)), ("m", np.uint8(255) * (truth > 0)), ("t", truth)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    a, m, t = (tmp_path / f"{name}.png" for name in "amt")
    status, _, err = here("overlay", a, a, m, "--truth", t, "--out", tmp_path / "x.png")
    assert (status, err) == (0, "")
    from segdiff.visualization.overlays import overlay

    grey = np.full((200, 200, 1), 90, np.uint8)
    found = (truth > 0).astype(np.uint8)
    np.testing.assert_array_equal(picture_of(tmp_path / "x.png"), overlay(grey, grey, found, found))


# ------------------------------------------------------------------------------------------------- with TensorFlow


def test_a_training_leaves_a_run_folder(tiny_run):
    run = tiny_run.run
    assert json.loads(tiny_run.drawing.stdout)["pairs"] == 10
    printed = json.loads(tiny_run.training.stdout)
    assert not NOISE.search(tiny_run.training.stderr), tiny_run.training.stderr
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "model.keras", "history.csv", "metrics.json", "curves.png", "environment.json", "list",
        "tensorboard", "backup", "confusion.png", "precision_recall.png", "report.html",
    }  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert printed == {"run": str(run), **metrics}
    assert (run / "list" / "val.txt").read_text().split() == ["scene_0001", "scene_0006"]
    assert len((run / "list" / "train.txt").read_text().split()) == 8
    config = load_config(run / "config.yaml")
    assert config.train.epochs == 2
    assert config.data.root[0].path == str(tiny_run.data)
    with (run / "history.csv").open(newline="") as stream:
        assert [float(row["epoch"]) for row in csv.DictReader(stream)] == [1, 2]
    assert json.loads((run / "environment.json").read_text())["packages"]["keras"]


def test_a_finished_run_is_not_written_over(here, tiny_run, tmp_path):
    kept = (tiny_run.run / "model.keras").read_bytes()
    call = ("train", tiny_run.config, "--set", f"data.root={tiny_run.data}", "--out")
    for arguments, word in (((tiny_run.run,), "--resume"), ((tiny_run.run, "--resume"), "finished")):
        status, out, err = here(*call, *arguments)
        assert (status, out) == (2, "")
        require_one_line(err, tiny_run.run, word)
    assert (tiny_run.run / "model.keras").read_bytes() == kept
    (tmp_path / "file").write_text("mine")
    status, out, err = here(*call, tmp_path / "file")
    assert (status, (tmp_path / "file").read_text()) == (2, "mine")
    require_one_line(err, tmp_path / "file")
    status, out, err = here("train", tiny_run.config, "--out", tmp_path / "run")
    assert status == 2
    require_one_line(err, "data.root")


def test_training_refuses_faulty_data_in_the_words_of_check(segdiff_command, here, tiny_run, tmp_path):
    data = copy_of(tiny_run.data, tmp_path / "faulty")
    faulty = plant_faults(data)
    _, out, _ = here("check", data, "--json")
    words = [f"segdiff: {fault['path']}: {fault['problem']}" for fault in json.loads(out)["faults"]]
    assert len(words) == len(faulty)
    done = segdiff_command("train", tiny_run.config, "--set", f"data.root={data}", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[:-1] == words
    assert "4 faults" in done.stderr.splitlines()[-1]
    assert not NOISE.search(done.stderr)
    assert not (tmp_path / "run" / "config.yaml").exists(), "the same call must work once the data are mended"
    status, out, err = here("evaluate", tiny_run.run, data, "--quiet")
    assert (status, out) == (1, "")
    assert err.splitlines()[:-1] == words


def test_evaluate_counts_what_it_writes(segdiff_command, here, tiny_run, tmp_path):
    out = tmp_path / "scored"
    done = segdiff_command("evaluate", tiny_run.run, tiny_run.data, "--split", "val", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert not NOISE.search(done.stderr), done.stderr
    scores = json.loads(done.stdout)
    assert (scores["pairs"], scores["split"], scores["failed"]) == (2, "val", {})
    confusion = np.zeros((2, 2), int)
    for name in ("scene_0001", "scene_0006"):
        mask, truth = (
            np.array(Image.open(folder / f"{name}.png")) for folder in (out / "masks", tiny_run.data / "label")
        )
        for true in (0, 1):
            for found in (0, 1):
                confusion[true, found] += int(((truth == 255 * true) & (mask == 255 * found)).sum())
    assert scores["confusion"] == confusion.tolist()
    assert confusion.sum() == 2 * 64 * 64
    metrics = json.loads((tiny_run.run / "metrics.json").read_text())
    assert scores["threshold"] == metrics["threshold"]
    assert scores["f1"] == pytest.approx(metrics["f1"], abs=0.03), "tiles and precision differ, no more"
    truth = json.loads((out / "prediction.json").read_text())["truth"]
    assert truth == {name: str(tiny_run.data / "label" / f"{name}.png") for name in ("scene_0001", "scene_0006")}
    rows = rows_of(out)
    assert [row["name"] for row in rows] == ["scene_0001", "scene_0006"]
    assert all(0 <= float(row["f1"]) <= 1 for row in rows)
    require_report(out, 2)
    assert len(list((out / "report" / "outcome").iterdir())) == 2

    status, printed, err = here("evaluate", tiny_run.run, tiny_run.data, "--split", "test")
    assert (status, "Traceback" in err) == (2, False)
    assert "has no split 'test', it has train, val" in err.splitlines()[-1]
    status, printed, err = here("evaluate", tiny_run.run, tiny_run.data, "--split", "train", "--json")
    assert (status, json.loads(printed)["pairs"]) == (0, 8)
    status, printed, err = here("evaluate", tmp_path / "none.keras", tiny_run.data, "--quiet")
    assert (status, printed) == (2, "")
    require_one_line(err, "none.keras")


def test_evaluate_scores_the_objects_of_what_it_writes(segdiff_command, here, tiny_run, tmp_path):
    out, data = tmp_path / "scored", copy_of(tiny_run.data, tmp_path / "data")
    options = ("--objects", "--iou", "0.2", "--join", "1", "--pad", "2", "--minimum-area", "3")
    call = ("evaluate", tiny_run.run, data, "--split", "val", *options)
    done = segdiff_command(*call, "--out", out, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    scores = json.loads(done.stdout)
    assert json.loads((out / "metrics.json").read_text()) == scores
    wanted = {"iou": 0.2, "join": 1, "pad": 2, "minimum_area": 3}
    assert {key: scores["objects"][key] for key in wanted} == wanted
    assert scores["objects"]["truth"] == "masks"
    rows = {row["name"]: row for row in rows_of(out)}
    board, found = ObjectScoreboard(("background", "change"), ObjectOptions(**wanted)), {}
    for name in ("scene_0001", "scene_0006"):
        mask, truth = (
            np.array(Image.open(folder / f"{name}.png")) // 255 for folder in (out / "masks", data / "label")
        )
        own = board.add(Prediction(mask, np.ones(mask.shape, np.float32)), truth)
        assert {key: float(rows[name][key]) for key in own} == pytest.approx(own, abs=1e-6)
        found[name] = find_boxes(mask, join=1, pad=2, minimum_area=3)
    counts = {key: board.scores()[key] for key in ("support", "found", "right", "precision", "recall", "f1")}
    assert {key: scores["objects"][key] for key in counts} == counts
    assert scores["objects"]["found"] == sum(map(len, found.values())) > 0
    assert 0 <= scores["objects"]["map"] == scores["objects"]["classes"]["change"]["ap"] <= 1

    # true boxes that are those of the prediction, but for one that it has not
    (data / "boxes").mkdir()
    for name, boxes in found.items():
        lines = [f"{','.join(f'{corner:g}' for corner in corners)},house\n" for corners in boxes.corners]
        (data / "boxes" / f"{name}.csv").write_text("".join(["x1,y1,x2,y2,type\n", *lines]))
    with (data / "boxes" / "scene_0006.csv").open("a") as file:
        file.write("0.25,0.25,0.5,0.5,speck\n")
    assert here("check", data, "--quiet")[0] == 0
    status, printed, err = here(*call, "--json", "--quiet")
    assert (status, err) == (0, "")
    objects, count = json.loads(printed)["objects"], scores["objects"]["found"]
    assert objects["truth"] == "boxes"
    assert [objects[key] for key in ("support", "found", "right", "precision")] == [count + 1, count, count, 1]
    assert objects["map"] == pytest.approx(count / (count + 1))
    status, printed, err = here(*call, "--quiet")
    assert status == 0
    assert re.search(rf"change +\S+ +1\.0000 .* {count + 1} +{count} +{count}$", printed, re.MULTILINE), printed
    assert "IoU of 0.2 with those of the true boxes; join 1, pad 2, minimum area 3 pixels" in printed
    assert here("pack", data, tmp_path / "packed", "--quiet")[0] == 0
    packed = here("evaluate", tiny_run.run, tmp_path / "packed", "--split", "val", *options, "--json", "--quiet")[1]
    assert json.loads(packed)["objects"] == objects

    status, _, err = here(*call[:-1], "4", "--out", out, "--quiet")
    assert status == 2
    require_one_line(err, out, "options", "--overwrite")
    (data / "boxes" / "scene_0001.csv").unlink()
    status, printed, err = here(*call, "--quiet")
    assert (status, printed) == (1, "")
    require_one_line(err, data / "B" / "scene_0001.png", "boxes/scene_0001.csv")
    (data / "boxes" / "scene_0001.csv").write_text("x1,y1,x2,y2,type\n1,2,65,4,house\n")
    status, printed, err = here(*call, "--quiet")
    assert (status, printed) == (1, "")
    faulty, summary = err.splitlines()
    require_one_line(f"{faulty}\n", data / "boxes" / "scene_0001.csv", "line 2", "65", "64 pixels")
    assert summary.startswith("segdiff: 1 fault in the data")


def test_what_an_object_is_the_model_says_where_the_call_does_not(here, tiny_run, tmp_path):
    run = copy_of(tiny_run.run, tmp_path / "run")
    model = load_model(run)
    own = ObjectOptions(iou=0.2, join=9, pad=1, minimum_area=4, minimum_score=0.6)
    model.settings = replace(model.settings, objects=own)
    save_detector(model, run / "model.keras")

    def scored(model: Path, *options: object) -> dict:
        status, printed, err = here(
            "evaluate", model, tiny_run.data, "--split", "val", "--objects", *options, "--json", "--quiet"
        )
        assert (status, err) == (0, "")
        return json.loads(printed)["objects"]

    given = ("--iou", "0.2", "--join", "9", "--pad", "1", "--minimum-area", "4", "--minimum-score", "0.6")
    expected = scored(tiny_run.run, *given)
    assert scored(run) == expected
    assert expected != scored(tiny_run.run)
    assert {key: scored(run, "--join", "0")[key] for key in asdict(own)} == {**asdict(own), "join": 0}


def test_evaluate_without_objects_knows_none(here, tiny_run, tmp_path):
    out = tmp_path / "out"
    call = ("evaluate", tiny_run.run, tiny_run.data, "--split", "val", "--quiet")
    assert here(*call, "--objects", "--out", out)[0] == 0
    assert (out / "metrics.json").is_file()
    status, printed, _ = here(*call, "--json", "--out", out, "--overwrite")
    assert status == 0
    assert "objects" not in json.loads(printed)
    assert json.loads((out / "metrics.json").read_text()) == json.loads(printed)
    assert not [column for column in rows_of(out)[0] if column.startswith("object_")]
    for option in (
        ("--iou", "0.5"), ("--join", "9"), ("--pad", "8"), ("--minimum-area", "12"), ("--minimum-score", "0.6")
    ):  # fmt: skip
        status, _, err = here(*call, *option)
        assert status == 2
        require_one_line(err, option[0], "add --objects")
    status, _, err = here(*call, "--objects", "--iou", "1")
    assert status == 2
    require_one_line(err, "iou is 1.0", "below 1")


def test_masks_and_objects_are_post_processed_as_the_model_says_or_as_asked(here, tiny_run, tmp_path):
    run = copy_of(tiny_run.run, tmp_path / "run")
    model = load_model(run)
    own, other = PostProcessing(fill_holes=9), PostProcessing(closing=1, minimum_area=20)
    model.settings = replace(model.settings, post_processing=own)
    save_detector(model, run / "model.keras")
    pair = (tiny_run.data / "A" / "scene_0003.png", tiny_run.data / "B" / "scene_0003.png")

    def predicted(out: str, *options: object) -> tuple[np.ndarray, dict, list[dict]]:
        status, _, err = here("predict", run, *pair, "--out", tmp_path / out, "--precision", "float32", *options, "-q")
        assert (status, err) == (0, "")
        objects = json.loads((tmp_path / out / "objects.geojson").read_text())["features"]
        options = json.loads((tmp_path / out / "prediction.json").read_text())["options"]
        return np.array(Image.open(tmp_path / out / "masks" / "scene_0003.png")) // 255, options, objects

    plain, said, _ = predicted("plain", "--post-processing", "none")
    assert said["post_processing"] == {"closing": 0, "fill_holes": 0, "vote": False, "minimum_area": 0}
    for out, options, steps in (
        ("own", (), own),
        ("other", ("--post-processing", "closing=1,minimum_area=20"), other),
    ):
        mask, said, objects = predicted(out, *options, "--geopackage")
        assert said["post_processing"] == asdict(steps)
        np.testing.assert_array_equal(mask, postprocess_mask(plain, steps, classes=2))
        assert not np.array_equal(mask, plain)
        assert sum(item["properties"]["area"] for item in objects) == mask.sum()
        (package,) = (tmp_path / out / "geopackages").iterdir()
        assert package.name == "scene_0003.gpkg"
        assert pyogrio.read_info(package)["features"] == len(objects) > 0
    status, _, err = here("predict", run, *pair, "--out", tmp_path / "own", "--post-processing", "none")
    assert (status, "options differ" in err) == (2, True)

    scored = ("evaluate", run, tiny_run.data, "--split", "val", "--out", tmp_path / "scored", "--objects")
    scored = (*scored, "--json", "--quiet")
    status, printed, _ = here(*scored)
    figures = json.loads(printed)
    assert (status, figures["post_processing"]) == (0, asdict(own))
    found = sum(int(row["changed_pixels"]) for row in rows_of(tmp_path / "scored"))
    assert found == np.sum(figures["confusion"], axis=0)[1] > 0
    assert figures["objects"]["found"] == sum(int(row["objects"]) for row in rows_of(tmp_path / "scored"))
    status, printed, _ = here(*scored, "--post-processing", "minimum_area=4097", "--overwrite")
    assert (status, json.loads(printed)["f1"], json.loads(printed)["objects"]["found"]) == (0, 0, 0)
    for command in (scored, ("predict", run, *pair, "--out", tmp_path / "new")):
        status, _, err = here(*command, "--post-processing", "closing")
        assert status == 2
        require_one_line(err, "'closing' is no step", "closing=N")
    assert not (tmp_path / "new").exists()


def test_predict_does_what_it_can_and_says_what_it_could_not(segdiff_command, here, tiny_run, tmp_path):
    before, after, out = tmp_path / "vor dem Fest", tmp_path / "näch 東", tmp_path / "out put"
    shutil.copytree(tiny_run.data / "A", before)
    shutil.copytree(tiny_run.data / "B", after)
    (after / "scene_0002.png").write_bytes(b"broken")
    (before / "scene_0003.png").unlink()
    done = segdiff_command("predict", tiny_run.run, before, after, "--out", out, "--json", "--probabilities")
    assert done.returncode == 3, done.stderr
    assert not NOISE.search(done.stderr), done.stderr
    printed = json.loads(done.stdout)
    assert printed["predicted"] == 8
    assert set(printed["failed"]) == {"scene_0002", "scene_0003"}
    rows = {row["name"]: row for row in rows_of(out)}
    assert len(rows) == len(rows_of(out)) == 10
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"scene_0002", "scene_0003"}
    assert rows["scene_0002"]["error"].startswith(str(after / "scene_0002.png"))
    assert rows["scene_0003"]["error"].startswith(str(after / "scene_0003.png"))
    assert len(list((out / "masks").iterdir())) == len(list((out / "probabilities").iterdir())) == 8
    require_report(out, 8)
    assert rows["scene_0003"]["error"].partition(": ")[2] in (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert here("report", out, "--json")[0] == 0
    require_report(out, 8)
    fractions = [float(row["changed_fraction"]) for row in rows.values() if row["status"] == "ok"]
    assert printed["mean_changed_fraction"] == pytest.approx(np.mean(fractions))

    shutil.copy(tiny_run.data / "A" / "scene_0003.png", before)
    shutil.copy(tiny_run.data / "B" / "scene_0002.png", after)
    call = ("predict", tiny_run.run / "model.keras", before, after, "--out", out, "--probabilities")
    status, text, err = here(*call, "--json")
    assert status == 0
    first = json.loads(text)
    assert (first["predicted"], first["failed"]) == (10, {})
    assert sorted(row["name"] for row in rows_of(out)) == sorted(rows)
    status, text, err = here(*call, "--json")
    assert (status, json.loads(text)) == (0, first), "with nothing left to do it says the same"
    for arguments, word in ((("--threshold", "0.9"), "options"), (("--tile", "64"), "options")):
        status, text, err = here(*call, *arguments)
        assert (status, text) == (2, "")
        require_one_line(err, out, word, "--overwrite")
    status, text, err = here("predict", tiny_run.run, after, before, "--out", out, "--probabilities")
    assert status == 2
    require_one_line(err, out, "inputs")
    status, text, err = here(*call, "--threshold", "0.9", "--overwrite", "--quiet")
    assert (status, err) == (0, "")
    assert json.loads((out / "prediction.json").read_text())["options"]["threshold"] == 0.9
    status, text, err = here("predict", tiny_run.run, before, after, "--out", tmp_path / "new", "--tile", "33")
    assert (status, text) == (2, "")
    require_one_line(err, "tile 33", "32 or 34")
    status, text, err = here("predict", tiny_run.run, before / "scene_0001.png", after, "--out", tmp_path / "new")
    assert status == 2
    require_one_line(err, before / "scene_0001.png", after)
    assert not (tmp_path / "new").exists()
    pair = (before / "scene_0001.png", after / "scene_0004.png")
    status, text, err = here("predict", tiny_run.run, *pair, "--out", tmp_path / "single")
    assert status == 0
    assert [path.name for path in (tmp_path / "single" / "masks").iterdir()] == ["scene_0004.png"]


def test_a_second_prediction_does_anew_what_changed_and_drops_what_is_gone(here, tiny_run, tmp_path):
    before, after, out = tmp_path / "before", tmp_path / "after", tmp_path / "out"
    names = ["scene_0000", "scene_0001", "scene_0002"]
    for source, folder in (("A", before), ("B", after)):
        folder.mkdir()
        for name in names:
            shutil.copy(tiny_run.data / source / f"{name}.png", folder)
    call = ("predict", tiny_run.run, before, after, "--out", out, "--quiet")
    assert here(*call)[0] == 0
    first = {row["name"]: row for row in rows_of(out)}
    written = {name: (out / "masks" / f"{name}.png").stat().st_mtime_ns for name in names}
    old = (after / "scene_0001.png").stat()
    image = np.array(Image.open(after / "scene_0001.png"))
    Image.fromarray(255 - image).save(after / "scene_0001.png")
    os.utime(after / "scene_0001.png", ns=(old.st_atime_ns, old.st_mtime_ns))  # as a copy that keeps its times
    for folder in (before, after):
        (folder / "scene_0002.png").unlink()
    assert here(*call)[0] == 0
    rows = {row["name"]: row for row in rows_of(out)}
    assert sorted(rows) == names[:2]
    assert rows["scene_0000"] == first["scene_0000"]
    assert (out / "masks" / "scene_0000.png").stat().st_mtime_ns == written["scene_0000"]
    assert (out / "masks" / "scene_0001.png").stat().st_mtime_ns > written["scene_0001"]


def test_shards_of_a_prediction_are_put_together(here, tiny_run, tmp_path):
    folders = (tiny_run.data / "A", tiny_run.data / "B")
    call = ("predict", tiny_run.run, *folders, "--json")
    assert here(*call, "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "out"
    left = []
    for shard in ("2/3", "3/3", "1/3"):
        status, text, _ = here(*call, "--out", out, "--shard", shard)
        assert status == 0
        printed = json.loads(text)
        assert printed["shard"] == shard
        left.append(printed["shards_left"])
    assert left == [["1/3", "3/3"], ["1/3"], []]

    def content(folder: Path) -> tuple:
        rows = sorted((row["name"], row["changed_pixels"], row["objects"], row["area"]) for row in rows_of(folder))
        features = json.loads((folder / "objects.geojson").read_text())["features"]
        masks = {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}
        return rows, sorted(map(json.dumps, features)), masks, json.loads((folder / "prediction.json").read_text())

    assert content(out) == content(tmp_path / "whole")
    status, text, _ = here(*call, "--out", out)
    assert (status, json.loads(text)["predicted"]) == (0, 10)
    assert content(out) == content(tmp_path / "whole"), "a run over all pairs takes the shards over"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard", "0/3"], ["--shard 0/3", "2/8"]),
        (["--shard", "4/3"], ["--shard 4/3"]),
        (["--shard", "third"], ["--shard third"]),
        (["--shard", "1/3", "--overwrite"], ["--overwrite", "out"]),
        (["--actors", "2"], ["--actors", "--engine ray"]),
        (["--engine", "ray"], ["pip install 'segdiff[ray]'"]),
    ],
)
def test_wrong_shards_and_engines_are_one_line(here, tiny_run, tmp_path, monkeypatch, options, words):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    call = ("predict", tiny_run.run, tiny_run.data / "A", tiny_run.data / "B", "--out", tmp_path / "out")
    status, text, err = here(*call, *options)
    assert (status, text) == (2, "")
    require_one_line(err, *words)
    assert not (tmp_path / "out").exists()


def test_what_may_not_be_read_is_named(here, tiny_run, tmp_path, monkeypatch):
    """As a user without rights meets it; that root may read everything is why it is asked of Python, not of files."""
    for source in ("A", "B"):
        shutil.copytree(tiny_run.data / source, tmp_path / source)
    locked, opened, listed = tmp_path / "B" / "scene_0003.png", io.open, os.scandir

    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", lambda path, *a, **k: (refuse if path == locked else opened)(path, *a, **k))
    monkeypatch.setattr(io, "open", lambda path, *a, **k: (refuse if path == locked else opened)(path, *a, **k))
    call = ("predict", tiny_run.run, tmp_path / "A", tmp_path / "B", "--out", tmp_path / "out")
    status, _, err = here(*call, "--quiet")
    assert status == 3
    require_one_line(err, locked, "Permission denied")
    rows = {row["name"]: row["error"] for row in rows_of(tmp_path / "out") if row["status"] == "failed"}
    assert set(rows) == {"scene_0003"}
    assert "Permission denied" in rows["scene_0003"]
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) if path == tmp_path / "A" else listed(path))
    status, text, err = here(*call)
    assert (status, text) == (1, "")
    require_one_line(err, tmp_path / "A", "cannot be listed: Permission denied", "chmod")


def test_overlay_refuses_what_does_not_lie_on_one_another(here, tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("before", 40), ("small", 30), ("after", 40)):
        Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "mask.png")
    files = {name: tmp_path / f"{name}.png" for name in ("before", "small", "after", "mask")}
    out = tmp_path / "x.png"
    status, _, err = here("overlay", files["small"], files["after"], files["mask"], "--out", out)
    assert status == 1
    require_one_line(err, files["small"], "30 x 30", "40 x 40")
    for name, west in (("g_before", 500000), ("g_after", 500100)):
        profile = {"driver": "GTiff", "width": 40, "height": 40, "count": 3, "dtype": "uint8", "crs": "EPSG:32650"}
        with rasterio.open(tmp_path / f"{name}.tif", "w", transform=from_origin(west, 0, 1, 1), **profile) as raster:
            raster.write(rng.integers(0, 255, (3, 40, 40), np.uint8))
    georeferenced = tmp_path / "g_before.tif", tmp_path / "g_after.tif"
    status, _, err = here("overlay", *georeferenced, files["mask"], "--out", out)
    assert status == 1
    require_one_line(err, *georeferenced)
    assert not out.exists()


def test_overlay_recognises_the_coding_over_the_whole_folder(here, tmp_path):
    stripes = {"p1": [0, 1, 255], "p2": [0, 0, 255]}
    for folder in ("A", "B", "M", "L"):
        (tmp_path / folder).mkdir()
    for name, values in stripes.items():
        truth = np.tile(np.repeat(np.array(values, np.uint8), 100), (200, 1))
        arrays = {"A": np.full((200, 300, 3), 90, np.uint8), "M": np.zeros_like(truth), "L": truth}
        arrays["B"] = arrays["A"]
        for folder, array in arrays.items():
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    folders = [tmp_path / name for name in ("A", "B", "M")]
    assert here("overlay", *folders, "--truth", tmp_path / "L", "--out", tmp_path / "o", "--quiet")[0] == 0

    def yellow(name: str) -> int:
        red, green, blue = picture_of(tmp_path / "o" / f"{name}.jpg")[:240].astype(int).transpose(2, 0, 1)
        return int(((red - blue > 80) & (green - blue > 60)).sum())

    assert yellow("p1") > 10_000, "class 1, which the mask does not hold, is missed"
    assert yellow("p2") < 1_000, "255 is no truth, in this mask as in the other"


def write_tiff(path: Path, array: np.ndarray, **options) -> Path:
    """`array` is bands x H x W."""
    bands, height, width = array.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": array.dtype.name}
    with rasterio.open(path, "w", **profile, **options) as raster:
        raster.write(array)
    return path


@pytest.fixture
def sensor(tmp_path):
    """Before, after and mask of 170 x 200 pixels: five bands of 16 bits in an odd range, and three classes."""
    rng = np.random.default_rng(0)
    before, after = (rng.integers(3000, 9000, (5, 170, 200)).astype(np.uint16) for _ in range(2))
    mask = np.zeros((170, 200), np.uint8)
    mask[40:60, 50:90], mask[100:120, 50:90] = 1, 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = (
        write_tiff(tmp_path / "before.tif", before),
        write_tiff(tmp_path / "after.tif", after),
        tmp_path / "mask.png",
    )
    return files, before, after, mask


def test_overlay_shows_any_bands_with_a_style_names_and_probabilities(here, sensor, tmp_path):
    from segdiff.visualization.overlays import overlay

    files, before, after, mask = sensor
    shown = [np.moveaxis(image, 0, 2) for image in (before, after)]
    out = tmp_path / "x.png"
    assert here("overlay", *files, "--out", out) == (0, f"drawing: 1 of 1 pairs\n{out}\n", "")
    first = [image[..., :3] for image in shown]
    np.testing.assert_array_equal(picture_of(out), overlay(*first, mask))
    likely = np.random.default_rng(1).random((1, 170, 200)).astype(np.float32)
    heat = write_tiff(tmp_path / "heat.tif", likely)
    status, _, err = here(
        "overlay", *files, "--out", out, "--bands", "4,3,2", "--style", "contour", "--classes", "none,a hole,a spur",
        "--probability", heat,
    )  # fmt: skip
    assert (status, err) == (0, "")
    chosen = [image[..., [3, 2, 1]] for image in shown]
    names = ["none", "a hole", "a spur"]
    expected = overlay(*chosen, mask, style="contour", classes=names, probability=likely[0])
    np.testing.assert_array_equal(picture_of(out), expected)
    assert here("overlay", *files, "--out", out, "--bands", "5", "--truth", files[2])[0] == 0
    alone = [image[..., 4:] for image in shown]
    np.testing.assert_array_equal(picture_of(out), overlay(*alone, mask, mask))


def test_overlay_blinks_in_a_gif(here, sensor, tmp_path):
    from segdiff.visualization.palettes import CLASS_COLORS, OUTCOME_COLORS

    files = sensor[0]
    for truth, colors in (([], CLASS_COLORS[:2]), (["--truth", files[2]], [OUTCOME_COLORS[4]])):
        assert here("overlay", *files, *truth, "--out", tmp_path / "x.gif")[0] == 0
        with Image.open(tmp_path / "x.gif") as gif:
            assert gif.n_frames == 2
            frames = [(gif.seek(index), np.array(gif.convert("RGB")))[1] for index in range(2)]
        assert not np.array_equal(*frames)
        for color in colors:
            assert all(np.count_nonzero(np.all(frame == color, axis=-1)) > 200 for frame in frames)


def test_overlay_of_a_large_raster_is_an_overview_that_loses_no_change(here, tmp_path):
    """Each row of blocks is read by itself; what lies in one pixel of the overview is compared before it is merged."""
    side = 4200
    image = np.full((1, side, side), 90, np.uint8)
    mask, truth = np.zeros((2, 1, side, side), np.uint8)
    mask[0, 3000, 1500] = truth[0, 1000, 2500] = 255
    mask[0, 2001, 2001] = truth[0, 2001, 2002] = 255  # beside each other, in one pixel: no true change
    options = {"tiled": True, "compress": "deflate"}
    names = {"before": image, "after": image, "mask": mask, "truth": truth}
    files = {name: write_tiff(tmp_path / f"{name}.tif", array, **options) for name, array in names.items()}
    call = ["overlay", files["before"], files["after"], files["mask"], "--out", tmp_path / "x.png"]
    assert here(*call)[0] == 0

    def change() -> np.ndarray:
        """The third panel: every third pixel a side, beneath a caption 64 high, between gutters of 21."""
        page = picture_of(tmp_path / "x.png")
        assert page.shape[1] == 3 * 1400 + 4 * 21
        return page[64:1464, -1421:-21].astype(int)

    rows, columns = np.nonzero(np.all(change() == (255, 110, 0), axis=-1))
    for row, column in ((1000, 500), (667, 667)):
        near = (abs(rows - row) < 6) & (abs(columns - column) < 6)
        assert (rows[near].mean(), columns[near].mean()) == (row, column)
    assert here(*call, "--truth", files["truth"])[0] == 0
    marked = change()
    assert np.argwhere(np.ptp(marked, axis=-1) > 60).tolist() == [[333, 833], [667, 667], [1000, 500]]
    assert (marked[..., 2] <= marked[..., 0]).all(), "nothing that was found is true"


def test_overlay_refuses_what_it_cannot_show(here, sensor, tmp_path):
    (before, after, mask), *_ = sensor
    out = tmp_path / "x.png"
    heat = write_tiff(tmp_path / "heat.tif", np.full((1, 170, 200), 7, np.float32))
    small = write_tiff(tmp_path / "small.tif", np.zeros((1, 17, 20), np.float32))
    for arguments, status, words in (
        (["--bands", "4,3"], 2, ["--bands 4,3", "4,3,2"]),
        (["--bands", "0,1,2"], 2, ["--bands 0,1,2"]),
        (["--bands", "²"], 2, ["--bands ²", "4,3,2"]),
        (["--bands", "9" * 5000], 2, ["--bands 99", "4,3,2"]),
        (["--bands", "7"], 1, [before, "no band 7", "1..5"]),
        (["--classes", "none,a"], 2, ["--classes", "2 names", "3 classes"]),
        (["--style", "line"], 2, ["--style", "contour"]),
        (["--probability", heat], 1, [heat, "from 7 to 7", "0..1"]),
        (["--probability", small], 1, [small, "20 x 17", "200 x 170"]),
        (["--probability", tmp_path / "none.tif"], 2, ["none.tif"]),
        (["--probability", heat, "--out", tmp_path / "x.gif"], 2, ["x.gif", "--probability"]),
    ):
        code, _, err = here("overlay", before, after, mask, "--out", out, "-q", *arguments)
        assert code == status, (arguments, err)
        require_one_line(err, *words)
    assert not out.exists()
    assert not (tmp_path / "x.gif").exists()


def test_evaluate_refuses_a_model_of_other_bands_at_once(here, tiny_run, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("A", "B", "label"):
        (tmp_path / "six" / folder).mkdir(parents=True)
    for folder in "AB":
        profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 6, "dtype": "uint8"}
        with rasterio.open(tmp_path / "six" / folder / "x.tif", "w", **profile) as raster:
            raster.write(rng.integers(0, 255, (6, 64, 64), np.uint8))
    Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8) * 255).save(tmp_path / "six" / "label" / "x.png")
    status, out, err = here("evaluate", tiny_run.run, tmp_path / "six", "--quiet")
    assert (status, out) == (2, "")
    require_one_line(err, "6 bands", "takes 3")


def test_an_exported_model_is_a_model(segdiff_command, here, tiny_run, tmp_path):
    """Quiet where TensorFlow's converter and interpreter are not; a folder of something else is not written over."""
    out = tmp_path / "exported"
    call = ["export", tiny_run.run, "--format", "tflite", "--out", out, "--data", tiny_run.data]
    done = segdiff_command(*call, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["format"], said["precision"], said["tile"], said["pairs"]) == ("tflite", "float16", 32, 10)
    assert said["equal_masks"] >= 0.999
    assert said["f1"] == pytest.approx(said["f1_model"], abs=1e-3)
    assert json.loads((out / "manifest.json").read_text())["checked"]["f1"] == said["f1"]
    scored = segdiff_command("evaluate", out, tiny_run.data, "--split", "all", "--json", "--quiet")
    assert (scored.returncode, scored.stderr) == (0, "")
    assert json.loads(scored.stdout)["f1"] == pytest.approx(said["f1"], abs=1e-6)

    status, _, err = here(*call)
    assert status == 2
    require_one_line(err, out, "--overwrite")
    status, printed, _ = here("evaluate", out / "manifest.json", tiny_run.data, "--split", "all", "--json", "--quiet")
    assert (status, json.loads(printed)["f1"]) == (0, json.loads(scored.stdout)["f1"])
    for exported in (out, out / "manifest.json"):
        status, _, err = here("export", exported, "--format", "tflite", "--out", tmp_path / "again")
        assert status == 2
        require_one_line(err, exported, "is an exported model already")
    status, _, err = here("export", tiny_run.run, "--format", "tflite", "--out", tiny_run.data, "--overwrite")
    assert status == 2
    require_one_line(err, tiny_run.data, "holds no exported model")
    assert (tiny_run.data / "A").is_dir()
    faulty = plant_faults(copy_of(tiny_run.data, tmp_path / "faulty"))
    call = ("export", tiny_run.run, "--format", "tflite", "--out", tmp_path / "none", "--data", tmp_path / "faulty")
    status, printed, err = here(*call)
    assert (status, err.count(str(faulty[0]))) == (1, 1)
    assert "converting" not in printed, "what is refused is not begun"


def test_int8_that_costs_f1_is_refused_and_leaves_nothing(here, tmp_path):
    """True are the few pixels that the network itself is surest of: in 8 bits it loses some and takes others."""
    data, model = tmp_path / "data", tmp_path / "model.keras"
    write_scenes(data, 4, 64, 5)
    keras.utils.set_random_seed(5)
    network = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(4, 8))), bands=3, classes=1)
    names = [f"scene_{number:04d}.png" for number in range(4)]

    def save(threshold: float) -> dict[str, Prediction]:
        network.settings = Settings(threshold=threshold, tile=32, overlap=8, stride=network.settings.stride)
        network.save(model)
        detector = load(model, runtime="tensorflow", precision="float32")
        return {name: detector.predict(data / "A" / name, data / "B" / name) for name in names}

    found = np.sort(np.concatenate([one.probability.ravel() for one in save(0.5).values()]))
    place = int(0.995 * found.size)
    for name, one in save(float(found[place - 1 : place + 1].mean())).items():
        Image.fromarray(one.mask * np.uint8(255)).save(data / "label" / name)
    there = set(tmp_path.iterdir())
    call = ("export", model, "--format", "tflite", "--data", data, "--out", tmp_path / "out", "--quiet", "--precision")
    status, out, err = here(*call, "int8")
    assert (status, out) == (4, "")
    require_one_line(err, "segdiff: not written: F1 on 4 of the 4 pairs in", "from 1.0000 to 0.", "0.005 is allowed")
    assert set(tmp_path.iterdir()) == there
    assert here(*call, "float16")[0] == 0


def test_an_evaluation_folder_is_kept_from_other_options_and_a_broken_one_is_named(here, tiny_run, tmp_path):
    out = tmp_path / "out"
    call = ("evaluate", tiny_run.run, tiny_run.data, "--split", "val", "--out", out, "--quiet")
    assert here(*call)[0] == 0
    summary = (out / "summary.csv").read_bytes()
    status, _, err = here(*call, "--ignore", "7")
    assert status == 2
    require_one_line(err, out, "options", "--overwrite")
    assert (out / "summary.csv").read_bytes() == summary
    (out / "prediction.json").write_text("{half")
    status, _, err = here(*call)
    assert status == 2
    require_one_line(err, out / "prediction.json", "broken", "--overwrite")


def wait_for(process: subprocess.Popen, what) -> None:
    end = time.monotonic() + 500
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def start(*arguments: object) -> subprocess.Popen:
    script = Path(sys.executable).with_name("segdiff")
    return subprocess.Popen(
        [str(script), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def test_a_killed_prediction_goes_on(segdiff_command, tiny_run, tmp_path):
    names = [f"tile {number:02d}" for number in range(30)]
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        big = np.kron(picture_of(tiny_run.data / folder / "scene_0000.png"), np.ones((4, 4, 1), np.uint8))
        for number, name in enumerate(names):
            Image.fromarray(np.roll(big, number, axis=1)).save(tmp_path / folder / f"{name}.png")
    out = tmp_path / "out"
    call = ("predict", tiny_run.run, tmp_path / "A", tmp_path / "B", "--out", out)
    process = start(*call)
    wait_for(process, lambda: (out / "summary.csv").exists() and len(rows_of(out)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {row["name"] for row in rows_of(out) if row["area_unit"]}
    assert 2 <= len(done) < 30, "killed in the middle"
    assert not (out / "objects.geojson").exists()
    kept = {name: (out / "masks" / f"{name}.png").stat().st_mtime_ns for name in done}
    again = segdiff_command(*call, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["predicted"] == 30
    require_report(out, 30)
    rows = rows_of(out)
    assert sorted(row["name"] for row in rows) == names
    assert {name: (out / "masks" / f"{name}.png").stat().st_mtime_ns for name in done} == kept
    assert sorted(path.name for path in (out / "masks").iterdir()) == [f"{name}.png" for name in names]
    features = json.loads((out / "objects.geojson").read_text())["features"]
    for row in rows:
        here = [item for item in features if item["properties"]["pair"] == row["name"]]
        assert len(here) == int(row["objects"])
        assert sum(item["properties"]["area"] for item in here) == int(row["changed_pixels"])
    assert len(features) == sum(int(row["objects"]) for row in rows) > 0


def test_a_training_that_is_stopped_and_killed_ends_as_the_unbroken_one(here, tiny_run, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = [f"data.root={tiny_run.data}", "train.epochs=2", "train.crops_per_epoch=48", "train.backup_steps=1"]
    settings += ["train.ema=0.9", "model.encoder.dropout=0.2"]
    call = ("train", tiny_run.config, *(part for setting in settings for part in ("--set", setting)), "--out")
    status, _, err = here(*call, whole)
    assert status == 0, err

    stops = (  # SIGTERM, which differs from SIGINT by its word and number: tests/training/test_distributed_runs.py
        (signal.SIGINT, 130, "segdiff: interrupted\n", "step-00000-*", ()),
        (signal.SIGKILL, -signal.SIGKILL, "", "step-00001-*", ("--resume",)),
    )
    for number, status, line, stored, arguments in stops:
        process = start(*call, run, *arguments)
        wait_for(process, lambda stored=stored: any((run / "backup").glob(stored)))
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (status, line)
        assert not (run / "metrics.json").exists()
        newest = max(path.name for path in (run / "backup").glob("step-*"))
        assert newest.startswith(stored[:-1])
        assert newest != f"{stored[:-1]}0000012", "stopped within an epoch"
    assert "going on at epoch 1 of 2, " in out

    status, _, err = here(*call, run, "--set", "train.crops_per_epoch=32", "--resume")
    assert status == 2
    require_one_line(err, "train.crops_per_epoch was 48 and is 32")
    status, out, err = here(*call, run, "--resume", "--json")
    assert status == 0, err
    assert "going on at epoch 2 of 2, " in err
    assert json.loads(out)["epochs"] == 2
    for ours, theirs in zip(*(load_model(folder).get_weights() for folder in (run, whole)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    rows = []
    for folder in (run, whole):
        with (folder / "history.csv").open(newline="") as stream:
            rows.append(list(csv.DictReader(stream)))
    assert [float(row["epoch"]) for row in rows[0]] == [1, 2]
    for ours, theirs in zip(*rows, strict=True):
        for key in ("loss", "f1", "val_loss", "val_f1", "learning_rate"):
            assert float(ours[key]) == pytest.approx(float(theirs[key]), abs=1e-5), key


def test_the_demo_replaces_nothing_that_a_demo_did_not_provably_make(here, tmp_path):
    def folder(name: str, *files: str) -> Path:
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file)
        return tmp_path / name

    mark, image = f"data/{demo.MARK}", "data/A/scene_0000.png"
    (tmp_path / "no image" / "data" / "A").mkdir(parents=True)
    refused = {
        folder("no image", "data/notes.txt"): "nothing tells that a demo made it",
        folder("synth", image, "model.keras", "config.yaml"): "nothing tells that a demo made it",
        folder("another run", mark, image, "model.keras", "config.yaml"): "nothing tells that a demo made it",
        folder(
            "another model", mark, image, "model.keras"
        ): f"{tmp_path / 'another model' / 'model.keras'}: is not the",
        folder("own notes", mark, image, "notes.txt"): f"{tmp_path / 'own notes' / 'notes.txt'}: is not the demo's",
        folder("own image", mark, image, "data/A/x.png"): f"{tmp_path / 'own image' / 'data' / 'A' / 'x.png'}: is not",
        folder("a file", "file") / "file": "is a file",
    }
    before = sorted(tmp_path.rglob("*"))
    for out, line in refused.items():
        status, said, err = here("demo", "--out", out, "--overwrite")
        assert (status, said) == (WRONG_CALL, "")
        require_one_line(err, line)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_demo_knows_its_own_whole_or_interrupted(here, tiny_run, tmp_path):
    """A run and its data, as the demo makes them, of fewer pairs and epochs."""
    out, data = tmp_path / "out", tmp_path / "out" / "data"
    (out / ".data.unfinished" / "new" / "A").mkdir(parents=True)  # killed while it drew
    demo.require_free(out, overwrite=False)
    shutil.copytree(tiny_run.data, data)
    config = load_config(tiny_run.config, [f"data.root={json.dumps(str(tiny_run.data.resolve()))}"])
    (data / demo.MARK).write_text(dump_config(config), encoding="utf-8")
    status, _, err = here("demo", "--out", out)
    assert status == WRONG_CALL
    require_one_line(err, out, "--overwrite")
    demo.require_free(out, overwrite=True)
    shutil.copytree(tiny_run.run, out, dirs_exist_ok=True)
    (out / ".model.0a1b.part.keras").touch()
    demo.require_free(out, overwrite=True)
    demo.remove_run(out)
    assert sorted(path.name for path in out.iterdir()) == [".data.unfinished", "data"]


@pytest.mark.slow
def test_the_demo(segdiff_command, tmp_path):
    out = tmp_path / "a demo"
    done = segdiff_command("demo", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["f1"] >= 0.85
    assert (out / "model.keras").is_file()
    assert all(Path(path).exists() for path in scores["files"].values())
    again = segdiff_command("demo", "--out", out)
    assert again.returncode == 2
    require_one_line(again.stderr, out, "--overwrite")


def test_predict_of_a_converted_model_imports_no_tensorflow(tiny_run, tmp_path):
    call = ["predict", tiny_run.run, tiny_run.data / "A", tiny_run.data / "B", "--quiet", "--out"]

    def predict(out: Path) -> tuple[bool, str]:
        """Whether TensorFlow was imported, and what was said."""
        code = (
            "import sys; from segdiff import cli\n"
            f"sys.argv = ['segdiff', *{[str(part) for part in call]!r}, {str(out)!r}]\n"
            "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code is None or end.code == 0, end.code\n"
            "sys.exit(7 * bool({'tensorflow', 'keras'} & set(sys.modules)))\n"
        )
        environment = {**os.environ, "SEGDIFF_CACHE": str(tmp_path / "cache")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.returncode in (0, 7), done.stderr
        return done.returncode == 7, done.stderr

    # the first time it is converted, for which Keras is needed
    assert [predict(tmp_path / name) for name in ("first", "second")] == [(True, ""), (False, "")]
    for name in ("masks/scene_0003.png", "objects.geojson"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    (network,) = (tmp_path / "cache" / "openvino").glob("*/model.bin")
    network.write_bytes(network.read_bytes()[:-4])
    imported, said = predict(tmp_path / "third")
    assert imported
    assert said == f"{network.parent}: this converted model is damaged or may not be read, it is made anew\n"


def test_how_the_probabilities_were_made_is_part_of_the_job(here, tiny_run, tmp_path):
    pair = (tiny_run.data / "A" / "scene_0003.png", tiny_run.data / "B" / "scene_0003.png")
    out = tmp_path / "out"
    call = ("predict", tiny_run.run, *pair, "--out", out, "--probabilities", "--precision", "float32", "--quiet")
    assert here(*call, "--runtime", "openvino")[0] == 0
    assert json.loads((out / "prediction.json").read_text())["options"]["runtime"].startswith("OpenVINO in float32")
    for other in (("--tta", "d4"), ("--ensemble", tiny_run.run), ("--runtime", "tensorflow")):
        status, _, err = here(*call, *other)
        assert (status, "options differ" in err) == (2, True), err
    assert here(*call, "--tta", "d4", "--ensemble", tiny_run.run, "--runtime", "tensorflow", "--overwrite")[0] == 0
    options = json.loads((out / "prediction.json").read_text())["options"]
    assert (options["tta"], options["runtime"], len(options["ensemble"])) == ("d4", "TensorFlow in float32", 1)
    status, _, err = here(*call, "--ensemble", tmp_path / "none.keras", "--overwrite")
    assert status == 2
    require_one_line(err, "none.keras")


def test_what_a_model_turns_of_itself_is_said_and_can_be_left_out(here, tiny_run, tmp_path):
    network, model, out = load_model(tiny_run.run), tmp_path / "turning.keras", tmp_path / "out"
    network.settings = replace(network.settings, mask_offset=(1, -1), test_time_augmentation="d4")
    save_detector(network, model)
    pair = [tiny_run.data / folder / "scene_0003.png" for folder in "AB"]
    call = ("predict", model, *pair, "--out", out, "--probabilities", "--precision", "float32")

    def predicted() -> tuple[str | None, np.ndarray]:
        tta = json.loads((out / "prediction.json").read_text())["options"]["tta"]
        with rasterio.open(out / "probabilities" / "scene_0003.tif") as stored:
            return tta, stored.read(1)

    def expected(model: Path, **options) -> np.ndarray:
        return load(model, precision="float32", **options).predict(*pair).probability

    status, printed, err = here(*call, "--json")
    assert (status, json.loads(printed)["tta"]) == (0, "d4")
    tta, turned = predicted()
    assert tta == "d4"
    np.testing.assert_allclose(turned, expected(model), atol=1e-6)
    np.testing.assert_allclose(turned, expected(model, test_time_augmentation="d4"), atol=1e-6)
    status, printed, err = here(*call, "--tta", "d4")
    assert (status, "done already: 1" in printed + err) == (0, True), "the same job, asked for or not"
    assert "eight times the work" in printed + err
    status, _, err = here(*call, "--tta", "none", "--quiet")
    assert (status, "options differ" in err) == (2, True)
    status, printed, err = here(*call, "--tta", "none", "--overwrite")
    assert (status, "eight times" in printed + err) == (0, False)
    tta, plain = predicted()
    assert tta is None
    np.testing.assert_allclose(plain, expected(model, test_time_augmentation="none"), atol=1e-6)
    np.testing.assert_allclose(plain, expected(tiny_run.run), atol=1e-6)
    assert np.abs(plain - turned).max() > 1e-3
    assert here(*call, "--tta", "d8")[0] == 2
