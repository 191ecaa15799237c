"""The networks of Daudt, Le Saux and Boulch 2018, "Fully convolutional siamese networks for change detection" (ICIP).

Layers carry the names of the authors' PyTorch code, so that its weights load by name. Stage s works at 1 / 2 ** (s - 1)
of the image's size; ``conv{s}{i}`` is its i-th convolution on the way down, ``conv{s}{i}d`` that on the way up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from segdiff.model_files import Settings
from segdiff.models.alignment import AlignFeatures
from segdiff.models.change_detector import ChangeDetector, class_names
from segdiff.models.difference import Difference
from segdiff.models.normalization import FusedBatchNormalization
from segdiff.models.padding import CropToImage

STAGES = ((16, 2), (32, 2), (64, 3), (128, 3))
"""Channels and convolutions of each stage, finest first."""
STRIDE = 2 ** len(STAGES)
DROPOUT = 0.2


def fc_ef(bands: int, classes: int) -> ChangeDetector:
    """FC-EF, early fusion: one U-Net on the bands of both images together; 1.35 M parameters.

    Takes [before, after], each N x H x W x bands in 0..255 of any one size, and returns N x H x W x classes logits in
    float32: 1 is one logit of change, 2 and more are softmax logits, 2 being what was published. Weights are random.
    """
    before, after, images = _images(bands)
    (maps,) = _encode([keras.layers.Concatenate(name="fuse")(images)])
    return _detector("fc_ef", before, after, maps[-1], [[skip] for skip in maps[:-1]], classes)


def fc_siam_conc(bands: int, classes: int) -> ChangeDetector:
    """FC-Siam-conc: one encoder for both images, whose maps are concatenated into the decoder; 1.55 M parameters.

    Takes and returns what ``fc_ef`` does. The deepest map is that of the image after alone, as in the authors' code.
    """
    before, after, images = _images(bands)
    maps_before, maps_after = _encode(images)
    skips = [list(pair) for pair in zip(maps_before[:-1], maps_after[:-1], strict=True)]
    return _detector("fc_siam_conc", before, after, maps_after[-1], skips, classes)


def fc_siam_diff(bands: int, classes: int) -> ChangeDetector:
    """FC-Siam-diff: one encoder for both images, the absolute difference of whose maps is decoded; 1.35 M parameters.

    Takes and returns what ``fc_ef`` does. The deepest map is that of the image after alone, as in the authors' code.
    """
    before, after, images = _images(bands)
    maps_before, maps_after = _encode(images)
    skips = [
        [Difference("absolute", name=f"difference{stage}")(list(pair))]
        for stage, pair in enumerate(zip(maps_before[:-1], maps_after[:-1], strict=True), start=1)
    ]
    return _detector("fc_siam_diff", before, after, maps_after[-1], skips, classes)


def load_torch_state(model: keras.Model, state: Mapping[str, Any]) -> None:
    """Give ``fc_ef``, ``fc_siam_conc`` or ``fc_siam_diff`` the weights of the authors' PyTorch networks.

    ``state`` holds arrays (or CPU tensors) under the names of the original's state dictionary, such as
    ``conv11.weight``, with or without the ``module.`` that DataParallel puts before them; ``num_batches_tracked`` is
    ignored. Its inputs were the images in 0..1, which are 0..255 here. Raises ValueError on another model, and on a
    state with missing, surplus, repeated or wrongly shaped arrays, naming each; the model is then as it was.
    """
    wanted = _torch_weights(model)
    given: dict[str, np.ndarray] = {}
    faults = []
    for key, value in state.items():
        name = key.removeprefix("module.")
        if name.endswith(".num_batches_tracked"):
            continue
        if name not in wanted:
            faults.append(f"{key} is no weight of this network")
        elif name in given:
            faults.append(f"{name} is there twice, with and without 'module.'")
        else:
            given[name] = np.asarray(value, dtype="float32")
    values = []
    for name, (variable, axes, turned) in wanted.items():
        if name not in given:
            faults.append(f"{name} is missing")
            continue
        shape = tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))
        if given[name].shape != shape:
            faults.append(f"{name} has shape {given[name].shape}, this network needs {shape}")
            continue
        value = given[name].transpose(axes)
        values.append((variable, value[::-1, ::-1] if turned else value))
    if faults:
        raise ValueError(f"the state does not fit {model.name}: {'; '.join(faults)}")
    for variable, value in values:
        variable.assign(value)


@keras.saving.register_keras_serializable(package="segdiff")
class ReplicateEdges(keras.layers.Layer):
    """Repeats the last row and column of a map until it has the size of a second one, and at least ``minimum``."""

    def __init__(self, minimum: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minimum = minimum

    def call(self, maps: Any, like: Any) -> Any:
        """``maps``, N x H x W x C, enlarged at the bottom and the right; untouched where they are known to fit."""
        for axis in (1, 2):
            maps = self._extend(maps, like, axis)
        return maps

    def _extend(self, maps: Any, like: Any, axis: int) -> Any:
        known = like.shape[axis]
        if known is not None and maps.shape[axis] == max(known, self.minimum):
            return maps
        shape = list(ops.shape(maps))
        wanted = ops.maximum(ops.shape(like)[axis], self.minimum)
        edge = maps[:, -1:] if axis == 1 else maps[:, :, -1:]
        shape[axis] = wanted - shape[axis]
        return ops.concatenate([maps, ops.broadcast_to(edge, shape)], axis=axis)

    def compute_output_shape(self, maps_shape: Sequence[int | None], like_shape: Sequence[int | None]) -> tuple:
        """The size of the second map with the channels of the first; None where it is not known."""
        sizes = (None if side is None else max(side, self.minimum) for side in like_shape[1:3])
        return (maps_shape[0], *sizes, maps_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "minimum": self.minimum}


def _images(bands: int) -> tuple[Any, Any, list[Any]]:
    """The two inputs, and both in 0..1."""
    before = keras.Input((None, None, bands), name="before")
    after = keras.Input((None, None, bands), name="after")
    # first of all and in float32: in half precision 0..255 leaves no fractions
    rescale = keras.layers.Rescaling(1 / 255, dtype="float32", name="rescale")
    return before, after, AlignFeatures("strict", name="align")([rescale(before), rescale(after)])


def _encode(images: Sequence[Any]) -> list[list[Any]]:
    """For each image the last map of every stage, finest first, and the deepest of them pooled once more."""
    # an image narrower than the stride would pool to nothing: the original stops there, its own padding helps
    extend = ReplicateEdges(STRIDE, name="extend")
    image = keras.Input((None, None, images[0].shape[-1]), name="image")
    maps, x = [], image
    for stage, (width, depth) in enumerate(STAGES, start=1):
        for i in range(1, depth + 1):
            x = _convolve(x, width, f"{stage}{i}")
        maps.append(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    encoder = keras.Model(image, [*maps, x], name="encoder")
    return [encoder(extend(image, image)) for image in images]


def _detector(
    name: str, before: Any, after: Any, x: Any, skips: Sequence[Sequence[Any]], classes: int
) -> ChangeDetector:
    """The decoder on the deepest map and each stage's skipped maps, finest first, and the model around it all."""
    for stage in range(len(STAGES), 0, -1):
        width, depth = STAGES[stage - 1]
        # PyTorch's padding=1, output_padding=1 is the whole product without its first row and column
        x = keras.layers.Conv2DTranspose(x.shape[-1], 3, strides=2, padding="valid", name=f"upconv{stage}")(x)
        x = keras.layers.Cropping2D(((1, 0), (1, 0)), name=f"crop{stage}")(x)
        x = ReplicateEdges(name=f"replicate{stage}")(x, skips[stage - 1][0])
        x = keras.layers.Concatenate(name=f"concatenate{stage}")([x, *skips[stage - 1]])
        for i in range(depth, 1, -1):
            x = _convolve(x, width, f"{stage}{i}d")
        if stage > 1:
            x = _convolve(x, STAGES[stage - 2][0], f"{stage}1d")
    x = keras.layers.Conv2D(classes, 3, padding="same", name="conv11d")(x)
    x = CropToImage(name="crop")(x, before)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    model = ChangeDetector([before, after], logits, name=name)
    model.settings = Settings(classes=class_names(classes), stride=STRIDE)
    return model


