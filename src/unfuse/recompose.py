"""Exact recomposition: whole-number layers that flatten to the picture, out of any estimate of alpha and colour.

Straight alpha, source over, `C_i = a_i RGB_i + (1 - a_i) C_{i-1}`; layer i is seen with weight
`w_i = a_i prod_{j>i} (1 - a_j)`. Alphas are rounded first, then colours move as little as they can: the residual is
shared out in proportion to the weights (least squares), and what rounding leaves over goes to the layer seen most. A
layer that could meet the picture only by repainting what it hides becomes opaque there: else a ghost would stay behind
when it is moved. Where all that does not do, the layers that are seen take the picture's colour, which is exact
whatever the weights are.
"""

from __future__ import annotations

import numpy as np
from einops import einsum
from numpy.typing import NDArray

from unfuse.pixels import Levels

Planes = NDArray[np.float32]  # l h w

ROWS = 64  # in one strip: what is in work at a time stays small
TINY = 1e-6
FAINT = 0.3  # a layer of which less is seen
FAR = 12 / 255  # should not move further than this to meet the picture


def recompose(picture: Levels, layers: NDArray[np.float32]) -> Levels:
    """Layers `l h w 4`, straight, whole numbers of the picture's type, that flatten to the picture.

    picture: `h w 4`, uint8 or uint16, straight alpha. layers: `l h w 4` float32 in 0..1, straight alpha, bottom to top;
    the bottom one's alpha is not read: it fills up what the others leave. Flattened in float and rounded once, alpha
    is exact, and colour is off by at most half a level where alpha is above 0. A pixel that one layer owns alone has
    the picture's own value there. Colour under alpha 0 is 0.
    """
    out = np.empty(layers.shape, picture.dtype)
    for top in range(0, picture.shape[0], ROWS):
        rows = slice(top, top + ROWS)
        out[:, rows] = strip(picture[rows], layers[:, rows])
    return out


def strip(picture: Levels, layers: NDArray[np.float32]) -> NDArray[np.float32]:
    """`recompose` of some rows, as whole numbers in float32."""
    most = float(np.iinfo(picture.dtype).max)
    target, wanted = picture[..., :3].astype(np.float32), layers[..., :3] * most
    alpha = whole_alphas(picture[..., 3].astype(np.float32) / most, layers[..., 3], most)  # l h w, levels
    colour = whole_colours(target, wanted, shares(alpha / most), most)
    bold = repainted(colour, wanted, alpha / most, most) & (picture[..., 3] == most)
    if bold.any():  # a layer that could meet the picture only by repainting what it hides is opaque there
        some = alpha[:, None, bold]  # l 1 n
        np.put_along_axis(some, shares(some / most).argmax(0)[None], most, 0)
        alpha[:, bold] = some[:, 0]
        again = whole_colours(target[None, bold], wanted[:, None, bold], shares(some / most), most)
        colour[:, bold] = again[:, 0]
    colour[alpha == 0] = 0
    return np.concatenate([colour, alpha[..., None]], -1)


def shares(alpha: Planes) -> Planes:
    """The weights of alphas `l h w` in 0..1, made to add up to 1 where anything is there."""
    seen = weights(alpha)
    shared: Planes = seen / np.maximum(seen.sum(0), 1e-9)
    return shared


def repainted(
    colour: NDArray[np.float32], wanted: NDArray[np.float32], alpha: Planes, most: float
) -> NDArray[np.bool_]:
    """Where a layer that is hardly seen has moved far from its own colour: `h w`."""
    seen = shares(alpha)
    far = np.abs(colour - wanted).max(-1) > FAR * most
    moved: NDArray[np.bool_] = (far & (seen > 0) & (seen < FAINT)).any(0)
    return moved


def weights(alpha: Planes) -> Planes:
    """How much of each layer is seen: `w_i = a_i prod_{j>i} (1 - a_j)`, for alphas `l h w` in 0..1."""
    clear = np.ones_like(alpha)
    clear[:-1] = np.cumprod((1 - alpha[:0:-1]), axis=0)[::-1]
    return alpha * clear


def whole_alphas(target: NDArray[np.float32], alpha: Planes, most: float) -> Planes:
    """Alphas `l h w` in whole levels that compose to the target alpha `h w` in 0..1, to within half a level.

    Where the target is 1 the alphas stay and the bottom one is opaque. Elsewhere each layer keeps its share of what is
    seen, `w_i' = A w_i`, so `a_i' = A w_i / (1 - A sum_{j>i} w_j)`; the layer seen most closes the gap of rounding.
    """
    full = np.concatenate([np.ones_like(alpha[:1]), alpha[1:]])
    solid = np.floor(full * most + 0.5)
    thin = target < 1
    if not thin.any():
        return solid
    a, goal = solid[:, thin] / most, target[thin]  # l n, n
    share = goal * weights(a.astype(np.float32))
    above = np.concatenate([np.cumsum(share[:0:-1], axis=0)[::-1], np.zeros_like(share[:1])])
    kept = np.floor((share / np.maximum(1 - above, 1e-9)).clip(0, 1) * most + 1e-3)
    last = share.argmax(0)[None]
    np.put_along_axis(kept, last, 0, 0)
    clear = np.prod(1 - kept.astype(np.float64) / most, axis=0)
    gap = (1 - (1 - goal.astype(np.float64)) / np.maximum(clear, 1e-12)).clip(0, 1)
    np.put_along_axis(kept, last, np.floor(gap * most + 0.5).astype(np.float32)[None], 0)
    solid[:, thin] = np.where(goal > 0, kept, 0)
    return solid


def whole_colours(
    picture: NDArray[np.float32], colour: NDArray[np.float32], seen: Planes, most: float
) -> NDArray[np.float32]:
    """Colours `l h w 3` in whole levels whose sum weighed by `seen` is the picture `h w 3`, to within half a level."""
    colour = colour.clip(0, most)
    weight = seen[..., None]
    for _ in range(len(seen)):  # each round settles the residual, or brings a layer to its end
        rest = residual(picture, colour, seen)
        if np.abs(rest).max() < 1e-3:
            break
        free = weight * np.where(rest > 0, colour < most, colour > 0)
        colour = (colour + free / np.maximum((free * free).sum(0), TINY) * rest).clip(0, most)
    colour = np.floor(colour + 0.5)
    heavy = seen.argmax(0)[None, ..., None]  # the layer seen most takes what rounding left
    most_seen = np.take_along_axis(weight, heavy, 0)[0]
    moved = np.take_along_axis(colour, heavy, 0)[0] + np.rint(
        residual(picture, colour, seen) / np.maximum(most_seen, TINY)
    )
    np.put_along_axis(colour, heavy, moved.clip(0, most)[None], 0)
    missed = (np.abs(residual(picture, colour, seen)) > 0.499) & (weight > 0)
    colour = np.where(missed, picture, colour)
    return colour


def residual(picture: NDArray[np.float32], colour: NDArray[np.float32], seen: Planes) -> NDArray[np.float32]:
    """What the layers lack of the picture, `h w 3`."""
    rest: NDArray[np.float32] = picture - einsum(seen, colour, "l h w, l h w c -> h w c")
    return rest
