"""Maps moved by whole pixels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.mask_offset import displaced


@given(st.integers(1, 6), st.integers(1, 6), st.integers(-8, 8), st.integers(-8, 8))
def test_every_pixel_comes_from_where_it_was_or_from_the_border(height, width, right, down):
    mask = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    moved = displaced(mask, (right, down))
    assert (moved.dtype, moved.shape) == (mask.dtype, mask.shape)
    for y in range(height):
        for x in range(width):
            assert moved[y, x] == mask[min(max(y - down, 0), height - 1), min(max(x - right, 0), width - 1)]
    batch = np.stack([mask, mask + 1])[..., None]
    np.testing.assert_array_equal(displaced(batch, (right, down), axes=(1, 2)), np.stack([moved, moved + 1])[..., None])
