"""KerasCV's backbones as encoders, built from their numbers without a hub; the only module that imports keras_cv."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from segdiff.models.normalization import MOMENTUM, FusedBatchNormalization


@dataclass(frozen=True)
class Backbone:
    """The numbers of one KerasCV backbone."""

    kind: str
    """KerasCV's class."""
    numbers: dict[str, Any]
    stem: str | None = None
    """The layer at stride 2, where KerasCV's own pyramid begins at stride 4."""
    dropout: str | None = None
    """KerasCV's name for the rate of stochastic depth, where it has one."""
    preset: str | None = None
    """KerasCV's preset with ImageNet weights, where it has one."""
    rescale: tuple[float, float] = (1 / 255, 0.0)
    """Scale and offset that bring 0..255 to what the ImageNet weights were trained on."""


def _resnet(kind: str, blocks: list[int], block_type: str, preset: str | None = None) -> Backbone:
    numbers = {
        "stackwise_filters": [64, 128, 256, 512],
        "stackwise_blocks": blocks,
        "stackwise_strides": [1, 2, 2, 2],
        "block_type": block_type,
    }
    return Backbone(kind, numbers, stem="conv1_relu" if kind == "ResNetBackbone" else "conv1_conv", preset=preset)


def _efficientnet_lite(width: float, depth: float) -> Backbone:
    numbers = {
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
        "width_coefficient": width,
        "depth_coefficient": depth,
    }
    return Backbone("EfficientNetLiteBackbone", numbers, dropout="drop_connect_rate", rescale=(1 / 128, -127 / 128))


def _efficientnet_v2(width: float, depth: float, preset: str | None) -> Backbone:
    numbers = {
        "stackwise_kernel_sizes": [3, 3, 3, 3, 3, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 5, 8],
        "stackwise_input_filters": [32, 16, 32, 48, 96, 112],
        "stackwise_output_filters": [16, 32, 48, 96, 112, 192],
        "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
        "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
        "stackwise_strides": [1, 2, 2, 2, 1, 2],
        "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 3,
        "width_coefficient": width,
        "depth_coefficient": depth,
    }
    return Backbone("EfficientNetV2Backbone", numbers, dropout="skip_connection_dropout", preset=preset)


_EFFICIENTNET_V2_S = {
    **_efficientnet_v2(1.0, 1.0, None).numbers,
    "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
    "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
    "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
}

_MOBILENET_V3_SMALL = {
    "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
    "stackwise_kernel_size": [3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5],
    "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
    "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
}

_MOBILENET_V3_LARGE = {
    "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
    "stackwise_kernel_size": [3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5],
    "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
    "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
}


def _csp_darknet(channels: list[int], depths: list[int], preset: str | None = None) -> Backbone:
    numbers = {"stackwise_channels": channels, "stackwise_depth": depths}
    return Backbone("CSPDarkNetBackbone", numbers, stem="stem_conv", preset=preset)


def _densenet(repeats: list[int], preset: str) -> Backbone:
    return Backbone("DenseNetBackbone", {"stackwise_num_repeats": repeats}, stem="conv1_relu", preset=preset)


BACKBONES = {
    "resnet18": _resnet("ResNetBackbone", [2, 2, 2, 2], "basic_block"),
    "resnet34": _resnet("ResNetBackbone", [3, 4, 6, 3], "basic_block"),
    "resnet50": _resnet("ResNetBackbone", [3, 4, 6, 3], "block", "resnet50_imagenet"),
    "resnet18_v2": _resnet("ResNetV2Backbone", [2, 2, 2, 2], "basic_block"),
    "resnet34_v2": _resnet("ResNetV2Backbone", [3, 4, 6, 3], "basic_block"),
    "resnet50_v2": _resnet("ResNetV2Backbone", [3, 4, 6, 3], "block", "resnet50_v2_imagenet"),
    "efficientnet_lite_b0": _efficientnet_lite(1.0, 1.0),
    "efficientnet_lite_b1": _efficientnet_lite(1.0, 1.1),
    "efficientnet_lite_b2": _efficientnet_lite(1.1, 1.2),
    "efficientnet_lite_b3": _efficientnet_lite(1.2, 1.4),
    "efficientnet_lite_b4": _efficientnet_lite(1.4, 1.8),
    "efficientnet_v2_b0": _efficientnet_v2(1.0, 1.0, "efficientnetv2_b0_imagenet"),
    "efficientnet_v2_b1": _efficientnet_v2(1.0, 1.1, "efficientnetv2_b1_imagenet"),
    "efficientnet_v2_b2": _efficientnet_v2(1.1, 1.2, "efficientnetv2_b2_imagenet"),
    "efficientnet_v2_b3": _efficientnet_v2(1.2, 1.4, None),
    "efficientnet_v2_s": Backbone(
        "EfficientNetV2Backbone",
        _EFFICIENTNET_V2_S,
        dropout="skip_connection_dropout",
        preset="efficientnetv2_s_imagenet",
    ),
    "mobilenet_v3_small": Backbone("MobileNetV3Backbone", _MOBILENET_V3_SMALL, preset="mobilenet_v3_small_imagenet"),
    "mobilenet_v3_large": Backbone("MobileNetV3Backbone", _MOBILENET_V3_LARGE, preset="mobilenet_v3_large_imagenet"),
    "csp_darknet_tiny": _csp_darknet([48, 96, 192, 384], [1, 3, 3, 1], "csp_darknet_tiny_imagenet"),
    "csp_darknet_s": _csp_darknet([64, 128, 256, 512], [1, 3, 3, 1]),
    "csp_darknet_m": _csp_darknet([96, 192, 384, 768], [2, 6, 6, 2]),
    "csp_darknet_l": _csp_darknet([128, 256, 512, 1024], [3, 9, 9, 3], "csp_darknet_l_imagenet"),
    "densenet121": _densenet([6, 12, 24, 16], "densenet121_imagenet"),
    "densenet169": _densenet([6, 12, 32, 32], "densenet169_imagenet"),
    "densenet201": _densenet([6, 12, 48, 32], "densenet201_imagenet"),
}
STRIDES = (2, 4, 8, 16, 32)
"""Of the maps of every backbone here."""


