import doctest
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from segdiff.config import EncoderConfig, ModelConfig
from segdiff.models import alignment, build_change_detector, subtraction
from segdiff.models.alignment import aligned_shape
from segdiff.models.subtraction import subtract_models


@pytest.fixture(autouse=True)
def _quiet_graphs():
    """No warning goes by unseen: Keras warns of mismatched structures and names instead of raising."""
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def dense(width: int, units: int = 4, name: str | None = None) -> keras.Sequential:
    return keras.Sequential([keras.Input((width,)), layers.Dense(units)], name=name)


def convolution(channels: int, name: str | None = None, size: int = 8) -> keras.Sequential:
    return keras.Sequential([keras.Input((size, size, 3)), layers.Conv2D(channels, 3)], name=name)


def pyramid(kind: str, name: str | None = None) -> keras.Model:
    image = keras.Input((8, 8, 3))
    fine = layers.Conv2D(2, 1, name="fine_conv")(image)
    coarse = layers.Conv2D(3, 2, strides=2, name="coarse_conv")(fine)
    outputs = {"list": [fine, coarse], "tuple": (fine, coarse), "dict": {"fine": fine, "coarse": coarse}}[kind]
    return keras.Model(image, outputs, name=name)


def merging(kind: str) -> keras.Model:
    fine, coarse = keras.Input((8, 8, 2), name="fine"), keras.Input((4, 4, 3), name="coarse")
    inputs = {"list": [fine, coarse], "tuple": (fine, coarse), "dict": {"fine": fine, "coarse": coarse}}[kind]
    merged = layers.Concatenate()([layers.AveragePooling2D(2)(fine), coarse])
    return keras.Model(inputs, layers.Conv2D(1, 1)(merged), name="merging")


def train_a_step(model: keras.Model, x, loss: str = "mse") -> None:
    """One step of fit; every trainable weight moves and stays finite, and no other changes."""
    units = model.output_shape
    y = np.zeros((2,), "int64") if "categorical" in loss else np.ones((2, *units[1:]), "float32") * 3
    old = {id(w): w.numpy() for w in model.weights}
    model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])
    trainable = {id(w) for w in model.trainable_weights}
    for w in model.weights:
        assert np.isfinite(w.numpy()).all(), w.path
        assert (id(w) in trainable) == bool((w.numpy() != old[id(w)]).any()), w.path


def assert_survives(model: keras.Model, x, folder) -> keras.Model:
    """Saved and loaded, or rebuilt from its config, the model predicts the same."""
    want = model(x)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    np.testing.assert_allclose(loaded(x), want, atol=1e-6)
    assert len(loaded.weights) == len(model.weights)
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    rebuilt = keras.Model.from_config(model.get_config())
    rebuilt.set_weights(model.get_weights())
    np.testing.assert_allclose(rebuilt(x), want, atol=1e-6)
    return loaded


def assert_exports(model: keras.Model, x, folder) -> None:
    model.export(folder / "exported", verbose=False)
    exported = tf.saved_model.load(folder / "exported")
    np.testing.assert_allclose(exported.serve(keras.tree.map_structure(tf.constant, x)), model(x), atol=1e-6)


# The three questions people ask.


def test_two_dense_models_into_a_softmax(tmp_path):
    model_a = keras.Sequential([keras.Input((20,)), layers.Dense(128, activation="tanh")])
    model_b = keras.Sequential([keras.Input((30,)), layers.Dense(128, activation="tanh")])
    model_c = keras.Sequential([keras.Input((128,)), layers.Dense(10, activation="softmax")])
    model = subtract_models(model_a, model_b, model_c)
    assert [x.shape for x in model.inputs] == [(None, 20), (None, 30)]
    assert model.output_shape == (None, 10)
    x = [noise(2, 20), noise(2, 30, seed=1)]
    np.testing.assert_allclose(model(x), model_c(model_a(x[0]) - model_b(x[1])), atol=1e-6)
    train_a_step(model, x, "sparse_categorical_crossentropy")
    assert_survives(model, x, tmp_path)
    assert_exports(model, x, tmp_path)


