"""The Mix Transformer encoders of SegFormer (Xie and others 2021, arXiv 2105.15203), out of Keras' own layers.

KerasCV has them too, but its code takes square images of one fixed size only and scrambles rows and columns before it
shortens the keys; these take any size, as the paper's code does, with the same numbers of weights.
"""

import keras
import numpy as np

DEPTHS_AND_WIDTHS = {
    "mit_b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "mit_b1": ((2, 2, 2, 2), (64, 128, 320, 512)),
    "mit_b2": ((3, 4, 6, 3), (64, 128, 320, 512)),
}
STRIDES = (4, 8, 16, 32)
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)
"""Keys and values are this many times shorter than the queries, along each side."""


def mix_transformer(
    size: str, bands: int, *, dropout: float = 0.0, levels: int = len(STRIDES), name: str = "encoder"
) -> keras.Model:
    """One of DEPTHS_AND_WIDTHS with random weights.

    Takes N x H x W x bands in 0..255, H and W multiples of the last of its strides. Returns maps at the first
    ``levels`` of STRIDES. ``dropout`` is the chance that the last block is left out for an image in training, falling
    to 0 at the first.
    """
    depths, widths = DEPTHS_AND_WIDTHS[size]
    rates = iter(np.linspace(0.0, dropout, sum(depths)).tolist())
    image = keras.Input((None, None, bands), name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescale")(image)
    features = []
    for stage, (depth, width) in enumerate(list(zip(depths, widths, strict=True))[:levels]):
        kernel, stride = (3, 2) if stage else (7, 4)
        x = keras.layers.Conv2D(width, kernel, strides=stride, padding="same", name=f"stage{stage}_embed")(x)
        x = _normalize(x, f"stage{stage}_embed_norm")
        for block in range(depth):
            x = _block(x, _HEADS[stage], _REDUCTIONS[stage], next(rates), f"stage{stage}_block{block}")
        x = _normalize(x, f"stage{stage}_norm")
        features.append(x)
    return keras.Model(image, features, name=name)


def _normalize(x, name: str):
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(x)


def _block(x, heads: int, reduction: int, dropout: float, name: str):
    """Attention to a coarser copy of the map, then two dense layers with a depthwise convolution between them."""
    width = x.shape[-1]
    queries = keys = _normalize(x, f"{name}_attention_norm")
    if reduction > 1:
        keys = keras.layers.Conv2D(width, reduction, strides=reduction, name=f"{name}_reduce")(keys)
        keys = _normalize(keys, f"{name}_reduce_norm")
    attention = keras.layers.MultiHeadAttention(heads, width // heads, attention_axes=(1, 2), name=f"{name}_attention")
    x = _add(x, attention(queries, keys), dropout, f"{name}_attention")

    y = _normalize(x, f"{name}_mlp_norm")
    y = keras.layers.Dense(4 * width, name=f"{name}_mlp_widen")(y)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name=f"{name}_mlp_mix")(y)
    y = keras.layers.Activation("gelu", name=f"{name}_mlp_gelu")(y)
    y = keras.layers.Dense(width, name=f"{name}_mlp_narrow")(y)
    return _add(x, y, dropout, f"{name}_mlp")


def _add(x, branch, dropout: float, name: str):
    if dropout:  # of the branch as a whole, image by image: stochastic depth
        branch = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(branch)
    return keras.layers.Add(name=f"{name}_add")([x, branch])
