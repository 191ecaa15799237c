import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from segdiff.models.alignment import MODES, RESIZING, AlignFeatures, aligned_shape

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
side = st.integers(1, 6)


@st.composite
def pairs_of_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of one rank, often equal or 1 along a dimension."""
    rank = draw(st.integers(2, 5))
    a = tuple(draw(side) for _ in range(rank))
    b = tuple(draw(st.sampled_from([size, 1, draw(side)])) for size in a)
    return a, b


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def works(a: tuple, b: tuple, mode: str, project: bool = False) -> bool:
    try:
        aligned_shape(a, b, mode, None, project)
    except ValueError:
        return False
    return True


@settings(max_examples=60)
@given(pairs_of_shapes(), st.sampled_from(MODES), st.booleans(), st.sampled_from(POLICIES))
def test_both_maps_get_the_promised_shape_and_dtype_or_an_error_that_helps(shapes, mode, project, policy):
    a, b = shapes
    layer = AlignFeatures(mode, project_channels=project, dtype=policy)
    if works(a, b, mode, project):
        promised = layer.compute_output_shape([a, b])
        aligned = layer([noise(a), noise(b)])
        assert [tuple(x.shape) for x in aligned] == promised == [promised[0]] * 2
        assert {keras.backend.standardize_dtype(x.dtype) for x in aligned} == {layer.compute_dtype}
    else:
        with pytest.raises(ValueError, match="cannot align") as error:
            layer([noise(a), noise(b)])
        message = str(error.value)
        assert str(a) in message
        assert str(b) in message
        assert "\n" not in message
        plain = [other for other in MODES if works(a, b, other)]
        projected = [other for other in MODES if works(a, b, other, True)]
        advised = [other for other in MODES if f"'{other}'" in message.split("; ")[-1]]
        assert advised == (plain or projected)
        assert ("project_channels=True" in message) == (not plain and bool(projected))


@settings(max_examples=30)
@given(pairs_of_shapes())
def test_broadcast_repeats_as_numpy_does(shapes):
    a, b = (noise(shape, seed) for seed, shape in enumerate(shapes))
    if works(a.shape, b.shape, "broadcast"):
        for got, want in zip(AlignFeatures("broadcast")([a, b]), np.broadcast_arrays(a, b), strict=True):
            np.testing.assert_array_equal(got, want)


@settings(max_examples=30)
@given(st.lists(st.tuples(side, side), min_size=1, max_size=3))
def test_crop_cuts_the_centre(sizes):
    a, b = noise((2, *(x for x, _ in sizes), 3)), noise((2, *(y for _, y in sizes), 3), 1)

    def centre(x: np.ndarray) -> np.ndarray:
        for axis, want in enumerate(map(min, sizes), start=1):
            start = (x.shape[axis] - want) // 2
            x = np.take(x, range(start, start + want), axis)
        return x

    for got, want in zip(AlignFeatures("crop")([a, b]), (centre(a), centre(b)), strict=True):
        np.testing.assert_array_equal(got, want)


@settings(max_examples=30)
@given(st.tuples(side, side), st.tuples(side, side), st.none() | st.tuples(side, side))
def test_resize_is_bilinear_with_pixel_centres_at_half_integers(size_a, size_b, size):
    a, b = noise((1, *size_a, 2)), noise((1, *size_b, 2), 1)
    height, width = size or size_a
    for got, source in zip(AlignFeatures("resize", size=size)([a, b]), (a, b), strict=True):
        want = cv2.resize(source[0], (width, height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(got[0], want.reshape(height, width, 2), atol=1e-5)


def test_resize_of_other_ranks_is_linear_along_each_dimension():
    series, picture = noise((2, 5, 3)), noise((2, 8, 3), 1)
    _, got = AlignFeatures("resize")([series, picture])
    np.testing.assert_allclose(got, tf.image.resize(picture[:, :, None], (5, 1))[:, :, 0], atol=1e-6)
    # A volume that is a product of three lines is resized to the product of the resized lines.
    lines = [noise((1, n, 1), n) for n in (4, 6, 3)]
    resized = [AlignFeatures("resize", size=(n,))([line, line])[0] for line, n in zip(lines, (7, 2, 5), strict=True)]

    def product(x, y, z):
        return np.einsum("nic,njc,nkc->nijkc", x, y, z)

    got, _ = AlignFeatures("resize", size=(7, 2, 5))([product(*lines)] * 2)
    np.testing.assert_allclose(got, product(*resized), atol=1e-6)


@pytest.mark.parametrize(
    ("size_b", "size", "cut"),
    [
        ((30, 30), None, (slice(4, 26), slice(0, 30))),  # 60 x 80 is 4:3, of 30 x 30 that leaves 22 x 30
        ((30, 80), None, (slice(0, 30), slice(20, 60))),
        ((30, 40), None, (slice(0, 30), slice(0, 40))),
        ((30, 80), (10, 10), (slice(0, 30), slice(25, 55))),
    ],
)
def test_crop_resize_keeps_the_largest_part_of_the_targets_proportions(size_b, size, cut):
    a, b = noise((1, 60, 80, 1)), noise((1, *size_b, 1), 1)
    got_a, got_b = AlignFeatures("crop_resize", size=size)([a, b])
    height, width = size or (60, 80)
    want_b = cv2.resize(np.ascontiguousarray(b[0][cut]), (width, height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(got_b[0, ..., 0], want_b, atol=1e-5)
    want_a = a[0, ..., 0] if size is None else cv2.resize(np.ascontiguousarray(a[0, :, 10:70]), (width, height))
    np.testing.assert_allclose(got_a[0, ..., 0], want_a, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_sizes_known_at_run_time_only_give_the_same_as_known_ones(mode):
    a = noise((2, 9, 7, 3))
    b = noise({"strict": (2, 9, 7, 3), "broadcast": (2, 9, 1, 1)}.get(mode, (2, 6, 11, 1)), 1)
    layer = AlignFeatures(mode)
    unknown = [tf.TensorSpec((None, None, None, x.shape[-1])) for x in (a, b)]
    got = tf.function(lambda x, y: layer([x, y]), input_signature=unknown)(a, b)
    for x, y in zip(got, layer([a, b]), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_equal_shapes_pass_through_without_one_operation(mode):
    layer = AlignFeatures(mode, project_channels=True)
    spec = tf.TensorSpec((None, 8, 8, 3))
    graph = tf.function(lambda x, y: layer([x, y]), input_signature=[spec, spec]).get_concrete_function().graph
    assert {operation.type for operation in graph.get_operations()} <= {"Placeholder", "Identity", "NoOp"}
    assert layer.weights == []


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["broadcast", "crop", "resize", "crop_resize"])
def test_one_training_step_moves_what_lies_before_the_alignment(mode, policy):
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((8, 8, 2), dtype="float32"), keras.Input((8, 8, 2), dtype="float32")]
    stride = 8 if mode == "broadcast" else 2
    maps = [
        layers.Conv2D(3, 1, dtype=policy)(inputs[0]),
        layers.Conv2D(2, stride, strides=stride, dtype=policy)(inputs[1]),
    ]
    aligned = AlignFeatures(mode, project_channels=True, dtype=policy)(maps)
    outputs = layers.Subtract(dtype="float32")(aligned)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    old = [w.numpy() for w in model.weights]
    x = [noise((2, 8, 8, 2)), noise((2, 8, 8, 2), 1)]
    loss = model.fit(x, noise((2, *model.output_shape[1:]), 2), verbose=0).history["loss"][0]
    assert np.isfinite(loss)
    assert len(old) == 6
    assert all(np.isfinite(w.numpy()).all() and (w.numpy() != v).any() for w, v in zip(model.weights, old, strict=True))


def test_resized_half_precision_trains_under_xla():
    # XLA cannot mix the float32 gradient of a bilinear kernel with the bfloat16 of the activation before it.
    inputs = [keras.Input((4, 4, 2)), keras.Input((3, 3, 2))]
    maps = [layers.Conv2D(2, 1, activation="relu", dtype="mixed_bfloat16")(x) for x in inputs]
    aligned = AlignFeatures("resize", dtype="mixed_bfloat16")(maps)
    model = keras.Model(inputs, layers.Subtract(dtype="float32")(aligned))
    model.compile("sgd", "mse", jit_compile=True)
    x = [noise((2, 4, 4, 2)), noise((2, 3, 3, 2), 1)]
    assert np.isfinite(model.fit(x, noise((2, 4, 4, 2), 2), verbose=0).history["loss"][0])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool", "float64"])
def test_every_dtype_is_cast_to_the_compute_dtype(dtype):
    a = np.array([[0, 1, 1]], dtype)
    for policy in ("float32", "mixed_bfloat16"):
        for got in AlignFeatures(dtype=policy)([a, a]):
            assert keras.backend.standardize_dtype(got.dtype) == keras.DTypePolicy(policy).compute_dtype
            np.testing.assert_array_equal(keras.ops.cast(got, "float32"), [[0.0, 1.0, 1.0]])


def test_projection_is_a_learned_matrix_over_the_channels():
    a, b = noise((2, 4, 4, 3)), noise((2, 4, 4, 5), 1)
    layer = AlignFeatures(project_channels=True)
    _, got = layer([a, b])
    kernel, bias = layer.trainable_weights
    np.testing.assert_allclose(got, b @ kernel.numpy() + bias.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_config_and_file_bring_the_layer_back(mode, tmp_path):
    size = (5, 6) if mode in RESIZING else None
    layer = AlignFeatures(mode, size=size, project_channels=True, dtype="mixed_bfloat16", name="aligned")
    assert AlignFeatures.from_config(layer.get_config()).get_config() == layer.get_config()
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 2))]
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    x = [noise((2, 8, 8, 3)), noise((2, 8, 8, 2), 1)]
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("aligned").get_config() == layer.get_config()
    for got, want in zip(loaded(x), model(x), strict=True):
        np.testing.assert_array_equal(keras.ops.cast(got, "float32"), keras.ops.cast(want, "float32"))


def test_strict_prints_both_shapes_in_full_and_what_would_work():
    with pytest.raises(ValueError, match="channels 3 and 1 differ") as error:
        AlignFeatures()([keras.Input((62, 62, 3)), keras.Input((62, 62, 1))])
    message = str(error.value)
    assert "(None, 62, 62, 3) and (None, 62, 62, 1)" in message
    assert message.endswith("modes that would work: 'broadcast', 'crop', 'resize', 'crop_resize'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "stretch"}, "'stretch' is not known"),
        ({"mode": "crop", "size": (3, 3)}, "no meaning with mode='crop'"),
        ({"mode": "resize", "size": (3, 0)}, "positive whole numbers"),
        ({"mode": "resize", "size": (3.5, 3)}, "positive whole numbers"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignFeatures(**arguments)


def test_shapes_no_mode_can_align_are_refused():
    with pytest.raises(ValueError, match=r"ranks are 2 and 4.*no mode would work"):
        AlignFeatures("crop")([keras.Input((3,)), keras.Input((8, 8, 3))])
    with pytest.raises(ValueError, match="2 numbers for 1 spatial"):
        AlignFeatures("resize", size=(4, 4))([keras.Input((8, 3)), keras.Input((8, 3))])
    with pytest.raises(ValueError, match="must be known for a projection"):
        AlignFeatures(project_channels=True)([keras.Input((8, 8, None)), keras.Input((8, 8, 3))])
