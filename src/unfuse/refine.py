"""From layers at the bucket to layers at the picture's own size, which flatten to the picture.

Peel from the top. For each layer: F is its colour and B what lies below it, both known at the bucket; c is the picture
with the layers above taken off. Its alpha follows the picture's edges by a guided filter (He, Sun and Tang 2013) whose
guide is the unmixed alpha q, the least-squares solution of `c = q F + (1 - q) B`; then by unmixing once more at native
size, trusted as far as picture and engine disagree there. What c lacks is shared between the layer and what lies below,
as in weighted least squares: what is smooth stays so, what has texture takes it. Alpha comes first and exactness
(`recompose`) last: a residual that is pushed into colours under a wrong alpha leaves a ghost when the layer is moved.

Everything that looks around happens at the bucket; at native size a pixel needs no other, so strips of rows are solved
one by one and memory stays small at any size.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from einops import einsum
from numpy.typing import NDArray

from unfuse.pixels import Levels, quantise
from unfuse.recompose import recompose, weights

Plane = NDArray[np.float32]  # h w
Colour = NDArray[np.float32]  # h w 3

STRIP = 2**20  # pixels of all layers in a strip of rows
ROUNDS = 2  # at the bucket: colours from alphas, alphas from colours
NOISE_FLOOR = (1.5 / 255) ** 2  # variance of a channel that says nothing
SEEN = 0.95  # a layer is seen where this much of it shows: its colour is the picture's there
DUST = 0.008  # native alphas nearer to 0 or 1 than this are 0 or 1, where the engine is not noisy
SURE = 0.1  # alphas nearer to 0 or 1 than this, all around, are not moved away by the picture
TINY = 1e-4


def refine(picture: NDArray[np.float32], layers: NDArray[np.float32], *, depth: Literal[8, 16] = 8) -> Levels:
    """Layers at native size, `l h w 4` whole numbers of `depth` bits, straight alpha, bottom to top.

    picture: `h w 4` float32 in 0..1, straight alpha. layers: `l hb wb 4` at any size, straight alpha; what is not a
    number counts as 0. Flattened, the result is the picture exactly, whatever the layers are (see `recompose`). The
    bottom layer fills up what the others leave; hidden colour is the layers' own, enlarged.
    """
    layers = np.nan_to_num(layers, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1).astype(np.float32)
    height, width = picture.shape[:2]
    plans = solve(picture, layers)
    out = np.empty((len(layers), height, width, 4), np.uint8 if depth == 8 else np.uint16)
    rows = max(STRIP // (len(layers) * width), 1)

    def strip(top: int) -> None:
        part = picture[top : top + rows]
        peeled = peel(on_grey(part), plans, top, height)
        out[:, top : top + rows] = recompose(quantise(part, depth), peeled)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:  # what is in work at a time stays small
        for _ in pool.map(strip, range(0, height, rows)):
            pass
    return out


def on_grey(picture: NDArray[np.float32]) -> Colour:
    """The picture's colours `h w 3`, nothing being grey."""
    rgb: Colour = picture[..., :3] * picture[..., 3:] + 0.5 * (1 - picture[..., 3:])
    return rgb


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
    dust: Plane  # alphas nearer to 0 or 1 than this are 0 or 1
    play: Plane  # how much the layer's own colour varies around here (variance), and what lies below
    play_below: Plane


# --- at the bucket ---------------------------------------------------------------------------------------------------


