"""The drawn pairs: repeatable, truly labelled, neither trivial nor without distractors."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.synthetic.conditions import plan_conditions
from data_pipelines.synthetic.drawing import draw_scene
from data_pipelines.synthetic.planning import plan_scene
from data_pipelines.synthetic.rendering import render
from data_pipelines.synthetic.truth import change_mask, footprints
from data_pipelines.synthetic.world import Scene
from data_pipelines.synthetic.writing import write_scenes


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [draw_scene(256, generator(0, i)) for i in range(12)]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [plan_scene(256, generator(3, i)) for i in range(60)]


def test_same_seed_same_bytes(tmp_path):
    write_scenes(tmp_path / "one", 3, 96, seed=5)
    write_scenes(tmp_path / "two", 3, 96, seed=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_other_seed_other_pictures(tmp_path):
    write_scenes(tmp_path / "one", 1, 96, seed=5)
    write_scenes(tmp_path / "two", 1, 96, seed=6)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one["A/scene_0000.png"] != two["A/scene_0000.png"]
    assert one["B/scene_0000.png"] != two["B/scene_0000.png"]


def test_a_pair_does_not_depend_on_how_many_are_drawn(tmp_path):
    write_scenes(tmp_path / "few", 2, 64, seed=1)
    write_scenes(tmp_path / "more", 4, 64, seed=1)
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    for folder in ("A", "B", "label"):
        assert few[f"{folder}/scene_0001.png"] == more[f"{folder}/scene_0001.png"]


def test_files_hold_what_is_drawn(tmp_path):
    write_scenes(tmp_path, 2, 96, seed=4)
    before, after, mask = draw_scene(96, generator(4, 1))
    for folder, image in (("A", before), ("B", after)):
        stored = np.asarray(Image.open(tmp_path / folder / "scene_0001.png"))
        np.testing.assert_array_equal(stored, image)
    label = np.asarray(Image.open(tmp_path / "label" / "scene_0001.png"))
    assert label.shape == (96, 96)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, mask * 255)
    assert set(np.unique(label)) == {0, 255}


def test_lists_are_disjoint_and_complete(tmp_path):
    write_scenes(tmp_path, 11, 64, seed=0)
    train = (tmp_path / "list" / "train.txt").read_text().split()
    val = (tmp_path / "list" / "val.txt").read_text().split()
    stems = {p.stem for p in (tmp_path / "A").iterdir()}
    assert len(val) == 2
    assert not set(train) & set(val)
    assert sorted(train + val) == sorted(stems)
    assert stems == {p.stem for p in (tmp_path / "B").iterdir()} == {p.stem for p in (tmp_path / "label").iterdir()}


def test_two_pairs_make_one_of_each_split(tmp_path):
    write_scenes(tmp_path, 2, 64, seed=0)
    assert (tmp_path / "list" / "train.txt").read_text() == "scene_0000\n"
    assert (tmp_path / "list" / "val.txt").read_text() == "scene_0001\n"


def test_one_pair_has_no_empty_split(tmp_path):
    write_scenes(tmp_path, 1, 64, seed=0)
    assert [p.name for p in (tmp_path / "list").iterdir()] == ["train.txt"]


def test_progress_counts_the_pairs(tmp_path):
    calls: list[tuple[int, int]] = []
    write_scenes(tmp_path, 3, 64, seed=0, on_progress=lambda done, pairs: calls.append((done, pairs)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            write_scenes(tmp_path / "out", 1, 64, seed=0)
    assert list((tmp_path / "out").iterdir()) == []
    write_scenes(tmp_path / "out", 1, 64, seed=0)


def test_an_interruption_leaves_nothing_of_a_set_that_is_not_whole(tmp_path):
    def interrupt(done: int, pairs: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, 3, 64, seed=0, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="already holds files: name a new or an empty folder") as refused:
        write_scenes(tmp_path, 1, 64, seed=0)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("keep")
    with pytest.raises(FileExistsError, match="is a file"):
        write_scenes(tmp_path / "out", 1, 64, seed=0)


@pytest.mark.parametrize(
    ("pairs", "size", "seed", "allowed"),
    [(0, 64, 0, "at least 1 pair"), (1, 63, 0, "at least 64 x 64"), (1, 64, -1, "from 0 up")],
)
def test_impossible_requests_are_refused_before_anything_is_written(tmp_path, pairs, size, seed, allowed):
    with pytest.raises(ValueError, match=allowed):
        write_scenes(tmp_path / "out", pairs, size, seed)
    assert not (tmp_path / "out").exists()


def test_a_scene_too_small_is_refused():
    with pytest.raises(ValueError, match="size 40: scenes need at least 64 x 64"):
        draw_scene(40, generator(0))


def test_draws_any_size():
    for size in (64, 101, 300):
        before, after, mask = draw_scene(size, generator(0))
        assert before.shape == after.shape == (size, size, 3)
        assert mask.shape == (size, size)
        assert before.dtype == after.dtype == mask.dtype == np.uint8


def test_every_kind_of_change_occurs(scenes):
    kinds = Counter(building.change for scene in scenes for building in scene.buildings)
    assert set(kinds) == {"none", "appears", "vanishes", "grows"}
    assert min(kinds.values()) >= 10
    assert kinds["none"] > kinds.total() / 2


def test_change_is_as_frequent_as_promised(scenes):
    fractions = np.array([change_mask(scene).mean() for scene in scenes])
    assert 0.02 < fractions.mean() < 0.08
    assert 1 <= np.count_nonzero(fractions == 0) <= 14  # about one in ten of sixty
    assert fractions[fractions > 0].min() * 256 * 256 >= 64


def test_the_mask_is_the_roofs_that_stand_at_one_date_only(scenes):
    """Computed again, without drawing: which parts of buildings the centre of every pixel lies in."""
    scene = next(s for s in scenes if {b.change for b in s.buildings} == {"none", "appears", "vanishes", "grows"})
    y, x = np.mgrid[: scene.size, : scene.size] + 0.5

    def roofs(buildings, date):
        covered = np.zeros((scene.size, scene.size), bool)
        for building in buildings:
            for part in building.standing(date):
                (cosine, sine), _ = part.axes
                along = (x - part.centre[0]) * cosine + (y - part.centre[1]) * sine
                across = (y - part.centre[1]) * cosine - (x - part.centre[0]) * sine
                covered |= (abs(along) < part.length / 2) & (abs(across) < part.width / 2)
        return covered

    exact = roofs(scene.buildings, "before") ^ roofs(scene.buildings, "after")
    mask = change_mask(scene) > 0
    border = cv2.morphologyEx(exact.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    assert exact.any()
    np.testing.assert_array_equal(mask[~border], exact[~border])
    assert mask.sum() == pytest.approx(exact.sum(), rel=0.12)  # drawing also takes the pixels on the roof's edge
    for building in scene.buildings:
        if building.change == "appears":
            centre = np.argwhere(change_mask(replace(scene, buildings=(building,)))).mean(0)
            assert centre == pytest.approx(np.argwhere(roofs([building], "after")).mean(0), abs=0.3)


def test_each_kind_of_change_changes_the_roofs_its_own_way(scenes):
    seen = set()
    for scene in scenes:
        for building in scene.buildings:
            alone = replace(scene, buildings=(building,))
            before, after = footprints(alone, "before") > 0, footprints(alone, "after") > 0
            if building.change == "none":
                continue
            seen.add(building.change)
            if building.change == "appears":
                assert not before.any()
                assert after.any()
            elif building.change == "vanishes":
                assert before.any()
                assert not after.any()
            else:
                assert after[before].all()
                assert after.sum() > before.sum()
        if len(seen) == 3:
            return
    raise AssertionError(f"only {seen} occurred")


def test_changed_buildings_are_large_enough_to_see(scenes):
    changed = [b for scene in scenes for b in scene.buildings if b.change != "none"]
    parts = [part for b in changed for part in (b.extension if b.change == "grows" else b.parts[:1])]
    assert min(min(part.length, part.width) for part in parts) >= 8


def test_distractors_are_not_labelled(scenes):
    """Without a changed building the mask is empty, while crops, trees, cars, suns and seasons still differ."""
    still = [s for s in scenes if all(b.change == "none" for b in s.buildings)]
    assert still
    scene = next(s for s in still if s.trees)
    assert not change_mask(scene).any()
    places = [{tuple(car.body.centre) for car in cars} for cars in (scene.cars_before, scene.cars_after)]
    assert all(places)
    assert places[0] != places[1]
    assert any(tree.before != tree.after for tree in scene.trees)
    before = render(scene, plan_conditions("before", generator(1)), generator(2))
    after = render(scene, plan_conditions("after", generator(3)), generator(4))
    difference = np.abs(before.astype(int) - after).mean(-1)
    assert np.mean(difference > 20) > 0.1


def test_fields_change_without_a_label(scenes):
    assert any(parcel.furrows and parcel.before != parcel.after for scene in scenes for parcel in scene.parcels)


def test_shadows_fall_away_from_the_sun_and_are_not_labelled(scenes):
    """Only the building is moved in and out; what gets darker outside its roof lies on the side away from the sun."""
    scene = next(s for s in scenes if any(b.change == "appears" for b in s.buildings))
    building = max((b for b in scene.buildings if b.change == "appears"), key=lambda b: b.height)
    bare = replace(scene, buildings=(), trees=(), cars_after=())
    built = replace(bare, buildings=(building,))
    seen = replace(plan_conditions("after", generator(8)), noise=0.0, shadow=1.2)
    darker = render(bare, seen, generator(0)).astype(int).sum(-1) - render(built, seen, generator(0)).astype(int).sum(
        -1
    )
    shadow = (darker > 60) & (cv2.dilate(change_mask(built), np.ones((5, 5), np.uint8)) == 0)
    assert shadow.any()
    centre = np.argwhere(change_mask(built)).mean(0)[::-1]
    assert (np.argwhere(shadow)[:, ::-1].mean(0) - centre) @ seen.sun < 0
    roof = cv2.dilate(change_mask(built), np.ones((3, 3), np.uint8))
    steps = np.arange(0, building.height * seen.shadow + 1, 0.5)
    for y, x in np.argwhere(shadow):  # towards the sun lies the roof
        way = np.rint(np.array([x, y]) + steps[:, None] * seen.sun).astype(int)
        way = way[np.all((way >= 0) & (way < 256), axis=1)]
        assert roof[way[:, 1], way[:, 0]].any()


def test_the_images_lie_at_most_two_pixels_apart():
    """The mask lies on the image after; the image before is moved by what its conditions say."""
    offsets = np.array([plan_conditions("before", generator(i)).offset for i in range(200)])
    lengths = np.hypot(*offsets.T)
    assert lengths.max() <= 2
    assert lengths.max() > 1.5
    assert plan_conditions("after", generator(0)).offset == (0.0, 0.0)


def test_the_image_before_is_moved_by_its_offset(scenes):
    seen = replace(plan_conditions("after", generator(1)), noise=0.0)
    still = render(scenes[0], seen, generator(0))
    moved = render(scenes[0], replace(seen, offset=(2.0, -1.0)), generator(0))
    np.testing.assert_array_equal(moved[:-1, 2:], still[1:, :-2])
    between = render(scenes[0], replace(seen, offset=(0.5, 0.0)), generator(0)).astype(int)
    halfway = (still[:, 1:].astype(int) + still[:, :-1]) / 2
    assert np.abs(between[:, 1:] - halfway).mean() < 0.5 * np.abs(between[:, 1:] - still[:, 1:]).mean()


def test_plain_differencing_does_not_solve_it(drawn):
    """The best global threshold of the difference, chosen on the truth itself."""
    truth = np.stack([mask for _, _, mask in drawn]) > 0
    for reduce in (np.mean, np.max):
        difference = np.stack([reduce(np.abs(b.astype(int) - a), axis=-1) for b, a, _ in drawn])
        scores = []
        for threshold in range(4, 200, 4):
            found = difference > threshold
            scores.append(2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)))
        assert max(scores) < 0.4
