"""Drawn circuit boards, a template and one with faults, in the manner of DeepPCB: what the shipped model knows."""

import cv2
import numpy as np


def draw_boards(height: int = 200, width: int = 264, faults: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Template and board, uint8 H x W of 0 and 255: traces, some of them bitten or bridged on the board."""
    before = np.zeros((height, width), np.uint8)
    for y in range(20, height - 10, 44):
        cv2.rectangle(before, (8, y), (width - 8, y + 16), 255, -1)
        cv2.circle(before, (40 + y, y + 8), 6, 0, -1)
    after = before.copy()
    rng = np.random.default_rng(5)
    for fault in range(faults):
        x, y = int(rng.integers(20, width - 20)), 20 + 44 * int(rng.integers(0, (height - 30) // 44))
        if fault % 2:
            cv2.circle(after, (x, y), 5, 0, -1)
        else:
            cv2.rectangle(after, (x, y + 17), (x + 7, y + 26), 255, -1)
    return before, after
