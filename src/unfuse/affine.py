"""Where a layer lies: affine transforms of the canvas, and resampling once from the untouched pixels.

A transform `(a, b, c, d, e, f)` takes the point (x, y) to (a x + b y + c, d x + e y + f); points are continuous, pixel
(0, 0) covers 0 to 1. Pixels that are only moved, flipped or turned by quarter turns keep every bit and lie on whole
pixels. All others are resampled on premultiplied values, so that hidden colour never bleeds into edges: by area where
they shrink, by cubic convolution (Keys 1981, a = -0.5) where not, and cut edges are as soft as one pixel.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.errors import StackError
from unfuse.layers import IDENTITY, Affine, Box

Floats = NDArray[np.float32]
NEAR = 1e-6  # pixels a pixel: below it a transform counts as free of scale and rotation
STRIP = 1 << 16  # pixels that are resampled at a time
LARGEST = 1 << 28  # pixels of a resampled layer


class Corners(NamedTuple):
    """The exact bounds of something on the canvas."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def size(self) -> tuple[float, float]:
        return self.right - self.left, self.bottom - self.top


def then(first: Affine, second: Affine) -> Affine:
    """`first`, and `second` after it."""
    a, b, c, d, e, f = first
    A, B, C, D, E, F = second
    return A * a + B * d, A * b + B * e, A * c + B * f + C, D * a + E * d, D * b + E * e, D * c + E * f + F


def shift(x: float, y: float) -> Affine:
    """A move to the right and down."""
    return 1.0, 0.0, x, 0.0, 1.0, y


def about(x: float, y: float, linear: tuple[float, float, float, float]) -> Affine:
    """A scale, turn or flip `(a, b, d, e)` that leaves the point (x, y) where it is."""
    a, b, d, e = linear
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y


def turn(degrees: float) -> tuple[float, float, float, float]:
    """A rotation, clockwise as one sees it; quarter turns are exact."""
    quarters = {0.0: (1.0, 0.0), 90.0: (0.0, 1.0), 180.0: (-1.0, 0.0), 270.0: (0.0, -1.0)}
    angle = math.radians(degrees)
    cos, sin = quarters.get(degrees % 360, (math.cos(angle), math.sin(angle)))
    return cos, -sin, sin, cos


def onto(start: Corners, end: Corners) -> Affine:
    """The scale and move that takes one rectangle exactly onto another."""
    x, y = ((end.size[i]) / start.size[i] for i in (0, 1))
    return x, 0.0, end.left - x * start.left, 0.0, y, end.top - y * start.top


def inverse(transform: Affine) -> Affine:
    """The way back. Raises StackError where everything falls onto a line."""
    a, b, c, d, e, f = transform
    determinant = a * e - b * d
    if abs(determinant) < 1e-12:
        raise StackError("the layer would have no width or no height: scale it by more than 0")
    a, b, d, e = e / determinant, -b / determinant, -d / determinant, a / determinant
    return a, b, -a * c - b * f, d, e, -d * c - e * f


def bounds(box: Box, transform: Affine) -> Corners:
    """The bounds of a box after a transform."""
    a, b, c, d, e, f = transform
    points = [(a * x + b * y + c, d * x + e * y + f) for x in (box.left, box.right) for y in (box.top, box.bottom)]
    xs, ys = zip(*points, strict=True)
    return Corners(min(xs), min(ys), max(xs), max(ys))


def settled(box: Box, transform: Affine) -> Affine | None:
    """The transform onto whole pixels that keeps every bit of what is in `box`; None where `transform` has none."""
    linear = transform[0], transform[1], transform[3], transform[4]
    a, b, d, e = (round(x) for x in linear)
    if max(abs(x - y) for x, y in zip(linear, (a, b, d, e), strict=True)) > NEAR / max(box.size):
        return None
    if sorted(map(abs, (a, b, d, e))) != [0, 0, 1, 1] or a * e - b * d == 0:
        return None
    # Half up, also where ten moves of 0.05 made the half.
    corners = bounds(box, transform)
    left, top = (math.floor(x + 0.5 + NEAR) for x in corners[:2])
    exact = bounds(box, (a, b, 0.0, d, e, 0.0))
    return a, b, left - exact.left, d, e, top - exact.top


def place(pixels: NDArray[Any], box: Box, transform: Affine) -> tuple[Box, NDArray[Any]] | None:
    """`h w c` pixels of `box` after a transform that keeps every bit of them; None where there is none."""
    whole = settled(box, transform)
    if whole is None:
        return None
    a, b, _, d, e, _ = whole
    target = Box(*(int(x) for x in bounds(box, whole)))
    if (a, b, d, e) == (1, 0, 0, 1):
        return target, pixels
    if a == 0:
        pixels = rearrange(pixels, "h w c -> w h c")
    return target, np.ascontiguousarray(pixels[:: int(d + e), :: int(a + b)])


