"""The prediction folder: what it holds, and that a run which was cut off goes on."""

import csv
import json
import pickle
import shutil
import tracemalloc
from collections import Counter
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import cv2
import keras
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin
from shapely.geometry import shape

from data_pipelines.layouts import DataError, match_pairs
from data_pipelines.pair_index import PairIndex, Part
from segdiff.config import EncoderConfig, ModelConfig
from segdiff.inference.books import Ledger, whole_books
from segdiff.inference.folder import COLUMNS, FolderError, Job, PredictionFolder
from segdiff.inference.objects import read_geojson
from segdiff.inference.predictor import Detector, FailedPair, PredictedRaster, predict_pairs, stream_pairs
from segdiff.inference.runtimes import keras_network
from segdiff.models.architectures import build_change_detector
from segdiff.training.callbacks import save_detector
from segdiff.visualization.overlays import overlay
from segdiff.visualization.pictures import write_image


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, Detector]:
    """A binary detector and one of four classes, saved and with random weights."""
    detectors = {}
    for classes in (1, 4):
        keras.utils.set_random_seed(classes)
        config = ModelConfig(encoder=EncoderConfig(channels=(4, 8), norm="none"))
        model = build_change_detector(config, bands=3, classes=classes)
        path = tmp_path_factory.mktemp("models") / f"{classes}.keras"
        # a threshold that parts the pixels in halves: masks of many regions
        answer = Detector(keras_network(model, path, "float32")).predict(blobs(10), blobs(20)).change_probability
        model.settings = replace(model.settings, tile=64, overlap=16, threshold=float(np.median(answer)))
        save_detector(model, path)
        detectors[classes] = Detector(keras_network(model, path, "float32"))
    return detectors


def blobs(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def images(tmp_path) -> Path:
    """Five pairs in a folder whose name, like theirs, holds spaces and letters of other scripts."""
    root = tmp_path / "Luftbilder süd 東"
    for folder, seed in (("vor", 10), ("nach", 20)):
        (root / folder).mkdir(parents=True)
        for number, name in enumerate(("a", "b c", "d.e", "größe", "z")):
            Image.fromarray(blobs(seed + number)).save(root / folder / f"{name}.png")
    return root


def job(detector: Detector, images: Path, **options) -> Job:
    inputs = {"before": str(images / "vor"), "after": str(images / "nach")}
    return Job(detector.path, {"threshold": detector.settings.threshold, **options}, inputs)


class CutOffError(Exception):
    """Stands for what ends a run without warning."""


def fill(
    out: Path, detector: Detector, images: Path, *, stop_after: int | None = None, options=None, streamed=False,
    **folder_options,
):  # fmt: skip
    """Predicts the pairs that are not done into OUT; returns the names of those it did."""
    pairs = match_pairs(images / "vor", images / "nach").pairs
    folder = PredictionFolder(
        out,
        job(detector, images, **(options or {})),
        classes=detector.settings.classes,
        draw=overlay,
        write_image=write_image,
        **folder_options,
    )
    done = []
    predict = stream_pairs if streamed else predict_pairs
    with folder:
        for result in predict(detector, [pair for pair in pairs if pair.name not in folder.done]):
            if len(done) == stop_after:
                raise CutOffError
            if isinstance(result, FailedPair):
                folder.fail(result.pair.name, result.error)
            elif isinstance(result, PredictedRaster):
                folder.add_raster(result, lambda rows, of: None)
            else:
                folder.add(result.pair, result.images, result.prediction, result.seconds)
            done.append(result.pair.name)
    return done


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def features_of(out: Path) -> list[dict]:
    return json.loads((out / "objects.geojson").read_text(encoding="utf-8"))["features"]


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in out.rglob("*")
        if path.is_file()
    }


NAMES = ["a", "b c", "d.e", "größe", "z"]


