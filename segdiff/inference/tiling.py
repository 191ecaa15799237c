"""Images of any size by overlapping tiles, blended without seams into a stream of rows.

A plan says where the tiles lie, `read_tile` cuts one out of an image or a reader of windows, and `blend_rows` puts
their predictions together again. Memory is bounded by the width of the image times the height of a tile.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

WindowReader = Callable[[int, int, int, int], np.ndarray]
"""Reads the window (y0, y1, x0, x1), ends excluded, that lies inside the image: an array (y1 - y0) x (x1 - x0) x C."""


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles of one image lie; all lengths in pixels.

    Tile (row, column) covers `tile_height` x `tile_width` pixels from `origins_y[row]`, `origins_x[column]` on. Every
    origin is a multiple of `stride`, the model's total stride, so that the model's own grid is the same in each tile.
    The tiles of the last row and column may reach past the image.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    overlap: int
    stride: int
    origins_y: tuple[int, ...]
    origins_x: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of tiles."""
        return len(self.origins_y) * len(self.origins_x)

    def windows(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (row, column, y, x) of every tile in row-major order, the order that `blend_rows` takes."""
        for row, y in enumerate(self.origins_y):
            for column, x in enumerate(self.origins_x):
                yield row, column, y, x


def plan_tiles(height: int, width: int, *, tile: int, overlap: int, stride: int, fixed: bool = False) -> TilePlan:
    """Cover an image of height x width pixels with tiles of tile x tile, neighbours sharing `overlap` pixels.

    `tile` and `overlap` are multiples of the model's total `stride`, and the overlap is smaller than the tile. Where
    the image fits into one tile, the tile shrinks to the image's size, rounded up to a multiple of the stride; where
    tiles are `fixed` it does not. The last tile is not moved back to end with the image: it keeps its place on the
    stride's grid and reaches past the border.
    Raises ValueError naming the value that does not fit and the nearest ones that do.
    """
    for name, value in (("height", height), ("width", width), ("tile", tile), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name} is {value} pixels: it must be 1 or more")
    if tile % stride:
        below = tile - tile % stride
        nearest = f"{below} or {below + stride}" if below else f"{stride}"
        raise ValueError(f"tile {tile} is not a multiple of the model's stride {stride}: take {nearest}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} does not fit tile {tile}: take 0 to {tile - stride}")
    if overlap % stride:
        below = overlap - overlap % stride
        nearest = f"{below} or {below + stride}" if below + stride < tile else f"{below}"
        raise ValueError(f"overlap {overlap} is not a multiple of the model's stride {stride}: take {nearest}")
    tile_height, origins_y = _plan_axis(height, tile, overlap, stride)
    tile_width, origins_x = _plan_axis(width, tile, overlap, stride)
    if fixed:
        tile_height = tile_width = tile
    return TilePlan(height, width, tile_height, tile_width, overlap, stride, origins_y, origins_x)


def _plan_axis(length: int, tile: int, overlap: int, stride: int) -> tuple[int, tuple[int, ...]]:
    if length <= tile:
        return -(-length // stride) * stride, (0,)
    step = tile - overlap
    further = -(-(length - tile) // step)
    return tile, tuple(range(0, further * step + 1, step))


def tile_weights(plan: TilePlan, *, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The blending weights of every tile: float32 arrays (tile rows x tile_height) and (tile columns x tile_width).

    The weights of tile (row, column) are the outer product `np.outer(down[row], across[column])`, in 0..1. They are
    flat 1 in the middle, fall off as a raised cosine (Hann) over the overlap, and stay full towards the border of the
    image, where there is no neighbour. In every pixel the weights of all the tiles over it sum to 1.

    `margin` pixels along a tile's inner edges, those with a neighbour, weigh 0: that near the edge a model whose
    receptive field reaches `margin` pixels sees the padding instead of the image. Two margins have to fit into the
    overlap, else ValueError.
    """
    return (
        _axis_weights(plan.height, plan.tile_height, plan.origins_y, plan.overlap, margin),
        _axis_weights(plan.width, plan.tile_width, plan.origins_x, plan.overlap, margin),
    )


def _axis_weights(length: int, tile: int, origins: tuple[int, ...], overlap: int, margin: int) -> np.ndarray:
    if margin < 0:
        raise ValueError(f"margin is {margin} pixels: it must be 0 or more")
    weights = np.ones((len(origins), tile))
    if len(origins) == 1:
        return weights.astype(np.float32)
    if 2 * margin > overlap:
        raise ValueError(
            f"margin {margin} on both sides does not fit overlap {overlap}: take an overlap >= {2 * margin}"
        )
    ramp = overlap - 2 * margin
    rise = np.zeros(overlap)
    rise[margin : margin + ramp] = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
    rise[margin + ramp :] = 1.0
    weights[1:, :overlap] *= rise
    weights[:-1, tile - overlap :] *= rise[::-1]
    # Two ramps sum to 1 by themselves; an overlap above half a tile lays three and more tiles over a pixel.
    total = np.zeros(origins[-1] + tile)
    for origin, tile_row in zip(origins, weights, strict=True):
        total[origin : origin + tile] += tile_row
    for origin, tile_row in zip(origins, weights, strict=True):
        tile_row /= total[origin : origin + tile]
    return weights.astype(np.float32)


def read_tile(
    source: np.ndarray | WindowReader,
    y: int,
    x: int,
    h: int,
    w: int,
    *,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """The h x w pixels of `source` from row y and column x on, mirrored where they lie past its border.

    `source` is an array H x W x C (or H x W), or a function (y0, y1, x0, x1) -> array that reads a window inside the
    image, of whose `size` (height, width) is then needed. Mirroring is symmetric, the border's pixel repeated
    (... 1 0 | 0 1 2 ...), and goes to and fro where the image is smaller than the part to fill. The result has the
    source's dtype and may be a view of it.
    """
    if isinstance(source, np.ndarray):
        height, width = source.shape[:2]
    elif size is None:
        raise ValueError("a reader of windows does not know the size of its image: give size=(height, width)")
    else:
        height, width = size
    rows, columns = _mirrored(y, h, height), _mirrored(x, w, width)
    y0, x0 = int(rows.min()), int(columns.min())
    y1, x1 = int(rows.max()) + 1, int(columns.max()) + 1
    window = source[y0:y1, x0:x1] if isinstance(source, np.ndarray) else source(y0, y1, x0, x1)
    if window.shape[:2] != (y1 - y0, x1 - x0):
        raise ValueError(
            f"the reader returned {window.shape[0]} x {window.shape[1]} pixels for rows {y0}..{y1} "
            f"and columns {x0}..{x1}: it must return the whole window"
        )
    if 0 <= y <= height - h and 0 <= x <= width - w:
        return window
    return window[np.ix_(rows - y0, columns - x0)]


def _mirrored(start: int, count: int, length: int) -> np.ndarray:
    """The indices start..start + count, those outside 0..length mirrored back into it."""
    turn = np.arange(start, start + count) % (2 * length)
    return np.where(turn < length, turn, 2 * length - 1 - turn)


def blend_rows(
    plan: TilePlan, tiles: Iterable[tuple[int, int, np.ndarray]], *, margin: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Blend the predictions of the tiles and yield the finished rows of the image, top to bottom, each once.

    `tiles` gives (row, column, prediction), the prediction float32 of tile_height x tile_width x K, in row-major order
    and without a gap, else ValueError. Yields (y, rows): `rows` is a new float32 array n x width x K, whose first row
    is row y of the image. `margin` is that of `tile_weights`. Only the rows of one row of tiles are held: at most
    tile_height x width x K values, and the slab that is being yielded.
    """
    down, across = tile_weights(plan, margin=margin)
    stream = iter(tiles)
    active: np.ndarray | None = None
    for row, y in enumerate(plan.origins_y):
        h = min(plan.tile_height, plan.height - y)
        for column, x in enumerate(plan.origins_x):
            prediction = _next_prediction(stream, plan, row, column)
            if active is None:
                active = np.zeros((min(plan.tile_height, plan.height), plan.width, prediction.shape[2]), np.float32)
            elif prediction.shape[2] != active.shape[2]:
                raise ValueError(
                    f"tile ({row}, {column}) has {prediction.shape[2]} channels where the tiles before have "
                    f"{active.shape[2]}"
                )
            w = min(plan.tile_width, plan.width - x)
            weights = np.outer(down[row, :h], across[column, :w])
            active[:h, x : x + w] += prediction[:h, :w] * weights[:, :, None]
        assert active is not None  # a plan has at least one tile in a row
        finished = plan.origins_y[row + 1] - y if row + 1 < len(plan.origins_y) else h
        yield y, active[:finished].copy()
        kept = len(active) - finished
        active[:kept] = active[finished:].copy()
        active[kept:] = 0
    if (extra := next(stream, None)) is not None:
        raise ValueError(f"tile ({extra[0]}, {extra[1]}) comes after the last of the {plan.count} tiles of the plan")


def _next_prediction(
    stream: Iterator[tuple[int, int, np.ndarray]], plan: TilePlan, row: int, column: int
) -> np.ndarray:
    following = next(stream, None)
    if following is None:
        raise ValueError(f"the tiles end before tile ({row}, {column}): the plan has {plan.count}")
    if following[:2] != (row, column):
        raise ValueError(
            f"tile ({following[0]}, {following[1]}) came where ({row}, {column}) is next in row-major order"
        )
    prediction = following[2]
    if prediction.ndim != 3 or prediction.shape[:2] != (plan.tile_height, plan.tile_width):
        raise ValueError(
            f"the prediction of tile ({row}, {column}) has shape {prediction.shape}: "
            f"it must be {plan.tile_height} x {plan.tile_width} x K"
        )
    return prediction