def test_valid_convolutions_of_three_and_of_one_channel_into_a_dense_softmax(tmp_path):
    model_a, model_b = convolution(3, size=64), convolution(1, size=64)

    def head(size: int) -> keras.Sequential:
        return keras.Sequential(
            [layers.Reshape((size * size * 3,)), layers.Dense(10, activation="softmax")], name=f"head_{size}"
        )

    with pytest.raises(ValueError, match="modes that would work: 'broadcast'") as error:
        subtract_models(model_a, model_b, head(62))
    assert "(None, 62, 62, 3) and (None, 62, 62, 1)" in str(error.value)

    with pytest.raises(ValueError, match="total size of the tensor must be unchanged") as error:
        subtract_models(model_a, model_b, head(64), align="broadcast")
    message = str(error.value)
    assert "difference (None, 62, 62, 3)" in message
    assert 'padding="valid"' in message
    assert 'align="resize" with size' in message
    assert "\n" not in message
    assert "\x1b" not in message

    built_for_64 = keras.Sequential([keras.Input((64, 64, 3)), layers.Flatten(), layers.Dense(10)])
    with pytest.raises(ValueError, match=r'takes \(None, 64, 64, 3\).* is \(None, 62, 62, 3\).*padding="same"'):
        subtract_models(model_a, model_b, built_for_64, align="broadcast")
    assert subtract_models(model_a, model_b, built_for_64, align="resize", size=(64, 64)).output_shape == (None, 10)

    model = subtract_models(model_a, model_b, head(62), align="broadcast")
    x = [noise(2, 64, 64, 3), noise(2, 64, 64, 3, seed=1)]
    train_a_step(model, x, "sparse_categorical_crossentropy")
    assert_survives(model, x, tmp_path)
    assert_exports(model, x, tmp_path)


def test_one_input_through_two_dense_branches_trained_as_one(tmp_path):
    model = subtract_models(dense(5, 8), dense(5, 8), layers.Dense(3), shared_input=True, name="branches")
    assert model.name == "branches"
    assert [x.shape for x in model.inputs] == [(None, 5)]
    train_a_step(model, noise(2, 5))
    assert_survives(model, noise(2, 5), tmp_path)
    assert_exports(model, noise(2, 5), tmp_path)


# Shapes, dtypes and modes.

side = st.integers(1, 4)


@settings(max_examples=30)
@given(
    st.integers(2, 4).flatmap(lambda rank: st.lists(st.tuples(side, side), min_size=rank - 1, max_size=rank - 1)),
    st.sampled_from(alignment.MODES),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16", "int32"]),
)
def test_every_pair_of_shapes_is_subtracted_or_refused(sides, align, project, dtype):
    shape_a, shape_b = zip(*sides, strict=True)

    def cast(shape: tuple[int, ...]) -> keras.Model:
        inputs = keras.Input(shape)
        return keras.Model(inputs, keras.ops.cast(inputs * 3.0, dtype))

    full_a, full_b = (None, *shape_a), (None, *shape_b)
    x = [noise(2, *shape_a), noise(2, *shape_b, seed=1)]
    try:
        common = aligned_shape(full_a, full_b, align, None, project)
    except ValueError:
        with pytest.raises(ValueError, match="cannot align"):
            subtract_models(cast(shape_a), cast(shape_b), layers.Identity(), align=align, project_channels=project)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = subtract_models(cast(shape_a), cast(shape_b), layers.Identity(), align=align, project_channels=project)
    outputs = f"the outputs {full_a} {dtype} of model_a and {full_b} {dtype} of model_b"
    said = [] if dtype == "float32" else [f"{outputs} are cast to float32 to be subtracted"]
    assert [str(w.message) for w in caught] == said
    assert model.output_shape == common
    got = model(x)
    assert tuple(got.shape) == (2, *common[1:])
    if shape_a == shape_b:
        want = [keras.ops.cast(keras.ops.cast(part * np.float32(3.0), dtype), "float32") for part in x]
        np.testing.assert_array_equal(got, want[0] - want[1])


