"""How good a recipe is where pairs are few: `python -m tests.benchmarks.leave_one_out CONFIG DATA --out RUNS`.

Trains CONFIG once for each pair of DATA (or group of pairs, --group) on all the others, and scores that pair. Nothing
is chosen on the pair that is scored: all epochs are made one, so that there is no best one to take, and the threshold
is that with the best F1 on the pairs that the other trainings left out. Prints F1 at it pair by pair, F1 at the
recipe's own threshold, the best F1 and where it lies, F1 of each site and of all pixels together, and the threshold
that is best over all. Pairs of the split test are left alone. A training that is there is not repeated, one that was
interrupted goes on, and one of something else is refused.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import segdiff
from data_pipelines.decoding import read_image, read_info, read_mask
from data_pipelines.layouts import DataError, Pair, find_pairs
from data_pipelines.published.files import write_image
from data_pipelines.validation import check
from segdiff.config import load_config
from segdiff.inference.evaluation import Truth

ROOT = Path(__file__).resolve().parents[2]
BINS = 1024


def corner_size(text: str) -> tuple[int, int]:
    """Width and height."""
    if not (found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; allowed is WIDTHxHEIGHT in pixels, such as 784x448")
    return int(found[1]), int(found[2])


def cut(pair: Pair, width: int, height: int, folder: Path) -> tuple[Pair, list[Pair]]:
    """The top left of a pair, and what lies right of it and below, written to `folder`."""
    assert pair.mask is not None
    windows = {
        "corner": (slice(height), slice(width)),
        "right": (slice(height), slice(width, None)),
        "below": (slice(height, None), slice(None)),
    }
    before, after, mask = read_image(pair.before), read_image(pair.after), read_mask(pair.mask)
    parts = {}
    for part, window in windows.items():
        name = f"{pair.name}_{part}"
        paths = [folder / role / f"{name}.png" for role in ("A", "B", "label")]
        for path, image in zip(paths, (before, after, mask), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, image[window])
        parts[part] = Pair(name, *paths, pair.split)
    return parts["corner"], [parts["right"], parts["below"]]


def train_without(group: str, trained: list[Pair], left_out: list[Pair], arguments: argparse.Namespace) -> Path:
    """The run of a training on some pairs; its val split are those that are left out."""
    run, table, asked = (arguments.out / f"{group}{ending}" for ending in ("", ".csv", ".json"))
    members = {split: [str(pair.after) for pair in of] for split, of in (("train", trained), ("val", left_out))}
    wanted = json.dumps({"config": arguments.config, "set": arguments.set, **members})
    if run.exists() and (not asked.is_file() or asked.read_text() != wanted):
        sys.exit(f"{run}: is a training of other pairs or options; give another --out, or remove it")
    asked.write_text(wanted)
    if (run / "metrics.json").is_file():
        return run
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["before", "after", "mask", "split"])
        for split, pairs in (("train", trained), ("val", left_out)):
            rows.writerows(
                [*(path.resolve() for path in (pair.before, pair.after, pair.mask)), split] for pair in pairs
            )
    command = [sys.executable, "-m", "segdiff", "train", arguments.config, "--out", str(run), "--quiet"]
    overrides = [*arguments.set, f"data.root={table}"]
    ready = ROOT / "configs" / f"{arguments.config}.yaml"
    config = load_config(ready if ready.is_file() else Path(arguments.config), overrides)
    crops = config.train.epochs * (config.train.crops_per_epoch or len(trained))
    overrides += ["train.epochs=1", f"train.crops_per_epoch={crops}", "inference.post_processing=none"]
    resume = ["--resume"] if run.exists() else []
    subprocess.run([*command, *(part for one in overrides for part in ("--set", one)), *resume], check=True)
    return run


def counts_by_threshold(run: Path, pairs: list[Pair], truth: Truth) -> dict[str, np.ndarray]:
    """Of each pair the pixels without and with change by their probability: int64 2 x BINS."""
    detector, counts = segdiff.load(run), {}
    for pair in pairs:
        probability = detector.predict(pair.before, pair.after).probability
        true = truth.read(pair)
        level = np.minimum((probability * BINS).astype(int), BINS - 1)
        counts[pair.name] = np.stack([np.bincount(level[true == kind], minlength=BINS) for kind in (0, 1)])
    return counts


def f1_by_threshold(counts: np.ndarray) -> np.ndarray:
    """F1 at the thresholds k / BINS."""
    false, hit = counts[..., ::-1].cumsum(axis=-1)[..., ::-1]
    return 2 * hit / np.maximum(hit + false + counts[1].sum(), 1)


def main() -> None:
    """Trains, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="configuration to train with, a ready one's name or a file")
    parser.add_argument("data", type=Path, help="the labelled pairs; those of a test split are left alone")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="over CONFIG, as often as wanted"
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="REGEX",
        help="pairs of whose names this part is the same are left out together: '^[a-z]+_[0-9]+'; given several times: "
        "pairs whose names match the same one, such as those that show the same ground",
    )
    parser.add_argument(
        "--corner",
        type=corner_size,
        metavar="WxH",
        help="only the top left of pairs is left out, what lies right of it and below is trained on, as the literature "
        "tests on AirChange (784x448); pairs that are smaller are trained on always",
    )
    parser.add_argument(
        "--site",
        default=".*",
        metavar="REGEX",
        help="F1 is also printed for pairs of which this part of the name is the same: '^[a-z]+'",
    )
    arguments = parser.parse_args()
    try:
        report = check(find_pairs(arguments.data))
    except DataError as error:
        parser.error(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    if report.faults or report.coding is None:
        parser.error(f"segdiff check {arguments.data} finds faults")
    truth, pairs = Truth(report.coding, 2), [pair for pair in report.data.pairs if pair.split != "test"]

    for pattern in arguments.group:
        if not any(re.search(pattern, pair.name) for pair in pairs):
            parser.error(f"--group {pattern!r} is in no name of {arguments.data}: {', '.join(p.name for p in pairs)}")

    def part(pattern: str, name: str) -> str:
        found = re.search(pattern, name)
        return found.group(0) if found else name

    def left_out_with(name: str) -> str:
        if len(arguments.group) == 1:
            return part(arguments.group[0], name)
        return next((f"group_{k}" for k, one in enumerate(arguments.group) if re.search(one, name)), name)

    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        info = read_info(pair.before)
        if not arguments.corner or (info.width > arguments.corner[0] and info.height > arguments.corner[1]):
            groups.setdefault(left_out_with(pair.name), []).append(pair)
    if not groups:
        parser.error(f"no pair of {arguments.data} can be left out: none is larger than --corner")
    counts = {}
    for group, members in groups.items():
        left_out, trained = members, [pair for pair in pairs if pair not in members]
        if arguments.corner:
            parts = [cut(pair, *arguments.corner, arguments.out / f"{group}_cut") for pair in members]
            left_out, trained = [corner for corner, _ in parts], trained + [rest for _, both in parts for rest in both]
        counts[group] = counts_by_threshold(train_without(group, trained, left_out, arguments), left_out, truth)
    sums = {group: sum(members.values()) for group, members in counts.items()}
    sites: dict[str, np.ndarray] = {}
    own_threshold = segdiff.load(arguments.out / next(iter(groups))).settings.threshold
    print(f"{'pair':24}{'threshold':>10}{'F1':>8}{f'at {own_threshold:g}':>10}{'best':>8}{'at':>8}")
    for group, members in counts.items():
        others = sum((one for name, one in sums.items() if name != group), np.zeros((2, BINS), np.int64))
        chosen = int(f1_by_threshold(others).argmax())
        for name, own in members.items():
            f1 = f1_by_threshold(own)
            stored, best = f1[round(own_threshold * BINS)], int(f1.argmax())
            print(f"{name:24}{chosen / BINS:10.3f}{f1[chosen]:8.3f}{stored:10.3f}{f1[best]:8.3f}{best / BINS:8.3f}")
            split = np.stack([own[:, :chosen].sum(axis=1), own[:, chosen:].sum(axis=1)], axis=1)
            for site in {part(arguments.site, name), "all"}:
                sites[site] = sites.get(site, np.zeros((2, 2), np.int64)) + split
    for site, ((_, false), (missed, hit)) in sorted(sites.items()):
        print(f"{site:24}{'':10}{2 * hit / max(2 * hit + false + missed, 1):8.3f}")
    everything = f1_by_threshold(sum(sums.values()))
    print(f"best threshold over all {everything.argmax() / BINS:.3f}: F1 {everything.max():.3f}")


if __name__ == "__main__":
    main()
