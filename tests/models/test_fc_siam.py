from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from segdiff.models.change_detector import ChangeDetector
from segdiff.models.fc_siam import ReplicateEdges, fc_ef, fc_siam_conc, fc_siam_diff, load_torch_state
from segdiff.models.precision import with_precision

NETWORKS = {"fc_ef": fc_ef, "fc_siam_conc": fc_siam_conc, "fc_siam_diff": fc_siam_diff}
ODD_SIZES = [(100, 84), (33, 17), (16, 16), (9, 40)]


@pytest.fixture(scope="module", params=NETWORKS)
def detector(request) -> ChangeDetector:
    """One of the three as published, with random weights; tests leave it as it is."""
    keras.utils.set_random_seed(3)
    return NETWORKS[request.param](3, 2)


def pair(height: int, width: int, *, bands: int = 3, n: int = 1, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.uniform(0, 255, (n, height, width, bands)).astype("float32") for _ in range(2)]


def log_softmax(logits) -> np.ndarray:
    return np.asarray(keras.ops.log_softmax(logits))


def random_state(network: str, bands: int = 3, classes: int = 2) -> dict[str, np.ndarray]:
    """Weights under PyTorch's names and in its shapes, from the table of the paper's figure."""
    generator = np.random.default_rng(7)
    state: dict[str, np.ndarray] = {}

    def convolution(name: str, shape: tuple[int, ...], channels: int) -> None:
        state[f"{name}.weight"] = generator.normal(0, (9 * min(shape)) ** -0.5, (*shape, 3, 3)).astype("float32")
        state[f"{name}.bias"] = generator.normal(0, 0.1, channels).astype("float32")

    def normalization(name: str, channels: int) -> None:
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 0.5)):
            state[f"{name}.{part}"] = generator.uniform(low, high, channels).astype("float32")
        for part, low, high in (("running_mean", -0.5, 0.5), ("running_var", 0.5, 2.0)):
            state[f"{name}.{part}"] = generator.uniform(low, high, channels).astype("float32")
        state[f"{name}.num_batches_tracked"] = np.array(17)

    inputs = 2 * bands if network == "fc_ef" else bands
    skipped = 2 if network == "fc_siam_conc" else 1
    for name in ("11", "12", "21", "22", "31", "32", "33", "41", "42", "43"):
        width = {"1": 16, "2": 32, "3": 64, "4": 128}[name[0]]
        convolution(f"conv{name}", (width, inputs), width)
        normalization(f"bn{name}", width)
        inputs = width
    for name in ("43", "42", "41", "33", "32", "31", "22", "21", "12", "11"):
        width = {"1": 16, "2": 32, "3": 64, "4": 128}[name[0]]
        if name in ("43", "33", "22", "12"):
            convolution(f"upconv{name[0]}", (inputs, inputs), inputs)
            inputs += skipped * width
        outputs = classes if name == "11" else width if name[1] != "1" else width // 2
        convolution(f"conv{name}d", (inputs, outputs), outputs)
        if name != "11":
            normalization(f"bn{name}d", outputs)
        inputs = outputs
    return state


