"""Sample sheets: rows of pictures for people to look at while a model learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEW = 3  # pictures on a sheet
STEPS = 20  # of sampling
GAP = 4
CHECK = 8  # pixels of a field of the checkerboard


def sheet(rows: Sequence[Sequence[NDArray[np.float32]]]) -> NDArray[np.uint8]:
    """Rows of `h w 3|4` in 0..1, all of one size, to one picture `h w 3`; what is clear shows a checkerboard."""
    height, width = rows[0][0].shape[:2]
    board = checkerboard(height, width)
    across = max(map(len, rows))
    out = np.full((len(rows) * (height + GAP) + GAP, across * (width + GAP) + GAP, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            alpha = picture[..., 3:] if picture.shape[2] == 4 else np.ones_like(picture[..., :1])
            shown = (picture[..., :3] * alpha + board * (1 - alpha)).clip(0, 1)
            top, left = GAP + y * (height + GAP), GAP + x * (width + GAP)
            out[top : top + height, left : left + width] = (shown * 255 + 0.5).astype(np.uint8)
    return out


def checkerboard(height: int, width: int) -> NDArray[np.float32]:
    """`h w 1` of light grey fields."""
    y, x = np.mgrid[:height, :width] // CHECK
    return np.where((x + y) % 2, 0.9, 0.75).astype(np.float32)[..., None]
