"""Making layers smaller: averages over areas, on premultiplied values, aligned to the canvas whatever a layer's box.

Every layer is cropped, and all of them must shrink alike; so pixel borders of the small canvas are laid over the large
one, and a small pixel is the exact mean of what lies between its borders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.layers import Box, Layer
from unfuse.pixels import quantise


def shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) with the longer side brought to `side`; never enlarged, and 0 leaves it as it is."""
    scale = min(1.0, side / max(size)) if side else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrink(layer: Layer, size: tuple[int, int], small: tuple[int, int]) -> Layer:
    """A plain 8-bit layer of a canvas of `size` on one of `small`, both (width, height); it lies on the canvas."""
    if small == size:
        return layer
    assert layer.pixels is not None
    across, down = size[0] / small[0], size[1] / small[1]
    left, right = int(layer.box.left // across), min(small[0], int(-(-layer.box.right // across)))
    top, bottom = int(layer.box.top // down), min(small[1], int(-(-layer.box.bottom // down)))
    levels = layer.pixels.astype(np.float32) / np.float32(255)
    levels[..., :3] *= levels[..., 3:]
    x = _mean(levels, layer.box.top, np.arange(top, bottom + 1) * down)
    x = _mean(rearrange(x, "h w c -> w h c"), layer.box.left, np.arange(left, right + 1) * across)
    x = rearrange(x, "w h c -> h w c")
    alpha = x[..., 3:]
    colour = np.divide(x[..., :3], alpha, out=np.zeros_like(x[..., :3]), where=alpha > 1e-6)
    pixels = quantise(np.concatenate([colour, alpha], -1), 8)
    box = Box(left, top, right, bottom)
    return layer.replace(box=box, pixels=pixels, text=layer.text).crop_to_content()


def _mean(x: NDArray[np.float32], first: int, edges: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Means of `n ...` between edges along the first axis, 0 outside; x begins at `first` in the edges' coordinates."""
    total = np.concatenate([np.zeros_like(x[:1], np.float64), np.cumsum(x, 0, dtype=np.float64)])
    place = np.clip(edges - first, 0, len(x))
    whole = np.minimum(place.astype(np.int64), len(x) - 1)
    part = rearrange(place - whole, "n -> n 1 1")
    at = total[whole] + part * x[whole]  # the integral up to each edge
    means: NDArray[np.float32] = (np.diff(at, axis=0) / (edges[1] - edges[0])).astype(np.float32)
    return means
