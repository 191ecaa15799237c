"""Scores against counting by hand, and which pairs a split means."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import IGNORE
from data_pipelines.layouts import DataError, DataSet, Pair, find_pairs
from data_pipelines.validation import MaskCoding
from segdiff.inference.evaluation import Scoreboard, SplitError, Truth, split_pairs
from segdiff.inference.predictor import Prediction


def prediction(mask: np.ndarray, valid: np.ndarray | None = None) -> Prediction:
    return Prediction(mask, np.zeros(mask.shape, np.float32), valid=valid)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_confusion_matrix_is_that_of_counting_by_hand(classes):
    random = np.random.default_rng(classes)
    board = Scoreboard(("background", *(f"kind {k}" for k in range(1, classes))))
    counted = np.zeros((classes, classes), int)
    for number in range(3):
        shape = (11 + number, 17)
        mask = random.integers(0, classes, shape).astype(np.uint8)
        truth = random.choice([*range(classes), IGNORE], shape).astype(np.uint8)
        valid = random.random(shape) > 0.2 if number else None
        own = np.zeros_like(counted)
        for y in range(shape[0]):
            for x in range(shape[1]):
                if truth[y, x] != IGNORE and (valid is None or valid[y, x]):
                    own[truth[y, x], mask[y, x]] += 1
        counted += own
        untouched = truth.copy()
        scores = board.add(prediction(mask, valid), truth)
        np.testing.assert_array_equal(truth, untouched)
        if classes == 2:
            (_, false), (missed, hit) = own
            assert scores["precision"] == pytest.approx(hit / (hit + false))
            assert scores["recall"] == pytest.approx(hit / (hit + missed))
            assert scores["f1"] == pytest.approx(2 * hit / (2 * hit + false + missed))
            assert scores["iou"] == pytest.approx(hit / (hit + false + missed))
    scores = board.scores()
    assert scores["confusion"] == counted.tolist()
    assert scores["pairs"] == 3
    total = counted.sum()
    agreed, chance = counted.trace() / total, (counted.sum(0) * counted.sum(1)).sum() / total**2
    assert scores["accuracy"] == pytest.approx(agreed)
    assert scores["kappa"] == pytest.approx((agreed - chance) / (1 - chance))
    each = []
    for index, (name, values) in enumerate(scores["classes"].items()):
        assert name == board.classes[index]
        hit, false = counted[index, index], counted[:, index].sum() - counted[index, index]
        missed = counted[index].sum() - hit
        assert values["f1"] == pytest.approx(2 * hit / (2 * hit + false + missed))
        each.append(values["f1"])
    assert scores["f1"] == pytest.approx(np.mean(each[1:]))


def test_nothing_to_find_scores_nothing_and_does_not_divide_by_zero():
    board = Scoreboard(("background", "change"))
    empty = np.zeros((4, 4), np.uint8)
    assert board.add(prediction(empty), empty) == {}, "neither good nor bad"
    assert board.add(prediction(empty), np.full((4, 4), IGNORE, np.uint8)) == {}
    assert board.scores()["accuracy"] == 1
    assert board.scores()["confusion"] == [[16, 0], [0, 0]]


def test_a_binary_model_takes_every_class_for_the_change(tmp_path):
    stored = np.array([[0, 1, 2, 3, 9]], np.uint8)
    Image.fromarray(stored).save(tmp_path / "x.png")
    pair = Pair("x", tmp_path, tmp_path, tmp_path / "x.png", "all")
    coding = MaskCoding("class indices 0..3", (0, 1, 2, 3), 4, ignore=9)
    assert Truth(coding, 2).read(pair).tolist() == [[0, 1, 1, 1, IGNORE]]
    assert Truth(coding, 4).read(pair).tolist() == [[0, 1, 2, 3, IGNORE]]
    assert Truth(coding, 6).read(pair).tolist() == [[0, 1, 2, 3, IGNORE]]
    with pytest.raises(DataError, match="masks hold 4 classes and the model knows 3"):
        Truth(coding, 3)


def write_pairs(folder: Path, *names: str, value: int = 0) -> None:
    for role in ("A", "B", "label"):
        (folder / role).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            Image.fromarray(np.full((4, 4), value + number if role != "label" else 0, np.uint8)).save(
                folder / role / f"{name}.png"
            )


def test_splits_of_a_data_set_with_lists(tmp_path):
    write_pairs(tmp_path, "a", "b", "c", "d")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "train.txt").write_text("a\nb\n")
    (tmp_path / "list" / "test.txt").write_text("c\n")
    data = find_pairs(tmp_path)

    def names(split: str | None) -> tuple[str, list[str]]:
        chosen, pairs = split_pairs(data, split, Path("model.keras"))
        return chosen, [pair.name for pair in pairs]

    assert names(None) == ("test", ["c"])
    assert names("test") == ("test", ["c"])
    assert names("train") == ("train", ["a", "b"])
    assert names("all") == ("all", ["a", "b", "c"])
    with pytest.raises(SplitError, match=f"{tmp_path}: has no split 'val', it has train, test"):
        names("val")
    with pytest.raises(SplitError, match="has no split 'tset'"):
        names("tset")


def test_without_splits_all_pairs_are_taken(tmp_path):
    write_pairs(tmp_path, "a", "b")
    data = find_pairs(tmp_path)
    chosen, pairs = split_pairs(data, None, Path("model.keras"))
    assert (chosen, [pair.name for pair in pairs]) == ("all", ["a", "b"])
    with pytest.raises(SplitError, match="it has all"):
        split_pairs(data, "test", Path("model.keras"))


def write_run(run: Path, val: str, *roots: Path) -> None:
    (run / "list").mkdir(parents=True)
    (run / "list" / "val.txt").write_text(val)
    (run / "config.yaml").write_text(f"data: {{root: {[str(root) for root in roots]}}}\n")


def test_a_run_scores_the_pairs_of_its_own_list(tmp_path):
    write_pairs(tmp_path / "data", "a", "b", "c")
    write_run(tmp_path / "run", "c\na\n", tmp_path / "data")
    data = find_pairs(tmp_path / "data")
    chosen, pairs = split_pairs(data, "val", tmp_path / "run")
    assert (chosen, sorted(pair.name for pair in pairs)) == ("val", ["a", "c"])
    write_pairs(tmp_path / "other", "a", "b")
    with pytest.raises(SplitError, match=r"other: lacks 1 of the 2 pairs.*c first"):
        split_pairs(find_pairs(tmp_path / "other"), "val", tmp_path / "run")


def test_a_name_that_stands_in_several_splits_is_that_of_the_list(tmp_path):
    for value, split in enumerate(("train", "val", "test")):
        write_pairs(tmp_path / "data" / split, "0001", "0002", value=10 * value)
    write_run(tmp_path / "run", "0001\n0002\n", tmp_path / "data")
    data = find_pairs(tmp_path / "data")
    assert not data.faults
    _, pairs = split_pairs(data, "val", tmp_path / "run")
    assert [pair.split for pair in pairs] == ["val", "val"]
    chosen, pairs = split_pairs(data, "all", tmp_path / "run")
    assert chosen == "all"
    assert len({pair.name for pair in pairs}) == 6, "what is written of them must not collide"
    assert {pair.name for pair in pairs} >= {"train_0001", "test_0002"}


def test_a_run_on_several_roots_takes_the_pairs_of_the_root_asked_for(tmp_path):
    for folder in ("one", "two", "three"):
        write_pairs(tmp_path / folder, "a", "b", "c")
    write_run(tmp_path / "run", "0/a\n1/b\n1/c\n", tmp_path / "one", tmp_path / "two")
    for folder, names in (("one", ["a"]), ("two", ["b", "c"])):
        _, pairs = split_pairs(find_pairs(tmp_path / folder), "val", tmp_path / "run")
        assert [pair.name for pair in pairs] == names
        assert {pair.after.parent.parent for pair in pairs} == {tmp_path / folder}
    with pytest.raises(SplitError, match="three: is none of the data roots"):
        split_pairs(find_pairs(tmp_path / "three"), "val", tmp_path / "run")


def test_a_run_on_several_roots_knows_its_pairs_after_the_data_have_moved(tmp_path):
    run, moved = tmp_path / "run", tmp_path / "elsewhere"
    (run / "list").mkdir(parents=True)
    (run / "config.yaml").write_text("data:\n  root: [/gone/one, /gone/two]\n")
    (run / "list" / "val.txt").write_text("0/a\n1/c\n1/d\n")
    pairs = tuple(
        Pair(name, *(moved / folder / f"{name}.png" for folder in ("A", "B", "label")), "all") for name in "cde"
    )
    split, found = split_pairs(DataSet(moved, "A/B/label", pairs, ()), "val", run)
    assert (split, [pair.name for pair in found]) == ("val", ["c", "d"])
    with pytest.raises(SplitError, match="none of the data roots"):
        split_pairs(DataSet(moved, "A/B/label", pairs[2:], ()), "val", run)
