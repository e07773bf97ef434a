"""What the order-aware metric does not see, one pure function each.

Stacks are sequences of uint8 `h w 4`, straight alpha, bottom to top, of one size. Errors are in 8-bit levels unless
said otherwise. None says that there was nothing to measure.

A predicted layer stands for a true one when it is above the bottom and its alpha overlaps it most (`match`): nobody
takes hold of the background to move what is on it. The bottoms stand for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from unfuse.evaluate.metric import Rgba, Sheet, pair_score, shared

EMPTY = 5e-4  # a layer whose alpha covers less of the canvas shows nothing
SAME = 0.05  # two layers whose pair cost is less are one and the same
BAND = 3  # pixels on either side of an edge: a band of 6
HALF = 128  # levels of alpha; what is above half is in

Planes = NDArray[np.float32]  # h w c, premultiplied, 0..1


class Recomposition(NamedTuple):
    """Largest and mean difference of the flattened stack from the picture."""

    max: int
    mean: float


def flatten(stack: Sequence[Rgba]) -> NDArray[np.uint8]:
    """`h w 3`: the stack over black in real arithmetic, rounded once, half up."""
    flat = np.zeros((*stack[0].shape[:2], 3))
    for layer in stack:
        left, top, width, height = cv2.boundingRect(np.ascontiguousarray(layer[..., 3]))
        box = slice(top, top + height), slice(left, left + width)
        alpha = layer[box][..., 3:] / 255
        flat[box] = layer[box][..., :3] * alpha + flat[box] * (1 - alpha)
    return np.floor(flat + 0.5).astype(np.uint8)


def recomposition(stack: Sequence[Rgba], picture: NDArray[np.uint8]) -> Recomposition | None:
    """How far the unedited stack is from the picture `h w 3`; None where it has another size."""
    if not stack or stack[0].shape[:2] != picture.shape[:2]:
        return None
    difference = cv2.absdiff(flatten(stack), picture)
    return Recomposition(int(difference.max()), float(difference.mean()))


def empty(stack: Sequence[Rgba]) -> list[bool]:
    """Which layers show nothing to speak of."""
    return [bool(layer[..., 3].mean() / 255 < EMPTY) for layer in stack]


def duplicate(stack: Sequence[Rgba]) -> list[bool]:
    """Which layers repeat one below them: same alpha, same colour (pair cost of the metric under 0.05)."""
    sheets = [Sheet(layer) for layer in stack]
    return [any(pair_score(x, y).cost < SAME for y in sheets[:i]) for i, x in enumerate(sheets)]


def match(pred: Sequence[Rgba], truth: Sequence[Rgba]) -> list[int | None]:
    """For each true layer the predicted one that stands for it (see above), or None where none overlaps it at all."""
    masses = [int(p[..., 3].sum(dtype=np.int64)) for p in pred]

    def overlap(i: int, layer: Rgba) -> float:
        common = shared(np.ascontiguousarray(pred[i][..., 3]), np.ascontiguousarray(layer[..., 3]))
        return common / max(1, masses[i] + int(layer[..., 3].sum(dtype=np.int64)) - common)

    found: list[int | None] = [0 if pred else None]
    for layer in truth[1:]:
        overlaps = [0.0, *(overlap(i, layer) for i in range(1, len(pred)))]
        best = int(np.argmax(overlaps))
        found.append(best if overlaps[best] > 0 else None)
    return found


def hidden_colour_error(pred: Sequence[Rgba], truth: Sequence[Rgba], pairs: Sequence[int | None]) -> float | None:
    """How wrong the colours are that come to light when all above a true layer is taken away.

    Where a true layer's alpha is above half and what lies above it hides more than half: the mean difference of the
    two stacks up to that layer and up to the one that stands for it. Where none does, nothing can be taken away, and
    the whole predicted stack counts. The mean is over all such pixels of all layers.
    """
    below_pred, below_truth = partial_flats(pred), partial_flats(truth)
    through = np.ones(truth[0].shape[:2], np.float32)  # how much of what lies below is seen
    total, count = 0.0, 0
    for i in range(len(truth) - 1, -1, -1):
        hidden = (truth[i][..., 3] >= HALF) & (through < 0.5)
        place = pairs[i]
        shown = below_pred[-1 if place is None else place]
        total += float(np.abs(shown[hidden] - below_truth[i][hidden]).sum(dtype=np.float64))
        count += 3 * int(hidden.sum())
        through *= 1 - truth[i][..., 3] / np.float32(255)
    return 255 * total / count if count else None


def boundary_error(pred: Sequence[Rgba], truth: Sequence[Rgba], pairs: Sequence[int | None]) -> float | None:
    """Mean difference of alpha, 0..1, within 3 px on either side of the edges of the true layers above the bottom.

    An edge is where alpha crosses one half. A layer that nothing stands for counts with alpha 0. The mean is over
    layers, so that a small one counts as much as a large one.
    """
    errors = []
    for layer, place in zip(truth[1:], pairs[1:], strict=True):
        alpha = np.ascontiguousarray(layer[..., 3])
        band = edge_band(alpha)
        if size := cv2.countNonZero(band):
            found = np.zeros_like(alpha) if place is None else np.ascontiguousarray(pred[place][..., 3])
            errors.append(cv2.norm(alpha, found, cv2.NORM_L1, band) / size / 255)
    return float(np.mean(errors)) if errors else None


def edge_band(alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 within 3 px of where alpha `h w` crosses one half, 0 elsewhere. The border of the canvas is no edge."""
    inside = (alpha >= HALF).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BAND + 1, 2 * BAND + 1))
    return np.asarray(cv2.dilate(inside, disc) - cv2.erode(inside, disc), np.uint8)


def premultiplied(layer: Rgba) -> Planes:
    """`h w 4` in 0..1."""
    planes = layer.astype(np.float32)
    planes /= 255
    planes[..., :3] *= planes[..., 3:]
    return planes


def partial_flats(stack: Sequence[Rgba]) -> list[Planes]:
    """For each layer the stack up to and with it, over black: `h w 3` in 0..1."""
    flats: list[Planes] = []
    for layer in stack:
        planes = premultiplied(layer)
        below = flats[-1] if flats else np.zeros_like(planes[..., :3])
        flats.append(planes[..., :3] + (1 - planes[..., 3:]) * below)
    return flats
