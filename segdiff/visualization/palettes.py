"""The colours of changes, of outcomes against the truth, and of probabilities: the same in every picture.

The colours of classes and outcomes were chosen by their smallest CIE 1976 distance from each other and from every grey,
for normal sight and for the full protanopia, deuteranopia and tritanopia of Machado, Oliveira and Fernandes (2009).
"""

import cv2
import numpy as np

IGNORE = 255
MAX_CLASS = 31

# What became of a pixel, compared with the truth. The order is the rank when an overview merges pixels: a found object
# counts as found although its rim is not, and an error on its own stays visible.
UNCHANGED, FALSE, MISSED, WRONG_CLASS, TRUE = range(5)

Color = tuple[int, int, int]

OUTCOME_COLORS: dict[int, Color] = {
    TRUE: (30, 70, 250),
    FALSE: (214, 32, 10),
    MISSED: (255, 208, 0),
    WRONG_CLASS: (220, 80, 200),
}
OUTCOME_NAMES = {TRUE: "true change", FALSE: "false alarm", MISSED: "missed change", WRONG_CLASS: "wrong class"}
# Class 1 first. The first six lie furthest apart; each later one is the colour then furthest from all before it.
CLASS_COLORS: tuple[Color, ...] = (
    (255, 110, 0), (180, 15, 240), (90, 255, 150), (255, 165, 255), (0, 130, 160), (255, 225, 0), (150, 75, 45),
    (75, 90, 165), (105, 180, 120), (255, 75, 255), (180, 120, 180), (180, 240, 105), (225, 30, 0), (240, 135, 75),
    (45, 135, 90), (15, 210, 105), (75, 135, 225), (150, 240, 180), (210, 15, 195), (150, 75, 135), (240, 195, 60),
    (195, 105, 60), (75, 120, 0), (255, 150, 210), (255, 90, 150), (165, 0, 195), (60, 210, 255), (120, 15, 255),
    (240, 60, 90), (180, 135, 210), (120, 210, 150),
)  # fmt: skip
IGNORED_COLOR: Color = (64, 64, 64)
INK: Color = (32, 32, 32)


def color_table(colors: dict[int, Color]) -> np.ndarray:
    """Colours by label as uint8 256 x 3, black where there is none."""
    table = np.zeros((256, 3), np.uint8)
    table[list(colors)] = list(colors.values())
    return table


CLASS_TABLE = color_table(dict(enumerate(CLASS_COLORS, start=1)))
OUTCOME_TABLE = color_table(OUTCOME_COLORS)
# Black, red, yellow, white: lightness rises all the way, and reds and yellows are no grey for any eyes.
PROBABILITY_TABLE = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_HOT)[:, 0, ::-1].copy()
"""The colour of a probability of i / 255, uint8 256 x 3."""