def test_a_cast_under_mixed_precision_is_said_and_trains():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model_a = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3, dtype="float32")])
        model_b = keras.Sequential([keras.Input((6, 9, 3)), layers.Conv2D(2, 3)])
        head = keras.Sequential([layers.Flatten(), layers.Dense(1, dtype="float32")])
        with pytest.warns(UserWarning, match=r"\(None, 6, 6, 2\) float32 .* bfloat16 of model_b are cast to bfloat16"):
            model = subtract_models(model_a, model_b, head, align="crop_resize", difference="normalized")
        train_a_step(model, [noise(2, 8, 8, 3), noise(2, 6, 9, 3, seed=1)])
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("difference", ["absolute", "squared", "normalized", "concatenated"])
def test_the_difference_is_the_mode_asked_for(difference):
    model = subtract_models(dense(3), dense(3), layers.Identity(), difference=difference)
    assert model.output_shape == (None, 12 if difference == "concatenated" else 4)
    [layer] = [layer for layer in model.layers if layer.name == "difference"]
    assert layer.mode == difference


def test_a_learned_projection_is_trained_and_saved(tmp_path):
    model = subtract_models(dense(3, 4), dense(3, 6), layers.Dense(2), project_channels=True)
    x = [noise(2, 3), noise(2, 3, seed=1)]
    train_a_step(model, x)
    assert len(model.trainable_weights) == 8
    assert_survives(model, x, tmp_path)


# Where the models come from.


def test_the_same_model_twice_is_siamese(tmp_path):
    # With a linear encoder its bias would cancel out of the difference.
    encoder = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="tanh")])
    model = subtract_models(encoder, encoder, layers.Dense(2, name="head"))
    assert len(model.weights) == 4
    x = [noise(2, 3), noise(2, 3, seed=1)]
    train_a_step(model, x)
    loaded = assert_survives(model, x, tmp_path)
    assert_exports(model, x, tmp_path)
    same = [x[0], x[0]]
    np.testing.assert_allclose(loaded(same), np.zeros((2, 2)) + loaded.get_layer("head").bias.numpy(), atol=1e-6)


def test_two_loaded_copies_of_one_file_into_a_third(tmp_path):
    dense(4, 4, name="network").save(tmp_path / "one.keras")
    first, second, third = (keras.models.load_model(tmp_path / "one.keras") for _ in range(3))
    second.layers[0].kernel.assign(second.layers[0].kernel * 2)
    model = subtract_models(first, second, third)
    assert {m.name for m in (first, second, third)} == {"network"}
    x = [noise(2, 4), noise(2, 4, seed=1)]
    np.testing.assert_allclose(model(x), third(first(x[0]) - second(x[1])), atol=1e-6)
    train_a_step(model, x)
    assert_survives(model, x, tmp_path)
    assert_exports(model, x, tmp_path)


def test_names_that_ours_would_take_are_no_clash():
    names = ["input_a", "align", "difference"]
    model = subtract_models(dense(3, name=names[0]), dense(3, name=names[1]), dense(4, name=names[2]))
    assert len({layer.name for layer in model.layers}) == len(model.layers) == 7


def test_frozen_models_stay_frozen(tmp_path):
    frozen, free = dense(3), dense(3)
    frozen.trainable = False
    model = subtract_models(frozen, free, layers.Dense(2))
    x = [noise(2, 3), noise(2, 3, seed=1)]
    assert len(model.trainable_weights) == 4
    train_a_step(model, x)
    loaded = assert_survives(model, x, tmp_path)
    assert len(loaded.trainable_weights) == 4
    train_a_step(loaded, x)


