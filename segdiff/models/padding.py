"""Images of any size for networks that halve them: mirrored up to the stride inside the model, cropped back after."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segdiff")
class PadToMultiple(keras.layers.Layer):
    """Mirrors N x H x W x C at the bottom and the right until H and W are multiples of ``multiple``.

    The mirror is symmetric and repeats, so that images smaller than the border are padded too.
    """

    def __init__(self, multiple: int, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, images):
        """The padded images; the images themselves where nothing is missing."""
        for axis in (1, 2):
            images = self._pad(images, axis)
        return images

    def _pad(self, images, axis: int):
        static = images.shape[axis]
        if static is not None and static % self.multiple == 0:
            return images
        size = ops.shape(images)[axis]
        padded = (size + self.multiple - 1) // self.multiple * self.multiple
        position = ops.arange(padded) % (2 * size)
        return ops.take(images, ops.where(position < size, position, 2 * size - 1 - position), axis=axis)

    def compute_output_shape(self, input_shape):
        """H and W rounded up, where they are known."""
        n, *sizes, channels = input_shape
        return (n, *(None if s is None else -(-s // self.multiple) * self.multiple for s in sizes), channels)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable(package="segdiff")
class CropToImage(keras.layers.Layer):
    """Cuts the first of two maps to what it has of the second, an image: undoes PadToMultiple.

    ``stride`` is the pixels of the image that one of the map stands for; the last one of them may be in part padding.
    """

    def __init__(self, stride: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, maps, images):
        """``maps`` without what lies beyond ``images``."""
        static = self.compute_output_shape(maps.shape, images.shape)
        if None not in static[1:3] and maps.shape[1:3] == static[1:3]:
            return maps
        height, width = (-(-size // self.stride) for size in ops.shape(images)[1:3])
        return maps[:, :height, :width, :]

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "stride": self.stride}

    def compute_output_shape(self, maps_shape, images_shape):
        """The size of the images over the stride, with the channels of the maps."""
        size = (None if side is None else -(-side // self.stride) for side in images_shape[1:3])
        return (images_shape[0], *size, maps_shape[-1])
