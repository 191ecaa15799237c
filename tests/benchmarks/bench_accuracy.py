"""Time to accuracy: `python -m tests.benchmarks.bench_accuracy [SET ...] [--crops 10000] [--every 500]`.

Trains the published `fc_siam_diff` and our default on the same pairs with the same crops, recipe and seed, a stretch of
each in turn, and prints after each the best F1 on the validation pairs, the seconds of training so far (validation left
out, building the graph included) and pairs a second, side by side. SET is `deeppcb`, boards by
`configs/deeppcb_binary.yaml`, or `levir_cd_half`, buildings at 1 m by `configs/levir_cd.yaml`; by default both.

Of the boards, on 2 cores of AMD Zen 4 (AVX512-BF16, no AMX), one run: fc_siam_diff, 1,352,145 parameters, stands at
0.636 after 1,000 crops (126 s) and between 0.660 and 0.673 from 3,000 on, 0.668 at the end after 1,478 s; unet_diff,
484,225 parameters, has 0.701 after 1,000 crops (81 s), 0.782 after 4,500 (353 s, a quarter of the other's time) and
0.805 at the end after 783 s.

Of the buildings, on 2 cores of an Intel Xeon with AMX, one run of 38 minutes: fc_siam_diff, 1,352,433 parameters, has
0.297 after 2,500 crops (342 s) and ends at 0.347 after 1,249 s; unet_diff, 1,438,369 parameters, has 0.416 after 1,000
crops (61 s, x 0.05 of the time), 0.579 after 2,500 (184 s) and 0.745 at the end after 707 s. Both went at either of two
speeds, stretch by stretch, the one up to twice the other. On AMD Zen 4 without AMX, with `--crops 2500`: 0.300 after
413 s, and 0.316 after 99 s and 0.602 after 315 s.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import keras

from data_pipelines.pipeline import PairStore, training_batches, whole_image_batches
from segdiff.config import load_config
from segdiff.models import build_change_detector
from segdiff.models.precision import choose_precision, with_precision
from segdiff.training import trainer
from segdiff.training.losses import ChangeLoss
from segdiff.training.metrics import ChangeScores

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SEGDIFF_SHARED", ROOT.parent / "shared")) / "data"
RECIPES = {"deeppcb": "deeppcb_binary", "levir_cd_half": "levir_cd"}
"""The ready configuration of each data set."""
PUBLISHED, OURS = "fc_siam_diff", "unet_diff"


@dataclass(frozen=True)
class Point:
    """Where a training stands."""

    crops: int
    seconds: float
    f1: float


class Training:
    """A network on its way through the crops; the parts are the trainer's, the clock stands still in validation."""

    def __init__(self, architecture: str, data_set: str, root: Path, crops: int, every: int):
        overrides = [f"data.root={root}", f"model.architecture={architecture}"]
        overrides += [f"train.epochs={crops // every}", f"train.crops_per_epoch={every}"]
        self.config = load_config(ROOT / "configs" / f"{RECIPES[data_set]}.yaml", overrides)
        config, data = self.config, trainer.read_data(self.config, print)
        self.store = PairStore(data.pairs, bands=config.data.bands, binary=config.data.binary, cache="memory")
        self.plan = trainer._crop_plan(config, data, config.seed or 0)
        keras.utils.set_random_seed(self.plan.seed)
        precision, _ = choose_precision(config.train.precision)
        self.model = with_precision(build_change_detector(config.model, bands=config.data.bands), precision)
        self.model.compile(
            trainer._optimizer(config, self.model, self.plan.steps_per_epoch * config.train.epochs, precision),
            ChangeLoss(config.train.loss),
            metrics=[ChangeScores(len(data.classes))],
            jit_compile=False,
        )
        kept = [index for root in data.val for index in root]
        pixels = config.train.batch * config.data.crop**2
        self.val = whole_image_batches(self.store, kept, multiple=self.model.settings.stride, batch_pixels=pixels)
        for index in [index for root in (*data.train, *data.val) for index in root]:
            self.store[index]  # decoded before the clock runs
        self.points: list[Point] = []

    def go_on(self) -> str:
        """One stretch more, and how it went."""
        epoch, steps = len(self.points), self.plan.steps_per_epoch
        augmentation = trainer._augmentation(self.config)
        batches = training_batches(
            self.store, self.plan, augmentation, first_step=epoch * steps, steps=(epoch + 1) * steps
        )
        began = time.perf_counter()
        self.model.fit(batches, initial_epoch=epoch, epochs=epoch + 1, verbose=0, shuffle=False)
        lasted = time.perf_counter() - began
        f1 = float(self.model.evaluate(self.val, verbose=0, return_dict=True)["f1"])
        crops = self.plan.crops_per_epoch
        before = self.points[-1] if self.points else Point(0, 0.0, 0.0)
        self.points.append(Point(before.crops + crops, before.seconds + lasted, f1))
        return f"{f1:8.4f}{self.points[-1].seconds:9.0f}{crops / lasted:9.1f}"


def compare(data_set: str, root: Path, crops: int, every: int) -> None:
    """Prints the table of a data set and how much sooner ours is where the published network ends."""
    names = (PUBLISHED, OURS)
    trainings = {name: Training(name, data_set, root, crops, every) for name in names}
    print(f"\n{data_set}: configs/{RECIPES[data_set]}.yaml")
    print(
        f"{'':8}" + "".join(f"{f'{name}, {trainings[name].model.count_params():,} parameters':>34}" for name in names)
    )
    print(f"{'crops':>8}" + f"{'':8}{'val F1':>8}{'s':>9}{'pairs/s':>9}" * 2)
    for stretch in range(1, crops // every + 1):
        row = "".join(f"{'':8}{trainings[name].go_on()}" for name in names)
        print(f"{stretch * every:8}{row}", flush=True)

    goal = trainings[PUBLISHED].points[-1]
    reached = next((point for point in trainings[OURS].points if point.f1 >= goal.f1), None)
    if reached is None:
        print(f"{OURS} has not reached the F1 of {goal.f1:.4f} that {PUBLISHED} ended with")
    else:
        print(
            f"{PUBLISHED} ended with F1 {goal.f1:.4f} after {goal.seconds:.0f} s; {OURS} had {reached.f1:.4f} after "
            f"{reached.seconds:.0f} s and {reached.crops} crops: x {reached.seconds / goal.seconds:.2f} of the time"
        )


def main() -> None:
    """Compares them on every data set that is asked for."""
    parser = argparse.ArgumentParser(description="Time to accuracy.")
    parser.add_argument("sets", metavar="SET", nargs="*", default=list(RECIPES), help=" or ".join(RECIPES))
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that holds the data sets")
    parser.add_argument("--crops", type=int, default=10_000, help="each network is trained on")
    parser.add_argument("--every", type=int, default=500, help="crops between two validations")
    arguments = parser.parse_args()
    if arguments.every < 1 or arguments.crops < arguments.every or arguments.crops % arguments.every:
        parser.error(f"--crops is {arguments.crops}, it must be a multiple of --every, {arguments.every}")
    for data_set in arguments.sets:
        if data_set not in RECIPES:
            parser.error(f"there is no recipe for {data_set}: take {' or '.join(RECIPES)}")
        if not (arguments.data / data_set).exists():
            parser.error(f"there is no {arguments.data / data_set}: name the folder of the data sets with --data")
    for data_set in arguments.sets:
        compare(data_set, arguments.data / data_set, arguments.crops, arguments.every)


if __name__ == "__main__":
    main()
