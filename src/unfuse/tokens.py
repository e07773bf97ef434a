"""Latents to tokens and back, and where each token stands.

A token is one 2x2 patch of one slot's latent. Slots stand in stack order: slot 0 is the whole, slots 1..N are the
layers bottom to top, and the condition comes last. Positions have three axes, (layer, row, column): layer is the slot's
number and -1 for the condition; rows and columns are centred, so that a larger canvas adds places at its rim instead of
renaming all others (Layer3D RoPE, Qwen-Image-Layered section 3.2).

Everything works on numpy arrays and torch tensors alike: layout is einops, positions are plain integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", NDArray[np.floating[Any]], "torch.Tensor")
Ids = TypeVar("Ids", NDArray[np.int64], "torch.Tensor")

PATCH = 2


def pack(latents: Array) -> Array:
    """Latents `b l c h w` to tokens `b (l h/2 w/2) (c 2 2)`; h and w are even."""
    return rearrange(latents, "b l c (h py) (w px) -> b (l h w) (c py px)", py=PATCH, px=PATCH)


def unpack(tokens: Array, rows: int, columns: int) -> Array:
    """The inverse of `pack`: tokens of slots with `rows` x `columns` tokens each to latents `b l c h w`."""
    return rearrange(tokens, "b (l h w) (c py px) -> b l c (h py) (w px)", h=rows, w=columns, py=PATCH, px=PATCH)


def position_ids(slots: int, rows: int, columns: int) -> NDArray[np.int64]:
    """Positions `(l n) 3` int64 of `slots` slots (the whole and the layers) and, after them, the condition."""
    layer = np.append(np.arange(slots), -1)
    row = np.arange(rows) - (rows - rows // 2)
    column = np.arange(columns) - (columns - columns // 2)
    grid = np.stack(np.meshgrid(layer, row, column, indexing="ij"), axis=-1)
    return rearrange(grid.astype(np.int64), "l h w a -> (l h w) a")


def text_start(image: Ids) -> Ids:
    """Where text begins beside an image with these positions: one past the largest, a scalar.

    Text token j stands at start + j on all three axes, so that no text token meets an image token.
    """
    start: Ids = image.max() + 1
    return start