def paper_in_numpy(network: str, state: dict[str, np.ndarray], before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The logits of N x H x W x bands in 0..1, from PyTorch's definitions, written without Keras and in float64."""

    def transposed(x: np.ndarray, name: str, stride: int) -> np.ndarray:
        kernel = state[f"{name}.weight"].astype("float64")
        n, height, width, _ = x.shape
        whole = np.zeros((n, (height - 1) * stride + 3, (width - 1) * stride + 3, kernel.shape[1]))
        for i in range(3):
            for j in range(3):
                rows, columns = slice(i, i + height * stride, stride), slice(j, j + width * stride, stride)
                whole[:, rows, columns][:, :height, :width] += x @ kernel[:, :, i, j]
        # padding=1 takes a pixel off every side, output_padding=1 gives that of the far sides back
        cut = whole[:, 1 : 1 + height * stride, 1 : 1 + width * stride]
        return cut + state[f"{name}.bias"]

    def convolved(x: np.ndarray, name: str) -> np.ndarray:
        kernel = state[f"{name}.weight"].astype("float64")
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("nhwcij,ocij->nhwo", windows, kernel, optimize=True) + state[f"{name}.bias"]

    def activated(x: np.ndarray, name: str) -> np.ndarray:
        weight, bias, mean, variance = (
            state[f"bn{name}.{p}"] for p in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)

    def pooled(x: np.ndarray) -> np.ndarray:
        n, height, width, channels = x.shape
        x = x[:, : height // 2 * 2, : width // 2 * 2]
        return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))

    def encoded(x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        maps = []
        for names in (("11", "12"), ("21", "22"), ("31", "32", "33"), ("41", "42", "43")):
            for name in names:
                x = activated(convolved(x, f"conv{name}"), name)
            maps.append(x)
            x = pooled(x)
        return x, maps

    images = [np.concatenate([before, after], -1)] if network == "fc_ef" else [before, after]
    encodings = [encoded(image.astype("float64")) for image in images]
    x = encodings[-1][0]
    for stage, names in ((3, ("43d", "42d", "41d")), (2, ("33d", "32d", "31d")), (1, ("22d", "21d")), (0, ("12d",))):
        skips = [maps[stage] for _, maps in encodings]
        if network == "fc_siam_diff":
            skips = [abs(skips[0] - skips[1])]
        x = transposed(x, f"upconv{stage + 1}", 2)
        missing = [(0, skips[0].shape[axis] - x.shape[axis]) for axis in (1, 2)]
        x = np.concatenate([np.pad(x, ((0, 0), *missing, (0, 0)), mode="edge"), *skips], -1)
        for name in names:
            x = activated(transposed(x, f"conv{name}", 1), name)
    return transposed(x, "conv11d", 1)


@pytest.mark.parametrize("network", ["fc_siam_conc", "fc_siam_diff"])
def test_golden_outputs_of_the_pytorch_originals(shared: Path, network: str):
    file = shared / "golden" / f"{network}.npz"
    if not file.is_file():
        pytest.skip(f"the golden output is not at {file}")
    golden = np.load(file)
    model = NETWORKS[network](3, 2)
    load_torch_state(model, {key[8:]: golden[key] for key in golden.files if key.startswith("weights/")})
    logits = model([golden["before"] * 255, golden["after"] * 255], training=False)
    # 1e-4 would pass a border of zeros instead of replicated pixels, which is 6.6e-5 off with these weights
    assert np.abs(log_softmax(logits) - golden["log_probabilities"]).max() < 1e-5


def test_same_as_the_paper_written_in_numpy(detector):
    state = random_state(detector.name)
    model = with_precision(detector, "float32")  # a copy
    load_torch_state(model, {f"module.{name}": value for name, value in state.items()})
    before, after = pair(33, 21)
    after /= 4  # noise alone looks alike in the deepest map, of which only that of after counts
    expected = paper_in_numpy(detector.name, state, before / 255, after / 255)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(model([before, after], training=False), expected, atol=1e-5 * np.abs(expected).max())


def test_trainable_parameters_are_the_published_ones(detector):
    published = {"fc_ef": 1_350_578, "fc_siam_conc": 1_545_986, "fc_siam_diff": 1_350_146}
    assert sum(int(np.prod(weight.shape)) for weight in detector.trainable_weights) == published[detector.name]


def test_is_a_change_detector_with_its_settings(detector):
    assert isinstance(detector, ChangeDetector)
    assert (detector.bands, detector.settings.stride) == (3, 16)
    assert detector.settings.classes == ("background", "change")
    for size in ODD_SIZES:
        assert detector.compute_output_shape([(2, *size, 3)] * 2) == (2, *size, 2)


def test_other_bands_and_classes():
    model = fc_ef(6, 4)
    assert model(pair(16, 20, bands=6)).shape == (1, 16, 20, 4)
    assert model.settings.classes == ("background", "class 1", "class 2", "class 3")
    assert fc_siam_diff(1, 1)(pair(16, 20, bands=1)).shape == (1, 16, 20, 1)


def test_any_size_eagerly_and_in_a_graph_of_unknown_sizes(detector):
    unknown = tf.TensorSpec((None, None, None, 3))
    graph = tf.function(lambda before, after: detector([before, after], training=False), input_signature=[unknown] * 2)
    for size in ODD_SIZES:
        images = pair(*size)
        eager = detector(images, training=False)
        assert (eager.shape, eager.dtype) == ((1, *size, 2), tf.float32)
        np.testing.assert_allclose(graph(*images), eager, atol=1e-5)


def test_small_image_is_its_replicated_self(detector):
    small = pair(9, 40)
    enlarged = [np.pad(image, ((0, 0), (0, 7), (0, 0), (0, 0)), mode="edge") for image in small]
    np.testing.assert_allclose(detector(small), np.asarray(detector(enlarged))[:, :9], atol=1e-5)


def test_images_of_two_sizes_are_refused_with_both_shapes(detector):
    with pytest.raises(ValueError, match=r"\(1, 32, 32, 3\) and \(1, 32, 48, 3\)"):
        detector([pair(32, 32)[0], pair(32, 48)[0]])


@pytest.mark.parametrize("like", [(5, 4), (6, 5), (9, 4), (2, 3)])
@pytest.mark.parametrize("known", [True, False])
def test_replicate_edges_repeats_the_last_row_and_column(like, known):
    maps, other = np.arange(2 * 5 * 4 * 3, dtype="float32").reshape(2, 5, 4, 3), np.zeros((2, *like, 7), "float32")
    layer = ReplicateEdges(minimum=5)
    height, width = (max(side, 5) for side in like)
    expected = np.pad(maps, ((0, 0), (0, height - 5), (0, width - 4), (0, 0)), mode="edge")
    call = (
        layer if known else tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, c)) for c in (3, 7)])
    )
    np.testing.assert_array_equal(call(maps, other), expected)
    assert layer.compute_output_shape(maps.shape, other.shape) == expected.shape
    assert ReplicateEdges.from_config(layer.get_config()).minimum == 5


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_train_step_in_each_precision(detector, policy):
    model = with_precision(detector, policy)
    assert model.get_layer("encoder").get_layer("conv11").compute_dtype == policy.removeprefix("mixed_")
    assert model.get_layer("rescale").compute_dtype == "float32"
    images = pair(32, 40, n=2)
    truth = (images[0][..., 0] > images[1][..., 0]).astype("int32")
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.01)
    weights = model.get_weights()
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = loss_of(truth, logits)
    gradients = tape.gradient(loss, model.trainable_weights)
    assert logits.dtype == tf.float32
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    optimizer.apply(gradients, model.trainable_weights)
    pairs = zip(model.weights, model.get_weights(), weights, strict=True)
    still = [weight.path for weight, new, old in pairs if np.array_equal(new, old)]
    # a bias that a normalization follows has no gradient but rounding; all else moves
    assert [path for path in still if not path.endswith("bias")] == []
    assert np.isfinite(loss)