def solve(picture: NDArray[np.float32], layers: NDArray[np.float32]) -> list[Plan]:
    """A plan for each layer; the bottom one's is its colour alone."""
    size = layers.shape[2], layers.shape[1]
    rgb = picture[..., :3] if (picture[..., 3] == 1).all() else on_grey(picture)
    small = resized(rgb, size, shrink=True)
    texture = np.maximum(resized(dot(rgb, rgb), size, shrink=True) - dot(small, small), 0)
    hint = layers[..., 3].copy()
    hint[0], grain = 1, [0.0]
    for i in range(1, len(layers)):
        hint[i], noise = denoised(calibrated(hint[i]))
        grain.append(noise)
    own = np.stack([spread(layer[..., :3], trust(a, e)) for layer, a, e in zip(layers, hint, grain, strict=True)])
    own, alpha = smoothed(own, hint, small), hint.copy()
    plans: list[Plan] = []
    for _ in range(ROUNDS):
        colour = met(own, alpha, small)
        below = composed(colour, alpha)
        plans, rest, clear = [], small, np.ones_like(texture)
        for i in range(len(layers) - 1, 0, -1):
            plan, alpha[i] = planned(rest, colour[i], below[i], hint[i], clear, texture, grain[i])
            plans.append(plan)
            rest = shared(rest, plan, alpha[i])[1]
            clear = clear * (1 - alpha[i])
        nothing = np.zeros_like(texture)
        plans.append(Plan(colour[0], colour[0], *[nothing] * 9))
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
    change = most(hint) - least(hint)
    quiet = np.exp(-((change / (0.1 + 2 * grain)) ** 2)) * clear + 1e-5
    misfit = dot(rest - below - hint[..., None] * across, across)
    noise = spread(np.minimum(misfit**2 / (length + 1e-6) + 0.5 * texture, 0.1), quiet) + NOISE_FLOOR

    active = length * clear * np.minimum(2 * change + 4 * hint * (1 - hint), 1)
    strife = float(np.sqrt((active * (misfit / (length + 1e-3)) ** 2).sum() / max(float(active.sum()), 1e-6)))

    slope, offset = guided(unmixed, hint, clear + 1e-3, 1e-5 + 0.1 * strife**2)
    guess = (slope * unmixed + offset).clip(0, 1)
    differs = box((hint - guess) ** 2)
    guess = guess + np.maximum(differs - 4 * grain**2, 0) / (differs + 1e-9) * (hint - guess)
    misfit = dot(rest - below - guess[..., None] * across, across)
    local = np.sqrt(np.maximum(0, box(misfit**2))) / (length + 1e-3)
    doubt = min(4 * strife, 1) * (0.1 + change + np.minimum(local, 1)) + 0.2 * grain
    doubt = (doubt * clear) ** 2
    low, high = certain(hint)
    alpha, settled = snapped(unmix(rest, below, across, guess, doubt, noise).clip(low, high), grain)
    slope, doubt = np.where(settled, 0, slope), np.where(settled, 0, doubt)
    dust = DUST + 2.5 * grain * np.minimum(50 * doubt, 1)
    offset = alpha - slope * unmixed
    return Plan(colour, below, slope, offset, doubt, noise, low, high, dust, variance(colour), variance(below)), alpha


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
    settled = (least(zero.astype(np.float32)) > 0) | (least(one.astype(np.float32)) > 0)
    return np.where(zero, 0, np.where(one, 1, alpha)).astype(np.float32), settled


def certain(alpha: Plane) -> tuple[Plane, Plane]:
    """The least and the most that alpha may become: free near edges, fixed where the engine sees nothing or all around.

    A wrong engine's colours can explain any picture a little better with a little of this layer everywhere.
    """
    low, high = least(alpha), most(alpha)
    return np.where(low > 1 - SURE, low, 0).astype(np.float32), np.where(high < SURE, high, 1).astype(np.float32)


def trust(alpha: Plane, grain: float) -> Plane:
    """How much an engine's colour is worth under its alpha."""
    weight: Plane = np.maximum(alpha, TINY) ** 2 / (alpha**2 + (5 * grain + 0.01) ** 2)
    return weight


def met(own: NDArray[np.float32], alpha: NDArray[np.float32], small: Colour) -> NDArray[np.float32]:
    """The layers' colours `l h w 3`, moved smoothly so that they are the picture's where they are seen.

    What the layers together lack of the picture is carried on, from where one is seen alone to where it is hidden: a
    wrong tint does not show as a patch when the layer above goes. Where the layers are right nothing moves.
    """
    shown = weights(alpha)
    lack = small - sum(share[..., None] * colour for share, colour in zip(shown, own, strict=True))
    result = own.copy()
    for i, share in enumerate(shown):
        alone = ((share - SEEN) / (1 - SEEN)).clip(0, 1) ** 2
        if alone.sum() <= 1e-3:
            continue
        inside = least(alone)  # beside an edge that is not quite where the engine has it, the lack is another layer's
        near = (10 * box(inside, 5)).clip(0, 1)[..., None]  # thin layers are all edge: better that than nothing
        result[i] = (own[i] + near * spread(lack, inside) + (1 - near) * spread(lack, alone)).clip(0, 1)
    return result


def smoothed(own: NDArray[np.float32], alpha: NDArray[np.float32], small: Colour) -> NDArray[np.float32]:
    """The layers' colours `l h w 3` without the engine's noise (Lee 1980), whose strength shows where they are seen."""
    lack = [(small - colour, share > SEEN) for colour, share in zip(own, weights(alpha), strict=True)]
    noise = np.concatenate([np.abs(colour - box(colour))[clear].ravel() for colour, clear in lack])
    grain = 4.5 * (1.57 * float(np.median(noise))) ** 2 if noise.size > 300 else 0.0  # 1.57: median to deviation
    result = own.copy()
    for i, colour in enumerate(own):
        mean = box(colour, 2)
        varies = np.maximum(box(colour**2, 2) - mean**2, 0).sum(-1, keepdims=True)
        result[i] = mean + np.maximum(varies - grain, 0) / (varies + 1e-9) * (colour - mean)
    return result


