"""From layers at the bucket to layers at the picture's own size, which flatten to the picture.

Peel from the top. For each layer: F is its colour and B what lies below it, both known at the bucket; c is the picture
with the layers above taken off. Its alpha follows the picture's edges by a guided filter (He, Sun and Tang 2013) whose
guide is the unmixed alpha q, the least-squares solution of `c = q F + (1 - q) B`; then by unmixing once more at native
size, trusted as far as picture and engine disagree there. What c lacks is shared between the layer and what lies below
by alpha squared, as in least squares. Alpha comes first and exactness (`recompose`) last: a residual that is pushed
into colours under a wrong alpha leaves a ghost when the layer is moved.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from einops import einsum
from numpy.typing import NDArray

from unfuse.pixels import Levels, quantise
from unfuse.recompose import recompose

Plane = NDArray[np.float32]  # h w
Colour = NDArray[np.float32]  # h w 3

ROUNDS = 2  # at the bucket: colours from alphas, alphas from colours
NOISE_FLOOR = (1.5 / 255) ** 2  # variance of a channel that says nothing
SEEN = 0.9  # a layer is seen where this much of it shows: its colour is the picture's there
DUST = 0.008  # native alphas nearer to 0 or 1 than this are 0 or 1
SURE = 0.1  # alphas nearer to 0 or 1 than this, all around, are not moved away by the picture
TINY = 1e-4


def refine(picture: NDArray[np.float32], layers: NDArray[np.float32], *, depth: Literal[8, 16] = 8) -> Levels:
    """Layers at native size, `l h w 4` whole numbers of `depth` bits, straight alpha, bottom to top.

    picture: `h w 4` float32 in 0..1, straight alpha. layers: `l hb wb 4` at any size, straight alpha; what is not a
    number counts as 0. Flattened, the result is the picture exactly, whatever the layers are (see `recompose`). The
    bottom layer fills up what the others leave; hidden colour is the layers' own, enlarged.
    """
    layers = np.nan_to_num(layers, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1).astype(np.float32)
    rgb = picture[..., :3] * picture[..., 3:] + 0.5 * (1 - picture[..., 3:])  # nothing there looks grey
    return recompose(quantise(picture, depth), peel(rgb, solve(rgb, layers)))


@dataclass(frozen=True, eq=False)
class Plan:
    """How to find one layer's alpha at native size; everything at the bucket. Alpha is near `slope q + offset`."""

    colour: Colour
    below: Colour
    slope: Plane
    offset: Plane
    doubt: Plane  # variance of that: how far the picture may move it
    noise: Plane  # variance of the picture's colours where nothing changes
    low: Plane  # what the engine is sure of stays: alpha lies between these
    high: Plane


# --- at the bucket ---------------------------------------------------------------------------------------------------


def solve(rgb: Colour, layers: NDArray[np.float32]) -> list[Plan]:
    """A plan for each layer, the bottom one's last row being its colour alone."""
    size = layers.shape[2], layers.shape[1]
    small = resized(rgb, size, shrink=True)
    back = resized(small, (rgb.shape[1], rgb.shape[0]))
    texture = resized(((rgb - back) ** 2).sum(-1), size, shrink=True)
    hint = layers[..., 3].copy()
    hint[0], grain = 1, [0.0]
    for i in range(1, len(layers)):
        hint[i], noise = denoised(calibrated(hint[i]))
        grain.append(noise)
    own = np.stack([spread(layer[..., :3], trust(a, e)) for layer, a, e in zip(layers, hint, grain, strict=True)])
    alpha = hint.copy()
    plans: list[Plan] = []
    for _ in range(ROUNDS):
        colour = met(own, alpha, small)
        below = composed(colour, alpha)
        plans, rest, clear = [], small, np.ones_like(texture)
        for i in range(len(layers) - 1, 0, -1):
            plan, alpha[i] = planned(rest, colour[i], below[i], hint[i], clear, texture, grain[i])
            plans.append(plan)
            rest = shared(rest, colour[i], below[i], alpha[i])[1]
            clear = clear * (1 - alpha[i])
        nothing = np.zeros_like(texture)
        plans.append(Plan(colour[0], colour[0], *[nothing] * 6))
    return plans[::-1]


