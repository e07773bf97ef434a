"""Edit consistency: what becomes of the picture when somebody edits a layer.

For each true layer above the bottom, four edits are made to it in the true stack, and the same ones, by the same
amounts, to the predicted layer that stands for it (`measures.match`). The closer the two flattened pictures, the better
the layers; it shows at once what wrong edges, missing parts and wrong hidden colour do. Where nothing stands for a
layer, the edit cannot be made and the picture stays as it was.

The baseline is what one can do without layers, given a perfect selection: the same edit on the flat picture, cut out by
the true visible alpha, the hole filled by inpainting (Telea 2004, OpenCV, radius 3). A prediction that does not beat it
is of no use for editing, whatever the other figures say.

This measure is ours. PSNR is over float pictures in 0..1 and is counted as 60 dB at most: a rounding of 8-bit layers
alone is as far off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from unfuse.evaluate.measures import Planes, empty, partial_flats, premultiplied
from unfuse.evaluate.metric import Rgba

BASELINE = "flat picture, true mask"
MOST = 60.0  # dB
STEP = 1 / 8  # a move, in parts of the canvas, to where there is more room
GROWTH = 1.25
TINT = 0.5
HOLE = 5 / 255  # of visible alpha: what is less is left in the picture
RADIUS = 3  # pixels, of the inpainting
STILL = 0.25 / 255  # a pixel that the true edit changes by less should not change
FEWEST = 0.01  # of the canvas: on fewer such pixels nothing is said about them


@dataclass(frozen=True)
class Grip:
    """What the edits take from the true layer: how far to move it, which colour to give it, about what to scale it."""

    shift: tuple[int, int]
    tint: tuple[float, float, float]
    centre: tuple[float, float]

    @classmethod
    def of(cls, layer: Rgba) -> Grip:
        """The grip of a true layer that is not empty."""
        height, width = layer.shape[:2]
        left, top, wide, high = cv2.boundingRect(np.ascontiguousarray(layer[..., 3]))
        x, y = left + wide / 2, top + high / 2
        shift = round(STEP * width) * (1 if x < width / 2 else -1), round(STEP * height) * (1 if y < height / 2 else -1)
        planes = premultiplied(layer)
        colour = planes[..., :3].sum((0, 1)) / planes[..., 3].sum()
        red, green, blue = (0.0 if value > 0.5 else 1.0 for value in colour)  # far from what it has
        return cls(shift, (red, green, blue), (x - 0.5, y - 0.5))


# --- the edits: premultiplied `h w 4` in 0..1 to the same -------------------------------------------------------------


def move(layer: Planes, grip: Grip) -> Planes:
    """By an eighth of the canvas each way."""
    return _warped(layer, np.array([[1, 0, grip.shift[0]], [0, 1, grip.shift[1]]], np.float64))


def recolor(layer: Planes, grip: Grip) -> Planes:
    """Half way to the corner of the colour cube that is farthest from the true layer's mean."""
    return layer + np.float32(TINT) * (layer[..., 3:] * np.array((*grip.tint, 1), np.float32) - layer)


def remove(layer: Planes, grip: Grip) -> Planes:
    """Nothing is left."""
    return np.zeros_like(layer)


def scale(layer: Planes, grip: Grip) -> Planes:
    """A quarter larger about the middle of the true layer's box, linear interpolation."""
    x, y = grip.centre
    return _warped(layer, np.array([[GROWTH, 0, (1 - GROWTH) * x], [0, GROWTH, (1 - GROWTH) * y]], np.float64))


def _warped(layer: Planes, matrix: NDArray[np.float64]) -> Planes:
    return np.asarray(cv2.warpAffine(layer, matrix, layer.shape[1::-1], flags=cv2.INTER_LINEAR), np.float32)


EDITS: dict[str, Callable[[Planes, Grip], Planes]] = {f.__name__: f for f in (move, recolor, remove, scale)}


# --- the two ways to make them ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stacked:
    """A stack made ready for many edits: what lies below and above each layer is flattened once."""

    stack: Sequence[Rgba]

    @cached_property
    def layers(self) -> list[Planes]:
        return [premultiplied(layer) for layer in self.stack]

    @cached_property
    def flats(self) -> list[Planes]:
        """Up to and with each layer, `h w 3`."""
        return partial_flats(self.stack)

    @cached_property
    def above(self) -> list[Planes]:
        """What lies on top of each layer, `h w 4`."""
        covers = [np.zeros_like(self.layers[-1])]
        for layer in self.layers[:0:-1]:
            covers.append(covers[-1] + (1 - covers[-1][..., 3:]) * layer)
        return covers[::-1]

    def with_layer(self, i: int, layer: Planes) -> Planes:
        """The flattened picture, `h w 3`, with another layer in place i, above the bottom."""
        picture = self.flats[-1].copy()
        box = extent(np.maximum(layer[..., 3], self.layers[i][..., 3]) > 0)  # elsewhere it is as it was, to the bit
        cover, layer, below = self.above[i][box], layer[box], self.flats[i - 1][box]
        picture[box] = cover[..., :3] + (1 - cover[..., 3:]) * (layer[..., :3] + (1 - layer[..., 3:]) * below)
        return picture