def _convolve(x: Any, channels: int, place: str) -> Any:
    # the decoder's are transposed convolutions of stride 1 in PyTorch: plain ones with the kernel turned by 180 degrees
    x = keras.layers.Conv2D(channels, 3, padding="same", name=f"conv{place}")(x)
    x = FusedBatchNormalization(epsilon=1e-5, momentum=0.9, name=f"bn{place}")(x)
    x = keras.layers.Activation("relu", name=f"relu{place}")(x)
    return keras.layers.SpatialDropout2D(DROPOUT, name=f"do{place}")(x)


def _torch_weights(model: keras.Model) -> dict[str, tuple[keras.Variable, tuple[int, ...], bool]]:
    """By PyTorch name: the variable, the order of PyTorch's axes in it, and whether its kernel is turned."""
    if model.name not in ("fc_ef", "fc_siam_conc", "fc_siam_diff"):
        raise ValueError(f"model {model.name!r} has no PyTorch original, allowed are fc_ef, fc_siam_conc, fc_siam_diff")
    weights: dict[str, tuple[keras.Variable, tuple[int, ...], bool]] = {}
    for layers, decodes in ((model.get_layer("encoder").layers, False), (model.layers, True)):
        for layer in layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                weights[f"{layer.name}.weight"] = (layer.gamma, (0,), False)
                weights[f"{layer.name}.bias"] = (layer.beta, (0,), False)
                weights[f"{layer.name}.running_mean"] = (layer.moving_mean, (0,), False)
                weights[f"{layer.name}.running_var"] = (layer.moving_variance, (0,), False)
            elif isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose):
                # out x in x height x width in the encoder, in x out x height x width in the decoder
                turned = decodes and isinstance(layer, keras.layers.Conv2D)
                weights[f"{layer.name}.weight"] = (layer.kernel, (2, 3, 0, 1) if turned else (2, 3, 1, 0), turned)
                weights[f"{layer.name}.bias"] = (layer.bias, (0,), False)
    return weights
