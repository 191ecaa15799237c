import numpy as np
import pytest

from segdiff.training.semantic_loss import SemanticChangeLoss, semantic_consistency

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 4)


def random_case(classes: int = 3) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    truth = {key: RNG.choice([*range(classes), 255], size=SHAPE) for key in ("before", "after")}
    truth["change"] = RNG.choice([0, 1, 255], size=SHAPE)
    logits = {key: RNG.normal(size=(*SHAPE, classes)).astype("float32") for key in ("before", "after")}
    logits["change"] = RNG.normal(size=(*SHAPE, 1)).astype("float32")
    return truth, logits


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype("float64"))
    return e / e.sum(axis=-1, keepdims=True)


def test_each_term_is_the_mean_over_its_pixels_with_truth():
    truth, logits = random_case()
    terms = {key: [] for key in ("before", "after", "change", "consistency")}
    for pixel in np.ndindex(SHAPE):
        p, q = softmax(logits["before"][pixel]), softmax(logits["after"][pixel])
        for key, probabilities in (("before", p), ("after", q)):
            if truth[key][pixel] != 255:
                terms[key].append(-np.log(probabilities[truth[key][pixel]]))
        if truth["change"][pixel] != 255:
            changed = 1 / (1 + np.exp(-logits["change"][pixel][0]))
            cosine = p @ q / np.linalg.norm(p) / np.linalg.norm(q)
            terms["change"].append(-np.log(changed if truth["change"][pixel] else 1 - changed))
            terms["consistency"].append(cosine if truth["change"][pixel] else 1 - cosine)
    mean = {key: np.mean(values) for key, values in terms.items()}
    assert all(len(values) > 5 for values in terms.values())
    assert float(semantic_consistency(truth["change"], logits["before"], logits["after"])) == pytest.approx(
        mean["consistency"], rel=1e-5
    )
    expected = (mean["before"] + mean["after"]) / 2 + mean["change"] + 0.7 * mean["consistency"]
    assert float(SemanticChangeLoss(consistency=0.7)(truth, logits)) == pytest.approx(expected, rel=1e-5)


def test_equal_classes_where_unchanged_and_different_ones_where_changed_cost_nothing():
    before = np.eye(4, dtype="float32")[RNG.integers(0, 4, SHAPE)]
    changed = RNG.integers(0, 2, SHAPE)
    after = np.where(changed[..., None] == 1, np.roll(before, 1, axis=-1), before)
    assert float(semantic_consistency(changed, 50 * before, 50 * after)) == pytest.approx(0, abs=1e-6)
    assert float(semantic_consistency(1 - changed, 50 * before, 50 * after)) == pytest.approx(1, abs=1e-6)


def test_pixels_without_truth_count_nowhere():
    truth, logits = random_case()
    nothing = {key: np.full(SHAPE, 255) for key in truth}
    assert float(SemanticChangeLoss()(nothing, logits)) == 0
    other = {key: np.where((truth[key] == 255)[..., None], 9.0, value) for key, value in logits.items()}
    one = SemanticChangeLoss(consistency=0.0)
    assert float(one(truth, other)) == pytest.approx(float(one(truth, logits)), rel=1e-6)


def test_the_ignored_value_can_be_chosen_and_survives_the_config():
    truth, logits = random_case()
    moved = {key: np.where(value == 255, 99, value) for key, value in truth.items()}
    loss = SemanticChangeLoss.from_config(SemanticChangeLoss(consistency=0.2, ignore=99).get_config())
    assert float(loss(moved, logits)) == pytest.approx(float(SemanticChangeLoss(consistency=0.2)(truth, logits)))