def resample(pixels: Floats, box: Box, transform: Affine) -> tuple[Box, Floats]:
    """Premultiplied `h w c` pixels of `box` after any transform, in 0 to 1 but for the overshoot of the cubic."""
    corners = bounds(box, transform)
    target = Box(
        math.floor(corners.left + NEAR),
        math.floor(corners.top + NEAR),
        math.ceil(corners.right - NEAR),
        math.ceil(corners.bottom - NEAR),
    )
    target = Box(target.left, target.top, max(target.right, target.left + 1), max(target.bottom, target.top + 1))
    if target.width * target.height > LARGEST:
        most = f"the limit is {LARGEST:,} in all"
        raise StackError(f"the layer would have {target.width} x {target.height} pixels, {most}: scale it less")
    way = then(shift(-box.left, -box.top), IDENTITY)  # canvas to the array, and back
    to_array = then(inverse(transform), way)
    to_array = then(shift(target.left, target.top), to_array)  # target array to source array
    cover = _coverage(to_array, box.size, target.size)
    pixels, to_array = _reduced(pixels, to_array, transform)
    return target, _cubic(pixels, to_array, target.size) * cover


def _coverage(to_array: Affine, size: tuple[int, int], target: tuple[int, int]) -> Floats:
    """How much of each target pixel the source covers, `h w 1`: exact for edges along the axes, else by distance."""
    a, b, c, d, e, f = to_array
    x, y = np.arange(target[0]) + 0.5, np.arange(target[1])[:, None] + 0.5
    cover = np.ones(target[::-1])
    for row, length in (((a, b, c), size[0]), ((d, e, f), size[1])):
        steep = math.hypot(row[0], row[1])  # source pixels a target pixel
        at = (row[0] * x + row[1] * y + row[2]) / steep
        cover *= np.clip(np.minimum(at, length / steep - at) + 0.5, 0, min(1, length / steep))
    return cover[..., None].astype(np.float32)


def _reduced(pixels: Floats, to_array: Affine, transform: Affine) -> tuple[Floats, Affine]:
    """The source by area at the size at which it is shown, where that is smaller; and the way to it."""
    import cv2

    height, width = pixels.shape[:2]
    a, b, _, d, e, _ = transform
    smaller = (
        max(1, min(width, round(width * math.hypot(a, d)))),
        max(1, min(height, round(height * math.hypot(b, e)))),
    )
    if smaller == (width, height):
        return pixels, to_array
    reduced = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    scale = smaller[0] / width, 0.0, 0.0, 0.0, smaller[1] / height, 0.0
    return reduced.reshape(smaller[1], smaller[0], -1), then(to_array, scale)


def _cubic(pixels: Floats, to_array: Affine, target: tuple[int, int]) -> Floats:
    """Cubic convolution at exact places: OpenCV rounds them to 1/32 of a pixel, and Pillow's kernel has a = -1."""
    height, width, channels = pixels.shape
    if max(abs(x - y) for x, y in zip(to_array, IDENTITY, strict=True)) < NEAR and (width, height) == target:
        return pixels
    a, b, c, d, e, f = to_array
    result = np.empty((target[1], target[0], channels), np.float32)
    flat = np.ascontiguousarray(pixels).reshape(-1, channels)
    x = np.arange(target[0]) + 0.5
    rows = max(1, STRIP // target[0])
    for top in range(0, target[1], rows):
        y = np.arange(top, min(top + rows, target[1]))[:, None] + 0.5
        left, across = _weights(a * x + b * y + c - 0.5, width)
        upper, down = _weights(d * x + e * y + f - 0.5, height)
        strip = result[top : top + rows]
        strip[:] = 0
        for i in range(4):
            for j in range(4):
                strip += flat[upper[i] * width + left[j]] * (down[i] * across[j])[..., None]
    return result


def _weights(at: NDArray[np.float64], length: int) -> tuple[list[NDArray[np.intp]], list[Floats]]:
    """The four neighbours of places along an axis, repeated beyond its ends, and their weights (Keys, a = -0.5)."""
    low = np.floor(at)
    t = (at - low).astype(np.float32)
    weights = [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
    return [np.clip(low + k, 0, length - 1).astype(np.intp) for k in (-1, 0, 1, 2)], weights