def composed(colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> list[Colour]:
    """What lies below each layer, `h w 3`; below the lowest, itself."""
    below = [colour[0], colour[0]]
    for shade, cover in zip(colour[1:-1], alpha[1:-1, ..., None], strict=True):
        below.append(below[-1] * (1 - cover) + cover * shade)
    return below


def guided(guide: Plane, target: Plane, weight: Plane, least: float) -> tuple[Plane, Plane]:
    """Slope and offset of the local lines `target = slope guide + offset` in 3x3 windows, smoothed (guided filter).

    A guide that varies less than the variance `least` is not followed.
    """
    total = box(weight)
    mean_target, mean_guide = box(target * weight) / total, box(guide * weight) / total
    variance = np.maximum(box(guide * guide * weight) / total - mean_guide**2, 0)
    slope = (box(target * guide * weight) / total - mean_target * mean_guide) / (variance + least)
    return box(slope), box(mean_target - slope * mean_guide)


# --- at native size --------------------------------------------------------------------------------------------------


def peel(rgb: Colour, plans: list[Plan], top: int, height: int) -> NDArray[np.float32]:
    """Layers `l h w 4` float32, straight alpha, bottom to top, for the rows `rgb` (`h w 3`) of a picture.

    The rows begin at `top` of `height`; the plans are the whole picture's. A pixel's result needs no other pixel.
    """
    rows, width = rgb.shape[:2]
    out = np.zeros((len(plans), rows, width, 4), np.float32)
    rest, clear = rgb.copy(), np.ones((rows, width), np.float32)
    for i in range(len(plans) - 1, 0, -1):
        plan, left, right = native(plans[i], top, rows, height, width)
        here, visible = rest[:, left:right], clear[:, left:right]
        if not here.size:
            continue
        across = plan.colour - plan.below
        unmixed = dot(here - plan.below, across) / (dot(across, across) + TINY)
        guess = (plan.slope * unmixed + plan.offset).clip(0, 1)
        alpha = unmix(here, plan.below, across, guess, plan.doubt * visible**2, plan.noise).clip(plan.low, plan.high)
        alpha[alpha < plan.dust] = 0
        alpha[alpha > 1 - plan.dust] = 1
        out[i, :, left:right, :3], rest[:, left:right] = shared(here, plan, alpha)
        out[i, :, left:right, 3] = alpha
        clear[:, left:right] = visible * (1 - alpha)
    out[0, ..., :3], out[0, ..., 3] = rest, 1
    return out


def native(plan: Plan, top: int, rows: int, height: int, width: int) -> tuple[Plan, int, int]:
    """A plan at native size for some rows, and the columns (left, right) it is for: those where the layer is."""
    tall, wide = plan.offset.shape
    at = ((np.arange(top, top + rows, dtype=np.float32) + 0.5) * (tall / height) - 0.5).clip(0, tall - 1)
    first = np.floor(at).astype(int)
    second = np.minimum(first + 1, tall - 1)
    some = slice(int(first[0]), int(second[-1]) + 1)
    there = (plan.offset[some] != 0) | (plan.slope[some] != 0) | (plan.doubt[some] != 0)
    columns = np.flatnonzero(there.any(0))
    if not len(columns):
        return plan, 0, 0
    left = max(math.floor((columns[0] - 1) * width / wide), 0)
    right = min(math.ceil((columns[-1] + 2) * width / wide), width)
    part = at - first

    def enlarged(plane: NDArray[np.float32]) -> NDArray[np.float32]:  # bilinear: the rows, then the columns
        share = part.reshape(-1, *[1] * (plane.ndim - 1))
        return resized(plane[first] * (1 - share) + plane[second] * share, (width, rows))[:, left:right]

    return Plan(*(enlarged(getattr(plan, field.name)) for field in fields(plan))), left, right


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


def shared(rest: Colour, plan: Plan, alpha: Plane) -> tuple[Colour, Colour]:
    """The layer's colour and what lies below, with what they lack of `rest` shared out by how much either varies."""
    over = alpha[..., None]
    lack = rest - over * plan.colour - (1 - over) * plan.below
    ours, below = alpha * plan.play, (1 - alpha) * plan.play_below
    lack /= (alpha * ours + (1 - alpha) * below + NOISE_FLOOR)[..., None]
    colour = (plan.colour + ours[..., None] * lack).clip(0, 1)
    return colour, np.where(over == 0, rest, (plan.below + below[..., None] * lack).clip(0, 1))


def variance(colour: Colour) -> Plane:
    """How much a colour varies in 3x3 windows, summed over channels; never nothing."""
    varies: Plane = np.maximum(box(colour**2) - box(colour) ** 2, 0).sum(-1) + NOISE_FLOOR
    return varies


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


def least(values: Plane, reach: int = 1) -> Plane:
    """The smallest value in squares of side `2 reach + 1`."""
    import cv2

    return np.asarray(cv2.erode(values, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)), np.float32)


def most(values: Plane, reach: int = 1) -> Plane:
    """The largest value in squares of side `2 reach + 1`."""
    return -least(-values, reach)
