"""The pool of actors: on a real cluster whose nodes die, and on one that is written here, for what is rare."""

import csv
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest
from PIL import Image

from data_pipelines.layouts import Pair
from data_pipelines.pair_index import PairIndex
from segdiff.config import EncoderConfig, ModelConfig
from segdiff.inference import ray_engine
from segdiff.inference.folder import Job, PredictionFolder
from segdiff.inference.folder_run import DetectorPlan, LocalEngine, Tally, fill_folder
from segdiff.inference.pair_writer import PairWriter, WrittenPair
from segdiff.inference.predictor import FailedPair
from segdiff.inference.ray_engine import Described, LostWorkersError, PoolSize, RayEngine, RayError, open_ray_engine
from segdiff.model_files import ModelError, PostProcessing, Settings
from segdiff.models.architectures import build_change_detector
from segdiff.models.loading import load_model
from segdiff.training.callbacks import save_detector
from segdiff.visualization.overlays import overlay
from segdiff.visualization.pictures import write_image


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    keras.utils.set_random_seed(5)
    config = ModelConfig(encoder=EncoderConfig(channels=(4, 8), norm="none"))
    detector = build_change_detector(config, bands=3, classes=1)
    detector.settings = replace(detector.settings, tile=64, overlap=16)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_detector(detector, path)
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for folder in ("vor", "nach"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            small = random.integers(0, 256, (6, 8, 3), np.uint8)
            image = small.repeat(8, axis=0).repeat(8, axis=1)
            Image.fromarray(image).save(tmp_path / folder / f"tile {number:02d}.png")
    (tmp_path / "nach" / "tile 07.png").write_bytes(b"broken")
    (tmp_path / "vor" / "tile 08.png").unlink()
    return tmp_path


def predict_here(model: Path, images: Path, out: Path) -> Tally:
    """By the engine of this process."""
    options = {"threshold": None, "tile": None, "overlap": None, "resolution": None}
    engine = LocalEngine(DetectorPlan(str(model), "openvino", options=options).load(), options)
    with PairIndex(images / "vor", images / "nach") as index:
        folder = PredictionFolder(
            out, Job(model, {}, {}), classes=engine.settings.classes, draw=overlay, write_image=write_image
        )
        with folder:
            return fill_folder(
                folder, index, engine, on_progress=lambda done, of: None, on_failure=lambda problem: None
            )


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    by_name = {row.pop("name"): row for row in rows}
    assert len(by_name) == len(rows), "each pair once"
    for row in rows:
        row.pop("seconds")
    return by_name


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'segdiff[ray]'")
def test_a_node_that_dies_in_mid_run_loses_and_doubles_nothing(model, images, tmp_path):
    here, there, signals = tmp_path / "here", tmp_path / "there", tmp_path / "signals"
    signals.mkdir()
    alone = predict_here(model, images, here)
    call = ("predict", model, images / "vor", images / "nach", "--out", there, "--runtime", "openvino", "--json")
    command = [sys.executable, Path(__file__).with_name("ray_job.py"), signals, *call]
    together = subprocess.run(
        [*map(str, command), "--engine", "ray", "--cpus-per-actor", "1"], capture_output=True, text=True, timeout=300
    )
    assert together.returncode == 3, together.stderr
    assert "a worker died" in together.stderr
    assert "state-dump" not in together.stderr, "what Ray prints is for developers"
    assert len(list(signals.iterdir())) == 3, "the node died while both actors were in the middle of a pair"
    told = json.loads(together.stdout)
    assert (told["predicted"], told["failed"]) == (alone.predicted, alone.errors)
    assert (alone.predicted, set(alone.errors)) == (38, {"tile 07", "tile 08"})
    assert rows_of(there) == rows_of(here)
    for folder in ("masks", "overlays"):
        files = {path.name: path.read_bytes() for path in (here / folder).iterdir()}
        assert len(files) == 38
        assert {path.name: path.read_bytes() for path in (there / folder).iterdir()} == files
    features = [json.loads((out / "objects.geojson").read_text())["features"] for out in (here, there)]
    assert len(features[0]) == sum(int(row["objects"] or 0) for row in rows_of(here).values()) > 100
    ordered = [sorted(map(json.dumps, some)) for some in features]
    assert ordered[0] == ordered[1]
    assert {path.name for path in there.iterdir()} == {
        "masks", "overlays", "objects.geojson", "summary.csv", "prediction.json", "report", "report.html"
    }  # fmt: skip


class FakeRay:
    """A cluster in this process: actors answer when they are waited for, and die when they are told to."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause: Exception):
                self.cause = cause

    def __init__(self, machines: list[dict[str, float]], worker: type):
        self._machines, self._worker = machines, worker
        self.running: list[tuple[object, object]] = []
        self.started: list[dict] = []
        self.most = 0

    def nodes(self):
        return [{"Alive": True, "Resources": resources} for resources in self._machines]

    def put(self, item):
        return item

    def kill(self, handle):
        handle.dead = True

    def remote(self, cls):
        cluster = self

        class Method:
            def __init__(self, actor, name):
                self.actor, self.name = actor, name

            def remote(self, *arguments):
                reference = object()
                self.actor.calls.append((reference, self.name, arguments))
                waiting = sum(name == "predict" for _, name, _ in self.actor.calls)
                cluster.most = max(cluster.most, waiting)
                return reference

        class Actor:
            def __init__(self):
                self.worker, self.calls, self.dead, self.answers = cluster._worker(), [], False, {}

            def __getattr__(self, name):
                return Method(self, name)

        class Class:
            def options(self, **options):
                cluster.options = options
                return self

            def remote(self):
                actor = Actor()
                cluster.started.append(actor)
                return actor

        return Class()

    def wait(self, references, num_returns, timeout):
        return references[:num_returns], references[num_returns:]

    def get(self, wanted):
        (actor,) = [one for one in self.started if any(reference is wanted for reference, *_ in one.calls)]
        reference, name, arguments = actor.calls.pop(0)
        assert reference is wanted, "an actor answers in order"
        assert not actor.dead
        try:
            return getattr(actor.worker, name)(*arguments)
        except DiesError as error:
            actor.dead = True
            raise self.exceptions.RayError("the actor died\nSIGKILL") from error
        except Exception as error:
            raise self.exceptions.RayTaskError(error) from error


class DiesError(Exception):
    """What ends an actor."""


class Worker:
    """Answers without a network; some pairs are its death."""

    deadly: tuple[str, ...] = ()
    answered: ClassVar[list[str]] = []

    def prepare(self, plan, threads):
        return Described(Settings(), "fake", PostProcessing(), False, ("0",), "1")

    def predict(self, writer, pairs):
        assert len(pairs) == 1 or not any(pair.after.suffix == ".tif" for pair in pairs), "a raster goes alone"
        for pair in pairs:
            assert pair.before.is_absolute()
            if pair.name in self.deadly:
                raise DiesError
        self.answered += [pair.name for pair in pairs]
        return [WrittenPair({"name": pair.name}, Path("features")) for pair in pairs]


WRITER = PairWriter(Path("out"), ("background", "change"), overlay, write_image, Path("loose"))
FOUR = [{"CPU": 4.0}, {"CPU": 5.0}, {"CPU": 1.0}]


def engine_of(ray: FakeRay, model: Path, size: PoolSize | None = None, said: list[str] | None = None) -> RayEngine:
    lines: list[str] = [] if said is None else said
    return RayEngine(ray, DetectorPlan(str(model)), size or PoolSize(), lines.append)


def pairs_of(count: int, suffix: str = ".png"):
    for number in range(count):
        yield Pair(f"{number:03d}", Path(f"a/{number:03d}{suffix}"), Path(f"b/{number:03d}{suffix}"), None, "all")


def names_of(results) -> list[str]:
    return [result.row["name"] if isinstance(result, WrittenPair) else result.pair.name for result in results]


@pytest.mark.parametrize(("own", "asked"), [("d4", None), ("d4", "none")])
def test_the_actors_say_whether_they_turn(model, tmp_path, own, asked):
    network = load_model(model)
    network.settings = replace(network.settings, test_time_augmentation=own)
    save_detector(network, tmp_path / "own.keras")
    options = {"threshold": None, "tile": None, "overlap": None}
    plan = DetectorPlan(str(tmp_path / "own.keras"), "openvino", test_time_augmentation=asked, options=options)
    engine = RayEngine(FakeRay([{"CPU": 2.0}], ray_engine.Worker), plan, PoolSize(), print)
    assert engine.test_time_augmentation == (own if asked is None else asked)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pairs_are_drawn_no_faster_than_they_are_predicted(model, suffix):
    ray = FakeRay(FOUR, Worker)
    engine, drawn = engine_of(ray, model), 0
    assert len(ray.started) == 4, "two on each of the larger machines, at two cores"
    assert ray.options == {"num_cpus": 2, "num_gpus": 0, "max_restarts": 0, "scheduling_strategy": "SPREAD"}

    def counted():
        nonlocal drawn
        for pair in pairs_of(1000, suffix):
            drawn += 1
            yield pair

    at_once = 8 if suffix == ".png" else 1
    for taken, _ in enumerate(engine.predict(WRITER, counted(), lambda rows, of: None), start=1):
        assert drawn <= taken + (4 * 2 + 1) * at_once
    assert (taken, drawn, ray.most) == (1000, 1000, 2)


def test_a_pair_that_kills_its_actors_fails_and_all_others_are_done_once(model):
    class Deadly(Worker):
        deadly = ("013", "050")
        answered: ClassVar[list[str]] = []

    ray, said = FakeRay(FOUR, Deadly), []
    engine = engine_of(ray, model, said=said)
    results = list(engine.predict(WRITER, pairs_of(60), lambda rows, of: None))
    assert sorted(names_of(results)) == [pair.name for pair in pairs_of(60)]
    failed = [result for result in results if isinstance(result, FailedPair)]
    assert sorted(names_of(failed)) == ["013", "050"]
    assert all("worker died 3 times" in result.error for result in failed)
    assert said == ["a worker died; its pairs are given to others"] * 6
    engine.close()
    assert all(actor.dead for actor in ray.started)
    assert len(ray.started) == 4 + 6


def test_a_cluster_whose_actors_all_die_ends_the_run(model):
    class Dying(Worker):
        def predict(self, writer, pairs):
            raise DiesError

    engine = engine_of(FakeRay([{"CPU": 2.0}], Dying), model)
    with pytest.raises(LostWorkersError, match=r"actors die one after the other, 7 since .*: SIGKILL"):
        list(engine.predict(WRITER, pairs_of(100), lambda rows, of: None))


def test_what_an_actor_raises_ends_the_run(model):
    class Full(Worker):
        def predict(self, writer, pairs):
            raise OSError(28, "No space left on device", "out")

    engine = engine_of(FakeRay(FOUR, Full), model)
    with pytest.raises(OSError, match="No space left"):
        list(engine.predict(WRITER, pairs_of(10), lambda rows, of: None))

    class NoModel(Worker):
        def prepare(self, plan, threads):
            raise ModelError(f"{plan.model}: is not on this machine")

    with pytest.raises(ModelError, match="not on this machine"):
        engine_of(FakeRay(FOUR, NoModel), model)


def test_machines_that_compute_differently_are_refused(model):
    class Different(Worker):
        made = 0

        def prepare(self, plan, threads):
            Different.made += 1
            kind = "bfloat16" if Different.made % 2 else "float32"
            return replace(super().prepare(plan, threads), runtime=f"OpenVINO in {kind}")

    with pytest.raises(RayError, match=r"differ in runtime \(OpenVINO in float32 on one, OpenVINO in bfloat16 on"):
        engine_of(FakeRay(FOUR, Different), model)


@pytest.mark.parametrize(
    ("machines", "size", "actors", "gpus"),
    [
        ([{"CPU": 8.0, "GPU": 3.0}], PoolSize(), 3, 1),
        ([{"CPU": 8.0, "GPU": 1.0}], PoolSize(gpus=0.5), 2, 0.5),
        ([{"CPU": 8.0, "GPU": 1.0}], PoolSize(gpus=0), 4, 0),
        ([{"CPU": 8.0}, {"CPU": 3.0}], PoolSize(cpus=3), 3, 0),
        ([{"CPU": 8.0}], PoolSize(actors=9), 9, 0),
    ],
)
def test_there_are_as_many_actors_as_have_room(model, machines, size, actors, gpus):
    ray = FakeRay(machines, Worker)
    engine_of(ray, model, size)
    assert (len(ray.started), ray.options["num_gpus"]) == (actors, gpus)


def test_a_cluster_without_room_is_refused(model):
    with pytest.raises(RayError, match=r"no machine with 4 CPUs and 0 GPUs.*--cpus-per-actor"):
        engine_of(FakeRay([{"CPU": 2.0}, {"CPU": 3.0}], Worker), model, PoolSize(cpus=4))


def test_without_ray_the_command_to_install_it_is_said(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(RayError, match=r"pip install 'segdiff\[ray\]'"),
        open_ray_engine(DetectorPlan(str(model)), PoolSize()),
    ):
        pass