def test_a_frozen_copy_beside_a_free_one_stays_frozen(tmp_path):
    dense(3, name="network").save(tmp_path / "one.keras")
    free, frozen = (keras.models.load_model(tmp_path / "one.keras") for _ in range(2))
    frozen.trainable = False
    model = subtract_models(free, frozen, layers.Dense(2))
    x = [noise(2, 3), noise(2, 3, seed=1)]
    train_a_step(model, x)
    assert len(assert_survives(model, x, tmp_path).trainable_weights) == 4


@pytest.mark.parametrize("shared_input", [False, True])
def test_two_taps_of_one_graph_share_its_layers(shared_input, tmp_path):
    # Nested, the layers they share would be saved once, and Keras could not load the file.
    image = keras.Input((4,))
    trunk = layers.Dense(5, name="trunk")(image)
    model_a = keras.Model(image, layers.Dense(3, name="early")(trunk))
    model_b = keras.Model(image, layers.Dense(3, name="late")(layers.Dense(6, name="deep")(trunk)))
    elsewhere = keras.Model(image, layers.Dense(1)(model_a(image)))
    model = subtract_models(model_a, model_b, layers.Dense(2), shared_input=shared_input)
    assert len(model.weights) == 10
    x = noise(2, 4) if shared_input else [noise(2, 4), noise(2, 4, seed=1)]
    first, second = (x, x) if shared_input else x
    np.testing.assert_allclose(model(x), model.layers[-1](model_a(first) - model_b(second)), atol=1e-6)
    train_a_step(model, x)
    assert_survives(model, x, tmp_path)
    assert_exports(model, x, tmp_path)
    assert elsewhere(noise(2, 4)).shape == (2, 1)


def nesting(inner, units: int) -> keras.Model:
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(units)(inner(x)))


def sharing(case: str) -> keras.Model:
    layer, a = layers.Dense(5, name="shared"), dense(5, 5)
    with_layer = keras.Sequential([keras.Input((5,)), layer])
    return {
        "c nests a": lambda: subtract_models(a, dense(5, 5), nesting(a, 2)),
        "c nests a, which is on both sides": lambda: subtract_models(a, a, nesting(a, 2)),
        "c has a layer of a": lambda: subtract_models(with_layer, dense(5, 5), nesting(layer, 2)),
        "c is a layer of a": lambda: subtract_models(with_layer, dense(5, 5), layer),
        "c is a layer of a, which is on both sides": lambda: subtract_models(with_layer, with_layer, layer),
        "c is unbuilt with a layer of a": lambda: subtract_models(
            with_layer, dense(5, 5), keras.Sequential([layer, layers.Dense(2)])
        ),
        "a nests b": lambda: subtract_models(nesting(a, 5), a, layers.Dense(2)),
        "b nests a": lambda: subtract_models(a, nesting(a, 5), layers.Dense(2)),
        "a nests what nests b": lambda: subtract_models(nesting(nesting(a, 5), 5), a, layers.Dense(2)),
        "a holds the result of a": lambda: subtract_models(
            subtract_models(a, dense(5, 5), layers.Dense(5), shared_input=True), a, layers.Dense(2)
        ),
        "all are one": lambda: subtract_models(a, a, a),
    }[case]()


CASES = (
    "c nests a",
    "c nests a, which is on both sides",
    "c has a layer of a",
    "c is a layer of a",
    "c is a layer of a, which is on both sides",
    "c is unbuilt with a layer of a",
    "a nests b",
    "b nests a",
    "a nests what nests b",
    "a holds the result of a",
    "all are one",
)


@pytest.mark.parametrize("case", CASES)
def test_models_that_share_parts_train_and_survive(case, tmp_path):
    model = sharing(case)
    x = [noise(2, 5), noise(2, 5, seed=1)]
    train_a_step(model, x)
    assert_survives(model, x, tmp_path)


def test_a_change_detector_less_a_branch_of_its_encoder_survives(tmp_path):
    detector = build_change_detector(ModelConfig(encoder=EncoderConfig(channels=(2, 2))))
    encoder = detector.get_layer("encoder")
    branch = keras.Model(encoder.inputs, encoder.outputs[0])
    model = subtract_models(detector, branch, layers.Conv2D(1, 1), project_channels=True)
    images = [np.abs(noise(1, 8, 8, 3, seed=k)) * 100 for k in range(3)]
    x = [[images[0], images[1]], images[2]]
    want = model(x)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(x), want, atol=1e-5)