def test_saved_and_loaded_it_predicts_the_same(detector, tmp_path):
    detector.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    assert loaded.settings == detector.settings
    images = pair(33, 17)
    np.testing.assert_array_equal(loaded(images, training=False), detector(images, training=False))
    # a loaded model still knows the originals' names
    load_torch_state(loaded, random_state(detector.name))


def faulty(state: dict[str, np.ndarray]) -> dict[str, tuple[dict[str, np.ndarray], str]]:
    """States that do not fit, each with what the error must say."""
    rest = {name: value for name, value in state.items() if name not in ("conv11.weight", "bn43d.running_var")}
    wide, turned = np.zeros((16, 9, 3, 3), "float32"), state["conv41d.weight"].swapaxes(0, 1)
    return {
        "missing": (rest, "conv11.weight is missing; bn43d.running_var is missing"),
        "surplus": ({**state, "conv51.weight": wide, "head": wide}, "conv51.weight is no weight .*head is no weight"),
        "shape": (
            {**state, "conv11.weight": wide},
            r"conv11.weight has shape \(16, 9, 3, 3\), .* needs \(16, [36], 3, 3\)",
        ),
        "turned": ({**state, "conv41d.weight": turned}, r"\(64, 128, 3, 3\), this network needs \(128, 64, 3, 3\)"),
        "twice": ({**state, "module.bn11.bias": state["bn11.bias"]}, "bn11.bias is there twice"),
        "all": (
            {**rest, "head": wide, "bn12.bias": wide},
            "head is no weight.*conv11.weight is missing.*bn12.bias has",
        ),
    }


@pytest.mark.parametrize("fault", ["missing", "surplus", "shape", "turned", "twice", "all"])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(detector, fault):
    state, says = faulty(random_state(detector.name))[fault]
    weights = detector.get_weights()
    with pytest.raises(ValueError, match=says) as refusal:
        load_torch_state(detector, state)
    assert str(refusal.value).startswith(f"the state does not fit {detector.name}: ")
    for weight, old in zip(detector.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_other_models_have_no_torch_state():
    inputs = keras.Input((3,))
    with pytest.raises(
        ValueError, match="'mine' has no PyTorch original, allowed are fc_ef, fc_siam_conc, fc_siam_diff"
    ):
        load_torch_state(keras.Model(inputs, inputs, name="mine"), {})
