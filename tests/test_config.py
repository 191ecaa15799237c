from pathlib import Path

import pytest
import yaml

from segdiff.config import (
    Config,
    ConfigError,
    DataRoot,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    dump_config,
    load_config,
)
from segdiff.resources import shipped

READY = sorted(shipped("configs").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def refusal(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------------------------ what is taken


def test_nothing_given_is_the_default():
    assert load_config() == Config()


def test_an_empty_file_is_the_default(tmp_path):
    assert load_config(write(tmp_path, "# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("written", "roots"),
    [
        ("some/folder", (DataRoot(path="some/folder"),)),
        ("[a, b.csv]", (DataRoot(path="a"), DataRoot(path="b.csv"))),
        ("[{path: a, weight: 2}, {path: b}]", (DataRoot(path="a", weight=2.0), DataRoot(path="b"))),
        ("[a, {path: b, weight: 0.5}]", (DataRoot(path="a"), DataRoot(path="b", weight=0.5))),
        ("{path: a, weight: 3}", (DataRoot(path="a", weight=3.0),)),
        ("null", ()),
    ],
)
def test_root_is_a_path_a_list_or_a_list_of_mappings(tmp_path, written, roots):
    assert load_config(write(tmp_path, f"data:\n  root: {written}\n")).data.root == roots
    assert load_config(None, [f"data.root={written}"]).data.root == roots


def test_overrides_lie_over_the_file_and_the_last_one_counts(tmp_path):
    path = write(tmp_path, "train: {epochs: 5, batch: 3}\ndata:\nmodel: {encoder: {channels: [2, 4]}}\n")
    config = load_config(
        path,
        [
            "train.epochs=7",
            "train.epochs=9",
            "data.crop=64",
            "data.augmentation.flip=false",
            "data.augmentation.jpeg=null",
            "train.learning_rate=1e-4",
            "train.loss={dice: 2}",
            "model.difference=signed",
            "data.root=a=b",
            "seed=null",
        ],
    )
    assert (config.train.epochs, config.train.batch, config.data.crop) == (9, 3, 64)
    assert config.data.augmentation.flip is False
    assert config.data.augmentation.jpeg is None
    assert config.train.learning_rate == 1e-4
    assert config.train.loss == {"dice": 2.0}
    assert (config.model.difference, config.model.encoder.channels) == ("signed", (2, 4))
    assert config.data.root == (DataRoot(path="a=b"),)
    assert config.seed is None


def test_post_processing_is_a_word_or_a_section(tmp_path):
    file = write(tmp_path, "inference: {post_processing: none}\n")
    assert load_config(file).inference.post_processing == "none"
    chosen = load_config(write(tmp_path, "inference: {post_processing: {closing: 2, vote: true}}\n"))
    steps = chosen.inference.post_processing
    assert (steps.closing, steps.fill_holes, steps.vote, steps.minimum_area) == (2, 0, True, 0)
    assert load_config(write(tmp_path, dump_config(chosen))) == chosen


def test_the_full_configuration_comes_back_from_what_was_written(tmp_path):
    config = load_config(
        None,
        [
            "data.root=[a, {path: 'b c', weight: 0.25}]",
            "data.classes=[keine Änderung, 'no', '1']",
            "data.cache=none",
            "model.decoder.channels=[8, 8, 8]",
            "train.loss={lovasz: 1, focal: 0.1}",
            "train.learning_rate=3e-7",
            "seed=null",
        ],
    )
    for some in (config, Config()):
        text = dump_config(some)
        assert load_config(write(tmp_path, text)) == some
    assert set(yaml.safe_load(text)) == {"seed", "data", "model", "train", "inference"}
    assert yaml.safe_load(text)["data"]["augmentation"]["flip"] is True  # defaults are written too


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_configurations_load_and_hold_no_path(path):
    config = load_config(path)
    assert config.data.root == ()
    assert config.train.init_from in {None, *(file.stem for file in shipped("checkpoints").glob("*.keras"))}
    assert config.inference.tile % 2 ** (len(config.model.encoder.channels) - 1) == 0
    assert config.inference.overlap < config.inference.tile
    values = path.read_text().split("\n")
    assert not [line for line in values if "/" in line.partition("#")[0]]


def test_the_three_ready_configurations_are_there():
    assert {"demo", "deeppcb_binary", "levir_cd"} <= {path.stem for path in READY}
    boards = load_config(shipped("configs") / "deeppcb_binary.yaml")
    assert boards.data.binary
    assert boards.data.bands == 1
    assert boards.train.epochs * (boards.train.crops_per_epoch or 0) <= 10_000
    assert boards.data.crop == 256


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "train.epoch=3",
            ["train.epoch: unknown key (value 3)", "did you mean epochs?", "Allowed here: epochs, batch"],
        ),
        ("trian.epochs=3", ["trian: unknown key", "did you mean train?"]),
        ("learning_rate=3", ["learning_rate: unknown key", "did you mean train.learning_rate?"]),
        ("data.augmentation.colour=1", ["data.augmentation.colour: unknown key (value 1)", "Allowed here: flip"]),
        ("model.encoder.chanels=[1]", ["model.encoder.chanels", "did you mean channels?"]),
        ("data.root=[{path: a, weigth: 1}]", ["data.root.0.weigth: unknown key", "did you mean weight?"]),
        ("data.root=[{weight: 1}]", ["data.root.0.path", "field required"]),
        ("data.root=[{path: a, weight: 0}]", ["data.root.0.weight: got 0, input should be greater than 0"]),
        ("data.root=7", ["data.root.0: got 7"]),
        ("data.cache=disc", ["data.cache: got 'disc'", "'memory', 'disk' or 'none'", "did you mean disk?"]),
        ("model.architecture=unet", ["model.architecture: got 'unet'", "unet_diff"]),
        ("model.difference=sined", ["model.difference: got 'sined'", "did you mean signed?"]),
        ("train.precision=fp16", ["train.precision: got 'fp16'", "'auto', 'float32'"]),
        ("train.epochs=0", ["train.epochs: got 0, input should be greater than or equal to 1"]),
        ("train.epochs=2.5", ["train.epochs: got 2.5", "integer"]),
        ("train.epochs=many", ["train.epochs: got 'many'", "integer"]),
        ("data.val_fraction=1", ["data.val_fraction: got 1, input should be less than 1"]),
        ("data.crop=8", ["data.crop: got 8", "greater than or equal to 16"]),
        ("data.ignore=256", ["data.ignore: got 256", "less than or equal to 255"]),
        ("data.classes=[change]", ["data.classes: got ['change']", "at least 2"]),
        ("data.binary=perhaps", ["data.binary: got 'perhaps'", "boolean"]),
        ("train.loss={dyce: 1}", ["train.loss.dyce", "'cross_entropy', 'focal', 'dice'", "did you mean dice?"]),
        ("train.loss={dice: 0}", ["train.loss.dice: got 0, input should be greater than 0"]),
        ("train.loss={}", ["train.loss: got {}", "at least 1"]),
        ("model.encoder.channels=[4]", ["model.encoder.channels: got [4]", "at least 2"]),
        (
            "model.encoder.channels=[4, 0]",
            ["--set: model.encoder.channels.1: got 0, input should be greater than or equal to 1"],
        ),
        ("model.decoder={name: fpn, channels: [4]}", ["model.decoder: fpn has as many channels on every level"]),
        (
            "model.decoder={name: mlp, attention: true}",
            ["model.decoder: mlp has no attention, only the decoder unet has"],
        ),
        ("model.decoder.channels=8", ["model.decoder: unet has channels of its own on each level"]),
        ("model.encoder.name=resnet19", ["model.encoder.name: got 'resnet19'", "did you mean resnet18?"]),
        ("model.encoder={name: resnet18, norm: group}", ["model.encoder: resnet18 is built as published", "norm"]),
        ("model.encoder.weights=imagenet", ["model.encoder: unet has no weights but random ones"]),
        ("model.encoder.levels=3", ["model.encoder: the levels of unet are as many as its channels"]),
        ("model={shared_encoder: true, encoder_after: {}}", ["model: shared_encoder is true, and encoder_after"]),
        ("model.encoder_after={channels: 3}", ["model.encoder_after.channels: got 3"]),
        ("model.encoder_after.nam=mit_b0", ["model.encoder_after.nam", "did you mean name?"]),
        (
            "model={architecture: pretrained_diff, encoder: {weights: null}}",
            ["model: pretrained_diff needs encoder.weights: imagenet"],
        ),
        (
            "inference.post_processing=no",
            ["inference.post_processing: got False", "'auto' or 'none', or a section with the keys closing"],
        ),
        ("inference.post_processing={closing: -1}", ["--set: inference.post_processing.closing: got -1, input should"]),
        ("inference.post_processing.vot=true", ["inference.post_processing.vot: unknown key", "did you mean vote?"]),
        ("seed=-1", ["seed: got -1"]),
        ("train=3", ["train: got 3"]),
        ("train.epochs", ["--set train.epochs: is not KEY=VALUE", "--set train.epochs=3"]),
        ("=3", ["--set =3: is not KEY=VALUE"]),
        ("seed.more=3", ["--set seed.more=3: seed is a value, it has no more"]),
        ("train.loss={dice", ["--set train.loss={dice: the value is not YAML"]),
    ],
)
def test_what_is_wrong_is_said_with_key_value_and_mend(tmp_path, override, words):
    message = refusal(write(tmp_path, "seed: 1\n"), override)
    for part in words:
        assert part in message