def test_the_numbers_of_models_that_share_parts_are_those_of_the_models():
    a = dense(5, 5)
    b, c = nesting(a, 5), nesting(a, 2)
    x, y = noise(2, 5), noise(2, 5, seed=1)
    np.testing.assert_allclose(subtract_models(a, b, c)([x, y]), c(a(x) - b(y)), atol=1e-6)


class Doubling(keras.Model):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def test_a_model_with_a_call_of_its_own_is_called_and_not_taken_apart():
    x = keras.Input((5,))
    hidden = layers.Dense(3)(x)
    a, b = Doubling(x, hidden), keras.Model(x, hidden)
    with pytest.warns(UserWarning, match="has a call of its own and shares layers .* cannot be loaded"):
        model = subtract_models(a, b, layers.Activation("linear"))
    given, other = noise(2, 5), noise(2, 5, seed=1)
    np.testing.assert_allclose(model([given, other]), a(given) - b(other), atol=1e-6)


def test_differences_that_go_to_one_input_are_named_as_what_they_are():
    with pytest.raises(ValueError, match=r"model_c cannot take the 2 differences \[.*\]: ") as error:
        subtract_models(pyramid("list"), pyramid("list"), layers.Dense(2))
    assert "padding" not in str(error.value)
    with pytest.raises(ValueError, match="size=7 must be positive whole numbers"):
        subtract_models(dense(5), dense(5), layers.Dense(2), align="resize", size=7)


def test_a_model_cut_out_of_another_graph(tmp_path):
    image = keras.Input((8, 8, 3))
    inner = layers.Conv2D(2, 3, name="inner")(image)
    whole = keras.Model(image, layers.Dense(7)(layers.Flatten()(inner)))
    part = keras.Model(whole.input, whole.get_layer("inner").output)
    model = subtract_models(part, convolution(2), layers.Conv2D(1, 1))
    x = [noise(2, 8, 8, 3), noise(2, 8, 8, 3, seed=1)]
    train_a_step(model, x)
    assert_survives(model, x, tmp_path)
    assert whole(x[0]).shape == (2, 7)


# Several inputs and outputs.


@pytest.mark.parametrize(
    ("kind_a", "kind_b", "kind_c"),
    [("list", "tuple", "tuple"), ("tuple", "list", "list"), ("dict", "dict", "dict"), ("dict", "dict", "list")],
)
def test_pyramids_are_subtracted_level_by_level_into_several_inputs(kind_a, kind_b, kind_c, tmp_path):
    model_a, model_b, model_c = pyramid(kind_a, "a"), pyramid(kind_b, "b"), merging(kind_c)
    model = subtract_models(model_a, model_b, model_c)
    x = [noise(2, 8, 8, 3), noise(2, 8, 8, 3, seed=1)]
    levels = [keras.tree.flatten(each(part)) for each, part in zip((model_a, model_b), x, strict=True)]
    subtracted = [a - b for a, b in zip(*levels, strict=True)]
    want = model_c(keras.tree.pack_sequence_as(pyramid(kind_a).output, subtracted) if kind_a == "dict" else subtracted)
    np.testing.assert_allclose(model(x), want, atol=1e-5)
    train_a_step(model, x)
    assert_survives(model, x, tmp_path)
    assert_exports(model, x, tmp_path)


def test_a_layer_takes_several_differences_as_a_list():
    vectors = keras.Input((3,))
    two = [keras.Model(vectors, (layers.Dense(2)(vectors), layers.Dense(4)(vectors))) for _ in range(2)]
    assert subtract_models(*two, layers.Concatenate()).output_shape == (None, 6)