def require_complete(out: Path, detector: Detector, images: Path) -> None:
    """Each pair once, everywhere, and everything as the detector says."""
    rows = rows_of(out)
    assert sorted(row["name"] for row in rows) == NAMES
    assert {path.name for path in out.iterdir()} == {
        "masks", "overlays", "objects.geojson", "summary.csv", "prediction.json"
    }  # fmt: skip
    assert sorted(path.name for path in (out / "masks").iterdir()) == [f"{name}.png" for name in NAMES]
    assert sorted(path.name for path in (out / "overlays").iterdir()) == [f"{name}.jpg" for name in NAMES]
    features = features_of(out)
    for row in rows:
        name = row["name"]
        expected = detector.predict(images / "vor" / f"{name}.png", images / "nach" / f"{name}.png").mask
        with Image.open(out / "masks" / f"{name}.png") as mask:
            assert mask.mode == "L"
            stored = np.array(mask)
        np.testing.assert_array_equal(stored, expected * (255 if len(detector.settings.classes) == 2 else 1))
        regions = 0
        for index in range(1, len(detector.settings.classes)):
            regions += cv2.connectedComponents((expected == index).astype(np.uint8), connectivity=8)[0] - 1
        here = [item for item in features if item["properties"]["pair"] == name]
        assert len(here) == regions == int(row["objects"])
        changed = int((expected != 0).sum())
        assert int(row["changed_pixels"]) == changed == sum(item["properties"]["area"] for item in here)
        assert float(row["changed_fraction"]) == pytest.approx(changed / expected.size, abs=1e-6)
        assert float(row["area"]) == changed
        assert (row["status"], row["error"], row["area_unit"]) == ("ok", "", "px")
        assert float(row["seconds"]) >= 0  # pairs are computed together: the first of them waits for all
    assert len(features) == sum(int(row["objects"]) for row in rows) > 10


@pytest.mark.parametrize("classes", [1, 4])
def test_every_file_of_the_contract(models, images, tmp_path, classes):
    detector, out = models[classes], tmp_path / "out folder ö"
    assert fill(out, detector, images) == NAMES
    require_complete(out, detector, images)
    header = (out / "summary.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    wanted = ["name", "status", "changed_pixels", "changed_fraction", "area", "objects", "seconds", "error"]
    assert header[: len(wanted)] == wanted
    assert header == list(COLUMNS)
    described = json.loads((out / "prediction.json").read_text(encoding="utf-8"))
    assert described["model"] == str(detector.path)
    assert len(described["model_sha256"]) == 64
    assert described["options"] == {"threshold": detector.settings.threshold}
    assert described["inputs"] == {"before": str(images / "vor"), "after": str(images / "nach")}
    names = {item["properties"]["class_name"] for item in features_of(out)}
    assert names <= set(detector.settings.classes[1:])
    assert len(names) == (1 if classes == 1 else len(names)) > 0
    picture = np.array(Image.open(out / "overlays" / "b c.jpg"))
    assert picture.shape[2] == 3
    assert picture.shape[1] > 3 * 56


def test_a_second_run_leaves_what_is_done_alone(models, images, tmp_path):
    out = tmp_path / "out"
    fill(out, models[1], images)
    before = snapshot(out)
    assert fill(out, models[1], images) == []
    after = snapshot(out)
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in before.items()
    }
    for name in before:
        if name.startswith(("masks/", "overlays/")):
            assert after[name][0] == before[name][0], name
    Image.fromarray(blobs(90)).save(images / "vor" / "new.png")
    Image.fromarray(blobs(91)).save(images / "nach" / "new.png")
    assert fill(out, models[1], images) == ["new"]
    assert sorted(row["name"] for row in rows_of(out)) == sorted([*NAMES, "new"])
    (out / "masks" / "a.png").unlink()
    assert fill(out, models[1], images) == ["a"]
    assert len(rows_of(out)) == 6
    assert {item["properties"]["pair"] for item in features_of(out)} == {*NAMES, "new"}