def test_the_file_is_named_and_every_mistake_at_once(tmp_path):
    path = write(tmp_path, "train: {epochs: 0, bach: 2}\ndata: {cache: ram}\n")
    message = refusal(path)
    assert message.count(f"{path}: ") == 3
    assert "did you mean batch?" in message
    assert refusal(None, "train.epochs=0").startswith("--set: train.epochs")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [", "is not YAML"),
        ("- 1\n", "holds list, a configuration is a mapping of sections"),
        ("3", "holds int, a configuration is a mapping of sections"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, words):
    path = write(tmp_path, text)
    assert words in refusal(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert refusal(tmp_path / "gone.yaml") == f"{tmp_path / 'gone.yaml'}: cannot be read: No such file or directory"
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80")
    assert "is not YAML" in refusal(tmp_path / "binary.yaml")


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config().train.epochs = 3  # type: ignore[misc]


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("train:\n  epochs: 3\n  epochs: 4\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml.*'epochs' stands twice.*line 3"):
        load_config(file)


def test_another_choice_leaves_out_what_the_file_says_of_the_former(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("model: {encoder: {channels: [4, 8], norm: group}, decoder: {channels: [3]}, difference: signed}\n")
    same = load_config(file, ["model.encoder.name=unet", "model.architecture=unet_diff"]).model
    assert (same.encoder.channels, same.encoder.norm, same.decoder.channels) == ((4, 8), "group", (3,))
    other = load_config(file, ["model.encoder.name=resnet18", "model.decoder.name=fpn"]).model
    assert (other.encoder, other.decoder, other.difference) == (
        EncoderConfig(name="resnet18"),
        DecoderConfig(name="fpn"),
        "signed",
    )
    assert load_config(file, ["model.architecture=fc_siam_diff"]).model == ModelConfig(architecture="fc_siam_diff")
    assert load_config(file, ["model.architecture=pretrained_diff"]).model.encoder.name == "efficientnet_lite_b0"
    assert load_config(file, ['model.encoder.name="unet"']).model.encoder.channels == (4, 8)
    file.write_text("model: {architecture: pretrained_diff, encoder: {freeze: true, levels: 4}}\n")
    assert load_config(file, ["model.encoder.name=efficientnet_lite_b0"]).model.encoder.levels == 4
    for overrides in (["model.encoder.norm=group", "model.encoder.name=resnet18"], ["model.encoder.name=resnet19"]):
        with pytest.raises(ConfigError, match=r"--set: model\.encoder"):
            load_config(file, overrides)


@pytest.mark.parametrize("file", READY, ids=lambda path: path.stem)
def test_every_ready_configuration_takes_another_network(file):
    for choice in ("architecture=fc_ef", "architecture=pretrained_diff", "encoder.name=mit_b0", "decoder.name=mlp"):
        load_config(file, [f"model.{choice}"])