def planned(
    rest: Colour, colour: Colour, below: Colour, hint: Plane, clear: Plane, texture: Plane, grain: float
) -> tuple[Plan, Plane]:
    """The plan for one layer, and its alpha at the bucket.

    rest: the picture without the layers above. hint: the engine's alpha, with noise of deviation `grain`. clear: how
    much of `rest` is certain. texture: variance of the picture inside a bucket pixel.
    """
    across = colour - below
    length = dot(across, across)
    unmixed = dot(rest - below, across) / (length + TINY)
    slope, offset = guided(unmixed, hint, clear + 1e-3)
    guess = (slope * unmixed + offset).clip(0, 1)
    differs = box((hint - guess) ** 2)
    guess = guess + np.maximum(differs - 4 * grain**2, 0) / (differs + 1e-9) * (hint - guess)

    change = local_range(hint)
    quiet = np.exp(-((change / (0.1 + 2 * grain)) ** 2)) * clear + 1e-5
    misfit = dot(rest - below - hint[..., None] * across, across)
    noise = spread(np.minimum(misfit**2 / (length + 1e-6) + 0.5 * texture, 0.1), quiet) + NOISE_FLOOR

    active = length * clear * np.minimum(2 * change + 4 * hint * (1 - hint), 1)
    strife = float(np.sqrt((active * (misfit / (length + 1e-3)) ** 2).sum() / max(float(active.sum()), 1e-6)))
    misfit = dot(rest - below - guess[..., None] * across, across)
    local = np.sqrt(np.maximum(0, box(misfit**2))) / (length + 1e-3)
    doubt = min(4 * strife, 1) * (0.1 + change + np.minimum(local, 1)) + 0.2 * grain
    doubt = (doubt * clear) ** 2
    low, high = certain(hint)
    alpha, settled = snapped(unmix(rest, below, across, guess, doubt, noise).clip(low, high), grain)
    slope = np.where(settled, 0, slope)
    doubt = np.where(settled, 0, doubt)
    return Plan(colour, below, slope, alpha - slope * unmixed, doubt, noise, low, high), alpha


def calibrated(alpha: Plane) -> Plane:
    """The engine's alpha with its own level of nothing moved to 0 and its own level of all moved to 1."""
    floor = peak(alpha, 0, 0.08, 0.02, 0.3 * alpha.size)
    floor = floor if floor is not None and floor > 0.0101 else 0.0
    full = int((alpha > 0.8).sum())
    ceiling = peak(alpha, 0.84, 1, 0.03, 0.5 * max(full, 1)) if full > 0.002 * alpha.size else None
    ceiling = ceiling if ceiling is not None and ceiling < 0.984 else 1.0
    level: Plane = ((alpha - floor) / (ceiling - floor)).clip(0, 1).astype(np.float32)
    return level


def peak(values: Plane, low: float, high: float, width: float, mass: float) -> float | None:
    """The middle of the fullest interval of `width` between low and high, if it holds more than `mass` values."""
    counts, edges = np.histogram(values, bins=round((high - low) / width * 2), range=(low, high))
    pairs = counts[:-1] + counts[1:]
    fullest = int(pairs.argmax())
    return float(edges[fullest + 1]) if pairs[fullest] > mass else None


def denoised(alpha: Plane) -> tuple[Plane, float]:
    """Alpha with noise near 0 and 1 taken off, and the noise's deviation."""
    around = box(alpha, 2)
    quiet = (around < 0.15) | (around > 0.85)
    noise = np.abs(alpha - box(alpha))[quiet]
    grain = 1.5 * float(np.median(noise)) if noise.size > 50 else 0.0
    return snapped(alpha, grain)[0], grain


def snapped(alpha: Plane, grain: float) -> tuple[Plane, NDArray[np.bool_]]:
    """Alpha that is 0 or 1 where it and its neighbourhood nearly are; and where that holds all around."""
    around, near, here = box(alpha, 2), 1.5 * grain + 0.004, 4 * grain + 0.008
    zero = (around < near) & (alpha < here)
    one = (around > 1 - near) & (alpha > 1 - here)
    settled = eroded(zero) | eroded(one)
    return np.where(zero, 0, np.where(one, 1, alpha)).astype(np.float32), settled


def certain(alpha: Plane) -> tuple[Plane, Plane]:
    """The least and the most that alpha may become: free near edges, fixed where the engine sees nothing or all around.

    A wrong engine's colours can explain any picture a little better with a little of this layer everywhere.
    """
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    least, most = np.asarray(cv2.erode(alpha, kernel)), np.asarray(cv2.dilate(alpha, kernel))
    low = np.where(least > 1 - SURE, least, 0).astype(np.float32)
    return low, np.where(most < SURE, most, 1).astype(np.float32)


def trust(alpha: Plane, grain: float) -> Plane:
    """How much an engine's colour is worth under its alpha."""
    weight: Plane = np.maximum(alpha, TINY) ** 2 / (alpha**2 + (5 * grain + 0.01) ** 2)
    return weight


def met(own: NDArray[np.float32], alpha: NDArray[np.float32], small: Colour) -> NDArray[np.float32]:
    """The layers' colours `l h w 3`, moved smoothly so that they are the picture's where they are seen."""
    result, clear = own.copy(), np.ones_like(alpha[0])
    for i in range(len(own) - 1, -1, -1):
        seen = ((alpha[i] * clear - SEEN) / (1 - SEEN)).clip(0, 1) ** 2
        clear = clear * (1 - alpha[i])
        if seen.sum() > 1e-3:
            result[i] = (own[i] + spread(small - own[i], seen)).clip(0, 1)
    return result