@keras.saving.register_keras_serializable(package="segdiff")
class BackboneEncoder(keras.Model):
    """A KerasCV backbone from N x H x W x bands in 0..255 to maps at the first ``levels`` of STRIDES.

    H and W must be multiples of the last of these strides.

    The maps are those of KerasCV's pyramid, without the 1280-channel layer of the EfficientNets that only their
    classifier needs, and with the stem's map at stride 2 where KerasCV leaves it out. Batch normalization is fused, and
    with ``local`` over each replica's share alone.
    A file holds the backbone's name and not KerasCV's layers, some of which cannot be read back; loading rebuilds it.
    """

    def __init__(
        self,
        backbone: str,
        bands: int,
        *,
        dropout: float = 0.0,
        levels: int = len(STRIDES),
        local: bool = False,
        name="encoder",
        trainable=True,
        dtype=None,
    ):
        policy = keras.dtype_policies.get(dtype)
        with _default_policy(policy):
            _, image, features = build_pyramid(backbone, bands, dropout, local)
            super().__init__(image, features[:levels], name=name)
        self.trainable = trainable  # Keras passes its own argument on to no layer
        self.backbone, self.bands, self.dropout, self.levels, self.local = backbone, bands, dropout, levels, local

    def call(self, inputs, training=None, mask=None):
        """The maps, finest first."""
        with _default_policy(self.dtype_policy):  # some of KerasCV's blocks make layers while they are called
            return super().call(inputs, training=training, mask=mask)

    def get_config(self):
        """What the constructor takes."""
        return {
            "backbone": self.backbone,
            "bands": self.bands,
            "dropout": self.dropout,
            "levels": self.levels,
            "local": self.local,
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The encoder without its weights."""
        return cls(**config)


def build_pyramid(
    name: str, bands: int, dropout: float = 0.0, local: bool = False
) -> tuple[keras.Model, keras.KerasTensor, list]:
    """KerasCV's backbone on a rescaled image of so many bands: the whole of it, the image and the maps at STRIDES."""
    backbone = BACKBONES[name]
    image = keras.Input((None, None, bands), name="image")
    scale, offset = backbone.rescale
    # 0..255 does not survive mixed precision where a band has fractions: rescaled in float32
    rescaled = keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="rescale")(image)
    depth = {} if backbone.dropout is None else {backbone.dropout: dropout}
    whole = getattr(_keras_cv().models, backbone.kind)(
        **backbone.numbers, **depth, include_rescaling=False, input_tensor=rescaled
    )
    layers = [whole.get_layer(layer) for _, layer in sorted(whole.pyramid_level_inputs.items())]
    if backbone.stem is not None:
        layers.insert(0, whole.get_layer(backbone.stem))
    # each layer was called twice, KerasCV's model having copied the graph: the first call is that on our image
    features = [layer._inbound_nodes[0].output_tensors[0] for layer in layers]
    if backbone.kind.startswith("EfficientNet"):
        features[-1] = whole.get_layer("top_conv")._inbound_nodes[0].input_tensors[0]
    for layer in whole._flatten_layers():
        if type(layer) is keras.layers.BatchNormalization:
            # the same weights and numbers, another kernel; KerasCV offers no way to choose the class
            layer.__class__ = FusedBatchNormalization
            layer.momentum = MOMENTUM
            layer.local = local
    return whole, image, features


def preset_weights(name: str, preset: str, levels: int) -> list[np.ndarray]:
    """The weights of a three-band BackboneEncoder of so many levels from a KerasCV preset (downloaded, or a folder).

    Raises what KerasCV raises where the preset cannot be had, ValueError where it is another network.
    """
    source = getattr(_keras_cv().models, BACKBONES[name].kind).from_preset(preset)
    if not source.include_rescaling:
        raise ValueError("it expects images of another range than 0..1")
    whole, image, features = build_pyramid(name, 3)
    whole.set_weights(source.get_weights())
    return keras.Model(image, features[:levels]).get_weights()


def _keras_cv():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of KerasCV's own dependencies, none of which a user can mend
            import keras_cv  # 2 s, and no unet needs it
    except ModuleNotFoundError as error:
        raise ValueError(f"this encoder needs the package keras-cv: pip install keras-cv ({error})") from error
    return keras_cv


@contextmanager
def _default_policy(policy) -> Iterator[None]:
    """Keras' default dtype policy, which the layers inside KerasCV's blocks take; they pass none on."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
