"""Every released checkpoint loads, is small, and has a card that speaks of this very file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import segdiff

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


@pytest.mark.parametrize("file", sorted(CHECKPOINTS.glob("*.keras")), ids=lambda file: file.stem)
def test_checkpoint_has_its_card_and_predicts(file: Path):
    card = file.with_suffix(".md").read_text()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert file.stat().st_size < 25e6
    detector = segdiff.load(file.stem)  # by its shipped name
    assert detector.path == file
    image = np.full((96, 80, detector.bands or 3), 200, np.uint8)
    assert not detector.predict(image, image).mask.any()


def test_deeppcb_binary_finds_the_defects_of_a_real_board(shared: Path):
    data = shared / "data" / "deeppcb" / "train"
    detector = segdiff.load("deeppcb_binary")
    name = "00041000"
    result = detector.predict(data / "A" / f"{name}.jpg", data / "B" / f"{name}.jpg")
    boxes = [line.split(",")[:4] for line in (data / "boxes" / f"{name}.csv").read_text().splitlines()[1:]]
    for x1, y1, x2, y2 in (map(int, box) for box in boxes):
        assert result.mask[y1:y2, x1:x2].any()
    assert 0.0005 < result.mask.mean() < 0.02
