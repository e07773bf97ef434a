"""Layer effects: what is laid around or over the finished shape of a layer, in pixels of the canvas.

Each is a function of premultiplied pixels `h w 4` float32 in 0 to 1 that already have `reach` transparent pixels on
every side. Effects become part of the layer's own pixels: they share its opacity and blend mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from unfuse.fields import Color, Offset, Radius, Share
from unfuse.layers import Edit
from unfuse.oklab import Floats, rgb_of


def blur(pixels: Floats, *, radius: Radius) -> Floats:
    """A Gaussian blur with a standard deviation of `radius`; what it spreads beyond the edge is kept."""
    return _gaussian(pixels, radius)


def drop_shadow(
    pixels: Floats,
    *,
    x: Offset = 8.0,
    y: Offset = 8.0,
    blur: Radius = 8.0,
    color: Color = "#000000",
    opacity: Share = 0.5,
) -> Floats:
    """A shadow of the layer's shape below it."""
    import cv2

    to = np.array([[1, 0, x], [0, 1, y]], np.float64)
    shape = cv2.warpAffine(pixels[..., 3], to, pixels.shape[1::-1], flags=cv2.INTER_LINEAR)
    return _over(pixels, _filled(_gaussian(shape, blur) * opacity, color))


def outline(pixels: Floats, *, width: Radius = 4.0, color: Color = "#ffffff", opacity: Share = 1.0) -> Floats:
    """A line of `width` pixels around the layer's shape, below it."""
    import cv2

    outside = (pixels[..., 3] < 0.5).astype(np.uint8)
    if width == 0 or outside.all():
        return pixels
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return _over(pixels, _filled(np.clip(width + 0.5 - distance, 0, 1).astype(np.float32) * opacity, color))


def _gaussian(planes: Floats, deviation: float) -> Floats:
    import cv2

    if deviation == 0:
        return planes
    side = 2 * math.ceil(3 * deviation) + 1
    blurred: Floats = cv2.GaussianBlur(planes, (side, side), deviation, borderType=cv2.BORDER_CONSTANT)
    return blurred


def _filled(alpha: Floats, color: str) -> Floats:
    return np.concatenate((alpha[..., None] * rgb_of(color), alpha[..., None]), axis=-1, dtype=np.float32)


def _over(upper: Floats, lower: Floats) -> Floats:
    result: Floats = upper + (1 - upper[..., 3:]) * lower
    return result


Effect = Callable[..., Floats]
EFFECTS: dict[str, Effect] = {function.__name__: function for function in (blur, drop_shadow, outline)}


def reach(edit: Edit) -> int:
    """How many pixels an effect, given as its edit, spreads beyond what is there."""
    if edit["op"] == "outline":
        spread = float(edit.get("width", 4.0))
    elif edit["op"] == "blur":
        spread = 3 * float(edit["radius"])
    else:
        spread = max(abs(edit.get("x", 8.0)), abs(edit.get("y", 8.0))) + 3 * float(edit.get("blur", 8.0))
    return math.ceil(spread) + 1


def effect(pixels: Floats, edit: Edit) -> Floats:
    """`pixels` with one effect, given as its edit, and the room it needs on every side."""
    room = reach(edit)
    padded = np.pad(pixels, ((room, room), (room, room), (0, 0)))
    values = {name: value for name, value in edit.items() if name != "op"}
    return EFFECTS[edit["op"]](padded, **values)
