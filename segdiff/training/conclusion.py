"""The end of a training: what the best model is worth on the validation pairs, and what of it is to be shown."""

import functools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.pipeline import WHOLE, PairStore, Part, ResampledPairs, join_tiles, whole_image_batches
from segdiff.augmented_prediction import augmented
from segdiff.config import Config
from segdiff.files import write_whole
from segdiff.model_files import AUGMENTATIONS, PostProcessing
from segdiff.models.heads import to_probabilities
from segdiff.models.loading import load_model
from segdiff.models.precision import with_precision
from segdiff.prediction import Predict
from segdiff.resampling import resample_rows
from segdiff.training.callbacks import log_pictures, save_detector
from segdiff.training.metrics import BINS, ChangeScores, change_of, class_scores, confusion_matrix, confusion_scores
from segdiff.training.post_processing import PostProcess, choose_post_processing, keep_trials

RANKED = 4
"""So many pairs, at most, are shown as the best, and so many as the worst."""


@dataclass(frozen=True)
class Validation:
    """The pairs of validation, each whole."""

    store: PairStore
    indices: tuple[int, ...]
    names: tuple[str, ...]
    multiple: int
    """Sides of what the model sees are multiples of it."""
    batch_pixels: int
    sizes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Height and width, by index, at which the model is to see pairs of another ground resolution than its own."""

    @functools.cached_property
    def seen(self) -> ResampledPairs:
        """The pairs as the model sees them."""
        return ResampledPairs(self.store, self.sizes)

    def batches(self, part: Part = WHOLE) -> tf.data.Dataset:
        """As `whole_image_batches` makes them of the pairs as the model sees them."""
        return whole_image_batches(
            self.seen, self.indices, multiple=self.multiple, batch_pixels=self.batch_pixels, part=part
        )

    def only(self, places: Sequence[int]) -> "Validation":
        """Some of the pairs, by their place among them."""
        return replace(
            self,
            indices=tuple(self.indices[place] for place in places),
            names=tuple(self.names[place] for place in places),
        )

    def predicted(
        self, predict: Predict, threshold: float, counts: ChangeScores | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The mask of every pair and the true one, uint8 H x W of class indices, on the pair's own grid.

        As in prediction, probabilities of a pair that the model sees at another size are brought back before the
        threshold decides. ``counts``, of probabilities, counts on the way.
        """

        def counted(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
            if counts is not None:
                counts.update_state(truth[np.newaxis], probability[np.newaxis])
            change, kind = map(keras.ops.convert_to_numpy, change_of(probability, False))
            return np.where(change >= threshold, kind + 1, 0).astype(np.uint8)

        tiles = self._tiles(predict)
        for index in self.indices:
            truth = self.store[index].mask
            # slab by slab: the probabilities of a large pair are many times its mask
            if index in self.sizes:
                slabs, masks, y = join_tiles((one for one, _ in tiles), *self.sizes[index]), [], 0
                for rows in resample_rows(slabs, self.sizes[index], truth.shape):
                    masks.append(counted(rows, truth[y : y + len(rows)]))
                    y += len(rows)
            else:
                masks = list(join_tiles((counted(*tile) for tile in tiles), *truth.shape))
            yield np.concatenate(masks), truth

    def _tiles(self, predict: Predict) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Probabilities h x w x K and truth h x w of the tiles of all pairs, in the order of the pairs."""
        truths = deque[np.ndarray]()

        def images() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for pair, truth in self.batches().as_numpy_iterator():
                truths.append(truth)
                yield pair

        for probabilities in predict(images()):
            yield from zip(probabilities, truths.popleft(), strict=True)


def predict_by(model: keras.Model) -> Predict:
    """What the model, of logits, says of batches."""

    def predict(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        for images in batches:
            yield keras.ops.convert_to_numpy(to_probabilities(model.predict_on_batch(images)))

    return predict


class Standing(NamedTuple):
    """By what pairs are ranked: F1, and where that is equal the number of pixels."""

    f1: float
    """Of the change; with several classes a pixel is right where its class is."""
    balance: int
    """Pixels of change that are right, less those that are wrong."""


@dataclass(frozen=True)
class ShownPair:
    """One of the best or worst validation pairs, with its mask as prediction makes it."""

    rank: Literal["best", "worst"]
    name: str
    f1: float | None
    """As in `Standing`; None where post-processing has removed all change and there was none."""
    before: np.ndarray
    """uint8 H x W x C, as ``after``."""
    after: np.ndarray
    mask: np.ndarray
    """uint8 H x W of class indices, as ``truth``, which is 255 where there is none."""
    truth: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What there is to show of a training that has come to its end."""

    run: Path
    """Holds config.yaml and environment.json."""
    history: Sequence[dict[str, float]]
    """The rows of history.csv."""
    metrics: Mapping[str, Any]
    """What metrics.json will hold."""
    classes: tuple[str, ...]
    precision: np.ndarray
    """By class of change and threshold, (K - 1) x BINS, before post-processing; as ``recall``."""
    recall: np.ndarray
    unranked: int
    """Pairs that neither have nor were given any change."""
    pairs: Iterator[ShownPair]
    """The best, best first, then the worst, worst first: read and predicted one by one, as they may be large."""


ShowOutcome = Callable[[Outcome], Mapping[str, np.ndarray]]
"""Makes pictures of it in the run folder and returns those for TensorBoard by name, RGB."""


def conclude(
    run: Path,
    config: Config,
    validation: Validation,
    classes: tuple[str, ...],
    *,
    trained_on: int,
    best_epoch: int,
    history: Sequence[dict[str, float]],
    precision: str,
    post_process: PostProcess,
    show: ShowOutcome,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Chooses threshold and post-processing of the best model on the validation pairs, and writes model and metrics.

    A model that predicts the mean over several views of a tile is judged by that, here alone: the epochs before were
    validated without. ``trained_on`` says how many of these pairs are of the training itself. The metrics are written
    last: a run that has them has its pictures too, and one that was stopped before is resumed.
    """
    model = load_model(run / "model.keras")
    predict = predict_by(with_precision(model, precision))
    augmentation = model.settings.test_time_augmentation
    if augmentation != "none":
        say(f"scores, threshold and pictures are of {AUGMENTATIONS[augmentation]}")
        predict = augmented(predict, augmentation, model.settings.mask_offset, model.settings.stride)
    counts = ChangeScores(len(classes), from_logits=False)
    standings: list[Standing | None] = []

    def ranked(threshold: float, counts: ChangeScores | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The masks at that threshold and the true ones; the standings become those of these."""
        standings.clear()
        for mask, truth in validation.predicted(predict, threshold, counts):
            standings.append(standing(confusion_matrix(truth, mask, len(classes))))
            yield mask, truth

    given = config.inference.threshold
    # that of the best epoch comes out again, of the same weights on the same pairs, unless it was validated otherwise
    expected = model.settings.threshold if given is None else round(given * BINS) / BINS
    deque(ranked(expected, counts), maxlen=0)
    threshold = float(counts.result()["threshold"]) if given is None else expected
    confusion = plain = counts.at(threshold)
    wanted = config.inference.post_processing
    post_processing = PostProcessing() if isinstance(wanted, str) else PostProcessing(**wanted.model_dump())
    chosen = ["epoch", "threshold"] if given is None else ["epoch"]
    if wanted == "auto" or post_processing != PostProcessing():
        with keep_trials(ranked(threshold), classes=len(classes), post_process=post_process, workdir=run) as tried:
            plain = tried.plain
            if wanted == "auto":
                chosen.append("post-processing")
                post_processing, confusion = choose_post_processing(tried)
            else:
                (confusion,) = tried.confusions([post_processing])
    elif threshold != expected:
        deque(ranked(threshold), maxlen=0)
    with_and_without = [
        {name: float(value) for name, value in confusion_scores(matrix).items()} for matrix in (confusion, plain)
    ]
    say(_describe(post_processing, *(scores["f1"] for scores in with_and_without)))
    model.settings = replace(model.settings, threshold=threshold, post_processing=post_processing)
    save_detector(model, run / "model.keras")
    result = {
        "split": "train" if trained_on == len(validation.indices) else "val",
        "pairs": len(validation.indices),
        "best_epoch": best_epoch,
        "epochs": len(history),
        "chosen_on": _chosen_on(chosen, len(validation.indices), trained_on),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        **with_and_without[0],
        "threshold": threshold,
        "post_processing": asdict(post_processing),
        "without_post_processing": with_and_without[1],
        "classes": class_scores(confusion, classes),
        "confusion": confusion.tolist(),
    }
    best, worst = best_and_worst(standings)

    def shown() -> Iterator[ShownPair]:
        for rank, places in (("best", best), ("worst", worst)):
            few = validation.only(places)
            for index, name, (mask, truth) in zip(
                few.indices, few.names, few.predicted(predict, threshold) if places else (), strict=True
            ):
                if post_processing != PostProcessing():
                    mask = post_process(mask, post_processing, classes=len(classes))
                pair = validation.store[index]
                now = standing(confusion_matrix(truth, mask, len(classes)))
                f1 = None if now is None else now.f1
                yield ShownPair(rank, name, f1, pair.before, pair.after, mask, truth)  # type: ignore[arg-type]

    precisions, recalls = counts.precision_recall()
    outcome = Outcome(run, history, result, classes, precisions, recalls, standings.count(None), shown())
    log_pictures(run / "tensorboard" / "pictures", show(outcome), step=len(history))
    with write_whole(run / "metrics.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def standing(confusion: np.ndarray) -> Standing | None:
    """How well one pair was done, by its confusion matrix K x K; None where nothing changed and nothing was found."""
    right = int(np.trace(confusion[1:, 1:]))
    change = int(confusion[1:].sum() + confusion[:, 1:].sum())
    wrong = int(confusion.sum()) - int(confusion[0, 0]) - right
    return Standing(2 * right / change, right - wrong) if change else None


def best_and_worst(standings: Sequence[Standing | None], most: int = RANKED) -> tuple[list[int], list[int]]:
    """The places of the best pairs, best first, and of the worst, worst first; so many of each, at most.

    No pair is in both; of an odd number of pairs the one in the middle is among the worst.
    """
    known = [(one, place) for place, one in enumerate(standings) if one is not None]
    ranked = [place for _, place in sorted(known, key=lambda item: item[0], reverse=True)]
    best = ranked[: min(most, len(ranked) // 2)]
    return best, ranked[len(best) :][-most:][::-1]


def _chosen_on(chosen: list[str], pairs: int, trained_on: int) -> str:
    words = f"{', '.join(chosen[:-1])} and {chosen[-1]} were" if len(chosen) > 1 else f"{chosen[0]} was"
    which = "which" if trained_on == pairs else f"{trained_on} of which"
    return f"{words} chosen on these pairs" + (f", {which} it was trained on" if trained_on else "")


def _describe(post_processing: PostProcessing, f1: float, without: float) -> str:
    steps = [f"{name} {value}" for name, value in asdict(post_processing).items() if value]
    if not steps:
        return "post-processing: none"
    return f"post-processing: {', '.join(steps)}; F1 on the validation pairs {without:.4f} -> {f1:.4f}"