@dataclass(frozen=True, eq=False)
class CutOut:
    """What the true mask cuts out of the flat picture, and the picture without it."""

    picture: Planes
    part: Planes
    filled: Planes

    @classmethod
    def of(cls, truth: Stacked, i: int) -> CutOut:
        """Layer i of the true stack, by the alpha with which it is visible."""
        picture = truth.flats[-1]
        visible = truth.layers[i][..., 3:] * (1 - truth.above[i][..., 3:])
        return cls(picture, np.concatenate([picture * visible, visible], -1), inpainted(picture, visible[..., 0]))

    def edited(self, edit: str, grip: Grip) -> Planes:
        """The flat picture after an edit of the part; a new colour is given in place, without a hole."""
        part = EDITS[edit](self.part, grip)
        return part[..., :3] + (1 - part[..., 3:]) * (self.picture if edit == "recolor" else self.filled)


def inpainted(picture: Planes, visible: NDArray[np.float32]) -> Planes:
    """The picture `h w 3` filled where `visible`, `h w` in 0..1, is above 5 levels; where that is all, as it is."""
    hole = (visible > HOLE).astype(np.uint8)
    if not hole.any() or hole.all():
        return picture
    levels = np.floor(picture * 255 + 0.5).astype(np.uint8)
    filled = cv2.inpaint(levels, hole, RADIUS, cv2.INPAINT_TELEA)
    return np.where(hole[..., None] > 0, filled.astype(np.float32) / 255, picture)


# --- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Edited:
    """One edit of one true layer, made in every way.

    target: the true stack after it, `h w 3` in 0..1. pictures, psnr, kept: by method, `BASELINE` among them. `psnr` is
    in dB over the whole picture, `kept` over what should not change, None where that is next to nothing.
    """

    layer: int
    edit: str
    target: Planes
    pictures: dict[str, Planes]
    psnr: dict[str, float]
    kept: dict[str, float | None]


def consistency(
    truth: Sequence[Rgba], methods: Mapping[str, tuple[Sequence[Rgba], Sequence[int | None]]]
) -> Iterator[Edited]:
    """All edits of all true layers above the bottom that are not empty.

    methods: by name a predicted stack of the same size and, for each true layer, which one stands for it.
    """
    true = Stacked(truth)
    stacks = {name: (Stacked(stack), pairs) for name, (stack, pairs) in methods.items()}
    nothing = empty(truth)
    for i in range(1, len(truth)):
        if nothing[i]:
            continue
        grip, cut = Grip.of(truth[i]), CutOut.of(true, i)
        for edit, change in EDITS.items():
            target = true.with_layer(i, change(true.layers[i], grip))
            pictures = {BASELINE: cut.edited(edit, grip)}
            for name, (stack, pairs) in stacks.items():
                place = pairs[i]
                done = None if place is None else stack.with_layer(place, change(stack.layers[place], grip))
                pictures[name] = stack.flats[-1] if done is None else done
            red, green, blue = np.moveaxis(cv2.absdiff(target, true.flats[-1]), -1, 0)
            still = (np.maximum(np.maximum(red, green), blue) < STILL).view(np.uint8)
            psnrs = {name: psnr(picture, target) for name, picture in pictures.items()}
            kept = {name: psnr(picture, target, still) for name, picture in pictures.items()}
            enough = still.mean() >= FEWEST
            yield Edited(i, edit, target, pictures, psnrs, {**kept} if enough else dict.fromkeys(kept))


def psnr(a: Planes, b: Planes, mask: NDArray[np.uint8] | None = None) -> float:
    """Peak signal to noise ratio in dB of two pictures `h w 3` in 0..1, where `mask` is not 0; at most 60."""
    count = a.size if mask is None else 3 * cv2.countNonZero(mask)
    error = cv2.norm(a, b, cv2.NORM_L2SQR, mask) / max(1, count)
    return MOST if error == 0 else min(MOST, -10 * math.log10(error))


def extent(shows: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the box of what is true in `h w`."""
    left, top, width, height = cv2.boundingRect(shows.view(np.uint8))
    return slice(top, top + height), slice(left, left + width)