def test_another_job_is_refused_unless_it_may_overwrite(models, images, tmp_path):
    out = tmp_path / "out"
    fill(out, models[4], images)
    before = snapshot(out)
    with pytest.raises(FolderError, match=r"model_sha256.*--overwrite"):
        fill(out, models[1], images)
    with pytest.raises(FolderError, match="options"):
        fill(out, models[4], images, options={"tile": 128})
    (tmp_path / "else").mkdir()
    for folder in ("vor", "nach"):
        (tmp_path / "else" / folder).mkdir()
        Image.fromarray(blobs(70)).save(tmp_path / "else" / folder / "only.png")
    with pytest.raises(FolderError, match="inputs"):
        fill(out, models[4], tmp_path / "else")
    assert snapshot(out) == before, "a refused run changes nothing"
    assert fill(out, models[1], tmp_path / "else", overwrite=True) == ["only"]
    assert [path.name for path in (out / "masks").iterdir()] == ["only.png"], "masks of the job before are gone"
    assert [path.name for path in (out / "overlays").iterdir()] == ["only.jpg"]
    assert [row["name"] for row in rows_of(out)] == ["only"]
    assert fill(out, models[1], images, overwrite=True) == NAMES
    require_complete(out, models[1], images)


def test_a_folder_of_something_else_is_refused(models, images, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(FolderError, match=r"mine.*not empty"):
        fill(tmp_path / "mine", models[1], images)
    with pytest.raises(FolderError, match=r"notes\.txt.*is a file"):
        fill(tmp_path / "mine" / "notes.txt", models[1], images)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_run_cut_off_between_pairs_goes_on(models, images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(CutOffError):
        fill(out, models[1], images, stop_after=2)
    assert not (out / "objects.geojson").exists(), "it appears whole"
    assert [row["name"] for row in rows_of(out)] == NAMES[:2]
    done = (out / "masks" / "a.png").stat().st_mtime_ns
    assert fill(out, models[1], images) == NAMES[2:]
    assert (out / "masks" / "a.png").stat().st_mtime_ns == done
    require_complete(out, models[1], images)


@pytest.mark.parametrize("ending", ["z", "z,ok,10,0.1", "z,ok,10,0.1,10,1,0.5,,p", "z,ok,10\r\n"])
def test_a_run_killed_within_a_row_goes_on(models, images, tmp_path, ending):
    """Whatever a pair left behind, the pair is done anew: its row, its objects and unfinished files."""
    out = tmp_path / "out"
    with pytest.raises(CutOffError):
        fill(out, models[1], images, stop_after=4)
    (out / "masks" / "z.png").write_bytes((out / "masks" / "a.png").read_bytes())
    (out / "masks" / ".größe.png.1234.part").write_bytes(b"half")
    (out / "overlays" / ".z.jpg.1234.tmp").write_bytes(b"half")
    with (out / "summary.csv").open("a", newline="") as stream:
        stream.write(ending)
    with (out / ".objects.jsonl").open("a") as stream:
        stream.write(json.dumps({"type": "Feature", "properties": {"pair": "z"}, "geometry": None}) + "\n")
        stream.write('{"type": "Feature", "properties": {"pair": "z", "area_unit": "px"}')
    assert fill(out, models[1], images) == ["z"]
    require_complete(out, models[1], images)


@pytest.mark.parametrize("step", ["features", "row"])
def test_a_run_killed_while_a_pair_is_kept_loses_and_doubles_no_object(models, images, tmp_path, monkeypatch, step):
    out, row_of = tmp_path / "out", PredictionFolder._row

    def killed(self, row):
        if step == "row":
            row_of(self, row)
        if row["name"] == "d.e":
            raise CutOffError
        if step == "features":
            row_of(self, row)

    monkeypatch.setattr(PredictionFolder, "_row", killed)
    with pytest.raises(CutOffError):
        fill(out, models[1], images)
    assert [path.name for path in (out / ".objects").iterdir()] == ["d.e.jsonl"], "not dropped before it counts"
    monkeypatch.setattr(PredictionFolder, "_row", row_of)
    assert fill(out, models[1], images) == NAMES[2 if step == "features" else 3 :]
    require_complete(out, models[1], images)


def test_a_pair_is_written_by_a_writer_from_another_process(models, images, tmp_path):
    out, detector = tmp_path / "out", models[1]
    folder = PredictionFolder(
        out, job(detector, images), classes=detector.settings.classes, draw=overlay, write_image=write_image
    )
    writer = pickle.loads(pickle.dumps(folder.writer))
    with folder:
        for result in predict_pairs(detector, match_pairs(images / "vor", images / "nach").pairs):
            assert not isinstance(result, FailedPair)
            written = writer.add(result.pair, result.images, result.prediction, result.seconds)
            assert result.pair.name not in {row["name"] for row in rows_of(out)}
            again = writer.add(result.pair, result.images, result.prediction, result.seconds)
            assert again == written, "a second time it replaces what the first left"
            assert folder.keep(written) == written.row
    require_complete(out, detector, images)


def test_failed_pairs_are_rows_and_are_tried_again(models, images, tmp_path):
    out, good = tmp_path / "out", (images / "nach" / "b c.png").read_bytes()
    (images / "nach" / "b c.png").write_bytes(good[:100])
    assert fill(out, models[1], images) == NAMES
    rows = {row["name"]: row for row in rows_of(out)}
    assert rows["b c"]["status"] == "failed"
    assert rows["b c"]["error"].startswith(f"{images / 'nach' / 'b c.png'}: ")
    assert rows["b c"]["changed_pixels"] == ""
    assert [name for name, row in rows.items() if row["status"] == "ok"] == ["a", "d.e", "größe", "z"]
    assert not (out / "masks" / "b c.png").exists()
    (images / "nach" / "b c.png").write_bytes(good)
    assert fill(out, models[1], images) == ["b c"]
    require_complete(out, models[1], images)


def write_tiff(path: Path, image: np.ndarray, crs: str | None, nodata: int | None = None) -> None:
    place = {} if crs is None else {"crs": crs, "transform": from_origin(500000, 5000000, 2, 2)}
    height, width, bands = image.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype="uint8", nodata=nodata, **place
    ) as target:
        target.write(np.moveaxis(image, 2, 0))


def test_a_geotiff_pair_gives_a_geotiff_mask(models, tmp_path):
    detector, images, out = models[1], tmp_path / "in", tmp_path / "out"
    for folder, seed in (("vor", 30), ("nach", 31)):
        (images / folder).mkdir(parents=True)
        image = np.maximum(blobs(seed), 1)
        image[:8, :16] = 0
        write_tiff(images / folder / "field.tif", image, "EPSG:32633", nodata=0)
        write_tiff(images / folder / "plain.tif", np.maximum(image, 1), None)
    fill(out, detector, images, probabilities=True)
    expected = detector.predict(images / "vor" / "field.tif", images / "nach" / "field.tif")
    with rasterio.open(out / "masks" / "field.tif") as mask:
        assert (mask.count, mask.dtypes, mask.nodata) == (1, ("uint8",), None)
        assert mask.crs == "EPSG:32633"
        assert mask.transform == from_origin(500000, 5000000, 2, 2)
        assert mask.compression.value == "DEFLATE"
        assert MaskFlags.per_dataset in mask.mask_flag_enums[0]
        np.testing.assert_array_equal(mask.read(1), expected.mask * 255)
        assert (mask.read(1)[:8, :16] == 0).all()
        valid = mask.dataset_mask() != 0
    assert list(tmp_path.rglob("*.msk")) == [], "the mask is inside the file"
    assert not valid[:8, :16].any()
    assert valid.sum() == valid.size - 8 * 16
    with rasterio.open(out / "probabilities" / "field.tif") as probability:
        np.testing.assert_array_equal(probability.read(1), expected.probability)
    fill(tmp_path / "without", detector, images)
    widths = [Image.open(folder / "overlays" / "field.jpg").width for folder in (out, tmp_path / "without")]
    assert widths[0] > widths[1] * 1.3, "with probabilities overlays have a heat map too"
    with rasterio.open(out / "masks" / "plain.tif") as mask:
        assert mask.crs is None
        assert (mask.dataset_mask() != 0).all()
    rows = {row["name"]: row for row in rows_of(out)}
    changed = int(expected.mask.sum())
    assert float(rows["field"]["area"]) == pytest.approx(4 * changed)
    assert float(rows["field"]["changed_fraction"]) == pytest.approx(changed / valid.sum(), abs=1e-6)
    assert (rows["field"]["area_unit"], rows["plain"]["area_unit"]) == ("m2", "px")
    for item in features_of(out):
        if item["properties"]["pair"] == "field":
            west, south, east, north = shape(item["geometry"]).bounds
            assert 14.9 < west < east < 15.1
            assert 45.1 < south < north < 45.2


@pytest.mark.parametrize("streamed", [False, True])
def test_objects_go_to_geopackages_in_the_reference_system_of_their_images(models, tmp_path, streamed):
    """Of a run that was cut off after the first pair, too, in whatever systems the pairs are."""
    detector, images, out = models[4], tmp_path / "in", tmp_path / "out"
    systems = {"metres": "EPSG:32633", "feet": "EPSG:2263", "plain": None}
    for folder, seed in (("vor", 30), ("nach", 31)):
        (images / folder).mkdir(parents=True)
        for name, crs in systems.items():
            write_tiff(images / folder / f"{name}.tif", blobs(seed), crs)
    with pytest.raises(CutOffError):
        fill(out, detector, images, stop_after=1, geopackage=True, streamed=streamed)
    (first,) = (out / "geopackages").iterdir()
    written = first.stat().st_mtime_ns
    (out / "geopackages" / ".plain.1.part.gpkg").write_text("of a process that was killed")
    assert len(fill(out, detector, images, geopackage=True, streamed=streamed)) == 2
    assert first.stat().st_mtime_ns == written
    assert sorted(path.name for path in (out / "geopackages").iterdir()) == [f"{name}.gpkg" for name in sorted(systems)]
    rows = {row["name"]: row for row in rows_of(out)}
    for name, crs in systems.items():
        file = out / "geopackages" / f"{name}.gpkg"
        meta, _, blobs_, columns = pyogrio.raw.read(file, layer="objects")
        geometries, fields = shapely.from_wkb(blobs_), dict(zip(meta["fields"], columns, strict=True))
        assert len(geometries) == int(rows[name]["objects"]) > 3
        assert shapely.is_valid(geometries).all()
        assert fields["area"].sum() == pytest.approx(float(rows[name]["area"]), rel=1e-6)
        assert set(fields["pair"]) == {name}
        mask = detector.predict(images / "vor" / f"{name}.tif", images / "nach" / f"{name}.tif").mask
        if crs is None:
            assert "Undefined" in meta["crs"]
            transform, unit = Affine.identity(), 1.0
        else:
            assert CRS.from_user_input(meta["crs"]) == CRS.from_user_input(crs)
            transform, unit = from_origin(500000, 5000000, 2, 2), CRS.from_user_input(crs).units_factor[1]
        assert shapely.area(geometries) * unit**2 == pytest.approx(fields["area"])
        for index in (1, 2, 3):
            of_class = geometries[fields["class"] == index]
            found = rasterize(of_class, mask.shape, transform=transform) if len(of_class) else np.zeros_like(mask)
            np.testing.assert_array_equal(found > 0, mask == index)


def test_a_raster_with_no_place_on_the_ground_fails_by_name(models, tmp_path):
    local = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    for folder, seed in (("vor", 30), ("nach", 31)):
        (tmp_path / folder).mkdir()
        write_tiff(tmp_path / folder / "x.tif", blobs(seed), local)
    with pytest.raises(DataError, match=r"nach/x\.tif: .*neither geographic nor projected"):
        fill(tmp_path / "out", models[1], tmp_path)


def fill_part(out: Path, detector: Detector, images: Path, part: Part, *, stop_after: int | None = None) -> list[str]:
    """Predicts the pairs of a part that are not done into OUT; returns the names of those it did."""
    done: list[str] = []
    with PairIndex(images / "vor", images / "nach", part) as index:
        folder = PredictionFolder(
            out, job(detector, images), classes=detector.settings.classes, draw=overlay, write_image=write_image,
            part=part,
        )  # fmt: skip
        folder.keep_current(index.pairs())
        with folder:
            for result in predict_pairs(detector, [pair for pair in index.pairs() if pair.name not in folder.done]):
                if len(done) == stop_after:
                    raise CutOffError
                assert not isinstance(result, FailedPair)
                folder.add(result.pair, result.images, result.prediction, result.seconds)
                done.append(result.pair.name)
    return done


def test_the_files_of_a_pair_that_is_gone_go_too(models, images, tmp_path):
    fill_part(tmp_path / "out", models[1], images, Part())
    gone, kept = NAMES[0], NAMES[1]
    left = [path for path in (tmp_path / "out").rglob("*") if path.stem == gone]
    assert sorted(path.parent.name for path in left) == ["masks", "overlays"]
    for folder in ("vor", "nach"):
        for path in (images / folder).glob(f"{gone}.*"):
            path.unlink()
    assert fill_part(tmp_path / "out", models[1], images, Part()) == []
    assert not [path for path in left if path.exists()]
    assert [path for path in (tmp_path / "out").rglob("*") if path.stem == kept]


def cut_off(folder: PredictionFolder) -> None:
    raise CutOffError


def in_part(number: int, count: int) -> list[str]:
    return [name for name in NAMES if Part(number, count).holds(name)]


def require_whole(out: Path, detector: Detector, images: Path) -> None:
    """As if one run had done it all, but for the books of the parts."""
    shutil.rmtree(out / ".shards")
    require_complete(out, detector, images)


def test_parts_at_work_at_the_same_time_make_one_folder(models, images, tmp_path):
    out, detector, parts = tmp_path / "out", models[1], [Part(number, 4) for number in (1, 2, 3, 4)]
    assert [len(in_part(part.number, 4)) for part in parts] == [1, 2, 0, 2]
    folders, indices = [], []
    for part in parts:  # all of them open at once
        index = PairIndex(images / "vor", images / "nach", part)
        folder = PredictionFolder(
            out, job(detector, images), classes=detector.settings.classes, draw=overlay, write_image=write_image,
            part=part,
        )  # fmt: skip
        folder.__enter__()
        folders.append(folder)
        indices.append(index)
    for folder, index in zip(folders, indices, strict=True):
        for result in predict_pairs(detector, index.pairs()):
            folder.add(result.pair, result.images, result.prediction, result.seconds)
    for number, folder in enumerate(folders):
        assert len(folder.unfinished_parts()) == 4 - number
        assert not (out / "objects.geojson").exists()
        assert not (out / "summary.csv").exists()
        folder.__exit__(None, None, None)
    books = snapshot(out)
    for part in parts:
        assert fill_part(out, detector, images, part) == [], "run again, a finished part does nothing"
        assert {path: content for path, (_, content) in snapshot(out).items()} == {
            path: content for path, (_, content) in books.items()
        }, "and puts the same together"
    require_whole(out, detector, images)


def test_a_part_that_is_killed_goes_on_and_the_last_to_finish_puts_them_together(models, images, tmp_path):
    out, detector = tmp_path / "out", models[1]
    own = in_part(2, 2)
    assert len(own) >= 2
    with pytest.raises(CutOffError):
        fill_part(out, detector, images, Part(2, 2), stop_after=1)
    (out / "masks" / f".{own[1]}.abcd.part.png").write_bytes(b"half")
    assert fill_part(out, detector, images, Part(1, 2)) == in_part(1, 2)
    assert not (out / "summary.csv").exists(), "a part is missing"
    assert fill_part(out, detector, images, Part(2, 2)) == own[1:]
    require_whole(out, detector, images)


def test_a_finished_part_that_has_more_to_do_is_not_put_together_before_it_is_done(models, images, tmp_path):
    out, detector = tmp_path / "out", models[1]
    for number in (1, 2):
        fill_part(out, detector, images, Part(number, 2))
    first = in_part(2, 2)[0]
    Image.fromarray(blobs(77)).save(images / "nach" / f"{first}.png")
    with pytest.raises(CutOffError):
        fill_part(out, detector, images, Part(2, 2), stop_after=0)
    (summary,) = [row for row in rows_of(out) if row["name"] == first]
    assert fill_part(out, detector, images, Part(1, 2)) == []
    assert summary in rows_of(out), "the other part alone puts nothing together"
    assert fill_part(out, detector, images, Part(2, 2)) == [first]
    assert summary not in rows_of(out)
    require_whole(out, detector, images)


@pytest.mark.parametrize("killed", ["the whole run", "parts", "taking over"])
def test_whole_runs_and_parts_go_on_from_one_another(models, images, tmp_path, killed, monkeypatch):
    out, detector = tmp_path / "out", models[1]
    if killed == "the whole run":
        with pytest.raises(CutOffError):
            fill(out, detector, images, stop_after=2)
        done = [fill_part(out, detector, images, Part(number, 2)) for number in (1, 2)]
        assert done == [[name for name in in_part(number, 2) if name in NAMES[2:]] for number in (1, 2)]
        require_whole(out, detector, images)
        return
    with pytest.raises(CutOffError):
        fill_part(out, detector, images, Part(2, 2), stop_after=1)
    fill_part(out, detector, images, Part(1, 2))
    if killed == "taking over":
        with monkeypatch.context() as patch:
            patch.setattr(PredictionFolder, "_drop_parts", cut_off)
            with pytest.raises(CutOffError):
                fill(out, detector, images)
    with pytest.raises(FolderError, match=r"in 2 shards, not 3.*--shard i/2"):
        fill_part(out, detector, images, Part(1, 3))
    assert fill(out, detector, images) == in_part(2, 2)[1:]
    require_complete(out, detector, images)


@pytest.mark.parametrize("then", ["part", "whole"])
def test_what_was_put_together_does_not_speak_for_a_part_that_runs_again(models, images, tmp_path, monkeypatch, then):
    """Killed between the mask and its row, a part leaves a mask newer than the images beside a row of the old mask."""
    out, detector = tmp_path / "out", models[1]
    for number in (1, 2):
        fill_part(out, detector, images, Part(number, 2))
    first = in_part(2, 2)[0]
    Image.fromarray(blobs(77)).save(images / "nach" / f"{first}.png")
    with monkeypatch.context() as patch:
        patch.setattr(PredictionFolder, "keep", lambda folder, written: cut_off(folder))
        with pytest.raises(CutOffError):
            fill_part(out, detector, images, Part(2, 2))
    if then == "part":
        assert fill_part(out, detector, images, Part(2, 2)) == [first]
        require_whole(out, detector, images)
    else:
        assert fill(out, detector, images) == [first]
        require_complete(out, detector, images)


def test_objects_of_a_finished_run_are_read_one_after_the_other(models, images, tmp_path):
    out = tmp_path / "out"
    fill(out, models[1], images)
    lines = (out / "objects.geojson").read_text(encoding="utf-8").splitlines()
    assert list(read_geojson(out / "objects.geojson")) == features_of(out)
    (out / "objects.geojson").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"objects\.geojson: ends before its end"):
        list(read_geojson(out / "objects.geojson"))
    (out / "objects.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    with pytest.raises(ValueError, match=r"objects\.geojson: is not as it was written"):
        list(read_geojson(out / "objects.geojson"))


def test_the_ledger_holds_no_rows_in_memory():
    row = dict.fromkeys(COLUMNS, "x" * 20) | {"changed_fraction": "0.100000"}
    count, books = 15_000, whole_books(Path("out"))
    tracemalloc.start()
    try:
        with closing(Ledger()) as ledger:
            ledger.take(({**row, "name": f"tile {number}"} for number in range(count)), books)
            dropped: Counter[str] = Counter()
            ledger.keep((f"tile {number}" for number in range(0, count, 2)), lambda name: dropped.update(["dropped"]))
            assert dropped == {"dropped": count // 2}
            assert len(ledger) == count // 2
            assert ("tile 10" in ledger, "tile 11" in ledger) == (True, False)
            assert ledger.changed() == Decimal("0.1") * (count // 2)
            assert sum(1 for _ in ledger.rows()) == count // 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000, "the rows are some megabytes"