def composed(colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> list[Colour]:
    """What lies below each layer, `h w 3`; below the lowest, itself."""
    below = [colour[0], colour[0]]
    for shade, cover in zip(colour[1:-1], alpha[1:-1, ..., None], strict=True):
        below.append(below[-1] * (1 - cover) + cover * shade)
    return below


def guided(guide: Plane, target: Plane, weight: Plane) -> tuple[Plane, Plane]:
    """Slope and offset of the local lines `target = slope guide + offset` in 3x3 windows, smoothed (guided filter)."""
    total = box(weight)
    mean_target, mean_guide = box(target * weight) / total, box(guide * weight) / total
    variance = np.maximum(box(guide * guide * weight) / total - mean_guide**2, 0)
    slope = (box(target * guide * weight) / total - mean_target * mean_guide) / (variance + 1e-3)
    return box(slope), box(mean_target - slope * mean_guide)


# --- at native size --------------------------------------------------------------------------------------------------


def peel(rgb: Colour, plans: list[Plan]) -> NDArray[np.float32]:
    """Layers `l h w 4` float32, straight alpha, from the picture `h w 3` and their plans, bottom to top."""
    height, width = rgb.shape[:2]
    out = np.empty((len(plans), height, width, 4), np.float32)
    rest, clear = rgb, np.ones((height, width), np.float32)
    for i in range(len(plans) - 1, 0, -1):
        plan = plans[i]
        colour, below, slope, offset, doubt, noise, low, high = (
            resized(getattr(plan, field.name), (width, height)) for field in fields(plan)
        )
        across = colour - below
        unmixed = dot(rest - below, across) / (dot(across, across) + TINY)
        guess = (slope * unmixed + offset).clip(0, 1)
        alpha = unmix(rest, below, across, guess, doubt * clear**2, noise).clip(low, high)
        alpha[alpha < DUST], alpha[alpha > 1 - DUST] = 0, 1
        out[i, ..., :3], rest = shared(rest, colour, below, alpha)
        out[i, ..., 3] = alpha
        clear = clear * (1 - alpha)
    out[0, ..., :3], out[0, ..., 3] = rest, 1
    return out


# --- both ------------------------------------------------------------------------------------------------------------


def unmix(rest: Colour, below: Colour, across: Colour, guess: Plane, doubt: Plane, noise: Plane) -> Plane:
    """Alpha `h w`: the most probable one given a guess of variance `doubt` and colours of variance `noise`.

    What colours lie off the line from `below` to the layer's colour counts as noise as well.
    """
    length = dot(across, across)
    unmixed = (dot(rest - below, across) / (length + TINY)).clip(0, 1)
    off = rest - below - unmixed[..., None] * across
    misfit = dot(rest - below - guess[..., None] * across, across)
    alpha: Plane = (guess + doubt * misfit / (doubt * length + noise + dot(off, off))).clip(0, 1).astype(np.float32)
    return alpha


def shared(rest: Colour, colour: Colour, below: Colour, alpha: Plane) -> tuple[Colour, Colour]:
    """The layer's colour and what lies below, with what they lack of `rest` shared out by alpha squared."""
    over = alpha[..., None]
    lack = (rest - over * colour - (1 - over) * below) / (over**2 + (1 - over) ** 2)
    return (colour + over * lack).clip(0, 1), (below + (1 - over) * lack).clip(0, 1)


def spread(values: NDArray[Any], weight: Plane) -> NDArray[np.float32]:
    """Values `h w` or `h w c` as they are where weight is 1, continued smoothly where it is 0 (push-pull)."""
    planes = values.reshape(*weight.shape, -1).astype(np.float32)
    levels = [(planes * weight[..., None], weight)]
    while max(levels[-1][1].shape) > 1:
        size = tuple((side + 1) // 2 for side in levels[-1][1].shape[::-1])
        levels.append((resized(levels[-1][0], size, shrink=True), resized(levels[-1][1], size, shrink=True)))
    total, known = levels.pop()
    filled = total / np.maximum(known, 1e-8)[..., None]
    for total, known in reversed(levels):
        grown = resized(filled, (known.shape[1], known.shape[0]))
        share = np.minimum(known, 1)[..., None]
        filled = grown * (1 - share) + share * (total / np.maximum(known, 1e-8)[..., None])
    return np.asarray(filled, np.float32).reshape(values.shape)


def dot(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> Plane:
    """Products of colours `h w 3`, summed over channels."""
    product: Plane = einsum(a, b, "h w c, h w c -> h w")
    return product


def resized(values: NDArray[np.floating[Any]], size: tuple[int, ...], shrink: bool = False) -> NDArray[np.float32]:
    """`h w` or `h w c` at `size` (width, height): area when shrinking, else bilinear."""
    import cv2

    method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    result = cv2.resize(np.ascontiguousarray(values), size, interpolation=method)
    return np.asarray(result, np.float32).reshape(size[1], size[0], *values.shape[2:])


def box(values: NDArray[np.floating[Any]], reach: int = 1) -> Plane:
    """Means over squares of side `2 reach + 1`."""
    import cv2

    side = 2 * reach + 1
    return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REPLICATE), np.float32)


def local_range(values: Plane) -> Plane:
    """The largest less the smallest value in 3x3 windows."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(values, kernel) - cv2.erode(values, kernel), np.float32)


def eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a mask holds in the whole 3x3 window."""
    import cv2

    return np.asarray(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
