"""OKLab, the perceptual space in which colours are edited (Björn Ottosson, 2020, https://bottosson.github.io/posts/oklab/).

Arrays are `... 3`. RGB is sRGB-encoded (IEC 61966-2-1), 0 to 1; values beyond are carried through, so that edits one
after the other clip once, at the end. OKLab is L (0 black to 1 white), a (green to red), b (blue to yellow).
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from unfuse.errors import StackError
from unfuse.fields import HEX

Floats = NDArray[np.float32]
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
FROM_LMS, FROM_LAB = np.linalg.inv(TO_LMS), np.linalg.inv(TO_LAB)


def from_rgb(rgb: Floats) -> Floats:
    """sRGB-encoded to OKLab."""
    linear = np.where(np.abs(rgb) <= 0.04045, rgb / 12.92, np.sign(rgb) * ((np.abs(rgb) + 0.055) / 1.055) ** 2.4)
    lab: Floats = (np.cbrt(linear @ TO_LMS.T) @ TO_LAB.T).astype(np.float32)
    return lab


def to_rgb(lab: Floats) -> Floats:
    """OKLab to sRGB-encoded, not clipped."""
    linear = ((lab @ FROM_LAB.T) ** 3) @ FROM_LMS.T
    encoded = np.sign(linear) * (1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)
    rgb: Floats = np.where(np.abs(linear) <= 0.0031308, linear * 12.92, encoded).astype(np.float32)
    return rgb


def rgb_of(color: str) -> Floats:
    """`#rgb` or `#rrggbb` as three floats, 0 to 1. Raises StackError for anything else."""
    if not re.match(HEX, color):
        raise StackError(f"the color is {color!r}: it must be like '#e4002b' or '#fff'")
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    return np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32)


def lab_of(color: str) -> Floats:
    """`#rgb` or `#rrggbb` in OKLab."""
    return from_rgb(rgb_of(color))
