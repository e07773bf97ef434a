"""Mattes: of a thing that was found roughly, all of it. MatteNet by onnxruntime.

A rough mask says where a thing is seen; its matte says what else is its own: fine edges, and what lies behind others.
The network looks at each thing by itself, in a patch around it, twice as sharp as the network that found it. It has
seen what that one finds in designs whose layers are known (docs/training.md, the stage `matte`).

Axes: l thing, h w pixels, c channel. Boxes are (top, left, bottom, right).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.cells import CELL, Plane, sigmoid
from unfuse.refine import resized
from unfuse.saliency import session, shipped

Box = tuple[int, int, int, int]

STRIDE = 32  # pixels: a patch's sides are multiples of it
SIDE = 128  # of a square of a patch's area
LONGEST = 512
ROOM = 0.25  # around a thing's box, as a share of its longer side
NOTHING, ALL = 0.3, 0.7  # alpha up to the first is nothing, from the second on all: it is not as sure as it should be
SOLID = 0.3  # from here on a pixel counts as the thing's, for its box


@cache
def network() -> Any:
    """The network in the package, read once."""
    return session(shipped("matte.onnx"), 0)


def mattes(picture: NDArray[np.float32], told: NDArray[np.float32], rough: NDArray[np.float32]) -> NDArray[np.float32]:
    """All of each thing, `l h w 2`: its alpha, behind others too, and how surely what lies there covers it, 0..1.

    picture: `h w 3`, sRGB-encoded. told: `c y x` in -1..1, what SlotNet says of the canvas's cells. rough: `l y x 3`,
    of any size: where each thing is seen, where others are, and which of these lie above it.
    """
    h, w = picture.shape[:2]
    cells = rearrange(told, "c y x -> y x c")
    out = np.zeros((len(rough), h, w, 2), np.float32)
    for i, planes in enumerate(rough):
        masks = resized(planes, (w, h))
        top, left, bottom, right = around(masks[..., 0], ROOM)
        box = slice(top, bottom), slice(left, right)
        size = fitted(bottom - top, right - left, SIDE, STRIDE, LONGEST)
        patch = np.dstack([brought(picture[box], size), brought(masks[box], size)])
        given = {"patch": rearrange(patch * 2 - 1, "h w c -> 1 c h w")}
        given["told"] = rearrange(there(cells, (top / h, left / w, bottom / h, right / w), size), "h w c -> 1 c h w")
        (logits,) = network().run(["matte"], given)
        found = rearrange(sigmoid(logits[0]), "c h w -> h w c")
        found[..., 0] = stretched(found[..., 0], NOTHING, ALL)
        out[i][box] = brought(found, (bottom - top, right - left))
    return out


def around(seed: Plane, room: float) -> Box:
    """The box of a thing in its canvas, with some room; the whole canvas where there is no thing."""
    h, w = seed.shape
    rows, columns = np.flatnonzero((seed > SOLID).any(1)), np.flatnonzero((seed > SOLID).any(0))
    if not rows.size:
        return 0, 0, h, w
    more = round(room * max(rows[-1] - rows[0], columns[-1] - columns[0], 16))
    return (
        max(0, int(rows[0]) - more),
        max(0, int(columns[0]) - more),
        min(h, int(rows[-1]) + 1 + more),
        min(w, int(columns[-1]) + 1 + more),
    )


def fitted(one: int, other: int, side: int, stride: int, longest: int) -> tuple[int, int]:
    """Both sides of what a network looks at: the shape of a box, the area of a square of `side`, multiples of a stride.

    At least two strides, and at most `longest`.
    """
    ratio = (one / other) ** 0.5
    first, second = (
        int(np.clip(round(s / stride), 2, longest // stride)) * stride for s in (side * ratio, side / ratio)
    )
    return first, second


def there(
    cells: NDArray[np.float32], part: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    """What is told of the cells `y x c` in a part of the canvas, for a patch of (height, width): `h/4 w/4 c`."""
    import cv2

    y, x, _ = cells.shape
    top, left, bottom, right = part
    tall, wide = size[0] // CELL, size[1] // CELL
    way = np.array([[(right - left) * x / wide, 0, 0], [0, (bottom - top) * y / tall, 0]])
    way[:, 2] = (left * x + way[0, 0] / 2 - 0.5, top * y + way[1, 1] / 2 - 0.5)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    parts = [cells[..., i : i + 4] for i in range(0, cells.shape[2], 4)]
    warped = [cv2.warpAffine(p, way, (wide, tall), flags=how, borderMode=cv2.BORDER_REPLICATE) for p in parts]
    return np.dstack(warped)


def brought(planes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """`h w c` to a (height, width): area where it shrinks, else bilinear."""
    shrink = size[0] * size[1] < planes.shape[0] * planes.shape[1]
    parts = [planes[..., i : i + 3] for i in range(0, planes.shape[2], 3)]
    return np.dstack([resized(part, size[::-1], shrink) for part in parts])


def stretched(alpha: NDArray[np.float32], nothing: float, everything: float) -> NDArray[np.float32]:
    """Alpha so that what is up to `nothing` is 0, and what is from `everything` on is 1."""
    stretched: NDArray[np.float32] = ((alpha - nothing) / (everything - nothing)).clip(0, 1).astype(np.float32)
    return stretched


def together(alphas: NDArray[np.float32]) -> Plane:
    """Alphas `l h w` as one, `h w`."""
    return np.asarray(1 - np.prod(1 - alphas, axis=0))