def test_several_inputs_keep_the_structure_of_their_model(tmp_path):
    listed = [keras.Input((3,)), keras.Input((2,))]
    keyed = {"image": keras.Input((3,), name="image"), "angle": keras.Input((1,), name="angle")}
    model_a = keras.Model(listed, layers.Dense(4)(layers.Concatenate()(listed)))
    model_b = keras.Model(keyed, layers.Dense(4)(layers.Concatenate()([keyed["image"], keyed["angle"]])))
    model = subtract_models(model_a, model_b, layers.Dense(1))
    x = [[noise(2, 3), noise(2, 2)], {"image": noise(2, 3, seed=1), "angle": noise(2, 1)}]
    np.testing.assert_allclose(model(x), model.layers[-1](model_a(x[0]) - model_b(x[1])), atol=1e-6)
    train_a_step(model, x)
    assert_survives(model, x, tmp_path)
    assert_exports(model, x, tmp_path)


def test_a_dict_of_inputs_feeds_both_models(tmp_path):
    def model_of(name: str) -> keras.Model:
        keyed = {"image": keras.Input((3,), name="image"), "angle": keras.Input((1,), name="angle")}
        return keras.Model(keyed, layers.Dense(4)(layers.Concatenate()([keyed["image"], keyed["angle"]])), name=name)

    model = subtract_models(model_of("a"), model_of("b"), layers.Dense(1), shared_input=True)
    x = {"image": noise(2, 3), "angle": noise(2, 1)}
    train_a_step(model, x)
    assert_survives(model, x, tmp_path)


def test_shared_input_takes_the_size_either_model_knows():
    flexible = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)])
    model = subtract_models(flexible, convolution(2), layers.Flatten(), shared_input=True)
    assert model.input_shape == (None, 8, 8, 3)
    assert model.output_shape == (None, 72)


# What is refused.


def two_outputs() -> keras.Model:
    inputs = keras.Input((3,))
    return keras.Model(inputs, [layers.Dense(4)(inputs), layers.Dense(4)(inputs)])


def whole_numbers() -> keras.Model:
    inputs = keras.Input((4,), dtype="int32")
    return keras.Model(inputs, layers.Dense(1)(inputs))


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (lambda: (keras.Sequential([layers.Dense(4)]), dense(3), dense(4)), {}, "model_a=.*has no known inputs"),
        (lambda: (dense(3), layers.Dense(4), dense(4)), {}, "model_b=.*has no known inputs"),
        (lambda: (dense(3), two_outputs(), dense(4)), {}, r"outputs .* do not pair: \(None, 4\) and \[\(None, 4\), "),
        (lambda: (two_outputs(), two_outputs(), dense(4)), {}, r"model_c takes \(None, 4\) .*named .*\[\(None, 4\), "),
        (lambda: (dense(3), dense(3), dense(5)), {}, r"takes \(None, 5\), and the difference is \(None, 4\); build"),
        (lambda: (dense(3), dense(3), whole_numbers()), {}, "takes int32, which would cut the fractions of a float32"),
        (lambda: (dense(3), dense(4), dense(4)), {"shared_input": True}, r"\(None, 3\) float32 and .* \(None, 4\)"),
        (lambda: (dense(3), dense(3), dense(4)), {"align": "stretch"}, "'stretch' is not known"),
        (lambda: (dense(3), dense(3), dense(4)), {"difference": "ratio"}, "'ratio' is not known"),
        (lambda: (pyramid("dict"), pyramid("dict"), two_inputs()), {}, "named one, two"),
    ],
)
def test_what_cannot_be_put_together_is_refused_by_name(models, options, message):
    with pytest.raises(ValueError, match=message):
        subtract_models(*models(), **options)


def two_inputs() -> keras.Model:
    inputs = [keras.Input((8, 8, 2), name="one"), keras.Input((4, 4, 3), name="two")]
    return keras.Model(inputs, layers.Concatenate()([layers.Flatten()(x) for x in inputs]))


def test_the_example_in_the_docstring_runs():
    results = doctest.testmod(subtraction)
    assert results.attempted >= 7
    assert results.failed == 0
