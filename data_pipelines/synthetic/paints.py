"""What colour things are, and what the seasons make of it."""

from typing import NamedTuple


class Paint(NamedTuple):
    """A surface: its colour in 0..255 and its grain, the strength of the texture in percent of the brightness."""

    red: float
    green: float
    blue: float
    grain: float = 4.0


ASPHALT = Paint(104, 104, 107, 5)
MAIN_ASPHALT = Paint(88, 88, 92, 4)
PAVEMENT = Paint(158, 154, 146, 5)
ROAD_MARK = Paint(222, 220, 212, 2)
WATER = Paint(54, 78, 84, 3)
BANK = Paint(122, 118, 88, 12)
COVERS = {
    "lawn": Paint(100, 120, 68, 12),
    "meadow": Paint(88, 108, 60, 16),
    "dry grass": Paint(146, 138, 98, 12),
    "green crop": Paint(78, 112, 54, 8),
    "ripe crop": Paint(186, 166, 104, 7),
    "ploughed": Paint(124, 98, 76, 9),
    "stubble": Paint(166, 150, 114, 8),
    "soil": Paint(156, 130, 102, 11),
    "gravel": Paint(150, 146, 138, 8),
    "concrete": Paint(166, 163, 156, 5),
    "yard": Paint(122, 121, 120, 6),
    "pool": Paint(96, 172, 192, 4),
}
"""What the ground of a parcel can be covered with."""

GREEN_COVERS = frozenset({"lawn", "meadow", "green crop"})  # the seasons colour these
CROPS = ("green crop", "ripe crop", "ploughed", "stubble", "dry grass", "meadow")

TILED_ROOFS = (
    Paint(172, 92, 68, 7),
    Paint(150, 80, 62, 7),
    Paint(186, 116, 86, 7),
    Paint(128, 92, 74, 7),
    Paint(112, 113, 120, 6),
    Paint(84, 86, 94, 6),
    Paint(140, 134, 128, 6),
)
FLAT_ROOFS = (
    Paint(196, 194, 188, 4),
    Paint(216, 214, 208, 3),
    Paint(164, 162, 158, 5),
    Paint(118, 118, 122, 5),
    Paint(150, 172, 186, 3),
    Paint(104, 134, 158, 4),
    Paint(170, 128, 108, 5),
)
HALL_ROOFS = (  # none of the greys of a yard
    Paint(216, 214, 208, 3),
    Paint(204, 206, 206, 3),
    Paint(70, 72, 78, 4),
    Paint(150, 172, 186, 3),
    Paint(96, 128, 158, 4),
    Paint(176, 122, 100, 5),
)
CAR_PAINTS = (
    Paint(228, 228, 226, 0),
    Paint(186, 188, 190, 0),
    Paint(46, 47, 50, 0),
    Paint(90, 92, 96, 0),
    Paint(150, 44, 38, 0),
    Paint(52, 76, 124, 0),
)
BROADLEAF = Paint(74, 98, 50, 16)
CONIFER = Paint(50, 74, 48, 14)


class Season(NamedTuple):
    """The colours that vegetation goes towards, and how far, in 0..1."""

    leaf: Paint
    grass: Paint
    leaf_share: float
    grass_share: float


SEASONS = (
    Season(Paint(96, 132, 58), Paint(112, 142, 70), 0.7, 0.6),  # spring
    Season(Paint(66, 96, 48), Paint(98, 116, 66), 0.8, 0.3),  # early summer
    Season(Paint(78, 94, 50), Paint(148, 140, 92), 0.6, 0.7),  # late summer
    Season(Paint(158, 112, 54), Paint(126, 124, 76), 0.8, 0.5),  # autumn
    Season(Paint(112, 100, 84), Paint(136, 128, 98), 0.8, 0.7),  # end of winter
)
